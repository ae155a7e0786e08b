"""Do maps of effects look like real ones, tell conditions apart, and differ between subjects?

Maps are effects of conditions in per cent (:mod:`neuromix.augment.metrics.glm`): one subject's (C,
V), those of subjects (S, C, V), or those of each of their runs (S, L, C, V), where L counts
repeats. What a subject lacks is NaN. A reference is the mean map of a group of real subjects, (C,
V).
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy import ndimage

ACTIVE = 0.02
"""Share of the brain that counts as active: its strongest voxels in a reference map."""


def smooth(maps: np.ndarray, mask: np.ndarray, affine: np.ndarray, fwhm: float) -> np.ndarray:
    """Maps (..., V) smoothed by a Gaussian of ``fwhm`` mm inside a mask (X, Y, Z).

    At the rim the mean is over voxels of the mask alone. Least squares are linear, so that this is
    what smoothing the runs would give, but for their scaling to per cent. The mask is true in V
    voxels, maps hold no NaN, and a width of 0 changes nothing.
    """
    if not fwhm:
        return maps
    sigma = fwhm / np.linalg.norm(affine[:3, :3], axis=0) / 2.355
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="constant")[mask]
    volume = np.zeros(mask.shape, dtype=np.float32)
    result = np.empty(maps.shape, dtype=np.float32)
    for place in np.ndindex(maps.shape[:-1]):
        volume[mask] = maps[place]
        result[place] = ndimage.gaussian_filter(volume, sigma, mode="constant")[mask] / weight
    return result


def group_maps(maps: np.ndarray) -> np.ndarray:
    """Mean over the first axis, of what is not NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a condition that nobody has stays NaN
        return np.asarray(np.nanmean(maps, axis=0))


def correlations(maps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Pearson's correlation (..., C, D) over voxels of maps (..., C, V) and references (D, V).

    NaN for a missing map, 0 for a constant one.
    """
    return np.asarray(standard(maps) @ standard(reference).T)


def rdm(maps: np.ndarray) -> np.ndarray:
    """Representational dissimilarity of conditions: 1 - Pearson between their maps, (C, C)."""
    return 1 - correlations(maps, maps)


def rsa(maps: np.ndarray, reference: np.ndarray) -> float:
    """Representational similarity: Pearson between the upper triangles of two RDMs of maps (C, V).

    Kriegeskorte et al. (2008). NaN below three conditions, which have one pair or none.
    """
    above = np.triu_indices(len(maps), 1)
    pairs = np.stack([rdm(maps)[above], rdm(reference)[above]])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    return float(np.corrcoef(pairs)[0, 1]) if pairs.shape[1] > 2 else np.nan


def own(table: np.ndarray) -> np.ndarray:
    """The correlations (..., C) of maps with their own condition's reference, of (..., C, C)."""
    return np.diagonal(table, axis1=-2, axis2=-1)


def specificity(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Does each map resemble its own condition more than any other?

    With r_cd the correlation of the map of condition c with the reference map of condition d:

        top-1 = 1 if arg max_d r_cd is c, else 0,      margin = r_cc - max_{d != c} r_cd.

    Of a table (..., C, C) of :func:`correlations`, each is (..., C); NaN for a missing map, and
    where no other is there.
    """
    is_other = ~np.eye(table.shape[-1], dtype=bool) & np.isfinite(table)
    best = np.where(is_other, table, -np.inf).max(axis=-1)
    margin = own(table) - np.where(np.isfinite(best), best, np.nan)
    return np.where(np.isnan(margin), np.nan, margin > 0), margin


def active_voxels(reference: np.ndarray, share: float = ACTIVE) -> np.ndarray:
    """The strongest voxels of each reference map, at least five: masks (C, V)."""
    count = max(5, round(share * reference.shape[1]))
    strength = np.nan_to_num(reference, nan=-np.inf)
    limit = -np.partition(-strength, count - 1, axis=1)[:, count - 1 : count]
    return (strength >= limit) & np.isfinite(strength)  # a condition that nobody has has none


def response_size(group: np.ndarray, active: np.ndarray) -> float:
    """Mean effect of a group (C, V) in per cent where the reference is active (C, V).

    Correlations do not see how strong a response is; this does.
    """
    return float(np.nanmean(np.where(active, group, np.nan)))


def spread(maps: np.ndarray, active: np.ndarray) -> float:
    """Standard deviation over subjects of their maps (S, C, V) where the reference is active.

    The root of the mean variance, in per cent. It counts noise as well as what a subject is.
    """
    chosen = np.moveaxis(maps, 0, -1)[active]
    return float(np.sqrt(np.nanmean(np.nanvar(chosen, axis=1, ddof=1))))


def subject_share(maps: np.ndarray, active: np.ndarray) -> float:
    """Share of the variance of single runs' maps that is the subject's, where it is active.

    With m_sl the map of subject s in repeat l, less the mean over subjects of that repeat, it is an
    intraclass correlation (Shrout and Fleiss, 1979; consistency), pooled over voxels v and
    conditions c:

        share = sum_scv mean_{l != k} m_slcv m_skcv / sum_scv mean_l m_slcv².

    0 where each run is the same mean response and noise, or where runs of one subject have nothing
    in common; NaN if no subject has two runs of a condition. ``maps`` are (S, L, C, V).
    """
    chosen = np.moveaxis(maps, (0, 1), (-2, -1))[active]  # (A, S, L)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        chosen = chosen - np.nanmean(chosen, axis=1, keepdims=True)
    count = np.isfinite(chosen).sum(axis=2)
    twice = count > 1
    if not twice.any():
        return np.nan
    filled = np.nan_to_num(chosen)
    squares = (filled**2).sum(axis=2)
    products = filled.sum(axis=2) ** 2 - squares
    own = products[twice] / (count * (count - 1))[twice]
    total = float((squares[twice] / count[twice]).sum())
    return float(own.sum()) / total if total > 0 else 0.0


def standard(maps: np.ndarray) -> np.ndarray:
    """Maps without their mean, of unit length: their products are correlations."""
    centred = maps - maps.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.asarray(centred / np.maximum(length, 1e-12))
