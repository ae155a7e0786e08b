import numpy as np

from neuromix.augment.data.grid import Grid
from neuromix.augment.data.regions import dosenbach, region_maps


def test_each_region_peaks_at_its_centre():
    grid = Grid.mni(8.0)
    maps = region_maps(grid)
    assert maps.shape == (160, *grid.shape)
    points = grid.points().reshape(3, -1)
    peaks = points[:, maps.reshape(160, -1).argmax(axis=1)].T
    # Half the diagonal of a voxel.
    assert np.linalg.norm(peaks - dosenbach(), axis=1).max() <= 8 * np.sqrt(3) / 2 + 0.1
    assert maps.max() <= 1
