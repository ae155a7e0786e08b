import json
from dataclasses import replace

import numpy as np
import pytest
from bold_runs import AFFINE, FRAMES, PEOPLE, TASKS

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.neuro import METRICS, NeuroJudge, compare_subjects, failed, share

SPLITS = 40


@pytest.fixture(scope="module")
def heldout():
    return PEOPLE.runs(10, 1)


@pytest.fixture(scope="module")
def judge(heldout):
    return NeuroJudge(heldout, AFFINE, train=PEOPLE.runs(6, 2), splits=SPLITS, smoothing=0)


@pytest.fixture(scope="module")
def honest():
    return PEOPLE.runs(10, 3)


@pytest.fixture(scope="module")
def table(judge, honest):
    return judge.table(honest)


def test_other_real_subjects_fail_nothing(table):
    assert set(table["metrics"]) == set(METRICS)
    assert failed(table) == []
    assert min(row["share"] for row in table["metrics"].values()) > 0.7


def test_the_table_is_plain_and_says_what_was_compared(table):
    again = json.loads(json.dumps(table, allow_nan=False))
    assert again["sizes"] == {"real": 10, "synthetic": 10, "split": 5}
    assert again["conditions"] == sorted(f"{t}/{c}" for t, pair in TASKS.items() for c in pair)
    for row in again["metrics"].values():
        for value, interval in (("value", "interval"), ("real", "real_interval")):
            assert row[interval][0] <= row[value] <= row[interval][1]
    assert set(again["metrics"]["group_map"]["full_by_condition"]) == set(again["conditions"])
    curves = again["curves"]["synthetic"]
    assert np.shape(curves["rdm"]) == (4, 4)
    assert len(curves["spectrum"]) == len(again["curves"]["frequency"])


def test_a_set_beside_itself_is_perfect(judge):
    same = compare_subjects(judge.real, judge.real)
    for name in ("group_map", "rsa", "group_top1", "tsnr_map", "connectivity"):
        assert same[name] == pytest.approx(1)
    assert same["autocorrelation"] == same["spectrum"] == 0


def test_all_of_both_agree_more_than_halves(table):
    row = table["metrics"]["group_map"]
    assert row["full"] > row["value"] + 0.03  # halves of ten are noisier than ten


def alter(runs, change):
    return [replace(run, data=change(run, k)) for k, run in enumerate(runs)]


def weaker(run, _):
    """Signal that changes by a third of what it did."""
    mean = run.data.mean(axis=3, keepdims=True)
    return mean + (run.data - mean) / 3


def other_conditions(runs):
    """The two conditions of each task change places."""
    swap = {name: pair[1 - k] for pair in TASKS.values() for k, name in enumerate(pair)}
    return [
        replace(run, events=run.events.assign(trial_type=run.events["trial_type"].map(swap)))
        for run in runs
    ]


def late(runs):
    """Eight seconds late."""
    return alter(runs, lambda run, _: np.roll(run.data, 4, axis=3))


def fading(run, _):
    mean = run.data.mean(axis=3, keepdims=True)
    return mean + (run.data - mean) * np.linspace(1.5, 0.3, FRAMES)


@pytest.mark.parametrize(
    ("change", "seen", "unseen"),
    [
        (other_conditions, {"group_top1", "subject_top1", "subject_margin"}, {"tsnr_map"}),
        (late, {"group_map", "roi_course", "response_size"}, {"tsnr_map", "connectivity"}),
        (lambda runs: alter(runs, weaker), {"response_size", "tsnr_level", "spread"},
         {"group_map", "rsa", "connectivity"}),
        (lambda runs: alter(runs, fading), {"steady_tsnr"}, {"group_map", "connectivity"}),
    ],
)  # fmt: skip
def test_a_fault_shows_where_it_should(judge, honest, change, seen, unseen):
    found = set(failed(judge.table(change(honest))))
    assert seen <= found
    assert not unseen & found


