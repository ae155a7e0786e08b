"""Do synthetic volumes look like real ones, vary like them, and show what their labels say?

:func:`fidelity_table` computes every metric once, each beside what real volumes get, and gives no
verdict. Which fault shows where:

====================  ==========================================================================
fault                 metrics that see it
====================  ==========================================================================
collapse to the mean  ``ms_ssim`` above real, ``recall`` near 0, ``mmd2``
copies of training    ``near_copies`` above 1 %
ignored labels        ``label_<name>`` near chance
blur, noise           ``sharpness`` and ``graininess`` below or above real
slices that jitter    ``continuity_*`` above real
wrong units           ``tissue_md_<name>``
====================  ==========================================================================

Volumes are arrays (N, X, Y, Z) of mean diffusivity in 1e-3 mm²/s, all in one space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.metrics import anatomy
from neuromix.augment.metrics import features as clouds
from neuromix.augment.metrics.realism import sharpness
from neuromix.augment.metrics.similarity import ms_ssim

DRAWS = 2000
"""Random draws behind each interval."""
FEWEST = 12
"""Volumes of a set: precision and recall look at five neighbours in half of it."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier that says whether volumes show their labels, and the labels.

    It must have been trained on real subjects that are neither the sampler's nor held-out ones.

    Args:
        predict_proba: Volumes (N, X, Y, Z) to probabilities (N, C).
        classes: The label of each of the C columns.
        synthetic: The label that each synthetic volume was made for; ``None`` is left out.
        heldout: The true label of each held-out volume.
    """

    predict_proba: Callable[[np.ndarray], np.ndarray]
    classes: Sequence[str]
    synthetic: Sequence[str | None]
    heldout: Sequence[str | None]


def label_faithfulness(
    predict_proba: Callable[[np.ndarray], np.ndarray],
    volumes: np.ndarray,
    labels: Sequence[str | None],
    classes: Sequence[str],
    *,
    seed: int | list[int] = 0,
) -> dict[str, Any]:
    """Do volumes show the labels that they carry, as an independent classifier sees it?

    Balanced accuracy: the mean over classes of the share of volumes of that class that the
    classifier puts into it. Read it beside the value of real held-out volumes.

    Args:
        predict_proba: Volumes (N, X, Y, Z) to probabilities (N, C); see :class:`Judge`.
        volumes: (N, X, Y, Z).
        labels: Of each volume; ``None`` is left out.
        classes: The label of each column.
        seed: Of the interval.

    Returns:
        ``value``, its 95 % ``interval`` (Jeffreys' for each recall, so that 20 of 20 does not mean
        always), ``recall`` by class and ``n`` by class.
    """
    names = list(classes)
    if len(labels) != len(volumes):
        raise InputError(f"{len(labels)} labels came for {len(volumes)} volumes; give one for each")
    unknown = sorted({str(label) for label in labels if label is not None} - set(names))
    if unknown or not set(names) <= set(labels):
        raise InputError(
            f"labels are {sorted(map(str, set(labels)))} but the judge tells {names} apart; give "
            "volumes of each of these classes, and None for volumes that are to be left out"
        )
    known = np.array([label is not None for label in labels])
    codes = np.array([names.index(label) for label in labels if label is not None])
    probabilities = np.asarray(predict_proba(volumes[known]))
    if probabilities.shape != (len(codes), len(names)):
        raise InputError(
            f"predict_proba returned the shape {probabilities.shape} for {len(codes)} volumes and "
            f"{len(names)} classes; it must return {(len(codes), len(names))}"
        )
    right = probabilities.argmax(axis=1) == codes
    counts = np.bincount(codes, minlength=len(names))
    hits = np.bincount(codes, right, minlength=len(names))
    recall = hits / counts
    draws = _shares(hits, counts, np.random.default_rng(seed)).mean(axis=1)
    value = float(recall.mean())
    return {
        "value": value,
        "interval": clouds.limits(draws, value),
        "recall": dict(zip(names, recall.tolist(), strict=True)),
        "n": dict(zip(names, counts.tolist(), strict=True)),
    }


def labels_shown(
    judge: Judge, synthetic: np.ndarray, heldout: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """The row of one judged label: synthetic beside held-out volumes, ``ratio`` and ``recall``."""
    own, real = (
        label_faithfulness(judge.predict_proba, volumes, labels, judge.classes, seed=[seed, i])
        for i, (volumes, labels) in enumerate(
            ((synthetic, judge.synthetic), (heldout, judge.heldout))
        )
    )
    return {
        "value": own["value"],
        "interval": own["interval"],
        "real": real["value"],
        "real_interval": real["interval"],
        "ratio": own["value"] / max(real["value"], 1e-12),
        "recall": own["recall"],
    }


DIFFERENCES = ("ms_ssim", "sharpness")
"""Metrics whose change is a difference; that of the others is relative."""


def fidelity_table(
    real_train: np.ndarray,
    real_heldout: np.ndarray,
    synthetic: np.ndarray,
    *,
    features: clouds.Features,
    tissues: Mapping[str, np.ndarray] | None = None,
    judges: Mapping[str, Judge] | None = None,
    pairs: int = 100,
    splits: int = 50,
    seed: int = 0,
) -> dict[str, Any]:
    """Every metric of fidelity, beside its value between real volumes.

    Synthetic volumes should be made for the labels of the held-out subjects, so that no difference
    between the sets is one of labels. The brain mask and the width of MMD's kernel come from the
    training subjects, so that held-out ones are used for nothing but the comparison.

    Args:
        real_train: The sampler's training subjects, (T, X, Y, Z) in 1e-3 mm²/s.
        real_heldout: Other real subjects, (H, X, Y, Z), one volume of each, since volumes are
            taken as independent. Half of them against the other half is the reference of the
            metrics on sets, so take twice as many as synthetic ones if you can.
        synthetic: (N, X, Y, Z).
        features: Volumes to points (N, F): :func:`~neuromix.augment.metrics.features.pca_features`
            of further real subjects (such as the judges'), or a layer of a network trained on them.
        tissues: Name to mask (X, Y, Z), such as
            :func:`neuromix.augment.metrics.anatomy.tissue_masks`.
        judges: Label name to the classifier that judges it.
        pairs: Pairs behind MS-SSIM.
        splits: Real-real splits of the metrics on sets (those of MMD² are twenty times as many).
        seed: Decides pairs, splits and bootstrap draws.

    Returns:
        Plain content for a JSON file: ``sizes`` and ``metrics``. A metric is a dict of ``value``
        and 95 % ``interval`` of the synthetic volumes, ``real`` and ``real_interval`` of the
        reference, and more where there is more to say:

        - value per volume or pair (``ms_ssim``, ``sharpness``, ``graininess``, ``tissue_md_*``,
          ``continuity_*``): means with bootstrap intervals, ``real`` is that of held-out volumes,
          and ``change`` is value / real - 1 (``sharpness``, a logarithm,
          and ``ms_ssim``: value - real);
        - value per pair of sets (``precision``, ``recall``): means and spread over the splits of
          :func:`~neuromix.augment.metrics.features.beside_real`, with ``sizes.split`` volumes a
          set;
        - ``mmd2``: of all volumes; ``real`` is over real-real splits, and ``ratio`` the value over
          their 95th percentile;
        - ``near_copies``: share over volumes;
        - ``label_*``: balanced accuracy, ``ratio`` to real, ``recall`` by class.
    """
    _check({"training": real_train, "held-out": real_heldout, "synthetic": synthetic})
    mask = anatomy.common_mask(real_train)
    table: dict[str, Any] = {}

    made, real = (
        _measures(volumes, mask, tissues or {}, pairs, seed)
        for volumes in (synthetic, real_heldout)
    )
    for name in made:
        table[name] = _means(made[name], real[name], name in DIFFERENCES, seed)
    points, real_points = features(synthetic), features(real_heldout)
    bandwidth = clouds.median_bandwidth(features(real_train))
    table["mmd2"] = _mmd(points, real_points, bandwidth, splits, seed)
    table |= _sets(points, real_points, splits, seed)
    copies, real_copies = clouds.near_copies(
        *(volumes[:, mask] for volumes in (synthetic, real_train, real_heldout))
    )
    rng = np.random.default_rng(seed)
    draws = [
        _shares(each.sum(keepdims=True), np.array([len(each)]), rng)[:, 0]
        for each in (copies, real_copies)
    ]
    table["near_copies"] = _row(float(copies.mean()), float(real_copies.mean()), *draws)
    for name, judge in (judges or {}).items():
        table[f"label_{name}"] = labels_shown(judge, synthetic, real_heldout, seed)
    return {
        "sizes": {
            "train": len(real_train),
            "heldout": len(real_heldout),
            "synthetic": len(synthetic),
            "split": min(len(real_heldout) // 2, len(synthetic)),
        },
        "metrics": table,
    }


def _check(sets: Mapping[str, np.ndarray]) -> None:
    shapes = {name: volumes.shape for name, volumes in sets.items()}
    if any(len(shape) != 4 for shape in shapes.values()) or (
        len({shape[1:] for shape in shapes.values()}) > 1
    ):
        raise InputError(
            f"volumes have the shapes {shapes}; allowed is (N, X, Y, Z) with one grid for all: "
            "bring them to one grid with `neuromix prepare`"
        )
    for name, volumes in sets.items():
        if len(volumes) < FEWEST:
            raise InputError(
                f"{len(volumes)} {name} volumes are too few to compare sets; {FEWEST} are the "
                "least, and intervals are of use from about 100"
            )
        broken = ~np.isfinite(volumes.sum(axis=(1, 2, 3), dtype=np.float64))
        if broken.any():
            raise InputError(
                f"{broken.sum()} of {len(volumes)} {name} volumes hold NaN or infinity, the first "
                f"at index {broken.argmax()}; leave them out or make them anew"
            )


def _measures(
    volumes: np.ndarray,
    mask: np.ndarray,
    tissues: Mapping[str, np.ndarray],
    pairs: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """What has one value for each volume or pair."""
    means = anatomy.tissue_md(volumes, tissues)
    ratios = anatomy.continuity(volumes, mask)
    return {
        "ms_ssim": ms_ssim(volumes, pairs=pairs, seed=seed),
        "sharpness": sharpness(volumes, mask),
        "graininess": anatomy.graininess(volumes, mask),
        **{f"tissue_md_{name}": values for name, values in means.items()},
        **{f"continuity_{name}": values for name, values in ratios.items()},
    }


def _mmd(
    points: np.ndarray, real: np.ndarray, bandwidth: float, splits: int, seed: int
) -> dict[str, Any]:
    value, draws = clouds.mmd_bootstrap(real, points, bandwidth=bandwidth, seed=seed)
    size = min(len(real) // 2, len(points))
    null = clouds.real_real_null(
        real, bandwidth=bandwidth, splits=20 * splits, size=size, seed=seed
    )
    row = _row(value, float(null.mean()), draws, null)
    return row | {"ratio": value / float(np.quantile(null, 0.95))}


def _sets(
    points: np.ndarray, real: np.ndarray, splits: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The metrics on whole sets of points that depend on the size of the sets."""
    values, references = clouds.beside_real(
        clouds.precision_recall, real, points, splits=splits, seed=seed
    )
    return {
        name: _row(float(values[:, i].mean()), float(references[:, i].mean()), values[:, i],
                   references[:, i])
        for i, name in enumerate(("precision", "recall"))
    }  # fmt: skip


def _shares(hits: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws (DRAWS, C) from Jeffreys' posterior of shares seen as ``hits`` of ``counts`` (C,)."""
    return rng.beta(hits + 0.5, counts - hits + 0.5, size=(DRAWS, len(hits)))


def _means(values: np.ndarray, reals: np.ndarray, difference: bool, seed: int) -> dict[str, Any]:
    """Mean over volumes of the synthetic and of the real set, and how much it changed."""
    rng = np.random.default_rng(seed)
    draws, real_draws = (
        v[rng.integers(len(v), size=(DRAWS, len(v)))].mean(axis=1) for v in (values, reals)
    )
    value, real = float(values.mean()), float(reals.mean())

    change = value - real if difference else value / real - 1
    return _row(value, real, draws, real_draws) | {"change": change}


def _row(value: float, real: float, draws: np.ndarray, real_draws: np.ndarray) -> dict[str, Any]:
    return {
        "value": value,
        "interval": clouds.limits(draws, value),
        "real": real,
        "real_interval": clouds.limits(real_draws, real),
    }
