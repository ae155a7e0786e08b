"""What statistics say of a window of a run, in closed form: E[x | x_t, frames before, response].

Frames are deviations from a person's anatomy B in units of the noise, x = (y / B - 1) / unit, and

    x = m + sum_j c_j P_j + e,

with m the person's linear response to the design, P_j orthonormal patterns in space whose courses
c_j remember for some frames, and e of one memory and strength in every voxel, as :class:`LinearRun`
has found them. All courses are normal and independent, so that each is known by itself: with y =
x_t / (1 - t), s = t / (1 - t), the prediction p from frames before, and U diag(l) U' the covariance
of what that leaves open,

    E[c | y] = p + U diag( l / (l + s²) ) U' (y - p).

A volume is F frames of Z slices, one frame behind the other, (F Z, H, W). What is known without
noise stands beside it in the context:

    m, frames before (else zero), which frames those are, anatomy, m some seconds ago

Statistics of people in one fold come from the others, as everywhere; ``deviation`` is the root mean
square of x - E over windows of people in other folds, by level and voxel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from neuromix.augment.diffusion.denoiser import Denoiser
from neuromix.augment.diffusion.resolution import FIRST, LEVELS, place, times
from neuromix.augment.fmri.linear_run import LinearRun

AGO = (4.0, 8.0, 16.0)
"""Seconds before a frame whose response is part of its context: neurons and blood remember."""
CHANNELS = 4 + len(AGO)
"""Of the context."""
MEMORIES = 33
"""Correlations from frame to frame that voxels are told apart by, from -0.95 to 0.95."""
LEAST = 0.05
"""Smallest deviation: where all is known, nothing is divided by nothing."""
LASTING = 400
"""Frames after which a course has forgotten what moved it."""


class Course(NamedTuple):
    """A stationary course over a window of which some frames are known."""

    ahead: Tensor
    """What the known frames say of the others, (N, open, known)."""
    basis: Tensor
    """Directions of what they leave open, (N, open, open)."""
    powers: Tensor
    """Variances along these, (N, open)."""


class RunPrior(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Posterior mean of windows of frames.

    Args:
        shape: (F Z, H, W).
        frames: F.
        voxels: Of the brain.
        patterns: Of the noise.
        unit: Deviations from the anatomy, as shares of it, that are 1.
        context: Channels.
    """

    where: Tensor
    spatial: Tensor
    courses: Tensor
    grain: Tensor
    deviation: Tensor

    @register_to_config
    def __init__(
        self,
        shape: Sequence[int],
        frames: int,
        voxels: int,
        patterns: int,
        unit: float = 1.0,
        context: int = CHANNELS,
    ) -> None:
        super().__init__()
        self.frames, self.unit = frames, unit
        self.frame_shape = (shape[0] // frames, *shape[1:])
        self.register_buffer("where", torch.zeros(voxels, dtype=torch.long))
        self.register_buffer("spatial", torch.zeros(patterns, voxels))
        self.register_buffer("courses", torch.zeros(patterns, frames))  # covariance by lag
        self.register_buffer("grain", torch.zeros(2, voxels))  # deviation, correlation
        self.register_buffer("deviation", torch.ones(LEVELS, voxels))
        self._solved: dict[int, tuple[Course, Course]] = {}

    # Volumes and voxels.

    def spread_out(self, values: Tensor, empty: float = 0.0) -> Tensor:
        """Volumes (..., F Z, H, W) of values (..., F, V) in voxels."""
        size = math.prod(self.frame_shape)
        made = values.new_full((*values.shape[:-1], size), empty)
        made[..., self.where] = values
        return made.unflatten(-1, self.frame_shape).flatten(-4, -3)

    def gather(self, volumes: Tensor) -> Tensor:
        """Values (..., F, V) of volumes (..., F Z, H, W)."""
        return volumes.unflatten(-3, (-1, self.frame_shape[0])).flatten(-3)[..., self.where]

    @property
    def inside(self) -> Tensor:
        """Where a volume has brain, (F Z, H, W)."""
        return self.spread_out(torch.ones_like(self.grain[:1]).expand(self.frames, -1)) > 0

    @property
    def variance(self) -> Tensor:
        """Variance about the mean response, (F Z, H, W)."""
        own = self.grain[0] ** 2 + (self.courses[:, :1] * self.spatial**2).sum(0)
        return self.spread_out(own.clamp_min(LEAST**2).expand(self.frames, -1), 1.0)

    # Estimates.

    @torch.no_grad()
    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        features: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """E[x | x_t] and the mean before x_t is seen, (B, F Z, H, W) each, of x_t at t (B,).

        ``context`` is (B, CHANNELS, F Z, H, W); features of labels say nothing here.
        """
        assert context is not None
        with torch.autocast(noisy.device.type, enabled=False):
            t = t.float().clamp(1e-3, FIRST)
            rows = self.gather(noisy.float()) / (1 - t)[:, None, None]
            mean, before, known = (self.gather(context[:, k].float()) for k in range(3))
            counts = known[:, :, 0].sum(1).round().long().tolist()
            pairs = [
                self._estimate(rows[k], mean[k], before[k], counts[k], float(t[k]))
                for k in range(len(rows))
            ]
            estimate, expected = (torch.stack(parts) for parts in zip(*pairs, strict=True))
            return self.spread_out(estimate), self.spread_out(expected)

    def spread(self, t: Tensor) -> Tensor:
        """Root mean square of x - E[x | x_t] over windows, (B, F Z, H, W), at t (B,)."""
        low, share = place(t)
        table = torch.lerp(self.deviation[low], self.deviation[low + 1], share[:, None])
        return self.spread_out(table[:, None].expand(-1, self.frames, -1), 1.0)

    def _estimate(
        self, row: Tensor, mean: Tensor, before: Tensor, known: int, t: float
    ) -> tuple[Tensor, Tensor]:
        """Of one window (F, V)."""
        level = (t / (1 - t)) ** 2
        pattern, voxel = self._courses(known)
        rest, past = row[known:] - mean[known:], before[:known] - mean[:known]
        along, earlier = rest @ self.spatial.T, past @ self.spatial.T
        rest, past = rest - along @ self.spatial, past - earlier @ self.spatial
        # Patterns: each has a course of its own.
        ahead = torch.einsum("jok,kj->oj", pattern.ahead, earlier)
        gain = pattern.powers / (pattern.powers + level)
        rotated = torch.einsum("jop,oj->jp", pattern.basis, along - ahead) * gain
        along = ahead + torch.einsum("jop,jp->oj", pattern.basis, rotated)
        # Voxels: those of equal memory at once.
        seen, told = torch.empty_like(rest), torch.empty_like(rest)
        power = self.grain[0].clamp_min(1e-6) ** 2
        memory = self._memory()
        for number in memory.unique().tolist():
            mine = memory == number
            there = voxel.ahead[number] @ past[:, mine]
            basis, size = voxel.basis[number], voxel.powers[number][:, None] * power[mine]
            lacking = basis.T @ (rest[:, mine] - there)
            told[:, mine] = there
            seen[:, mine] = there + basis @ (lacking * size / (size + level))
        estimate = mean[known:] + along @ self.spatial + seen
        expected = mean[known:] + ahead @ self.spatial + told
        given = before[:known]
        return torch.cat([given, estimate]), torch.cat([given, expected])

    def _memory(self) -> Tensor:
        """Number of each voxel's correlation, (V,)."""
        return ((self.grain[1] + 0.95) / 1.9 * (MEMORIES - 1)).round().long()

    def _courses(self, known: int) -> tuple[Course, Course]:
        """Those of the patterns (J, ...) and of voxels by their memory (MEMORIES, ...)."""
        if known not in self._solved:
            lags = torch.arange(self.frames)
            rho = torch.linspace(-0.95, 0.95, MEMORIES, dtype=torch.float64)[:, None]
            both = (self.courses.double().cpu(), rho**lags)
            pattern, voxel = (_course(covariance, known) for covariance in both)
            self._solved[known] = (pattern, voxel)
        device = self.grain.device
        solved = self._solved[known]
        if solved[0].ahead.device != device:
            moved = [Course(*(part.to(device) for part in each)) for each in solved]
            solved = self._solved[known] = (moved[0], moved[1])
        return solved

    # Fitting.

    @classmethod
    def of(cls, linear: LinearRun, frames: int, token: int, unit: float | None = None) -> RunPrior:
        """The noise of a closed form, for windows of ``frames``; sides are multiples of a token.

        Its deviation is that of the closed form itself until :meth:`calibrate` has measured it.
        """
        mask = linear.mask.cpu().permute(2, 1, 0)  # (Z, Y, X)
        ends = [torch.nonzero(mask.any(dim=tuple({0, 1, 2} - {k})))[:, 0] for k in range(3)]
        corner = [int(each[0]) for each in ends]
        box = [int(each[-1]) + 1 - first for each, first in zip(ends, corner, strict=True)]
        height, width = (-(-side // token) * token for side in box[1:])
        lags = _autocovariance(linear.memory.cpu(), linear.innovation.cpu(), frames)
        power = linear.grain[0].cpu() ** 2 + (lags[:, :1] * linear.noise.cpu() ** 2).sum(0)
        unit = unit or max(float(power.mean().sqrt()), 1e-6)
        prior = cls(
            [frames * box[0], height, width], frames, int(mask.sum()), len(linear.noise), unit,
        )  # fmt: skip
        x, y, z = torch.nonzero(linear.mask.cpu(), as_tuple=True)  # as LinearRun numbers voxels
        z, y, x = (index - first for index, first in zip((z, y, x), corner, strict=True))
        prior.where.copy_((z * height + y) * width + x)
        prior.spatial.copy_(linear.noise)
        prior.courses.copy_(lags / unit**2)
        prior.grain.copy_(torch.stack([linear.grain[0] / unit, linear.grain[1]]))
        return prior

    @torch.no_grad()
    def calibrate(self, windows: Iterable[tuple[RunPrior, Tensor, Tensor, Tensor]]) -> None:
        """Measure the deviation on windows of people whom their prior has not seen.

        Each is that prior, x (F Z, H, W), its context (CHANNELS, F Z, H, W) and noise like x.
        """
        levels, total, count = times().float(), torch.zeros_like(self.deviation), 0
        for prior, clean, context, noise in windows:
            fresh = self.gather(context[2])[:, 0] == 0
            count += int(fresh.sum())
            for number, t in enumerate(levels.tolist()):
                noisy = ((1 - t) * clean + t * noise)[None]
                estimate, _ = prior(noisy, torch.tensor([t]), None, context[None])
                error = self.gather(clean - estimate[0])[fresh]
                total[number] += (error**2).sum(0)
        self.deviation.copy_((total / max(count, 1)).sqrt().clamp_min(LEAST))


class RunDenoiser(Denoiser):
    """A denoiser of windows of runs, whose prior is a :class:`RunPrior`."""

    prior_class = RunPrior


def context_of(
    prior: RunPrior, response: Tensor, before: Tensor, anatomy: Tensor, lags: Sequence[int]
) -> Tensor:
    """The context (CHANNELS, F Z, H, W) of a window.

    ``response`` is that of max(lags) frames before the window and of its own, in units of x,
    (max(lags) + F, V); ``before`` are its known frames (n, V); ``anatomy`` is (V,).
    """
    frames, most = prior.frames, max(lags)
    known = torch.zeros(frames, len(anatomy))
    known[: len(before)] = 1
    parts = [
        response[most:],
        F.pad(before, (0, 0, 0, frames - len(before))),
        known,
        anatomy.expand(frames, -1),
        *(response[most - lag : most - lag + frames] for lag in lags),
    ]
    return prior.spread_out(torch.stack(parts).to(prior.grain))


def lags_of(tr: float) -> list[int]:
    """Frames that lie AGO."""
    return [max(1, round(seconds / tr)) for seconds in AGO]


def _course(covariance: Tensor, known: int) -> Course:
    """Of stationary courses with covariance (N, F) by lag, whose first frames are known."""
    size = covariance.shape[1]
    index = torch.arange(size)
    whole = covariance[:, (index[:, None] - index).abs()]
    between, later = whole[:, known:, :known], whole[:, known:, known:]
    ridge = 1e-6 * covariance[:, :1, None].clamp_min(1e-12) * torch.eye(known)
    ahead = torch.linalg.solve(whole[:, :known, :known] + ridge, between.transpose(1, 2))
    ahead = ahead.transpose(1, 2)
    powers, basis = torch.linalg.eigh(later - ahead @ between.transpose(1, 2))
    return Course(ahead.float(), basis.float(), powers.clamp_min(0).float())


def _autocovariance(memory: Tensor, innovation: Tensor, lags: int) -> Tensor:
    """Covariance (J, lags) of autoregressive courses, from what is left of a push (J, p), (J,)."""
    order = memory.shape[1]
    pushed = torch.zeros(len(memory), order + LASTING, dtype=torch.float64)
    pushed[:, order] = innovation.double()
    for k in range(order + 1, order + LASTING):
        pushed[:, k] = (memory.double() * pushed[:, k - order : k].flip(1)).sum(1)
    size = pushed.shape[1]
    return torch.stack(
        [(pushed[:, lag:] * pushed[:, : size - lag]).sum(1) for lag in range(lags)], 1
    ).float()
