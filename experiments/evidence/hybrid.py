"""``neuromix experiment hybrid``: is a classifier better off with images that were made up?

    NC, MCI or AD from fMRI and dMRI, of which a share of the training subjects lacks one
       │ the arms: drop them, or fill in what they lack
       ▼
    held-out subjects with both

For each share, a completer is trained on those training subjects who lack nothing; validation
subjects choose its best step and the classifiers' checkpoints. Separately, classifiers of complete
data judge test subjects whose image is taken away: left out, or filled in without their diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio
from rich.progress import track

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.regions import region_maps
from neuromix.augment.errors import InputError
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import MODALITIES
from neuromix.augment.pds.images import common_frame, read, together
from neuromix.classifiers.evaluate import metrics, predict
from neuromix.classifiers.stage import StageClassifier
from neuromix.experiments.evidence.arms import FILLINGS
from neuromix.experiments.evidence.comparison import (
    Cell,
    Comparison,
    carry_out,
    cells_of,
    fit_sampler,
)
from neuromix.experiments.evidence.configs import Hybrid
from neuromix.experiments.evidence.fillings import (
    Filler,
    TrainingSets,
    completer_config,
    diagnosis_scores,
    training_sets,
)
from neuromix.experiments.evidence.plan import plan_hybrid
from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.evidence.sites import find_cohort, labelled, part, require_classes
from neuromix.experiments.frame.arms import judge
from neuromix.experiments.frame.figures import Picture, slices
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import Group, Roles, title_of

OF_TRAINING, OF_TEST_SUBJECTS, COMPLETE = "hybrid", "test subjects lack it", "complete data"
"""Settings of cells and groups."""
TARGET = "diagnosis"
TRAINING_ROLES = Roles(
    "drop",
    ("drop", "mask", "mean", "regression"),
    ("pds", "pds-by-label"),
    ("pds",),
    "complete",
    (("pds", "regression"), ("pds", "mask"), ("pds-by-label", "pds")),
)
TEST_ROLES = Roles(
    "mask",
    ("mask", "mean", "regression"),
    ("pds",),
    ("pds",),
    "complete",
    (("pds", "regression"),),
)
TEST_ARMS = ("mask", "mean", "regression", "pds")
"""What is done to test subjects whose image was taken away."""
FILLED = tuple(name for name, arm in FILLINGS.items() if arm.source)
"""Arms whose filled images are looked at by themselves."""
FAR = 0.1
"""Balanced accuracy that images may tell more of among themselves than of real ones."""
Fit = Callable[[Sequence[tio.Subject]], Cell]
"""Training subjects to the record of a cell."""


class HybridComparison(Comparison):
    """All shares, cell by cell."""

    name, images = "hybrid", MODALITIES
    plan = staticmethod(plan_hybrid)
    config: Hybrid

    def __init__(self, config: Hybrid, frame: Run) -> None:
        super().__init__(config, frame)
        completer_config(config, config.train)  # what it refuses is refused before all else
        count = config.train + config.validation + config.test
        cohort = find_cohort(config.data, "paired", (), frame.folder / "phantom", count, config)
        whole = labelled(together(cohort), TARGET)
        common_frame(whole)  # refuses images that do not lie on one grid
        self.parts = part(whole, TARGET, config.train, config.validation, 0, config.seed)
        self.trained = [self.parts.pool, self.parts.validation]
        self.tests = [self.parts.test]
        self.fillers: dict[int, Filler] = {}
        for rate in config.missing:
            whole, without = self._split(rate)
            if rate > 0 and not len(without):
                raise InputError(
                    f"{rate} % of {len(whole)} training scans is nobody in any diagnosis; name "
                    "larger shares, or more training subjects"
                )
            what = f"part of the training set that lacks nothing where {rate} % lack an image"
            require_classes(whole, TARGET, what)

    def fit(self) -> None:
        """Every share of training subjects who lack the image, and test subjects who lack it."""
        for rate in self.config.missing:
            self._fit_share(rate)
        for arm in self._test_arms():
            cells = cells_of({"setting": OF_TEST_SUBJECTS}, [arm], self.config.seeds)
            left = [cell for cell in cells if not self.frame.is_done(cell)]
            versions = self._versions(arm) if left else []
            for cell in left:
                self.frame.cell(cell, partial(self._judge, versions, cell["seed"]))

    def groups(self) -> list[Group]:
        """The finished runs: the largest share first, test subjects last."""
        config, groups, name = self.config, [], self.parts.name
        about = f"{TARGET} on held-out subjects of {name}"
        for rate in sorted(config.missing, reverse=True):
            key = {"setting": OF_TRAINING, "missing": rate}
            title = f"{about}, {rate} % of {config.train} training subjects lack {config.lacks}"
            cells = {arm: _cell_of(rate, arm) for arm in self._arms(rate)}
            groups.append(self.group(key, title, name, TARGET, TRAINING_ROLES, cells))
        if arms := self._test_arms():
            key = {"setting": OF_TEST_SUBJECTS}
            title = f"{about} who lack {config.lacks}, by classifiers of complete data"
            cells = dict.fromkeys(arms, key) | {"complete": {"setting": COMPLETE}}
            groups.append(self.group(key, title, name, TARGET, TEST_ROLES, cells))
        return groups

    def page(self, results: dict[str, Any], groups: Sequence[Group]) -> str:
        """The report, with the shift between filled and real images, and some of the filled."""
        config, parts = self.config, self.parts
        lacks, shift = config.lacks, self._shifts()
        results["shift"] = shift
        rows = [
            {
                "arm": title_of(row["way"]),
                "% lack an image": str(row["missing"]),
                "among filled images": row["cross-validated"],
                "then of real test images": row["on real images"],
            }
            for row in shift
        ]
        table = pd.DataFrame(rows).astype(object)
        table = table.where(table.notna(), "too few")
        origin = "phantom paired" if config.data is None else "own data"
        methods = [
            f"The cohort is {parts.name} ({origin}, seed {config.seed}), with {len(parts.pool)} "
            f"training, {len(parts.validation)} validation and {len(parts.test)} test scans, all "
            f"of which have fMRI and dMRI. {lacks} is taken from a share of the training subjects, "
            "at random in each diagnosis; who lacks it at one share lacks it at every larger one.",
            "NC, MCI and AD are told apart by a network with a tower for each modality, trained "
            f"for {config.steps} steps with class weights; subjects without an image train the "
            "other tower alone. The completer and the simple fillings are fitted to the training "
            "subjects that lack nothing, and validation subjects choose its best step. Filling "
            "uses samples and no diagnosis, but for the arm that is named after it.",
            f"'{title_of('drop')}' leaves out who lacks {lacks}; '{title_of('pds-by-label')}' "
            "tells the completer the diagnosis, as nobody can for a test subject.",
            f"Test subjects who lack {lacks} are completed without their diagnosis, by the "
            f"completer of the smallest share ({min(config.missing)} %); of its {config.samples} "
            "samples the classifiers' probabilities are averaged.",
            "The shift between training and test is looked at with a logistic regression of region "
            "means: how well filled images tell the diagnosis among themselves (cross-validated), "
            "and real test images to what was fitted to filled ones.",
        ]
        return page(
            "Hybrid: diagnosis where images are missing",
            results,
            groups,
            methods=methods,
            warnings=[seeds_warning(config.seeds, "share"), *_watermarks(shift)],
            more=[(f"What filled {lacks} tells of the diagnosis", table)] if rows else [],
            first=self._pictures(),
        )

    @cached_property
    def held_out(self) -> dict[str, list[tio.Subject]]:
        """Validation and test subjects, read once."""
        parts = self.parts
        return {"validation": parts.validation.subjects(), "test": parts.test.subjects()}

    def _arms(self, rate: int) -> list[str]:
        """The arms at a share; where nobody lacks anything most are complete data."""
        return [arm for arm in self.config.arms if rate > 0 or arm in ("drop", "complete")]

    def _test_arms(self) -> list[str]:
        """Ways for test subjects, if there are classifiers of complete data to judge them."""
        arms = self.config.arms
        return (
            [arm for arm in TEST_ARMS if arm in arms] if {"mask", "complete"} <= set(arms) else []
        )

    def _split(self, rate: int) -> tuple[Cohort, Cohort]:
        """Training scans that lack nothing, and those that lack the image."""
        pool = self.parts.pool
        who = lacking(pool, rate, self.config.seed)
        keys = zip(pool.table["dataset"], pool.table["subject_id"], strict=True)
        lacks = np.array([key in who for key in keys])
        return pool.where(~lacks), pool.where(lacks)

    def _fit_share(self, rate: int) -> None:
        """Every arm where so many percent of the training subjects lack the image."""
        todo: dict[str, list[tuple[Cell, Fit]]] = {}
        for arm in self._arms(rate):
            where = _cell_of(rate, arm)
            name = where.pop("arm")
            cells: list[tuple[Cell, Fit]] = [
                (cell, partial(self._fit_stage, cell))
                for cell in cells_of(where, [name], self.config.seeds)
            ]
            if rate > 0 and arm in FILLED:
                cells.append((_shift_of(rate, arm), self._shift))
            if left := [cell for cell in cells if not self.frame.is_done(cell[0])]:
                todo[name] = left
        if not todo:
            return
        sets = self._training_sets(rate)
        for name, cells in track(todo.items(), f"Arms, {rate} % lack {self.config.lacks}"):
            train = sets[name]()
            for key, make in cells:
                self.frame.cell(key, partial(make, train))

    def _training_sets(self, rate: int) -> TrainingSets:
        whole, without = (rows.subjects() if len(rows) else [] for rows in self._split(rate))
        sets = training_sets(self._filler(rate), whole, without, f"missing-{rate}")
        return {**sets, "complete": self.parts.pool.subjects}

    def _filler(self, rate: int) -> Filler:
        """What fills in, fitted to those who lack nothing at that share."""
        if rate not in self.fillers:
            config, frame = self.config, self.frame
            whole, without = self._split(rate)
            # As a completer would get it: who lacks an image is there, but teaches nothing.
            bare = without.table.assign(**{f"{config.lacks}_path": ""})
            completer = fit_sampler(
                frame,
                f"missing-{rate}",
                ModalityCompleter,
                Cohort(pd.concat([whole.table, bare]), whole.name),
                completer_config(config, len(whole)),
                self.parts.validation,
                self.tests,
                scans=len(whole),
            )
            self.fillers[rate] = Filler(
                config.lacks, whole.subjects(), completer, frame.folder / "fills", config.seed
            )
        return self.fillers[rate]

    def _fit_stage(self, cell: Cell, train: Sequence[tio.Subject]) -> Cell:
        classifier = StageClassifier(
            image=MODALITIES, steps=self.config.steps, seed=cell["seed"], class_weight="balanced"
        )
        held = self.held_out
        classifier, record = judge(classifier, train, held["validation"], held["test"])
        if cell["arm"] == "complete":  # judges test subjects that lack an image, too
            classifier.save(self._saved(cell["seed"]))
        return record

    def _saved(self, seed: int) -> Path:
        return self.frame.folder / "classifiers" / f"complete-{seed}"

    def _shift(self, train: Sequence[tio.Subject]) -> Cell:
        filled = [subject for subject in train if subject["synthetic"]]
        regions = region_maps(common_frame(self.parts.test)[0])
        return diagnosis_scores(regions, filled, self.held_out["test"], self.config.lacks)

    def _shifts(self) -> list[dict[str, Any]]:
        """How well the diagnosis is learnt from filled images, for themselves and for real ones."""
        rows = []
        for rate in self.config.missing:
            for way in self._arms(rate) if rate > 0 else ():
                if way in FILLED:
                    record = self.frame.cell(_shift_of(rate, way), dict)
                    scores = {name: record[name] for name in ("cross-validated", "on real images")}
                    rows.append({"missing": rate, "way": way, **scores})
        return rows

    def _versions(self, arm: str) -> list[list[tio.Subject]]:
        """Test subjects without the image or with another in its place; of PDS, K samples."""
        filler = self._filler(min(self.config.missing))
        bare = filler.without(self.held_out["test"])
        if arm == "mask":
            return [bare]
        if arm != "pds":
            return [filler.fill_simply(arm, bare)]
        made = filler.draw("test", bare, self.config.samples)
        return [filler.fill_with(bare, made[:, k]) for k in range(self.config.samples)]

    def _judge(self, versions: Sequence[list[tio.Subject]], seed: int) -> Cell:
        """Predictions, averaged over the versions of the test subjects."""
        classifier = StageClassifier.load(self._saved(seed))
        each = [predict(classifier, subjects) for subjects in versions]
        average = np.mean([predictions.probabilities for predictions in each], axis=0)
        predictions = replace(each[0], probabilities=average)
        score = metrics(predictions)
        return {
            "balanced_accuracy": score["balanced_accuracy"],
            "auc": score["auc"],
            # There is nothing to choose here; all ways are before the same classifiers.
            "validation": classifier.score(self.held_out["validation"]),
            "predictions": predictions.to_dict(),
        }

    def _pictures(self) -> list[Picture]:
        """A training subject that lacks its image, filled in by every way."""
        rate = max(self.config.missing)
        if rate == 0:
            return []
        whole, without = self._split(rate)
        sets, want = self._training_sets(rate), self.config.lacks
        shown = [way for way in FILLED if way in self.config.arms]
        subjects = [without.subjects()[0], *(sets[way]()[len(whole)] for way in shown)]
        volumes = [read(subject[want], want).numpy()[0] for subject in subjects]
        titles = ["real", *(FILLINGS[way].title for way in shown)]
        picture = slices(volumes, titles, upper=float(np.percentile(volumes[0], 99.8)))
        text = (
            f"The first segment of {self.config.lacks} of a training subject, and what is in its "
            "place in each arm."
        )
        return [(picture, text)]


run = partial(carry_out, HybridComparison)


def lacking(cohort: Cohort, rate: int, seed: int) -> set[tuple[str, str]]:
    """Subjects whose image is taken away: so many percent of each diagnosis, at random.

    Those who lack it at one share also lack it at any larger one.
    """
    first = cohort.table.drop_duplicates(["dataset", "subject_id"])
    chosen: set[tuple[str, str]] = set()
    for diagnosis in sorted(set(first["diagnosis"])):
        rows = first[first["diagnosis"] == diagnosis][["dataset", "subject_id"]].to_numpy()
        order = np.random.default_rng([seed, 3]).permutation(len(rows))
        chosen |= {tuple(rows[k]) for k in order[: round(rate / 100 * len(rows))]}
    return chosen


def _watermarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which images carry their label, or a look of their own."""
    warnings = []
    for row in rows:
        inside, outside = row["cross-validated"], row["on real images"]
        if inside is not None and inside - outside > FAR:
            warnings.append(
                f"'{title_of(row['way'])}' ({row['missing']} % missing): images tell the diagnosis "
                f"among themselves with {inside:.2f} and of real test images with {outside:.2f}: "
                "what is learnt from them does not hold for real images."
            )
    return warnings


def _cell_of(rate: int, arm: str) -> Cell:
    """What the cells of an arm have in common: complete data is the same at every share."""
    if arm == "complete" or rate == 0:
        return {"setting": COMPLETE, "arm": "complete"}
    return {"setting": OF_TRAINING, "missing": rate, "arm": arm}


def _shift_of(rate: int, way: str) -> Cell:
    return {"check": f"fills, {rate} % missing", "way": way}
