"""Simple generators that a sampler has to beat.

All have one shape,

    generator.fit(volumes (N, X, Y, Z), labels).draw(labels, seeds) -> volumes (M, X, Y, Z),

with labels as dicts of sex, diagnosis and age. Sample k follows from label k and seed k alone.
Where a mean is conditioned on labels, it is a linear regression on them at each voxel, so that
classes of few subjects borrow strength from the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch

from neuromix.augment.data.conditions import LabelSpace, inside, known
from neuromix.augment.diffusion.label_embedding import label_features

Labels = Sequence[Mapping[str, Any]]
CONDITIONS = ("sex", "diagnosis", "age")
FEWEST_OF_A_CLASS = 8
"""With fewer, a class has the covariance of everybody."""


class Generator(Protocol):
    """What every baseline does."""

    def fit(self, volumes: np.ndarray, labels: Labels) -> Self:
        """Learn from training volumes (N, X, Y, Z)."""
        ...

    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """Make a volume for each of the labels, (M, X, Y, Z)."""
        ...


class Denoiser(Protocol):
    """A generator that can be judged by its denoising error, too."""

    def denoise(
        self, volumes: np.ndarray, noise: np.ndarray, sigma: float, labels: Labels
    ) -> np.ndarray:
        """E[x | x + n] of volumes (N, X, Y, Z) and noise n of a deviation sigma at every voxel."""
        ...


class MeanNoise:
    """The mean for the labels and white noise, at each voxel as strong as subjects vary there."""

    def fit(self, volumes: np.ndarray, labels: Labels) -> MeanNoise:
        """See :class:`Generator`."""
        self.mask_, self.top_ = np.asarray((volumes > 0).any(axis=0)), float(volumes.max())
        values = volumes[:, self.mask_]
        self.means_ = LabelMeans(values, labels)
        self.deviation_ = (values - self.means_(labels)).std(axis=0)
        return self

    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """See :class:`Generator`."""
        size = len(self.deviation_)
        noise = np.stack([np.random.default_rng(seed).standard_normal(size) for seed in seeds])
        # One by one: a product of matrices rounds a row as its company has it.
        means = np.concatenate([self.means_([row]) for row in labels])
        return as_volumes(means + noise * self.deviation_, self.mask_, self.top_)

    def denoise(
        self, volumes: np.ndarray, noise: np.ndarray, sigma: float, labels: Labels
    ) -> np.ndarray:
        """See :class:`Denoiser`."""
        noisy = volumes + noise
        means, result = self.means_(labels), np.zeros_like(noisy)
        kept = self.deviation_**2 / (self.deviation_**2 + sigma**2)
        result[:, self.mask_] = means + kept * (noisy[:, self.mask_] - means)
        return result


class Copies:
    """A training subject that has as many of the asked categories as any has."""

    def fit(self, volumes: np.ndarray, labels: Labels) -> Copies:
        """See :class:`Generator`."""
        self.volumes_, self.labels_ = volumes, labels
        return self

    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """See :class:`Generator`."""
        chosen = []
        for wanted, seed in zip(labels, seeds, strict=True):
            names = [name for name in CONDITIONS[:2] if wanted.get(name)]
            alike = [sum(row.get(n) == wanted[n] for n in names) for row in self.labels_]
            nearest = np.flatnonzero(np.array(alike) == max(alike))
            chosen.append(np.random.default_rng(seed).choice(nearest))
        return self.volumes_[chosen]


class PCAGaussian:
    """A Gaussian around the mean for the labels with all principal components of the class.

        x = m(y) + R_c' e / sqrt(f),        e standard normal,

    R_c (n, V) are the residuals of the training subjects of class c (sex and diagnosis), f their
    number less what the means took. Its covariance is R_c' R_c / f: right on average in every
    direction, so that such samples score far better than those of fewer components, or with white
    noise for the rest. A class of few subjects has the covariance of all.
    """

    def fit(self, volumes: np.ndarray, labels: Labels) -> PCAGaussian:
        """See :class:`Generator`."""
        self.mask_, self.top_ = np.asarray((volumes > 0).any(axis=0)), float(volumes.max())
        values = volumes[:, self.mask_].astype(np.float32)
        self.means_ = LabelMeans(values, labels)
        residuals = values - self.means_(labels)
        residuals /= np.sqrt(1 - np.linalg.matrix_rank(self.means_.design(labels)) / len(values))
        classes = np.array([_class(row) for row in labels])
        self.roots_ = {"": residuals / np.float32(np.sqrt(len(residuals)))}
        for name in np.unique(classes):
            own = residuals[classes == name]
            if len(own) >= FEWEST_OF_A_CLASS:
                self.roots_[str(name)] = own / np.float32(np.sqrt(len(own)))
        return self

    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """See :class:`Generator`."""
        rows = []
        for row, seed in zip(labels, seeds, strict=True):
            root = self._root(row)
            score = np.random.default_rng(seed).standard_normal(len(root)).astype(np.float32)
            rows.append(self.means_([row])[0] + score @ root)
        return as_volumes(np.stack(rows), self.mask_, self.top_)

    def denoise(
        self, volumes: np.ndarray, noise: np.ndarray, sigma: float, labels: Labels
    ) -> np.ndarray:
        """See :class:`Denoiser`; in the space of the subjects, of whom there are few."""
        noisy = volumes + noise
        means, result = self.means_(labels), np.zeros_like(noisy)
        classes = np.array([_class(row) for row in labels])
        for name in np.unique(classes):
            own = np.flatnonzero(classes == name)
            root = self._root(labels[own[0]]).astype(np.float64)
            scores = root @ (noisy[own][:, self.mask_] - means[own]).T
            scores = np.linalg.solve(root @ root.T + sigma**2 * np.eye(len(root)), scores)
            clean = np.zeros((len(own), *self.mask_.shape), dtype=noisy.dtype)
            clean[:, self.mask_] = means[own] + scores.T @ root
            result[own] = clean
        return result

    def _root(self, row: Mapping[str, Any]) -> np.ndarray:
        return self.roots_.get(_class(row), self.roots_[""])


class LabelMeans:
    """Linear regression of points (N, V) on their labels; labels that are missing say nothing."""

    def __init__(self, points: np.ndarray, labels: Labels) -> None:
        names = [name for name in CONDITIONS if any(known(row.get(name)) for row in labels)]
        self.space = LabelSpace.from_labels(labels, names)
        raw = self._columns(labels)
        self.centre = np.nan_to_num(np.nanmean(raw, axis=0)) if raw.size else np.zeros(raw.shape[1])
        self.weights = np.linalg.pinv(self.design(labels)) @ points.astype(np.float32)

    def __call__(self, labels: Labels) -> np.ndarray:
        """Means (M, V)."""
        means: np.ndarray = (self.design(labels) @ self.weights).astype(np.float32)
        return means

    def design(self, labels: Labels) -> np.ndarray:
        """A row of ones and centred labels for each subject, (M, P)."""
        centred = np.nan_to_num(self._columns(labels) - self.centre)
        return np.column_stack([np.ones(len(labels)), centred]).astype(np.float32)

    def _columns(self, labels: Labels) -> np.ndarray:
        """A column of 0 and 1 for each value of a category, NaN where it is missing; and ages."""
        if not self.space.names:
            return np.zeros((len(labels), 0))
        rows = [self.space.encode(inside(self.space, row)) for row in labels]
        codes = {name: torch.tensor([row[name] for row in rows]) for name in self.space.names}
        return label_features(self.space, codes).double().numpy()


def inside_space(space: LabelSpace, labels: Mapping[str, Any]) -> dict[str, Any]:
    """Labels as far as a space knows them; those that are missing are left out."""
    return {name: value for name, value in inside(space, labels).items() if known(value)}


def as_volumes(inside: np.ndarray, mask: np.ndarray, top: float) -> np.ndarray:
    """Values (M, V) in a mask as volumes, from 0 to the largest value that training people have."""
    volumes = np.zeros((len(inside), *mask.shape), dtype=np.float32)
    volumes[:, mask] = np.clip(inside, 0, top)
    return volumes


def _class(labels: Mapping[str, Any]) -> str:
    return " ".join(str(labels.get(name) or "") for name in CONDITIONS[:2]).strip()
