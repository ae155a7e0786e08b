"""A hierarchical CNN-transformer for windows of BOLD latents, conditioned frame by frame.

A U-shaped network (after Seo et al. 2025, who gave no code): stages that go down halve the grid
and widen the channels, stages that go up mirror them and take their skips. A stage is residual
convolutions with FiLM (Perez et al. 2018), or transformer blocks with AdaLN-Zero (Peebles and Xie
2023) and cross-attention to tokens of the condition::

    cnn          h <- h + conv(silu(norm(conv(silu(norm(h)))) (1 + scale(c)) + shift(c)))
    transformer  h <- h + gate(c) f(norm(h) (1 + scale(c)) + shift(c)),   f = attention over space,
                 [attention over frames,] cross-attention to tokens, MLP

The condition is the time t of the flow, labels y (task, phase encoding, subject), and the design d,
the events convolved with the haemodynamic response, for every frame::

    c = time(t) + labels(y) + design(d),    tokens = { design(d_1) ... design(d_F), labels(y) }

Frames of a window are made jointly, in one of two ways. ``stack`` (as published) puts the frames
into channels, so that space alone has an extent and c knows the whole design. ``factorised`` keeps
them apart: c is that of the frame, and a transformer block attends over space within each frame and
over frames at each place; a cnn stage convolves over three frames.

Frames of the window before that are given (an overlap, or none) enter as further channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import LabelEmbedder, drop_labels
from neuromix.augment.errors import InputError

TIME_FEATURES = 256
LABEL_SCALE = 0.5
"""Standard deviation of label vectors at the start, about that of the time's."""
KINDS = ("cnn", "transformer")
FRAMES = ("factorised", "stack")


