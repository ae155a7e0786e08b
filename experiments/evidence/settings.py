"""Where synthetic data ought to help: the arms of :mod:`arms` in four settings.

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
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torchio as tio

from neuromix.augment.bank import quotas
from neuromix.augment.data.cohort import Cohort
from neuromix.experiments.evidence.arms import (
    ARMS,
    AUGMENTATION,
    SYNTHETIC,
    Arm,
    Material,
    Samples,
    keep_pictures,
    needs,
    pictures_of,
    run_arms,
    sex_or_dementia,
)
from neuromix.experiments.evidence.comparison import carry_out
from neuromix.experiments.evidence.costs import pace
from neuromix.experiments.evidence.questions import (
    Question,
    confounded,
    confounders,
    few_labels,
    imbalance,
    new_site,
)
from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.evidence.settings_config import SETTINGS, Settings
from neuromix.experiments.evidence.sites import Parts, Wanted, load_site, require_classes
from neuromix.experiments.frame.arms import check_disjoint, judge, runs_of
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import CEILING, Group

NAME = "settings"
TANGLED = 0.2
"""Association of diagnosis and confounder above which a test set is no unconfounded one."""


def run(config: Settings, out: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Do the cells that are not done yet; write ``results.json`` and ``report.html``."""
    return carry_out(NAME, config, out, _Settings, _plan, ("md",), dry_run=dry_run)


