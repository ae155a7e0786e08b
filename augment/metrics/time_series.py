"""How runs vary in time: noise level, memory, rhythm, and what varies together.

All functions take the residuals of the GLM (T, V) in per cent of each voxel's mean: neither drift
nor the response to events is in them.
"""

from __future__ import annotations

import numpy as np

from neuromix.augment.errors import InputError

NOISELESS = 1e4
"""Signal to noise of a voxel that does not vary."""
QUARTERS = 4


def tsnr(residuals: np.ndarray) -> np.ndarray:
    """Temporal signal to noise: mean over standard deviation of what the GLM leaves, (V,).

    In per cent the mean is 100. Voxels that never vary have no finite value and get
    :data:`NOISELESS`.
    """
    return np.minimum(100 / np.maximum(residuals.std(axis=0), 100 / NOISELESS), NOISELESS)


def autocorrelation(residuals: np.ndarray, lags: int) -> np.ndarray:
    """Correlation of the residuals with themselves 1 to ``lags`` frames later, (lags,).

    r_k = sum_t e(t) e(t+k) / sum_t e(t)², the mean over voxels that vary; 0 if none does.
    """
    centred = residuals - residuals.mean(axis=0)
    power = (centred**2).sum(axis=0)
    varies = power > 1e-12
    if lags >= len(residuals):
        raise InputError(f"a run of {len(residuals)} frames has no lag of {lags}; ask for fewer")
    if not varies.any():
        return np.zeros(lags)
    centred, power = centred[:, varies], power[varies]
    return np.array([
        float(((centred[k:] * centred[:-k]).sum(axis=0) / power).mean()) for k in range(1, lags + 1)
    ])  # fmt: skip


def power_shares(residuals: np.ndarray, segment: int) -> np.ndarray:
    """Share of the power by frequency, (segment // 2,), from 1 / (segment TR) to the Nyquist one.

    Welch's periodogram with segments of a stated length, so that runs of any length compare; each
    voxel's power is made to sum to 1, and averaged over voxels that vary.
    """
    from scipy import signal

    if len(residuals) < segment:
        raise InputError(f"a run of {len(residuals)} frames is shorter than a segment of {segment}")
    courses = np.ascontiguousarray(residuals.T)  # segments are cut from the last axis
    power = signal.welch(courses, nperseg=segment)[1][:, 1:]
    total = power.sum(axis=1, keepdims=True)
    varies = total[:, 0] > 1e-12
    if not varies.any():
        return np.zeros(power.shape[1])
    return np.asarray((power[varies] / total[varies]).mean(axis=0))


def spectrum_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Total variation of two spectra of shares: half the sum of |x - y|; 0 equal, 1 disjoint."""
    return float(np.abs(x - y).sum() / 2)


def region_courses(residuals: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Mean course of each region, standardised, (T, R); a region that never varies is 0.

    ``regions`` (V,) are 0 to R - 1, or -1 for none.
    """
    from scipy import sparse

    inside = np.flatnonzero(regions >= 0)
    sizes = np.bincount(regions[inside])
    shares = (1 / sizes[regions[inside]]).astype(np.float32)
    shape = (len(sizes), residuals.shape[1])
    member = sparse.csr_array((shares, (regions[inside], inside)), shape=shape)
    courses = np.ascontiguousarray((member @ residuals.T).T)
    courses = courses - courses.mean(axis=0)
    deviation = courses.std(axis=0)
    return np.divide(courses, deviation, out=np.zeros_like(courses), where=deviation > 1e-6)


def connectivity(courses: np.ndarray) -> np.ndarray:
    """Functional connectivity of courses (T, R) by Fisher's z of each pair's correlation."""
    above = np.triu_indices(courses.shape[1], 1)
    correlation = (courses.T @ courses / len(courses))[above]
    return np.arctanh(np.clip(correlation, -0.999, 0.999))


def by_quarter(residuals: np.ndarray) -> np.ndarray:
    """Noise along a run, (2, 4): median tSNR and mean lag-one correlation in each of its quarters.

    Sees samplers of long runs that fade, freeze or drift. Both are low in short quarters, as the
    mean of a quarter is taken off: compare with real runs of the same length.
    """
    quarters = np.array_split(residuals, QUARTERS)
    return np.array([
        [float(np.median(tsnr(part))) for part in quarters],
        [float(autocorrelation(part, 1)[0]) for part in quarters],
    ])  # fmt: skip
