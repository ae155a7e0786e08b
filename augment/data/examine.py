"""What is wrong with one file: read whole, once, and nothing raises.

Memory holds a few copies of one volume, whatever a file contains or its header claims. Only NIfTI
files (``.nii``, ``.nii.gz``) are understood.
"""

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuromix.augment.data import bids
from neuromix.augment.data.grid import COARSE, Grid, bright, resample, template_on
from neuromix.augment.errors import InputError

SAME_FRAMES = ("fmri", "dmri")  # a run may last longer than another, segments are as many

READ_BYTES = 2**22  # bytes read at once
LARGEST_VOLUME = 2**28  # voxels: 640 a side, a brain at 0.3 mm
DEFLATE_LIMIT = 1032  # no gzip stream grows by more than this factor

MNI_CODE = 4
"""Of NIfTI: the affine leads to MNI152 space."""
OVERLAP = 0.81
"""Least Dice overlap of an image with the template's brain.

Measured: 0.956 to 0.968 for ten real brains after affine registration, 0.92 for a brain 5 % too
large, 0.87 for BOLD that lacks the cerebellum, 0.82 for one 12 % too small in all directions; 0.80
for the template moved by 20 mm, 0.63 to 0.73 for ten real heads, registered or not.
"""
MD_MEDIAN = (0.3, 2.0)
"""Where the median MD of a head lies in 1e-3 mm²/s: white matter has 0.7, cortex 0.9, water 3."""
MD_RANGE = (0.0, 3.2)
"""Free water at body temperature has 3.0; what a noisy fit finds beyond 3.2 is no diffusivity."""
MD_UNITS = (("mm²/s", 1e3), ("µm²/s", 1e-3), ("m²/s", 1e9))
NEGATIVE_MD = 0.01  # share of voxels that noise may turn negative
TILT = math.radians(0.5)
APART = 0.1  # mm between the places of a voxel by sform and by qform

PREPARE = "run neuromix prepare"
AGAIN = "copy or export the file again"


class Finding(NamedTuple):
    """What is wrong, and what to do about it."""

    what: str
    advice: str


@dataclass
class Look:
    """What one file tells: its findings, and its geometry if it has one."""

    findings: list[Finding] = field(default_factory=list)
    geometry: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def report(self, what: str, advice: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(what, advice))


def look_at(path: str, image: str) -> Look:
    """Everything about a file that is to be an image such as ``md``."""
    look = Look()
    try:
        with np.errstate(all="ignore"):
            _examine(Path(path), image, look)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        look.report(f"truncated or damaged ({_reason(error)})", AGAIN)
    except Exception as error:  # whatever else a broken header provokes is a finding, too
        look.report(f"cannot be read ({type(error).__name__}: {_reason(error)})", AGAIN)
    return look


def write(values: Sequence[Any], by: str = " x ") -> str:
    """Numbers and names in a line."""
    return by.join(value if isinstance(value, str) else f"{value:.10g}" for value in values)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())


