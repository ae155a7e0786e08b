"""Where synthetic data ought to help: arms of maps in four settings.

- ``few-labels``: few subjects have a diagnosis, to train and to choose by; the sampler is trained
  on many, most of them without one.
- ``imbalance``: ten healthy subjects for each with dementia; the bank makes the classes equal.
- ``confounded``: age (and site, where there are several) goes with the diagnosis in training and
  not in the test; the bank holds what makes them independent.
- ``new-site``: many subjects of site A and few of site B; samples are asked for site B.

The same subjects of site B judge in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio

from neuromix.augment.bank import quotas
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.experiments.evidence.arms import ARMS
from neuromix.experiments.evidence.comparison import (
    Cell,
    Comparison,
    carry_out,
    cells_of,
    run_cells,
)
from neuromix.experiments.evidence.configs import CHOOSING, SETTINGS, Settings
from neuromix.experiments.evidence.plan import plan_settings
from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.evidence.samples import (
    AUGMENTATION,
    Material,
    Requests,
    labels_like,
    make_material,
    pictures_of,
    sex_or_dementia,
)
from neuromix.experiments.evidence.sites import load_site, require_classes, subsets, targets
from neuromix.experiments.frame.arms import judge
from neuromix.experiments.frame.cohorts import names_of
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import CEILING, Group

CONFOUNDED = 0.2
"""Association of diagnosis and confounder above which a test set is no unconfounded one."""
ODDS = 9.0
"""How much likelier a subject is taken into the confounded training set for each confounder that
agrees with the diagnosis: nine in ten agree."""


@dataclass(frozen=True)
class Question:
    """One setting.

    Args:
        train: Real subjects that classifiers are trained on.
        sampler_train: Real subjects that the sampler is trained on.
        requests: Labels of the samples.
        title: What is hard about it.
        about: How it was made.
        validation: Real subjects that choose checkpoint and step, if not the site's.
    """

    train: Cohort
    sampler_train: Cohort
    requests: Requests
    title: str
    about: str
    validation: Cohort | None = None


class SettingsComparison(Comparison):
    """All settings, cell by cell."""

    name = "settings"
    plan = staticmethod(plan_settings)
    config: Settings

    def __init__(self, config: Settings, frame: Run) -> None:
        super().__init__(config, frame)
        b = self.b = load_site(config, "B", "dementia", config.many, config.fresh, frame.folder)
        self.trained, self.tests, self.ceiling = [b.pool, b.validation], [b.test], b.ceiling
        self.questions = {name: self._question(name) for name in config.settings}
        for name, question in self.questions.items():
            require_classes(question.train, SETTINGS[name], f"training set of {name}")

    def fit(self) -> None:
        """Every arm in every setting, and a ceiling for each target."""
        config = self.config
        for key in config.keys:
            name = key["setting"]
            cells = cells_of(key, config.arms, config.seeds)
            run_cells(self.frame, name, cells, partial(self._material, name), self._fit_arm)
        for target in dict.fromkeys(SETTINGS[name] for name in config.settings):
            if self.ceiling is not None:
                cells = cells_of({"setting": f"{target} ceiling"}, [CEILING], config.seeds)
                make = partial(self._fit_ceiling, target)
                run_cells(self.frame, f"{target} ceiling", cells, self.ceiling.subjects, make)

    def groups(self) -> list[Group]:
        """The finished runs, a group for each setting."""
        config, groups = self.config, []
        for key in config.keys:
            name = key["setting"]
            target, question = SETTINGS[name], self.questions[name]
            arms = dict.fromkeys(config.arms, key)
            if config.fresh:
                arms[CEILING] = {"setting": f"{target} ceiling"}
            choose = len(self._validation(name).subject_keys)
            labels = choose + len(question.train.subject_keys)
            title = (
                f"{target} on held-out subjects of {self.b.name}, {name}: {question.title}; "
                f"{labels} labels, {choose} of which choose checkpoint and step"
            )
            groups.append(self.group(key, title, self.b.name, target, AUGMENTATION, arms))
        return groups

    def page(self, results: dict[str, Any], groups: Sequence[Group]) -> str:
        """The report."""
        config, b = self.config, self.b
        origin = "phantom md" if config.data_b is None else "own data"
        methods = [
            f"The judging site is {b.name} ({origin}, seed {config.seed}), with "
            f"{len(b.test)} test scans, the same in all settings, and {len(b.validation)} "
            "validation scans, the same in all but few-labels, where some of the few labels choose "
            f"instead. Each classifier is trained for {config.steps} steps, with class weights "
            "that make up for unequal classes. Except where it is said, a sampler is trained on "
            "the real training subjects of its setting alone.",
            *(f"{name}: {q.title}. {q.about}" for name, q in self.questions.items()),
        ]
        warnings = [seeds_warning(config.seeds, "setting")]
        if "confounded" in self.questions:
            warnings += self.confounding(methods)
        return page(
            "Four settings where synthetic data ought to help",
            results,
            groups,
            methods=methods,
            warnings=warnings,
            pictures=pictures_of(self.frame),
        )

    def confounding(self, methods: list[str]) -> list[str]:
        """Say how far the diagnosis hangs together with each confounder, and what is missing."""
        by = confounders(self.b.pool)
        train = quotas.associations(self.questions["confounded"].train, (), "diagnosis", by)
        test = quotas.associations(self.b.test, (), "diagnosis", by)
        rows = zip(by, train["measure"], train["before"], test["before"], strict=True)
        warnings = []
        for name, measure, there, here in rows:
            methods.append(
                f"Diagnosis and {name}, {measure}: {there:.2f} in the confounded training set, "
                f"{here:.2f} in the test set."
            )
            if here > CONFOUNDED:
                warnings.append(
                    f"In the test set, too, the diagnosis goes with {name} ({measure} {here:.2f}): "
                    "the setting 'confounded' is not tested on unconfounded subjects."
                )
        if "site" not in by:
            warnings.append(
                "Only age is confounded: the judging cohort has no two sites with both diagnoses."
            )
        return warnings

    @cached_property
    def held_out(self) -> dict[str, list[tio.Subject]]:
        """Validation and test subjects, read once."""
        return {"validation": self.b.validation.subjects(), "test": self.b.test.subjects()}

    def _question(self, name: str) -> Question:
        config, pool = self.config, self.b.pool
        if name == "few-labels":
            return few_labels(pool, config.few, config.seed)
        if name == "imbalance":
            return imbalance(pool, config.size, config.seed)
        if name == "confounded":
            return confounded(pool, config.size, config.seed)
        a = load_site(config, "A", "sex", config.size, 0, self.frame.folder)
        self.trained.append(a.pool)
        return new_site(a.pool, pool, config.size, config.new, config.seed)

    def _validation(self, name: str) -> Cohort:
        """Subjects that choose checkpoint and step, in every arm."""
        own = self.questions[name].validation
        return self.b.validation if own is None else own

    def _material(self, name: str) -> Material:
        question = self.questions[name]
        return make_material(
            self.frame, name, self.config, question.train, self._validation(name),
            self.held_out["test"], question.requests, self.tests, question.sampler_train,
        )  # fmt: skip

    def _fit_arm(self, cell: Cell, material: Material) -> Cell:
        arm = ARMS[cell["arm"]]
        classifier = self._classifier(SETTINGS[cell["setting"]], cell, arm.augmentation)
        train = material.training_set(arm)
        return judge(classifier, train, material.validation, material.test)[1]

    def _fit_ceiling(self, target: str, cell: Cell, fresh: list[tio.Subject]) -> Cell:
        classifier = self._classifier(target, cell, ARMS["real"].augmentation)
        return judge(classifier, fresh, self.held_out["validation"], self.held_out["test"])[1]

    def _classifier(self, target: str, cell: Cell, augmentation: Cell) -> Any:
        return sex_or_dementia(
            target,
            image=self.config.image,
            steps=self.config.steps,
            seed=cell["seed"],
            class_weight="balanced",
            **augmentation,
        )


run = partial(carry_out, SettingsComparison)


def few_labels(pool: Cohort, few: int, seed: int) -> Question:
    """Few of the pool keep their diagnosis, to train and to choose by; the sampler sees the others.

    A label that chooses a checkpoint is a label that somebody had to give.
    """
    count = few - round(CHOOSING * few)
    parts = subsets(pool, "dementia", (count, few), seed)
    train, names = parts[count], names_of(pool)
    is_train, is_labelled = (np.isin(names, names_of(parts[size])) for size in (count, few))
    chooses = pool.where(is_labelled & ~is_train)
    require_classes(chooses, "dementia", f"part of {few} labels that chooses", fewest=1)
    rows = pool.where(is_train | ~is_labelled)
    keeps = np.isin(names_of(rows), names_of(train))
    diagnosis = rows.table["diagnosis"].where(keeps, "")
    sampler_train = Cohort(rows.table.assign(diagnosis=diagnosis), pool.name)
    return Question(
        train, sampler_train, lambda space, count: labels_like(train, space, count, seed),
        f"few labels, and a sampler of {len(sampler_train)} scans",
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
        weight *= np.where(_is_upper(pool, name) == is_case, ODDS, 1.0)
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
    tables = [_with_site(each) for each in (there, here)]
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


def _is_upper(cohort: Cohort, name: str) -> np.ndarray:
    """Which half of its values a confounder has: above the median age, the later sites."""
    values = cohort.table[name]
    if name == "age":
        return (values > values.median()).to_numpy()
    names = sorted(set(values))
    return values.isin(names[len(names) // 2 :]).to_numpy()


def _with_site(cohort: Cohort) -> pd.DataFrame:
    """The table with a site in every row: the name of the cohort where it names none."""
    site = cohort.table["site"]
    return cohort.table.assign(site=site.where(site != "", cohort.name))
