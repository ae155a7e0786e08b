import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bold_runs import AFFINE, FRAMES, PEOPLE, TR, make_events

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.glm import design_matrix, first_level, roi_course

MASK = PEOPLE.mask


@pytest.fixture(scope="module")
def run():
    return PEOPLE.runs(1, 1, tasks=("motor",), repeats=("LR",))[0]


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_effects_are_those_of_nilearn(run, noise_model):
    from nilearn.glm.first_level import FirstLevelModel

    model = FirstLevelModel(
        TR, mask_img=nib.Nifti1Image(MASK.astype("u1"), AFFINE), noise_model=noise_model,
        minimize_memory=False,
    ).fit(nib.Nifti1Image(run.data, AFFINE), run.events)  # fmt: skip
    effects = first_level(run.series(MASK), run.events, TR, noise_model=noise_model).effects
    assert list(effects) == ["left", "right"]
    for name, effect in effects.items():
        theirs = model.compute_contrast(name, output_type="effect_size").get_fdata()[MASK]
        np.testing.assert_allclose(effect, theirs, atol=1e-3)


def test_per_cent_does_not_depend_on_the_unit_and_dark_voxels_have_no_effect(run):
    series = run.series(MASK)
    series[:, :5] = np.random.default_rng(0).random((FRAMES, 5))  # a thousandth of the others
    fit, scaled = (first_level(k * series, run.events, TR) for k in (1, 7))
    np.testing.assert_allclose(fit.effects["left"], scaled.effects["left"], atol=1e-3)
    assert not fit.lit[:5].any()
    assert fit.lit[5:].all()
    assert not fit.effects["left"][:5].any()


def test_residuals_hold_nothing_of_the_design(run):
    fit = first_level(run.series(MASK), run.events, TR)
    assert np.abs(fit.design.to_numpy().T @ fit.residuals).max() < 0.05
    assert fit.residuals.std() > 0.5


def test_a_course_follows_its_own_condition_alone():
    rng = np.random.default_rng(0)
    events = make_events(("left", "right"), rng)
    design = design_matrix(events, FRAMES, TR)
    drift = np.linspace(0, 5, FRAMES) ** 2
    course = 2 * design["left"].to_numpy() - 3 * design["right"].to_numpy() + 0.1 * drift
    assert roi_course(course, design, "left") > 0.95
    assert roi_course(course, design, "right") < -0.95
    noise = rng.standard_normal(FRAMES)
    assert abs(roi_course(3 * design["right"].to_numpy() + noise, design, "left")) < 0.3
    assert roi_course(np.zeros(FRAMES), design, "left") == 0
    with pytest.raises(InputError, match="'feet' is not in the design; it has left, right"):
        roi_course(course, design, "feet")


def test_what_cannot_be_fitted_is_refused(run):
    series = run.series(MASK)
    with pytest.raises(InputError, match="'ar' came; allowed are ols, ar1"):
        first_level(series, run.events, TR, noise_model="ar")
    short = pd.DataFrame({"onset": [0.0, 2.0], "duration": 1.0, "trial_type": ["a", "b"]})
    with pytest.raises(InputError, match="3 frames is too short for a design of 3 columns"):
        first_level(series[:3], short, TR)