def _examine(path: Path, image: str, look: Look) -> None:
    import nibabel as nib

    if not path.is_file():
        advice = bids.BACKSLASH if bids.has_backslash(path) else "restore it or drop the row"
        look.report("the file is absent", advice)
        return
    size = path.stat().st_size
    if size == 0:
        look.report("the file is empty", AGAIN)
        return
    if not path.name.endswith(bids.EXTENSIONS):
        look.report("not a NIfTI file by its name", "convert it to .nii or .nii.gz")
        return
    scan = nib.load(path)
    affine = _check_affine(scan, look)
    if image == "bold" and len(scan.shape) > 3:
        try:
            bids.repetition_time(scan.header, bids.metadata(path))
        except InputError as error:
            look.report(*_reason(error).split("; ", 1))

    stored = scan.dataobj
    claimed = stored.offset + math.prod(scan.shape) * stored.dtype.itemsize
    possible = size * DEFLATE_LIMIT if path.suffix == ".gz" else size
    if claimed > possible or min(scan.shape, default=0) < 1:
        look.report(
            f"truncated, or the header is wrong: it speaks of {write(scan.shape)} voxels in "
            f"{claimed:,} bytes, the file has {size:,}",
            AGAIN,
        )
        return
    if stored.dtype.kind not in "iuf":
        look.report(f"voxels of type {stored.dtype} are no plain numbers", "export them as float32")
        return
    if math.prod(scan.shape[:3]) > LARGEST_VOLUME:
        look.report(f"a volume of {write(scan.shape[:3])} voxels is too large", "resample it")
        return
    shape = _check_shape(scan.shape, image, look)
    volume = _check_values(path, stored, look)
    if volume is None or not shape:
        return
    if affine is not None:
        grid = Grid(volume.shape, affine)
        _keep_geometry(grid, shape if image in SAME_FRAMES else shape[:3], look)
        if is_in_mni(path, scan.header):
            # At the points of a coarse grid, which is quick, and where the brain is known.
            volume = resample(volume, grid, COARSE, order=0)
            _check_place(grid, bright(volume), look)
            volume = np.where(_brain(), volume, 0)
    tissue = volume[bright(volume)]
    if image == "md" and tissue.size:
        _check_md(tissue, look)


def is_in_mni(path: Path, header: Any) -> bool:
    """Whether an image claims MNI152 space, in its name or in its header."""
    codes = header["sform_code"], header["qform_code"]
    return bids.space_of([path]).startswith(bids.MNI) or MNI_CODE in codes


def _keep_geometry(grid: Grid, shape: tuple[int, ...], look: Look) -> None:
    """Keep where the voxels lie, for comparison with the other files."""
    from nibabel.orientations import aff2axcodes

    affine = grid.affine
    far = affine[:3, 3] + affine[:3, :3] @ (np.array(shape[:3]) - 1)
    look.geometry["spacing"] = _rounded(grid.spacing)
    look.geometry["shape"] = shape
    look.geometry["orientation"] = ("".join(code or "?" for code in aff2axcodes(affine)),)
    look.geometry["position"] = _rounded(np.minimum(affine[:3, 3], far))


def _check_place(grid: Grid, signal: np.ndarray, look: Look) -> None:
    """Check that the brain of an image in MNI152 space lies where the template's does."""
    from nibabel.affines import obliquity

    tilt = obliquity(grid.affine).max()
    if tilt > TILT:
        look.report(f"oblique: axes are tilted by {math.degrees(tilt):.1f} degrees", PREPARE)
    brain = _brain()
    overlap = 2 * (signal & brain).sum() / (signal.sum() + brain.sum())
    if overlap < OVERLAP:
        look.report(
            f"not skull-stripped or not in MNI space, which it claims (overlap with the template's "
            f"brain {overlap:.2f}, needed {OVERLAP:g})",
            PREPARE,
        )


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


def _check_shape(shape: tuple[int, ...], image: str, look: Look) -> tuple[int, ...]:
    """The shape without needless axes, or nothing if the image has the wrong dimensions."""
    wanted = 4 if image in bids.SERIES else 3
    while len(shape) > wanted and shape[-1] == 1:
        shape = shape[:-1]
    thick = sum(side > 1 for side in shape[:3])
    if thick < 3:
        look.report(f"a {thick}D image ({write(shape)})", "give whole volumes, not slices")
        return ()
    if len(shape) != wanted:
        advice = f"fit or average it to one volume: {PREPARE}" if wanted == 3 else "give the series"
        what = f"{len(shape)} dimensions ({write(shape)}), {image} has {wanted}"
        look.report(what, advice)
        return ()
    return shape


def _check_affine(image: Any, look: Look) -> np.ndarray | None:
    """The affine, if there is one that says where the voxels are."""
    affine = image.affine
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        look.report("no affine (sform and qform codes are 0)", "export it with its orientation")
        return None
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        look.report("singular affine: voxels have no volume", "export it with its orientation")
        return None
    codes = image.header["sform_code"], image.header["qform_code"]
    if all(codes) and len(image.shape) > 2:
        _check_agreement(image, affine, look)
    return affine


