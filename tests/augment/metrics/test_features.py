import numpy as np
import pytest
from scipy.spatial.distance import cdist

from neuromix.augment.errors import InputError
from neuromix.augment.metrics import features
from neuromix.augment.metrics.features import mmd_bootstrap, near_copies, precision_recall

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


class TestPCA:
    @pytest.fixture(scope="class")
    def volumes(self):
        rng = np.random.default_rng(0)
        ways = rng.standard_normal((6, 5, 5, 5))
        amounts = rng.standard_normal((60, 6)) * [6, 5, 4, 3, 2, 1]
        volumes = 10 + np.einsum("nk,kxyz->nxyz", amounts, ways)
        volumes[:, 0] = 0
        return volumes.astype(np.float32)

    def test_components_are_uncorrelated_and_of_variance_one(self, volumes):
        found = features.pca_features(volumes, components=4)(volumes)
        assert found.shape == (60, 4)
        assert np.allclose(np.cov(found.T), np.eye(4), atol=1e-4)
        assert np.allclose(found.mean(axis=0), 0, atol=1e-4)

    def test_the_largest_come_first_and_new_volumes_are_projected(self, volumes):
        fitted = features.pca_features(volumes, components=4)
        inside = volumes[:, 1:].reshape(60, -1).astype(np.float64)
        _, _, axes = np.linalg.svd(inside - inside.mean(0), full_matrices=False)
        new = volumes[:7] + 0.3
        expected = (new[:, 1:].reshape(7, -1) - inside.mean(0)) @ axes[:4].T
        expected /= ((inside - inside.mean(0)) @ axes[:4].T).std(0, ddof=1)
        assert np.allclose(abs(fitted(new)), abs(expected), atol=1e-3)

    def test_only_the_brain_counts(self, volumes):
        fitted = features.pca_features(volumes, components=4)
        changed = volumes.copy()
        changed[:, 0] = 99
        assert np.array_equal(fitted(changed), fitted(volumes))

    def test_few_volumes_give_few_features(self, volumes):
        assert features.pca_features(volumes[:17])(volumes).shape == (60, 4)
        with pytest.raises(InputError, match="four are needed"):
            features.pca_features(volumes[:3])
        with pytest.raises(InputError, match="remove duplicates"):
            features.pca_features(np.repeat(volumes[:2], 20, axis=0))


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


class TestPrecisionRecall:
    def test_it_counts_balls(self):
        real, synthetic, k = points(15, 0, size=2), points(12, 1, shift=0.7, size=2), 3
        across = cdist(real, synthetic)
        reach = np.sort(cdist(real, real), axis=1)[:, k]
        reach_synthetic = np.sort(cdist(synthetic, synthetic), axis=1)[:, k]
        precision = np.mean([any(across[:, j] < reach) for j in range(12)])
        recall = np.mean([any(across[i] < reach_synthetic) for i in range(15)])
        assert precision_recall(real, synthetic, k) == pytest.approx((precision, recall))

    def test_a_lost_mode_costs_recall_and_strays_cost_precision(self):
        real = np.concatenate([points(40, 0), points(40, 1, shift=20)])
        precision, recall = precision_recall(real, points(60, 2))
        assert precision > 0.85 and recall < 0.55
        stray = np.concatenate([real + 0.01, points(80, 3, shift=-20)])
        precision, recall = precision_recall(real, stray)
        assert recall > 0.95 and precision == 0.5

    def test_too_few_points_are_refused(self):
        with pytest.raises(InputError, match="no 5-th neighbours"):
            precision_recall(points(20, 0), points(5, 1))


class TestCopies:
    @pytest.mark.parametrize("scale", [1.0, 0.8])
    def test_new_samples_are_no_copies_though_the_training_set_is_larger(self, scale):
        train, heldout = points(400, 0, size=20), points(100, 1, size=20)
        copies, real = near_copies(points(200, 2, size=20, scale=scale), train, heldout)
        assert copies.mean() < 0.04 and real.sum() == 1

    def test_copies_are_found_one_by_one(self):
        train, heldout = points(400, 0, size=20), points(100, 1, size=20)
        synthetic = points(50, 2, size=20)
        synthetic[[3, 8]] = train[[5, 6]] + 0.1 * points(2, 3, size=20)
        copies, _ = near_copies(synthetic, train, heldout)
        assert copies[[3, 8]].all() and copies.sum() <= 4


def test_real_and_synthetic_sets_of_one_size_stand_beside_each_other():
    real, synthetic = np.arange(20.0)[:, None], 100 + np.arange(7.0)[:, None]
    seen = []

    def metric(x, y):
        seen.append((x, y))
        return [y.mean() - x.mean(), len(y)]

    values, references = features.beside_real(metric, real, synthetic, splits=30)
    assert values.shape == references.shape == (30, 2)
    assert (values[:, 1] == 7).all() and (references[:, 1] == 7).all()
    assert (values[:, 0] > 80).all() and abs(references[:, 0].mean()) < 2
    for (a, s), (again, b) in zip(seen[::2], seen[1::2], strict=True):
        assert a is again and not set(a.ravel()) & set(b.ravel())
        assert set(s.ravel()) == set(synthetic.ravel())
