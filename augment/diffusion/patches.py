"""Patches of people at the same place: what a linear filter can't know, where a fold goes on.

At noise level t, with y = x_t / (1 - t) and s = t / (1 - t), the mean over the training people's
patches around a voxel v, each as likely as it resembles what is seen (Kamb and Ganguli 2024), is

    P_v = sum_i w_i x_i(v + d_i),    w_i ~ exp( -|| y_N(v) - x_i,N(v + d_i) ||² / (2 s²) ),

over people i and displacements d of a voxel in a slice. N is the neighbourhood of v: three slices,
and 11 voxels along a side where there is much noise, 3 where there is little. It gives details
alone; means of blocks of voxels stay as they were estimated.

**Whoever saves it saves the people's scans.**
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

BELOW = 0.6
"""Noise level below which details are those of patches."""
WIDEST, NARROWEST = 5, 1
"""Voxels on each side, at that level and near 0."""
BLOCK = 4
"""Voxels of a block along a side, whose mean stays."""


@torch.no_grad()
def patch_mean(noisy: Tensor, t: float, people: Tensor) -> Tensor:
    """P of noised volumes x_t (B, L, H, W) at t, from volumes of people (N, L, H, W)."""
    seen, scale = noisy.float() / (1 - t), t / (1 - t)
    half = round(NARROWEST + (WIDEST - NARROWEST) * min(t / BELOW, 1))
    most = torch.full_like(seen, -torch.inf)
    weights, total = torch.zeros_like(seen), torch.zeros_like(seen)
    for person in people:
        volume = person.float().to(seen)
        for shift in product((-1, 0, 1), repeat=2):
            moved = volume.roll(shift, (-2, -1))
            like = -_box_sum((seen - moved) ** 2, half) / (2 * scale**2)
            # A running softmax: no person's weights are kept.
            peak = most.maximum(like)
            old, new = (most - peak).exp(), (like - peak).exp()
            weights = weights * old + new
            total = total * old + new * moved
            most = peak
    return total / weights


def detailed(estimate: Tensor, patches: Tensor) -> Tensor:
    """Patches with the means over blocks of an estimate, (B, L, H, W) each."""
    height, width = estimate.shape[-2:]
    ends = (0, -width % BLOCK, 0, -height % BLOCK)
    rest = F.avg_pool2d(F.pad(estimate - patches, ends, mode="replicate"), BLOCK)
    change = F.interpolate(rest, scale_factor=BLOCK, mode="bilinear", align_corners=False)
    return patches + change[..., :height, :width]


def _box_sum(values: Tensor, half: int) -> Tensor:
    """Sums over three slices and 2 half + 1 voxels along a side, (B, L, H, W)."""
    for axis, reach in ((-3, 1), (-2, half), (-1, half)):
        size = values.shape[axis]
        sums = F.pad(values.cumsum(axis).movedim(axis, -1), (1, 0))
        place = torch.arange(size, device=values.device)
        upper, lower = (place + reach + 1).clamp_max(size), (place - reach).clamp_min(0)
        values = (sums[..., upper] - sums[..., lower]).movedim(-1, axis)
    return values
