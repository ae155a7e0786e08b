import numpy as np
import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.prior import Prior
from neuromix.augment.errors import InputError
from neuromix.augment.pds.images import Images, Samples, Usual, largest
from neuromix.augment.pds.joint import JointDenoiser, JointFlow, name_of

GRID = Grid((6, 7, 5), np.diag([12.0, 12.0, 12.0, 1.0]))
SPACE = LabelSpace({"diagnosis": ("NC", "AD")})
PRIOR = {
    "shape": [16, 8, 8], "spacing": [12.0, 12.0, 12.0], "context": 5, "reach": [1, 1, 1],
    "cell": [4, 4, 4],
}  # fmt: skip
NETWORK = {"depth": 4, "width": 8, "blocks": 1, "layers": 1, "heads": 2, "token": 4}


NAMES = ("fmri", "dmri")
BOTH = [(0, (1,)), (1, (0,))]


def new(names=NAMES, segments=2, patterns=BOTH, blind=False):
    torch.manual_seed(0)
    count = len(names)
    channels = 1 if blind else 2 + (count - 1) * (2 + (segments > 1))
    prior = PRIOR | {"context": channels, "shape": [8 * segments, 8, 8]}
    model = JointDenoiser(
        label_space=SPACE.to_dict(), grid=GRID.to_dict(), images=names, segments=segments,
        source_blind=blind, multiples=[4, 4, 4],
        prior_settings={name_of(names, each): prior for each in patterns},
        network_settings=NETWORK,
    )  # fmt: skip
    shared = torch.eye(segments) + 0.5
    mean = torch.rand(count, segments, *GRID.shape)
    model.learn(
        Usual(
            mean, torch.linspace(0.5, 2.0, count), torch.zeros(count, 2),
            shared.expand(count, -1, -1), torch.ones(count, *GRID.shape),
        )
    )  # fmt: skip
    return model


def people(count=2, images=2, segments=2):
    generator = torch.Generator().manual_seed(1)
    volumes = torch.rand(count, images, segments, *GRID.shape, generator=generator) + 0.1
    volumes[..., :2] = 0
    return volumes


@pytest.mark.parametrize("pattern", BOTH)
def test_latents_become_the_image_again_and_noise_stays_white(pattern):
    model, volumes = new(), people()
    target = volumes[:, pattern[0]]
    latents = model.encode(target, model.support(volumes, pattern), pattern[0])
    assert latents.shape == (2, *model.latent_shape) == (2, 16, 8, 8)
    assert torch.allclose(model.decode(latents, volumes, pattern), target, atol=1e-5)
    turned = model.mixing[pattern[0]] @ model.mixing[pattern[0]].T
    assert torch.allclose(turned, torch.eye(2), atol=1e-5)


def test_one_network_serves_all_and_is_saved_once(tmp_path):
    model = new()
    keys = [key for key in model.state_dict() if "head.weight" in key]
    assert keys == ["network.head.weight"]
    torch.nn.init.normal_(model.network.head.weight)
    model.save_pretrained(tmp_path)
    again = JointDenoiser.from_pretrained(tmp_path)
    x, t = torch.randn(1, *model.latent_shape), torch.tensor([500.0])
    labels = {"diagnosis": torch.tensor([1])}
    for pattern in BOTH:
        known = {**model.conditions(people(1), pattern), **labels}
        made = model(x, t, known, pattern)
        assert torch.equal(again(x, t, known, pattern), made)
        bare = {**known, "parameters": 1 - known["parameters"]}
        torch.nn.init.normal_(model.network.before[0].modulation.weight)
        torch.nn.init.normal_(model.network.before[0].conv_2.weight)
        assert not torch.equal(model(x, t, bare, pattern), model(x, t, known, pattern))
        model = JointDenoiser.from_pretrained(tmp_path)


def test_a_batch_holds_all_patterns():
    model = new()
    torch.nn.init.normal_(model.network.head.weight)
    objective = JointFlow(model, {name: [Prior(**PRIOR)] for name in model.denoisers}, 0.0)
    rows = []
    for pattern in BOTH:
        volumes = people(1)
        target = volumes[:, pattern[0]]
        rows.append({
            "latents": model.encode(target, model.support(volumes, pattern), pattern[0]),
            **model.conditions(volumes, pattern), "fold": torch.tensor([0]),
            "direction": torch.tensor([pattern[0]]),
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


MAPS = ("t1", "fa", "md")
SEVERAL = [(1, (0, 2)), (1, (0,)), (0, (1,))]


def test_a_source_that_is_lacking_is_not_looked_at():
    model, volumes = new(MAPS, 1, SEVERAL), people(1, 3, 1)
    other = volumes.clone()
    other[:, 2] = 5.0
    alone, both = ([model.conditions(v, each) for v in (volumes, other)] for each in
                   ((1, (0,)), (1, (0, 2))))  # fmt: skip
    assert torch.equal(alone[0]["context"], alone[1]["context"])
    assert not torch.equal(both[0]["context"], both[1]["context"])
    assert alone[0]["parameters"].tolist() == [[0, 1, 0, 1, 0, 0]]
    assert both[0]["parameters"].tolist() == [[0, 1, 0, 1, 0, 1]]
    target = other.clone()
    target[:, 1] = 7.0  # what is to be filled in is not looked at
    assert torch.equal(model.conditions(target, (1, (0, 2)))["context"], both[1]["context"])


def test_the_pattern_with_most_sources_is_taken():
    model = new(MAPS, 1, SEVERAL)
    assert model.pattern(1, [0, 2]) == (1, (0, 2))
    assert model.pattern(1, [0]) == (1, (0,))
    assert model.pattern(0, [1, 2]) == (0, (1,))
    with pytest.raises(InputError, match="md can't be filled in from t1, fa; what was learned is"):
        model.pattern(2, [0, 1])
    assert largest(SEVERAL, 1, [2]) is None


class Some(Images):
    def __init__(self, there):
        self.there = np.array(there, bool)
        self.array = np.zeros((len(there), 3, 1, *GRID.shape), np.float32)
        self.rows = [{} for _ in there]


def test_samples_show_sources_at_random():
    images = Some([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 1, 1]])
    data = Samples(
        images, SEVERAL, LabelSpace({}), lambda volumes, pattern, row: {"row": torch.tensor([row])}
    )
    # The last one lacks what fa could be learned from, and the third has fa alone.
    assert data.items == [(0, (0, (1,))), (0, (1, (0, 2))), (1, (0, (1,))), (1, (1, (0,)))]
    shown = []
    data.encode = lambda volumes, pattern, row: shown.append(pattern) or {"x": torch.zeros(1)}
    data.batch([1] * 200, [torch.Generator().manual_seed(k) for k in range(200)])
    counts = {each: shown.count(each) for each in set(shown)}
    assert set(counts) == {(1, (0, 2)), (1, (0,)), (1, (2,))}
    assert 90 < counts[1, (0, 2)] < 150
