"""What volumes look like inside the brain: intensities, tissues, slices, sharpness.

All functions take volumes (N, X, Y, Z) in 1e-3 mm²/s and a mask (X, Y, Z) that all volumes share,
since they live in one space. Those that return one value per volume leave it to the caller to
average, to bootstrap and to compare with real volumes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from neuromix.augment.data.grid import Grid, template_on
from neuromix.augment.errors import InputError

CHUNK = 32
"""Volumes that are worked on at once, so that memory does not grow with their number."""


def common_mask(volumes: np.ndarray) -> np.ndarray:
    """Where at least half of the volumes (N, X, Y, Z) are positive: a mask (X, Y, Z).

    Meant for real maps, which are zero outside the brain.
    """
    mask = np.asarray((volumes > 0).mean(axis=0) >= 0.5)
    if not mask.any() or mask.all():
        raise InputError(
            f"{'no' if not mask.any() else 'every'} voxel is positive in half of the volumes, so "
            "they show no brain on a background of zeros; mask the volumes or pass mask="
        )
    return mask


def tissue_masks(grid: Grid, threshold: float = 0.7) -> dict[str, np.ndarray]:
    """Where the template is grey matter, white matter or CSF: masks (X, Y, Z) on a grid.

    A voxel belongs to a tissue that fills more than ``threshold`` of it, so that borders, where
    tissues mix and anatomy differs, stay out.
    """
    maps = template_on(grid)
    csf = maps["brain"] - maps["gm"] - maps["wm"]
    return {
        name: tissue > threshold
        for name, tissue in {"gm": maps["gm"], "wm": maps["wm"], "csf": csf}.items()
    }


def tissue_md(volumes: np.ndarray, tissues: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean of each volume (N, X, Y, Z) in each tissue's mask (X, Y, Z): name to means (N,)."""
    for name, mask in tissues.items():
        if not mask.any():
            raise InputError(
                f"the mask of tissue {name!r} is empty on a grid of {mask.shape}; "
                "lower the threshold or leave the tissue out"
            )
    return {name: volumes[:, mask].mean(axis=1) for name, mask in tissues.items()}


def continuity(volumes: np.ndarray, mask: np.ndarray, axis: int = 2) -> dict[str, np.ndarray]:
    """Change between neighbouring slices relative to change within slices.

    With D_a the mean over neighbours along axis a of |v(i+1) - v(i)| and H_a the mean of the second
    difference squared, (v(i+1) - 2 v(i) + v(i-1))², which holds the highest frequencies:

        difference = D_axis / mean of the other two D,   high_frequency = the same of H.

    Neighbours count where all of them lie in the mask. Slices that fit together as in nature have
    the value of real volumes; slices that are made one by one and jitter have more. Each is (N,);
    ``axis`` is that along which volumes are cut into slices.
    """
    within = [a for a in range(3) if a != axis]
    first = np.empty((3, len(volumes)))
    second = np.empty((3, len(volumes)))
    for start in range(0, len(volumes), CHUNK):
        part = slice(start, start + CHUNK)
        for a in range(3):
            turned = np.moveaxis(volumes[part], a + 1, 1)
            inside = np.moveaxis(mask, a, 0)
            two = inside[1:] & inside[:-1]
            three = two[1:] & two[:-1]
            step = np.diff(turned, axis=1)
            first[a, part] = np.abs(step[:, two]).mean(axis=1)
            second[a, part] = (np.diff(step, axis=1)[:, three] ** 2).mean(axis=1)
    tiny = 1e-12  # a constant volume has no change at all
    return {
        "difference": first[axis] / np.maximum(first[within].mean(axis=0), tiny),
        "high_frequency": second[axis] / np.maximum(second[within].mean(axis=0), tiny),
    }


def asymmetry(volumes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Right less left at each pair of mirrored voxels, (N, V).

    Brains lean: on average one side is larger, brighter or farther forward. The mean over a set
    keeps that and loses what is each subject's own, and has the opposite sign in a set whose left
    and right were exchanged. x runs from left to right, the middle of the head is near its middle.
    """
    half = len(mask) // 2
    both = mask[:half] & mask[::-1][:half]
    differences: np.ndarray = volumes[:, ::-1][:, :half][:, both] - volumes[:, :half][:, both]
    return differences


def correlation_of_means(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of the means of two sets of maps, (N, V) and (M, V)."""
    a, b = (maps.mean(axis=0, dtype=np.float64) for maps in (x, y))
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-12))


def graininess(volumes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Noise of each volume where tissue is uniform, (N,) in the volumes' unit.

    The lower quartile in the brain of |v - mean of its six neighbours|: the quietest places, which
    hold no border between tissues. Sees noise too weak to show beside anatomy in
    :func:`sharpness`, and volumes that are smoother than a scanner's.
    """
    inner = ndimage.binary_erosion(mask)  # voxels with all six neighbours in the brain
    if not inner.any():
        raise InputError(
            "no voxel of the mask has its six neighbours in it; give a mask of a brain"
        )
    result = np.empty(len(volumes))
    for n, volume in enumerate(volumes):
        around = sum(np.roll(volume, step, axis) for axis in range(3) for step in (-1, 1))
        result[n] = np.quantile(np.abs(volume - around / 6)[inner], 0.25)
    return result
