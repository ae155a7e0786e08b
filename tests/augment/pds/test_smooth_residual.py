import pytest
import torch

from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.smooth_fields import along
from neuromix.augment.pds.smooth_residual import SmoothResidual

SHAPE = (16, 16, 16)
SEGMENTS = 3


def blur(side, width=1.5):
    place = torch.arange(side, dtype=torch.float32)
    matrix = torch.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return matrix / matrix.square().sum(1).mean().sqrt()


def population(count, seed):
    """A smooth field that segments share, white noise, and more of both towards one side."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, 1, *SHAPE, generator=generator)
    smooth = along(shared, [blur(side) for side in SHAPE])
    field = smooth + 0.5 * torch.randn(count, SEGMENTS, *SHAPE, generator=generator)
    return field * torch.linspace(1, 2, SHAPE[0])[:, None, None]


def brain(count):
    inside = torch.zeros(count, 1, *SHAPE)
    inside[:, :, 2:14, 2:14, 2:14] = 1
    return inside


def measure(field):
    """Deviation on both sides, correlation of segments, and of neighbours in their mean."""
    field = field[:, :, 3:13, 3:13, 3:13]
    one, two = field[:, 0].flatten(), field[:, 1].flatten()
    mean = field.mean(1)
    near = torch.corrcoef(torch.stack([mean[:, 1:].flatten(), mean[:, :-1].flatten()]))[0, 1]
    sides = field[:, :, :5].std(), field[:, :, 5:].std()
    return torch.tensor([*sides, torch.corrcoef(torch.stack([one, two]))[0, 1], near])


@pytest.fixture(scope="module")
def fitted():
    residual = SmoothResidual(2, SEGMENTS, SHAPE)
    train, inside = population(60, 0) * brain(60), brain(60)
    residual.fit(1, lambda: [(train[:30], inside[:30]), (train[30:], inside[30:])])
    return residual


ONE = torch.ones(24, dtype=torch.int64)


def test_waves_are_an_orthonormal_map(fitted):
    field = torch.randn(2, SEGMENTS, *SHAPE)
    waves = fitted.to_waves(field, ONE[:2])
    torch.testing.assert_close(fitted.from_waves(waves, ONE[:2]), field, atol=1e-4, rtol=0)
    assert waves.square().sum() == pytest.approx(float(field.square().sum()), rel=1e-4)


def test_the_flow_draws_fields_like_those_of_new_subjects(fitted):
    z = torch.randn(24, SEGMENTS, *SHAPE, generator=torch.Generator().manual_seed(3))
    scheduler = FlowMultistepScheduler()
    scheduler.set_timesteps(10)
    for time in scheduler.timesteps:
        velocity, _ = fitted.velocity(z, (time / 1000).expand(24), ONE)
        z = scheduler.step(velocity, time, z).prev_sample
    made = measure(fitted.deviation[1] * z)
    torch.testing.assert_close(made, measure(population(60, 5)), atol=0.06, rtol=0.06)
    white = torch.randn(24, SEGMENTS, *SHAPE, generator=torch.Generator().manual_seed(4))
    coloured = measure(fitted.deviation[1] * fitted.colour(white, ONE))
    torch.testing.assert_close(made, coloured, atol=0.08, rtol=0.08)


def test_the_velocity_is_the_expected_one(fitted):
    """Of new subjects: neither a larger nor a smaller velocity would be nearer."""
    clean = population(24, 7) / fitted.deviation[1]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(8))
    for t in (0.2, 0.5, 0.8, 0.99):
        noisy = (1 - t) * clean + t * noise
        velocity, guess = fitted.velocity(noisy, torch.full((24,), t), ONE)
        inside = (..., *[slice(3, 13)] * 3)
        rest, velocity = (noise - clean - velocity)[inside], velocity[inside]
        assert abs(float((rest * velocity).sum() / velocity.square().sum())) < 0.05
        assert (guess - clean)[inside].square().mean() < clean[inside].square().mean()


def test_a_field_goes_on_outside_the_brain_as_it_is_inside(fitted):
    field, inside = population(24, 9) / fitted.deviation[1], brain(24)
    white = torch.randn(field.shape, generator=torch.Generator().manual_seed(1))
    filled = fitted.fill(field * inside, inside, white, ONE)
    torch.testing.assert_close(filled * inside, field * inside)
    rim = (slice(None), slice(None), slice(None), slice(4, 12), slice(4, 12))
    mean = filled.mean(1)
    across = torch.corrcoef(torch.stack([mean[:, 2, 4:12, 4:12].flatten(),
                                         mean[:, 1, 4:12, 4:12].flatten()]))[0, 1]  # fmt: skip
    within = measure(field)[3]
    assert across == pytest.approx(float(within), abs=0.12)
    assert filled[rim][:, :, :2].std() == pytest.approx(1, abs=0.15)


def test_inflation_widens_it():
    residual = SmoothResidual(1, SEGMENTS, SHAPE)
    train, inside = population(20, 0) * brain(20), brain(20)
    residual.fit(0, lambda: [(train, inside)])
    before = residual.deviation.clone()
    residual.fit(0, lambda: [(train, inside)], inflation=1.5)
    torch.testing.assert_close(residual.deviation, 1.5 * before)
    assert residual.power.mean() == pytest.approx(1, rel=1e-3)
