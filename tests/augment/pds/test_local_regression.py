import pytest
import torch

from neuromix.augment.pds.local_regression import EXTRA, LocalRegression, features

SHAPE = (10, 9, 8)
SEGMENTS = 2


def support(count):
    inside = torch.zeros(count, 1, *SHAPE)
    inside[:, :, 1:-1, 1:-1, 1:-1] = 1
    return inside


def pairs(count, seed):
    """A target that is its source times a place's own factor, plus the next voxel along x."""
    generator = torch.Generator().manual_seed(seed)
    inside = support(count)
    source = torch.randn(count, SEGMENTS, *SHAPE, generator=generator) * inside
    factor = torch.linspace(0.5, 2, SHAPE[0])[:, None, None]
    target = 1 + factor * source + 0.5 * source.mean(1, keepdim=True).roll(-1, 2)
    return source, target * inside, inside


@pytest.fixture(scope="module")
def fitted():
    regression = LocalRegression(2, SEGMENTS, SHAPE, int(support(1).sum()))
    regression.cover(support(1)[0, 0] > 0)
    train = pairs(120, 0)
    regression.fit(1, lambda: [tuple(part[k : k + 60] for part in train) for k in (0, 60)])
    return regression


def test_it_finds_what_is_linear_in_the_neighbourhood(fitted):
    source, target, inside = pairs(20, 1)
    made = fitted(source, inside, 1)
    error = (made - target)[:, :, 2:-2, 2:-2, 2:-2].square().mean()
    assert error < 0.02 * target[:, :, 2:-2, 2:-2, 2:-2].var()
    assert not made[:, :, 0].any()


def test_a_direction_that_was_not_fitted_is_zero(fitted):
    source, _, inside = pairs(2, 1)
    assert not fitted(source, inside, 0).any()


def test_blind_it_is_the_mean_of_the_training_subjects():
    regression = LocalRegression(1, SEGMENTS, SHAPE, int(support(1).sum()))
    regression.cover(support(1)[0, 0] > 0)
    train = pairs(40, 0)
    regression.fit(0, lambda: [train], blind=True)
    source, _, inside = pairs(3, 1)
    made = regression(source, inside, 0)
    torch.testing.assert_close(made[0], made[1])
    torch.testing.assert_close(made[0], train[1].mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(regression.prior(0)[0], train[1].mean(0), atol=1e-5, rtol=0)


def test_subjects_without_a_voxel_say_nothing_of_it():
    source, target, inside = pairs(40, 0)
    # Half of them have no brain at the top, and garbage there.
    inside[:20, ..., -3:] = 0
    regression = LocalRegression(1, SEGMENTS, SHAPE, int((inside.amax((0, 1)) > 0).sum()))
    regression.cover(inside.amax((0, 1)) > 0)
    regression.fit(0, lambda: [(source * inside, target * inside, inside)], blind=True)
    expected = target[20:].mean(0)[..., -3]
    torch.testing.assert_close(regression.prior(0)[0, ..., -3], expected, atol=1e-5, rtol=0)


def test_features_are_as_many_as_told():
    source, _, inside = pairs(1, 0)
    assert features(source, inside).shape == (1, SEGMENTS + EXTRA, *SHAPE)
