"""What gives samples away beside people whom no sampler saw: structure, texture, variety, spectrum.

A montage, a low denoising error and one distance of sets have each passed for realism. These look
where samples failed, at volumes (N, X, Y, Z) on one grid whose last axis runs through the slices:

==============  ====================================================================================
structure       AUC of telling samples from people by the coarse image: slices pooled 4 x 4
texture         AUC by detail: spectrum, gradients, what pooling loses, Laplacian, steps of slices
mmd             MMD² of the coarse image over the 95th percentile of real splits
spread          mean deviation of a voxel over samples, over that of people
spectrum        the band of wavelengths whose log power is farthest off, in deviations of people
==============  ====================================================================================

All volumes, real and made, are seen through one :class:`Brain`: a two-sample test finds the noise
that a file format left in the background before it finds anything of a brain.

An AUC of 0.5 is perfect. Cross-validation pulls it down: the mean of what is left out leans the
other way, and at 25 to 60 a set two sets of one kind have 0.3 to 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuromix.augment.errors import InputError
from neuromix.augment.metrics import features as clouds

FAINT = 0.06
"""Of the range: lower values are background."""
TISSUE = 0.9
"""Quantile of a volume's tissue that is its brightness."""
CELL = 4
"""Pixels along a side of what is pooled for the structure."""
COMPONENTS = 20
FULL = 0.25
"""Share of the largest slice's brain that a slice must hold to be looked at."""
RINGS = 16
"""Bands of the spectrum, evenly spaced up to the Nyquist frequency of a slice."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
FOLDS, REPEATS = 5, 4
DRAWS = 1000
"""Of every interval, a bootstrap over people."""
KEPT = 200
"""Of the draws."""
SPLITS = 1000
TINY = 1e-10


@dataclass(frozen=True, eq=False)
class Brain:
    """How each volume is looked at: where, from which value on, and how bright it is made.

    Args:
        mask: Where half of the training people have tissue, (X, Y, Z).
        top: The 99.9 % quantile of training people; values below :data:`FAINT` of it become 0.
        is_levelled: Whether a volume is divided by its own brightness first, for contrasts whose
            scale differs from scan to scan. An MD keeps its unit.
    """

    mask: np.ndarray
    top: float
    is_levelled: bool

    @classmethod
    def of(cls, train: np.ndarray, *, is_levelled: bool = True) -> Brain:
        """Learn it from training people (T, X, Y, Z)."""
        seen = level(train) if is_levelled else train
        top = float(np.quantile(seen, 0.999))
        mask = (seen >= FAINT * top).mean(axis=0) >= 0.5
        if top <= 0 or not mask.any():
            raise InputError(
                "no voxel has tissue in half of the training people; bring the maps to one grid, "
                "with values above 0 in the brain, by `neuromix prepare`"
            )
        return cls(mask, top, is_levelled)

    def __call__(self, volumes: np.ndarray) -> np.ndarray:
        """Volumes (N, X, Y, Z), 0 outside the brain and where they are faint."""
        broken = ~np.isfinite(volumes.sum(axis=(1, 2, 3), dtype=np.float64))
        if broken.any():
            raise InputError(
                f"{broken.sum()} of {len(volumes)} volumes hold NaN or infinity, the first at "
                f"index {broken.argmax()}; leave them out or make them anew"
            )
        seen = level(volumes) if self.is_levelled else volumes
        is_tissue = self.mask & (seen >= FAINT * self.top)
        return np.where(is_tissue, seen, 0).astype(np.float32)


def level(volumes: np.ndarray) -> np.ndarray:
    """Each volume divided by its brightness: the 90 % quantile of what is not background."""
    result = np.empty(volumes.shape, dtype=np.float32)
    for k, volume in enumerate(volumes):
        tissue = volume[volume > FAINT * np.quantile(volume, 0.999)]
        bright = float(np.quantile(tissue, TISSUE)) if tissue.size else 0.0
        result[k] = volume / bright if bright > 0 else 0
    return result


def pool(volumes: np.ndarray, side: int) -> np.ndarray:
    """Means (N, X', Y', Z) of squares of each slice; what hangs over the edge counts as 0."""
    n, x, y, z = volumes.shape
    padded = np.pad(volumes, ((0, 0), (0, -x % side), (0, -y % side), (0, 0)))
    shape = (n, padded.shape[1] // side, side, padded.shape[2] // side, side, z)
    means: np.ndarray = padded.reshape(shape).mean(axis=(2, 4))
    return means


def structure(volumes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The coarse image of each volume: its pooled cells in the brain, (N, F)."""
    filled = pool(mask[None].astype(np.float32), CELL)[0]
    return pool(volumes, CELL)[:, filled >= min(0.5, filled.max())]


