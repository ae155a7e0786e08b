import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import Grid
from neuromix.augment.phantom import adapting, make_phantom, task
from neuromix.augment.phantom.anatomy import Anatomy
from neuromix.augment.phantom.task import FRAMES, TASKS, TR


@pytest.fixture(scope="module")
def anatomy():
    return Anatomy(Grid.mni(12.0))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms") / "adapting"
    return make_phantom(out, "task", subjects=1, seed=3, spacing=12.0, version=2)


def drawn(anatomy, count):
    return [adapting.draw_response(anatomy, np.random.default_rng(k)) for k in range(count)]


def outside(maps, few):
    """Share of the later maps' power that no sum of the first few has."""
    flat = np.stack([each.ravel() for each in maps])
    basis = np.linalg.qr(flat[:few].T)[0]
    return 1 - ((flat[few:] @ basis) ** 2).sum() / (flat[few:] ** 2).sum()


def test_maps_of_people_are_no_sums_of_few_others(anatomy):
    name = "motor/lefthand"
    old = [task.draw_response(anatomy, np.random.default_rng(k)).maps[name] for k in range(30)]
    new = [
        sum(m for m, r in zip(each.maps, each.regions, strict=True) if r.condition == name)
        for each in drawn(anatomy, 30)
    ]
    assert outside(old, 20) < 0.15  # measured: 0.08
    assert outside(new, 20) > 0.3  # measured: 0.41


def test_topographies_shift_and_split(anatomy):
    people = drawn(anatomy, 12)
    assert 0.25 < np.mean([len(r.foci) == 2 for each in people for r in each.regions]) < 0.55
    centres = np.array([[np.mean(r.foci, 0) for r in each.regions] for each in people])
    assert centres.std(0).mean() > 4  # mm


def test_peak_times_differ_by_region_and_by_person(anatomy):
    peaks = np.array([
        [region["peak_seconds"] for region in each.truth()["regions"]]
        for each in drawn(anatomy, 8)
    ])  # fmt: skip
    assert peaks.mean(0).std() > 0.3
    assert peaks.std(0).mean() > 0.2


def test_events_hold_blocks_and_quick_repeats_of_both_conditions():
    events = adapting.draw_events("motor", np.random.default_rng(0))
    assert set(events["trial_type"]) == set(TASKS["motor"])
    gaps = events["onset"].to_numpy()[1:] - (events["onset"] + events["duration"]).to_numpy()[:-1]
    assert np.isclose(gaps, adapting.GAP).sum() >= 4
    assert (gaps > 6).sum() >= 4
    assert events["duration"].max() > 10 > events["duration"].min()
    assert (events["onset"] + events["duration"]).max() < FRAMES * TR


def test_a_repeat_is_answered_by_less_than_the_first(anatomy):
    response = drawn(anatomy, 1)[0]
    own = [k for k, r in enumerate(response.regions) if r.condition == "motor/lefthand"]

    def course(onsets):
        rows = {"onset": onsets, "duration": 3.0, "trial_type": "lefthand"}
        return adapting.courses(response, own, pd.DataFrame(rows))

    once, twice = course([10.0]), course([10.0, 15.0])
    assert once.shape == (len(own), FRAMES)
    assert ((twice - once).max(1) < 0.95 * once.max(1)).all()
    assert (twice.max(1) < 2 * once.max(1)).all()


def test_heart_and_breath_appear_where_the_scanner_folds_them(cohort):
    truth = json.loads((cohort / "truth.json").read_text())["subjects"]
    who, known = next(iter(truth.items()))
    power = 0.0
    for path in sorted((cohort / f"sub-{who}").rglob("*_bold.nii.gz")):
        run = nib.load(path).get_fdata(dtype=np.float32)
        courses = run[run.mean(3) > 0]
        courses = courses / courses.mean(1, keepdims=True)
        spectrum = np.abs(np.fft.rfft(courses * np.hanning(FRAMES), axis=1)) ** 2
        power = power + spectrum.mean(0)
    frequencies = np.fft.rfftfreq(FRAMES, TR)
    floor = np.median(power[frequencies > 0.05])
    for name in ("heart_hz", "breath_hz"):
        folded = abs(known[name] - round(known[name] * TR) / TR)
        at = np.abs(frequencies - folded) < 0.012
        assert power[at].max() > 1.5 * floor, name


def test_a_jerk_is_remembered_by_the_spins_for_some_frames():
    height = np.zeros(20)
    height[8:] = 1.0
    lost = adapting.spin_history(height, slices=4)
    assert (lost[:, :8] == 0).all()
    assert lost[1, 8] > lost[1, 9] > lost[1, 10] > 0
    assert lost[1, 14] < 0.01 * lost[1, 8]  # though the head stays where it is
    assert lost[1, 8] > lost[0, 8]


def test_a_cohort_is_as_that_of_version_1_for_the_same_people(cohort):
    table = Cohort.from_bids(cohort)
    assert table.validate() == []
    assert set(table.table["task"]) == set(TASKS)
    assert set(table.table["dir"]) == {"LR", "RL"}
    image = nib.load(table.table["bold_path"].iloc[0])
    assert image.shape[3] == FRAMES
    assert image.header.get_zooms()[3] == TR
    truth = json.loads((cohort / "truth.json").read_text())
    assert truth["config"]["version"] == 2
    region = next(iter(truth["subjects"].values()))["regions"][0]
    assert set(region) == {"condition", "foci", "peak", "peak_seconds"}
