import json

import numpy as np
import pytest

from neuromix.augment import Cohort
from neuromix.augment.phantom import coupled, make_phantom
from neuromix.augment.phantom.anatomy import anatomy_at
from neuromix.augment.phantom.coupled import CoupledScanner
from neuromix.augment.phantom.population import person


@pytest.fixture(scope="module")
def drawn():
    """A person's maps at 12 mm, with a lesion, and one draw of what both modalities share."""
    anatomy = anatomy_at(12.0)
    who, rng = person(3, "B", 0)
    maps = anatomy.draw(who.shape, rng)
    lesion = anatomy.blob((20.0, 0.0, 25.0), 10.0)
    scanner = CoupledScanner(anatomy)
    return scanner, who, maps | {"lesions": 0 * lesion}, lesion * maps["wm"]


def scanned(drawn, monkeypatch, activity, lesions=None):
    """What an ideal says of both: no noise, and nothing private but the mean of its warps."""
    scanner, who, maps, _ = drawn
    maps = maps if lesions is None else maps | {"lesions": lesions}
    monkeypatch.setattr(scanner, "_activity", lambda person, rng: activity)
    return scanner.draw(who, maps, np.random.default_rng(5))[1]


def test_dmri_tells_the_size_of_what_both_share_and_not_its_sign(drawn, monkeypatch):
    activity = drawn[0].anatomy.smooth_map(np.random.default_rng(1), 1)
    one, other, more = (scanned(drawn, monkeypatch, each * activity) for each in (1, -1, 2))
    np.testing.assert_allclose(one["dmri"], other["dmri"], atol=1e-6)
    assert np.abs(one["dmri"] - more["dmri"]).max() > 0.02
    inside = one["fmri"][..., 0] > 0
    grey = inside & (drawn[2]["gm"] > 0.5)
    assert np.corrcoef((one["fmri"] - other["fmri"])[grey, 0], activity[grey])[0, 1] > 0.9
    # It saturates: twice the activity is less than twice the response, most in the last segment.
    none = scanned(drawn, monkeypatch, 0 * activity)["fmri"]
    strong = grey & (np.abs(activity) > 1)
    grown = [
        np.abs((more["fmri"] - none)[strong, k]).mean()
        / np.abs((one["fmri"] - none)[strong, k]).mean()
        for k in (0, -1)
    ]
    assert 1 < grown[1] < grown[0] < 2


def test_a_lesion_shows_in_dmri_and_takes_responses_from_what_is_near(drawn, monkeypatch):
    activity = 1 + 0 * drawn[2]["gm"]
    healthy = scanned(drawn, monkeypatch, activity)
    scarred = scanned(drawn, monkeypatch, activity, drawn[3])
    seen = (healthy["dmri"] - scarred["dmri"]).mean(-1)
    assert seen.max() > 0.05
    near = drawn[3] > 0.5 * drawn[3].max()
    assert seen[near].mean() > 5 * np.abs(seen[drawn[3] < 0.01]).mean()
    assert (healthy["fmri"] - scarred["fmri"]).mean(-1)[near].mean() > 0


def test_dmri_lies_less_than_a_voxel_off(drawn):
    scanner = drawn[0]
    ramp = np.indices(scanner.anatomy.grid.shape)[0].astype(np.float32)[..., None]
    off = (scanner._warped(ramp, np.random.default_rng(0)) - ramp)[2:-2]
    assert 0.1 < off.std() < 2 * coupled.OFF
    assert np.abs(off).max() <= 2 * coupled.OFF + 1e-5


def test_the_second_version_is_a_cohort_and_knows_what_could_be_reached(tmp_path):
    out = make_phantom(tmp_path / "paired", "paired", subjects=3, seed=1, spacing=12.0, version=2)
    truth = json.loads((out / "truth.json").read_text())
    for score in truth["prediction_from_the_other_modality"].values():
        assert score["psnr_ideal_regression"] - score["psnr_mean_volume"] > 3
    cohort = Cohort.from_bids(out)
    assert cohort.images == ("fmri", "dmri")
    subject = cohort.subjects()[0]
    assert subject["fmri"].shape == subject["dmri"].shape
    assert subject["fmri"].data.max() <= 1.6
