"""Cells that judge an arm: a classifier, what it is trained on, and who judges it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torchio as tio

from neuromix.augment.data import leakage
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.evaluate import Predictions, metrics, predict
from neuromix.experiments.frame.run import Run


def judge(
    classifier: VolumeClassifier,
    train: Sequence[tio.Subject],
    validation: Sequence[tio.Subject],
    test: Sequence[tio.Subject],
) -> tuple[VolumeClassifier, dict[str, Any]]:
    """Fit a classifier and judge it on held-out real subjects.

    Its cell holds ``predictions`` and scores on test subjects, ``validation``, the balanced
    accuracy on those that chose the checkpoint, and times.
    """
    begun = time.perf_counter()
    for subject in {id(s): s for s in (*train, *validation, *test)}.values():
        subject.load()  # once in a process: a subject keeps its image
    loading = time.perf_counter() - begun
    classifier.fit(train, validation=validation)
    fitted = time.perf_counter() - begun - loading
    predictions = predict(classifier, test)
    score = metrics(predictions)
    return classifier, {
        "real": sum(not subject["synthetic"] for subject in train),
        "synthetic": sum(bool(subject["synthetic"]) for subject in train),
        "balanced_accuracy": score["balanced_accuracy"],
        "auc": score["auc"],
        "validation": classifier.score(validation),
        "loading": loading,
        "fitting": fitted,
        "waiting": classifier.waiting_,
        "predictions": predictions.to_dict(),
    }


def runs_of(
    run: Run, where: dict[str, Any], arm: str, seeds: int
) -> tuple[list[Predictions], float]:
    """Predictions of a finished arm, one a seed, and its mean score on validation subjects."""
    records = [_finished(run, {**where, "arm": arm, "seed": seed}) for seed in range(seeds)]
    predictions = [Predictions.from_dict(record["predictions"]) for record in records]
    return predictions, float(np.mean([record["validation"] for record in records]))


def samplers_of(run: Run) -> list[dict[str, Any]]:
    """The records of the samplers that were trained in a run."""
    return [record for record in run.records() if "sampler" in record["cell"]]


def check_disjoint(parts: Sequence[Cohort], tests: Sequence[Cohort], *, voxels: bool) -> None:
    """Raise ``LeakageError`` if a test subject is among the parts, which train or choose anything.

    Comparing voxels as well finds a person under another name.
    """
    hashes = [h for part in parts for h in leakage.voxel_hashes(part)] if voxels else []
    record = leakage.provenance(parts, hashes)
    for test in tests:
        leakage.check_disjoint(record, test, voxels=voxels)


def _finished(run: Run, key: dict[str, Any]) -> dict[str, Any]:
    def refuse() -> dict[str, Any]:
        raise InputError(f"the cell {key} of {run.folder} is not done; run the experiment again")

    return run.cell(key, refuse)
