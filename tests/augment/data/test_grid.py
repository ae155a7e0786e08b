import numpy as np
import pytest

from neuromix.augment.data.grid import (
    Grid,
    bright,
    left_right_axis,
    resample,
    template,
    template_on,
)
from neuromix.augment.errors import InputError


@pytest.mark.parametrize("spacing", [2.0, 4.0, 5.0, 6.0, 8.0])
def test_the_standard_grid_holds_the_brain_and_divides_by_eight(spacing):
    grid = Grid.mni(spacing)
    assert all(side % 8 == 0 for side in grid.shape)
    low = (grid.affine @ [0, 0, 0, 1])[:3] - spacing / 2
    high = (grid.affine @ [*(side - 1 for side in grid.shape), 1])[:3] + spacing / 2
    assert (low < [-72, -107, -72]).all()
    assert (high > [72, 73, 82]).all()


def test_an_affine_without_left_and_right_is_refused():
    with pytest.raises(InputError, match="no axis along left-right"):
        left_right_axis(np.diag([0, 2, 2, 1]))


def test_the_template_keeps_its_volume_on_any_grid():
    maps, _ = template()
    for spacing in (4.0, 6.0):
        coarse = template_on(Grid.mni(spacing))
        assert coarse["gm"].sum() * spacing**3 == pytest.approx(maps["gm"].sum(), rel=0.03)


def test_resampling_to_the_same_grid_changes_nothing():
    data = np.random.default_rng(0).random((8, 8, 8), dtype=np.float32)
    grid = Grid((8, 8, 8), np.diag([4.0, 4, 4, 1]))
    np.testing.assert_array_equal(resample(data, grid, grid), data)


def test_a_point_keeps_its_world_position_through_an_oblique_affine():
    affine = np.diag([3.0, 3, 3, 1])
    turn = np.deg2rad(20)
    affine[:2, :2] = 3 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    affine[:3, 3] = (-20, -30, -25)
    source = Grid((20, 20, 20), affine)
    data = np.zeros(source.shape, dtype=np.float32)
    data[12, 9, 7] = 1
    target = Grid((40, 40, 40), np.array([[1.5, 0, 0, -30], [0, 1.5, 0, -20], [0, 0, 1.5, -25], [0, 0, 0, 1]]))  # fmt: skip  # noqa: E501
    moved = resample(data, source, target)
    where = target.affine @ [*np.unravel_index(moved.argmax(), moved.shape), 1]
    np.testing.assert_allclose(where[:3], (affine @ [12, 9, 7, 1])[:3], atol=1.6)


def test_frames_are_resampled_one_by_one():
    source, target = Grid.mni(8.0), Grid.mni(6.0)
    data = np.random.default_rng(0).random((*source.shape, 2), dtype=np.float32)
    both = resample(data, source, target)
    np.testing.assert_array_equal(both[..., 1], resample(data[..., 1], source, target))


def test_grids_survive_json():
    grid = Grid.mni(5.0)
    assert Grid.from_dict(grid.to_dict()) == grid
    assert grid != Grid.mni(4.0)


@pytest.mark.parametrize("spacing", [0, -4, float("nan"), float("inf")])
def test_a_spacing_that_makes_no_grid_is_refused(spacing):
    with pytest.raises(InputError, match="give more than 0"):
        Grid.mni(spacing)


@pytest.mark.parametrize("factors", [(2, 2, 3), (4, 1, 1)])
def test_a_pooled_grid_lies_where_its_blocks_do(factors):
    grid = Grid((9, 8, 6), np.array([[2.0, 0, 0.5, 4], [0, -3, 0, 1], [0, 0, 1, 7], [0, 0, 0, 1]]))
    pooled = grid.pooled(factors)
    assert pooled.shape == tuple(np.array(grid.shape) // factors)
    x, y, z = factors
    first_block = grid.points()[:, :x, :y, :z].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(pooled.points()[:, 0, 0, 0], first_block, atol=1e-5)


def test_another_spacing_keeps_the_field_of_view_and_its_middle():
    grid = Grid((20, 30, 10), np.array([[0, 2.0, 0, 4], [-1, 0, 0, 1], [0, 0, 4, 7], [0, 0, 0, 1]]))
    other = grid.respaced(2.0)
    assert other.shape == (10, 30, 20)
    assert other.spacing == (2.0, 2.0, 2.0)
    middles = [each.points().mean(axis=(1, 2, 3)) for each in (grid, other)]
    np.testing.assert_allclose(*middles, atol=1e-4)


def test_signal_is_told_from_the_noise_of_compression():
    volume = np.zeros((6, 6, 6), np.float32)
    volume[2:4] = 100
    volume[0] = 1
    assert np.array_equal(bright(volume), volume > 50)
    assert not bright(np.zeros((2, 2, 2))).any()
