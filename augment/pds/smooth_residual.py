"""What a source cannot tell of its target, as a smooth Gaussian field, and the flow to it.

Around the mean m given the source lies a field that is smooth, is shared by the segments, and
carries noise. In units of its own standard deviation a, voxel by voxel, z = (y - m) / a, it is
nearly stationary, so that waves (a real Fourier transform C, mixed over segments by an orthonormal
matrix Q) are uncorrelated::

    z = C' Q' w,        w_k ~ N(0, p_k),       mean of p over k = 1

With z_t = (1 - t) z + t n the waves of noise are white, too, and the velocity is known one by one::

    E[n - z | z_t] = C' Q' ( (t - (1 - t) p) / ((1 - t)² p + t²) ) Q C z_t

A hundred training subjects say little about the covariance of 100,000 voxels; they say p, which
depends on the mode of the segments and the length of the wave alone.

The field fills the whole grid, brains do not: where a subject has none, :meth:`SmoothResidual.fill`
goes on as the Gaussian would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from neuromix.augment.diffusion.smooth_fields import along, harmonics

BINS = 32
"""Lengths of waves that have a power of their own."""
ITERATIONS = 25
"""Of the conjugate gradients that go on with a field outside the brain."""

Residuals = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Anew each time: residuals (B, N, X, Y, Z) and supports (B, 1, X, Y, Z)."""


class SmoothResidual(nn.Module):
    """The Gaussian field of each of D directions."""

    deviation: Tensor
    mixing: Tensor
    power: Tensor
    waves_x: Tensor
    waves_y: Tensor
    waves_z: Tensor

    def __init__(self, directions: int, segments: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("deviation", torch.ones(directions, segments, *shape))
        self.register_buffer("mixing", torch.eye(segments).repeat(directions, 1, 1))
        self.register_buffer("power", torch.ones(directions, segments, *shape))
        for axis, side in zip("xyz", shape, strict=True):
            self.register_buffer(f"waves_{axis}", harmonics(side), persistent=False)

    @torch.no_grad()
    def fit(self, direction: int, residuals: Residuals, inflation: float = 1.0) -> None:
        """Find deviation, mixing and power of one direction from the training subjects.

        ``inflation`` says how much larger residuals of new subjects are, a ratio of deviations.
        """
        squares = torch.zeros_like(self.deviation[direction])
        count = torch.zeros_like(squares[:1])
        for residual, support in residuals():
            squares += (residual.square() * support).sum(0)
            count += support.sum(0)
        # Neighbours vary alike, and a hundred squares alone are 14 % off.
        squares, count = (nn.functional.avg_pool3d(v[None], 3, 1, 1)[0] for v in (squares, count))
        overall = squares.sum((1, 2, 3), keepdim=True) / count.sum().clamp_min(1e-6)
        # One subject's worth of the average, for voxels that few brains cover.
        variance = (squares + overall) / (count + 1)
        self.deviation[direction] = inflation * variance.sqrt().clamp_min(1e-4)

        covariance = torch.zeros_like(self.mixing[direction])
        voxels = 0.0
        for residual, support in residuals():
            unit = inflation * support * residual / self.deviation[direction]
            flat = unit.transpose(0, 1).flatten(1)
            covariance += flat @ flat.T
            voxels += float(support.sum())
        self.mixing[direction] = torch.linalg.eigh(covariance / voxels).eigenvectors

        total = torch.zeros_like(self.power[direction])
        for residual, support in residuals():
            unit = inflation * support * residual / self.deviation[direction]
            chosen = torch.full((len(unit),), direction)
            share = support.mean((1, 2, 3, 4))[:, None, None, None, None].clamp_min(1e-6)
            total += (self.to_waves(unit, chosen).square() / share).sum(0)
        self.power[direction] = self._isotropic(total)

    def velocity(self, noisy: Tensor, t: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """E[n - z | z_t] and E[z | z_t], both (B, N, X, Y, Z), for t and direction (B,)."""
        t = t[:, None, None, None, None]
        power = self.power[direction]
        waves = self.to_waves(noisy, direction) / ((1 - t) ** 2 * power + t**2)
        guess = self.from_waves((1 - t) * power * waves, direction)
        return self.from_waves(t * waves, direction) - guess, guess

    def colour(self, white: Tensor, direction: Tensor) -> Tensor:
        """A draw of z made of white noise of its shape."""
        return self.from_waves(self.power[direction].sqrt() * white, direction)

    def fill(self, field: Tensor, support: Tensor, white: Tensor, direction: Tensor) -> Tensor:
        """The field in its support, and outside a draw of the Gaussian that agrees with it.

        A free draw is corrected by what the field inside says of the outside (kriging); conjugate
        gradients invert the covariance. ``field`` is z, (B, N, X, Y, Z), and ``white`` noise of its
        shape.
        """
        power = self.power[direction]

        def covariance(v: Tensor) -> Tensor:
            return self.from_waves(power * self.to_waves(v, direction), direction)

        free = self.colour(white, direction)
        rest = support * (field - free)
        answer = torch.zeros_like(rest)
        along_ = rest
        size = rest.square().flatten(1).sum(1)
        for _ in range(ITERATIONS):
            image = support * covariance(along_)
            step = size / (along_ * image).flatten(1).sum(1).clamp_min(1e-12)
            answer = answer + _each(step) * along_
            rest = rest - _each(step) * image
            new = rest.square().flatten(1).sum(1)
            along_ = rest + _each(new / size.clamp_min(1e-12)) * along_
            size = new
        return support * field + (1 - support) * (free + covariance(answer))

    def to_waves(self, field: Tensor, direction: Tensor) -> Tensor:
        """Fields to their waves, an orthonormal map."""
        mixed = torch.einsum("bnxyz,bnm->bmxyz", field, self.mixing[direction])
        return along(mixed, (self.waves_x, self.waves_y, self.waves_z))

    def from_waves(self, waves: Tensor, direction: Tensor) -> Tensor:
        """Inverse of :meth:`to_waves`."""
        field = along(waves, (self.waves_x.T, self.waves_y.T, self.waves_z.T))
        return torch.einsum("bmxyz,bnm->bnxyz", field, self.mixing[direction])

    def _isotropic(self, total: Tensor) -> Tensor:
        """Powers (N, X, Y, Z) averaged over waves of like length; one on average."""
        axes = [(torch.arange(side) + 1) // 2 * 2 / side for side in total.shape[1:]]
        length = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt().flatten()
        edges = torch.linspace(0, float(length.max()) + 1e-6, BINS + 1)
        index = torch.bucketize(length, edges, right=True) - 1
        flat = total.flatten(1)
        sums = torch.zeros(len(flat), BINS).index_add(1, index, flat)
        counts = torch.zeros(BINS).index_add(0, index, torch.ones_like(length))
        power = (sums / counts.clamp_min(1))[:, index]
        return (power / power.mean()).clamp_min(1e-4).reshape(total.shape)


def _each(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None, None]
