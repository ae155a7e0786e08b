"""``neuromix experiment hybrid``: is a classifier better off with images that were made up?

    NC, MCI or AD from fMRI and dMRI, of which a share of the training subjects lacks one
       │ the arms of :mod:`neuromix.experiments.evidence.fillings`: drop them, or fill in what they
       lack ▼
    held-out subjects with both

For each share, a completer is trained on those training subjects who lack nothing; validation
subjects choose its best step and the classifiers' checkpoints. Separately, classifiers of complete
data judge test subjects whose image is taken away: left out, or filled in without their diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import MODALITIES
from neuromix.augment.pds.pairs import common_frame, paired, read
from neuromix.augment.phantom import make_phantom
from neuromix.classifiers.evaluate import metrics, predict
from neuromix.classifiers.stage import StageClassifier
from neuromix.experiments.evidence.comparison import carry_out
from neuromix.experiments.evidence.fillings import FILLINGS, Filler, Ways, told_by, training_sets
from neuromix.experiments.evidence.hybrid_config import Hybrid
from neuromix.experiments.evidence.hybrid_costs import plan
from neuromix.experiments.evidence.hybrid_report import report
from neuromix.experiments.evidence.sites import Parts, Wanted, labelled, part, require_classes
from neuromix.experiments.frame.arms import check_disjoint, judge, runs_of
from neuromix.experiments.frame.cohorts import load_cohort
from neuromix.experiments.frame.figures import Picture, slices
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import Group, Roles

NAME = "hybrid"
TRAINING, TEST, COMPLETE = "hybrid", "test subjects lack it", "complete data"
"""Settings of cells and groups."""
TARGET = "diagnosis"
ROLES = Roles(
    "drop",
    ("drop", "mask", "mean", "regression"),
    ("pds", "pds-extra", "pds-by-label"),
    ("pds", "pds-extra"),
    "complete",
    (("pds", "regression"), ("pds", "mask"), ("pds-by-label", "pds")),
)
TESTED = Roles(
    "mask",
    ("mask", "mean", "regression"),
    ("pds",),
    ("pds",),
    "complete",
    (("pds", "regression"),),
)
"""Of the ways to fill in what test subjects lack."""
FILLED = ("mean", "regression", "pds", "pds-by-label")
"""Arms whose filled images are looked at by themselves."""
UNLIKE = "pds-extra"
"""The arm that is not complete data where nobody lacks anything."""
Fit = Callable[[Sequence[tio.Subject]], dict[str, Any]]
"""Training subjects to the record of a cell."""
TAKEN = ("mask", "mean", "regression", "pds")
"""What is done to test subjects whose image was taken away."""


def run(config: Hybrid, out: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Do the cells that are not done yet; write ``results.json`` and ``report.html``."""
    return carry_out(NAME, config, out, _Hybrid, plan, MODALITIES, dry_run=dry_run)


