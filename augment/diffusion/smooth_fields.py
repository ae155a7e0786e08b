"""Smooth fields: the waves that they are made of, and products along each axis.

Fields are tensors (B, K, I, J, L). All maps are separable: a matrix for each of the three axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def harmonics(side: int) -> Tensor:
    """The orthonormal real Fourier transform, (side, side): 1, then cosine and sine in turn.

    Row r turns ``(r + 1) // 2`` times. Unlike cosines, waves of random strength vary as much near
    the border as elsewhere.
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
