"""From one scan to the images that are made of it: a map, BOLD windows or segments."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import ndimage

from neuromix.augment.data import bids
from neuromix.augment.data.examine import MD_MEDIAN, MD_RANGE, MD_UNITS
from neuromix.augment.data.grid import Grid, bright, resample
from neuromix.augment.errors import InputError, require_choice
from neuromix.augment.prepare import bold, diffusion, segments, space
from neuromix.augment.prepare.scans import INPUTS, Scan

if TYPE_CHECKING:
    import pandas as pd

WAYS = ("template", "mean", "none")
"""What a map is registered to."""
SPACING = 4.0
"""Of the standard grid in mm, where none is asked for."""
FULL = 0.8
"""A brain fills half of its bounding box; a map without zeros around the brain is not stripped."""


@dataclass(frozen=True)
class Settings:
    """What to make."""

    what: str
    """``md`` (MD maps, from MD maps or DWI), ``bold`` (BOLD and its events), ``segments`` (segments
    of BOLD along time and of DWI along gradients) or ``map`` (any scalar map, skull-stripped, whose
    unit and range stay)."""
    spacing: float | None = None
    """Of the grid, in mm, by default 4; of maps that are registered to none, their own."""
    window: float | None = None
    """Cut BOLD into windows of this many seconds."""
    overlap: float = 0.0
    """Share of a window that the next one repeats, 0 to below 1."""
    segments: int = 8
    """Number of segments."""
    b_max: float = 1500.0
    """Largest b-value for the tensor, in s/mm²."""
    image: str = ""
    """Name of the map in the cohort; it can be left out where there is one image."""
    to: str = "template"
    """What maps are registered to: the ``template``, their own ``mean`` (of a cohort of whole
    brains; kept in the output, so that others can follow), or ``none``."""
    pool: tuple[int, int, int] | None = None
    """Blocks of voxels to average, in place of a spacing, of maps registered to none."""

    def __post_init__(self) -> None:
        require_choice("what", self.what, INPUTS)
        require_choice("to", self.to, WAYS)
        if self.pool is not None and (min(self.pool) < 1 or self.spacing is not None):
            raise InputError(
                f"pool {' '.join(map(str, self.pool))} and spacing {self.spacing} came; give whole "
                "numbers from 1 on, or a spacing in place of them"
            )
        if self.spacing is None and self.to != "none":
            object.__setattr__(self, "spacing", SPACING)
        if self.spacing is not None and not self.spacing > 0:
            raise InputError(f"a spacing of {self.spacing:g} mm cannot be; it must be above 0")
        if self.window is not None and not self.window > 0:
            raise InputError(f"a window of {self.window:g} s cannot be; it must be above 0")
        if not 0 <= self.overlap < 1:
            raise InputError(f"an overlap of {self.overlap:g} cannot be; allowed is 0 to below 1")
        if self.segments < 1:
            raise InputError(f"{self.segments} segments cannot be; at least 1 is needed")
        for option in fields(self):
            default = SPACING if option.name == "spacing" else option.default
            if option.name not in self.used and getattr(self, option.name) != default:
                warnings.warn(f"{option.name} changes nothing for {self.what}", stacklevel=4)

    @property
    def used(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        names = {
            "md": ["b_max"], "bold": ["window"], "segments": ["segments"],
            "map": ["image", "to", *(["pool"] if self.to == "none" else [])],
        }[self.what]  # fmt: skip
        if self.has_windows:
            names.append("overlap")
        everything = asdict(self)
        if self.pool:
            everything["pool"] = list(self.pool)  # as JSON gives it back
        return {name: everything[name] for name in ("what", "spacing", *names)}

    @property
    def grid(self) -> Grid:
        """The grid of what is registered."""
        return Grid.mni(self.spacing or SPACING)

    @property
    def has_windows(self) -> bool:
        """Whether each run becomes several files."""
        return self.what == "bold" and self.window is not None


class Output(NamedTuple):
    """One file to write: an image on the grid, what its sidecar says, and its events."""

    image: np.ndarray
    sidecar: dict[str, Any]
    tr: float | None = None
    events: pd.DataFrame | None = None


def make(scan: Scan, settings: Settings, reference: space.Reference | None = None) -> list[Output]:
    """Make of a scan what the settings ask for; a map is registered to the reference."""
    if settings.what == "map":
        return [_map(scan, settings, reference)]
    if settings.what == "md":
        return [_md(scan, settings)]
    if settings.what == "bold":
        return _bold(scan, settings)
    return [(_bold_segments if scan.kind == "bold" else _dwi_segments)(scan, settings)]


def _md(scan: Scan, settings: Settings) -> Output:
    sidecar: dict[str, Any] = {"Units": bids.UNITS["md"]}
    if scan.kind == "md":
        data, affine, _ = _read(scan.image, 3)
        unit, factor = _unit(data)
        md = np.clip(data * np.float32(factor), *MD_RANGE)
        mask = _mask(scan, md.shape, affine)
        if factor != 1:
            sidecar["Note"] = f"converted from {unit} to 1e-3 mm²/s"
    else:
        data, affine, _ = _read(scan.image, 4)
        bvals, bvecs = _gradients(scan, data.shape[3])
        mask = _mask(scan, data.shape[:3], affine)
        if mask is None:
            mask = _b0_mask(data, bvals, affine)
        md = diffusion.fit_md(data, bvals, bvecs, mask, settings.b_max)
        mask &= md > 0
    if mask is None:
        mask = outline(md)
    # As attenuation, exp(-MD), tissue spreads over more bins of the mutual information than in MD,
    # where fluid takes most: on a synthetic map the error fell from 0.6 to 0.2 mm.
    return Output(*_register(scan, np.exp(-md), affine, mask).place(md, settings, sidecar))


def read_map(scan: Scan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A skull-stripped map of any contrast, its affine and its brain's mask."""
    data, affine = _read_varied(scan)
    mask = _mask(scan, data.shape, affine)
    return data, affine, outline(data) if mask is None else mask


