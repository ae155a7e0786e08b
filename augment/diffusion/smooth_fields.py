"""Smooth fields on a lattice: bumps that carry them, waves that they are made of, blocks of them.

Fields are tensors (B, K, I, J, L). All maps are separable: a matrix for each of the three axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def lattice_step(block: int, width: float) -> int:
    """The largest power of two that divides a block and keeps bumps of this width overlapping."""
    step = 1
    while block % (2 * step) == 0 and 2 * step <= 1.4 * width:
        step *= 2
    return step


def bumps(side: int, step: int, width: float) -> Tensor:
    """Gaussian bumps at the lattice points, (side, side / step); rows have unit length."""
    centres = torch.arange(side // step) * step + (step - 1) / 2
    bumps = torch.exp(-0.5 * ((torch.arange(side)[:, None] - centres) / width) ** 2)
    bumps[bumps < 1e-6] = 0  # arithmetic with the tiniest numbers is a hundred times slower
    return bumps / bumps.square().sum(1).mean().sqrt()


def cosines(side: int) -> Tensor:
    """The orthonormal discrete cosine transform, (side, side)."""
    k, n = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side)
    matrix = torch.cos(math.pi * k * (2 * n + 1) / (2 * side)) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def harmonics(side: int) -> Tensor:
    """The orthonormal real Fourier transform, (side, side): 1, then cosine and sine in turn.

    Row r turns ``(r + 1) // 2`` times. Unlike cosines alone, waves of random strength vary as much
    near the border as elsewhere.
    """
    row, place = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side)
    angle = 2 * math.pi * torch.div(row + 1, 2, rounding_mode="floor") * place / side
    matrix = torch.where(row % 2 == 1, angle.cos(), angle.sin()) * math.sqrt(2 / side)
    matrix[0] = math.sqrt(1 / side)
    if side % 2 == 0:
        matrix[-1] /= math.sqrt(2)
    return matrix.float()


def along(field: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Fields (B, K, I, J, L) times a matrix (I', I), (J', J) and (L', L) along each axis."""
    a, b, c = matrices
    batch, channels, i, j, last = field.shape
    field = (field.reshape(-1, last) @ c.T).reshape(-1, j, len(c))  # no axis is ever moved
    field = (b @ field).reshape(batch * channels, i, -1)
    return (a @ field).reshape(batch, channels, len(a), len(b), len(c))


def fold(field: Tensor, block: tuple[int, int, int]) -> Tensor:
    """Fields (B, K, R, C, D) to blocks as channels, (B, D / c, K a b c, R / a, C / b)."""
    a, b, c = block
    parts = field.unflatten(4, (-1, c)).unflatten(3, (-1, b)).unflatten(2, (-1, a))
    return parts.permute(0, 6, 1, 3, 5, 7, 2, 4).flatten(2, 5)


def unfold(blocks: Tensor, block: tuple[int, int, int]) -> Tensor:
    """Inverse of :func:`fold`."""
    parts = blocks.unflatten(2, (-1, *block))  # (B, D, K, a, b, c, R, C)
    return parts.permute(0, 2, 6, 3, 7, 4, 1, 5).flatten(6, 7).flatten(4, 5).flatten(2, 3)
