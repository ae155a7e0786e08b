import numpy as np

from neuromix.augment.data.grid import Grid
from neuromix.augment.metrics import anatomy


def test_tissues_of_the_template_lie_apart_and_in_place():
    grid = Grid.mni(4.0)
    masks = anatomy.tissue_masks(grid)
    assert sum(mask.astype(int) for mask in masks.values()).max() == 1
    litres = {name: mask.sum() * 4**3 / 1e6 for name, mask in masks.items()}
    assert 0.4 < litres["gm"] < 0.7 and 0.3 < litres["wm"] < 0.5 and 0.005 < litres["csf"] < 0.05
    x, y, z = grid.points()
    corpus_callosum = (abs(x) < 4) & (abs(y - 28) < 3) & (abs(z - 4) < 3)
    assert not (masks["gm"] & corpus_callosum).any()


def test_slice_steps_are_the_ratio_of_the_slopes_in_the_mask():
    x, _, z = np.indices((12, 12, 12)).astype(np.float32)
    mask = np.ones((12, 12, 12), dtype=bool)
    mask[:, :, 9:] = False
    ramp = np.stack([3 * z + 2 * x, 3 * z + 2 * x])
    ramp[1, :, :, 9:] = 100
    assert np.allclose(anatomy.slice_steps(ramp, mask), 3)
    assert np.array_equal(anatomy.slice_steps(np.ones((1, 12, 12, 12)), mask), [0])
    assert np.array_equal(anatomy.slice_steps(ramp[..., :1], mask[..., :1]), [0, 0])


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
