"""Dosenbach's 160 regions on a grid: where task and disease show in the networks of the brain.

The centres (Dosenbach et al. 2010) ship inside nilearn, so nothing is downloaded. A region is a
Gaussian bump around its centre, so that it is there at every spacing.
"""

from __future__ import annotations

import functools

import numpy as np

from neuromix.augment.data.grid import Grid

RADIUS = 7.0
"""Standard deviation of a bump in mm."""


@functools.cache
def dosenbach() -> np.ndarray:
    """Centres of the 160 regions, (160, 3) in MNI mm."""
    from nilearn.datasets import fetch_coords_dosenbach_2010

    rois = fetch_coords_dosenbach_2010().rois
    return np.stack([rois["x"], rois["y"], rois["z"]], 1).astype(np.float32)


def region_maps(grid: Grid, radius: float = RADIUS) -> np.ndarray:
    """A bump of height one for each region, (160, X, Y, Z)."""
    points = grid.points()
    maps = [
        np.exp(-0.5 * ((points - centre[:, None, None, None]) ** 2).sum(0) / radius**2)
        for centre in dosenbach()
    ]
    return np.stack(maps).astype(np.float32)
