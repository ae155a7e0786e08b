"""VolumeClassifier: a 3D network with the manners of a scikit-learn estimator.

``fit`` takes a list of subjects and reads the label ``target`` off them; subjects without that
label are left out. Volumes are loaded once and kept as float16, 0.15 MB each at 4 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchio as tio
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping, LRScheduler
from torch.utils.data import RandomSampler

from augment.conditions import CATEGORIES, DEMENTIA
from augment.errors import InputError
from classifiers.networks import NETWORKS


class VolumeClassifier(ClassifierMixin, BaseEstimator):
    """Tell a label from an image.

    Args:
        target: The label: ``sex``, ``diagnosis``, ``dementia`` (AD against NC, MCI left out) or any
            other key of the subjects.
        image: Which image of the subject to look at.
        network: Name in :data:`classifiers.networks.NETWORKS`.
        steps: Optimiser steps, the same for every size of the training set.
        batch_size: Volumes a step.
        learning_rate: Peak of the one-cycle schedule (AdamW).
        weight_decay: Of AdamW.
        shift: Training volumes are moved by up to this many voxels along each axis.
        seed: Decides the initial weights and the order of the volumes.
        device: ``auto`` takes CUDA where there is one.
    """

    def __init__(
        self,
        target: str = "sex",
        image: str = "md",
        network: str = "compact",
        steps: int = 300,
        batch_size: int = 16,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        shift: int = 1,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.target = target
        self.image = image
        self.network = network
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.shift = shift
        self.seed = seed
        self.device = device

    def fit(
        self, subjects: Sequence[tio.Subject], y: Sequence[str] | None = None
    ) -> VolumeClassifier:
        """Train on subjects; ``y`` replaces the labels that they carry."""
        labels = np.array(self.labels(subjects) if y is None else list(y), dtype=object)
        known = np.array([label is not None for label in labels], dtype=bool)
        volumes = self._volumes([s for s, k in zip(subjects, known, strict=True) if k])
        order = CATEGORIES.get(self.target, ())
        found = set(labels[known])
        classes = [c for c in order if c in found] or sorted(found)
        if len(classes) < 2:
            raise InputError(
                f"{len(labels)} subjects have {len(classes)} class of {self.target} ({classes}); "
                "a classifier needs two: add subjects of another class or choose another target"
            )
        self.classes_ = np.array(classes)
        self.scale_ = _scale(volumes)
        codes = np.array([classes.index(label) for label in labels[known]], dtype=np.int64)
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.net_ = NeuralNetClassifier(
                NETWORKS[self.network],
                module__channels=volumes.shape[1],
                module__classes=len(classes),
                criterion=torch.nn.CrossEntropyLoss,
                criterion__label_smoothing=0.1,
                optimizer=torch.optim.AdamW,
                optimizer__weight_decay=self.weight_decay,
                lr=self.learning_rate,
                max_epochs=1,  # one pass of as many batches as there are steps
                batch_size=self.batch_size,
                dataset=_Volumes,
                dataset__scale=self.scale_,
                iterator_train__sampler=RandomSampler(
                    range(len(codes)), num_samples=self.steps * self.batch_size
                ),
                iterator_train__collate_fn=_Shift(self.shift),
                train_split=None,
                callbacks=[
                    GradientNormClipping(1.0),
                    LRScheduler(
                        torch.optim.lr_scheduler.OneCycleLR,
                        max_lr=self.learning_rate,
                        total_steps=self.steps + 1,
                        step_every="batch",
                    ),
                ],
                device=device,
                verbose=0,
            )
            self.net_.fit(volumes, codes)
        return self

    def predict_proba(self, subjects: Sequence[tio.Subject]) -> np.ndarray:
        """Probability of each of ``classes_``, (subjects, classes)."""
        check_is_fitted(self, "net_")
        probabilities: np.ndarray = self.net_.predict_proba(self._volumes(subjects))
        return probabilities

    def predict(self, subjects: Sequence[tio.Subject]) -> np.ndarray:
        """The most probable class of each subject."""
        return self.classes_[self.predict_proba(subjects).argmax(1)]

    def score(self, subjects: Sequence[tio.Subject], y: Sequence[str] | None = None) -> float:
        """Balanced accuracy over the subjects that have the label."""
        labels = self.labels(subjects) if y is None else list(y)
        pairs = [(s, label) for s, label in zip(subjects, labels, strict=True) if label is not None]
        predicted = self.predict([s for s, _ in pairs])
        return float(balanced_accuracy_score([label for _, label in pairs], predicted))

    def labels(self, subjects: Sequence[tio.Subject]) -> list[str | None]:
        """The target of each subject; ``None`` where it has none."""
        if self.target == "dementia":
            return [DEMENTIA.get(subject["diagnosis"]) for subject in subjects]
        return [subject[self.target] or None for subject in subjects]

    def _volumes(self, subjects: Sequence[tio.Subject]) -> np.ndarray:
        volumes = [subject[self.image].data.numpy().astype(np.float16) for subject in subjects]
        shapes = sorted({volume.shape for volume in volumes})
        if len(shapes) != 1:
            raise InputError(
                f"the images {self.image!r} have shapes {shapes or 'none at all'}; a network needs "
                "one shape: bring them to one grid with `neuromix prepare`"
            )
        return np.stack(volumes)


class _Volumes(torch.utils.data.Dataset[tuple[torch.Tensor, Any]]):
    """Volumes in memory, standardised by the training set's mean and deviation."""

    def __init__(
        self, X: np.ndarray, y: np.ndarray | None = None, scale: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self.volumes, self.codes, self.scale = X, y, scale

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        mean, deviation = self.scale
        volume = torch.from_numpy(self.volumes[index].astype(np.float32))
        return (volume - mean) / deviation, 0 if self.codes is None else self.codes[index]


class _Shift:
    """Collate a batch, each volume moved by a random whole number of voxels."""

    def __init__(self, reach: int) -> None:
        self.reach = reach

    def __call__(self, batch: list[tuple[torch.Tensor, Any]]) -> Any:
        moves = torch.randint(-self.reach, self.reach + 1, (len(batch), 3)).tolist()
        return torch.utils.data.default_collate([
            (torch.roll(volume, move, dims=(1, 2, 3)), code)
            for (volume, code), move in zip(batch, moves, strict=True)
        ])  # fmt: skip


def _scale(volumes: np.ndarray) -> tuple[float, float]:
    sample = volumes[:: max(1, len(volumes) // 32)].astype(np.float32)
    return float(sample.mean()), float(sample.std()) or 1.0
