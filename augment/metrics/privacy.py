"""Do synthetic volumes give away who the sampler was trained on?

An attacker who holds the samples and somebody's scan asks whether that person was a training
subject. The closer a sample lies to the scan, the likelier::

    score(r) = -min over samples s of |r - s|

:func:`membership` is the area under the ROC curve of that attack, on training subjects (members)
and held-out ones (not): 0.5 if the samples tell nothing, 1 if they tell all. What a person sees is
:func:`closest`: the samples that lie nearest to a training subject, for a look side by side. Copies
as a share of the samples are in :func:`neuromix.augment.metrics.features.nearest_distance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.features import squared_distances

DRAWS = 2000
"""Of the bootstrap."""


def membership(
    synthetic: np.ndarray,
    train: np.ndarray,
    heldout: np.ndarray,
    *,
    people: Sequence[Sequence[str] | np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """AUC of telling training from held-out subjects by their distance to the nearest sample.

    Args:
        synthetic: (N, V): voxels in the brain, or features.
        train: (T, V), the volumes that the sampler was fitted to.
        heldout: (H, V), volumes of the same population that it was not.
        people: Whose each training and each held-out volume is, where some have several; the
            volumes of a person are drawn together.
        seed: Of the interval, a bootstrap over the people of both sets.

    Returns:
        ``value`` and its 95 % ``interval``.
    """
    names = people or [np.arange(len(train)), np.arange(len(heldout))]
    persons = [np.unique(each, return_inverse=True)[1] for each in names]
    counts = [len(set(each)) for each in persons]
    if not (len(synthetic) and min(counts) > 1):
        raise InputError(
            f"{len(synthetic)} synthetic volumes, and volumes of {counts[0]} training and "
            f"{counts[1]} held-out people came; give a sample, and two people or more of each"
        )
    member, other = (
        -np.sqrt(squared_distances(real, synthetic).min(axis=1)) for real in (train, heldout)
    )
    # Whether a member lies closer than another, for each pair; ties count half.
    wins = (member[:, None] > other) + 0.5 * (member[:, None] == other)
    rng = np.random.default_rng(seed)
    weights = []
    for person, n in zip(persons, counts, strict=True):
        times = rng.multinomial(n, np.full(n, 1 / n), DRAWS)[:, person]
        weights.append(times / times.sum(axis=1, keepdims=True))
    drawn = np.einsum("dt,th,dh->d", weights[0], wins, weights[1], optimize=True)
    return {
        "value": float(wins.mean()),
        "interval": np.quantile(drawn, (0.025, 0.975)).tolist(),
    }


def closest(synthetic: np.ndarray, train: np.ndarray, count: int) -> list[tuple[int, int, float]]:
    """The samples (N, V) nearest to a training volume (T, V), the nearest first, ``count`` of them.

    Each with its training volume and the root mean square of their difference.
    """
    distances = squared_distances(synthetic, train)
    nearest = distances.argmin(axis=1)
    apart = np.sqrt(distances.min(axis=1) / synthetic.shape[1])
    order = np.argsort(apart, kind="stable")[:count]
    return [(int(k), int(nearest[k]), float(apart[k])) for k in order]
