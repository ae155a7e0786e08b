"""A closed-form code for registered brains: a template that bends, and what it leaves over.

A volume x is the template T, read at displaced points, and a rest (Cootes et al. 2001, active
appearance models; in image space, where noise belongs)::

    x(p) = T(p + u(p)) + S(p + u(p)) e(p)      where the bent template's brain is, else 0

S is the standard deviation of the rest, which bends along. The displacement is smooth by
construction: u = K w, with one Gaussian bump a lattice point. A volume is encoded by finding the
likeliest w (registration), after which e follows without loss::

    min over w    sum_p  rho((x - T) / noise) + rho((inside - T_inside) / edge)  +  |B^-1 w|²

with B falling as one over frequency (a membrane): where a volume is flat, displacement goes on as
smoothly as it does elsewhere. So the edge of a brain is one thing, and where it lies is a matter of
a few smooth numbers. A code of voxels has to make many voxels agree instead: Gaussian patterns of
MD maps gave brains with double rims.

Where a volume has no brain, e is not known and its code is standard normal noise, drawn anew at
each use. The code is [e, z] with w = C z. C is the spectrum of w beside its largest patterns, so
that independent standard normal z are displacements as rough as those of the training subjects.
Cut into blocks of f x f voxels (and ``depth`` slices), e and z make the channels of latents, which
are tiled as slices are.

It holds where subjects share a space up to some voxels, as after :mod:`neuromix.augment.prepare`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from scipy import ndimage
from torch import Tensor

from neuromix.augment.diffusion.smooth_fields import (
    along,
    bumps,
    cosines,
    fold,
    lattice_step,
    unfold,
)
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.mosaic import Tiling

NOISE, EDGE, FARTHEST = 0.12, 0.25, 4.0
"""Scales of the errors of values (1e-3 mm²/s) and of the brain's edge, and where they saturate."""
SHARE = 0.3
"""Neighbouring errors are alike: a voxel counts as this many independent ones."""
POWER, CORNER = 200.0, 0.005
"""Spectrum B of w: its square at frequency zero in mm², and where that is half, in 1/mm."""
SUBJECTS = 100
"""Subjects that the template is learned from."""
ROUNDS, FIRST_STEPS, STEPS, GRADIENTS = 4, 3, 8, 15
"""Rounds of registering and averaging, with so many steps each; steps of the final registration;
conjugate gradients of a step."""
HEAVY = 10.0
"""How much more w counts than the rest when patterns are looked for."""


