"""What is asked of all that is audited: who had a part in it; and of a bank: is it as written?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.data.split import require_apart
from neuromix.augment.errors import LeakageError
from neuromix.augment.metrics import anatomy
from neuromix.augment.metrics import features as clouds
from neuromix.classifiers.evaluate import Predictions, compare, summarise
from neuromix.experiments.audit.config import Audit
from neuromix.experiments.frame.cohorts import load_cohort
from neuromix.experiments.frame.run import Run

ARMS = ("real", "synthetic", "both")
"""What the classifiers of utility are trained on."""


class Made(Protocol):
    """A bank, or what completes images."""

    @property
    def record(self) -> dict[str, Any]:
        """Who had a part in its making."""

    def check_disjoint(self, cohort: Cohort) -> None:
        """Raise ``LeakageError`` if a subject of the cohort had one."""


class Origin:
    """What is audited beside those who are said to be its training subjects, and others.

    Args:
        config: What to audit.
        made: What is audited.
        frame: Keeps what is done.
        images: Names of the images of real subjects.
    """

    def __init__(self, config: Audit, made: Made, frame: Run, images: Sequence[str]) -> None:
        self.config, self.audited, self.frame = config, made, frame
        train, heldout = (
            load_cohort(path, tuple(images) if path.is_dir() else ())
            for path in (config.train, config.heldout)
        )
        require_apart({"--train": train, "--heldout": heldout})
        self.whole: dict[str, Cohort] = {"train": train, "heldout": heldout}

    def origin(self) -> dict[str, Any]:
        """What is kept of the following."""
        return {
            "overlap": self.frame.cell({"part": "overlap"}, self.overlap),
            "provenance": self.frame.cell({"part": "provenance"}, self.provenance),
        }

    def some(self, cohort: Cohort) -> Cohort:
        """At most so many rows, at random, as there shall be memory and time for."""
        order = np.random.default_rng(self.config.seed).permutation(len(cohort))
        return cohort.where(np.isin(np.arange(len(cohort)), order[: self.config.most]))

    def overlap(self) -> dict[str, Any]:
        """Did a held-out subject have a part in it?"""
        try:
            self.audited.check_disjoint(self.whole["heldout"])
        except LeakageError as error:
            return {"subjects": len(error.subjects), "says": str(error)}
        return {"subjects": 0, "says": ""}

    def provenance(self) -> dict[str, Any]:
        """Who and what made it."""
        seen = set(self.audited.record["subjects"])
        named = {subject_hash(*key) for key in self.whole["train"].subject_keys}
        return self.about() | {
            "subjects seen": len(seen),
            "training subjects named": len(named),
            "of these seen": len(named & seen),
        }

    def about(self) -> dict[str, Any]:
        """What made it, for the page."""
        return {"versions": self.audited.record.get("versions", {})}


class BankOrigin(Origin):
    """Of a bank, whose files have checksums."""

    def __init__(self, config: Audit, bank: SampleBank, frame: Run, images: Sequence[str]) -> None:
        super().__init__(config, bank, frame, images)
        self.bank = bank

    def origin(self) -> dict[str, Any]:
        """See :class:`Origin`."""
        return {"files": self.frame.cell({"part": "files"}, self.files)} | super().origin()

    def files(self) -> dict[str, Any]:
        """Is every file as it was written?"""
        problems = self.bank.verify()
        return {"samples": len(self.bank), "problems": len(problems), "first": problems[:3]}

    def about(self) -> dict[str, Any]:
        """See :class:`Origin`."""
        about, rejected = self.bank.about, self.bank.path / "rejected.tsv"
        lines = rejected.read_text().splitlines() if rejected.is_file() else []
        return super().about() | {
            "sampler": about["sampler"],
            "settings": about["settings"],
            "rejected": max(0, len(lines) - 1),
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
