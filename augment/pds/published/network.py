"""PDM: one bidirectional 3D diffusion U-Net for two modalities, conditional on the source volume.

Two U-Nets run side by side, as in PDS (arXiv 2511.04963): one reads what is known of the subject
(the source, where the brain is, what the source says of the target on average), one denoises the
target. At every resolution the first hands its features to the second, at the same place, so that a
target voxel always sees the source voxel that it belongs to. At the coarsest resolution every
position attends to all positions of both::

    logits(p, q) = <query(p), key(q)> / sqrt(d) + b P(q),      p in target, q in target and source

P is the map of the pattern-aware module, b learnt per head. Attention runs over positions, so that
it reaches the whole brain. Direction, diagnosis and time shift and scale every block; the labels
may be dropped. One set of weights serves both directions: a modality has its own channels in the
first and the last layer, which are zero (or not read) where it is not concerned.

All volumes are (B, C, X, Y, Z); a direction is the index of the target modality, (B,).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import LabelEmbedder
from neuromix.augment.pds.published.pattern import PatternModule

TIME_FEATURES = 64


class DualModalUNet(nn.Module):
    """Noise of the target, zero at the start.

    N ``segments`` are the channels of the output; sides halve from one of the ``widths`` to the
    next; ``patch`` is the side in voxels of a position of the finest resolution. Without
    ``pattern``, the pattern-aware module, attention has no bias and nothing is gated.
    """

    def __init__(
        self,
        space: LabelSpace,
        *,
        modalities: int,
        known_channels: int,
        segments: int,
        widths: Sequence[int],
        patch: int,
        heads: int,
        pattern: PatternModule | None,
    ) -> None:
        super().__init__()
        self.modalities, self.segments, self.patch = modalities, segments, patch
        self.multiple = patch * 2 ** (len(widths) - 1)
        dim = 4 * widths[0]
        self.time_proj = Timesteps(TIME_FEATURES, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.time_embedder = TimestepEmbedding(TIME_FEATURES, dim)
        self.direction_embedder = nn.Embedding(modalities, dim)
        self.label_embedder = LabelEmbedder(space, dim, 0.5)

        # A slot of channels for each modality.
        self.known_stem = nn.Conv3d(modalities * known_channels, widths[0], patch, stride=patch)
        self.noisy_stem = nn.Conv3d(modalities * segments, widths[0], patch, stride=patch)
        pairs = list(itertools.pairwise(widths))
        self.known_blocks = nn.ModuleList(Block(w, w, dim) for w in widths)
        self.known_downs = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairs)
        self.handed = nn.ModuleList(nn.Conv3d(w, w, 1) for w in widths)
        self.gates = nn.Parameter(torch.zeros(len(widths)))
        self.down_blocks = nn.ModuleList(Block(w, w, dim) for w in widths)
        self.downs = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairs)
        self.attention = SpatialAttention(widths[-1], heads)
        self.middle = Block(widths[-1], widths[-1], dim)
        self.ups = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in pairs)
        self.up_blocks = nn.ModuleList(Block(2 * a, a, dim) for a, _ in pairs)
        self.norm = nn.GroupNorm(4, widths[0])
        self.head = nn.ConvTranspose3d(widths[0], modalities * segments, patch, stride=patch)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # there is one
        # The caller's, which trains and saves it.
        object.__setattr__(self, "pattern", pattern)

    def forward(
        self,
        noisy: Tensor,
        known: Tensor,
        timestep: Tensor,
        direction: Tensor,
        labels: Mapping[str, Tensor],
    ) -> Tensor:
        """Predict (B, N, X, Y, Z) of the noisy target, and of what else changes with time.

        ``known`` is what is known of the subject, ``timestep`` (B,) from 0 to 1000.
        """
        sides = noisy.shape[2:]
        margin = [edge for side in reversed(sides) for edge in (0, -side % self.multiple)]
        noisy, known = F.pad(noisy, margin), F.pad(known, margin)
        condition = self.time_embedder(self.time_proj(timestep).to(noisy.dtype))
        condition = condition + self.direction_embedder(direction)
        condition = condition + self.label_embedder(labels, condition)

        source = self.known_stem(self._slots(known, direction))
        target = self.noisy_stem(self._slots(noisy, direction))
        skips: list[Tensor] = []
        last = len(self.down_blocks) - 1
        for level, block in enumerate(self.down_blocks):
            source = self.known_blocks[level](source, condition)
            target = target + self.handed[level](source)
            target = self._gate(block(target, condition), level)
            if level < last:
                skips.append(target)
                source = self.known_downs[level](source)
                target = self.downs[level](target)
        bias = None
        if self.pattern is not None:
            bias = self.pattern.at(target.shape[2:])  # type: ignore[operator, union-attr]
        target = self.attention(target, source, bias)
        target = self.middle(target, condition)
        for level in reversed(range(last)):
            target = torch.cat([self.ups[level](target), skips[level]], dim=1)
            target = self.up_blocks[level](target, condition)
        every = self.head(F.silu(self.norm(target))).unflatten(1, (self.modalities, self.segments))
        wanted = every[torch.arange(len(every), device=every.device), direction]
        return wanted[:, :, : sides[0], : sides[1], : sides[2]]

    def _slots(self, volume: Tensor, direction: Tensor) -> Tensor:
        """Channels (B, C, ...) in the slot of their direction, zeros in the others'."""
        hot = F.one_hot(direction, self.modalities).to(volume)
        return torch.einsum("bm,bcxyz->bmcxyz", hot, volume).flatten(1, 2)

    def _gate(self, target: Tensor, level: int) -> Tensor:
        if self.pattern is None:
            return target
        where: Tensor = self.pattern.at(target.shape[2:])  # type: ignore[operator, union-attr]
        return target * (1 + torch.tanh(self.gates[level]) * where)


