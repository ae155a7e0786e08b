"""The way into the common space: skull stripping, affine registration, and the way back.

The fixed image is the T1 template, or the mean of the people themselves. What is registered (a mean
BOLD frame, a map of any contrast, a mean diffusion attenuation) has another contrast, so mutual
information is maximised, from coarse to fine:

    centre of mass → translation → rigid → affine.

An affine matches position, size and shear of the head, not its folds. A non-linear registration
(fMRIPrep for BOLD, QSIPrep for diffusion) is better: what it wrote as ``space-MNI152*`` is taken as
it is, and only resampled to the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from neuromix.augment.data.grid import COARSE, Grid, resample, template_on
from neuromix.augment.errors import InputError

HEAD = 170.0
"""Millimetres from the top of the head that are looked at: no brain is taller, necks are."""

MIN_SIDE = 8
MIN_OVERLAP = 0.9
PLAUSIBLE_SCALES = (0.6, 1.5)
"""A registration beyond these has failed. Ten real T1s had overlaps from 0.95 to 0.97 and scales
from 0.84 to 1.09; brains that were found 50 degrees askew had overlaps up to 0.88."""

ITERATIONS = (200, 50)
"""At most, per kind of transform, at 8 mm and at 4 mm."""


class Reference(NamedTuple):
    """What is registered to: an image and its brain on the grid :data:`COARSE`."""

    image: np.ndarray
    brain: np.ndarray
    name: str = "the template"


def template_reference() -> Reference:
    """The T1 template."""
    maps = template_on(COARSE)
    return Reference(maps["t1"], maps["brain"] > 0.5)


def brain_mask(volume: np.ndarray, spacing: float = 2.0) -> np.ndarray:
    """Where the brain roughly is: median filter, Otsu's threshold, the largest piece without holes.

    Good for EPI and b0 images, in which fat is suppressed. In a T1 scalp and neck stay in;
    :func:`register` removes them. ``spacing`` is the smallest side of a voxel in mm.
    """
    from dipy.segment.mask import median_otsu

    radius = 1 if spacing > 2.5 else 2
    _, mask = median_otsu(volume, median_radius=radius, numpass=1)
    # Thin bridges to the scalp are cut before the largest piece is chosen.
    cut = max(1, round(4 / spacing))
    pieces, count = ndimage.label(ndimage.binary_erosion(mask, iterations=cut))
    if count == 0:
        raise InputError("no brain was found in the image; give a mask (desc-brain_mask) with it")
    core = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    # Twice as far back as was cut, so that the corners of the brain return, too.
    return ndimage.binary_fill_holes(ndimage.binary_dilation(core, iterations=2 * cut) & mask)


def register(
    volume: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray | None = None,
    reference: Reference | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Find where the reference, by default the template, lies in an image of any orientation.

    Without a mask of the brain the image (X, Y, Z) is skull-stripped: roughly first, then by the
    reference's own outline once that is in place. Returns world of the reference to world of the
    image (4, 4), the brain mask (X, Y, Z), and the Dice overlap of that mask with the reference's
    brain.
    """
    reference = reference or template_reference()
    volume = np.nan_to_num(volume, posinf=0, neginf=0)
    if mask is not None and not volume[mask.astype(bool)].any():
        raise InputError("there is no signal in the brain mask; give the mask of this very image")
    source = Grid(volume.shape[:3], affine)
    if min(source.shape) < MIN_SIDE:
        raise InputError(
            f"a slab of {source} cannot be registered; at least {MIN_SIDE} voxels along each axis "
            "are needed: register it with its T1 elsewhere and name it space-MNI152..."
        )
    brain = reference.brain
    if mask is None:
        rough = brain_mask(volume, min(source.spacing))
        height = source.points()[2]
        rough &= height > height[rough].max() - HEAD
        start = _centres(volume * rough, source)
        transform = _align(volume, rough, source, start, reference)
        soft = ndimage.gaussian_filter(brain.astype(np.float32), 1)  # 4 mm of tolerance
        outline = resample(soft, COARSE, source, transform=np.linalg.inv(transform)) > 0.25
        mask = rough & outline
        transform = _align(volume, mask, source, transform, reference)
    else:
        mask = mask.astype(bool)
        transform = _align(volume, mask, source, _centres(volume * mask, source), reference)
    moved = resample(mask.astype(np.float32), source, COARSE, transform=transform) > 0.5
    overlap = float(2 * (moved & brain).sum() / (moved.sum() + brain.sum()))
    scales = np.linalg.svd(transform[:3, :3])[1]
    if (
        overlap < MIN_OVERLAP
        or scales.min() < PLAUSIBLE_SCALES[0]
        or scales.max() > PLAUSIBLE_SCALES[1]
    ):
        raise InputError(
            f"registration failed (overlap with the brain of {reference.name} {overlap:.2f}, "
            f"scales {scales.min():.2f} to {scales.max():.2f}); allowed are {MIN_OVERLAP:g} and "
            f"more, {PLAUSIBLE_SCALES[0]:g} to {PLAUSIBLE_SCALES[1]:g}: give a brain mask, or "
            "register it with fMRIPrep or QSIPrep (of maps: --to mean, or none if they lie alike)"
        )
    return transform, mask, overlap


