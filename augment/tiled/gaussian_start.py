"""A flow that starts from a Gaussian in closed form, and a transformer for what is not Gaussian.

Were latents normal, with a mean that is linear in the labels y, a few patterns U that span the
brain, and a variance D of its own for every component::

    x ~ N( m(y), S ),        S = U U^T + D

then the velocity of the flow between them and noise would be known. With x_t = (1 - t) x + t n,
r = x_t - (1 - t) m and A = (1 - t)² S + t² I,

    v0 = E[n - x | x_t] = -m + (t I - (1 - t) S) A^(-1) r

(A is inverted by Woodbury's identity, in as many dimensions as there are patterns.) The transformer
F adds shape, what neighbours know of each other, and how labels change it::

    v = v0 - (s / k) F( [r, E[x - m | x_t]] / scale, t, y ),    s² = diag S,  k² = diag A

Its inputs have unit variance and the factor bounds its answer, at every t and in every component,
so that no time and no component is too loud or too faint to learn (Karras et al. 2022, for one
standard deviation instead of one a component).

A training of zero steps already gives the mean of each label, the covariance of the training
subjects along their largest patterns, the variance of each place, and noise, which is Gaussian and
need not be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from neuromix.augment.diffusion.label_embedding import label_features
from neuromix.augment.tiled.network import TiledDiT

DOUBT = 1.0
"""Subjects' worth of doubt that a label changes anything (ridge penalty)."""
MOST = 600
"""Subjects that the patterns are taken from; more change little and need memory."""
LEVELS = 64
"""Values that D is rounded to, a tenth apart, which makes U^T A^(-1) U cheap at any t."""
SMALLEST = 1e-3
"""Smallest own variance, as a share of the largest."""
LEAST = 0.02
"""Smallest share of a component's variance that is its own."""


class GaussianStart(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Velocity of latents of mosaics, conditioned on a label space.

    ``dit`` holds the settings of the :class:`TiledDiT` but for its channels.
    """

    effects: Tensor
    centre: Tensor
    patterns: Tensor
    variance: Tensor
    own: Tensor
    level: Tensor
    grams: Tensor

    @register_to_config
    def __init__(self, *, dit: dict[str, Any], channels: int, rank: int) -> None:
        super().__init__()
        # It sees the noisy latents and the Gaussian's guess.
        self.network = TiledDiT(**dit, in_channels=2 * channels, out_channels=channels)
        self.label_space = self.network.label_space
        self.tiling = self.network.tiling
        _, height, width = self.network.latent_shape
        self.latent_shape = (channels, height, width)
        counts = map(len, self.label_space.categories.values())
        features = sum(counts) + len(self.label_space.ranges)
        size = channels * height * width
        self.register_buffer("effects", torch.zeros(features, size))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("patterns", torch.zeros(rank, size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("own", torch.ones(LEVELS))
        self.register_buffer("level", torch.zeros(size, dtype=torch.int16))
        self.register_buffer("grams", torch.zeros(LEVELS, rank, rank))

    def fit(
        self,
        latents: Any,
        codes: Mapping[str, Tensor],
        weigh: Callable[[Tensor], Tensor] = lambda latents: latents.flatten(1),
    ) -> None:
        """Find the Gaussian of latents (N, 2, C, H, W) of the training set: means and deviations.

        Over subjects their mean is zero, as a template's is. ``codes`` are (N,) for each label;
        ``weigh`` turns latents into vectors (N, V) in which the largest patterns are looked for.
        """
        rows = torch.linspace(0, len(latents) - 1, min(len(latents), MOST)).long()
        rest = torch.stack([torch.tensor(latents[k, 0]) for k in rows.tolist()]).flatten(1)
        random = torch.zeros(self.latent_shape)
        for k in rows.tolist():
            random += torch.tensor(latents[k, 1]).square() / len(rows)
        free = len(rest)
        if self.label_space.names:
            chosen = {name: code[rows] for name, code in codes.items()}
            self.centre.copy_(label_features(self.label_space, chosen).nanmean(0).nan_to_num())
            features = self._centred(chosen)
            gram = features.T @ features + DOUBT * torch.eye(features.shape[1])
            self.effects.copy_(torch.linalg.solve(gram, features.T @ rest))
            rest = rest - features @ self.effects
            free = max(free - features.shape[1], 1)
        variance = rest.square().sum(0) / free + random.flatten()
        # Subjects are fewer than components: the small Gram matrix has the same spectrum.
        weighed = weigh(rest.reshape(-1, *self.latent_shape))
        _power, vectors = torch.linalg.eigh((weighed @ weighed.T).double())
        rank = self.patterns.shape[0]
        largest = vectors[:, len(vectors) - rank :].T.flip(0).float()
        self.patterns.copy_(largest @ rest / free**0.5)
        own = torch.maximum(variance - self.patterns.square().sum(0), LEAST * variance)
        low, high = (own.max() * SMALLEST).log(), own.max().log()
        self.own.copy_(torch.linspace(low, high, LEVELS).exp())
        nearest = (own.clamp_min(1e-12).log() - low) / (high - low).clamp_min(1e-6) * (LEVELS - 1)
        self.level.copy_(nearest.round().clamp(0, LEVELS - 1))
        self.variance.copy_(self.own[self.level.long()] + self.patterns.square().sum(0))
        for index in range(LEVELS):
            part = self.patterns[:, self.level == index]
            self.grams[index] = part @ part.T

    def forward(self, latents: Tensor, timestep: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Velocity (B, C, H, W) of noisy latents; ``timestep`` (B,) is 1000 times t of the flow."""
        shape = latents.shape
        flat = latents.flatten(1)
        t = (timestep / 1000).to(flat)[:, None]
        mean = torch.zeros_like(flat)
        if self.label_space.names:
            mean = self._centred(labels).to(flat) @ self.effects
        rest = flat - (1 - t) * mean
        level = self.level.long()
        own = self.own[level]
        noisy = ((1 - t) ** 2 * self.own + t**2)[:, level]  # the diagonal part of A

        # Woodbury: a = A^(-1) r, and U^T a.
        scaled = rest / noisy
        seen = scaled @ self.patterns.T
        gram = torch.einsum("bl,lij->bij", 1 / ((1 - t) ** 2 * self.own + t**2), self.grams)
        share = ((1 - t) ** 2)[..., None]
        eye = torch.eye(gram.shape[1], device=gram.device, dtype=torch.float64)
        system = eye + (share * gram).double()
        factor = torch.linalg.cholesky(system)
        inner = torch.cholesky_solve(seen.double()[..., None], factor)[..., 0].to(seen)
        inner = (1 - t) ** 2 * inner
        along = seen - torch.einsum("bij,bj->bi", gram, inner)
        solved = scaled - (inner @ self.patterns) / noisy
        guess = (1 - t) * (own * solved + along @ self.patterns)  # E[x - m | x_t]
        gaussian = t * solved - mean - guess

        total = (1 - t) ** 2 * self.variance + t**2
        deviation = self.variance.sqrt()
        pair = torch.stack([rest / total.sqrt(), guess / deviation.clamp_min(1e-3)], dim=1)
        inputs = pair.reshape(len(latents), -1, *shape[2:])
        answer = self.network(inputs, timestep, labels).flatten(1)
        return (gaussian - deviation / total.sqrt() * answer).reshape(shape)

    def _centred(self, labels: Mapping[str, Tensor]) -> Tensor:
        """Features whose mean over the training subjects is zero, as is what is missing."""
        return (label_features(self.label_space, labels) - self.centre).nan_to_num()
