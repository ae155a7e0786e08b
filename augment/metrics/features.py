"""Sets of people compared as clouds of points (N, F): distances, and MMD² with its real splits.

MMD² means little by itself, since it depends on features and sample sizes; :func:`real_real_null`
gives what real points score against other real points.
"""

from __future__ import annotations

import numpy as np

from neuromix.augment.errors import InputError


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
