import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from scipy import ndimage

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.similarity import ssim


def smooth(n, side, seed=0):
    noise = np.random.default_rng(seed).standard_normal((n, side, side, side))
    volumes = np.stack([ndimage.gaussian_filter(volume, 1.5) for volume in noise])
    return (1 + volumes / volumes.std()).astype(np.float32)


def tensor(volumes):
    return torch.from_numpy(volumes)[:, None]


def test_ssim_is_that_of_monai():
    x, y = smooth(3, 12), smooth(3, 12, seed=1)
    metric = SSIMMetric(spatial_dims=3, data_range=3.0, win_size=7, reduction="none")
    assert np.allclose(ssim(x, y, data_range=3.0), metric(tensor(x), tensor(y))[:, 0], atol=1e-5)
    assert np.allclose(ssim(x, x, data_range=3.0), 1)


def test_ssim_depends_on_values_relative_to_the_data_range():
    x, y = smooth(2, 8), smooth(2, 8, seed=1)
    values = ssim(x, y, data_range=3.0)
    assert np.allclose(ssim(10 * x, 10 * y, data_range=30.0), values, atol=1e-4)
    assert not np.allclose(ssim(10 * x, 10 * y, data_range=3.0), values, atol=3e-3)


def test_ssim_averages_over_the_mask():
    x = smooth(1, 16)
    y = x.copy()
    y[:, 12:] += 5  # three voxels and more away from the mask
    mask = np.zeros(x.shape[1:], dtype=bool)
    mask[:9] = True
    assert np.allclose(ssim(x, y, data_range=3.0, mask=mask), 1)
    assert ssim(x, y, data_range=3.0)[0] < 0.95


def test_volumes_that_are_too_small_are_refused():
    with pytest.raises(InputError, match="at least 7 voxels"):
        ssim(smooth(1, 6), smooth(1, 6), data_range=3.0)