def _centres(stripped: np.ndarray, source: Grid) -> np.ndarray:
    """The shift (4, 4) that puts centre of mass on centre of mass."""
    from dipy.align.imaffine import transform_centers_of_mass

    static = template_on(COARSE)["t1"]
    return transform_centers_of_mass(static, COARSE.affine, stripped, source.affine).affine


def pose(volume: np.ndarray, affine: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Turn and shift a brain to lie as the template does, in its own size: a transform (4, 4)."""
    source = Grid(volume.shape, affine)
    start = _centres(volume * mask, source)
    return _align(volume, mask, source, start, template_reference(), is_rigid=True)


def _align(
    volume: np.ndarray,
    mask: np.ndarray,
    source: Grid,
    start: np.ndarray,
    reference: Reference,
    *,
    is_rigid: bool = False,
) -> np.ndarray:
    """Improve a transform, comparing at 8 mm and then at 4 mm."""
    from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
    from dipy.align.transforms import AffineTransform3D, RigidTransform3D, TranslationTransform3D

    brain = reference.brain
    # The outline counts as much as the inside, what lies further away does not count.
    near = ndimage.binary_dilation(brain, iterations=2).astype(np.int32)
    moving = np.clip(volume, 0, np.percentile(volume[mask], 99)) * mask
    registration = AffineRegistration(
        metric=MutualInformationMetric(nbins=32),
        level_iters=list(ITERATIONS),
        sigmas=[1.5, 0.0],
        factors=[2, 1],
        verbosity=0,
    )
    kinds = (TranslationTransform3D, RigidTransform3D, AffineTransform3D)
    for kind in kinds[: 2 if is_rigid else 3]:
        start = registration.optimize(
            reference.image * brain,
            moving,
            kind(),
            None,
            static_grid2world=COARSE.affine,
            moving_grid2world=source.affine,
            starting_affine=start,
            static_mask=near,
        ).affine
    return start


def place(
    data: np.ndarray,
    affine: np.ndarray,
    grid: Grid,
    transform: np.ndarray,
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Resample an image (X, Y, Z) or (X, Y, Z, T) whose place in the template is known.

    ``transform`` leads from the world of the template to that of the image. Outside the ``mask``
    the result is zero; at the edge of the brain a voxel is the mean of what lies inside, so that
    tissue values do not fade into the background. The record is what :func:`restore` needs: plain
    content for JSON, which loses no digit.
    """
    source = Grid(data.shape[:3], affine)
    frames = data[..., None] if data.ndim == 3 else data
    share: float | np.ndarray = 1.0
    if mask is not None:
        share = resample(mask.astype(np.float32), source, grid, transform=transform)
        share = np.where(share > 0.5, share, np.inf)
    image = np.empty((*grid.shape, frames.shape[3]), dtype=np.float32)
    for t in range(frames.shape[3]):  # frame by frame, for a run can be a gigabyte
        frame = np.nan_to_num(frames[..., t], posinf=0, neginf=0)
        if mask is not None:
            frame = frame * mask
        image[..., t] = resample(frame, source, grid, transform=transform) / share
    image = image[..., 0] if data.ndim == 3 else image
    return image, record_of(source, grid, transform)


def record_of(source: Grid, target: Grid, transform: np.ndarray) -> dict[str, Any]:
    """The record of :func:`place`."""
    return {
        "source": source.to_dict(),
        "target": target.to_dict(),
        "transform": np.asarray(transform, dtype=float).tolist(),
    }


def restore(image: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """Bring an image on the grid, with any number of frames, back to where it came from.

    The record is that of :func:`place`, also by way of JSON.
    """
    source, target = Grid.from_dict(record["source"]), Grid.from_dict(record["target"])
    back = np.linalg.inv(np.array(record["transform"]))
    return resample(image, target, source, transform=back)
