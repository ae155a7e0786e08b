import json

import numpy as np
import pandas as pd
import pytest
import torch
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.responses import ResponseSampler, Window, responses
from neuromix.augment.transforms import RandomSynthetic

TR = 2.0
EVENTS = pd.DataFrame({"onset": [3.0, 21.0], "duration": 6.0, "trial_type": ["a", "b"]})


def ramp(frames=20):
    """A run whose signal is 100 + time in seconds in the brain, and 0 outside."""
    run = np.zeros((frames, 6, 6, 6), np.float32)
    run[:, 1:-1, 1:-1, 1:-1] = (100 + TR * np.arange(frames))[:, None, None, None]
    return run


def test_frames_are_read_between_those_of_the_run():
    found = dict(Window(3, 1.5, "signal").of(ramp(), EVENTS, TR))
    assert sorted(found) == ["a", "b"]
    mean = 100 + TR * 19 / 2
    for name, onset in (("a", 3.0), ("b", 21.0)):
        expected = (100 + onset + 1.5 * (np.arange(3) + 0.5)) / mean
        np.testing.assert_allclose(found[name][:, 2, 2, 2], expected, rtol=1e-5)
        assert not found[name][:, 0].any()


def test_per_cent_is_of_each_voxels_mean():
    run = ramp()
    run[:, 1] *= 3  # brighter voxels change as much
    response = dict(Window(2, 2.0).of(run, EVENTS, TR))["b"]
    expected = 100 * ((100 + 21 + 1 + 2 * np.arange(2)) / (100 + TR * 19 / 2) - 1)
    np.testing.assert_allclose(response[:, 1, 2, 2], expected, rtol=1e-4)
    np.testing.assert_allclose(response[:, 3, 2, 2], expected, rtol=1e-4)


def test_blocks_are_averaged_and_late_ones_left_out():
    twice = pd.DataFrame({"onset": [2.0, 10.0, 35.0], "duration": 2.0, "trial_type": "a"})
    response = dict(Window(4, 2.0, "signal").of(ramp(), twice, TR))["a"]
    expected = (100 + 6 + 1 + 2 * np.arange(4)) / (100 + TR * 19 / 2)
    np.testing.assert_allclose(response[:, 2, 2, 2], expected, rtol=1e-5)
    assert not dict(Window(4, 2.0).of(ramp(), twice[2:], TR))


def test_a_frame_is_the_mean_over_its_step():
    run = np.zeros((40, 6, 6, 6), np.float32)
    run[:, 1:-1, 1:-1, 1:-1] = 100
    run[10] *= 2  # a spike at 20 s, which linear reading spreads over 18 to 22 s
    events = pd.DataFrame({"onset": [10.0], "duration": 2.0, "trial_type": "a"})
    found = dict(Window(3, 6.0, "signal").of(run, events, TR))["a"][:, 2, 2, 2]
    base = 100 / run[:, 2, 2, 2].mean()
    np.testing.assert_allclose(found, [base, base * (1 + 2 / 6), base], rtol=1e-5)


def test_cubes_are_averaged_and_stay_where_they_were():
    run = ramp()
    run *= np.arange(1, 7, dtype=np.float32)[:, None, None]
    fine, coarse = (
        dict(Window(2, 2.0, "signal", side).of(run, EVENTS, TR))["a"] for side in (1, 4)
    )
    assert coarse.shape == (2, 2, 2, 2)
    np.testing.assert_allclose(coarse[:, 0, 0, 0], fine[:, :4, :4, :4].mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(coarse[:, 1, 0, 0], fine[:, 4:, :4, :4].sum(axis=(1, 2, 3)) / 64)
    affine = np.array([[-3, 0, 0, 30], [0, 2.9, -0.5, -40], [0, 0.5, 2.9, 10], [0, 0, 0, 1.0]])
    centre = affine @ [1.5, 1.5, 1.5, 1]
    np.testing.assert_allclose(Window(shrink=4).affine(affine) @ [0, 0, 0, 1], centre)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((0, 2.0), "1 frame or more"),
        ((3, 0.0), "above 0 s"),
        ((3, 2.0, "percent", 0), "cubes of 1 voxel"),
        ((3, 2.0, "grams"), "allowed are"),
    ],
)
def test_windows_that_cannot_be_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        Window(*settings)


