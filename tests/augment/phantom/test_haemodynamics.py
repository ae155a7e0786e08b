import numpy as np
import pytest

from neuromix.augment.phantom.haemodynamics import STEP, Vessels, boxcar, respond


def answer(onsets, durations, vessels=None, seconds=60.0):
    vessels = vessels or Vessels.average(1)
    stimulus = boxcar(np.array(onsets, float), np.array(durations, float), seconds)
    return respond(np.tile(stimulus, (len(vessels.delay), 1)), vessels)


def test_a_response_rises_peaks_and_undershoots():
    course = answer([0], [2])[0]
    assert course[0] == pytest.approx(0, abs=1e-6)
    assert 3 < STEP * course.argmax() < 6
    assert course[100:200].min() < -0.05 * course.max()
    assert course[-1] == pytest.approx(0, abs=0.02)


def test_quick_repeats_get_less_than_twice_the_answer_and_late_ones_twice():
    once, quick, late = (
        answer(on, [2] * len(on), seconds=90.0)[0] for on in ([0], [0, 4], [0, 40])
    )
    second = (quick - once).max() / once.max()
    assert second < 0.85  # measured: 0.78
    assert quick[:200].clip(0).sum() < 1.85 * once[:200].clip(0).sum()
    assert (late - once).max() == pytest.approx(once.max(), rel=0.03)


def test_a_long_stimulus_saturates():
    short, long = answer([0], [2])[0], answer([0], [16])[0]
    assert long.max() == pytest.approx(1, abs=0.01)
    assert long.max() < 2 * short.max()
    assert long[150] < 0.8 * long.max()  # neurons tire


def test_regions_differ_in_delay_width_and_undershoot():
    vessels = Vessels.average(30).vary(np.random.default_rng(0), 1.0)
    courses = answer([0], [1], vessels)
    peaks = STEP * courses.argmax(1)
    widths = STEP * (courses > courses.max(1, keepdims=True) / 2).sum(1)
    undershoots = -courses.min(1) / courses.max(1)
    assert peaks.std() > 0.3
    assert widths.std() > 0.3
    assert undershoots.std() > 0.05
