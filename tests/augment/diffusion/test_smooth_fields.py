import pytest
import torch

from neuromix.augment.diffusion.smooth_fields import (
    along,
    bumps,
    cosines,
    fold,
    harmonics,
    lattice_step,
    unfold,
)


@pytest.mark.parametrize(
    ("block", "width", "expected"), [(8, 6.0, 8), (8, 3.0, 4), (8, 0.75, 1), (6, 9.0, 2), (1, 9, 1)]
)
def test_lattice_points_divide_a_block_and_keep_bumps_overlapping(block, width, expected):
    assert lattice_step(block, width) == expected


@pytest.mark.parametrize(("step", "width"), [(1, 0.75), (2, 1.5), (4, 3.0)])
def test_bumps_carry_a_constant_and_have_unit_length(step, width):
    rows = bumps(32, step, width)
    assert rows.shape == (32, 32 // step)
    assert rows.square().sum(1).mean().item() == pytest.approx(1)
    inside = rows.sum(1)[8:-8]
    assert inside.std() < 0.02 * inside.mean()
    assert (rows.abs().max(1).values > 0).all()


def test_cosines_are_orthonormal_and_the_first_is_constant():
    waves = cosines(12)
    torch.testing.assert_close(waves @ waves.T, torch.eye(12), atol=1e-6, rtol=0)
    assert waves[0].std() < 1e-6
    turns = (waves[:, 1:] * waves[:, :-1] < 0).sum(1)
    assert turns.tolist() == list(range(12))


@pytest.mark.parametrize("side", [7, 8])
def test_harmonics_are_orthonormal_and_vary_as_much_everywhere(side):
    waves = harmonics(side)
    torch.testing.assert_close(waves @ waves.T, torch.eye(side), atol=1e-5, rtol=0)
    # Equal strength for cosine and sine of a frequency gives equal variance at every place.
    strength = 1.0 / (1 + (torch.arange(side) + 1) // 2)
    variance = (strength[:, None] * waves.square()).sum(0)
    torch.testing.assert_close(variance, variance.mean().expand(side), atol=1e-5, rtol=0)


def test_each_axis_has_its_matrix():
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(2, 3, 4, 5, 6, generator=generator)
    a, b, c = (torch.randn(m, n, generator=generator) for m, n in ((7, 4), (2, 5), (3, 6)))
    expected = torch.einsum("bkijl,xi,yj,zl->bkxyz", field, a, b, c)
    torch.testing.assert_close(along(field, [a, b, c]), expected, atol=1e-4, rtol=1e-4)


def test_blocks_hold_neighbours_and_unfold_again():
    block = (2, 4, 3)
    field = torch.arange(2 * 3 * 4 * 8 * 6).reshape(2, 3, 4, 8, 6)
    blocks = fold(field, block)
    assert blocks.shape == (2, 2, 3 * 2 * 4 * 3, 2, 2)
    corner = field[1, :, 2:4, :4, 3:6]  # block 1 of the rows, 0 of the columns, 1 of the slices
    assert torch.equal(blocks[1, 1, :, 1, 0], corner.flatten())
    assert torch.equal(unfold(blocks, block), field)
