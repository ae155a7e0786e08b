"""What is asked of any bank: who had a part in it, and are its files as they were written?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from augment.bank import SampleBank
from augment.cohort import Cohort
from augment.errors import InputError, LeakageError
from augment.leakage import subject_hash
from augment.metrics import anatomy
from augment.metrics import features as clouds
from classifiers.evaluate import Predictions, compare, summarise
from experiments.data import load_cohort
from experiments.run import Run

FEWEST = 24
"""Scans or samples of each set: half of the held-out ones must do for a comparison of sets."""

ARMS = ("real", "synthetic", "both")
"""What the classifiers of utility are trained on."""


@dataclass(frozen=True)
class Audit:
    """What to audit. See ``neuromix audit --help``."""

    bank: Path
    train: Path
    heldout: Path
    seeds: int = 3
    steps: int = 250
    judge_steps: int = 500
    most: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.seeds, self.steps, self.judge_steps) < 1 or self.most < FEWEST:
            raise InputError(
                f"seeds {self.seeds}, steps {self.steps}, judge-steps {self.judge_steps} and most "
                f"{self.most} came; allowed are 1 or more, and {FEWEST} or more for most"
            )


class Origin:
    """A bank beside those who are said to be its training subjects, and others.

    Args:
        config: What to audit.
        bank: The bank.
        frame: Keeps what is done.
        images: Names of the images of real subjects.
    """

    def __init__(self, config: Audit, bank: SampleBank, frame: Run, images: Sequence[str]) -> None:
        self.config, self.bank, self.frame = config, bank, frame
        train, heldout = (
            load_cohort(path, tuple(images) if path.is_dir() else ())
            for path in (config.train, config.heldout)
        )
        both = set(train.subject_keys) & set(heldout.subject_keys)
        if both:
            raise InputError(
                f"{len(both)} subjects are in --train and --heldout, the first is {min(both)}; "
                "split them with `neuromix cohort DATA --out FOLDER`"
            )
        self.whole: dict[str, Cohort] = {"train": train, "heldout": heldout}

    def origin(self) -> dict[str, Any]:
        """What is kept of the following."""
        return {
            "files": self.frame.cell({"part": "files"}, self.files),
            "overlap": self.frame.cell({"part": "overlap"}, self.overlap),
            "provenance": self.frame.cell({"part": "provenance"}, self.provenance),
        }

    def some(self, cohort: Cohort) -> Cohort:
        """At most so many rows, at random, as there shall be memory and time for."""
        order = np.random.default_rng(self.config.seed).permutation(len(cohort))
        return cohort.where(np.isin(np.arange(len(cohort)), order[: self.config.most]))

    def files(self) -> dict[str, Any]:
        """Is every file as it was written?"""
        problems = self.bank.verify()
        return {"samples": len(self.bank), "problems": len(problems), "first": problems[:3]}

    def overlap(self) -> dict[str, Any]:
        """Did a held-out subject have a part in the bank?"""
        try:
            self.bank.check_disjoint(self.whole["heldout"])
        except LeakageError as error:
            return {"subjects": len(error.subjects), "says": str(error)}
        return {"subjects": 0, "says": ""}

    def provenance(self) -> dict[str, Any]:
        """Who and what made the bank."""
        record, about = self.bank.record, self.bank.about
        seen = set(record["subjects"])
        named = {subject_hash(*key) for key in self.whole["train"].subject_keys}
        rejected = self.bank.path / "rejected.tsv"
        return {
            "sampler": about["sampler"],
            "settings": about["settings"],
            "versions": record.get("versions", {}),
            "subjects seen": len(seen),
            "training subjects named": len(named),
            "of these seen": len(named & seen),
            "rejected": max(0, len(rejected.read_text().splitlines()) - 1)
            if rejected.is_file()
            else 0,
        }


def left_right(made: np.ndarray, real: np.ndarray, mask: np.ndarray, seed: int) -> dict[str, Any]:
    """Does the asymmetry of samples agree with that of real volumes, (N, X, Y, Z) each?"""
    halves = (anatomy.asymmetry(volumes, mask) for volumes in (real, made))
    values, references = clouds.beside_real(anatomy.correlation_of_means, *halves, seed=seed)
    return {
        "value": float(values.mean()), "real": float(references.mean()),
        "interval": np.quantile(values, (0.025, 0.975)).tolist(),
        "real_interval": np.quantile(references, (0.025, 0.975)).tolist(),
    }  # fmt: skip


def worth(runs: Mapping[str, Sequence[Predictions]]) -> dict[str, Any]:
    """What classifiers of the :data:`ARMS` are worth, and what samples gain or lose."""
    return {
        "scores": {arm: summarise(each) for arm, each in runs.items()},
        "gain": compare(runs["both"], runs["real"]),
        "swap": compare(runs["synthetic"], runs["real"]),
    }
