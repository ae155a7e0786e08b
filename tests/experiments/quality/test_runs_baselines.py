import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bold_runs import FRAMES, PEOPLE, TASKS, TR, make_events

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.metrics.glm import first_level
from neuromix.augment.metrics.neuro import NeuroJudge, failed
from neuromix.augment.metrics.task_runs import read_runs, subjects_of
from neuromix.augment.metrics.time_series import autocorrelation
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.quality.runs_baselines import (
    GENERATORS,
    MeanResponse,
    PhaseRandomised,
    Request,
    RunCopies,
    TimeShuffled,
)


@pytest.fixture(scope="module")
def train():
    return PEOPLE.runs(6, 2)


@pytest.fixture(scope="module")
def requests():
    return [Request.like(run) for run in PEOPLE.runs(2, 1)]


def draw(generator, requests, seeds=None):
    return list(generator.draw(requests, range(len(requests)) if seeds is None else seeds))


@pytest.mark.parametrize("make", GENERATORS.values())
def test_a_run_is_what_was_asked_for_and_depends_on_its_seed_alone(make, train, requests):
    generator = make().fit(train)
    together = draw(generator, requests)
    for run, request in zip(together, requests, strict=True):
        assert (run.subject, run.task, run.repeat) == (
            request.subject, request.task, request.repeat
        )  # fmt: skip
        assert run.data.shape == (*PEOPLE.mask.shape, FRAMES)
        assert run.events is request.events
    (alone,) = draw(generator, requests[3:4], [3])
    assert np.array_equal(alone.data, together[3].data)
    longer = Request(
        "x", "motor", make_events(TASKS["motor"], np.random.default_rng(0), 120), TR, 120
    )
    assert draw(generator, [longer])[0].data.shape[3] == 120


def test_the_mean_response_comes_at_the_time_asked_for(train, requests):
    motor = [r for r in requests if r.task == "motor"]
    swap = {"left": "right", "right": "left"}
    for run in draw(MeanResponse().fit(train), motor):
        series = run.series(PEOPLE.mask)
        fit = first_level(series, run.events, TR)
        other = run.events.assign(trial_type=run.events["trial_type"].map(swap))
        effects = [fit.effects["left"], first_level(series, other, TR).effects["left"]]
        truth = PEOPLE.maps["motor/left"][PEOPLE.mask]
        asked, not_asked = (np.corrcoef(effect, truth)[0, 1] for effect in effects)
        assert asked > 0.5 > not_asked + 0.2
        assert abs(autocorrelation(fit.residuals, 1)[0]) < 0.15


def test_copies_are_training_runs_of_one_subject(train, requests):
    made = draw(RunCopies().fit(train), requests)
    donors = {}
    for run in made:
        (own,) = [other for other in train if np.array_equal(other.data, run.data)]
        assert (own.task, own.repeat) == (run.task, run.repeat)
        donors.setdefault(run.subject, set()).add(own.subject)
    assert all(len(names) == 1 for names in donors.values())


def test_shuffled_runs_keep_their_frames(train, requests):
    (made,) = draw(TimeShuffled().fit(train), requests[:1])
    (copy,) = draw(RunCopies().fit(train), requests[:1])
    np.testing.assert_allclose(np.sort(made.data, axis=3), np.sort(copy.data, axis=3))
    assert not np.array_equal(made.data, copy.data)


def test_random_phases_keep_power_and_correlation(train, requests):
    (made,) = draw(PhaseRandomised().fit(train), requests[:1])
    (copy,) = draw(RunCopies().fit(train), requests[:1])
    x, y = (run.data[PEOPLE.mask].astype(float) for run in (made, copy))
    np.testing.assert_allclose(x.mean(axis=1), y.mean(axis=1), rtol=1e-5)
    power = [np.abs(np.fft.rfft(each - each.mean(axis=1, keepdims=True))) for each in (x, y)]
    np.testing.assert_allclose(power[0], power[1], rtol=1e-2, atol=1)
    np.testing.assert_allclose(np.corrcoef(x[:50]), np.corrcoef(y[:50]), atol=1e-3)
    assert not np.allclose(x, y, rtol=1e-3)


def test_what_was_never_seen_is_refused(train, requests):
    events = pd.DataFrame({"onset": [5.0], "duration": [5.0], "trial_type": ["foot"]})
    with pytest.raises(InputError, match="'motor/foot' is in no training run; allowed are lang"):
        draw(MeanResponse().fit(train), [Request("x", "motor", events, TR, FRAMES)])
    with pytest.raises(InputError, match="task 'rest' is in no training run; allowed are lang"):
        draw(RunCopies().fit(train), [Request("x", "rest", events, TR, FRAMES)])


FAILS = {
    "mean response + noise": {"connectivity": 0.3, "spectrum": 0.85},
    "time-shuffled run": {"roi_course": 0.5, "group_map": 0.6, "spectrum": 0.85},
    "training copies": {"nearest_anatomy": 0.75, "nearest_course": 0.3},
    "phase-randomised run": {"roi_course": 0.5, "group_map": 0.6, "nearest_anatomy": 0.75},
}
"""The share of real that each generator's whole interval lies below, on the phantom."""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Held-out, training and other subjects of the task phantom, in three of its tasks."""
    out = tmp_path_factory.mktemp("phantom") / "task"
    make_phantom(out, "task", subjects=16, seed=7, spacing=12.0)
    cohort = Cohort.from_bids(out).where(task=("motor", "language", "emotion"))
    runs = read_runs(cohort)
    names = subjects_of(runs)
    parts = [
        [run for run in runs if run.subject in names[part]]
        for part in (slice(6), slice(6, 10), slice(10, 16))
    ]
    return *parts, nib.load(cohort.table["bold_path"][0]).affine


def test_each_trivial_generator_is_told_from_real_runs_of_the_phantom(phantom):
    heldout, train, others, affine = phantom
    judge = NeuroJudge(heldout, affine, train=train, splits=50)
    assert failed(judge.table(others)) == []
    requests = [Request.like(run) for run in heldout]
    assert set(FAILS) == set(GENERATORS)
    for name, make in GENERATORS.items():
        table = judge.table(make().fit(train).draw(requests, range(len(requests))))
        upper = {m: table["metrics"][m]["share_interval"][1] for m in FAILS[name]}
        assert all(upper[m] < limit for m, limit in FAILS[name].items()), (name, upper)
