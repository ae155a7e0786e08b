"""Maps of any scalar as a network sees them: slices in front, one scale, levelled brightness.

A volume of intensities i becomes

    x = i / (b c) - 1,

with c a little over half of the bright tissue (its 90 % quantile, averaged over training people),
so that the background is -1. Where the unit means nothing, as in T1, b is the person's own
brightness over the average one; its logarithm is normal over training people, and a sample gets
one of its own back. A quantitative map, such as MD or FA, has b = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from neuromix.augment.errors import InputError
from neuromix.augment.tiled.mosaic import PLANES

BRIGHT, FAINT = 0.9, 0.06
"""The quantile of tissue that is its brightness; tissue is above this share of the range."""
HALF = 0.55
"""What becomes zero, as a share of the brightness."""
QUANTITATIVE = ("md", "fa", "ad", "rd", "gm", "wm", "csf")
"""Maps whose values mean the same in everybody."""
RARE = 0.02
"""Share of people who must have tissue at a voxel for it to count as brain."""


class VolumeCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Volumes (B, 1, X, Y, Z) to stacks of slices (B, L, H, W) and back.

    Args:
        shape: (X, Y, Z).
        plane: Whose slices are stacked.
        multiples: L, H and W are padded at their ends to multiples of these.
        levelled: Whether a person's brightness is taken off and given back.
        lowest: Values nearer to 0 are background, which is 0.
        largest: Values end here.
    """

    inside: Tensor
    brightness: Tensor
    logs: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        shape: Sequence[int],
        plane: str,
        multiples: Sequence[int],
        levelled: bool,
        lowest: float = 0.0,
        largest: float = float("inf"),
    ) -> None:
        super().__init__()
        self.axis = PLANES[plane]
        sides = [shape[self.axis], *(n for k, n in enumerate(shape) if k != self.axis)]
        self.sides = tuple(sides)
        self.padded = tuple(-(-n // m) * m for n, m in zip(sides, multiples, strict=True))
        self.register_buffer("inside", torch.ones(*self.padded, dtype=torch.bool))
        self.register_buffer("brightness", torch.ones(()))
        self.register_buffer("logs", torch.zeros(2))  # mean and deviation of log b

    def fit(self, volumes: Tensor) -> None:
        """Learn brightness and where the brain lies from training volumes (N, 1, X, Y, Z)."""
        own = self._brightness(volumes)
        self.brightness.copy_(own.mean())
        if self.config["levelled"]:
            logs = (own / own.mean()).log()
            self.logs.copy_(torch.stack([logs.mean(), logs.std(unbiased=len(logs) > 1)]))
        # Half a tissue's least is enough: an edge counts.
        there = (self.stack(volumes).abs() > FAINT / 2 * own.mean()).float().mean(0)
        brain = F.pad((there > RARE)[None].float(), (1, 1, 1, 1, 1, 1))
        self.inside.copy_(F.max_pool3d(brain, 3, 1)[0] > 0)

    def encode(self, volumes: Tensor) -> Tensor:
        """(B, L, H, W) of volumes, -1 outside of the brain."""
        unit = self.brightness.expand(len(volumes))
        if self.config["levelled"]:
            unit = self._brightness(volumes)
        scaled = self.stack(volumes) / (HALF * unit)[:, None, None, None] - 1
        return torch.where(self.inside, scaled, -1.0)

    def decode(self, stacks: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, 1, X, Y, Z) of stacks; each gets a brightness from its generator, if levelled."""
        logs = torch.stack([torch.randn((), generator=g) for g in generators]).to(stacks)
        unit = self.brightness * (self.logs[0] + self.logs[1] * logs).exp()
        values = (stacks + 1) * (HALF * unit)[:, None, None, None]
        low, high = self.config["lowest"], self.config["largest"]
        values = torch.where(self.inside & (values.abs() >= low), values, 0.0).clamp_max(high)
        if low:  # nothing was negative in training
            values = values.clamp_min(0)
        return self.unstack(values)

    def stack(self, volumes: Tensor) -> Tensor:
        """Slices of volumes (B, 1, X, Y, Z), (B, L, H, W), with padding of zeros."""
        slices = volumes[:, 0].movedim(1 + self.axis, 1)
        ends = [n - side for n, side in zip(self.padded, self.sides, strict=True)]
        return F.pad(slices, (0, ends[2], 0, ends[1], 0, ends[0]))

    def unstack(self, stacks: Tensor) -> Tensor:
        """Inverse of :meth:`stack`."""
        slices, rows, columns = self.sides
        return stacks[:, None, :slices, :rows, :columns].movedim(2, 2 + self.axis)

    def _brightness(self, volumes: Tensor) -> Tensor:
        """90 % quantile of the tissue of each volume, (B,)."""
        bright = []
        for volume in volumes:
            values = volume[volume.abs() > FAINT * volume.abs().max()]
            if not len(values) or bool((values == values[0]).all()):
                raise InputError(
                    "an image is constant; maps of tissue are needed: drop the subject"
                )
            bright.append(values.abs().float().quantile(BRIGHT) if len(values) < 2**24 else
                          values.abs().float().kthvalue(int(BRIGHT * len(values)))[0])  # fmt: skip
        return torch.stack(bright)


def codec_of(
    volumes: Tensor, plane: str, multiples: Sequence[int], image: str, limits: Any
) -> VolumeCodec:
    """A codec fitted to training volumes (N, 1, X, Y, Z) of an image; ``limits`` of MD alone."""
    lowest, largest = limits if image == "md" else (0.0, float(volumes.max()))
    codec = VolumeCodec(
        shape=list(volumes.shape[2:]), plane=plane, multiples=list(multiples),
        levelled=image not in QUANTITATIVE, largest=largest,
    )  # fmt: skip
    codec.fit(volumes)
    if image != "md" and float(volumes.min()) >= 0:
        lowest = FAINT / 2 * float(codec.brightness)
    codec.register_to_config(lowest=float(lowest))
    return codec.eval()
