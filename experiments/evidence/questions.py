"""Training sets that are hard to learn from, and what a sampler is asked for to mend them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuromix.augment.bank import quotas
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.errors import InputError
from neuromix.experiments.evidence.arms import Labels, labels_like
from neuromix.experiments.evidence.settings_config import training_labels
from neuromix.experiments.evidence.sites import require_classes, subsets, targets
from neuromix.experiments.frame.cohorts import names_of

ODDS = 9.0
"""How much likelier a subject is taken into the confounded training set for each confounder that
agrees with the diagnosis: nine in ten agree."""


@dataclass(frozen=True)
class Question:
    """One setting.

    Args:
        train: Real subjects that classifiers are trained on.
        seen: Real subjects that the sampler is trained on.
        asked: Labels of the samples.
        title: What is hard about it.
        about: How it was made.
        validation: Real subjects that choose checkpoint and step, if not the site's.
    """

    train: Cohort
    seen: Cohort
    asked: Callable[[LabelSpace, int], list[Labels]]
    title: str
    about: str
    validation: Cohort | None = None


def few_labels(pool: Cohort, few: int, seed: int) -> Question:
    """Few of the pool keep their diagnosis, to train and to choose by; the sampler sees the others.

    A label that chooses a checkpoint is a label that somebody had to give.
    """
    count = training_labels(few)
    parts = subsets(pool, "dementia", (count, few), seed)
    train, names = parts[count], names_of(pool)
    is_train, is_labelled = (np.isin(names, names_of(parts[size])) for size in (count, few))
    chooses = pool.where(is_labelled & ~is_train)
    require_classes(chooses, "dementia", f"part of {few} labels that chooses", fewest=1)
    seen = pool.where(is_train | ~is_labelled)
    keeps = np.isin(names_of(seen), names_of(train))
    shown = seen.table.assign(diagnosis=seen.table["diagnosis"].where(keeps, ""))
    seen = Cohort(shown, pool.name)
    return Question(
        train, seen, lambda space, count: labels_like(train, space, count, seed),
        f"few labels, and a sampler of {len(seen)} scans",
        f"Of {len(pool)} scans, those of {few} subjects keep their diagnosis: {count} are the real "
        f"training set, and {few - count} choose the classifiers' checkpoints and the sampler's "
        "step. The sampler is trained on all but the latter, and of those outside the training set "
        "the diagnosis is missing.",
        chooses,
    )  # fmt: skip


def imbalance(pool: Cohort, size: int, seed: int) -> Question:
    """Ten without dementia to one with it."""
    rng = np.random.default_rng([seed, 1])
    counts = {"no": size, "yes": size // 10}
    train = _take(pool, counts, np.ones(len(pool)), rng)
    return Question(
        train, train,
        lambda space, count: quotas.balance(train, space, ("diagnosis",), count, seed),
        f"{counts['no']} subjects without dementia and {counts['yes']} with it",
        "The samples fill the smaller class first, and then both alike.",
    )  # fmt: skip


def confounded(pool: Cohort, size: int, seed: int) -> Question:
    """Age and site go with the diagnosis."""
    by = confounders(pool)
    weight = np.ones(len(pool))
    is_case = targets(pool, "dementia") == "yes"
    for name in by:
        weight *= np.where(_side(pool, name) == is_case, ODDS, 1.0)
    rng = np.random.default_rng([seed, 2])
    train = _take(pool, {"no": size // 2, "yes": size // 2}, weight, rng)
    return Question(
        train, train,
        lambda space, count: quotas.deconfound(train, space, "diagnosis", by, count, seed),
        f"{len(train)} subjects, {' and '.join(by)} confounded with the diagnosis",
        f"A subject is {ODDS:g} times as likely to be in the training set for each of "
        f"{', '.join(by)} that agrees with the diagnosis; the samples come in the order that makes "
        "the diagnosis independent of it in real and synthetic subjects together.",
    )  # fmt: skip


def new_site(old: Cohort, pool: Cohort, size: int, new: int, seed: int) -> Question:
    """Many subjects of another site, few of the one that judges."""
    here = subsets(pool, "sex", (new,), seed)[new]
    there = subsets(old, "sex", (size,), seed)[size]
    tables = [_sited(each) for each in (there, here)]
    train = Cohort(pd.concat(tables), f"{there.name} + {here.name}")
    local = Cohort(tables[1], here.name)
    return Question(
        train, train, lambda space, count: labels_like(local, space, count, seed),
        f"{size} subjects of another site and {new} of this one",
        "All samples are asked for the site that judges, with the labels of its few subjects.",
    )  # fmt: skip


def confounders(cohort: Cohort) -> tuple[str, ...]:
    """Age, and site where both classes are at two sites or more."""
    table = cohort.table.assign(target=targets(cohort, "dementia"))
    sites = table[(table["target"] != "") & (table["site"] != "")].groupby("target")["site"]
    several = len(sites) == 2 and sites.nunique().min() > 1
    return ("age", "site") if several else ("age",)


def _take(
    cohort: Cohort, counts: dict[str, int], weight: np.ndarray, rng: np.random.Generator
) -> Cohort:
    """So many rows of each class of dementia, drawn in proportion to their weights."""
    labels = targets(cohort, "dementia")
    chosen: list[int] = []
    for label, count in counts.items():
        members = np.flatnonzero(labels == label)
        if len(members) < count:
            raise InputError(
                f"{len(members)} scans of {cohort.name} have dementia {label!r}, and {count} are "
                "needed; ask for fewer with --size, or for a larger pool with --many"
            )
        shares = weight[members] / weight[members].sum()
        chosen += rng.choice(members, count, replace=False, p=shares).tolist()
    return cohort.where(np.isin(np.arange(len(cohort)), chosen))


def _side(cohort: Cohort, name: str) -> np.ndarray:
    """Which half of its values a confounder has: above the median age, the later sites."""
    values = cohort.table[name]
    if name == "age":
        return (values > values.median()).to_numpy()
    names = sorted(set(values))
    return values.isin(names[len(names) // 2 :]).to_numpy()


def _sited(cohort: Cohort) -> pd.DataFrame:
    """The table with a site in every row: the name of the cohort where it tells none."""
    site = cohort.table["site"]
    return cohort.table.assign(site=site.where(site != "", cohort.name))