def test_real_runs_have_a_response_for_each_condition(task_phantom):
    cohort = Cohort.from_bids(task_phantom).where(task=["motor", "wm"])
    found = responses(cohort, Window(4))
    assert len(found) == 2 * len(cohort)
    assert {s["condition"] for s in found} == {
        "motor/lefthand", "motor/righthand", "wm/twoback", "wm/zeroback",
    }  # fmt: skip
    first, whole = found[0], cohort.subjects()[0]
    assert set(first) == set(whole) | {"condition"}
    assert first["bold"].shape == (4, *whole["bold"].shape[1:])
    np.testing.assert_allclose(first["bold"].affine, whole["bold"].affine)
    assert first["synthetic"] is False
    with pytest.raises(InputError, match=r"none of .* runs has a block with 4000 s"):
        responses(cohort, Window(400, 10.0))


class Steps:
    """Makes runs that rise with time, and remembers what it was asked for."""

    version = 1
    record = {"subjects": [], "voxels": [], "datasets": [], "versions": {}}  # noqa: RUF012

    def __init__(self, events=EVENTS):
        self.events, self.asked = events, []

    def fingerprint(self):
        return "steps"

    def __call__(self, labels, seeds, steps, guidance):
        self.asked += list(labels)
        image = tio.ScalarImage(
            tensor=torch.from_numpy(ramp()), affine=np.diag([9, 9, 9, 1.0]), RepetitionTime=TR,
            events=json.dumps(self.events.to_numpy().tolist()),
        )  # fmt: skip
        keys = dict.fromkeys(Cohort(pd.DataFrame({"subject_id": ["x"], "md_path": ""})).table, "")
        del keys["md_path"]
        return [
            tio.Subject(bold=image, **keys | dict(row), synthetic=True, synthetic_id="s")
            for row in labels
        ]


def test_a_bank_of_responses_is_drawn_by_condition(tmp_path):
    maker = ResponseSampler(Steps(), Window(3, 1.5, "signal"))
    wanted = [{"condition": f"t/{name}", "sex": sex} for name in "ab" for sex in "FM"]
    bank = SampleBank.fill(tmp_path / "bank", maker, wanted, 0)
    assert "condition" in bank.labels
    assert maker.sampler.asked[0] == {"sex": "F", "task": "t"}
    drawn = bank.draw({"condition": "t/b"}, 5)
    assert drawn["condition"] == "t/b"
    assert drawn["task"] == "t"
    expected = dict(Window(3, 1.5, "signal").of(ramp(), EVENTS, TR))["b"]
    np.testing.assert_allclose(drawn["bold"].numpy(), expected)
    assert maker.fingerprint() != ResponseSampler(Steps(), Window(3)).fingerprint()

    real = tio.Subject(
        bold=tio.ScalarImage(tensor=torch.zeros(3, 6, 6, 6), affine=drawn["bold"].affine),
        condition="t/a", sex="M", subject_id="real",
    )  # fmt: skip
    placed = RandomSynthetic(bank, match="condition", p=1)(real)
    assert (placed["condition"], placed["synthetic"]) == ("t/a", True)


def test_a_condition_that_no_run_has_is_told():
    maker = ResponseSampler(Steps(), Window(3, 1.5))
    with pytest.raises(InputError, match="whole response to 'c'; the last one has a, b"):
        maker([{"condition": "t/c"}], [0])
    with pytest.raises(InputError, match="name one as task/trial_type"):
        maker([{"condition": "left"}], [0])
