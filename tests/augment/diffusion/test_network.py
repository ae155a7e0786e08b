import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.network import HybridNet

SPACE = LabelSpace({"sex": ("F", "M")}, {"age": (20.0, 90.0)})
SHAPE = (4, 16, 24)
LABELS = {"sex": torch.tensor([0, 2]), "age": torch.tensor([0.3, torch.nan])}


def network(**changes):
    torch.manual_seed(0)
    settings = {"depth": 2, "width": 16, "blocks": 1, "layers": 1, "heads": 2, "token": 8}
    return HybridNet(SPACE, SHAPE, 3, 5, **settings | changes)


def awake(net):
    """The same with every parameter away from zero."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return net


def run(net, volumes=None, time=400.0, labels=LABELS, parameters=None):
    volumes = torch.randn(2, 3, *SHAPE) if volumes is None else volumes
    parameters = torch.zeros(2, 5) if parameters is None else parameters
    return net(volumes, torch.full((2,), time), labels, parameters)


@pytest.mark.parametrize("changes", [{}, {"depth": 1}, {"depth": 4}, {"layers": 0}, {"blocks": 0}])
def test_it_answers_zero_at_the_start_and_learns(changes):
    net = network(**changes)
    assert torch.equal(run(net), torch.zeros(2, *SHAPE))
    awake(net)
    answer = run(net)
    assert answer.shape == (2, *SHAPE) and answer.abs().mean() > 0
    answer.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_time_labels_and_augmentation_are_conditions():
    net, volumes = awake(network()), torch.randn(2, 3, *SHAPE)
    before = run(net, volumes)
    others = {"sex": torch.tensor([1, 2]), "age": LABELS["age"]}
    assert (run(net, volumes, time=700.0) != before).any()
    assert (run(net, volumes, parameters=torch.ones(2, 5)) != before).any()
    changed = run(net, volumes, labels=others)
    assert (changed[0] != before[0]).any() and torch.equal(changed[1], before[1])


@pytest.mark.parametrize(("layers", "reaches"), [(0, False), (1, True)])
def test_tokens_alone_carry_from_tile_to_tile(layers, reaches):
    net, volumes = awake(network(layers=layers)), torch.randn(2, 3, *SHAPE)
    before = run(net, volumes)
    volumes[:, :, 3] += 1  # of the second tile
    assert (run(net, volumes)[:, :2] != before[:, :2]).any().item() is reaches