class _Hybrid:
    """All shares, cell by cell."""

    def __init__(self, config: Hybrid, frame: Run) -> None:
        self.config, self.frame = config, frame
        self.parts = self._parts()
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

    def check(self) -> None:
        """Nobody judges who trained or chose anything."""

        def look() -> dict[str, Any]:
            parts = self.parts
            check_disjoint([parts.pool, parts.validation], [parts.test], voxels=True)
            return {"subjects": len(parts.test.subject_keys)}

        self.frame.cell({"check": "disjoint"}, look)

    def fit(self) -> None:
        """Every share of training subjects who lack the image, and test subjects who lack it."""
        for rate in self.config.missing:
            self._fit(rate)
        self._fit_test()

    def page(self, results: dict[str, Any], groups: Sequence[Group]) -> str:
        """The report, with the shift between filled and real images."""
        results["shift"] = self.shifts()
        return report(results, groups, self.parts, self.pictures())

    def _fit(self, rate: int) -> None:
        """Every arm where so many percent of the training subjects lack the image."""
        todo: dict[str, list[tuple[dict[str, Any], Fit]]] = {}
        for arm in self._arms(rate):
            where, name = _place(rate, arm)
            cells: list[tuple[dict[str, Any], Fit]] = [
                ({**where, "arm": name, "seed": seed}, partial(self._cell, name, seed))
                for seed in range(self.config.seeds)
            ]
            if rate > 0 and arm in FILLED:
                cells.append((_look(rate, arm), self._told))
            if left := [cell for cell in cells if not self.frame.is_done(cell[0])]:
                todo[name] = left
        if not todo:
            return
        ways = self._ways(rate)
        for name, cells in track(todo.items(), f"Arms, {rate} % lack {self.config.lacks}"):
            train = ways[name]()
            for key, make in cells:
                self.frame.cell(key, partial(make, train))

    def _fit_test(self) -> None:
        """Test subjects whose image is taken away, before the classifiers of complete data."""
        for arm in self._taken():
            key = {"setting": TEST, "arm": arm}
            seeds = range(self.config.seeds)
            left = [seed for seed in seeds if not self.frame.is_done({**key, "seed": seed})]
            versions = self._versions(arm) if left else []
            for seed in left:
                self.frame.cell({**key, "seed": seed}, partial(self._judged, versions, seed))

    def groups(self) -> list[Group]:
        """The finished runs: the largest share first, test subjects last."""
        config, result = self.config, []
        about = f"{TARGET} on held-out subjects of {self.parts.name}"
        for rate in sorted(config.missing, reverse=True):
            places = {arm: _place(rate, arm) for arm in self._arms(rate)}
            title = f"{about}, {rate} % of {config.train} training subjects lack {config.lacks}"
            result.append(self._group({"setting": TRAINING, "missing": rate}, title, places, ROLES))
        if taken := self._taken():
            places = {arm: ({"setting": TEST}, arm) for arm in taken}
            places["complete"] = ({"setting": COMPLETE}, "complete")
            title = f"{about} who lack {config.lacks}, by classifiers of complete data"
            result.append(self._group({"setting": TEST}, title, places, TESTED))
        return result

    def shifts(self) -> list[dict[str, Any]]:
        """What filled images tell of the diagnosis among themselves, and of real ones."""
        rows = []
        for rate in self.config.missing:
            for way in self._arms(rate) if rate > 0 else ():
                if way in FILLED:
                    record = self.frame.cell(_look(rate, way), dict)
                    told = {name: record[name] for name in record if name.startswith("told")}
                    rows.append({"missing": rate, "way": way, **told})
        return rows

    def pictures(self) -> list[Picture]:
        """A training subject that lacks its image, filled in by every way."""
        rate = max(self.config.missing)
        if rate == 0:
            return []
        whole, without = self._split(rate)
        ways, want = self._ways(rate), self.config.lacks
        shown = [way for way in FILLED if way in self.config.arms]
        subjects = [without.subjects()[0], *(ways[way]()[len(whole)] for way in shown)]
        volumes = [read(subject[want], want).numpy()[0] for subject in subjects]
        titles = ["real", *(FILLINGS[way] for way in shown)]
        picture = slices(volumes, titles, upper=float(np.percentile(volumes[0], 99.8)))
        text = (
            f"The first segment of {self.config.lacks} of a training subject, and what is in its "
            "place in each arm."
        )
        return [(picture, text)]

    @cached_property
    def held(self) -> dict[str, list[tio.Subject]]:
        """Validation and test subjects, read once."""
        parts = self.parts
        return {"validation": parts.validation.subjects(), "test": parts.test.subjects()}

    def _arms(self, rate: int) -> list[str]:
        """The arms at a share; where nobody lacks anything most are complete data."""
        return [a for a in self.config.arms if rate > 0 or a in ("drop", UNLIKE, "complete")]

    def _taken(self) -> list[str]:
        """Ways for test subjects, if there are classifiers of complete data to judge them."""
        arms = self.config.arms
        return [arm for arm in TAKEN if arm in arms] if {"mask", "complete"} <= set(arms) else []

    def _split(self, rate: int) -> tuple[Cohort, Cohort]:
        """Training scans that lack nothing, and those that lack the image."""
        pool = self.parts.pool
        who = lacking(pool, rate, self.config.seed)
        keys = zip(pool.table["dataset"], pool.table["subject_id"], strict=True)
        lacks = np.array([key in who for key in keys])
        return pool.where(~lacks), pool.where(lacks)

    def _ways(self, rate: int) -> Ways:
        whole, without = (part.subjects() if len(part) else [] for part in self._split(rate))
        made = training_sets(self._filler(rate), whole, without, f"missing-{rate}")
        return {**made, "complete": self.parts.pool.subjects}

    def _filler(self, rate: int) -> Filler:
        """What fills in, fitted to those who lack nothing at that share."""
        if rate in self.fillers:
            return self.fillers[rate]
        config, frame = self.config, self.frame
        whole, without = self._split(rate)
        name = f"missing-{rate}"
        folder = frame.folder / "completers" / name
        # As the completer would find it: who lacks an image is seen, but teaches nothing.
        bare = without.table.assign(**{f"{config.lacks}_path": ""})
        cohort = Cohort(pd.concat([whole.table, bare]), whole.name)

        def fit() -> dict[str, Any]:
            frame.log(f"Completer, {rate} % lack {config.lacks}: {len(whole)} training scans")
            _, trained = ModalityCompleter.fit(
                cohort,
                config.config(len(whole)),
                folder,
                validation=self.parts.validation,
                progress=True,
            )
            return {
                "scans": len(whole),
                "best_step": trained.best_step,
                "validation_loss": trained.validation,
            }

        if frame.is_done({"sampler": name}) and not is_sampler(folder):
            raise InputError(
                f"{folder} holds no completer any more, and {frame.folder} needs it; begin in "
                "another folder"
            )
        frame.cell({"sampler": name}, fit)
        completer = ModalityCompleter.from_pretrained(folder)
        completer.check_disjoint(self.parts.test)
        self.fillers[rate] = Filler(
            config.lacks, whole.subjects(), completer, frame.folder / "fills", config.seed
        )
        return self.fillers[rate]

    def _cell(self, arm: str, seed: int, train: Sequence[tio.Subject]) -> dict[str, Any]:
        classifier = StageClassifier(
            image=MODALITIES, steps=self.config.steps, seed=seed, class_weight="balanced"
        )
        held = self.held
        classifier, record = judge(classifier, train, held["validation"], held["test"])
        if arm == "complete":  # judges test subjects that lack an image, too
            classifier.save(self._saved(seed))
        return record

    def _saved(self, seed: int) -> Path:
        return self.frame.folder / "classifiers" / f"complete-{seed}"

    def _told(self, train: Sequence[tio.Subject]) -> dict[str, Any]:
        want = self.config.lacks
        made = [subject for subject in train if subject["synthetic"]]
        regions = region_maps(common_frame(self.parts.test)[0])
        return told_by(regions, made, self.held["test"], want)

    def _versions(self, arm: str) -> list[list[tio.Subject]]:
        """Test subjects without the image or with another in its place; of PDS, K samples."""
        filler = self._filler(min(self.config.missing))
        bare = filler.without(self.held["test"])
        if arm == "mask":
            return [bare]
        if arm != "pds":
            return [filler.simple(arm, bare)]
        made = filler.drawn("test", bare, self.config.samples)
        return [filler.filled(bare, made[:, k]) for k in range(self.config.samples)]

    def _judged(self, versions: Sequence[list[tio.Subject]], seed: int) -> dict[str, Any]:
        """Predictions, averaged over the versions of the test subjects."""
        classifier = StageClassifier.load(self._saved(seed))
        said = [predict(classifier, subjects) for subjects in versions]
        average = np.mean([each.probabilities for each in said], axis=0)
        predictions = replace(said[0], probabilities=average)
        score = metrics(predictions)
        return {
            "balanced_accuracy": score["balanced_accuracy"],
            "auc": score["auc"],
            # There is nothing to choose here; all ways are before the same classifiers.
            "validation": classifier.score(self.held["validation"]),
            "predictions": predictions.to_dict(),
        }

    def _group(
        self,
        key: dict[str, Any],
        title: str,
        places: dict[str, tuple[dict[str, Any], str]],
        roles: Roles,
    ) -> Group:
        found = {
            arm: runs_of(self.frame, where, name, self.config.seeds)
            for arm, (where, name) in places.items()
        }
        runs = {arm: predictions for arm, (predictions, _) in found.items()}
        validation = {arm: score for arm, (_, score) in found.items()}
        return Group(key, title, self.parts.name, TARGET, runs, validation, roles)

    def _parts(self) -> Parts:
        config = self.config
        wanted = Wanted(config.train, config.validation, config.test)
        if config.data is None:
            folder = make_phantom(
                self.frame.folder / "phantom", "paired", subjects=wanted.total, seed=config.seed,
                spacing=config.spacing, progress=True,
            )  # fmt: skip
            cohort, name = Cohort.from_bids(folder), "phantom paired"
        else:
            cohort = load_cohort(config.data)
            name = cohort.name
        whole = labelled(paired(cohort), TARGET)
        return part(
            whole, name, TARGET, wanted, config.seed, is_phantom=config.data is None,
            check=common_frame,
        )  # fmt: skip


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


def _place(rate: int, arm: str) -> tuple[dict[str, Any], str]:
    """Where the cells of an arm are: complete data is the same at every share."""
    if arm == "complete" or (rate == 0 and arm != UNLIKE):
        return {"setting": COMPLETE}, "complete"
    return {"setting": TRAINING, "missing": rate}, arm


def _look(rate: int, way: str) -> dict[str, Any]:
    return {"check": f"fills, {rate} % missing", "way": way}
