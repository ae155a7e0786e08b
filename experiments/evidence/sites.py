"""Sites of subjects, phantoms or one's own cohorts, parted for an experiment.

Site A has many subjects with sex and age, as a study of the community; site B is a clinic that has
diagnoses. Parts share no subject: a pool that training subjects are taken from, validation subjects
that choose checkpoints, test subjects that judge, and of a phantom many fresh ones for the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import DEMENTIA
from neuromix.augment.errors import InputError
from neuromix.augment.phantom import make_phantom
from neuromix.classifiers.evaluate import nested_subsets
from neuromix.experiments.evidence.configs import Comparing, Decoding, Mixing
from neuromix.experiments.frame.cohorts import load_cohort, names_of

FEWEST_OF_CLASS = 2
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


def find_cohort(
    data: Path | None,
    kind: str,
    images: tuple[str, ...],
    folder: Path,
    count: int,
    config: Comparing,
    site: str = "B",
) -> Cohort:
    """One's own cohort, or a phantom of so many subjects in its place, made in ``folder``."""
    if data is not None:
        return load_cohort(data, images if data.is_dir() else ())
    place = make_phantom(
        folder, kind, subjects=count, seed=config.seed, spacing=config.spacing, site=site,
        progress=True,
    )  # fmt: skip
    name = f"phantom site {site}" if kind == "md" else f"phantom {kind}"
    return Cohort(Cohort.from_bids(place, images or None).table, name)


def load_site(config: Mixing, site: str, target: str, pool: int, fresh: int, folder: Path) -> Parts:
    """Site A or B, of subjects that have the target; as many fresh ones for the ceiling."""
    data = config.data_a if site == "A" else config.data_b
    if data is None and config.image != "md":
        raise InputError(
            f"--image {config.image} came without --data-{site.lower()}, and a phantom has md "
            "alone; name the cohort"
        )
    count = pool + config.validation + config.test + fresh
    if target == "dementia":
        # Seven in ten subjects of clinic B have no dementia or have it; the others are in between.
        count = math.ceil(count / 0.7 * 1.1) + 10
    place, images = folder / f"phantom-{site}", (config.image,)
    cohort = labelled(find_cohort(data, "md", images, place, count, config, site), target)
    cohort.grid(config.image)
    return part(cohort, target, pool, config.validation, fresh, config.seed)


def find_runs(config: Decoding, folder: Path) -> Cohort:
    """The task runs that are asked for."""
    count = max(config.sizes) + config.validation + config.fresh + config.test
    cohort = find_cohort(config.data, "task", ("bold",), folder, count, config)
    for column, wanted in (("task", config.tasks), ("dir", config.directions)):
        if wanted:
            cohort = cohort.where(**{column: list(wanted)})
    if not len(cohort):
        raise InputError(
            f"{cohort.name} has no run of task {' '.join(config.tasks) or 'any'} and phase "
            f"encoding {' '.join(config.directions) or 'any'}; name others with --tasks and "
            "--directions"
        )
    return cohort


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
    target: str,
    pool: int,
    validation: int,
    fresh: int,
    seed: int,
) -> Parts:
    """Part labelled subjects, evenly in sex and diagnosis; all that are left judge."""
    people, fixed = len(cohort.subject_keys), pool + validation
    if people < fixed + fresh + 2 * FEWEST_OF_CLASS:
        raise InputError(
            f"{people} subjects of {cohort.name} have the label {target}; {fixed + fresh} to "
            f"train and validate are asked for and {2 * FEWEST_OF_CLASS} or more must be left to "
            "test: ask for fewer, or bring more"
        )
    first = cohort.split(
        (fixed / people, fresh / people, (people - fixed - fresh) / people), seed=seed
    )
    second = first.train.split((pool / fixed, validation / fixed, 0.0), seed=seed)
    name = cohort.name
    parts = Parts(name, second.train, second.val, first.test, first.val if fresh else None)
    require_classes(parts.pool, target, f"pool of {name}")
    require_classes(parts.validation, target, f"validation part of {name}", fewest=1)
    require_classes(parts.test, target, f"test part of {name}")
    return parts


def require_classes(cohort: Cohort, target: str, what: str, fewest: int = FEWEST_OF_CLASS) -> None:
    """Refuse a part with one class, or with a class of fewer subjects than that."""
    table = cohort.table.assign(target=targets(cohort, target))
    counts = table[table["target"] != ""].groupby("target")["subject_id"].nunique()
    if len(counts) < 2:
        classes = f"only {counts.index[0]!r}" if len(counts) else "none"
        raise InputError(
            f"the {what} has {len(cohort)} scans and, of the classes of {target}, {classes}; a "
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
    sets = {
        size: cohort.where(np.isin(np.arange(len(cohort)), rows)) for size, rows in chosen.items()
    }
    for size, subset in sets.items():
        require_classes(subset, target, f"training set of {size}")
    return sets
