import numpy as np
import pytest
import torch

from neuromix.augment.pds.images import Images
from neuromix.augment.pds.trust import FIGURES, doubts, figures, ranges


class Some(Images):
    """Ten people's balls of values around 1, whose size and brightness differ a little."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        place = torch.stack(torch.meshgrid(*[torch.arange(12.0) - 5.5] * 3, indexing="ij"))
        made = []
        for k in range(10):
            inside = place.norm(dim=0) < 4 + 0.05 * k
            values = 1 + 0.02 * k + 0.1 * torch.randn(2, 12, 12, 12, generator=generator)
            made.append((values * inside)[None])
        self.array = torch.stack(made).numpy()
        self.there = np.ones((10, 1), bool)


def changed(name):
    volume = torch.from_numpy(Some().array[4, 0])
    if name == "units":
        return 1000 * volume
    if name == "cut":
        return torch.cat([volume[:, :6], 0 * volume[:, 6:]], 1)
    if name == "moved":
        return volume.roll(3, 2)
    if name == "blurred":
        smooth = torch.nn.functional.avg_pool3d(volume, 3, 1, 1)
        return torch.where(volume != 0, smooth, 0.0)
    return volume


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("units", "the mean of its values is"),
        ("cut", "its brain has"),
        ("moved", "of the second axis"),
        ("blurred", "its grain is"),
    ],
)
def test_a_source_unlike_those_of_the_training_is_told_why(name, words):
    known = ranges(Some(), ("t1",))["t1"]
    assert set(known) == set(FIGURES)
    why = doubts("t1", changed(name), known)
    assert any(line.startswith("t1: ") and words in line for line in why), why


def test_another_of_the_same_kind_is_trusted_and_nothing_at_all_is_not():
    known = ranges(Some(), ("t1",))["t1"]
    assert doubts("t1", changed(""), known) == []
    assert doubts("t1", 1.01 * changed(""), known) == []
    assert doubts("t1", torch.zeros(2, 12, 12, 12), known)


def test_few_people_say_little():
    few = Some()
    few.array, few.there = few.array[:3], few.there[:3]
    assert doubts("t1", changed(""), ranges(few, ("t1",))["t1"]) == []
    assert doubts("t1", changed("units"), ranges(few, ("t1",))["t1"])


def test_figures_of_a_slab_of_one_slice_are_finite():
    assert np.isfinite(list(figures(torch.rand(1, 8, 8, 1) + 0.5).values())).all()
