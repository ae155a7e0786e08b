"""The mean of one modality given the other, in closed form: a linear regression in every voxel.

A voxel of the target y is predicted from what the source s shows at that place and around it::

    m(x) = c(x) + W(x)' (f(x) - g(x)),        W = (sum A + lambda I)^(-1) sum B

f are 16 features and the N segments themselves: the mean segment smoothed by one and by two voxels,
that of the six neighbours, its mean over the brain, and where the brain ends (the support, its
neighbours, and it smoothed). g and c are the means over the training subjects whose brain covers
the voxel, and A = f f', B = f y' their centred moments, pooled over neighbouring voxels: tissues
mix alike next door, so that a hundred subjects decide two dozen weights.

All tensors are volumes (B, N, X, Y, Z) of N segments; a direction is the index of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuromix.augment.diffusion.smooth_fields import along

RIDGE = 0.003
"""Penalty, as a share of the features' mean variance."""
POOL = 0.7
"""Voxels over which moments are pooled (standard deviation of a Gaussian)."""
EXTRA = 17
"""Features beside the segments."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]
"""Anew each time: source, target and support, (B, N, X, Y, Z) twice and (B, 1, X, Y, Z)."""


class LocalRegression(nn.Module):
    """Linear regressions in the V ``voxels`` that a training subject's brain covers."""

    place: Tensor
    centre: Tensor
    average: Tensor
    weights: Tensor

    def __init__(
        self, directions: int, segments: int, shape: tuple[int, int, int], voxels: int
    ) -> None:
        super().__init__()
        self.shape = shape
        features = segments + EXTRA
        self.register_buffer("place", torch.zeros(voxels, dtype=torch.int64))
        self.register_buffer("centre", torch.zeros(directions, voxels, segments))
        self.register_buffer("average", torch.zeros(directions, voxels, features))
        self.register_buffer("weights", torch.zeros(directions, voxels, features, segments))

    def cover(self, covered: Tensor) -> None:
        """Say which voxels are covered, booleans (X, Y, Z)."""
        self.place.copy_(covered.flatten().nonzero().flatten())

    @torch.no_grad()
    def fit(self, direction: int, batches: Batches, blind: bool = False) -> None:
        """Find the regressions of one direction; ``blind`` ones do not look at the source."""
        for learnt in (self.average, self.centre, self.weights):
            learnt[direction] = 0
        count = torch.zeros(len(self.place), 1)
        for source, target, support in batches():
            inside = self._at(support)
            count += inside.sum(0)
            self.average[direction] += (self._at(features(source, support)) * inside).sum(0)
            self.centre[direction] += (self._at(target) * inside).sum(0)
        self.average[direction] /= count.clamp_min(1)
        self.centre[direction] /= count.clamp_min(1)
        if blind:
            return
        width = self.average.shape[-1]
        auto = torch.zeros(len(self.place), width, width)
        cross = torch.zeros_like(self.weights[direction])
        for source, target, support in batches():
            inside = self._at(support)
            seen = (self._at(features(source, support)) - self.average[direction]) * inside
            wanted = (self._at(target) - self.centre[direction]) * inside
            seen = seen.permute(1, 2, 0)  # (V, F, B)
            auto += seen @ seen.mT
            cross += seen @ wanted.permute(1, 0, 2)
        auto, cross = self._pool(auto), self._pool(cross)
        size = auto.diagonal(dim1=1, dim2=2).mean()
        penalty = torch.eye(width) * (RIDGE * size + 1e-6)
        self.weights[direction] = torch.linalg.solve(auto + penalty, cross)

    def forward(self, source: Tensor, support: Tensor, direction: int) -> Tensor:
        """The means (B, N, X, Y, Z) of the targets; zero outside the support."""
        seen = self._at(features(source, support)) - self.average[direction]
        mean = torch.einsum("bvf,vfn->bvn", seen, self.weights[direction])
        return self._volume(self.centre[direction] + mean) * support

    def prior(self, direction: int) -> Tensor:
        """The mean target of the training subjects, (1, N, X, Y, Z)."""
        return self._volume(self.centre[direction][None])

    def _at(self, volumes: Tensor) -> Tensor:
        """Volumes (B, C, X, Y, Z) at the covered voxels, (B, V, C)."""
        return volumes.flatten(2)[:, :, self.place].mT

    def _volume(self, values: Tensor) -> Tensor:
        """Inverse of :meth:`_at`; zero elsewhere."""
        size = self.shape[0] * self.shape[1] * self.shape[2]
        volumes = values.new_zeros(len(values), values.shape[2], size)
        volumes[:, :, self.place] = values.mT
        return volumes.unflatten(2, self.shape)

    def _pool(self, moments: Tensor) -> Tensor:
        """Moments (V, F, G) averaged over neighbouring voxels."""
        blur = [_gaussian(side, POOL).to(moments) for side in self.shape]
        rows = [
            self._at(along(self._volume(moments[:, k][None]), blur))[0]
            for k in range(moments.shape[1])
        ]
        return torch.stack(rows, dim=1)


def features(source: Tensor, support: Tensor) -> Tensor:
    """What a regression sees, (B, N + 17, X, Y, Z)."""
    mean = source.mean(1, keepdim=True)
    edge = _smooth(support, 1.0)
    near = _smooth(mean, 1.0) / edge.clamp_min(0.05)
    far = _smooth(mean, 2.0) / _smooth(support, 2.0).clamp_min(0.05)
    total = support.sum((2, 3, 4), keepdim=True).clamp_min(1)
    overall = (mean.sum((2, 3, 4), keepdim=True) / total).expand_as(mean)
    return torch.cat(
        [source, near, far, edge, overall, *_neighbours(mean), *_neighbours(support), mean], dim=1
    )


def _neighbours(volume: Tensor) -> list[Tensor]:
    """The six neighbours of every voxel; zero beyond the border."""
    padded = F.pad(volume, [1] * 6)
    x, y, z = volume.shape[2:]
    moves = [(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
    return [padded[:, :, i : i + x, j : j + y, k : k + z] for i, j, k in moves]


def _smooth(volume: Tensor, width: float) -> Tensor:
    return along(volume, [_gaussian(side, width).to(volume) for side in volume.shape[2:]])


def _gaussian(side: int, width: float) -> Tensor:
    """A matrix (side, side) that smooths along an axis."""
    place = torch.arange(side, dtype=torch.float32)
    matrix = torch.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    matrix[matrix < 1e-4] = 0
    return matrix / matrix.sum(1).max()
