"""A scheduler for flows: times evenly spaced in log-odds, and two-step updates of the sample.

On the path x_t = (1 - t) x + t n, the velocity v says where the sample lies, X = x_t - t v. The
step from t to u is exact were X constant; the second-order one lets X change evenly in
l = log((1 - t) / t), by the difference to the step before (DPM-Solver++ 2M, Lu et al. 2022)::

    D = X + (l_u - l_t) / (2 (l_t - l_before)) (X - X_before)
    x_u = u / t x_t + (1 - u - u (1 - t) / t) D

Patterns that span a brain are many times as strong as the noise and are decided near t = 1, grain
near t = 0. Times that are even in log-odds give both their share, where even times give most to
what lies between. The last step goes to X itself.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor


class FlowStep(NamedTuple):
    """What a step gives."""

    prev_sample: Tensor


class FlowMultistepScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' order
    """Solves dx/dt = v from noise to data, from just below t = 1 (``first``) to ``last``."""

    @register_to_config
    def __init__(self, first: float = 0.999, last: float = 0.01) -> None:
        self.first, self.last = first, last
        self.timesteps: Any = []

    def set_timesteps(self, steps: int) -> None:
        """Choose the times; each call starts a new solution."""
        ends = (math.log(self.first / (1 - self.first)), math.log(self.last / (1 - self.last)))
        self.times = [*torch.linspace(*ends, steps, dtype=torch.float64).sigmoid().tolist(), 0.0]
        self.timesteps = 1000 * torch.tensor(self.times[:-1])
        self._done = 0
        self._before: Tensor | None = None

    def step(self, velocity: Tensor, time: Any, sample: Tensor) -> FlowStep:
        """One step of the sample x_t (B, ...) by a velocity (B, ...); the times are known."""
        t, u = self.times[self._done : self._done + 2]
        clean = sample - t * velocity
        estimate = clean
        if self._before is not None and u > 0:
            earlier = self.times[self._done - 1]
            ratio = _log_odds(u, t) / (2 * _log_odds(t, earlier))
            estimate = clean + ratio * (clean - self._before)
        self._before = clean
        self._done += 1
        return FlowStep(u / t * sample + (1 - u - u * (1 - t) / t) * estimate)


def _log_odds(u: float, t: float) -> float:
    """How much the odds of data to noise rise from t to u."""
    return math.log((1 - u) / u) - math.log((1 - t) / t)