class HybridDiT(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' order of bases
    """Predicts velocity or noise of windows of latents.

    Args:
        label_space: ``LabelSpace.to_dict()``.
        courses: Columns K of the design.
        frames: Frames F of a window.
        shape: Latent voxels x, y and z.
        channels: Channels C of the latents.
        stages: ``cnn`` or ``transformer`` for each level, finest first: all ``cnn`` and all
            ``transformer`` are the published ablations.
        widths: Channels of each level; those of the last are the width D of the condition.
        depths: Blocks of each level, on the way down and again on the way up.
        head_dim: Channels of an attention head.
        time: ``factorised`` or ``stack``, see above.
        cross_attention: Without it transformers hear of the condition through AdaLN alone.
    """

    @register_to_config
    def __init__(
        self,
        *,
        label_space: dict[str, Any],
        courses: int,
        frames: int,
        shape: Sequence[int],
        channels: int = 4,
        stages: Sequence[str] = ("cnn", "transformer"),
        widths: Sequence[int] = (64, 128),
        depths: Sequence[int] = (1, 2),
        head_dim: int = 32,
        time: str = "factorised",
        cross_attention: bool = True,
    ) -> None:
        super().__init__()
        _check_settings(stages, widths, depths, head_dim, time)
        self.label_space = LabelSpace.from_dict(label_space)
        self.window_shape = (frames, channels, *shape)
        self.stacked = time == "stack"
        apart = 1 if self.stacked else frames  # frames that are rows of their own
        together = frames // apart  # frames that share a row's channels
        dim = widths[-1]

        self.time_proj = Timesteps(TIME_FEATURES, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.time_embedder = TimestepEmbedding(TIME_FEATURES, dim)
        self.label_embedder = LabelEmbedder(self.label_space, dim, LABEL_SCALE)
        self.design_embedder = nn.Linear(courses, dim)
        self.no_design = nn.Parameter(torch.zeros(dim))
        self.frame_number = nn.Parameter(0.1 * torch.randn(frames, dim))
        self.whole_design = nn.Linear(frames * dim, dim) if self.stacked else None

        self.stem = nn.Conv3d(together * (2 * channels + 1), widths[0], 3, padding=1)
        sides = [tuple(math.ceil(side / 2**k) for side in shape) for k in range(len(stages))]
        settings: dict[str, Any] = {
            "dim": dim, "head_dim": head_dim, "frames": apart, "cross": cross_attention,
        }  # fmt: skip
        levels = list(zip(stages, widths, depths, sides, strict=True))
        self.down = nn.ModuleList(_Stage(*level, **settings) for level in levels)
        self.up = nn.ModuleList(_Stage(*level, **settings) for level in levels[:-1])
        pairs = list(itertools.pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv3d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.grow = nn.ModuleList(nn.Conv3d(b, a, 3, padding=1) for a, b in pairs)
        self.join = nn.ModuleList(nn.Conv3d(2 * a, a, 1) for a, _ in pairs)
        self.norm_out = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.head = _zero(nn.Conv3d(widths[0], together * channels, 3, padding=1))

    def forward(self, latents: Tensor, timestep: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Predict for noisy windows (B, F, C, x, y, z), at ``timestep`` (B,) from 0 to 1000.

        ``labels`` hold a code (B,) for each name of the label space; ``design`` (B, F, K), NaN
        where it is not told; ``given`` (B, F, C, x, y, z), latents of known frames and zeros; and
        ``known`` (B, F), ones for known frames.
        """
        self._check(latents, labels)
        batch, frames = latents.shape[:2]
        dtype = self.stem.weight.dtype
        label, time = self._label_and_time(labels, timestep)
        design = self._design(labels["design"].to(dtype))
        tokens = torch.cat([design, label[:, None]], dim=1)
        if self.whole_design is None:
            condition = ((time + label)[:, None] + design).flatten(0, 1)
        else:
            condition = time + label + self.whole_design(design.flatten(1))

        known = labels["known"].to(latents)[:, :, None, None, None, None]
        known = known.expand(-1, -1, 1, *latents.shape[3:])
        hidden = torch.cat([latents, labels["given"].to(latents), known], dim=2)
        hidden = hidden.flatten(1, 2) if self.stacked else hidden.flatten(0, 1)
        hidden = self.stem(hidden.to(dtype))
        skips = []
        for level, stage in enumerate(self.down):
            hidden = stage(hidden, condition, tokens)
            if level < len(self.shrink):
                skips.append(hidden)
                hidden = self.shrink[level](hidden)
        for level in reversed(range(len(self.up))):
            skip = skips[level]
            hidden = self.grow[level](F.interpolate(hidden, size=skip.shape[2:]))
            hidden = self.join[level](torch.cat([hidden, skip], dim=1))
            hidden = self.up[level](hidden, condition, tokens)
        predicted: Tensor = self.head(F.silu(self.norm_out(hidden)))
        return predicted.reshape(batch, frames, -1, *latents.shape[3:])

    def drop(self, labels: Mapping[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
        """Make samples unconditional, labels and design at once; known frames stay."""
        codes = {name: labels[name] for name in self.label_space.names}
        design = labels["design"].masked_fill(dropped[:, None, None], torch.nan)
        return {**labels, **drop_labels(self.label_space, codes, dropped), "design": design}

    def _label_and_time(
        self, labels: Mapping[str, Tensor], timestep: Tensor
    ) -> tuple[Tensor, Tensor]:
        dtype = self.stem.weight.dtype
        time = self.time_embedder(self.time_proj(timestep).to(dtype))
        return self.label_embedder(labels, time), time

    def _design(self, design: Tensor) -> Tensor:
        """Designs (B, F, K) to vectors (B, F, D)."""
        untold = design.isnan().any(-1, keepdim=True)
        vectors = self.design_embedder(design.nan_to_num())
        return torch.where(untold, self.no_design, vectors) + self.frame_number

    def _check(self, latents: Tensor, labels: Mapping[str, Tensor]) -> None:
        if tuple(latents.shape[1:]) != self.window_shape:
            raise InputError(
                f"latents of shape {tuple(latents.shape)} came; this network takes "
                f"(batch, {', '.join(map(str, self.window_shape))})"
            )
        wanted = {*self.label_space.names, "design", "given", "known"}
        if set(labels) != wanted:
            raise InputError(
                f"labels {sorted(labels)} came; this network is conditioned on {sorted(wanted)}"
            )


class _Stage(nn.Module):
    """Blocks of one level, on rows (R, W, x, y, z): B rows of stacked frames, or B F of one."""

    def __init__(
        self,
        kind: str,
        width: int,
        depth: int,
        sides: Sequence[int],
        *,
        dim: int,
        head_dim: int,
        frames: int,
        cross: bool,
    ) -> None:
        super().__init__()
        self.frames = frames
        self.attends = kind == "transformer"
        if self.attends:
            self.place = nn.Parameter(0.02 * torch.randn(math.prod(sides), width))
            self.moment = nn.Parameter(0.02 * torch.randn(frames, 1, width))
            self.blocks = nn.ModuleList(
                _Transformer(width, dim, head_dim, frames, cross) for _ in range(depth)
            )
        else:
            self.blocks = nn.ModuleList(_Residual(width, dim, frames) for _ in range(depth))

    def forward(self, hidden: Tensor, condition: Tensor, tokens: Tensor) -> Tensor:
        if not self.attends:
            for block in self.blocks:
                hidden = block(hidden, condition)
            return hidden
        sides = hidden.shape[2:]
        sequence = hidden.flatten(2).transpose(1, 2) + self.place  # (R, P, W)
        sequence = (sequence.unflatten(0, (-1, self.frames)) + self.moment).flatten(0, 1)
        for block in self.blocks:
            sequence = block(sequence, condition, tokens)
        return sequence.transpose(1, 2).unflatten(2, sides)


class _Residual(nn.Module):
    """Two convolutions over space with FiLM between them, and one over three frames."""

    def __init__(self, width: int, dim: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.norm_1 = nn.GroupNorm(_groups(width), width)
        self.conv_1 = nn.Conv3d(width, width, 3, padding=1)
        self.film = _zero(nn.Linear(dim, 2 * width))
        self.norm_2 = nn.GroupNorm(_groups(width), width)
        self.conv_2 = _zero(nn.Conv3d(width, width, 3, padding=1))
        self.over_frames = _zero(nn.Conv1d(width, width, 3, padding=1)) if frames > 1 else None

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(F.silu(condition))[:, :, None, None, None].chunk(2, dim=1)
        inner = self.conv_1(F.silu(self.norm_1(hidden)))
        hidden = hidden + self.conv_2(F.silu(self.norm_2(inner) * (1 + scale) + shift))
        if self.over_frames is None:
            return hidden
        courses = hidden.flatten(2).unflatten(0, (-1, self.frames))  # (B, F, W, P)
        mixed = self.over_frames(courses.permute(0, 3, 2, 1).flatten(0, 1))  # (B P, W, F)
        mixed = mixed.unflatten(0, (len(courses), -1)).permute(0, 3, 2, 1).flatten(0, 1)
        return hidden + mixed.reshape(hidden.shape)


class _Transformer(nn.Module):
    """Attention over space, over frames if there are rows of them, to the tokens, and an MLP."""

    def __init__(self, width: int, dim: int, head_dim: int, frames: int, cross: bool) -> None:
        super().__init__()
        self.frames = frames
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.space = _Attention(width, width, head_dim)
        self.time = _Attention(width, width, head_dim) if frames > 1 else None
        self.tokens = _Attention(width, dim, head_dim) if cross else None
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        parts = 2 + (frames > 1) + cross
        self.modulation = _zero(nn.Linear(dim, 3 * parts * width))

    def forward(self, hidden: Tensor, condition: Tensor, tokens: Tensor) -> Tensor:
        wanted = iter(self.modulation(F.silu(condition))[:, None].split(hidden.shape[-1], dim=-1))

        def changed(function: Any) -> Tensor:
            shift, scale, gate = next(wanted), next(wanted), next(wanted)
            result: Tensor = gate * function(self.norm(hidden) * (1 + scale) + shift)
            return hidden + result

        hidden = changed(lambda x: self.space(x, x))
        if self.time is not None:
            hidden = changed(self._over_frames)
        if self.tokens is not None:
            across, each = self.tokens, tokens.repeat_interleave(self.frames, 0)
            hidden = changed(lambda x: across(x, each))
        return changed(self.mlp)

    def _over_frames(self, rows: Tensor) -> Tensor:
        assert self.time is not None
        courses = rows.unflatten(0, (-1, self.frames)).transpose(1, 2)  # (B, P, F, W)
        flat = courses.flatten(0, 1)
        mixed = self.time(flat, flat).reshape(courses.shape)
        return mixed.transpose(1, 2).flatten(0, 1)


class _Attention(nn.Module):
    """Scaled dot-product attention of queries (N, P, W) to a source (N, Q, V)."""

    def __init__(self, width: int, source: int, head_dim: int) -> None:
        super().__init__()
        self.heads = width // head_dim
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(source, 2 * width)
        self.to_out = nn.Linear(width, width)

    def forward(self, queries: Tensor, source: Tensor) -> Tensor:
        asked = self.to_q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.to_kv(source).chunk(2, dim=-1)
        )
        found = F.scaled_dot_product_attention(asked, key, value)
        result: Tensor = self.to_out(found.transpose(1, 2).flatten(2))
        return result


def _groups(width: int) -> int:
    return math.gcd(8, width)


def _zero(layer: Any) -> Any:
    """A layer that starts as zero, so that its block starts as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _check_settings(
    stages: Sequence[str],
    widths: Sequence[int],
    depths: Sequence[int],
    head_dim: int,
    time: str,
) -> None:
    if not len(stages) == len(widths) == len(depths) >= 1:
        raise InputError(
            f"{len(stages)} stages came with {len(widths)} widths and {len(depths)} depths; give "
            "one of each for a level"
        )
    for kind in stages:
        if kind not in KINDS:
            raise InputError(f"stage {kind!r} is not known; allowed are {', '.join(KINDS)}")
    if time not in FRAMES:
        raise InputError(f"time {time!r} is not known; allowed are {', '.join(FRAMES)}")
    for kind, width in zip(stages, widths, strict=True):
        if kind == "transformer" and width % head_dim:
            raise InputError(
                f"a transformer of width {width} does not divide into heads of {head_dim}; choose "
                "a multiple"
            )
