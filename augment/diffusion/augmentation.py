"""Augmentation that does not leak: a network is told what was done to a training image.

An image is turned, scaled, shifted and bent a little in its slices, and where its unit means
nothing, its contrast changes too. The parameters are a condition of the network, and zero when it
samples, so that no sample is turned or bent (Karras et al. 2020). Half of the images stay as they
are. No image is mirrored: the midline of a brain is not the middle of its image. What a network
sees of an image and of its prior, and what it should answer, are, and are shifted, all together
(:func:`move`): there is no midline to be missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TURN, SCALE, SHIFT, BEND, CONTRAST = 0.03, 0.015, 0.01, 0.005, 0.08
"""Standard deviations: radians, logs, shares of a side, shares of a side, logs."""
PARAMETERS = 7
"""Turn, two scales, two shifts, how much was bent, contrast."""
MOVES = 3
"""Mirrored or not, and two shifts in voxels."""
STEP = 4
"""Voxels that what a network sees is shifted by at most."""
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


def move(
    volumes: Sequence[Tensor], generators: Sequence[torch.Generator], mirrored: int | None
) -> tuple[list[Tensor], Tensor]:
    """Volumes (B, ..., H, W) of the same people mirrored and shifted together, and how (B, MOVES).

    Whole voxels alone: noise stays white, and what a prior said of an image stays true of it. A
    quarter stays as it is. ``mirrored`` is the axis that runs from left to right, -2 or -1.
    """
    moves = torch.zeros(len(generators), MOVES)
    made = [each.clone() for each in volumes]
    for k, generator in enumerate(generators):
        draws = torch.rand(MOVES + 1, generator=generator)
        if draws[0] < 0.25:
            continue
        is_mirrored = mirrored is not None and bool(draws[1] < 0.5)
        shifts = [int(share * (2 * STEP + 1)) - STEP for share in draws[2:].tolist()]
        moves[k] = torch.tensor([is_mirrored, shifts[0] / STEP, shifts[1] / STEP])
        for each in made:
            image = each[k].flip(mirrored) if is_mirrored and mirrored is not None else each[k]
            each[k] = image.roll(shifts, (-2, -1))
    return made, moves.to(volumes[0].device)
