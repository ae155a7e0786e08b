"""Metrics of completed images, for many samples or one prediction of each held-out subject.

With y the real image (N, X, Y, Z) of a subject, x_1 ... x_K samples of it and x their mean, all
inside the brain:

==================  ================================================================================
psnr, ssim          of x, with an explicit data range
crps                mean |x_k - y| - mean |x_k - x_l| / 2, the second over different pairs:
                    how far the distribution is from what happened; of one prediction, its error
coverage            share of voxels whose y lies in the central interval of the samples, over the
                    share that is due: one is right
spectrum            mean |log10| of the ratio of the power of samples to that of real images, over
                    bands of wavelength; 0 is right, blur and grain are not
pattern             correlation, over subjects, of x with y in each Dosenbach region, averaged
uncertainty         correlation, over voxels, of the samples' deviation with |x - y|, averaged
==================  ================================================================================

A figure comes with a 95 % interval of a bootstrap over subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.similarity import ssim

BANDS = 8
"""Of the spectrum, evenly spaced in frequency."""
ALLOWED = 0.8
"""Nominal coverage."""
RESAMPLES = 2000


class Scores(NamedTuple):
    """What is kept of one subject."""

    numbers: dict[str, float]
    power: np.ndarray
    """Of samples and of the real image in each band, (2, BANDS)."""
    regions: np.ndarray
    """Of the mean and of the real image in each region, (2, R)."""


def completion_table(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    mask: np.ndarray,
    data_range: float,
    regions: np.ndarray | None,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Judge the completions of held-out subjects.

    Args:
        pairs: For each subject its samples, (K, N, X, Y, Z) with K = 1 for a prediction, and the
            real image (N, X, Y, Z).
        mask: Voxels to judge, booleans (X, Y, Z).
        data_range: Largest possible value less the smallest.
        regions: Weights of the voxels of each region, (R, X, Y, Z), where they are known.
        seed: Of the bootstrap.

    Returns:
        By metric ``{"value", "low", "high"}``. ``coverage`` and ``uncertainty`` are left out where
        there is one prediction a subject, ``pattern`` where there are no regions.
    """
    scores = [subject_scores(s, y, mask, data_range, regions) for s, y in pairs]
    if len(scores) < 2:
        raise InputError(
            f"{len(scores)} subjects came; an interval over subjects needs two or more"
        )
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(scores), size=(RESAMPLES, len(scores)))
    everyone = np.arange(len(scores))
    table: dict[str, dict[str, float]] = {}

    def add(name: str, statistic: Callable[[np.ndarray], float]) -> None:
        low, high = np.nanpercentile([statistic(draw) for draw in draws], (2.5, 97.5))
        table[name] = {"value": statistic(everyone), "low": float(low), "high": float(high)}

    for name in scores[0].numbers:
        values = np.array([score.numbers[name] for score in scores])
        if name == "error":  # pooled, as the phantom's ideal is
            add("psnr", lambda k, v=values: float(10 * np.log10(data_range**2 / v[k].mean())))  # type: ignore[misc]
        else:
            add(name, lambda k, v=values: float(v[k].mean()))  # type: ignore[misc]
    power = np.stack([score.power for score in scores])
    add("spectrum", lambda k: _spectral_error(power[k]))
    if regions is not None:
        shown = np.stack([score.regions for score in scores])
        add("pattern", lambda k: _region_correlation(shown[k]))
    return table


