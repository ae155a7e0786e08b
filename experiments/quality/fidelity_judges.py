"""What judges volumes in :mod:`fidelity`: parts of a cohort, classifiers, features."""

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
QUICK: dict[str, Any] = {"pairs": 50, "splits": 20, "permutations": 200}
"""Fewer draws, for the many rows of a sweep."""
SPLITS = 50


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

    @functools.cached_property
    def features(self) -> dict[str, clouds.Features]:
        """Maps from volumes to points: components of volumes, and of what the classifiers see."""
        other = self.volumes("judges")
        maps: dict[str, clouds.Features] = {"": clouds.pca_features(other)}
        if self.classifiers:
            points = self._activations(other)
            reduce = clouds.pca_features(points, np.ones(points.shape[1:], dtype=bool))
            maps["network_"] = lambda made: reduce(self._activations(made))
        return maps

    def compare(self, made: np.ndarray, labels: Labels, *, quick: bool = False) -> dict[str, Any]:
        """A table of fidelity of volumes (N, X, Y, Z) that were made for labels.

        A quick one has fewer held-out subjects and draws.
        """
        heldout, rows = self.volumes("heldout"), self.rows("heldout")
        if quick:
            heldout, rows = heldout[: 2 * len(made)], rows[: 2 * len(made)]
        judges = {}
        for target, classifier in self.classifiers.items():
            asked, true = (targets(target, each) for each in (labels, rows))
            classes = [str(c) for c in classifier.classes_]
            if set(classes) <= set(asked) & set(true):
                judges[target] = Judge(self.predictor(target), classes, asked, true)
        table = fidelity_table(
            self.volumes("train"),
            heldout,
            made,
            features=self.features[""],
            tissues=self.tissues,
            judges=judges,
            seed=self.seed,
            **(QUICK if quick else {}),
        )
        if "network_" in self.features and not quick:
            table["metrics"] |= self._network(made, heldout)
        return table

    def _network(self, made: np.ndarray, heldout: np.ndarray) -> dict[str, Any]:
        """MMD² and Fréchet distance on what the classifiers see."""
        features = self.features["network_"]
        points, real = features(made), features(heldout)
        bandwidth = clouds.median_bandwidth(features(self.volumes("train")))
        size = min(len(real) // 2, len(points))
        test = clouds.mmd_test(real, points, bandwidth=bandwidth, seed=self.seed)
        null = clouds.real_real_null(real, bandwidth=bandwidth, size=size, seed=self.seed)
        p95 = float(np.quantile(null, 0.95))
        far, near = clouds.beside_real(clouds.frechet, real, points, splits=SPLITS, seed=self.seed)
        return {
            "network_mmd2": {
                **test, "real": float(null.mean()), "split_p95": p95, "ratio": test["value"] / p95,
                "real_interval": np.quantile(null, (0.025, 0.975)).tolist(),
            },
            "network_frechet": {
                "value": float(far.mean()), "real": float(near.mean()),
                "interval": np.quantile(far, (0.025, 0.975)).tolist(),
                "real_interval": np.quantile(near, (0.025, 0.975)).tolist(),
            },
        }  # fmt: skip

    def predictor(self, target: str) -> Any:
        """Volumes (N, X, Y, Z) to probabilities of the target's classes."""
        classifier = self.classifiers[target]
        return lambda made: classifier.predict_proba(_subjects(made, [{}] * len(made)))

    def _activations(self, made: np.ndarray) -> np.ndarray:
        """Inputs of the classifiers' last layers, (N, F, 1, 1): a point as a volume."""
        points = []
        for target, classifier in self.classifiers.items():
            batches: list[np.ndarray] = []

            def keep(_: Any, inputs: Any, batches: list[np.ndarray] = batches) -> None:
                batches.append(inputs[0].detach().cpu().numpy())

            hook = classifier.net_.module_.head[-1].register_forward_pre_hook(keep)
            self.predictor(target)(made)
            hook.remove()
            points.append(np.concatenate(batches))
        return np.concatenate(points, axis=1)[:, :, None, None]


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
