import pytest
import torch

from neuromix.augment.diffusion.augmentation import PARAMETERS, SHIFT, STEP, augment, move


def blob():
    volume = torch.full((3, 32, 24), -1.0)
    volume[:, 10:20, 6:16] = 0.5
    return volume


def draws(contrast, count=40):
    return [augment(blob(), torch.Generator().manual_seed(k), 2 * contrast) for k in range(count)]


def test_half_stay_as_they_are_and_say_so():
    made = draws(contrast=False)
    same = [not parameters.any() for _, parameters in made]
    assert 12 <= sum(same) <= 28
    for (volume, _), unchanged in zip(made, same, strict=True):
        assert torch.equal(volume, blob()) is unchanged


@pytest.mark.parametrize("contrast", [True, False])
def test_background_stays_background_and_values_change_with_contrast_alone(contrast):
    for volume, parameters in draws(contrast):
        assert volume.shape == (3, 32, 24) and parameters.shape == (PARAMETERS,)
        assert volume.min() == -1
        assert (volume[1, 15, 11] == pytest.approx(0.5)) is not bool(contrast and parameters[6])
        assert volume[2, 15, 11] == pytest.approx(0.5)  # beyond the slices that it is for
        assert bool(parameters[6]) is (contrast and bool(parameters.any()))


def test_the_parameters_say_how_far_it_moved():
    rows = torch.arange(32)[:, None] + 0.5
    for volume, parameters in draws(contrast=False):
        weights = volume[0] + 1
        moved = ((weights * rows).sum() / weights.sum() - 15) / 32
        assert moved == pytest.approx(-float(SHIFT * parameters[4]), abs=0.03)


def test_it_follows_from_its_generator():
    one, other = draws(True, 3), draws(True, 3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_what_belongs_together_is_moved_together_in_whole_voxels():
    count = 60
    noise = torch.randn(count, 2, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(k) for k in range(count)]
    (made, half), moves = move((noise, noise[:, 0]), generators, -2)
    assert torch.equal(made[:, 0], half) and not torch.equal(made, noise)
    assert torch.equal(made.flatten(1).sort(1)[0], noise.flatten(1).sort(1)[0])
    for before, after, (mirrored, down, right) in zip(noise, made, moves.tolist(), strict=True):
        image = before.flip(-2) if mirrored else before
        shifts = (round(STEP * down), round(STEP * right))
        assert torch.equal(image.roll(shifts, (-2, -1)), after)
    assert 0.1 < (moves == 0).all(1).float().mean() < 0.45
    _, moves = move((noise,), generators, None)
    assert not moves[:, 0].any()
