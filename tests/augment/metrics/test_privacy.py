import numpy as np
import pytest

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.privacy import closest, membership


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((60, 20)) for name in ("train", "heldout", "fresh")}


def test_fresh_samples_do_not_tell_who_was_trained_on(points):
    found = membership(points["fresh"], points["train"], points["heldout"])
    low, high = found["interval"]
    assert low < 0.5 < high
    assert 0.4 < found["value"] < 0.6


def test_copies_tell_all(points):
    noisy = points["train"] + 0.01 * points["fresh"]
    assert membership(noisy, points["train"], points["heldout"])["value"] > 0.99
    # Half of the training subjects are copied: the others are like held-out ones.
    half = membership(noisy[:30], points["train"], points["heldout"])
    assert 0.7 < half["value"] < 0.8
    assert half["interval"][0] > 0.6


def test_ties_count_half(points):
    assert membership(points["fresh"], points["train"], points["train"])["value"] == 0.5


def test_the_closest_come_first_with_whom_they_are_close_to(points):
    made = points["fresh"].copy()
    made[7] = points["train"][3] + 0.1
    made[4] = points["train"][9] + 0.2
    found = closest(made, points["train"], 2)
    assert [(sample, subject) for sample, subject, _ in found] == [(7, 3), (4, 9)]
    assert [apart for *_, apart in found] == pytest.approx([0.1, 0.2], abs=1e-3)


def test_sets_that_are_too_small_are_refused(points):
    with pytest.raises(InputError, match="1 held-out people came"):
        membership(points["fresh"], points["train"], points["heldout"][:1])


def test_scans_of_a_person_are_drawn_together(points):
    once = membership(points["fresh"], points["train"], points["heldout"])
    scans = [np.repeat(points[name], 4, axis=0) for name in ("train", "heldout")]
    whose = [np.repeat(np.arange(60), 4)] * 2
    often = membership(points["fresh"], *scans, people=whose)
    assert often["value"] == pytest.approx(once["value"])
    assert often["interval"] == pytest.approx(once["interval"])
    with pytest.raises(InputError, match="1 held-out people came"):
        membership(points["fresh"], *scans, people=[whose[0], [0] * 240])
