"""A closed-form code for registered slices: principal components at every place.

Each slice of a tiling is cut into squares of f x f pixels. At every position (slice, row, column)
the q leading principal components over the training subjects make the latent channels:

    z_p = B_p (x_p - m_p) / c,        x_p = m_p + c B_p^T z_p

with ``m_p`` the mean square, ``B_p`` (q, f²) the components, and one constant ``c`` for all, so
that latents have unit variance on average, as the noise of diffusion has. With all f² components it
is a rotation and loses nothing; with fewer it drops what varies least. It is fitted in seconds
where a convolutional autoencoder takes hours, but it holds only where subjects share a space, which
every position then sees alike.

With a ``depth`` above 1, a square becomes a block of that many slices: a code for a network that
works in three dimensions, in the same layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from augment.tiling import Tiling

STILL = 1e-3
"""Standard deviation below which a component counts as constant, in the volumes' unit."""


class SliceBasis(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Volumes to latents of mosaics and back, by principal components at each position.

    Args:
        tiling: ``Tiling.to_dict()`` of the volumes, in pixels.
        channels: Components q that are kept at a position.
        factor: Pixels f along a side of a square.
        depth: Slices of a block.
    """

    mean: Tensor
    components: Tensor
    varies: Tensor
    scale: Tensor

    @register_to_config
    def __init__(
        self, *, tiling: dict[str, Any], channels: int = 64, factor: int = 8, depth: int = 1
    ) -> None:
        super().__init__()
        self.volume_tiling = Tiling.from_dict(tiling)
        shape = list(self.volume_tiling.shape)
        shape[self.volume_tiling.axis] = math.ceil(self.volume_tiling.count / depth)
        self.tiling = replace(self.volume_tiling, shape=(shape[0], shape[1], shape[2]))
        """How the latents are laid out: blocks take the place of slices."""
        self.factor, self.depth = factor, depth
        height, width = (side // factor for side in self.tiling.tile_shape)
        places = (self.tiling.count, height, width)
        pixels = factor**2 * depth
        self.register_buffer("mean", torch.zeros(*places, pixels))
        self.register_buffer("components", torch.zeros(*places, channels, pixels))
        self.register_buffer("varies", torch.ones(*places, channels))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def fit(
        cls,
        volumes: Callable[[], Iterable[Tensor]],
        tiling: Tiling,
        *,
        channels: int = 64,
        factor: int = 8,
        depth: int = 1,
    ) -> SliceBasis:
        """Find the components in two passes over the training volumes.

        Args:
            volumes: Called for each pass; gives batches (B, 1, X, Y, Z), so that a cohort of any
                size fits.
            tiling: How volumes are laid out.
            channels: Components q.
            factor: Pixels f.
            depth: Slices of a block.
        """
        basis = cls(tiling=tiling.to_dict(), channels=channels, factor=factor, depth=depth)
        count, total = 0, torch.zeros_like(basis.mean, dtype=torch.float64)
        for squares in basis._passes(volumes):
            count += len(squares)
            total += squares.double().sum(0)
        basis.mean.copy_(total / count)
        spread = torch.zeros(*basis.mean.shape, basis.mean.shape[-1])
        for squares in basis._passes(volumes):
            centred = squares - basis.mean
            spread += torch.einsum("nshwp,nshwq->shwpq", centred, centred)
        variances, vectors = torch.linalg.eigh(spread.double() / max(count - 1, 1))
        variances = variances.flip(-1)[..., :channels].clamp_min(0)
        basis.components.copy_(vectors.flip(-1)[..., :channels].transpose(-1, -2))
        varies = variances.sqrt() > STILL
        basis.varies.copy_(varies)
        basis.scale.copy_(variances[varies].mean().sqrt())
        return basis

    @property
    def mask(self) -> Tensor:
        """Where latents vary over subjects, (1, q, H / f, W / f): ones and zeros."""
        return self.tiling.tile_latents(self.varies.permute(0, 3, 1, 2)[None])

    def encode(self, volumes: Tensor) -> Tensor:
        """Volumes (B, 1, X, Y, Z) to latents of mosaics (B, q, H / f, W / f)."""
        centred = self._squares(volumes) - self.mean
        latents = torch.einsum("nshwp,shwqp->nsqhw", centred, self.components) / self.scale
        # A place that never varies (background) has no latent.
        return self.tiling.tile_latents(latents * self.varies.permute(0, 3, 1, 2))

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of :meth:`encode` but for what the components leave out."""
        parts = self.tiling.untile_latents(latents) * self.scale
        squares = torch.einsum("nsqhw,shwqp->nshwp", parts, self.components) + self.mean
        blocks = squares.unflatten(-1, (self.depth, self.factor, self.factor))
        blocks = blocks.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        volumes = self.tiling.from_slices(blocks.flatten(0, 1))  # (B, depth, X, Y, Z)
        axis = 2 + self.tiling.axis
        whole = volumes.movedim(1, axis).flatten(axis - 1, axis)[:, None]
        return whole.narrow(axis, 0, self.volume_tiling.count)

    def _squares(self, volumes: Tensor) -> Tensor:
        """Volumes (B, 1, X, Y, Z) to squares (B, S, h, w, d f²)."""
        f, d, axis = self.factor, self.depth, 2 + self.tiling.axis
        spare = self.tiling.count * d - self.volume_tiling.count
        padding = [0, 0] * 3
        padding[2 * (4 - axis) + 1] = spare
        blocks = F.pad(volumes, padding).unflatten(axis, (self.tiling.count, d))
        blocks = blocks[:, 0].movedim(axis, 1)  # (B, d, X, Y, Z) with blocks along the axis
        slices = self.tiling.slices(blocks).unflatten(0, (-1, self.tiling.count))
        squares = slices.unflatten(4, (-1, f)).unflatten(3, (-1, f))
        return squares.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 6)

    def _passes(self, volumes: Callable[[], Iterable[Tensor]]) -> Iterator[Tensor]:
        for batch in volumes():
            yield self._squares(batch)