def subject_scores(
    samples: np.ndarray,
    real: np.ndarray,
    mask: np.ndarray,
    data_range: float,
    regions: np.ndarray | None,
) -> Scores:
    """The scores of one subject; see :func:`completion_table`."""
    if samples.shape[1:] != real.shape:
        raise InputError(f"samples of {samples.shape[1:]} came for a real image of {real.shape}")
    mean = samples.mean(axis=0)
    inside, truth, middle = samples[:, :, mask], real[:, mask], mean[:, mask]
    numbers = {
        "error": float(((middle - truth).astype(np.float64) ** 2).mean()),
        "ssim": float(ssim(mean, real, data_range=data_range, mask=mask).mean()),
        "crps": crps(inside, truth),
    }
    if len(samples) > 1:
        numbers["coverage"] = coverage(inside, truth)
        deviation = inside.std(axis=0, ddof=1).ravel()
        error = np.abs(middle - truth).ravel()
        flat = min(deviation.std(), error.std()) < 1e-9
        numbers["uncertainty"] = 0.0 if flat else float(np.corrcoef(deviation, error)[0, 1])
    power = np.stack(
        [band_power(samples[:4] * mask).mean(axis=0), band_power(real[None] * mask)[0]]
    )
    regions = np.zeros((0, *mask.shape)) if regions is None else regions
    size = np.maximum((regions * mask).sum(axis=(1, 2, 3)), 1e-6)
    shown = [np.einsum("xyz,rxyz->r", v.mean(axis=0) * mask, regions) / size for v in (mean, real)]
    return Scores(numbers, power, np.stack(shown))


def crps(samples: np.ndarray, truth: np.ndarray) -> float:
    """Continuous ranked probability score of samples (K, ...) of a truth (...), averaged."""
    count = len(samples)
    distance = float(np.abs(samples - truth).mean())
    if count == 1:
        return distance
    ordered = np.sort(samples, axis=0)
    # The sum over pairs of |x_k - x_l|, from the order statistics.
    ranks = (2 * np.arange(1, count + 1) - count - 1).reshape(-1, *[1] * truth.ndim)
    spread = float((ranks * ordered).sum(axis=0).mean()) * 2 / (count * (count - 1))
    return distance - spread / 2


def coverage(samples: np.ndarray, truth: np.ndarray) -> float:
    """Share of values in the central interval of K samples, over its nominal probability.

    Between the order statistics i and K + 1 - i lies a value that is exchangeable with the samples
    with probability (K + 1 - 2 i) / (K + 1); i is chosen so that this is near 0.8. One is right.
    """
    count = len(samples)
    i = max(round((1 - ALLOWED) / 2 * (count + 1)), 1)
    ordered = np.sort(samples, axis=0)
    within = (ordered[i - 1] <= truth) & (truth <= ordered[count - i])
    return float(within.mean()) / ((count + 1 - 2 * i) / (count + 1))


def band_power(volumes: np.ndarray) -> np.ndarray:
    """Power of volumes (M, N, X, Y, Z) in bands of spatial frequency, (M, BANDS)."""
    axes = [np.fft.fftfreq(side) for side in volumes.shape[2:]]
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij")))
    band = np.minimum((radius / 0.5 * BANDS).astype(int), BANDS)  # corners beyond are left out
    result = np.empty((len(volumes), BANDS))
    for m, volume in enumerate(volumes):
        power = (np.abs(np.fft.fftn(volume, axes=(1, 2, 3))) ** 2).mean(axis=0)
        sums = np.bincount(band.ravel(), power.ravel(), BANDS + 1)[:BANDS]
        result[m] = sums / np.bincount(band.ravel(), minlength=BANDS + 1)[:BANDS]
    return result


def source_use(errors: dict[str, float]) -> float:
    """What a shuffled source costs, as a share of what the ideal regression gains over the mean.

    By mean squared errors of the completion with the right source (``own``), with that of another
    subject (``shuffled``), of the mean volume (``mean``) and of the ideal regression (``ideal``),
    the outline of the brain being the subject's own in all.
    """
    gained = errors["mean"] - errors["ideal"]
    return float((errors["shuffled"] - errors["own"]) / gained)


def _spectral_error(power: np.ndarray) -> float:
    made, real = power.mean(axis=0)
    return float(np.abs(np.log10(np.maximum(made, 1e-12) / np.maximum(real, 1e-12))).mean())


def _region_correlation(shown: np.ndarray) -> float:
    """Mean over regions of the correlation over subjects; a constant prediction has none."""
    made, real = shown[:, 0], shown[:, 1]
    made, real = made - made.mean(axis=0), real - real.mean(axis=0)
    size = np.sqrt((made**2).sum(axis=0) * (real**2).sum(axis=0))
    varies = real.std(axis=0) > 1e-9
    together = (made * real).sum(axis=0) / np.maximum(size, 1e-12)
    return float(together[varies].mean()) if varies.any() else float("nan")