class _Settings:
    """All settings, cell by cell."""

    def __init__(self, config: Settings, frame: Run) -> None:
        self.config, self.frame = config, frame
        self.b = self._site(config.data_b, "B", "dementia", config.many, config.fresh)
        self.a: Parts | None = None
        if "new-site" in config.settings:
            self.a = self._site(config.data_a, "A", "sex", config.size, 0)
        self.questions = {name: self._question(name) for name in config.settings}
        for name, question in self.questions.items():
            require_classes(question.train, SETTINGS[name], f"training set of {name}")

    def check(self) -> None:
        """Nobody judges who trained or chose anything."""

        def look() -> dict[str, Any]:
            trained = [self.b.pool, self.b.validation, *([self.a.pool] if self.a else [])]
            check_disjoint(trained, [self.b.test], voxels=True)
            if self.b.ceiling is not None:
                check_disjoint([self.b.ceiling], [self.b.test], voxels=False)
            return {"subjects": len(self.b.test.subject_keys)}

        self.frame.cell({"check": "disjoint"}, look)

    def fit(self) -> None:
        """Every arm in every setting, and a ceiling for each target."""
        config = self.config
        for name in config.settings:
            run_arms(
                self.frame,
                {"setting": name, "size": config.real[name]},
                config.arms,
                config.seeds,
                partial(self._material, name),
                partial(self._cell, name),
            )
        for target in self._targets():
            for seed in range(config.seeds if config.fresh else 0):
                self.frame.cell(
                    {"setting": f"{target} ceiling", "arm": CEILING, "seed": seed},
                    partial(self._ceiling, target, seed),
                )

    def groups(self) -> list[Group]:
        """The finished runs, a group for each setting."""
        config, result = self.config, []
        for key in config.keys:
            name = key["setting"]
            target = SETTINGS[name]
            found = {arm: runs_of(self.frame, key, arm, config.seeds) for arm in config.arms}
            if config.fresh:
                where = {"setting": f"{target} ceiling"}
                found[CEILING] = runs_of(self.frame, where, CEILING, config.seeds)
            choose = len(self._validation(name).subject_keys)
            labels = choose + len(self.questions[name].train.subject_keys)
            title = (
                f"{target} on held-out subjects of {self.b.name}, {name}: "
                f"{self.questions[name].title}; {labels} labels, {choose} of which choose "
                "checkpoint and step"
            )
            runs = {arm: predictions for arm, (predictions, _) in found.items()}
            validation = {arm: score for arm, (_, score) in found.items()}
            result.append(Group(key, title, self.b.name, target, runs, validation, AUGMENTATION))
        return result

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
            warnings += self._tangled(methods)
        return page(
            "Four settings where synthetic data ought to help",
            results,
            groups,
            pictures_of(self.frame),
            methods=methods,
            warnings=warnings,
            config=results["config"],
        )

    @cached_property
    def held(self) -> dict[str, list[tio.Subject]]:
        """Validation and test subjects, read once."""
        return {"validation": self.b.validation.subjects(), "test": self.b.test.subjects()}

    def _tangled(self, methods: list[str]) -> list[str]:
        """Say how far the diagnosis hangs together with each confounder, and what is missing."""
        by = confounders(self.b.pool)
        train = quotas.associations(self.questions["confounded"].train, (), "diagnosis", by)
        test = quotas.associations(self.b.test, (), "diagnosis", by)
        found = zip(by, train["measure"], train["before"], test["before"], strict=True)
        warnings = []
        for name, measure, there, here in found:
            methods.append(
                f"Diagnosis and {name}, {measure}: {there:.2f} in the confounded training set, "
                f"{here:.2f} in the test set."
            )
            if here > TANGLED:
                warnings.append(
                    f"In the test set, too, the diagnosis goes with {name} ({measure} {here:.2f}): "
                    "the setting 'confounded' is not tested on unconfounded subjects."
                )
        if "site" not in by:
            warnings.append(
                "Only age is confounded: the judging cohort has no two sites with both diagnoses."
            )
        return warnings

    def _site(self, data: Path | None, name: str, target: str, pool: int, ceiling: int) -> Parts:
        config = self.config
        wanted = Wanted(pool, config.validation, config.test, ceiling)
        return load_site(
            data, name, target, wanted, self.frame.folder, spacing=config.spacing, seed=config.seed
        )

    def _question(self, name: str) -> Question:
        config, pool = self.config, self.b.pool
        if name == "few-labels":
            return few_labels(pool, config.few, config.seed)
        if name == "imbalance":
            return imbalance(pool, config.size, config.seed)
        if name == "confounded":
            return confounded(pool, config.size, config.seed)
        assert self.a is not None
        return new_site(self.a.pool, pool, config.size, config.new, config.seed)

    def _validation(self, name: str) -> Cohort:
        """Subjects that choose checkpoint and step, in every arm."""
        own = self.questions[name].validation
        return self.b.validation if own is None else own

    def _material(self, name: str) -> Material:
        question, validation = self.questions[name], self._validation(name)
        samples = Samples(
            self.frame,
            name,
            question.seen,
            validation,
            self.config.sampling,
            question.asked,
            [self.b.test],
        ).draw(needs(self.config.arms, len(question.train)))
        train = question.train.subjects()
        material = Material(train, validation.subjects(), self.held["test"], samples)
        keep_pictures(self.frame, name, material)
        return material

    def _cell(self, name: str, arm: Arm, seed: int, material: Material) -> dict[str, Any]:
        classifier = self._classifier(SETTINGS[name], arm, seed)
        train = arm.training_set(material)
        return judge(classifier, train, material.validation, material.test)[1]

    def _ceiling(self, target: str, seed: int) -> dict[str, Any]:
        if self._fresh is None:
            assert self.b.ceiling is not None
            self._fresh = self.b.ceiling.subjects()
        classifier = self._classifier(target, ARMS["real"], seed)
        return judge(classifier, self._fresh, self.held["validation"], self.held["test"])[1]

    def _classifier(self, target: str, arm: Arm, seed: int) -> Any:
        return sex_or_dementia(
            target,
            steps=self.config.steps,
            seed=seed,
            class_weight="balanced",
            **arm.augmentation,
        )

    def _targets(self) -> list[str]:
        return list(dict.fromkeys(SETTINGS[name] for name in self.config.settings))

    _fresh: list[tio.Subject] | None = None


def _plan(config: Settings) -> list[tuple[str, float]]:
    """What would be done, and for how many seconds on this machine."""
    speed = pace(config.data_b, config.spacing, config.sampling, config.seed)
    judged = config.validation + config.test
    people = 1.6 * (config.many + judged + config.fresh) * (config.data_b is None)
    if "new-site" in config.settings:
        people += (config.size + judged) * (config.data_a is None)
    counts = [config.real[name] for name in config.settings]
    samples = sum(needs(config.arms, count).get(SYNTHETIC, 0) for count in counts)
    ceilings = len({SETTINGS[name] for name in config.settings}) * (config.fresh > 0)
    fits = config.seeds * (len(counts) * len(config.arms) + ceilings)
    samplers = len(counts) if samples else 0
    labels = ", ".join(f"{name} {config.labels[name]}" for name in config.settings)
    return [
        ("phantom subjects", people * speed.subject),
        (f"{samplers} samplers", samplers * speed.sampler),
        (f"{samples} samples", samples * speed.sample),
        (
            f"{fits} fits; labels in all: {labels}",
            fits * (config.steps * speed.step + judged * speed.judged),
        ),
    ]
