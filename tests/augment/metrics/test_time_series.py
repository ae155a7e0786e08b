import numpy as np
import pytest
from bold_runs import memory

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.time_series import (
    NOISELESS,
    autocorrelation,
    by_quarter,
    connectivity,
    power_shares,
    region_courses,
    spectrum_distance,
    tsnr,
)


def noise(rho, voxels=300, frames=200, seed=0):
    return memory(np.random.default_rng(seed), (voxels, frames), rho).T


def test_tsnr_is_mean_over_deviation():
    residuals = 2.0 * noise(0.0, frames=1000)
    residuals[:, 0] = 0
    found = tsnr(residuals)
    np.testing.assert_allclose(found[1:], 50, rtol=0.15)
    assert found[0] == NOISELESS


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7])
def test_autocorrelation_is_that_of_the_process(rho):
    found = autocorrelation(noise(rho, frames=1000), 4)
    np.testing.assert_allclose(found, rho ** np.arange(1, 5), atol=0.02)


def test_noise_that_never_varies_has_no_memory_nor_rhythm():
    assert not autocorrelation(np.zeros((50, 3)), 3).any()
    assert not power_shares(np.zeros((50, 3)), 32).any()


def test_spectra_tell_rhythms_apart_and_do_not_depend_on_length():
    slow, fast = power_shares(noise(0.7), 32), power_shares(noise(0.0), 32)
    assert slow.sum() == pytest.approx(1)
    assert slow[:4].sum() > 2 * fast[:4].sum()
    longer = power_shares(noise(0.7, frames=600, seed=1), 32)
    assert spectrum_distance(slow, longer) < 0.03
    assert spectrum_distance(slow, fast) > 0.3


def test_connectivity_is_between_regions_that_share_a_course():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((400, 1))
    regions = np.repeat([0, 1, 2, -1], 20)
    residuals = rng.standard_normal((400, 80))
    residuals[:, :40] += 2 * shared
    courses = region_courses(residuals, regions)
    assert courses.shape == (400, 3)
    near, far, other = connectivity(courses)
    assert near > 1.5
    assert abs(far) < 0.15
    assert abs(other) < 0.15
    residuals[:, regions == 2] = 0
    assert np.isfinite(connectivity(region_courses(residuals, regions))).all()


def test_quarters_see_a_run_that_fades():
    even = noise(0.3)
    fading = even * np.linspace(1, 0.3, len(even))[:, None]
    (steady, _), (rising, _) = by_quarter(even), by_quarter(fading)
    assert steady.min() / steady.max() > 0.95
    assert rising.min() / rising.max() < 0.5
    frozen = np.concatenate([even[:150], noise(0.95)[150:]])
    assert np.ptp(by_quarter(frozen)[1]) > 0.3 > np.ptp(by_quarter(even)[1])


def test_runs_that_are_too_short_are_refused():
    with pytest.raises(InputError, match="20 frames is shorter than a segment of 32"):
        power_shares(noise(0.0)[:20], 32)
    with pytest.raises(InputError, match="4 frames has no lag of 5"):
        autocorrelation(noise(0.0)[:4], 5)
