import math
import time

import numpy as np
import pytest
from predictions import of_scores, simulate
from scipy.stats import norm

from neuromix.augment.errors import InputError
from neuromix.classifiers.evaluate import Predictions, compare, gap_closed, holm, summarise
from neuromix.classifiers.statistics import _weights


def runs(accuracy, count=200, seeds=3):
    """Runs that are right on the first so many of each class."""
    truth = np.arange(count) % 2
    right = np.arange(count) < accuracy * count
    return [of_scores(truth, (2 * truth - 1) * np.where(right, 2.0, -2.0))] * seeds


def test_a_summary_is_the_mean_over_seeds_and_subjects():
    mixed = [*runs(0.8, seeds=1), *runs(0.9, seeds=1)]
    result = summarise(mixed)
    assert result["value"] == pytest.approx(0.85)
    assert result["per_seed"] == pytest.approx([0.8, 0.9])
    low, high = result["interval"]
    assert low < 0.8 and high > 0.9
    assert (result["seeds"], result["subjects"]) == (2, 200)
    assert summarise(mixed) == result != summarise(mixed, seed=1)


@pytest.mark.parametrize(("count", "seeds"), [(40, 5), (200, 3)])
def test_intervals_cover_the_truth(count, seeds):
    true = norm.cdf(1 / math.sqrt(1 + 0.2**2 + 0.7**2))
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(100):
        low, high = summarise(simulate(rng, count, seeds), draws=300, seed=trial)["interval"]
        inside += low <= true <= high
    assert 91 <= inside <= 99


def test_an_interval_is_as_wide_as_the_spread_of_repeated_studies():
    rng = np.random.default_rng(1)
    results = [summarise(simulate(rng, 100, 5, noise=0.3), draws=300) for _ in range(100)]
    reach = np.mean([r["interval"][1] - r["interval"][0] for r in results]) / (2 * 1.96)
    assert np.std([r["value"] for r in results]) == pytest.approx(reach, rel=0.2)


def test_compare_rejects_equals_rarely_and_unequals_mostly():
    rng = np.random.default_rng(2)
    equal, unequal = 0, 0
    for trial in range(100):
        shared = rng.normal(0, 1, 200)
        a, b = (simulate(rng, 200, 3, shared=shared, seed=0.1) for _ in range(2))
        better = simulate(rng, 200, 3, 1.6, shared=shared, seed=0.1)
        equal += compare(a, b, draws=300, seed=trial)["p"] < 0.05
        unequal += compare(better, b, draws=300, seed=trial)["p"] < 0.05
    assert equal <= 8
    assert unequal >= 80


def test_pairing_by_subject_makes_a_comparison_sharper():
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 2, 300)
    a = simulate(rng, 300, 4, 1.2, shared=shared, noise=0.2, seed=0.05)
    b = simulate(rng, 300, 4, 1.0, shared=shared, noise=0.2, seed=0.05)
    low, high = compare(a, b)["interval"]
    alone = [np.ptp(summarise(arm)["interval"]) for arm in (a, b)]
    assert high - low < 0.6 * math.hypot(*alone)


def test_compare_has_a_sign_and_sees_no_difference_in_equals():
    result = compare(runs(0.9), runs(0.7))
    assert result["difference"] == pytest.approx(0.2)
    assert result["interval"][0] > 0 and result["p"] < 0.01
    assert compare(runs(0.7), runs(0.9))["difference"] == pytest.approx(-0.2)
    same = compare(runs(0.8), runs(0.8))
    assert same["difference"] == 0 and same["p"] == 1


def test_rows_may_come_in_any_order():
    a, b = runs(0.9), runs(0.7)
    order = np.random.default_rng(0).permutation(200)
    turned = [
        Predictions(r.subjects[order], r.truth[order], r.probabilities[order], r.classes) for r in a
    ]
    assert compare(turned, b) == compare(a, b)


