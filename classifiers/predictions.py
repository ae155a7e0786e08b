"""What training runs said of test subjects: the rows that scores and statistics are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuromix.augment.errors import InputError


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one training run said of test subjects, a row per subject-session.

    Args:
        subjects: ``dataset/subject_id`` of each row, (n,): what a bootstrap draws.
        truth: Class of each row, (n,).
        probabilities: (n, C), rows that sum to one.
        classes: Names of the classes, in the order of the columns.
    """

    subjects: np.ndarray
    truth: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        rows = len(self.subjects)
        shapes = [np.shape(a) for a in (self.subjects, self.truth, self.probabilities)]
        if not rows or shapes != [(rows,), (rows,), (rows, len(self.classes))]:
            raise InputError(
                f"subjects, truth and probabilities have the shapes {shapes}; n, n and n by "
                f"{len(self.classes)} classes are needed, and n of 1 or more"
            )
        strange = set(map(str, self.truth)) - set(self.classes)
        if strange:
            raise InputError(
                f"the truth is {min(strange)!r} for some, and the classifier knows "
                f"{', '.join(self.classes)}; leave those subjects out, or train on that class"
            )
        if not np.allclose(self.probabilities.sum(1), 1, atol=1e-3):
            raise InputError("probabilities of a row must sum to one; pass those of predict_proba")

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON, of which :meth:`from_dict` makes the very same again."""
        return {
            "subjects": [str(name) for name in self.subjects],
            "truth": [str(name) for name in self.truth],
            "probabilities": np.asarray(self.probabilities, float).tolist(),
            "classes": list(self.classes),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Predictions:
        """Inverse of :meth:`to_dict`."""
        return cls(
            np.array(content["subjects"]),
            np.array(content["truth"]),
            np.array(content["probabilities"], float),
            tuple(content["classes"]),
        )

    @property
    def codes(self) -> np.ndarray:
        """The truth as numbers of classes."""
        numbers = {name: code for code, name in enumerate(self.classes)}
        return np.array([numbers[str(name)] for name in self.truth])


def pool(parts: Sequence[Predictions]) -> Predictions:
    """One run of several parts with other subjects each, such as the folds of a cross-validation.

    AUC and calibration of pooled folds mix the outputs of several models.
    """
    if not parts or len({part.classes for part in parts}) != 1:
        raise InputError("parts of a run must have the same classes, and there must be some")
    names = [set(part.subjects) for part in parts]
    if sum(map(len, names)) != len(set().union(*names)):
        raise InputError("parts of a run share subjects; pool the folds of one cross-validation")
    return Predictions(
        np.concatenate([part.subjects for part in parts]),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        parts[0].classes,
    )


def align_runs(arms: Sequence[Sequence[Predictions]]) -> list[list[Predictions]]:
    """All runs with their rows in the same order."""
    counts = [len(arm) for arm in arms]
    if len(set(counts)) != 1 or not counts[0]:
        raise InputError(f"{counts} runs came; give as many for each arm, one a seed, in one order")
    sorted_runs: list[list[Predictions]] = [[] for _ in arms]
    for ordered, arm in zip(sorted_runs, arms, strict=True):
        for run in arm:
            rows = np.argsort(run.subjects, kind="stable")
            values = (run.subjects[rows], run.truth[rows], run.probabilities[rows])
            ordered.append(Predictions(*values, run.classes))
    first = sorted_runs[0][0]
    for run in (run for arm in sorted_runs for run in arm):
        same = np.array_equal(run.subjects, first.subjects)
        if not same or not np.array_equal(run.truth, first.truth) or run.classes != first.classes:
            raise InputError(
                "runs have other test subjects, truth or classes; all runs must judge the same "
                "subjects (of the folds of a cross-validation, pool makes one run)"
            )
    return sorted_runs


def people(subjects: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names of subjects, the last row of each, and the subject of each row."""
    names, person = np.unique(np.asarray(subjects), return_inverse=True)
    last = np.empty(len(names), int)
    last[person] = np.arange(len(person))
    return names, last, person
