"""Sets of volumes compared as clouds of points: one point of F features for each volume.

Features come from any callable ``(N, X, Y, Z) -> (N, F)``: :func:`pca_features`, which needs no
training, or a layer of a network trained on other subjects of the cohort. None of these distances
means much by itself, since each depends on features and sample sizes; :func:`beside_real` and
:func:`real_real_null` give what real volumes score against fresh real volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.anatomy import common_mask

Features = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class PCAFeatures:
    """Whitened principal components of volumes in the brain; made by :func:`pca_features`."""

    mask: np.ndarray
    pca: PCA

    def __call__(self, volumes: np.ndarray) -> np.ndarray:
        """Features (N, F) of volumes (N, X, Y, Z)."""
        features: np.ndarray = self.pca.transform(volumes[:, self.mask])
        return features


def pca_features(
    other: np.ndarray, mask: np.ndarray | None = None, components: int = 32
) -> PCAFeatures:
    """Fit a feature map to real volumes: their largest principal components, each of variance one.

    Fit it to real subjects that are neither compared later nor the sampler's. Volumes vary more
    along components fitted to them than new volumes do (2.5 times as much along the 32nd of 400
    phantom subjects), so that with components of the training subjects the training subjects
    themselves fail a comparison with held-out ones, and with them every good sampler.

    Args:
        other: Real volumes (N, X, Y, Z).
        mask: Voxels to use, (X, Y, Z); by default :func:`common_mask` of ``other``.
        components: How many features to keep; at most a quarter of the volumes are.
    """
    mask = common_mask(other) if mask is None else mask
    keep = min(components, len(other) // 4)
    if keep < 1:
        raise InputError(f"{len(other)} volumes are too few to fit features to; four are needed")
    pca = PCA(keep, whiten=True, svd_solver="full").fit(other[:, mask].astype(np.float32))
    if pca.explained_variance_[-1] <= 1e-6 * pca.explained_variance_[0]:
        raise InputError(
            f"{len(other)} volumes differ in fewer than {keep} ways; "
            "remove duplicates or ask for fewer components"
        )
    return PCAFeatures(mask, pca)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|² of points (N, F) and (M, F), as (N, M) in float32 matrix products."""
    centre = y.mean(axis=0)  # keeps the terms small that cancel
    x, y = (x - centre).astype(np.float32), (y - centre).astype(np.float32)
    result = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * (x @ y.T)
    return np.maximum(result, 0)


def median_bandwidth(real: np.ndarray) -> float:
    """The median distance between real points (N, F): the width of the kernel of MMD².

    Take other real volumes than those compared, so that the width is fixed before looking.
    """
    upper = np.triu_indices(len(real), 1)
    return float(np.sqrt(np.median(squared_distances(real, real)[upper])))


def mmd_bootstrap(
    real: np.ndarray, synthetic: np.ndarray, *, bandwidth: float, draws: int = 1000, seed: int = 0
) -> tuple[float, np.ndarray]:
    """MMD² (unbiased) of points (N, F) and (M, F), and of both sets drawn anew, (draws,).

        MMD² = mean over i≠j of k(x_i, x_j) + mean over i≠j of k(y_i, y_j) - 2 mean of k(x_i, y_j),
        k(a, b) = exp(-|a - b|² / (2 bandwidth²))

    It is zero on average, and so negative half of the time, when both sets have one distribution;
    above zero in the limit for any two that differ (Gretton et al., JMLR 13, 2012). ``bandwidth``
    is chosen without these points.
    """
    rng = np.random.default_rng(seed)
    n, m = len(real), len(synthetic)
    kernel = _kernel(np.concatenate([real, synthetic]), bandwidth)
    chosen = np.repeat([1, 0], [n, m]).astype(np.float32)[:, None]
    drawn, other = np.zeros((2, n + m, draws), dtype=np.float32)
    drawn[:n] = rng.multinomial(n, np.full(n, 1 / n), draws).T
    other[n:] = rng.multinomial(m, np.full(m, 1 / m), draws).T
    return float(_mmd2(kernel, chosen, 1 - chosen)[0]), _mmd2(kernel, drawn, other)


