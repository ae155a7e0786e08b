import numpy as np
import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric, SSIMMetric
from scipy import ndimage

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.similarity import SCALE_WEIGHTS, ms_ssim, ssim


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


def test_ms_ssim_is_that_of_monai():
    volumes = smooth(2, 16)
    metric = MultiScaleSSIMMetric(
        spatial_dims=3, data_range=3.0, kernel_size=3, weights=SCALE_WEIGHTS, reduction="none"
    )
    reference = metric(tensor(volumes[:1]), tensor(volumes[1:])).item()
    assert np.allclose(ms_ssim(volumes, data_range=3.0, pairs=1), reference, atol=1e-5)


def test_ms_ssim_pairs_volumes_that_differ_and_uses_all_of_them():
    volumes = smooth(8, 12)
    values = ms_ssim(volumes, pairs=12, seed=3)
    assert values.shape == (12,) and values.max() < 0.9  # a volume with itself gives one
    assert len(set(ms_ssim(np.repeat(volumes[:2], 4, axis=0), pairs=40).round(5))) == 2
    one = volumes.copy()
    one[5] = 100  # like no other volume: it is in just one of the first four pairs
    assert (ms_ssim(one, pairs=4, seed=3) != values[:4]).sum() == 1
    assert np.array_equal(values, ms_ssim(volumes, pairs=12, seed=3))
    assert not np.array_equal(values, ms_ssim(volumes, pairs=12, seed=4))


def test_less_variety_means_higher_ms_ssim():
    volumes = smooth(12, 12)
    alike = volumes.mean(axis=0) + 0.2 * (volumes - volumes.mean(axis=0))
    assert ms_ssim(alike, pairs=6).mean() > ms_ssim(volumes, pairs=6).mean() + 0.3


def test_volumes_that_are_too_small_are_refused():
    with pytest.raises(InputError, match="at least 12 voxels"):
        ms_ssim(smooth(4, 8))
    with pytest.raises(InputError, match="at least 7 voxels"):
        ssim(smooth(1, 6), smooth(1, 6), data_range=3.0)
