import numpy as np
import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.prior import Prior
from neuromix.augment.pds.both_ways import BothWays, PairDenoiser
from neuromix.augment.pds.pairs import Usual, support_of

GRID = Grid((6, 7, 5), np.diag([12.0, 12.0, 12.0, 1.0]))
SPACE = LabelSpace({"diagnosis": ("NC", "AD")})
PRIOR = {
    "shape": [16, 8, 8], "spacing": [12.0, 12.0, 12.0], "context": 5, "reach": [1, 1, 1],
    "cell": [4, 4, 4],
}  # fmt: skip
NETWORK = {"depth": 4, "width": 8, "blocks": 1, "layers": 1, "heads": 2, "token": 4}


def new():
    torch.manual_seed(0)
    model = PairDenoiser(
        label_space=SPACE.to_dict(), grid=GRID.to_dict(), segments=2, source_blind=False,
        multiples=[4, 4, 4], prior_settings={"fmri": PRIOR, "dmri": PRIOR},
        network_settings=NETWORK,
    )  # fmt: skip
    shared = torch.tensor([[1.0, 0.5], [0.5, 2.0]]).expand(2, 2, 2)
    mean = torch.rand(2, 2, *GRID.shape)
    model.learn(
        Usual(mean, torch.tensor([0.5, 2.0]), torch.zeros(2, 2), shared, torch.ones(2, *GRID.shape))
    )
    return model


def pairs(count=2):
    volumes = torch.rand(count, 2, 2, *GRID.shape, generator=torch.Generator().manual_seed(1)) + 0.1
    volumes[..., :2] = 0
    return volumes


@pytest.mark.parametrize("direction", [0, 1])
def test_latents_become_the_image_again_and_noise_stays_white(direction):
    model, source, target = new(), pairs()[:, 1 - direction], pairs()[:, direction]
    latents = model.encode(target, support_of(source), direction)
    assert latents.shape == (2, *model.latent_shape) == (2, 16, 8, 8)
    assert torch.allclose(model.decode(latents, source, direction), target, atol=1e-5)
    turned = model.mixing[direction] @ model.mixing[direction].T
    assert torch.allclose(turned, torch.eye(2), atol=1e-5)


def test_one_network_serves_both_and_is_saved_once(tmp_path):
    model = new()
    keys = [key for key in model.state_dict() if "head.weight" in key]
    assert keys == ["network.head.weight"]
    torch.nn.init.normal_(model.network.head.weight)
    model.save_pretrained(tmp_path)
    again = PairDenoiser.from_pretrained(tmp_path)
    x, t = torch.randn(1, *model.latent_shape), torch.tensor([500.0])
    labels = {"diagnosis": torch.tensor([1])}
    made = []
    for direction in (0, 1):
        known = {**model.conditions(pairs(1)[:, 0], direction), **labels}
        made.append(model(x, t, known, direction))
        assert torch.equal(again(x, t, known, direction), made[-1])
        bare = {**known, "parameters": -known["parameters"]}
        torch.nn.init.normal_(model.network.before[0].modulation.weight)
        torch.nn.init.normal_(model.network.before[0].conv_2.weight)
        assert not torch.equal(model(x, t, bare, direction), model(x, t, known, direction))
        model = PairDenoiser.from_pretrained(tmp_path)


def test_a_batch_holds_both_directions():
    model = new()
    torch.nn.init.normal_(model.network.head.weight)
    objective = BothWays(model, {want: [Prior(**PRIOR)] for want in ("fmri", "dmri")}, 0.0)
    rows = []
    for direction in (0, 1):
        pair = pairs(1)
        source, target = pair[:, 1 - direction], pair[:, direction]
        rows.append({
            "latents": model.encode(target, support_of(source), direction),
            **model.conditions(source, direction), "fold": torch.tensor([0]),
            "direction": torch.tensor([direction]),
        })  # fmt: skip
    labels = {"diagnosis": torch.tensor([0])}

    def loss(parts, seeds):
        batch = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        batch["labels"] = {"diagnosis": labels["diagnosis"].repeat(len(parts))}
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return objective.loss("network", batch, generators)

    both = loss(rows, [3, 4])
    one, other = loss(rows[:1], [3]), loss(rows[1:], [4])
    assert both.item() == pytest.approx((one + other).item() / 2, rel=1e-5)
    both.backward()
    assert model.network.stem.weight.grad is not None
