import math
from dataclasses import replace

import pytest
import torch
from training import CONFIG, SPACE, Samples, toy

from neuromix.augment.diffusion.loop import sample_generators, train
from neuromix.augment.diffusion.objectives import Autoencoding, FlowMatching, NoisePrediction
from neuromix.augment.tiled.mosaic import Tiling
from neuromix.augment.tiled.published.slice_autoencoder import SliceAutoencoder


class Oracle(torch.nn.Module):
    """Knows the one sample there is, so that it can undo any noise."""

    label_space = SPACE

    def __init__(self, clean, answer):
        super().__init__()
        self.clean, self.answer = clean, answer

    def forward(self, noisy, time, labels):
        return self.answer(self.clean, noisy, time)


def batch(count=4, seed=0):
    generators = sample_generators(seed, 9, range(count))
    return Samples(10).batch(range(count), generators)


def velocity(clean, noisy, time):
    t = (time / 1000).reshape(-1, 1, 1, 1)
    return (noisy - clean) / t


def test_the_true_velocity_has_no_loss():
    samples = batch()
    objective = FlowMatching(Oracle(samples["latents"], velocity))
    loss = objective.loss("network", samples, sample_generators(0, 0, range(4)))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_the_true_noise_has_no_loss_and_errors_are_weighted_by_snr():
    samples = batch(1)
    alphas = torch.linspace(0.999, 0.001, 50)

    def noise(clean, noisy, index):
        a = alphas[index].reshape(-1, 1, 1, 1)
        return (noisy - a.sqrt() * clean) / (1 - a).sqrt()

    generators = sample_generators(0, 0, [0])
    exact = NoisePrediction(Oracle(samples["latents"], noise), alphas)
    assert exact.loss("network", samples, generators).item() == pytest.approx(0, abs=1e-6)
    asked = []

    def wrong(clean, noisy, index):
        asked.append(index)
        return noise(clean, noisy, index) + 1

    off = NoisePrediction(Oracle(samples["latents"], wrong), alphas)
    for seed in range(5):
        loss = off.loss("network", samples, sample_generators(seed, 0, [0])).item()
        a = alphas[asked[-1]].item()
        snr = a / (1 - a)
        assert loss == pytest.approx(min(snr, 5) / snr, rel=1e-4)


def test_a_loss_does_not_depend_on_the_batch():
    objective = FlowMatching(toy())
    samples = batch()
    together = objective.loss("network", samples, sample_generators(3, 0, range(4)))
    alone = [
        objective.loss(
            "network",
            {
                "latents": samples["latents"][k : k + 1],
                "labels": {"sex": samples["labels"]["sex"][k : k + 1]},
            },
            sample_generators(3, 0, [k]),
        )
        for k in range(4)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_labels_are_dropped_as_often_as_asked():
    seen = []

    def record(clean, noisy, time):
        return noisy

    class Recorder(Oracle):
        def forward(self, noisy, time, labels):
            seen.append(labels["sex"])
            return noisy

    samples = {"latents": torch.zeros(500, 1, 1, 1), "labels": {"sex": torch.zeros(500).long()}}
    objective = FlowMatching(Recorder(None, record), label_dropout=0.2)
    objective.loss("network", samples, sample_generators(0, 0, range(500)))
    assert (seen[0] == 2).float().mean().item() == pytest.approx(0.2, abs=0.05)


def test_a_mask_leaves_places_out():
    samples = batch()
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1

    def right_only_there(clean, noisy, time):
        return velocity(clean, noisy, time) + 100 * (1 - mask)

    masked = FlowMatching(Oracle(samples["latents"], right_only_there), mask=mask)
    generators = sample_generators(0, 0, range(4))
    assert masked.loss("network", samples, generators).item() == pytest.approx(0, abs=1e-6)


class Copier(torch.nn.Module):
    """An autoencoder that is wrong by what it is told."""

    def __init__(self, error=0.0, mean=0.0, logvar=0.0):
        super().__init__()
        self.error, self.mean, self.logvar = error, mean, logvar

    def forward(self, images, generators):
        code = torch.zeros(len(images), 3, 2, 2)
        return images, images + self.error, code + self.mean, code + self.logvar


IMAGES = {"images": torch.rand(4, 1, 6, 8, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Copier(), 0.0),
        (Copier(error=0.5), 0.5**2),
        (Copier(mean=2.0), 0.1 * 0.5 * 2.0**2),
        (Copier(logvar=-1.0), 0.1 * 0.5 * math.exp(-1.0)),
    ],
)
def test_autoencoding_weighs_errors_and_the_code(network, expected):
    objective = Autoencoding(network, kl=0.1)
    loss = objective.loss("autoencoder", IMAGES, sample_generators(0, 0, range(4)))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_few_steps_teach_an_autoencoder_its_slices(tmp_path):
    ramps = torch.arange(8, 16).view(-1, 1, 1, 1) / 8 * torch.linspace(0, 1, 16).expand(1, 16, 16)

    class Slices:
        def __len__(self):
            return len(ramps)

        def batch(self, indices, generators):
            return {"images": ramps[list(indices)]}

    torch.manual_seed(0)
    network = SliceAutoencoder.new(Tiling((16, 16, 1)), channels=4, widths=(8, 8), largest=3.2)

    @torch.no_grad()
    def error():
        seen, again, *_ = network(ramps, sample_generators(0, 0, range(8)))
        return (seen - again).abs().mean().item()

    before = error()
    config = replace(CONFIG, steps=20, ema_decay=0.5, checkpoint_every=20)
    train(Autoencoding(network), Slices(), config, tmp_path)
    assert error() < 0.5 * before
