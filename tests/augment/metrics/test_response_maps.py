import numpy as np
import pytest

from neuromix.augment.metrics.response_maps import (
    active_voxels,
    correlations,
    group_maps,
    own,
    rdm,
    response_size,
    rsa,
    smooth,
    specificity,
    spread,
    subject_share,
)

CONDITIONS, VOXELS = 5, 400


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((CONDITIONS, VOXELS))
    maps[1] += maps[0]  # two conditions that are alike
    return maps


def noisy(maps, seed, size=1.0):
    return maps + size * np.random.default_rng(seed).standard_normal(maps.shape)


def test_correlation_does_not_see_size_or_offset(truth):
    np.testing.assert_allclose(own(correlations(3 * truth + 7, truth)), 1)
    assert own(correlations(-truth, truth)) == pytest.approx(-1)
    constant = np.ones_like(truth)
    assert not correlations(constant, truth).any()


def test_smoothing_keeps_to_the_mask_and_its_width():
    mask = np.zeros((21, 21, 21), bool)
    mask[2:19, 2:19, 2:19] = True
    affine = np.diag([2.0, 2.0, 2.0, 1])
    flat = np.ones((2, mask.sum()))
    np.testing.assert_allclose(smooth(flat, mask, affine, 8.0), 1, rtol=1e-5)  # at the rim, too
    point = np.zeros(mask.shape)
    point[10, 10, 10] = 1
    spread_out = np.zeros(mask.shape)
    spread_out[mask] = smooth(point[mask], mask, affine, 8.0)
    assert spread_out[12, 10, 10] == pytest.approx(spread_out[10, 10, 10] / 2, rel=0.02)
    assert smooth(flat, mask, affine, 0.0) is flat


def test_rsa_is_of_the_pattern_of_distances(truth):
    assert rdm(truth)[0, 1] < 0.5 < rdm(truth)[0, 2]
    assert np.diag(rdm(truth)) == pytest.approx(0)
    assert rsa(noisy(truth, 1), truth) > 0.8
    assert abs(rsa(noisy(truth, 1)[[3, 0, 4, 1, 2]], truth)) < 0.7
    assert np.isnan(rsa(truth[:2], truth[:2]))


def test_maps_of_their_own_condition_are_specific(truth):
    subjects = np.stack([noisy(truth, k) for k in range(6)])
    top, margin = specificity(correlations(subjects, truth))
    assert top.mean() == 1
    assert margin.min() > 0
    swapped = subjects[:, [0, 1, 3, 2, 4]]
    assert specificity(correlations(swapped, truth))[0].mean(axis=0).tolist() == [1, 1, 0, 0, 1]
    same = np.broadcast_to(truth.mean(axis=0), truth.shape)
    assert specificity(correlations(same, truth))[0].mean() <= 0.2


def test_missing_maps_are_left_out(truth):
    subjects = np.stack([noisy(truth, k) for k in range(4)])
    subjects[0, 2] = np.nan
    top, _ = specificity(correlations(subjects, truth))
    assert np.isnan(top[0, 2])
    assert np.isfinite(np.delete(top.ravel(), 2)).all()
    assert np.isfinite(group_maps(subjects)).all()
    subjects[:, 2] = np.nan
    group = group_maps(subjects)
    assert not active_voxels(group)[2].any()
    assert np.isfinite(rsa(group, truth))


def test_active_voxels_are_the_strongest(truth):
    active = active_voxels(truth, 0.05)
    assert active.sum(axis=1).tolist() == [20] * CONDITIONS
    assert truth[0][active[0]].min() >= truth[0][~active[0]].max()
    assert response_size(2 * truth, active) == pytest.approx(2 * response_size(truth, active))


def people(truth, seed, subject, run):
    """Maps of ten subjects in two runs each: what is the subject's, and what the run's."""
    rng = np.random.default_rng(seed)
    own_part = subject * rng.standard_normal((10, 1, *truth.shape))
    return truth + own_part + run * rng.standard_normal((10, 2, *truth.shape))


def test_the_subjects_share_is_that_of_the_variance(truth):
    active = active_voxels(truth)
    assert subject_share(people(truth, 1, 1.0, 1.0), active) == pytest.approx(0.5, abs=0.1)
    assert subject_share(people(truth, 2, 2.0, 1.0), active) == pytest.approx(0.8, abs=0.1)
    assert subject_share(people(truth, 3, 0.0, 1.0), active) == pytest.approx(0.0, abs=0.1)
    shifted = people(truth, 1, 1.0, 1.0) + np.array([0, 5.0])[None, :, None, None]
    assert subject_share(shifted, active) == pytest.approx(0.5, abs=0.1)  # repeats may differ
    assert np.isnan(subject_share(people(truth, 1, 1.0, 1.0)[:, :1], active))


def test_spread_is_the_deviation_between_subjects(truth):
    maps = people(truth, 1, 1.5, 0.0)[:, 0]
    assert spread(maps, active_voxels(truth)) == pytest.approx(1.5, rel=0.15)