def real_real_null(
    real: np.ndarray,
    *,
    bandwidth: float,
    splits: int = 1000,
    size: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """MMD² between two disjoint random sets of real points (N, F), over many splits, (splits,).

    Synthetic points beside ``size`` real ones (by default half) should stay below its 95th
    percentile.
    """
    size = len(real) // 2 if size is None else size
    if not 2 <= size <= len(real) // 2:
        raise InputError(
            f"{len(real)} real points cannot be split into two sets of {size}; "
            f"allowed are 2 to {len(real) // 2}"
        )
    side = np.zeros((len(real), splits), dtype=np.int8)
    side[:size], side[size : 2 * size] = 1, 2
    side = np.random.default_rng(seed).permuted(side, axis=0)
    return _mmd2(
        _kernel(real, bandwidth), (side == 1).astype(np.float32), (side == 2).astype(np.float32)
    )


def precision_recall(real: np.ndarray, synthetic: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Shares of points in balls around those of the other set.

    A ball reaches to the k-th nearest other point of its own set.

    - precision: share of synthetic points in at least one real ball (do they look real?),
    - recall: share of real points in at least one synthetic ball (is all of the variety there?).

    Kynkäänniemi et al. (NeurIPS 2019).
    """
    if k >= min(len(real), len(synthetic)):
        raise InputError(
            f"{len(real)} real and {len(synthetic)} synthetic points have no {k}-th neighbours; "
            "add volumes or lower k"
        )
    # The nearest point is the point itself, so index k is the k-th other one.
    reach_real, reach_synthetic = (
        np.partition(squared_distances(each, each), k, axis=1)[:, k] for each in (real, synthetic)
    )
    across = squared_distances(real, synthetic)
    precision = (across < reach_real[:, None]).any(axis=0).mean()
    return float(precision), float((across < reach_synthetic).any(axis=1).mean())


def near_copies(
    synthetic: np.ndarray, train: np.ndarray, heldout: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Are synthetic volumes closer to training subjects than new real subjects are?

    For each synthetic volume s and each held-out subject h

        ratio(s) = min over t of |s - t| / min over h of |s - h|,
        real_ratio(h) = min over t of |h - t| / min over h'≠h of |h - h'|.

    The held-out set in the denominator cancels blur and noise, which change all distances, and the
    real ratios hold what the sizes of the two sets do. Copies have ratios near 0.

    Volumes are (N, V), (T, V) and (H, V). Returns for synthetic (N,) and held-out ones (H,) whether
    the ratio is below the 1st percentile of real ratios, as about 1 % of honest samples are (and
    some 5 % of blurred ones, since less noise spreads the ratios).
    """
    among = squared_distances(heldout, heldout)
    np.fill_diagonal(among, np.inf)
    beside = (squared_distances(synthetic, heldout), among)
    ratio, real_ratio = (
        np.sqrt(squared_distances(each, train).min(axis=1) / np.maximum(other.min(axis=1), 1e-12))
        for each, other in zip((synthetic, heldout), beside, strict=True)
    )
    close = np.quantile(real_ratio, 0.01)
    return ratio < close, real_ratio < close


def beside_real(
    metric: Callable[[np.ndarray, np.ndarray], float | Sequence[float]],
    real: np.ndarray,
    synthetic: np.ndarray,
    *,
    splits: int = 50,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """A metric that depends on sample size, of synthetic and of real sets of one size.

    Each split draws two disjoint sets A and B of n real points and a set S of n synthetic ones, n =
    min(half of the real points, all synthetic points).

    ``metric`` takes two sets (n, F), the first one real, and returns one number or K. Returns
    metric(A, S) and metric(A, B), each (splits,) or (splits, K).
    """
    rng = np.random.default_rng(seed)
    n = min(len(real) // 2, len(synthetic))
    values, references = [], []
    for _ in range(splits):
        order = rng.permutation(len(real))
        a, b = real[order[:n]], real[order[n : 2 * n]]
        values.append(metric(a, synthetic[rng.permutation(len(synthetic))[:n]]))
        references.append(metric(a, b))
    return np.array(values), np.array(references)


def limits(draws: np.ndarray, value: float) -> list[float]:
    """95 % interval, which reaches to the value: Jeffreys' ends short of a share of 0 or 1."""
    low, high = np.nanquantile(draws, (0.025, 0.975)).tolist()
    return [min(low, value), max(high, value)]


def _kernel(points: np.ndarray, bandwidth: float) -> np.ndarray:
    """Gaussian kernel between all points, (N, N), zero on the diagonal."""
    kernel = np.exp(-squared_distances(points, points) / (2 * bandwidth**2))
    np.fill_diagonal(kernel, 0)
    return kernel


def _mmd2(kernel: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """MMD² for each pair of columns that say how often each point is in x and in y, (N, P).

    A point drawn twice makes no pair with itself: the kernel's diagonal is zero, and neither the
    numerator nor the number of pairs counts it.
    """
    kernel_x, kernel_y = kernel @ x, kernel @ y
    pairs_x = x.sum(axis=0) ** 2 - (x**2).sum(axis=0)
    pairs_y = y.sum(axis=0) ** 2 - (y**2).sum(axis=0)
    among_x = (x * kernel_x).sum(axis=0) / pairs_x
    among_y = (y * kernel_y).sum(axis=0) / pairs_y
    across = (x * kernel_y).sum(axis=0) / (x.sum(axis=0) * y.sum(axis=0))
    return (among_x + among_y - 2 * across).astype(np.float64)