class DeformableTemplate(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' order of bases
    """Volumes to latents of mosaics and back.

    Args:
        tiling: ``Tiling.to_dict()`` of the volumes, in pixels.
        spacing: Voxel sides along x, y and z in mm.
        factor: Pixels f along a side of a block.
        depth: Slices of a block.
        floor: Values up to it are background.
        bump: Standard deviation of the bumps of the displacement, in mm.
    """

    template: Tensor
    prior: Tensor
    near: Tensor
    amplitude: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        tiling: dict[str, Any],
        spacing: Sequence[float],
        factor: int = 8,
        depth: int = 1,
        floor: float = 0.15,
        bump: float = 6.0,
    ) -> None:
        super().__init__()
        self.volume_tiling = Tiling.from_dict(tiling)
        axis = self.volume_tiling.axis
        shape = list(self.volume_tiling.shape)
        shape[axis] = math.ceil(shape[axis] / depth)
        self.tiling = replace(self.volume_tiling, shape=(shape[0], shape[1], shape[2]))
        """How the latents are laid out: blocks take the place of slices."""
        self.factor, self.floor = factor, floor
        self.block = (factor, factor, depth)
        self.shape = (*self.volume_tiling.tile_shape, self.tiling.count * depth)
        """Of padded volumes, slices last: all work is done in this frame."""
        in_plane = [side for k, side in enumerate(spacing) if k != axis]
        widths = [bump / side for side in (*in_plane, spacing[axis])]
        self.steps = tuple(map(lattice_step, self.block, widths))
        """Distance of lattice points in voxels: bumps overlap, and a block holds whole cells."""
        self.lattice = tuple(
            side // step for side, step in zip(self.shape, self.steps, strict=True)
        )
        self.channels = math.prod(self.block) + 3 * math.prod(self._cell)

        for k, (side, step, width) in enumerate(zip(self.shape, self.steps, widths, strict=True)):
            # They follow from the config, so checkpoints do not hold them.
            own_waves = cosines(side // step)
            self.register_buffer(f"waves_{k}", own_waves, persistent=False)
            of_waves = bumps(side, step, width) @ own_waves.T
            self.register_buffer(f"bumps_{k}", of_waves, persistent=False)
        points = torch.meshgrid(*map(torch.arange, self.shape), indexing="ij")
        self.register_buffer("points", torch.stack(points).flatten(1).float(), persistent=False)
        fine = [2 * side - 1 for side in self.shape]
        self.register_buffer("template", torch.ones(3, *fine))  # value, inside, deviation
        self.register_buffer("near", torch.ones(self.shape, dtype=torch.bool))
        power = POWER / (1 + (self._frequencies(spacing) / CORNER) ** 2)
        prior = torch.from_numpy(np.sqrt(power) / min(spacing)).float()
        self.register_buffer("prior", prior, persistent=False)
        self.register_buffer("amplitude", torch.ones(self.lattice))

    @classmethod
    def fit(
        cls,
        volumes: Iterable[Tensor],
        count: int,
        tiling: Tiling,
        spacing: Sequence[float],
        progress: bool = False,
        **settings: Any,
    ) -> DeformableTemplate:
        """Learn the template from batches (B, 1, X, Y, Z) of training volumes, ``count`` in all.

        Some are kept, so that a cohort of any size fits. ``settings`` are ``factor``, ``depth``,
        ``floor`` and ``bump``.
        """
        codec = cls(tiling=tiling.to_dict(), spacing=[float(s) for s in spacing], **settings)
        chosen = set(np.linspace(0, count - 1, min(count, SUBJECTS)).round().astype(int).tolist())
        total, held, kept, place = torch.zeros(codec.shape), torch.zeros(codec.shape), [], 0
        for batch in volumes:
            stacked = codec._stack(batch)
            inside = stacked > codec.floor
            total += (stacked * inside).sum(0)
            held += inside.sum(0)
            kept.append(stacked[[k for k in range(len(batch)) if place + k in chosen]])
            place += len(batch)
        if not held.any():
            raise InputError(
                f"no value of the images passes {codec.floor:g}, so all is background; the unit "
                "is 1e-3 mm²/s: prepare them anew"
            )
        near = ndimage.binary_dilation((held > 0.01 * count).numpy())
        codec.near.copy_(torch.from_numpy(near))
        start = torch.stack([total / held.clamp_min(1), held / count])
        start[0][held == 0] = float(total.sum() / held.sum())
        fine = F.interpolate(
            start[None], size=codec.template.shape[1:], mode="trilinear", align_corners=True
        )
        codec.template[:2] = fine[0]
        values = torch.cat(kept)[:, codec.near]
        brain = values[values > codec.floor]
        if brain.max() - brain.min() < 1e-3:
            raise InputError(
                f"every value of the images that passes {codec.floor:g} is {brain[0]:g}, as in a "
                "mask; name maps of the diffusivity"
            )
        codec._learn(values, progress)
        return codec

    @property
    def mask(self) -> Tensor:
        """Where latents vary over subjects, (1, C, H / f, W / f): ones and zeros."""
        field = self.near.float()[None, None]
        everywhere = torch.ones(1, 3, *self.lattice, device=field.device)
        return self._tile(field, everywhere)

    @torch.no_grad()
    def moments(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents (B, C, H / f, W / f) of volumes (B, 1, X, Y, Z)."""
        values = self._values(volumes.to(self.template))
        still = torch.zeros(len(values), 3, *self.lattice).to(values)
        waves = self._register(values, still, STEPS)
        seen = self._read(self._displace(waves), self.template)
        both = (values > self.floor) & (seen[:, 1] > 0.5)
        rest, unknown = (torch.zeros(len(values), *self.shape).to(values) for _ in range(2))
        rest[:, self.near] = (values - seen[:, 0]) / seen[:, 2] * both
        unknown[:, self.near] = 1.0 - both.float()
        mean = self._tile(rest[:, None], self._waves(waves / self.amplitude, back=True))
        return mean, self._tile(unknown[:, None], still)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of :meth:`moments`, but for voxels that only one of brain and template has."""
        rest, bends = self._untile(latents)
        seen = self._read(self._displace(self._waves(bends) * self.amplitude), self.template)
        values = seen[:, 0] + seen[:, 2] * rest[:, 0][:, self.near]
        volumes = torch.zeros(len(latents), *self.shape).to(latents)
        volumes[:, self.near] = values.clamp_min(self.floor) * (seen[:, 1] > 0.5)
        tiling = self.volume_tiling
        rows, columns = tiling.slice_shape
        volumes = volumes[:, :rows, :columns, : tiling.count]
        return volumes.movedim(-1, 1 + tiling.axis)[:, None]

    def weigh(self, latents: Tensor) -> Tensor:
        """Latents (B, C, H / f, W / f) as vectors whose length says how much of a volume changes.

        In z all scales are alike, so that patterns that span a brain are no longer than others.
        """
        rest, bends = self._untile(latents)
        waves = HEAVY * self._waves(bends) * self.amplitude
        return torch.cat([rest.flatten(1), waves.flatten(1)], dim=1)

    def _learn(self, values: Tensor, progress: bool) -> None:
        """Template, deviation and spectrum from values (N, near)."""
        from rich.progress import track

        waves = torch.zeros(len(values), 3, *self.lattice)
        batches = [slice(k, k + 16) for k in range(0, len(values), 16)]
        for number in range(ROUNDS):
            title = f"Template, round {number + 1} of {ROUNDS}"
            for part in track(batches, title, disable=not progress):
                waves[part] = self._register(values[part], waves[part], FIRST_STEPS)
            waves -= waves.mean(0)  # the template has the mean shape
            for _ in range(3):
                self.template[:2] += 1.5 * self._average(values, waves, batches)
        for part in track(batches, "Template, last round", disable=not progress):
            waves[part] = self._register(values[part], torch.zeros_like(waves[part]), STEPS)
        self.template[1] += self._edge(values, waves, batches)
        self.template[2] = self._deviation(values, waves, batches)
        self.amplitude.copy_(self._spectrum(waves, patterns=len(waves) // 4))

    def _register(self, values: Tensor, waves: Tensor, steps: int) -> Tensor:
        """Waves of w (B, 3, lattice) that fit the template to values (B, near), from a first guess.

        Gauss-Newton steps on the robust errors, each solved by a few conjugate gradients, which
        find the smooth part of a displacement first. Samples do not see one another.
        """
        held = (values > self.floor).float()
        template = torch.cat([self.template[:2], _slopes(self.template[:2])])
        for _ in range(steps):
            seen = self._read(self._displace(waves), template)
            value, edge = seen[:, 2:5] / NOISE, seen[:, 5:8] / EDGE  # (B, 3, near)
            off, out = held * (values - seen[:, 0]) / NOISE, (held - seen[:, 1]) / EDGE
            trust, faith = (SHARE / (1 + (e / FARTHEST) ** 2) for e in (off, out))
            trust = trust * held
            force = (trust * off)[:, None] * value + (faith * out)[:, None] * edge
            pull = self.prior * self._gather(force) - waves / self.prior

            def curvature(
                step: Tensor,
                parts: tuple[tuple[Tensor, Tensor], ...] = ((value, trust), (edge, faith)),
            ) -> Tensor:
                moved = self._displace(self.prior * step)
                back = torch.zeros_like(moved)
                for slope, weight in parts:
                    back += slope * (weight * (slope * moved).sum(1))[:, None]
                return self.prior * self._gather(back) + step

            step = self.prior * _solve(curvature, pull)
            furthest = self._displace(step).abs().amax((1, 2)).reshape(-1, 1, 1, 1, 1)
            waves = waves + step / furthest.clamp_min(1)  # a voxel at most
        return waves

    def _average(self, values: Tensor, waves: Tensor, batches: list[slice]) -> Tensor:
        """A step of the template (2, fine) towards the volumes: errors, put where they came from.

        The transpose of reading is the gradient of a sum of what was read.
        """
        total, weight = torch.zeros_like(self.template[:2]), torch.zeros_like(self.template[:2])
        for part in batches:
            displacement = self._displace(waves[part])
            held = (values[part] > self.floor).float()
            seen = self._read(displacement, self.template[:2])
            counts = torch.stack([held, torch.ones_like(held)], dim=1)
            errors = torch.stack([values[part], held], dim=1) - seen
            total += self._put(counts * errors, displacement)
            weight += self._put(counts, displacement)
        return total / (weight + 2)

    def _deviation(self, values: Tensor, waves: Tensor, batches: list[slice]) -> Tensor:
        """Root mean square of the rest at each place of the template, a little smoothed."""
        total, weight = torch.zeros_like(self.template[:1]), torch.zeros_like(self.template[:1])
        for part in batches:
            displacement = self._displace(waves[part])
            seen = self._read(displacement, self.template[:2])
            both = ((values[part] > self.floor) & (seen[:, 1] > 0.5)).float()[:, None]
            errors = (values[part] - seen[:, 0])[:, None] ** 2
            total += self._put(both * errors, displacement)
            weight += self._put(both, displacement)
        mean = float(total.sum() / weight.sum())
        smooth = [ndimage.gaussian_filter(each[0].numpy(), 0.7) for each in (total, weight)]
        return torch.from_numpy((smooth[0] + 5 * mean) / (smooth[1] + 5)).sqrt().clamp_min(1e-3)

    def _edge(self, values: Tensor, waves: Tensor, batches: list[slice]) -> float:
        """What to add to the template's inside so that bent brains are as large as real ones."""
        seen = torch.cat([
            self._read(self._displace(waves[part]), self.template[1:2])[:, 0] for part in batches
        ])  # fmt: skip
        outside = values <= self.floor
        if not outside.any():  # all is brain, and stays so
            return 0.0
        return 0.5 - float(np.quantile(seen.numpy(), float(outside.float().mean())))

    def _spectrum(self, waves: Tensor, patterns: int = 0) -> Tensor:
        """Amplitude of waves (N, 3, lattice) by frequency, beside so many largest patterns."""
        rest = (waves - waves.mean(0)).flatten(1)
        count = len(rest)
        _, vectors = torch.linalg.eigh((rest @ rest.T).double())
        largest = vectors[:, count - patterns :].float()
        rest = rest - largest @ (largest.T @ rest)
        power = rest.reshape(waves.shape).square().sum((0, 1)).numpy() / 3
        power /= max(count - 1 - patterns, 1)
        frequency = self._frequencies(self.config["spacing"])
        shells = np.digitize(frequency, np.geomspace(1, 50, 14) * frequency[frequency > 0].min())
        _, shells = np.unique(shells, return_inverse=True)
        shells = shells.ravel()
        members = np.bincount(shells)
        centres = np.bincount(shells, frequency.ravel()) / members
        levels = np.bincount(shells, power.ravel()) / members
        levels = np.maximum(levels, 1e-5 * max(levels.max(), 1e-5))
        offset = centres[centres > 0].min() / 3
        amplitude = np.interp(
            np.log(frequency + offset), np.log(centres + offset), np.log(levels) / 2
        )
        return torch.from_numpy(np.exp(amplitude)).float()

    def _frequencies(self, spacing: Sequence[float]) -> np.ndarray:
        """Spatial frequency of each wave (lattice) in 1/mm."""
        axis = self.volume_tiling.axis
        sides = [*(side for k, side in enumerate(spacing) if k != axis), spacing[axis]]
        parts = [
            np.arange(points) / (2 * points * step * side)
            for points, step, side in zip(self.lattice, self.steps, sides, strict=True)
        ]
        x, y, z = np.meshgrid(*parts, indexing="ij")
        frequencies: np.ndarray = np.sqrt(x**2 + y**2 + z**2)
        return frequencies

    def _displace(self, waves: Tensor) -> Tensor:
        """Waves of w (B, 3, lattice) to displacements (B, 3, near) in voxels."""
        field = along(waves, [getattr(self, f"bumps_{k}") for k in range(3)])
        return field.flatten(2).gather(2, self._places(field))

    def _gather(self, field: Tensor) -> Tensor:
        """The transpose of :meth:`_displace`: (B, 3, near) to (B, 3, lattice)."""
        full = field.new_zeros(*field.shape[:2], self.near.numel())
        full.scatter_(2, self._places(field), field)
        return along(
            full.unflatten(2, self.shape), [getattr(self, f"bumps_{k}").T for k in range(3)]
        )

    def _places(self, field: Tensor) -> Tensor:
        """Numbers of the voxels near the brain, for fields (B, K, ...); faster than a mask."""
        return self.near.flatten().nonzero()[:, 0].expand(*field.shape[:2], -1)

    def _read(self, displacement: Tensor, template: Tensor) -> Tensor:
        """A template (C, fine) at displaced points, (B, C, near)."""
        template = template.expand(len(displacement), -1, -1, -1, -1)
        points = self._points(displacement)
        read = F.grid_sample(template, points, align_corners=True, padding_mode="border")
        return read[..., 0, 0]

    def _put(self, values: Tensor, displacement: Tensor) -> Tensor:
        """The transpose of reading: values (B, C, near) summed where they were read, (C, fine)."""
        place = torch.zeros(values.shape[1], *self.template.shape[1:], requires_grad=True)
        with torch.enable_grad():
            expanded = place.expand(len(values), -1, -1, -1, -1)
            read = F.grid_sample(
                expanded, self._points(displacement), align_corners=True, padding_mode="border"
            )
            (found,) = torch.autograd.grad((read[..., 0, 0] * values).sum(), place)
        return found

    def _points(self, displacement: Tensor) -> Tensor:
        """Where to read, as grid_sample counts: from -1 to 1, the last axis first."""
        places = self.points[:, self.near.flatten()] + displacement
        last = torch.tensor(self.shape, device=places.device).sub(1).clamp_min(1)
        scaled = 2 * places / last[:, None] - 1
        return scaled.flip(1).transpose(1, 2)[:, :, None, None]

    def _waves(self, field: Tensor, *, back: bool = False) -> Tensor:
        """The discrete cosine transform of fields (B, 3, lattice), or its inverse."""
        waves = [getattr(self, f"waves_{k}") for k in range(3)]
        return along(field, [each.T for each in waves] if back else waves)

    def _stack(self, volumes: Tensor) -> Tensor:
        """Volumes (B, 1, X, Y, Z) to padded ones with slices last, (B, R, C, D)."""
        stacked = volumes[:, 0].movedim(1 + self.volume_tiling.axis, -1)
        short = [want - have for want, have in zip(self.shape, stacked.shape[1:], strict=True)]
        return F.pad(stacked, (0, short[2], 0, short[1], 0, short[0]))

    def _values(self, volumes: Tensor) -> Tensor:
        """Volumes (B, 1, X, Y, Z) to their values near the brain, (B, near)."""
        return self._stack(volumes)[:, self.near]

    @property
    def _cell(self) -> tuple[int, int, int]:
        """Lattice points of a block along each axis."""
        a, b, c = (side // step for side, step in zip(self.block, self.steps, strict=True))
        return a, b, c

    def _tile(self, rest: Tensor, bends: Tensor) -> Tensor:
        """Rest (B, 1, R, C, D) and bends (B, 3, lattice) to mosaics of blocks."""
        parts = [fold(rest, self.block), fold(bends, self._cell)]
        return self.tiling.tile_latents(torch.cat(parts, dim=2))

    def _untile(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of :meth:`_tile`."""
        blocks = self.tiling.untile_latents(latents)
        rest, bends = blocks.split([math.prod(self.block), 3 * math.prod(self._cell)], dim=2)
        return unfold(rest, self.block), unfold(bends, self._cell)


def registrations(subjects: int) -> float:
    """What learning a template of a cohort costs, in encodings of a subject."""
    return min(subjects, SUBJECTS) * (ROUNDS * FIRST_STEPS / STEPS + 1)


def _slopes(template: Tensor) -> Tensor:
    """Derivatives (3 C, fine) of a template (C, fine) by voxels, which are two points wide."""
    slopes = torch.gradient(template, spacing=0.5, dim=(1, 2, 3))
    return torch.stack(slopes, dim=1).flatten(0, 1)


def _solve(matrix: Callable[[Tensor], Tensor], wanted: Tensor) -> Tensor:
    """Conjugate gradients, each sample by itself: x with matrix(x) = wanted, about."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, 1, 1, 1, 1)

    x, rest = torch.zeros_like(wanted), wanted
    way, length = rest, dot(rest, rest)
    for _ in range(GRADIENTS):
        image = matrix(way)
        size = length / dot(way, image).clamp_min(1e-12)
        x, rest = x + size * way, rest - size * image
        before, length = length, dot(rest, rest)
        way = rest + length / before.clamp_min(1e-12) * way
    return x
