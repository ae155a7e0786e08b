"""What judges volumes in the audit of maps: parts of a cohort, classifiers, features."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchio as tio

from neuromix.augment.data.cohort import Cohort, label_rows
from neuromix.augment.metrics import features as clouds
from neuromix.augment.metrics.anatomy import tissue_masks
from neuromix.augment.metrics.fidelity import Judge, fidelity_table
from neuromix.classifiers.base import VolumeClassifier
from neuromix.experiments.frame.figures import WHITE
from neuromix.experiments.quality.baselines import Labels

TARGETS = ("sex", "dementia")


class Bench:
    """Parts of a cohort that share no subject, and what compares volumes with the held-out part.

    Classifiers, of so many optimiser steps, and features are made when they are first needed: a run
    whose rows are all there needs none. Parts are ``train``, ``heldout`` and ``judges``, and others
    that are only kept. A map that is no MD is looked at in a ``unit`` in which the brightest tissue
    of training subjects is as bright as MD is in pictures.
    """

    def __init__(self, parts: dict[str, Cohort], steps: int, seed: int, image: str = "md") -> None:
        self.parts, self.steps, self.seed, self.image = parts, steps, seed, image
        self.grid = parts["heldout"].grid(image)
        self._volumes: dict[str, np.ndarray] = {}

    @functools.cached_property
    def unit(self) -> float:
        """What volumes are divided by."""
        if self.image == "md":
            return 1.0
        train = self.parts["train"].volumes(self.image)
        return float(np.percentile(train[train > 0], 99)) / WHITE

    def volumes(self, part: str) -> np.ndarray:
        """All volumes of a part, (N, X, Y, Z)."""
        if part not in self._volumes:
            self._volumes[part] = self.parts[part].volumes(self.image) / np.float32(self.unit)
        return self._volumes[part]

    def rows(self, part: str) -> list[dict[str, Any]]:
        """Labels of a part."""
        return label_rows(self.parts[part])

    @functools.cached_property
    def tissues(self) -> dict[str, np.ndarray]:
        """Masks of the tissues that fill a voxel on this grid; none outside MNI152 space."""
        if not self.parts["heldout"].is_in_mni(self.image):
            return {}
        return {name: mask for name, mask in tissue_masks(self.grid).items() if mask.any()}

    @functools.cached_property
    def classifiers(self) -> dict[str, VolumeClassifier]:
        """A classifier for each target with two classes among the judge subjects."""
        subjects = _subjects(self.volumes("judges"), self.rows("judges"))
        fitted = {}
        for target in TARGETS:
            classifier = VolumeClassifier(target, steps=self.steps, seed=self.seed)
            if len({label for label in classifier.labels(subjects) if label}) > 1:
                fitted[target] = classifier.fit(subjects)
        return fitted

    def compare(self, made: np.ndarray, labels: Labels) -> dict[str, Any]:
        """A table of fidelity of volumes (N, X, Y, Z) that were made for labels."""
        heldout, rows = self.volumes("heldout"), self.rows("heldout")
        judges = {}
        for target, classifier in self.classifiers.items():
            asked, true = (targets(target, each) for each in (labels, rows))
            classes = [str(c) for c in classifier.classes_]
            if set(classes) <= set(asked) & set(true):
                judges[target] = Judge(self.predictor(target), classes, asked, true)
        return fidelity_table(
            self.volumes("train"),
            heldout,
            made,
            features=clouds.pca_features(self.volumes("judges")),
            tissues=self.tissues,
            judges=judges,
            seed=self.seed,
        )

    def predictor(self, target: str) -> Any:
        """Volumes (N, X, Y, Z) to probabilities of the target's classes."""
        classifier = self.classifiers[target]
        return lambda made: classifier.predict_proba(_subjects(made, [{}] * len(made)))


def _subjects(made: np.ndarray, rows: Labels) -> list[tio.Subject]:
    return [
        tio.Subject(
            md=tio.ScalarImage(tensor=torch.from_numpy(volume[None])),
            **{name: row.get(name, "") for name in ("sex", "diagnosis")},
        )
        for volume, row in zip(made, rows, strict=True)
    ]


def targets(target: str, rows: Labels) -> Sequence[str | None]:
    """What a classifier of this target should say of each row; ``None`` where there is no truth."""
    classifier = VolumeClassifier(target)
    return classifier.labels([
        {name: row.get(name) or "" for name in ("sex", "diagnosis")} for row in rows
    ])  # fmt: skip