def ring_power(volumes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Log power in rings of frequency, averaged over the slices that hold much brain, (N, R).

    Rings that no frequency of a small slice falls into are left out, and so are the corners. An end
    slice, where one volume has tissue and the next has none, would outweigh all the others.
    """
    x, y = mask.shape[:2]
    frequency = np.hypot(np.fft.fftfreq(x)[:, None], np.fft.rfftfreq(y))
    ring = np.minimum((frequency * 2 * RINGS).astype(int), RINGS).ravel()
    count = np.bincount(ring, minlength=RINGS + 1)[:RINGS]
    area = mask.sum(axis=(0, 1))
    kept = np.flatnonzero(area >= FULL * area.max())
    result = np.empty((len(volumes), int((count > 0).sum())))
    for n, volume in enumerate(volumes):
        power = np.abs(np.fft.rfft2(volume[:, :, kept], axes=(0, 1))) ** 2
        flat = power.reshape(-1, len(kept)).T
        sums = np.stack([np.bincount(ring, each, RINGS + 1)[:RINGS] for each in flat])
        result[n] = np.log(np.maximum((sums / np.maximum(count, 1))[:, count > 0], TINY)).mean(0)
    return result


def texture(volumes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the detail of each volume is like, wherever it lies, (N, F).

    Log power in rings; quantiles of the gradient in slices; log variance of what pooling by 2 and
    by 4 loses; mean size of the Laplacian in slices and of the steps between slices.
    """
    x, y = mask.shape[:2]
    pair = mask[:, :, 1:] & mask[:, :, :-1]
    rows = []
    for volume in volumes:
        slope = np.hypot(*np.gradient(volume, axis=(0, 1)))[mask]
        coarse = [pool(volume[None], k)[0].repeat(k, 0).repeat(k, 1)[:x, :y] for k in (2, CELL)]
        bend = sum(np.roll(volume, step, axis) for axis in (0, 1) for step in (-1, 1)) - 4 * volume
        steps = np.abs(np.diff(volume, axis=2))[pair]
        rows.append([
            *np.quantile(slope, QUANTILES),
            *(np.log(max((volume - each)[mask].var(), TINY)) for each in coarse),
            np.abs(bend)[mask].mean(),
            steps.mean() if steps.size else 0.0,
        ])  # fmt: skip
    return np.hstack([ring_power(volumes, mask), np.array(rows)])


def two_sample_auc(real: np.ndarray, made: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """AUC of a logistic regression (C = 0.1) that tells made from real points (N, F), (M, F).

    Features are standardised and, where there are more than twice :data:`COMPONENTS`, turned into
    so many principal components; all of it within each of five folds, dealt four times, in which
    copies of one volume stay together. A person is compared with those of the same fold alone, as
    each fold's classifier has its own scale.
    """
    fewest = min(len(real), len(made))
    if fewest < FOLDS:
        raise InputError(
            f"{len(real)} real and {len(made)} made volumes can't be told apart in {FOLDS} folds; "
            f"give {FOLDS} or more of each"
        )
    points = np.concatenate([real, made]).astype(np.float64)
    is_made = np.arange(len(points)) >= len(real)
    same = np.unique(points, axis=0, return_inverse=True)[1].ravel()
    if min(len(set(same[is_made])), len(set(same[~is_made]))) < FOLDS:
        same = np.arange(len(points))  # of a collapsed set, each copy gives it away
    steps: list[Any] = [StandardScaler()]
    if points.shape[1] > 2 * COMPONENTS:
        steps.append(PCA(min(COMPONENTS, int(0.7 * len(points))), random_state=seed))
    model = make_pipeline(*steps, LogisticRegression(C=0.1, max_iter=2000))
    wins, pairs = np.zeros((2, len(made), len(real)))
    for repeat in range(REPEATS):
        deal = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed + repeat)
        folds = list(deal.split(points, is_made, same))
        score = cross_val_predict(model, points, is_made, cv=folds, method="decision_function")
        fold = np.empty(len(points), dtype=int)
        for k, (_, test) in enumerate(folds):
            fold[test] = k
        together = fold[is_made][:, None] == fold[~is_made]
        pairs += together
        wins += together * compare(score[is_made], score[~is_made])
    return auc(wins, pairs, seed=seed)


def compare(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """1 where the one is above the other, 0.5 where they are equal: (N, M) of (N,) and (M,)."""
    wins: np.ndarray = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    return wins


def auc(
    wins: np.ndarray,
    pairs: np.ndarray,
    people: Sequence[Any] = (None, None),
    seed: int = 0,
) -> dict[str, Any]:
    """The share of pairs that are won, with a bootstrap over the people of both sides.

    Args:
        wins: How often the row won against the column, (N, M).
        pairs: How often they met, (N, M).
        people: Whose each row and each column is, where some have several.
        seed: Of the interval.
    """
    rng = np.random.default_rng(seed)
    weights = [
        resample(np.arange(size) if names is None else names, rng)
        for names, size in zip(people, wins.shape, strict=True)
    ]
    won, met = (
        ((weights[0] @ each) * weights[1]).sum(axis=1) for each in (wins, pairs.astype(float))
    )
    return estimate(float(wins.sum() / pairs.sum()), won[met > 0] / met[met > 0])


def resample(people: Any, rng: np.random.Generator) -> np.ndarray:
    """Shares (DRAWS, N) of volumes in sets whose people were drawn anew; those of a person stay."""
    person = np.unique(np.asarray(people), return_inverse=True)[1]
    count = int(person.max()) + 1
    times = rng.multinomial(count, np.full(count, 1 / count), DRAWS)[:, person]
    shares: np.ndarray = times / times.sum(axis=1, keepdims=True)
    return shares


def estimate(value: float, draws: np.ndarray) -> dict[str, Any]:
    """A value with its 95 % interval, which reaches to it, and some ``draws``, for differences.

    Sets of the same sizes and seed are drawn alike, so that draws of two generators go together.
    """
    return {
        "value": value,
        "interval": clouds.limits(draws, value),
        "draws": np.round(draws[:KEPT], 4).tolist(),
    }


def mmd_over_splits(
    train: np.ndarray, heldout: np.ndarray, made: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """MMD² of made and held-out points over the 95th percentile of splits of real people.

    Points (N, F) are standardised by the training people, who give the kernel its width, too. Real
    splits are two sets of all real people as large as the smaller set that is compared, if they
    are enough for that.
    """
    scale = StandardScaler().fit(train)
    points, real, others = (scale.transform(each) for each in (made, heldout, train))
    width = clouds.median_bandwidth(others)
    value, draws = clouds.mmd_bootstrap(real, points, bandwidth=width, draws=DRAWS, seed=seed)
    both = np.concatenate([others, real])
    size = min(len(real), len(points), len(both) // 2)
    null = clouds.real_real_null(both, bandwidth=width, splits=SPLITS, size=size, seed=seed)
    p95 = float(np.quantile(null, 0.95))
    return estimate(value / p95, draws / p95)


def spread(made: np.ndarray, heldout: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """Mean deviation of a voxel over samples (N, V), over that of held-out people (H, V)."""
    rng = np.random.default_rng(seed)

    def deviation(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
        n, moved = len(values), values - values.mean(axis=0)
        variance = shares @ moved**2 - (shares @ moved) ** 2
        return np.sqrt(np.maximum(variance, 0) * n / (n - 1)).mean(axis=1)

    ratio = [deviation(v, np.full((1, len(v)), 1 / len(v))) for v in (made, heldout)]
    # A set that is drawn from n people varies by n - 1 of n.
    draws = [
        deviation(v, resample(np.arange(len(v)), rng)) * np.sqrt(len(v) / (len(v) - 1))
        for v in (made, heldout)
    ]
    return estimate(float(ratio[0][0] / ratio[1][0]), draws[0] / draws[1])


def spectrum(
    made: np.ndarray, heldout: np.ndarray, mask: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """The band whose log power is farthest off, signed, and ``bands``, all of them.

    (mean over samples - mean over held-out people) / deviation over held-out people. Below 0 is
    blur, above it noise; the interval is that of this band.
    """
    power, real = (ring_power(volumes, mask) for volumes in (made, heldout))
    scale = np.maximum(real.std(axis=0, ddof=1), TINY)
    bands = (power.mean(axis=0) - real.mean(axis=0)) / scale
    worst = int(np.abs(bands).argmax())
    rng = np.random.default_rng(seed)
    means = [resample(np.arange(len(each)), rng) @ each[:, worst] for each in (power, real)]
    row = estimate(float(bands[worst]), (means[0] - means[1]) / scale[worst])
    return row | {"bands": bands.tolist(), "worst": worst}


def realism(
    train: np.ndarray, heldout: np.ndarray, made: np.ndarray, brain: Brain, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """All of the module's table, of volumes that were seen through the brain."""
    mask = brain.mask
    cells = [structure(volumes, mask) for volumes in (train, heldout, made)]
    return {
        "structure": two_sample_auc(cells[1], cells[2], seed=seed),
        "texture": two_sample_auc(texture(heldout, mask), texture(made, mask), seed=seed),
        "mmd": mmd_over_splits(*cells, seed=seed),
        "spread": spread(made[:, mask], heldout[:, mask], seed=seed),
        "spectrum": spectrum(made, heldout, mask, seed=seed),
    }
