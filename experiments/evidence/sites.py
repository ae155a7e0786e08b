"""Two sites of subjects, phantoms or one's own cohorts, parted for an experiment.

Site A has many subjects with sex and age, as a study of the community; site B is a clinic that has
diagnoses. Parts share no subject: a pool that training subjects are taken from, validation subjects
that choose checkpoints, test subjects that judge, and of a phantom many fresh ones for the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import DEMENTIA
from neuromix.augment.errors import InputError
from neuromix.augment.phantom import make_phantom
from neuromix.augment.tiled.latents import common_grid
from neuromix.classifiers.evaluate import nested_subsets
from neuromix.experiments.frame.cohorts import load_cohort, names_of

FEWEST = 2
"""Subjects that a class needs to train on, and to be judged by."""


@dataclass(frozen=True)
class Parts:
    """A site, parted by subject."""

    name: str
    """Of the cohort, for sentences."""
    pool: Cohort
    validation: Cohort
    test: Cohort
    ceiling: Cohort | None
    """Fresh subjects of a phantom."""


@dataclass(frozen=True)
class Wanted:
    """How many subjects of a site: those of one's own cohort that are left are test subjects."""

    pool: int
    validation: int
    test: int
    ceiling: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.pool + self.validation + self.test + self.ceiling


def load_site(
    data: Path | None,
    site: str,
    target: str,
    wanted: Wanted,
    folder: Path,
    *,
    spacing: float,
    seed: int,
) -> Parts:
    """One's own cohort, or a phantom in its place.

    Args:
        data: BIDS folder or table with md; ``None`` makes a phantom.
        site: ``A`` or ``B``.
        target: ``sex`` or ``dementia``: subjects without it are left out.
        wanted: Numbers of subjects that have it.
        folder: Where a phantom is made.
        spacing: Of a phantom, in mm.
        seed: Of a phantom and of the parting.
    """
    if data is None:
        # Seven in ten subjects of clinic B have no dementia or have it; the others are in between.
        count = wanted.total if target == "sex" else math.ceil(wanted.total / 0.7 * 1.1) + 10
        place = folder / f"phantom-{site}"
        make_phantom(
            place, "md", subjects=count, seed=seed, spacing=spacing, site=site, progress=True
        )
        cohort, name = Cohort.from_bids(place, ("md",)), f"phantom site {site}"
    else:
        cohort = load_cohort(data, ("md",) if data.is_dir() else ())
        name = cohort.name
    return part(labelled(cohort, target), name, target, wanted, seed, is_phantom=data is None)


def labelled(cohort: Cohort, target: str) -> Cohort:
    """The rows that have the target."""
    labels = targets(cohort, target)
    kept = cohort.where(labels != "")
    if not len(kept):
        raise InputError(f"no subject of {cohort.name} has the label {target}; it is needed")
    return kept


def targets(cohort: Cohort, target: str) -> np.ndarray:
    """The target of each row, ``""`` where it is missing."""
    if target == "dementia":
        return np.array([DEMENTIA.get(d, "") for d in cohort.table["diagnosis"]])
    if target not in cohort.table.columns:
        raise InputError(
            f"{cohort.name} has no label {target!r}; it has {', '.join(cohort.table.columns)}"
        )
    return cohort.table[target].to_numpy(str)


def part(
    cohort: Cohort,
    name: str,
    target: str,
    wanted: Wanted,
    seed: int,
    *,
    is_phantom: bool,
    check: Callable[[Cohort], Any] = common_grid,
) -> Parts:
    """Part labelled subjects, evenly in sex and diagnosis.

    Args:
        cohort: They.
        name: For sentences.
        target: The label.
        wanted: Numbers.
        seed: Of the parting.
        is_phantom: Whether there are fresh subjects for a ceiling.
        check: Refuses images that do not lie on one grid.
    """
    check(cohort)
    people = len(cohort.subject_keys)
    fixed = wanted.pool + wanted.validation
    ceiling = wanted.ceiling if is_phantom else 0
    if people < fixed + ceiling + 2 * FEWEST:
        raise InputError(
            f"{people} subjects of {cohort.name} have the label {target}; {fixed + ceiling} to "
            f"train and validate are asked for and {2 * FEWEST} or more must be left to test: ask "
            "for fewer, or bring more"
        )
    first = cohort.split(
        (fixed / people, ceiling / people, (people - fixed - ceiling) / people), seed=seed
    )
    second = first.train.split((wanted.pool / fixed, wanted.validation / fixed, 0.0), seed=seed)
    parts = Parts(name, second.train, second.val, first.test, first.val if ceiling else None)
    require_classes(parts.pool, target, f"pool of {name}")
    require_classes(parts.validation, target, f"validation part of {name}", fewest=1)
    require_classes(parts.test, target, f"test part of {name}")
    return parts


def require_classes(cohort: Cohort, target: str, what: str, fewest: int = FEWEST) -> None:
    """Refuse a part with one class, or with a class of fewer subjects than that."""
    table = cohort.table.assign(target=targets(cohort, target))
    counts = table[table["target"] != ""].groupby("target")["subject_id"].nunique()
    if len(counts) < 2:
        found = f"only {counts.index[0]!r}" if len(counts) else "none"
        raise InputError(
            f"the {what} has {len(cohort)} scans and, of the classes of {target}, {found}; a "
            "classifier needs two: add subjects of another class, or choose another target"
        )
    if counts.min() < fewest:
        raise InputError(
            f"class {counts.idxmin()!r} of {target} has {counts.min()} subject in the {what}; "
            f"{fewest} or more are needed: ask for larger parts, or add subjects"
        )


def subsets(cohort: Cohort, target: str, sizes: Sequence[int], seed: int) -> dict[int, Cohort]:
    """Training sets of so many subjects; each holds the smaller ones and keeps their shares."""
    chosen = nested_subsets(names_of(cohort), targets(cohort, target).tolist(), sizes, seed)
    found = {
        size: cohort.where(np.isin(np.arange(len(cohort)), rows)) for size, rows in chosen.items()
    }
    for size, subset in found.items():
        require_classes(subset, target, f"training set of {size}")
    return found
