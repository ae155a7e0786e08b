"""Maps of any scalar as a network sees them: slices in front, one scale, levelled brightness.

A volume of intensities i becomes

    x = (i / b)^g / h - 1,

with b the bright tissue (its 90 % quantile) and h a little over half, so that the background is -1.
Where the unit means nothing, as in T1, b is the person's own, and the power g brings the middle one
of three clusters of values (grey matter, however much of it there is) to where it is in others.
Their logarithms are normal over training people, and a sample gets some of its own back. A
quantitative map, such as MD or FA, has the average b, and g = 1.

*Outlines.* Where tissue ends at a mask, as in MD, a voxel of the rim is tissue or background, and
nothing lies between; a filter that is linear would draw what does. Such a map is two stacks, one
behind the other: its tissue, going on smoothly beyond the mask, and the distance to the mask's edge
(above 0 inside, at most 1 at :data:`FAR` voxels), which is smooth where the mask is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from neuromix.augment.diffusion.prior import smooth
from neuromix.augment.tiled.config import FAINTEST, LARGEST, QUANTITATIVE
from neuromix.augment.tiled.mosaic import PLANES

BRIGHT, FAINT = 0.9, 0.06
"""The quantile of tissue that is its brightness; tissue is above this share of the range."""
HALF = 0.55
"""What becomes zero, as a share of the brightness."""
STEEPEST = 2.0
"""Powers that change contrast lie between this and one over it."""
RARE = 0.02
"""Share of people who must have tissue at a voxel for it to count as brain."""
EDGE, HARD = 0.005, 0.4
"""The quantile of tissue that is its least, and the share of the median that it has at least where
tissue ends at a mask."""
ROUNDS = 6
"""Voxels that tissue goes on beyond a mask, and steps until clusters have settled."""
MOST, SOME = 1 << 24, 1 << 14
"""Values that a quantile is taken of, and that clusters are looked for in."""
FAR = 3.0
"""Voxels from the edge of a mask after which distance no longer grows."""


class VolumeCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Volumes (B, 1, X, Y, Z) to stacks of slices (B, L, H, W) and back; L doubles with outlines.

    Args:
        shape: (X, Y, Z).
        plane: Whose slices are stacked.
        multiples: L, H and W are padded at their ends to multiples of these.
        levelled: Whether a person's brightness is taken off and given back.
        outlined: Whether tissue ends at a mask, whose distance is a stack of its own.
        contrasted: Whether a person's contrast is taken off and given back as well.
        lowest: Values nearer to 0 are background, which is 0; with outlines, no tissue is fainter.
        largest: Values end here.
    """

    inside: Tensor
    typical: Tensor
    brightness: Tensor
    logs: Tensor
    tones: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        shape: Sequence[int],
        plane: str,
        multiples: Sequence[int],
        levelled: bool,
        outlined: bool = False,
        contrasted: bool = False,
        lowest: float = 0.0,
        largest: float = float("inf"),
    ) -> None:
        super().__init__()
        self.axis = PLANES[plane]
        sides = [shape[self.axis], *(n for k, n in enumerate(shape) if k != self.axis)]
        self.sides = tuple(sides)
        self.room = tuple(-(-n // m) * m for n, m in zip(sides, multiples, strict=True))
        self.padded = (self.room[0] * (2 if outlined else 1), *self.room[1:])
        self.register_buffer("inside", torch.ones(*self.padded, dtype=torch.bool))
        self.register_buffer("typical", torch.zeros(*(self.room if outlined else (0, 0, 0))))
        self.register_buffer("brightness", torch.ones(()))
        self.register_buffer("logs", torch.zeros(2))  # mean and deviation of log b
        # Log of the usual grey over b; mean and deviation of log g, its correlation with log b.
        self.register_buffer("tones", torch.zeros(4), persistent=contrasted)

    def fit(self, volumes: Tensor) -> None:
        """Learn brightness and where the brain lies from training volumes (N, 1, X, Y, Z)."""
        own = self._brightness(volumes)
        self.brightness.copy_(own.mean())
        if self.config["levelled"]:
            logs = (own / own.mean()).log()
            self.logs.copy_(torch.stack([logs.mean(), logs.std(unbiased=len(logs) > 1)]))
            if self.config["contrasted"]:
                self.tones[0] = self._grey(volumes, own).mean()
                powers = self._powers(volumes, own).log()
                both = torch.stack([logs, powers])
                alike = torch.corrcoef(both)[0, 1].nan_to_num() if len(logs) > 2 else 0.0
                spread = powers.std(unbiased=len(logs) > 1)
                self.tones[1:] = torch.stack([powers.mean(), spread, torch.as_tensor(alike)])
        # Half a tissue's least is enough: an edge counts.
        slices = self.stack(volumes)
        there = (slices.abs() > FAINT / 2 * own.mean()).float().mean(0)
        brain = F.pad((there > RARE)[None].float(), (1, 1, 1, 1, 1, 1))
        inside = F.max_pool3d(brain, 3, 1)[0] > 0
        self.inside.copy_(inside.repeat(self.padded[0] // self.room[0], 1, 1))
        if self.config["outlined"]:
            scaled = self._scaled(volumes, slices) + 1
            tissue = scaled > self.least
            mean = (scaled * tissue).sum(0) / tissue.sum(0).clamp_min(1)
            self.typical.copy_(_continued(mean[None], tissue.any(0)[None])[0])

    def encode(self, volumes: Tensor) -> Tensor:
        """(B, L, H, W) of volumes, -1 outside of the brain."""
        slices = self.stack(volumes)
        scaled = self._scaled(volumes, slices)
        if self.config["outlined"]:
            tissue = scaled + 1 > self.least
            own = torch.where(tissue, scaled + 1 - self.typical, 0.0)
            filled = self.typical + _continued(own, tissue) - 1
            scaled = torch.cat([torch.where(tissue, scaled, filled), _distance(tissue)], 1)
        return torch.where(self.inside, scaled, -1.0)

    @property
    def least(self) -> float:
        """Half of the faintest tissue, as it is scaled."""
        return float(self.config["lowest"] / (2 * HALF * self.brightness))

    def _scaled(self, volumes: Tensor, slices: Tensor) -> Tensor:
        """Slices of volumes, -1 where they are 0."""
        unit = self.brightness.expand(len(volumes))
        if self.config["levelled"]:
            unit = self._brightness(volumes)
        scaled = slices / unit[:, None, None, None]
        if self.config["contrasted"]:
            powers = self._powers(volumes, unit)[:, None, None, None]
            scaled = scaled.clamp_min(0) ** powers
        return scaled / HALF - 1

    def decode(self, stacks: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, 1, X, Y, Z) of stacks; brightness and contrast, if taken off, are the generators'."""
        logs = torch.stack([torch.randn((), generator=g) for g in generators]).to(stacks)
        unit = self.brightness * (self.logs[0] + self.logs[1] * logs).exp()
        count = self.room[0]
        values = HALF * (stacks[:, :count] + 1)
        if self.config["contrasted"]:
            _, mean, spread, alike = self.tones
            own = torch.stack([torch.randn((), generator=g) for g in generators]).to(stacks)
            own = alike * logs + (1 - alike**2).clamp_min(0).sqrt() * own
            powers = (mean + spread * own).exp().clamp(1 / STEEPEST, STEEPEST)
            values = values.clamp_min(0) ** (1 / powers)[:, None, None, None]
        values = values * unit[:, None, None, None]
        low, high = self.config["lowest"], self.config["largest"]
        if self.config["outlined"]:
            kept = stacks[:, count:] > 0
            values = values.clamp_min(low)
        else:
            kept = values.abs() >= low
        values = torch.where(self.inside[:count] & kept, values, 0.0).clamp_max(high)
        if low:  # nothing was negative in training
            values = values.clamp_min(0)
        return self.unstack(values)

    def stack(self, volumes: Tensor) -> Tensor:
        """Slices of volumes (B, 1, X, Y, Z), (B, L, H, W), with padding of zeros."""
        slices = volumes[:, 0].movedim(1 + self.axis, 1)
        ends = [n - side for n, side in zip(self.room, self.sides, strict=True)]
        return F.pad(slices, (0, ends[2], 0, ends[1], 0, ends[0]))

    def unstack(self, stacks: Tensor) -> Tensor:
        """Inverse of :meth:`stack`."""
        slices, rows, columns = self.sides
        return stacks[:, None, :slices, :rows, :columns].movedim(2, 2 + self.axis)

    def _grey(self, volumes: Tensor, unit: Tensor) -> Tensor:
        """Log of the grey over the brightness of each volume, (B,)."""
        greys = torch.stack([_middle_cluster(tissue_of(volume)) for volume in volumes])
        return (greys / unit).log().clamp_max(-0.02)

    def _powers(self, volumes: Tensor, unit: Tensor) -> Tensor:
        """What contrast is changed by, (B,)."""
        return (self.tones[0] / self._grey(volumes, unit)).clamp(1 / STEEPEST, STEEPEST)

    def _brightness(self, volumes: Tensor) -> Tensor:
        """90 % quantile of the tissue of each volume, (B,)."""
        return torch.stack([tissue_of(volume).abs().quantile(BRIGHT) for volume in volumes])


def codec_of(volumes: Tensor, plane: str, multiples: Sequence[int], image: str) -> VolumeCodec:
    """A codec fitted to training volumes (N, 1, X, Y, Z) of an image."""
    tissues = [tissue_of(volume) for volume in volumes]
    rim = float(torch.stack([tissue.quantile(EDGE) for tissue in tissues]).median())
    bright = float(torch.stack([tissue.abs().quantile(BRIGHT) for tissue in tissues]).median())
    middle = float(torch.stack([tissue.median() for tissue in tissues]).median())
    outlined = rim > HARD * middle
    if outlined:
        lowest = min(float(tissue.min()) for tissue in tissues)
    else:
        lowest = FAINT / 2 * bright if float(volumes.min()) >= 0 else 0.0
    if image == "md":
        lowest = max(lowest, FAINTEST)
    levelled = image not in QUANTITATIVE
    codec = VolumeCodec(
        shape=list(volumes.shape[2:]), plane=plane, multiples=list(multiples), levelled=levelled,
        outlined=outlined, lowest=lowest,
        contrasted=levelled and not outlined and float(volumes.min()) >= 0,
        largest=LARGEST if image == "md" else float(volumes.max()),
    )  # fmt: skip
    codec.fit(volumes)
    return codec.eval()


def tissue_of(volume: Tensor) -> Tensor:
    """The values of a volume that are no background."""
    values = volume[volume.abs() > FAINT * volume.abs().max()].float()
    return values[:: -(-len(values) // MOST)]  # torch has no quantile of more


def _middle_cluster(values: Tensor) -> Tensor:
    """The middle one of three clusters of values (k-means)."""
    values = values[:: -(-len(values) // SOME)]
    low, high = values.quantile(torch.tensor([0.02, 0.98], device=values.device))
    centres = torch.stack([low, (low + high) / 2, high])
    for _ in range(ROUNDS):
        nearest = (values[:, None] - centres).abs().argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, values)
        counts = torch.bincount(nearest, minlength=3)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres[1]


def _distance(tissue: Tensor) -> Tensor:
    """Distance (B, L, H, W) to the edge of masks, -1 to 1, and a little smoother than they are."""
    signed = [distance_transform_edt(m) - distance_transform_edt(~m) for m in tissue.cpu().numpy()]
    edge = torch.from_numpy(np.stack(signed).astype(np.float32)).to(tissue.device)
    edge = edge - 0.5 * edge.sign()  # an edge lies between two voxels
    distance = smooth((edge / FAR).clamp(-1, 1))
    # Corners that smoothing would take stay, if only just.
    return torch.where(distance * edge > 0, distance, 0.1 / FAR * edge.sign())


def _continued(values: Tensor, there: Tensor) -> Tensor:
    """Values (B, L, H, W) that go on from where they are known, voxel by voxel; 0 beyond."""
    known = there.float()
    values = values * known
    for _ in range(ROUNDS):
        near = smooth(known)
        values = torch.where(known > 0, values, smooth(values) / near.clamp_min(1e-6))
        known = (near > 0).float()
    return values
