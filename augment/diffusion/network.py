"""The one network: convolutions for texture around DiT blocks for what lies far apart.

It sees volumes (B, C, L, H, W) of C channels as a mosaic of L / depth tiles, each of ``depth``
neighbouring slices that enter as channels (1: a tile a slice; L: one tile), and answers with
(B, L, H, W)::

    z  = conv(unshuffle_2(x)) + place(tile, row, column)      residual 3x3 convolutions by tile
    u  = tokens(z)                                            DiT blocks over the whole mosaic
    z  = z + spread(u)                                        residual convolutions again
    out = shuffle_2(conv(z)),                                 zero at the start

A condition c = time(t) + labels(y) + W a, with a the parameters of the augmentation that a training
image went through, shifts and scales every block (AdaLN-Zero; Peebles and Xie 2023). The labels are
also tokens that the DiT blocks attend to: with AdaLN alone a short training hardly uses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import LabelEmbedder

TIME_FEATURES = 128


class HybridNet(nn.Module):
    """Convolutions and DiT blocks over a mosaic of tiles.

    Args:
        space: Labels of the condition.
        shape: (L, H, W) of a volume; H and W are multiples of ``token``, L of ``depth``.
        channels: C.
        parameters: Numbers of an augmentation.
        depth: Slices of a tile.
        width: Channels of the convolutions.
        blocks: Residual blocks of convolutions before and after the tokens, each.
        layers: DiT blocks.
        heads: Of the attention; the tokens are twice as wide as the convolutions.
        token: Voxels that a token covers along a side.
    """

    def __init__(
        self,
        space: LabelSpace,
        shape: Sequence[int],
        channels: int,
        parameters: int,
        *,
        depth: int,
        width: int,
        blocks: int,
        layers: int,
        heads: int,
        token: int,
    ) -> None:
        super().__init__()
        self.depth, self.token = depth, token
        slices, height, length = shape
        self.tiles, dim = slices // depth, 2 * width
        self.stem = nn.Conv2d(4 * channels * depth, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(self.tiles, width, height // 2, length // 2))
        self.time_features = Timesteps(TIME_FEATURES, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.time = TimestepEmbedding(TIME_FEATURES, dim)
        self.labels = LabelEmbedder(space, dim, 0.5)
        self.parameters_in = nn.Linear(parameters, dim) if parameters else None
        self.before = nn.ModuleList(_Residual(width, dim) for _ in range(blocks))
        self.after = nn.ModuleList(_Residual(width, dim) for _ in range(blocks))
        self.layers = nn.ModuleList(_Block(dim, heads) for _ in range(layers))
        if layers:
            side = token // 2
            self.gather = nn.Conv2d(width, dim, side, stride=side)
            self.spread = nn.Conv2d(dim, width * side * side, 1)
        self.head = nn.Conv2d(width, 4 * depth, 3, padding=1)
        for last in (self.head, *([self.spread] if layers else [])):
            _zero(last)

    def forward(
        self, volumes: Tensor, timestep: Tensor, labels: Mapping[str, Tensor], parameters: Tensor
    ) -> Tensor:
        """(B, L, H, W) of volumes (B, C, L, H, W), ``timestep`` (B,) from 0 to 1000."""
        count, channels, slices, height, width = volumes.shape
        time = self.time(self.time_features(timestep).to(self.place.dtype))
        label = self.labels(labels, time)
        condition = time + label
        if self.parameters_in is not None:
            condition = condition + self.parameters_in(parameters.to(time))
        condition = F.silu(condition)
        tiles = volumes.unflatten(2, (self.tiles, self.depth)).transpose(1, 2)
        tiles = tiles.reshape(-1, channels * self.depth, height, width)
        each = condition.repeat_interleave(self.tiles, 0)
        z = self.stem(F.pixel_unshuffle(tiles, 2)) + self.place.repeat(count, 1, 1, 1)
        for block in self.before:
            z = block(z, each)
        if len(self.layers):
            grid = self.gather(z)
            tokens = grid.flatten(2).unflatten(0, (count, self.tiles)).transpose(2, 3).flatten(1, 2)
            for layer in self.layers:
                tokens = layer(tokens, condition, label[:, None])
            back = tokens.unflatten(1, (self.tiles, -1)).transpose(2, 3).reshape(grid.shape)
            z = z + F.pixel_shuffle(self.spread(back), self.token // 2)
        for block in self.after:
            z = block(z, each)
        answer = F.pixel_shuffle(self.head(F.silu(z)), 2)
        return answer.reshape(count, slices, height, width)


class _Residual(nn.Module):
    """Two 3x3 convolutions that a condition shifts and scales; the identity at the start."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width, affine=False)
        self.modulation = nn.Linear(dim, 2 * width)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        _zero(self.modulation)
        _zero(self.conv_2)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)[:, :, None, None].chunk(2, 1)
        inner = F.silu(self.norm(z) * (1 + scale) + shift)
        added: Tensor = z + self.conv_2(F.silu(self.conv_1(inner)))
        return added


class _Block(nn.Module):
    """Self-attention, attention to the label tokens and a feed-forward layer (AdaLN-Zero)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 9 * dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.query, self.answer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))
        _zero(self.modulation)

    def forward(self, tokens: Tensor, condition: Tensor, label: Tensor) -> Tensor:
        parts = self.modulation(condition)[:, None].chunk(9, 2)
        inner = self.norm(tokens) * (1 + parts[1]) + parts[0]
        tokens = tokens + parts[2] * self.out(self._attend(*self.qkv(inner).chunk(3, 2)))
        inner = self.norm(tokens) * (1 + parts[4]) + parts[3]
        # A constant token beside the labels': attention over one token alone says nothing.
        known = torch.cat([label, torch.zeros_like(label)], 1)
        attended = self._attend(self.query(inner), *self.key_value(known).chunk(2, 2))
        tokens = tokens + parts[5] * self.answer(attended)
        inner = self.norm(tokens) * (1 + parts[7]) + parts[6]
        fed: Tensor = tokens + parts[8] * self.feed(inner)
        return fed

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = [
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        ]
        mixed: Tensor = F.scaled_dot_product_attention(*heads)
        return mixed.transpose(1, 2).flatten(2)


def _zero(layer: nn.Module) -> None:
    """Let a layer answer zero at the start."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
