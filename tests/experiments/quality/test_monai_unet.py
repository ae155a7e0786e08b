import json

import numpy as np
import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.diffusion.objectives import FlowMatching
from neuromix.experiments.quality.monai_unet import (
    Arrays,
    ConditionedUNet,
    VolumeUNet,
    closest_width,
    unet,
    weights_of,
)
from neuromix.experiments.quality.training_time import _pace

TRAINING = TrainConfig(batch_size=2, warmup=1, learning_rate=1e-3, ema_decay=0.5, log_every=1)
WINDOW = (4, 2, 5, 6, 7)


def begun(network):
    for parameter in network.parameters():  # MONAI begins with zeros at the end
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize("target", [3e6, 3e7])
def test_networks_of_a_wanted_size(target):
    width = closest_width(unet, range(4, 513), int(target))
    assert weights_of(unet(width)) == pytest.approx(target, rel=0.1)


@torch.no_grad()
def test_volumes_of_any_sides_follow_labels():
    torch.manual_seed(0)
    network = begun(ConditionedUNet(LabelSpace({"sex": ("F", "M")}), (1, 8, 9, 7), weights=1))
    noisy, time = torch.randn(1, 1, 8, 9, 7).expand(2, -1, -1, -1, -1), torch.full((2,), 500.0)
    velocity = network(noisy, time, {"sex": torch.tensor([0, 1])})
    assert velocity.shape == noisy.shape
    assert (velocity[0] - velocity[1]).abs().max() > 1e-5  # none at all, did it not listen


@pytest.fixture(scope="module")
def windows():
    torch.manual_seed(0)
    return begun(ConditionedUNet(
        LabelSpace({"task": ("motor", "wm")}), WINDOW, weights=60_000,
        beside={"given": 8, "known": 4}, design=12,
    ))  # fmt: skip


def inputs():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, *WINDOW, generator=generator)
    labels = {
        "task": torch.tensor([0, 1]), "design": torch.randn(2, 4, 3, generator=generator),
        "given": torch.zeros_like(latents), "known": torch.zeros(2, 4),
    }  # fmt: skip
    return latents, torch.tensor([300.0, 600.0]), labels


@torch.no_grad()
def test_windows_have_the_shape_of_the_hybrid_and_follow_every_condition(windows):
    latents, time, labels = inputs()
    usual = windows(latents, time, labels)
    assert usual.shape == latents.shape
    assert 20_000 < weights_of(windows) < 180_000
    for name, other in (
        ("task", torch.tensor([1, 1])),
        ("design", labels["design"] + 1),
        ("given", labels["given"] + 1),
        ("known", labels["known"] + 1),
    ):
        assert not torch.allclose(windows(latents, time, labels | {name: other})[0], usual[0])
    assert not torch.allclose(windows(latents, time + 300, labels), usual)


@torch.no_grad()
def test_dropped_labels_leave_no_trace(windows):
    latents, time, labels = inputs()
    first = windows.drop(labels, torch.tensor([True, True]))
    changed = labels | {"task": torch.tensor([1, 0]), "design": labels["design"] + 5}
    second = windows.drop(changed, torch.tensor([True, True]))
    assert torch.allclose(windows(latents, time, first), windows(latents, time, second))


def test_the_pace_changes_nothing():
    network = ConditionedUNet(LabelSpace(), (1, 8, 9, 7), weights=1)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    data = Arrays(torch.randn(4, 1, 8, 9, 7), {})
    assert _pace(FlowMatching(network), data, TRAINING) > 0
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_it_trains_once_for_its_time_and_depends_on_label_and_seed_alone(tmp_path, monkeypatch):
    volumes = np.random.default_rng(0).random((12, 8, 9, 7), np.float32)
    rows = [{"sex": "FM"[k % 2], "age": 60.0 + k, "subject_id": str(k)} for k in range(12)]

    def fit():
        return VolumeUNet(TRAINING, tmp_path, weights=1, seconds=0.0, steps=2).fit(volumes, rows)

    fitted = fit()
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert fitted.cost["training steps"] == plan["steps"] == 2  # no time is two steps
    assert plan["seconds_per_step"] > 0
    together = fitted.draw(rows[:5], [1, 2, 3, 4, 5])
    assert together.shape == (5, 8, 9, 7)
    assert np.array_equal(fitted.draw(rows[4:5], [5])[0], together[4])

    def refuse(*_):
        raise AssertionError("a finished training was run again")

    monkeypatch.setattr("neuromix.experiments.quality.training_time._pace", refuse)
    monkeypatch.setattr("neuromix.augment.diffusion.loop._Training._step", refuse)
    again = fit()
    assert np.array_equal(again.draw(rows[4:5], [5])[0], together[4])
    assert again.cost["training seconds"] == fitted.cost["training seconds"]


def test_without_noise_it_denoises_nothing_and_noise_is_told_from_the_image(tmp_path):
    volumes = np.random.default_rng(0).random((8, 8, 9, 7), np.float32)
    rows = [{"sex": "FM"[k % 2]} for k in range(8)]
    fitted = VolumeUNet(TRAINING, tmp_path, weights=1, seconds=0.0).fit(volumes, rows)
    assert np.allclose(fitted.denoise(volumes, 0 * volumes, 1e-9, rows), volumes, atol=1e-5)

    class Truth(torch.nn.Module):  # the velocity n - x of the flow, where x is 0 in its units
        device = torch.device("cpu")
        label_space = fitted.network_.label_space

        def forward(self, noisy, time, conditions):
            return noisy / (time / 1000)[:, None, None, None, None]

    fitted.network_ = Truth()
    noisy = fitted.scale_[0] + np.random.default_rng(1).standard_normal(volumes.shape)
    noisy = noisy.astype(np.float32)
    clean = fitted.denoise(noisy, 0 * noisy, 1.0, rows)
    assert np.allclose(clean, fitted.scale_[0], atol=1e-5)