def _check_agreement(image: Any, affine: np.ndarray, look: Look) -> None:
    """Check that the two places for an affine say the same: readers differ in which they take."""
    from nibabel.spatialimages import HeaderDataError

    corners = np.array(list(itertools.product(*[(0, side - 1) for side in image.shape[:3]])))
    try:
        other = image.get_qform()
    except (HeaderDataError, ValueError):  # its numbers are no rotation
        distance = math.inf
    else:
        distance = float(
            np.abs(corners @ (other - affine)[:3, :3].T + (other - affine)[:3, 3]).max()
        )
    if not distance <= APART:
        look.report(
            f"sform and qform disagree by {distance:.3g} mm, and readers differ in which they take",
            f"write the same affine in both: {PREPARE}",
        )


def _check_values(path: Path, stored: Any, look: Look) -> np.ndarray | None:
    """Read all volumes; the first one, NaN set to 0, unless that is pointless."""
    frames, low, high = [], math.inf, -math.inf
    total = math.prod(stored.shape)
    for values in _volumes(path, stored):
        good = np.isfinite(values)
        if good.any():
            low, high = min(low, values[good].min()), max(high, values[good].max())
        values[~good] = 0
        frames.append((np.count_nonzero(~good), not values.any()))
        if len(frames) == 1:
            first = values
    broken = np.array([count for count, _ in frames])  # NaN and infinite voxels of each frame
    dark = np.array([is_dark for _, is_dark in frames])  # frames without a value that is not 0
    if broken.sum() == total:
        look.report("every voxel is NaN or infinite", AGAIN)
        return None
    if dark.any() and not dark[0]:
        many = f"{dark.sum()} of {len(dark)} frames hold nothing but NaN or zeros"
        look.report(f"{many}, the first is frame {dark.argmax() + 1}", f"drop them or {AGAIN}")
    count = int(broken[~dark].sum() if dark.any() and not dark[0] else broken.sum())
    if count:
        share = f"{count} of {total} ({count / total:.2g} of all)"
        look.report(f"{share} voxels are NaN or infinite", "set those outside the brain to 0")
    if low == high:
        look.report(f"every voxel is {low:g}", AGAIN)
        return None
    if not first.any():
        look.report("every voxel of the first frame is 0", "drop the frame")
        return None
    return first.reshape(stored.shape[:3], order="F")


def _volumes(path: Path, stored: Any) -> Iterator[np.ndarray]:
    """The scaled values of a file, a volume at a time, in the order of the file."""
    size = math.prod(stored.shape[:3]) * stored.dtype.itemsize
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        stream.read(stored.offset)
        for _ in range(math.prod(stored.shape[3:])):
            block = stream.read(size)
            if len(block) < size:
                raise EOFError(f"{size - len(block):,} bytes are lacking")
            values = np.frombuffer(block, stored.dtype).astype(np.float32)
            yield values * np.float32(stored.slope) + np.float32(stored.inter)
        while stream.read(READ_BYTES):  # to its end, where gzip compares its checksum
            pass


def _check_md(values: np.ndarray, look: Look) -> None:
    negative = float((values < 0).mean())
    if negative > NEGATIVE_MD:
        look.report(f"MD is negative in {negative:.1%} of the brain", "fit it again: " + PREPARE)
    median = float(np.median(values[values > 0])) if negative < 1 else 0.0
    low, high = MD_MEDIAN
    if low <= median <= high:
        return
    for unit, factor in MD_UNITS:
        if low <= median * factor <= high:
            what = f"MD looks like {unit} instead of 1e-3 mm²/s (median {median:.3g})"
            look.report(what, f"multiply it by {factor:g}")
            return
    look.report(
        f"MD has a median of {median:.3g}, which fits no unit",
        f"give it in 1e-3 mm²/s, where a brain has {low:g} to {high:g}",
    )


def _brain() -> np.ndarray:
    return template_on(COARSE)["brain"] > 0.5