def _read_varied(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    data, affine, _ = _read(scan.image, 3)
    if data.min() == data.max():
        raise InputError(f"every voxel is {data.min():g}; leave it out or make it anew")
    return data, affine


def outline(volume: np.ndarray) -> np.ndarray:
    """The brain of a skull-stripped map (X, Y, Z): where there is signal, without holes."""
    mask: np.ndarray = ndimage.binary_fill_holes(bright(volume))
    if mask.mean() > FULL:
        raise InputError(
            "the map is not skull-stripped (no zeros around the brain); put its mask beside it, "
            "named as the map with desc-brain_mask in place of its param and suffix"
        )
    return mask


def _map(scan: Scan, settings: Settings, reference: space.Reference | None) -> Output:
    if settings.to != "none":
        data, affine, mask = read_map(scan)
        return Output(*_register(scan, data, affine, mask, reference).place(data, settings))
    data, affine = _read_varied(scan)
    source = Grid(data.shape, affine)
    target = source.respaced(settings.spacing) if settings.spacing else source
    image = resample(data, source, target)
    if settings.pool:
        target, image = source.pooled(settings.pool), block_means(data, settings.pool)
    record = space.record_of(source, target, np.eye(4))
    return Output(image, {"Registration": "none, as it came", "Record": {"space": record}})


def block_means(volume: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Means over blocks of voxels (X, Y, Z); what makes no whole block at the end is left out."""
    counts = [side // factor for side, factor in zip(volume.shape, factors, strict=True)]
    if min(counts) < 1:
        raise InputError(f"blocks of {factors} do not fit into {volume.shape} voxels; pool less")
    whole = tuple(slice(n * factor) for n, factor in zip(counts, factors, strict=True))
    sides = [side for pair in zip(counts, factors, strict=True) for side in pair]
    means: np.ndarray = volume[whole].reshape(sides).mean(axis=(1, 3, 5), dtype=np.float32)
    return means


def _bold(scan: Scan, settings: Settings) -> list[Output]:
    if settings.has_windows and "chunk" in scan.entities:
        raise InputError("this is a window (chunk) already; cut the whole run, or give no window")
    data, affine, tr = _read_run(scan)
    frames = data.shape[3]
    events = _events(scan, frames, tr)
    length = frames if settings.window is None else round(settings.window / tr)
    starts = bold.windows(frames, length, settings.overlap)
    mean = data.mean(axis=3)
    registration = _register(scan, mean, affine, _mask(scan, mean.shape, affine))
    about: dict[str, Any] = {"RepetitionTime": tr, "TaskName": scan.entities.get("task", "")}
    image, sidecar = registration.place(data, settings, about)
    outputs = []
    for start in starts:
        part, own = bold.cut(image, events, tr, start, length)
        where = {"Windows": len(starts), "FirstFrame": start, "RunFrames": frames}
        outputs.append(Output(part, sidecar | (where if settings.has_windows else {}), tr, own))
    return outputs


def _bold_segments(scan: Scan, settings: Settings) -> Output:
    data, affine, tr = _read_run(scan)
    mean = data.mean(axis=3)
    registration = _register(scan, mean, affine, _mask(scan, mean.shape, affine))
    inside = registration.mask
    if inside is None:
        inside = space.brain_mask(mean, min(Grid(mean.shape, affine).spacing))
    parts, division = segments.segment_bold(data, settings.segments, inside)
    # BIDS wants the time between the frames of this file, which are segments.
    tr *= data.shape[3] / settings.segments
    about: dict[str, Any] = {
        "Units": bids.UNITS["fmri"],
        "RepetitionTime": tr,
        "TaskName": scan.entities.get("task", ""),
    }
    return Output(*registration.place(parts, settings, about, division), tr)


def _dwi_segments(scan: Scan, settings: Settings) -> Output:
    data, affine, _ = _read(scan.image, 4)
    bvals, bvecs = _gradients(scan, data.shape[3])
    mask = _mask(scan, data.shape[:3], affine)
    rough, _ = segments.segment_dwi(data, bvals, bvecs, affine, 1)
    if mask is None and not scan.is_in_mni:
        mask = _b0_mask(data, bvals, affine)
    registration = _register(scan, rough[..., 0], affine, mask)
    superior = registration.transform[:3, 2]
    parts, division = segments.segment_dwi(data, bvals, bvecs, affine, settings.segments, superior)
    return Output(*registration.place(parts, settings, {"Units": bids.UNITS["dmri"]}, division))


class Registration(NamedTuple):
    """Where the reference lies in a scan, its brain mask, and how well they overlap."""

    affine: np.ndarray
    transform: np.ndarray
    mask: np.ndarray | None
    quality: dict[str, Any]

    def place(
        self,
        data: np.ndarray,
        settings: Settings,
        about: Mapping[str, Any] | None = None,
        division: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Data of the scan on the grid, and their sidecar, which ``about`` begins."""
        image, place = space.place(data, self.affine, settings.grid, self.transform, self.mask)
        record = {"segments": division, "space": place} if division else {"space": place}
        is_stripped = self.mask is not None
        return image, {
            **(about or {}), "SkullStripped": is_stripped, **self.quality, "Record": record,
        }  # fmt: skip


def _register(
    scan: Scan,
    volume: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray | None,
    reference: space.Reference | None = None,
) -> Registration:
    if scan.is_in_mni and reference is None:
        quality: dict[str, Any] = {"Registration": f"as it came, in {scan.entities['space']}"}
        return Registration(affine, np.eye(4), mask, quality)
    reference = reference or space.template_reference()
    transform, mask, overlap = space.register(volume, affine, mask, reference)
    quality = {"Registration": f"affine to {reference.name}", "Overlap": overlap}
    return Registration(affine, transform, mask, quality)


def _read_run(scan: Scan) -> tuple[np.ndarray, np.ndarray, float]:
    """BOLD (X, Y, Z, T), its affine and its repetition time."""
    data, affine, header = _read(scan.image, 4)
    bold.check_frames(np.moveaxis(data, 3, 0))
    return data, affine, bids.repetition_time(header, scan.sidecar)


def _read(path: Path, dimensions: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Values as float32 with NaN and infinities set to 0, affine and header of an image."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nib.load(path)
        data = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (ImageFileError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"the file is truncated or no NIfTI ({' '.join(str(error).split())}); fetch it again"
        ) from None
    if data.ndim == dimensions + 1 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != dimensions:
        raise InputError(f"the image has shape {data.shape}; {dimensions} dimensions are needed")
    header = image.header
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        raise InputError(
            "the header has no orientation (qform and sform codes are 0), so that left and right "
            "cannot be told; convert the image anew from DICOM, or set its orientation"
        )
    np.nan_to_num(data, copy=False, posinf=0, neginf=0)
    if not data.any():
        raise InputError("the image holds nothing but zeros or NaN; leave it out or make it anew")
    return data, image.affine, header


def _mask(scan: Scan, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray | None:
    if "mask" not in scan.companions:
        return None
    data, own, _ = _read(scan.companions["mask"], 3)
    if data.shape != shape or not np.allclose(own, affine, atol=1e-2):
        raise InputError(
            f"{scan.companions['mask'].name} is on another grid ({data.shape}) than the image "
            f"({shape}); a mask must lie on the image's own grid"
        )
    return data > 0.5


def _b0_mask(data: np.ndarray, bvals: np.ndarray, affine: np.ndarray) -> np.ndarray:
    b0 = data[..., bvals <= diffusion.B0].mean(axis=3)
    return space.brain_mask(b0, min(Grid(b0.shape, affine).spacing))


def _gradients(scan: Scan, volumes: int) -> tuple[np.ndarray, np.ndarray]:
    for name in ("bval", "bvec"):
        if name not in scan.companions:
            raise InputError(f"there is no .{name} beside it; a diffusion scan needs bval and bvec")
    table = diffusion.read_gradients(scan.companions["bval"], scan.companions["bvec"])
    return diffusion.check_gradients(*table, volumes)


def _events(scan: Scan, frames: int, tr: float) -> pd.DataFrame | None:
    place = scan.companions.get("events")
    if place is None:
        if scan.entities.get("task", "").startswith("rest"):
            return None
        raise InputError(
            "there is no events.tsv for it; put one beside it, or name the raw dataset that has it "
            "(raw=...)"
        )
    events = bold.hcp_events(place) if place.is_dir() else bold.read_events(place)
    bold.check_events(events, frames, tr)
    return events


def _unit(md: np.ndarray) -> tuple[str, float]:
    """The unit of an MD map by its size, and the factor to 1e-3 mm²/s."""
    positive = md[md > 0]
    median = float(np.median(positive)) if positive.size else 0.0
    low, high = MD_MEDIAN
    for unit, factor in (("1e-3 mm²/s", 1.0), *MD_UNITS):
        if low <= median * factor <= high:
            return unit, factor
    raise InputError(
        f"the median MD is {median:.3g}, which is a brain's in no known unit; 1e-3 mm²/s are "
        f"needed, in which it lies between {low:g} and {high:g}"
    )
