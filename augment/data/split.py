"""Which part of a split each subject goes to: whole subjects, even strata, sites apart on request.

Given ``n`` subjects in strata of size ``n_s`` and parts of size ``m_p``, an even spread would put
``n_s m_p / n`` subjects of a stratum in a part. These are seldom whole numbers, but there is always
a table of whole numbers, each less than one away, with the same sums over strata and over parts
(Bacharach, Matrix rounding problems, 1966). It is found as a vertex of a transport polytope.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from neuromix.augment.errors import InputError, LeakageError

if TYPE_CHECKING:
    from neuromix.augment.data.cohort import Cohort

TRIES = 32
UNNAMED = "unnamed:"
"""Begins the dataset of a table that names none: its people are known within the table alone."""


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key in which ``ses-10`` comes after ``ses-2``, and case does not matter."""
    pieces = re.findall(r"\d+|\D+", text.casefold())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces]


def by_subject(strata: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part of each subject of strata 0 to S - 1; ``fractions`` of the parts sum to one."""
    sizes = _sizes(len(strata), fractions, "subjects")
    counts = _spread(np.bincount(strata), sizes, rng)
    parts = np.empty(len(strata), int)
    for stratum, count in enumerate(counts):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        parts[members] = np.repeat(np.arange(len(sizes)), count)
    return parts


def by_site(
    sites: np.ndarray, strata: np.ndarray, fractions: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The part of each subject where sites stay whole: the best of some random greedy fillings.

    ``sites`` are 0 to G - 1; strata and fractions as in :func:`by_subject`.
    """
    wanted = fractions > 0
    groups = sites.max(initial=-1) + 1
    _sizes(groups, fractions, "separate sites (those that share a subject count as one)")
    by_stratum = np.zeros((groups, strata.max() + 1))
    np.add.at(by_stratum, (sites, strata), 1)
    counts = np.column_stack([by_stratum.sum(axis=1), by_stratum])
    target = fractions[:, None] * counts.sum(axis=0)
    best, best_cost = np.zeros(groups, int), np.inf
    for _ in range(TRIES):
        filled, parts = np.zeros_like(target), np.zeros(groups, int)
        for done, group in enumerate(rng.permutation(groups)):
            empty = wanted & (filled[:, 0] == 0)
            must_fill = groups - done <= empty.sum()
            gain = ((filled + counts[group] - target) ** 2 - (filled - target) ** 2).sum(axis=1)
            gain[~(empty if must_fill else wanted)] = np.inf
            parts[group] = gain.argmin()
            filled[parts[group]] += counts[group]
        cost = ((filled - target) ** 2).sum()
        if cost < best_cost:
            best, best_cost = parts, cost
    return best[sites]


def site_groups(subjects: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """The group of each subject, of rows' subjects 0 to N - 1 and sites 0 to S - 1.

    Sites that share a subject are one group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = subjects.max(initial=-1) + 1
    total = count + sites.max(initial=-1) + 1
    links = coo_array((np.ones(len(sites)), (subjects, count + sites)), shape=(total, total))
    groups = connected_components(links, directed=False)[1][:count]
    return np.unique(groups, return_inverse=True)[1]


def _sizes(count: int, fractions: np.ndarray, what: str) -> np.ndarray:
    """Whole sizes by largest remainder, at least one where the fraction is above zero."""
    wanted = fractions > 0
    if count < wanted.sum():
        raise InputError(
            f"{count} {what} cannot fill {wanted.sum()} parts; bring more or set a fraction to 0"
        )
    ideal = np.round(count * fractions, 9)
    sizes = np.floor(ideal).astype(int)
    for part in np.argsort(sizes - ideal, kind="stable")[: count - sizes.sum()]:
        sizes[part] += 1
    while (wanted & (sizes == 0)).any():
        sizes[sizes.argmax()] -= 1
        sizes[(wanted & (sizes == 0)).argmax()] += 1
    return sizes


def _spread(strata: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whole numbers near ``strata[s] * sizes[p] / n`` with the same sums, (strata, parts)."""
    from scipy import optimize, sparse

    ideal = np.round(np.outer(strata, sizes) / sizes.sum(), 9)
    floor = np.floor(ideal)
    rest = ideal - floor
    # A little chance decides between tables that are equally good.
    cost = -rest + 0.01 * rng.random(rest.shape)
    ones = [sparse.csr_array(np.ones((1, n))) for n in rest.shape]
    sums = sparse.vstack(
        [
            sparse.kron(sparse.eye_array(len(strata)), ones[1]),
            sparse.kron(ones[0], sparse.eye_array(len(sizes))),
        ]
    )
    limits = np.concatenate([strata - floor.sum(axis=1), sizes - floor.sum(axis=0)])
    bounds = np.stack([np.zeros(rest.size), (rest > 0).ravel().astype(float)], axis=1)
    solution = optimize.linprog(
        cost.ravel(), A_eq=sums, b_eq=limits, bounds=bounds, method="highs-ds"
    )
    return (floor + np.round(solution.x.reshape(rest.shape))).astype(int)


def require_comparable(one: Iterable[str], other: Iterable[str]) -> None:
    """Refuse to compare the people of datasets of which one has no name.

    Within one table people are told apart by their names, whatever the table is called.
    """
    one, other = set(one), set(other)
    nameless = sorted(name for name in one | other if not name or name.startswith(UNNAMED))
    if not nameless or not one or not other or one == other == {nameless[0]}:
        return
    name = nameless[0].removeprefix(UNNAMED) or "some subjects"
    others = ", ".join(sorted((one | other) - {nameless[0]}))
    raise InputError(
        f"{name} names no dataset, so that its people can't be told from those of "
        f"{others.replace(UNNAMED, '')}: add a column `dataset` with the study's name to the table "
        "(the same in all tables of a study), or dataset= (--dataset of `neuromix cohort`), or a "
        "dataset_description.json beside it"
    )


def require_apart(parts: Mapping[str, Cohort]) -> None:
    """Raise :class:`LeakageError` if a person is in two of the parts, given by their names."""
    earlier: dict[tuple[str, str], str] = {}
    datasets: set[str] = set()
    for name, part in parts.items():
        own = set(part.table["dataset"])
        require_comparable(datasets, own)
        datasets |= own
        shared = [person for person in part.subject_keys if person in earlier]
        if shared:
            raise LeakageError(
                f"{len(shared)} subjects are in {earlier[shared[0]]} and in {name}, such as "
                f"{name_of(*shared[0])}; split by person with `neuromix cohort DATA --out FOLDER`",
                shared,
            )
        earlier |= dict.fromkeys(part.subject_keys, name)


def name_of(dataset: str, subject_id: str) -> str:
    """What an error calls a person."""
    return f"{dataset.removeprefix(UNNAMED)} sub-{subject_id}"
