import pytest
import torch

from augment.conditions import LabelSpace
from augment.nn.gaussian_start import GaussianStart
from augment.nn.slice_basis import SliceBasis
from augment.samplers.flow import FlowMultistepScheduler
from augment.tiling import Tiling

SHAPE = (16, 16, 3)
SPACE = LabelSpace({"sex": ("F", "M")}, {"age": (60.0, 80.0)})


def codes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "sex": torch.randint(2, (count,), generator=generator),
        "age": torch.rand(count, generator=generator),
    }


def population(labels, seed=0):
    """Normal volumes: one pattern that spans them, a mean that follows the labels, noise."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    effect = torch.zeros(SHAPE)
    effect[4:12, 4:12, 1] = 1.0
    count = len(labels["sex"])
    strength = torch.randn(count, generator=generator)
    volumes = 2 + torch.einsum("n,xyz->nxyz", strength, pattern)
    volumes += torch.einsum("n,xyz->nxyz", labels["sex"].float(), effect)
    volumes += 0.2 * torch.randn(volumes.shape, generator=generator)
    return volumes[:, None]


@pytest.fixture(scope="module")
def fitted():
    labels = codes(300)
    volumes = population(labels)
    codec = SliceBasis.fit(lambda: volumes.split(100), Tiling(SHAPE, "axial"), factor=8)
    dit = {
        "label_space": SPACE.to_dict(),
        "tiling": codec.tiling.to_dict(),
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
    }
    start = GaussianStart(dit=dit, channels=64, pixels=64, rank=4)
    start.fit(codec, codec.encode(volumes).numpy(), labels)
    return codec, start


@torch.no_grad()
def draw(codec, start, labels, seed=0):
    scheduler = FlowMultistepScheduler()
    scheduler.set_timesteps(20)
    count = len(labels["sex"])
    latents = torch.randn(count, *start.latent_shape, generator=torch.Generator().manual_seed(seed))
    for time in scheduler.timesteps:
        latents = scheduler.step(start(latents, time.expand(count), labels), time, latents)[0]
    return codec.decode(latents * codec.mask)[:, 0]


def test_untrained_it_draws_from_the_gaussian(fitted):
    labels = codes(300, seed=1)
    real, made = population(labels, seed=2)[:, 0], draw(*fitted, labels)
    torch.testing.assert_close(made.mean(0), real.mean(0), atol=0.3, rtol=0)
    assert (made.std(0) / real.std(0)).mean() == pytest.approx(1, abs=0.05)
    # One pattern spans the volume: its share of the variance is the largest eigenvalue's.
    shares = [
        torch.linalg.eigvalsh(torch.cov(v.flatten(1).T))[-1] / v.var(0).sum() for v in (real, made)
    ]
    assert shares[1] == pytest.approx(float(shares[0]), abs=0.05)


def test_untrained_it_follows_labels(fitted):
    labels = {"sex": torch.tensor([0] * 40 + [1] * 40), "age": torch.full((80,), 0.5)}
    made = draw(*fitted, labels)[:, 4:12, 4:12]
    difference = made[40:].mean((0, 1, 2)) - made[:40].mean((0, 1, 2))
    assert difference[1] == pytest.approx(1, abs=0.25)
    assert difference[0] == pytest.approx(0, abs=0.25)


def test_labels_that_are_missing_give_the_mean(fitted):
    _, start = fitted
    missing = {"sex": torch.tensor([2]), "age": torch.tensor([torch.nan])}
    assert not start._centred(missing).any()


def test_the_gaussian_velocity_is_the_expected_one(fitted):
    """Of new subjects: neither a larger nor a smaller velocity would be nearer."""
    codec, start = fitted
    labels = codes(300, seed=1)
    clean = codec.encode(population(labels, seed=2))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    for t in (0.2, 0.5, 0.8, 0.99):
        with torch.no_grad():
            velocity = start((1 - t) * clean + t * noise, torch.full((300,), 1000 * t), labels)
        target = noise - clean
        slope = ((target - velocity) * velocity).sum() / velocity.square().sum()
        assert abs(slope) < 0.03


def test_the_network_adds_to_it_and_learns(fitted):
    _, start = fitted
    labels = codes(2)
    latents = torch.randn(2, *start.latent_shape)
    start(latents, torch.full((2,), 500.0), labels).square().mean().backward()
    gradient = start.network.proj_out_2.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_it_reloads_as_it_was(fitted, tmp_path):
    _, start = fitted
    start.save_pretrained(tmp_path)
    again = GaussianStart.from_pretrained(tmp_path)
    latents, time = torch.randn(1, *start.latent_shape), torch.tensor([300.0])
    labels = codes(1)
    with torch.no_grad():
        torch.testing.assert_close(again(latents, time, labels), start(latents, time, labels))
