import pytest
import torch

from neuromix.augment.data.grid import Grid
from neuromix.augment.pds.published.pattern import PatternModule

GRID = Grid.mni(12.0)


@pytest.fixture()
def module():
    return PatternModule(GRID.to_dict())


def test_weights_are_learnt_where_the_diagnosis_shows(module):
    generator = torch.Generator().manual_seed(0)
    signals = torch.randn(2, 60, 160, generator=generator)
    classes = ["NC", "MCI", "AD"] * 20
    signals[:, ::3, 7] += 2  # the controls differ in one region
    module.learn(signals, classes)
    assert module.weights.argmax() == 7
    assert module.weights.mean() == pytest.approx(1, rel=1e-4)
    assert module.weights.min() > 0
    peak = torch.unravel_index(module.map()[0, 0].argmax(), GRID.shape)
    assert module.regions[7][peak] > 0.5


@pytest.mark.parametrize("classes", [["NC"] * 60, [""] * 60, ["NC"] * 59 + ["AD"]])
def test_without_two_classes_all_regions_weigh_alike(module, classes):
    module.learn(torch.randn(2, 60, 160), classes)
    assert (module.weights == 1).all()


def test_missing_diagnoses_say_nothing(module):
    signals = torch.randn(2, 60, 160, generator=torch.Generator().manual_seed(0))
    other = PatternModule(GRID.to_dict())
    module.learn(signals, ["NC", "AD", ""] * 20)
    kept = [k for k in range(60) if k % 3 != 2]
    other.learn(signals[:, kept], ["NC", "AD"] * 20)
    assert torch.equal(module.weights, other.weights)


def test_an_error_of_a_whole_region_costs_more_than_one_that_cancels(module):
    support = torch.ones(1, 1, *GRID.shape)
    even = torch.ones(1, 2, *GRID.shape)
    signs = torch.randint(0, 2, even.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    assert module.region_error(even, support) == pytest.approx(1, rel=1e-3)
    assert module.region_error(signs, support) < 0.3
    # It costs more where the disease shows.
    here, there = module.regions[7].expand_as(even), module.regions[90].expand_as(even)
    module.weights[7] = 20
    assert module.region_error(here, support) > 3 * module.region_error(there, support)


def test_signals_are_those_of_the_region(module):
    volumes = torch.ones(1, 2, *GRID.shape) + 0.5 * module.regions[12]
    signals = module.signals(volumes, torch.ones(1, 1, *GRID.shape))
    assert signals.argmax() == 12
