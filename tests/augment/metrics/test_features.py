import numpy as np
import pytest
from scipy.spatial.distance import cdist

from neuromix.augment.errors import InputError
from neuromix.augment.metrics import features
from neuromix.augment.metrics.features import mmd_bootstrap

WIDTH = 2.5


def points(n, seed, shift=0.0, scale=1.0, size=4):
    return shift + scale * np.random.default_rng(seed).standard_normal((n, size))


def test_distances_are_exact_far_from_zero():
    x, y = points(20, 0, shift=1000), points(30, 1, shift=1000)
    assert np.allclose(features.squared_distances(x, y), cdist(x, y) ** 2, atol=1e-3)


def test_the_bandwidth_is_the_median_distance():
    x = points(50, 0)
    expected = np.median([np.linalg.norm(x[i] - x[j]) for i in range(50) for j in range(i)])
    assert features.median_bandwidth(x) == pytest.approx(expected, rel=1e-5)


def mmd2(x, y, *, bandwidth):
    return mmd_bootstrap(x, y, bandwidth=bandwidth, draws=1)[0]


class TestMMD:
    def test_it_is_the_unbiased_estimate(self):
        x, y = points(7, 0), points(9, 1, shift=1)

        def k(a, b):
            return np.exp(-((a - b) ** 2).sum() / (2 * WIDTH**2))

        among_x = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
        among_y = np.mean([k(y[i], y[j]) for i in range(9) for j in range(9) if i != j])
        across = np.mean([k(a, b) for a in x for b in y])
        expected = among_x + among_y - 2 * across
        assert mmd2(x, y, bandwidth=WIDTH) == pytest.approx(expected, abs=1e-6)

    def test_equal_distributions_give_zero_on_average(self):
        values = [mmd2(points(20, [s, 0]), points(30, [s, 1]), bandwidth=WIDTH) for s in range(300)]
        error = np.std(values) / np.sqrt(len(values))  # a biased one would be 0.05, or 30 errors
        assert abs(np.mean(values)) < 3 * error < 0.01

    def test_real_real_splits_are_around_zero(self):
        null = features.real_real_null(points(80, 0), bandwidth=WIDTH, splits=2000)
        assert null.shape == (2000,)
        assert abs(null.mean()) < 3 * null.std() / np.sqrt(2000)
        smaller = features.real_real_null(points(80, 0), bandwidth=WIDTH, size=10)
        assert smaller.std() > 2 * null.std()
        with pytest.raises(InputError, match="two sets of 41"):
            features.real_real_null(points(80, 0), bandwidth=WIDTH, size=41)

    @pytest.mark.parametrize("fault", [{"shift": 0.5}, {"scale": 0.6}, {"scale": 0.0}])
    def test_other_means_and_other_spreads_are_found(self, fault):
        real = points(80, 0)
        value, draws = mmd_bootstrap(real, points(40, 1, **fault), bandwidth=WIDTH, draws=200)
        p95 = np.quantile(features.real_real_null(real, bandwidth=WIDTH, splits=200), 0.95)
        assert value > 1.5 * p95 > 0
        assert np.quantile(draws, 0.025) > 0

    def test_the_bootstrap_pairs_no_point_with_itself(self):
        """Counting pairs of a point and itself would shift the draws up by about 0.05."""
        value, draws = mmd_bootstrap(points(30, 0), points(30, 1), bandwidth=WIDTH)
        low, high = np.quantile(draws, (0.025, 0.975))
        assert low < value < high
        assert abs((low + high) / 2 - value) < 0.025
