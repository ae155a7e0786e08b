"""What maps show of anatomy: tissues of the template, and how left differs from right."""

from __future__ import annotations

import numpy as np

from neuromix.augment.data.grid import Grid, template_on


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


def slice_steps(volumes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean |change| between neighbouring slices over that between neighbours in a slice, (N,).

    Neighbours count where both lie in the mask (X, Y, Z), whose last axis runs through the slices.
    Slices that are made one by one and jitter have more than those of real volumes.
    """
    change = np.empty((3, len(volumes)))
    for axis in range(3):
        inside = np.moveaxis(mask, axis, 0)
        both = inside[1:] & inside[:-1]
        for n, volume in enumerate(volumes):
            step = np.diff(np.moveaxis(volume, axis, 0), axis=0)
            change[axis, n] = np.abs(step[both]).mean() if both.any() else 0.0
    ratio: np.ndarray = change[2] / np.maximum(change[:2].mean(axis=0), 1e-12)
    return ratio


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
