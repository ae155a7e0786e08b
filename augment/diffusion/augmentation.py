"""Augmentation that does not leak: a network is told what was done to a training image.

An image is turned, scaled, shifted and bent a little in its slices, and where its unit means
nothing, its contrast changes too. The parameters are a condition of the network, and zero when it
samples, so that no sample is turned or bent (Karras et al. 2020). Half of the images stay as they
are. Nothing is mirrored: the midline of a brain is not the middle of its image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TURN, SCALE, SHIFT, BEND, CONTRAST = 0.03, 0.015, 0.01, 0.005, 0.08
"""Standard deviations: radians, logs, shares of a side, shares of a side, logs."""
PARAMETERS = 7
"""Turn, two scales, two shifts, how much was bent, contrast."""
KNOTS = 5
"""Points along a side that a bend is drawn at."""


def augment(volume: Tensor, generator: torch.Generator, contrast: int) -> tuple[Tensor, Tensor]:
    """A volume (L, H, W) whose background is -1, and the parameters (PARAMETERS,) of the change.

    Contrast changes in the first ``contrast`` slices.
    """
    parameters = torch.randn(PARAMETERS, generator=generator)
    field = torch.randn(1, 2, KNOTS, KNOTS, generator=generator)
    if torch.rand((), generator=generator) < 0.5:
        return volume, torch.zeros(PARAMETERS)
    if not contrast:
        parameters[6] = 0
    turn, scales = TURN * parameters[0], (SCALE * parameters[1:3]).exp()
    shifts, bend = 2 * SHIFT * parameters[3:5], parameters[5].abs()
    height, width = volume.shape[1:]
    # Turned in pixels, not in shares of sides that differ.
    matrix = torch.stack([
        torch.stack([scales[0] * turn.cos(), -scales[0] * turn.sin() * height / width, shifts[0]]),
        torch.stack([scales[1] * turn.sin() * width / height, scales[1] * turn.cos(), shifts[1]]),
    ])  # fmt: skip
    grid = F.affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
    smooth = F.interpolate(field, (height, width), mode="bicubic", align_corners=True)
    grid = grid + 2 * BEND * bend * smooth.permute(0, 2, 3, 1)
    moved = F.grid_sample(volume[None] + 1, grid, align_corners=False)[0]
    if contrast:
        power = (CONTRAST * parameters[6]).exp()
        changed = 2 * (moved[:contrast].clamp_min(0) / 2) ** power
        moved = torch.cat([changed, moved[contrast:]])
    parameters[5] = bend
    return moved - 1, parameters
