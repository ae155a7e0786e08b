import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.pds.published.system import PublishedPDS, Refinement, SemanticConsistency

GRID = Grid.mni(12.0)
SEGMENTS = 2


def new(pattern=True, refinement=True):
    torch.manual_seed(0)
    return PublishedPDS(
        label_space=LabelSpace({"diagnosis": ("NC", "AD")}).to_dict(), grid=GRID.to_dict(),
        segments=SEGMENTS, source_blind=False, refinement=refinement, pattern=pattern, widths=[8],
        patch=4, heads=2, refiner_width=8, refiner_blocks=1,
    )  # fmt: skip


ALPHAS = torch.linspace(0.99, 0.01, 10)


def generators(count=2):
    return [torch.Generator().manual_seed(k) for k in range(count)]


def batch(model, count=2):
    generator = torch.Generator().manual_seed(5)
    both = torch.randn(count, 2, SEGMENTS, *GRID.shape, generator=generator)
    return {
        "latents": both[:, 0], **model.conditions(both, (0, (1,))),
        "direction": torch.tensor([0, 1]), "labels": {"diagnosis": torch.tensor([0, 1])},
    }  # fmt: skip


def test_pdm_alone_is_trained():
    model = new(refinement=False)
    objective = SemanticConsistency(model, 0.5, ALPHAS)
    torch.nn.init.normal_(model.network.head.weight, std=0.1)
    objective.loss("network", batch(model), generators()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.parameters())


def test_labels_are_dropped_all_at_once():
    model = new()
    seen = []

    def spy(noisy, known, time, direction, labels):
        seen.append(labels["diagnosis"])
        return torch.zeros_like(noisy[:, :SEGMENTS])

    for dropout, expected in ((1.0, [2, 2]), (0.0, [0, 1])):
        objective = SemanticConsistency(model, dropout, ALPHAS)
        objective.networks["network"] = spy
        objective.loss("network", batch(model), generators())
        assert seen[-1].tolist() == expected


def test_errors_where_the_disease_shows_weigh_more():
    model = new()
    model.atlas.weights[40] = 50.0
    support = torch.ones(1, 1, *GRID.shape)
    here, there = (model.atlas.regions[k].expand(1, SEGMENTS, *GRID.shape) for k in (40, 120))
    plain = new(pattern=False)

    def ratio(judge):
        return judge.semantic(here, support) / judge.semantic(there, support)

    assert ratio(model) > 2 * ratio(plain)


def test_the_second_stage_sees_edges_and_contrasts_of_segments():
    model = new(pattern=False)
    shape = (1, SEGMENTS, 6, 6, 6)
    part = {
        "latents": torch.zeros(shape), "known": torch.ones(1, 1 + SEGMENTS, 6, 6, 6),
        "direction": torch.tensor([0]),
    }  # fmt: skip
    flat = torch.full(shape, 0.5)
    contrast = flat * torch.tensor([1.0, -1.0])[:, None, None, None]
    checkered = flat * (torch.arange(6) % 2 * 2 - 1.0)

    def loss(estimate, microstructure=0.3):
        objective = Refinement(model, microstructure)
        return objective.loss("refiner", part | {"estimate": estimate}, generators(1)).item()

    for estimate, more in ((flat, 0.0), (contrast, 0.3 * 0.5), (checkered, 0.1 / 3)):
        assert loss(estimate) - 0.25 == pytest.approx(more, rel=1e-4, abs=1e-6)
    assert loss(contrast, 0.0) == pytest.approx(loss(flat, 0.0))
