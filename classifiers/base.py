"""VolumeClassifier: a 3D network with the manners of a scikit-learn estimator.

``fit`` takes a list of subjects and reads the label ``target`` off them; subjects without that
label are left out. Volumes are in memory as float32, 0.3 MB each at 4 mm. TorchIO subjects keep an
image once it was read, so a second fit on the same subjects reads nothing again.
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
        self, subjects: Sequence[tio.Subject], y: Sequence[str | None] | None = None
    ) -> VolumeClassifier:
        """Train on subjects; ``y`` replaces the labels that they carry."""
        if self.network not in NETWORKS:
            raise InputError(f"network {self.network!r} is not known; allowed are {list(NETWORKS)}")
        if min(self.steps, self.batch_size) < 1:
            raise InputError(
                f"{self.steps} steps of {self.batch_size} volumes came; both must be 1 or more"
            )
        pairs = _labelled(subjects, self.labels(subjects) if y is None else y)
        found = {label for _, label in pairs}
        order = CATEGORIES.get(self.target, ())
        classes = [c for c in order if c in found] if found <= set(order) else sorted(found)
        if len(classes) < 2:
            raise InputError(
                f"{len(pairs)} of {len(subjects)} subjects have the label {self.target}, with "
                f"{len(classes)} class ({classes}); a classifier needs two: add subjects of "
                "another class or choose another target"
            )
        volumes = self._load([subject for subject, _ in pairs])
        self.classes_ = np.array(classes)
        self.shape_ = volumes.shape[1:]
        self.scale_ = float(volumes.mean()), float(volumes.std())
        if not self.scale_[1] > 0:
            raise InputError(
                f"all images {self.image!r} are constant; look at them, or prepare anew"
            )
        codes = np.array([classes.index(label) for _, label in pairs], dtype=np.int64)
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
            self.net_.fit(self._standardise(volumes), codes)
        return self

    def predict_proba(self, subjects: Sequence[tio.Subject]) -> np.ndarray:
        """Probability of each of ``classes_``, (subjects, classes)."""
        check_is_fitted(self, "net_")
        volumes = self._load(subjects)
        if volumes.shape[1:] != self.shape_:
            raise InputError(
                f"images of shape {volumes.shape[1:]} came, and the classifier was trained on "
                f"{self.shape_}; bring them to one grid with `neuromix prepare`"
            )
        probabilities: np.ndarray = self.net_.predict_proba(self._standardise(volumes))
        return probabilities

    def predict(self, subjects: Sequence[tio.Subject]) -> np.ndarray:
        """The most probable class of each subject."""
        best = self.predict_proba(subjects).argmax(1)
        return self.classes_[best]

    def score(
        self, subjects: Sequence[tio.Subject], y: Sequence[str | None] | None = None
    ) -> float:
        """Balanced accuracy over the subjects that have the label."""
        pairs = _labelled(subjects, self.labels(subjects) if y is None else y)
        if not pairs:
            raise InputError(f"none of {len(subjects)} subjects has the label {self.target}")
        predicted = self.predict([subject for subject, _ in pairs])
        return float(balanced_accuracy_score([label for _, label in pairs], predicted))

    def labels(self, subjects: Sequence[tio.Subject]) -> list[str | None]:
        """The target of each subject; ``None`` where it has none."""
        key = "diagnosis" if self.target == "dementia" else self.target
        for subject in subjects:
            if key not in subject:
                raise InputError(f"subjects have no {key!r}; they have {sorted(subject)}")
            if isinstance(subject[key], float):
                raise InputError(f"{key} is a number; a classifier needs a label with classes")
        if self.target == "dementia":
            return [DEMENTIA.get(subject[key]) for subject in subjects]
        return [subject[key] or None for subject in subjects]

    def _load(self, subjects: Sequence[tio.Subject]) -> np.ndarray:
        """Images (subjects, channels, X, Y, Z) as they are, in float32."""
        if not subjects:
            raise InputError("no subjects came; a classifier needs some")
        volumes = []
        for subject in subjects:
            if self.image not in subject:
                names = sorted(subject.get_images_dict(intensity_only=False))
                raise InputError(f"a subject has no image {self.image!r}; it has {names}")
            volumes.append(subject[self.image].data.float().numpy())
            if not np.isfinite(volumes[-1]).all():
                raise InputError(
                    f"{subject[self.image].path or 'an image'} holds NaN or Inf; mend it or drop "
                    "the subject (Cohort.validate lists all such images)"
                )
        shapes = sorted({volume.shape for volume in volumes})
        if len(shapes) != 1:
            raise InputError(
                f"the images {self.image!r} have shapes {shapes}; a network needs one shape: bring "
                "them to one grid with `neuromix prepare`"
            )
        return np.stack(volumes)

    def _standardise(self, volumes: np.ndarray) -> torch.Tensor:
        """The same memory, with the training set's mean and deviation taken out."""
        mean, deviation = self.scale_
        return torch.from_numpy(volumes).sub_(mean).div_(deviation)


def _labelled(
    subjects: Sequence[tio.Subject], labels: Sequence[str | None]
) -> list[tuple[tio.Subject, str]]:
    """Subjects with their labels, without those that have none."""
    return [
        (subject, str(label))
        for subject, label in zip(subjects, labels, strict=True)
        if isinstance(label, str) and label
    ]


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
