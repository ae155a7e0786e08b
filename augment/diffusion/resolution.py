"""How fine a prior is on a grid, what that costs, and the noise levels that it has filters for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 16
"""Noise levels with filters of their own, even in log-odds; between them weights are blended."""
FIRST, LAST = 0.998, 0.01
"""The largest and the smallest level."""
CELLS = 2048
"""Cells of the coarse Gaussian at most."""
REACH = 9.0
"""Millimetres on each side in a slice that a filter sees, three voxels at most."""
SITES = 40_000
"""Places with a filter of their own; where a grid has more voxels, neighbours share one."""
MEMORY = 1 << 27
"""Numbers that are held at a time while filters are solved."""


def settings_of(
    shape: Sequence[int], spacing: Sequence[float], inside: Tensor, features: int, context: int = 0
) -> dict[str, Any]:
    """Settings of a prior for a grid: cells and sites as fine as is affordable."""
    share = block(shape, spacing, int(inside.sum()), SITES)
    near = [max(1, min(3, round(REACH / side))) for side in spacing[1:]]
    return {
        "shape": list(shape),
        "spacing": [float(side) for side in spacing],
        "features": features,
        "context": context,
        "reach": [min(1, shape[0] - 1), *near],
        "cell": block(shape, spacing, inside.numel(), CELLS),
        "share": share,
        "sites": len(sites_of(inside, share)),
    }


def sites_of(inside: Tensor, share: Sequence[int]) -> Tensor:
    """Blocks of voxels that hold a part of the brain, (S, 3)."""
    return (F.max_pool3d(inside[None].float(), tuple(share), ceil_mode=True)[0] > 0).nonzero()


def budget_of(settings: dict[str, Any], people: int, folds: int) -> tuple[float, float]:
    """GiB of memory that :func:`fit_priors` takes at most, and MB of a saved prior."""
    taps = math.prod(2 * r + 1 for r in settings["reach"])
    voxels, context = math.prod(settings["shape"]), settings["context"]
    cells = math.prod(-(-n // c) for n, c in zip(settings["shape"], settings["cell"], strict=True))
    floats = (LEVELS + settings["features"] + context + 4) * voxels + cells**2
    saved = 2 * (LEVELS * taps + 7 * context) * settings["sites"] + 4 * floats
    images = 4 * (6 + context) * people * voxels
    dense = 4 * 2 * taps * voxels + 8 * 4 * cells**2
    memory = (folds + 1) * saved + images + dense + 4 * 4 * torch.get_num_threads() * MEMORY
    return memory / 2**30, saved / 1e6


def times() -> Tensor:
    """The levels, from the smallest to the largest."""
    low, high = (math.log(t / (1 - t)) for t in (LAST, FIRST))
    return torch.linspace(low, high, LEVELS, dtype=torch.float64).sigmoid()


def place(t: Tensor) -> tuple[Tensor, Tensor]:
    """For t (B,) the level below and how far it lies to the next, both (B,)."""
    low, high = (math.log(level / (1 - level)) for level in (LAST, FIRST))
    where = (torch.logit(t.double().cpu(), 1e-6) - low) / (high - low) * (LEVELS - 1)
    where = where.clamp(0, LEVELS - 1)
    index = where.floor().clamp_max(LEVELS - 2).long()
    return index.to(t.device), (where - index).float().to(t.device)


def block(shape: Sequence[int], spacing: Sequence[float], voxels: int, most: int) -> list[int]:
    """Voxels of a block along each axis, even in mm, so that at most ``most`` blocks are needed."""
    sides = [1, 1, 1]
    while voxels / math.prod(sides) > most:
        axis = min(
            range(3), key=lambda k: sides[k] * spacing[k] * (1 if sides[k] < shape[k] else 1e9)
        )
        sides[axis] *= 2
    return sides