def test_sessions_of_a_subject_are_drawn_together():
    once = runs(0.8, count=60)
    sessions = [
        Predictions(*(np.repeat(x, 5, axis=0) for x in (r.subjects, r.truth, r.probabilities)),
                    r.classes)
        for r in once
    ]  # fmt: skip
    expected, found = summarise(once), summarise(sessions)
    assert found["interval"] == pytest.approx(expected["interval"])
    assert found["subjects"] == expected["subjects"] == 60


def test_the_gap_that_an_arm_closes():
    result = gap_closed(runs(0.7), runs(0.75), runs(0.9), draws=500)
    assert result["value"] == pytest.approx(0.25)
    assert 0 < result["interval"][0] < 0.25 < result["interval"][1] < 0.7
    assert result["reason"] == ""


def test_no_gap_and_an_unclear_gap_say_so():
    none = gap_closed(runs(0.8), runs(0.9), runs(0.8))
    assert math.isnan(none["value"]) and "no gap" in none["reason"]
    base, ceiling = runs(0.8, count=40), runs(0.85, count=40)
    unclear = gap_closed(base, base, ceiling, draws=500)
    assert unclear["value"] == 0
    assert all(map(math.isnan, unclear["interval"])) and "of draws" in unclear["reason"]


def test_holm_by_hand():
    # 0.01 * 4; 0.02 * 3; 0.03 * 2 = 0.06; 0.5 * 1, each at least the one before.
    given = {"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02}
    assert holm(given) == pytest.approx({"c": 0.06, "a": 0.04, "d": 0.5, "b": 0.06})
    assert list(holm(given)) == list(given)
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    with pytest.raises(InputError, match="from 0 to 1"):
        holm({"a": math.nan})


def test_the_bootstrap_is_fast():
    rng = np.random.default_rng(6)
    a, b = simulate(rng, 400, 5), simulate(rng, 400, 5)
    begun = time.perf_counter()
    compare(a, b, draws=2000)
    assert time.perf_counter() - begun < 5  # 0.2 s on an idle core


def test_what_cannot_be_compared_is_refused():
    a = runs(0.8)
    fewer = runs(0.8, count=100)
    for call, message in (
        (lambda: summarise([]), "runs came"),
        (lambda: summarise(a, metric="accuracy"), "allowed are balanced_accuracy, auc"),
        (lambda: summarise(a, draws=0), "1 or more"),
        (lambda: compare(a, a[:2]), "as many for each arm"),
        (lambda: compare(a, fewer), "same subjects"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_few_members_are_drawn_with_an_unbiased_spread():
    strata = np.array([0, 0, 0, 1, 1, 1, 1])
    values = np.random.default_rng(7).normal(size=7)
    weights = _weights(strata, 40_000, np.random.default_rng(8))
    for stratum, count in ((0, 3), (1, 4)):
        inside = strata == stratum
        means = (weights[:, inside] * values[inside]).sum(1) / count
        expected = values[inside].std(ddof=1) / math.sqrt(count)
        assert means.std() == pytest.approx(expected, rel=0.02)


def test_a_class_of_one_subject_is_refused():
    truth = np.array([0] * 20 + [1])
    one = [of_scores(truth, np.where(truth, 2.0, -2.0))] * 3
    with pytest.raises(InputError, match="'AD' has 1 of 21 test subjects, who tells nothing"):
        summarise(one)


def test_who_is_alone_with_a_last_class_is_not_certain():
    truth = np.array([0, 1] + [1, 0] * 19)  # all have a row of each class
    right = np.arange(40) >= 2  # the first subject is told wrongly
    rows = of_scores(truth, (2 * truth - 1) * np.where(right, 2.0, -2.0))
    names = np.repeat([f"study/{k:02d}" for k in range(20)], 2)
    run = Predictions(names, rows.truth, rows.probabilities, rows.classes)
    low, high = summarise([run, run])["interval"]
    assert low < 0.95 < high == 1  # some draws have that subject, others have not
