import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.experiments.quality.runs_unet import WindowUNet

SPACE = LabelSpace({"task": ("motor", "wm")})
WINDOW = (4, 2, 5, 6, 7)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = WindowUNet(SPACE, 3, WINDOW, 60_000)
    for parameter in network.parameters():  # MONAI begins with zeros at the end
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, *WINDOW, generator=generator)
    labels = {
        "task": torch.tensor([0, 1]), "design": torch.randn(2, 4, 3, generator=generator),
        "given": torch.zeros_like(latents), "known": torch.zeros(2, 4),
    }  # fmt: skip
    return latents, torch.tensor([300.0, 600.0]), labels


@torch.no_grad()
def test_it_has_the_shape_of_the_hybrid_and_hears_of_everything(network):
    latents, time, labels = inputs()
    usual = network(latents, time, labels)
    assert usual.shape == latents.shape
    assert 20_000 < sum(p.numel() for p in network.parameters()) < 180_000
    for name, other in (
        ("task", torch.tensor([1, 1])),
        ("design", labels["design"] + 1),
        ("given", labels["given"] + 1),
        ("known", labels["known"] + 1),
    ):
        assert not torch.allclose(network(latents, time, labels | {name: other})[0], usual[0])
    assert not torch.allclose(network(latents, time + 300, labels), usual)


@torch.no_grad()
def test_dropped_labels_leave_no_trace(network):
    latents, time, labels = inputs()
    first = network.drop(labels, torch.tensor([True, True]))
    changed = labels | {"task": torch.tensor([1, 0]), "design": labels["design"] + 5}
    second = network.drop(changed, torch.tensor([True, True]))
    assert torch.allclose(network(latents, time, first), network(latents, time, second))
