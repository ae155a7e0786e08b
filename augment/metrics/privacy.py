"""Do synthetic volumes give away who the sampler was trained on?

==============  ====================================================================================
membership      an attacker who holds the samples and somebody's scan asks whether that person was
                trained on. The closer a sample lies, the likelier: AUC of -min_s |r - s| on
                training people (members) and held-out ones (not); 0.5 if samples tell nothing
nearest         how far samples lie from the nearest training person, over how far new people do
patch_copies    share of a sample that is a verbatim piece of one training person; a sample that is
                put together from pieces lies far from everybody
closest         the samples nearest to a training person, for a look side by side
==============  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.features import squared_distances
from neuromix.augment.metrics.realism import TINY, auc, compare, estimate, resample

PATCH = (7, 7, 3)
PLACES = 600
"""Patches of a volume that are looked at."""
CLOSE = 0.01
"""Share of real patches that are called close."""


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
    counts = [len(set(each)) for each in names]
    if not (len(synthetic) and min(counts) > 1):
        raise InputError(
            f"{len(synthetic)} synthetic volumes, and volumes of {counts[0]} training and "
            f"{counts[1]} held-out people came; give a sample, and two people or more of each"
        )
    member, other = (
        -np.sqrt(squared_distances(real, synthetic).min(axis=1)) for real in (train, heldout)
    )
    wins = compare(member, other)
    return auc(wins, np.ones(wins.shape), names, seed)


def nearest(
    synthetic: np.ndarray, train: np.ndarray, heldout: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """Mean distance of samples (N, V) to the nearest of (T, V), over that of held-out people."""
    rng = np.random.default_rng(seed)
    made, real = (
        np.sqrt(squared_distances(each, train).min(axis=1)) for each in (synthetic, heldout)
    )
    draws = [resample(np.arange(len(each)), rng) @ each for each in (made, real)]
    return estimate(float(made.mean() / real.mean()), draws[0] / draws[1])


def patch_copies(
    synthetic: np.ndarray,
    train: np.ndarray,
    heldout: np.ndarray,
    mask: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Share of patches nearer to a training person's patch than 99 % of held-out people's are.

    Patches of 7 x 7 x 3 voxels are compared with those of each training person at the same place
    and a voxel beside it. The distance is taken relative to what held-out people usually have at
    that place, since flat tissue is alike in everybody. Held-out people have 0.01.

    Volumes are (N, X, Y, Z), (T, X, Y, Z) and (H, X, Y, Z), the mask (X, Y, Z).
    """
    size = [min(side, width) for side, width in zip(mask.shape, PATCH, strict=True)]
    places = np.argwhere(mask)
    rng = np.random.default_rng(seed)
    places = places[rng.permutation(len(places))[:PLACES]]
    margin = [(width // 2 + 1,) * 2 for width in size]

    def windows(volumes: np.ndarray) -> np.ndarray:
        padded = np.pad(volumes, [(0, 0), *margin])
        return np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2, 3))

    sets = [windows(np.asarray(each, dtype=np.float32)) for each in (synthetic, heldout, train)]
    shifts = np.array(list(product((0, 1, 2), repeat=3)))
    apart = []
    for place in places:
        made, real = (each[:, *(place + 1)].reshape(len(each), -1) for each in sets[:2])
        near = [sets[2][:, *(place + shift)].reshape(len(sets[2]), -1) for shift in shifts]
        distance = squared_distances(np.concatenate([made, real]), np.concatenate(near))
        closest = np.sqrt(distance.min(axis=1))
        apart.append(closest / max(float(np.median(closest[len(made) :])), TINY))
    distances = np.stack(apart, axis=1)
    made, real = distances[: len(synthetic)], distances[len(synthetic) :]
    share = (made < np.quantile(real, CLOSE)).mean(axis=1)
    return estimate(float(share.mean()), resample(np.arange(len(share)), rng) @ share)


def closest(synthetic: np.ndarray, train: np.ndarray, count: int) -> list[tuple[int, int, float]]:
    """The samples (N, V) nearest to a training volume (T, V), the nearest first, ``count`` of them.

    Each with its training volume and the root mean square of their difference.
    """
    distances = squared_distances(synthetic, train)
    nearest = distances.argmin(axis=1)
    apart = np.sqrt(distances.min(axis=1) / synthetic.shape[1])
    order = np.argsort(apart, kind="stable")[:count]
    return [(int(k), int(nearest[k]), float(apart[k])) for k in order]
