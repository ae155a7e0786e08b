import numpy as np
import pytest
from scipy import ndimage

from neuromix.augment.data.grid import Grid
from neuromix.augment.errors import InputError
from neuromix.augment.metrics import anatomy

EVERYWHERE = np.ones((12, 12, 12), dtype=bool)


def noise(n, seed=0, side=12):
    return np.random.default_rng(seed).standard_normal((n, side, side, side)).astype(np.float32)


def test_the_brain_is_where_half_of_the_volumes_are_positive():
    volumes = np.zeros((4, 3, 3, 3), dtype=np.float32)
    volumes[:2, 1], volumes[:1, 2] = 0.7, 0.7
    mask = anatomy.common_mask(volumes)
    assert mask[1].all() and not mask[[0, 2]].any()


@pytest.mark.parametrize(("value", "reason"), [(0.0, "no voxel"), (1.0, "every voxel")])
def test_volumes_without_a_brain_are_refused(value, reason):
    with pytest.raises(InputError, match=reason):
        anatomy.common_mask(np.full((3, 4, 4, 4), value))


def test_tissues_of_the_template_lie_apart_and_in_place():
    grid = Grid.mni(4.0)
    masks = anatomy.tissue_masks(grid)
    assert sum(mask.astype(int) for mask in masks.values()).max() == 1
    litres = {name: mask.sum() * 4**3 / 1e6 for name, mask in masks.items()}
    assert 0.4 < litres["gm"] < 0.7 and 0.3 < litres["wm"] < 0.5 and 0.005 < litres["csf"] < 0.05
    x, y, z = grid.points()
    corpus_callosum = (abs(x) < 4) & (abs(y - 28) < 3) & (abs(z - 4) < 3)
    assert not (masks["gm"] & corpus_callosum).any()


def test_tissue_md_is_the_mean_of_each_volume_in_each_mask():
    half = np.zeros((12, 12, 12), dtype=bool)
    half[:6] = True
    volumes = noise(3)
    means = anatomy.tissue_md(volumes, {"gm": half, "wm": ~half})
    assert np.allclose(means["gm"], volumes[:, :6].mean((1, 2, 3)), atol=1e-6)
    assert np.allclose(means["wm"], volumes[:, 6:].mean((1, 2, 3)), atol=1e-6)
    with pytest.raises(InputError, match="'csf' is empty"):
        anatomy.tissue_md(volumes, {"csf": half & ~half})


def test_continuity_of_a_ramp_is_the_ratio_of_its_slopes():
    x, _, z = np.indices((12, 12, 12)).astype(np.float32)
    ramp = (3 * z + 2 * x)[None]
    assert anatomy.continuity(ramp, EVERYWHERE, axis=2)["difference"] == pytest.approx(3)
    assert anatomy.continuity(ramp, EVERYWHERE, axis=0)["difference"] == pytest.approx(2 / 1.5)
    curved = (z**2 + 0.5 * x**2)[None]
    high = anatomy.continuity(curved, EVERYWHERE, axis=2)["high_frequency"]
    assert high == pytest.approx(1 / (0.25 / 2))


def test_continuity_compares_neighbours_in_the_mask_only():
    volumes = noise(40)  # more than are worked on at once
    mask = EVERYWHERE.copy()
    mask[:, :, 9:] = False
    changed = volumes.copy()
    changed[:, :, :, 9:] = 100
    expected = anatomy.continuity(volumes, mask)
    for name, values in anatomy.continuity(changed, mask).items():
        assert values.shape == (40,) and np.array_equal(values, expected[name])
        assert values.mean() == pytest.approx(1, abs=0.03)


def test_continuity_sees_jitter_along_its_axis():
    smooth = np.stack([ndimage.gaussian_filter(volume, 2) for volume in noise(6)])
    step = 0.5 * smooth.std() * np.random.default_rng(1).standard_normal((6, 1, 1, 12))
    before, after = (anatomy.continuity(v, EVERYWHERE) for v in (smooth, smooth + step))
    assert (after["difference"] > 1.3 * before["difference"]).all()
    assert (after["high_frequency"] > 2 * before["high_frequency"]).all()
    across = anatomy.continuity(smooth + step, EVERYWHERE, axis=1)["difference"]
    assert across.mean() < before["difference"].mean()


def test_a_constant_volume_has_numbers_too():
    constant = np.ones((2, 12, 12, 12), dtype=np.float32)
    assert (anatomy.continuity(constant, EVERYWHERE)["difference"] == 0).all()


def test_graininess_measures_noise_and_not_tissue():
    x, y, z = np.indices((12, 12, 12))
    ramp = (x + 2 * y - z).astype(np.float32)
    assert np.allclose(anatomy.graininess(ramp[None], EVERYWHERE), 0, atol=1e-5)
    edge = np.where(x < 6, 0.7, 3.0)
    one = anatomy.graininess(edge + 0.01 * noise(8), EVERYWHERE).mean()
    two = anatomy.graininess(edge + 0.02 * noise(8), EVERYWHERE).mean()
    assert two == pytest.approx(2 * one, rel=0.02)
    assert one == pytest.approx(0.01 * 0.3186 * np.sqrt(7 / 6), rel=0.3)
    with pytest.raises(InputError, match="six neighbours"):
        anatomy.graininess(ramp[None], x == 3)


def test_asymmetry_changes_its_sign_when_left_and_right_are_exchanged():
    rng = np.random.default_rng(0)
    mask = np.zeros((7, 6, 5), dtype=bool)
    mask[1:-1, 1:-1, 1:-1] = True
    lean = rng.standard_normal((7, 6, 5))
    one, two = (lean + 0.3 * rng.standard_normal((20, 7, 6, 5)) for _ in range(2))
    maps = [anatomy.asymmetry(volumes, mask) for volumes in (one, two, two[:, ::-1])]
    assert maps[0].shape == (20, 2 * 4 * 3)
    assert anatomy.correlation_of_means(maps[0], maps[1]) > 0.9
    assert anatomy.correlation_of_means(maps[0], maps[2]) < -0.9
    even = one + one[:, ::-1]
    assert np.abs(anatomy.asymmetry(even, mask)).max() < 1e-12
