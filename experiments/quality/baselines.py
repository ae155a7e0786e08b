"""Simple generators that a sampler has to beat.

All have one shape,

    generator.fit(volumes (N, X, Y, Z), labels).draw(labels, seeds) -> volumes (M, X, Y, Z),

in 1e-3 mm²/s, with labels as dicts of sex, diagnosis and age. Sample k follows from label k and
seed k alone. Where a mean is conditioned on labels, it is a linear regression on them at each
voxel, so that classes of few subjects borrow strength from the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from sklearn.decomposition import PCA

from neuromix.augment.data.conditions import LabelSpace, inside, known
from neuromix.augment.diffusion.label_embedding import label_features
from neuromix.augment.tiled.config import FAINTEST, LARGEST

Labels = Sequence[Mapping[str, Any]]
CONDITIONS = ("sex", "diagnosis", "age")


class Generator(Protocol):
    """What every baseline does."""

    def fit(self, volumes: np.ndarray, labels: Labels) -> Self:
        """Learn from training volumes (N, X, Y, Z)."""
        ...

    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """Make a volume for each of the labels, (M, X, Y, Z)."""
        ...


class MeanNoise:
    """The mean for the labels and white noise, at each voxel as strong as subjects vary there."""

    def fit(self, volumes: np.ndarray, labels: Labels) -> MeanNoise:
        """See :class:`Generator`."""
        self.mask_ = np.asarray((volumes > 0).any(axis=0))
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
        return as_volumes(means + noise * self.deviation_, self.mask_)


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
    """A Gaussian around the mean for the labels, in the space of principal components.

        x = m(y) + U diag(d) L_c e + s * n,        e, n standard normal

    U are the components of the residuals, as many as explain a share of their variance, and d their
    standard deviations. L_c L_c' is the correlation of the leading components in class c (sex and
    diagnosis), shrunk to the identity (Ledoit-Wolf); a class with no more subjects than leading
    components has the identity. s is the deviation of what the components leave out, at each voxel,
    so that samples are not blurred.

    With nearly all components the covariance is that of the training subjects, which is right on
    average in every direction: such samples score far better than those of fewer components, or of
    variances measured on other subjects, where what is taken from a component becomes noise.

    Args:
        explained: Share of variance.
    """

    def __init__(self, explained: float = 0.99) -> None:
        self.explained = explained

    def fit(self, volumes: np.ndarray, labels: Labels) -> PCAGaussian:
        """See :class:`Generator`."""
        from sklearn.covariance import ledoit_wolf

        self.mask_ = np.asarray((volumes > 0).any(axis=0))
        values = volumes[:, self.mask_].astype(np.float32)
        self.means_ = LabelMeans(values, labels)
        residuals = values - self.means_(labels)
        free = len(values) - np.linalg.matrix_rank(self.means_.design(labels))
        self.pca_ = PCA(self.explained, svd_solver="full").fit(residuals)
        scores = self.pca_.transform(residuals)
        keep, size = scores.shape[1], self.pca_.singular_values_
        self.deviations_ = size / np.sqrt(free)
        residuals -= self.pca_.inverse_transform(scores)
        self.noise_ = np.sqrt((residuals**2).sum(axis=0) / free)
        lead = min(keep, len(values) // 10)
        whitened = scores[:, :lead] / self.deviations_[:lead]
        classes = np.array([_class(row) for row in labels])
        self.roots_ = {}
        for name in np.unique(classes):
            own = whitened[classes == name]
            if len(own) > max(lead, 2):  # fewer are singular, and may not be shrunk at all
                self.roots_[str(name)] = np.linalg.cholesky(ledoit_wolf(own)[0])
        return self

    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """See :class:`Generator`."""
        rows = []
        for row, seed in zip(labels, seeds, strict=True):
            rng = np.random.default_rng(seed)
            score = rng.standard_normal(len(self.deviations_))
            root = self.roots_.get(_class(row))
            if root is not None:
                score[: len(root)] = root @ score[: len(root)]
            score = (score * self.deviations_).astype(np.float32)
            noise = rng.standard_normal(len(self.noise_), dtype=np.float32) * self.noise_
            rows.append(self.means_([row])[0] + score @ self.pca_.components_ + noise)
        return as_volumes(np.stack(rows), self.mask_)


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


def as_volumes(inside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values (M, V) in a mask as volumes, cut as the sampler's are."""
    volumes = np.zeros((len(inside), *mask.shape), dtype=np.float32)
    volumes[:, mask] = np.where(inside < FAINTEST, 0, np.minimum(inside, LARGEST))
    return volumes


def _class(labels: Mapping[str, Any]) -> str:
    return " ".join(str(labels.get(name) or "") for name in CONDITIONS[:2])