def test_one_subject_for_all_is_seen(judge, honest):
    """All subjects are one, with noise of their own."""
    one = honest[: 2 * len(TASKS)]
    rng = np.random.default_rng(0)
    runs = []
    for k in range(10):
        for run in one:
            noise = 3 * rng.standard_normal(run.data.shape).astype("f4") * PEOPLE.mask[..., None]
            runs.append(replace(run, subject=str(k), data=run.data + noise))
    assert {"subject_share", "spread"} <= set(failed(judge.table(runs)))


def test_shares_are_one_where_as_good_as_real():
    assert share("similarity", 0.4, 0.8) == pytest.approx(0.5)
    assert share("distance", 0.28, 0.1) == pytest.approx(0.8)
    assert share("level", 3.0, 2.0) == share("level", 2.0, 3.0) == pytest.approx(2 / 3)
    assert share("level", -1.0, 2.0) == 0
    assert np.isnan(share("similarity", 0.4, 0.0))
    for kind in ("similarity", "distance", "level"):
        assert share(kind, 0.3, 0.3) == 1


def test_where_real_halves_do_not_agree_there_is_no_share(heldout):
    rng = np.random.default_rng(0)

    def noise(run, _):
        return (900 + 9 * rng.standard_normal(run.data.shape)).astype("f4") * PEOPLE.mask[..., None]

    judge = NeuroJudge(alter(heldout, noise), AFFINE, splits=SPLITS)
    found = judge.table(heldout)
    assert found["metrics"]["subject_map"]["share"] is None
    assert "subject_map" not in failed(found)


def test_what_cannot_be_measured_is_left_out(heldout):
    single = [run for run in heldout if run.repeat == "LR" and run.task == "motor"]
    judge = NeuroJudge(single, AFFINE, splits=SPLITS)
    found = set(judge.table(single)["metrics"])
    assert set(METRICS) - found == {"rsa", "subject_share", "nearest_course", "nearest_anatomy"}


def test_runs_may_be_longer_than_the_real_ones(judge):
    long = PEOPLE.runs(4, 3, frames=120)
    row = judge.table(long)["metrics"]["spectrum"]
    assert row["share"] > 0.95


def test_conditions_can_be_chosen_and_unknown_ones_are_named(heldout):
    chosen = ("motor/left", "motor/right")
    motor = [run for run in heldout if run.task == "motor"]
    assert NeuroJudge(motor, AFFINE, conditions=chosen, splits=2).conditions == list(chosen)
    with pytest.raises(InputError, match="'motor/foot' is in no real run; allowed are language/"):
        NeuroJudge(heldout, AFFINE, conditions=("motor/foot", "motor/left"))
    with pytest.raises(InputError, match="a smoothing of -1 mm can't be"):
        NeuroJudge(heldout, AFFINE, smoothing=-1)
    with pytest.raises(InputError, match=r"1 conditions are to be judged by \(motor/left\)"):
        NeuroJudge(heldout, AFFINE, conditions=("motor/left",))


def test_a_generator_that_was_asked_for_something_else_is_told(judge, honest):
    foreign = [replace(run, task="social") for run in honest]
    with pytest.raises(InputError, match="none of the conditions that are judged: it has social/"):
        judge.table(foreign)
    with pytest.raises(InputError, match="no run has the condition 'language/math'"):
        judge.table([run for run in honest if run.task == "motor"])
    with pytest.raises(InputError, match="comes twice with condition 'left'; tell runs apart"):
        judge.table([replace(run, repeat="") for run in honest if run.task == "motor"])


def test_too_few_subjects_are_refused(judge, heldout, honest):
    few = [run for run in heldout if run.subject in ("1x0", "1x1", "1x2")]
    with pytest.raises(InputError, match="3 held-out subjects can't be split into halves"):
        NeuroJudge(few, AFFINE)
    with pytest.raises(InputError, match="1 synthetic subjects can't be halved; give 4"):
        judge.table(honest[:4])


def test_equal_seeds_give_equal_tables(judge, table, honest):
    assert judge.table(iter(honest)) == table  # any iterable will do
