"""Baselines of completion: what a completer must beat, from the mean volume to MONAI's U-Net.

Each has ``fit(source, target)`` and ``predict(source, seeds)``: sources (S, C, X, Y, Z) of S
subjects, of one image or several, to samples (S, K, N, X, Y, Z), K seeds each; those that make one
prediction ignore seeds and give K = 1. A baseline makes one image.

=====================  =============================================================================
mean volume            the mean of the training targets
nearest subject        the target of the training subject whose source is nearest
voxelwise regression   in every voxel, ridge regression of the target's segments on the source's
PCA regression         ridge regression of the whole target on the principal components of the
                       source; its penalty is chosen by leave-one-out
regression U-Net       MONAI's U-Net, squared error, for a given time
diffusion U-Net        MONAI's DiffusionModelUNet by flow matching, source beside noisy target
=====================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV

from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.experiments.quality.monai_unet import DiffusionUNet, RegressionUNet

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the PCA regression, in units of the mean eigenvalue."""
TRAINING = TrainConfig(batch_size=4, learning_rate=1e-3, ema_decay=0.98)
"""Of the U-Nets; its steps follow from the time."""
TRAINED = ("regression U-Net", "diffusion U-Net")
"""Baselines that are trained for a given time."""
REGRESSIONS = ("voxelwise regression", "PCA regression", "regression U-Net")
"""Baselines that predict a mean."""


class Baseline(Protocol):
    """See the module."""

    def fit(self, source: np.ndarray, target: np.ndarray) -> Baseline:
        """Learn from sources (S, C, X, Y, Z) and targets (S, N, X, Y, Z)."""

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """Samples (S, K, N, X, Y, Z)."""


class MeanVolume:
    """The mean of the training targets."""

    def fit(self, source: np.ndarray, target: np.ndarray) -> MeanVolume:
        """See :class:`Baseline`."""
        self.mean_ = target.mean(axis=0)
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        return np.repeat(self.mean_[None, None], len(source), axis=0)


class NearestSubject:
    """The target of the training subject whose source is nearest in squares."""

    def fit(self, source: np.ndarray, target: np.ndarray) -> NearestSubject:
        """See :class:`Baseline`."""
        self.source_, self.target_ = source.reshape(len(source), -1), target
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        products = source.reshape(len(source), -1) @ self.source_.T
        distance = (self.source_**2).sum(axis=1) - 2 * products
        return np.asarray(self.target_[distance.argmin(axis=1)])[:, None]


class VoxelwiseRegression:
    """In every voxel, the target's segments from the source's.

    Args:
        penalty: Of the ridge, as a share of the source's mean variance over subjects.
    """

    def __init__(self, penalty: float = 0.05) -> None:
        self.penalty = penalty

    def fit(self, source: np.ndarray, target: np.ndarray) -> VoxelwiseRegression:
        """See :class:`Baseline`."""
        self.source_mean_, self.target_mean_ = source.mean(axis=0), target.mean(axis=0)
        count, channels = source.shape[:2]
        x = (source - self.source_mean_).reshape(count, channels, -1).transpose(2, 0, 1)
        y = (target - self.target_mean_).reshape(*target.shape[:2], -1).transpose(2, 0, 1)
        gram = x.transpose(0, 2, 1) @ x
        ridge = self.penalty * np.trace(gram, axis1=1, axis2=2).mean() / channels + 1e-6
        solved = np.linalg.solve(gram + ridge * np.eye(channels), x.transpose(0, 2, 1) @ y)
        self.weights_ = solved.astype(np.float32)
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        x = (source - self.source_mean_).reshape(*source.shape[:2], -1)
        y = np.einsum("snv,vnm->smv", x, self.weights_, optimize=True)
        return (y.reshape(len(source), *self.target_mean_.shape) + self.target_mean_)[:, None]


class PCARegression:
    """The whole target from the whole source: ridge regression in the space of subjects."""

    def fit(self, source: np.ndarray, target: np.ndarray) -> PCARegression:
        """See :class:`Baseline`."""
        count = len(source)
        # Scores on all components lose nothing, and a ridge does not see that they are turned.
        self.components_ = PCA(count - 1).fit(source.reshape(count, -1))
        scores = self.components_.transform(source.reshape(count, -1))
        power = float((scores**2).sum()) / count
        penalties = [penalty * power for penalty in PENALTIES]
        self.ridge_ = RidgeCV(penalties).fit(scores, target.reshape(count, -1))
        self.shape_ = target.shape[1:]
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        scores = self.components_.transform(source.reshape(len(source), -1))
        return np.asarray(self.ridge_.predict(scores).reshape(-1, *self.shape_))[:, None]


def baselines(seconds: float, seed: int = 0, precision: str = "no") -> dict[str, Any]:
    """All of them, by name; the trained ones get ``seconds`` of processor time."""
    training = replace(TRAINING, seed=seed, precision=precision)
    return {
        "mean volume": MeanVolume(),
        "nearest subject": NearestSubject(),
        "voxelwise regression": VoxelwiseRegression(),
        "PCA regression": PCARegression(),
        "regression U-Net": RegressionUNet(seconds, training),
        "diffusion U-Net": DiffusionUNet(seconds, training),
    }
