import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.pds.dual_modal import DualModalDiffusion
from neuromix.augment.pds.two_stage import Refinement, SemanticConsistency, semantic

GRID = Grid.mni(12.0)
SEGMENTS = 2


def new(pattern=True, start="gaussian", refine="mean"):
    torch.manual_seed(0)
    return DualModalDiffusion(
        label_space=LabelSpace({"diagnosis": ("NC", "AD")}).to_dict(), grid=GRID.to_dict(),
        modalities=["fmri", "dmri"], segments=SEGMENTS, voxels=50, start=start, refine=refine,
        pattern=pattern, source_blind=False, widths=[8], patch=4, heads=2, refiner_width=8,
        refiner_blocks=1,
    )  # fmt: skip


def generators(count=2):
    return [torch.Generator().manual_seed(k) for k in range(count)]


def batch(model, count=2):
    generator = torch.Generator().manual_seed(5)
    shape = (count, SEGMENTS, *GRID.shape)
    clean, source, mean = (torch.randn(shape, generator=generator) for _ in range(3))
    support = torch.ones(count, 1, *GRID.shape)
    support[..., 8:] = 0
    return {
        "latents": clean, "known": model.known(source, mean, support), "support": support,
        "direction": torch.tensor([0, 1]), "labels": {"diagnosis": torch.tensor([0, 1])},
    }  # fmt: skip


def test_of_a_white_field_the_closed_form_is_the_best_there_is():
    """The expected squared error of the velocity at t is then 1 / ((1 - t)² + t²)."""
    model = new(pattern=False)
    objective = SemanticConsistency(model, label_dropout=0.5)
    loss = float(objective.loss("network", batch(model), generators()).detach())
    normal = torch.stack([torch.randn((), generator=g) for g in generators()])
    t = (1.5 + 1.5 * normal).sigmoid()
    assert loss == pytest.approx(float((1 / ((1 - t) ** 2 + t**2)).mean()), rel=0.05)


@pytest.mark.parametrize("start", ["gaussian", "noise"])
def test_pdm_alone_is_trained(start):
    model = new(start=start, refine="none")
    alphas = torch.linspace(0.99, 0.01, 10) if start == "noise" else None
    objective = SemanticConsistency(model, 0.5, alphas)
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
        objective = SemanticConsistency(model, dropout)
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
        return semantic(judge, here, support) / semantic(judge, there, support)

    assert ratio(model) > 2 * ratio(plain)


def test_the_second_stage_sees_edges_and_contrasts_of_segments():
    model = new()
    shape = (1, SEGMENTS, 6, 6, 6)
    part = {
        "source": torch.zeros(shape), "target": torch.zeros(shape),
        "support": torch.ones(1, 1, 6, 6, 6),
        "average": torch.zeros(shape), "deviation": torch.ones(shape),
        "weight": torch.ones(1, 1, 6, 6, 6), "direction": torch.tensor([0]),
    }  # fmt: skip
    flat = torch.full(shape, 0.5)
    contrast = flat * torch.tensor([1.0, -1.0])[:, None, None, None]
    checkered = flat * (torch.arange(6) % 2 * 2 - 1.0)

    def loss(estimate, detail, microstructure=0.3):
        objective = Refinement(model, detail, microstructure)
        return float(
            objective.loss("refiner", part | {"estimate": estimate}, generators(1)).detach()
        )

    # In the first stage, an error of a whole box costs more than one that cancels.
    assert loss(flat, False) > 1.5 * loss(checkered, False)
    for estimate, more in ((flat, 0.0), (contrast, 0.3 * 0.5), (checkered, 0.1 / 3)):
        added = loss(estimate, True) - loss(estimate, False)
        assert added == pytest.approx(more, rel=1e-4, abs=1e-6)
    assert loss(contrast, True, 0.0) == pytest.approx(loss(contrast, False))
