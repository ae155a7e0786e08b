import itertools

import numpy as np
import pytest
import torch

from neuromix.classifiers.networks import NETWORKS, ImageTowers, ordinal


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(24, 32, 16), (17, 20, 17)])
def test_networks_take_any_volume_and_train_every_weight(name, shape):
    torch.manual_seed(0)
    network = NETWORKS[name](2, 3)
    logits = network(torch.randn(2, 2, *shape))
    assert logits.shape == (2, 3)
    logits.logsumexp(1).sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())
    parts = {weight.split(".")[0] for weight in network.state_dict()}
    assert parts == {"features", "head"}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_save_and_load_equal_and_stand_low_precision(name):
    torch.manual_seed(0)
    network, other = NETWORKS[name](1, 2).eval(), NETWORKS[name](1, 2).eval()
    x = torch.randn(2, 1, 24, 24, 24)
    assert not torch.equal(network(x), other(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(x), other(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(network(x).float(), other(x).float(), atol=0.1)


def test_towers_add_up_what_is_present():
    torch.manual_seed(0)
    towers = ImageTowers("compact", {"fmri": 2, "dmri": 3}, 2).eval()
    fmri, dmri = torch.randn(3, 2, 16, 16, 16), torch.randn(3, 3, 16, 16, 16)
    alone = [towers.towers["fmri"](fmri), towers.towers["dmri"](dmri)]
    present = torch.tensor([[True, True], [True, False], [False, True]])
    logits = towers(present, fmri=fmri, dmri=dmri)
    expected = torch.stack([alone[0][0] + alone[1][0], alone[0][1], alone[1][2]])
    torch.testing.assert_close(logits, expected)
    dmri[1] = 1e6  # a placeholder may hold anything
    torch.testing.assert_close(towers(present, fmri=fmri, dmri=dmri), logits)


def test_towers_train_with_a_lone_volume():
    towers = ImageTowers("sfcn", {"fmri": 1, "dmri": 1}, 2).train()
    x = torch.randn(2, 1, 16, 16, 16)
    towers(torch.tensor([[True, True], [True, False]]), fmri=x, dmri=x).sum().backward()
    grads = [weight.grad for weight in towers.towers["dmri"].parameters()]
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_ordinal_outputs_are_log_probabilities_that_move_in_order():
    torch.manual_seed(0)
    outputs = 2 * torch.randn(200, 3)
    probabilities = ordinal(outputs).exp()
    assert probabilities.shape == (200, 4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(200))
    limits = outputs[:, 0], outputs[:, 0] - torch.nn.functional.softplus(outputs[:, 1])
    beyond = [limit.sigmoid() for limit in limits]
    torch.testing.assert_close(probabilities[:, 0], 1 - beyond[0])
    torch.testing.assert_close(probabilities[:, 1], beyond[0] - beyond[1], atol=1e-3, rtol=0)
    means = [
        float((ordinal(torch.tensor([[z, 0.5, 0.5]])).exp() * torch.arange(4)).sum())
        for z in np.linspace(-6, 6, 7)
    ]
    assert all(low < high for low, high in itertools.pairwise(means))


def test_ordinal_outputs_stay_finite():
    outputs = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    logs = ordinal(outputs)
    assert torch.isfinite(logs).all()
    logs.sum().backward()
    assert torch.isfinite(outputs.grad).all()
