import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.tiled.gaussian_start import GaussianStart
from neuromix.augment.tiled.mosaic import Tiling

TILING = Tiling((16, 16, 4), "axial")  # tiles in two rows
CHANNELS, SHAPE = 16, (16, 8, 8)  # of latents at a factor of four
SPACE = LabelSpace({"sex": ("F", "M")}, {"age": (60.0, 80.0)})
RANDOM = 0.3
"""Standard deviation of the random part of a code."""


def codes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "sex": torch.randint(2, (count,), generator=generator),
        "age": torch.rand(count, generator=generator),
    }


def population(labels, seed=0):
    """Normal latents: a pattern that spans them, a mean of zero plus what labels do, noise."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    strength = torch.randn(len(labels["sex"]), generator=generator)
    latents = torch.einsum("n,chw->nchw", strength, pattern)
    latents[:, :8, :4, 4:] += labels["sex"][:, None, None, None] - 0.5
    return latents + 0.4 * torch.randn(latents.shape, generator=generator)


def new(rank=4):
    dit = {
        "label_space": SPACE.to_dict(),
        "tiling": TILING.to_dict(),
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "latent_factor": 4,
    }
    return GaussianStart(dit=dit, channels=CHANNELS, rank=rank)


@pytest.fixture(scope="module")
def start():
    start, labels = new(), codes(300)
    mean = population(labels)
    start.fit(torch.stack([mean, torch.full_like(mean, RANDOM)], dim=1).numpy(), labels)
    return start


@torch.no_grad()
def draw(start, labels, seed=0):
    scheduler = FlowMultistepScheduler()
    scheduler.set_timesteps(20)
    count = len(labels["sex"])
    latents = torch.randn(count, *start.latent_shape, generator=torch.Generator().manual_seed(seed))
    for time in scheduler.timesteps:
        latents = scheduler.step(start(latents, time.expand(count), labels), time, latents)[0]
    return latents


def encoded(labels, seed):
    """What a training would see: the population, its random part drawn."""
    mean = population(labels, seed)
    return mean + RANDOM * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))


def test_untrained_it_draws_from_the_gaussian(start):
    labels = codes(300, seed=1)
    real, made = encoded(labels, seed=2), draw(start, labels)
    torch.testing.assert_close(made.mean(0), real.mean(0), atol=0.45, rtol=0)
    assert (made.std(0) / real.std(0)).mean() == pytest.approx(1, abs=0.05)
    # One pattern spans the mosaic: its share of the variance is the largest eigenvalue's.
    shares = [
        torch.linalg.eigvalsh(torch.cov(v.flatten(1).T))[-1] / v.var(0).sum() for v in (real, made)
    ]
    assert shares[1] == pytest.approx(float(shares[0]), abs=0.05)


def test_untrained_it_follows_labels(start):
    labels = {"sex": torch.tensor([0] * 40 + [1] * 40), "age": torch.full((80,), 0.5)}
    made = draw(start, labels)
    difference = (made[40:] - made[:40]).mean(0)
    assert difference[:8, :4, 4:].mean() == pytest.approx(1, abs=0.25)
    assert difference[8:].mean() == pytest.approx(0, abs=0.25)


def test_patterns_are_those_that_weigh_most():
    labels = codes(60)
    patterns = torch.zeros(2, *SHAPE)
    patterns[0, 0], patterns[1, 1] = 2.0, 0.5
    strengths = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    mean = torch.einsum("nk,kchw->nchw", strengths, patterns)
    latents = torch.stack([mean, torch.full_like(mean, RANDOM)], dim=1).numpy()
    scale = torch.tensor([0.1] + [10.0] * (CHANNELS - 1))[:, None, None]
    plain, weighed = new(rank=1), new(rank=1)
    plain.fit(latents, labels)
    weighed.fit(latents, labels, lambda latents: (scale * latents).flatten(1))
    for start, channel in ((plain, 0), (weighed, 1)):
        assert start.patterns.reshape(SHAPE).square().sum((1, 2)).argmax() == channel


def test_labels_that_are_missing_give_the_mean(start):
    missing = {"sex": torch.tensor([2]), "age": torch.tensor([torch.nan])}
    assert not start._centred(missing).any()


def test_the_gaussian_velocity_is_the_expected_one(start):
    """Of new subjects: neither a larger nor a smaller velocity would be nearer."""
    labels = codes(300, seed=1)
    clean = encoded(labels, seed=2)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    for t in (0.2, 0.5, 0.8, 0.99):
        with torch.no_grad():
            velocity = start((1 - t) * clean + t * noise, torch.full((300,), 1000 * t), labels)
        target = noise - clean
        slope = ((target - velocity) * velocity).sum() / velocity.square().sum()
        assert abs(slope) < 0.03


def test_the_network_adds_to_it_and_learns(start):
    labels = codes(2)
    latents = torch.randn(2, *start.latent_shape)
    start(latents, torch.full((2,), 500.0), labels).square().mean().backward()
    gradient = start.network.proj_out_2.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_it_reloads_as_it_was(start, tmp_path):
    start.save_pretrained(tmp_path)
    again = GaussianStart.from_pretrained(tmp_path)
    latents, time = torch.randn(1, *start.latent_shape), torch.tensor([300.0])
    labels = codes(1)
    with torch.no_grad():
        torch.testing.assert_close(again(latents, time, labels), start(latents, time, labels))