class SpatialAttention(nn.Module):
    """Every position of the target attends to all positions of target and source."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_target = nn.GroupNorm(4, width)
        self.norm_source = nn.GroupNorm(4, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads))

    def forward(self, target: Tensor, source: Tensor, pattern: Tensor | None) -> Tensor:
        """Target (B, C, I, J, K), changed; source like it, pattern (1, 1, I, J, K)."""
        places = self.norm_target(target).flatten(2).mT  # (B, P, C)
        both = torch.cat([places, self.norm_source(source).flatten(2).mT], dim=1)
        query = self._by_head(self.query(places))
        key, value = (self._by_head(part) for part in self.key_value(both).chunk(2, dim=-1))
        bias = None
        if pattern is not None:
            where = pattern.flatten().repeat(2)
            bias = (self.bias[:, None] * where)[None, :, None, :]
            bias = bias.expand(len(query), -1, query.shape[2], -1)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        answer = self.out(seen.transpose(1, 2).flatten(2))
        return target + answer.mT.unflatten(2, target.shape[2:])

    def _by_head(self, places: Tensor) -> Tensor:
        return places.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Two convolutions with a residual; the condition shifts and scales between them."""

    def __init__(self, inputs: int, width: int, dim: int) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(4, inputs)
        self.conv_1 = nn.Conv3d(inputs, width, 3, padding=1)
        self.condition = nn.Linear(dim, 2 * width)
        self.norm_2 = nn.GroupNorm(4, width)
        self.conv_2 = nn.Conv3d(width, width, 3, padding=1)
        self.pass_by = nn.Conv3d(inputs, width, 1) if inputs != width else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, C, I, J, K) under a condition (B, D)."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        shift, scale = self.condition(F.silu(condition))[..., None, None, None].chunk(2, dim=1)
        h = self.conv_2(F.silu(self.norm_2(h) * (1 + scale) + shift))
        return self.pass_by(x) + h
