"""Structural similarity of a volume and its reconstruction, with an explicit data range."""

from __future__ import annotations

import numpy as np

from neuromix.augment.errors import InputError


def ssim(
    x: np.ndarray, y: np.ndarray, *, data_range: float, mask: np.ndarray | None = None
) -> np.ndarray:
    """Structural similarity of each pair, 1 for equal volumes.

    The mean over places p of

        (2 m_x m_y + c_1) (2 s_xy + c_2) / ((m_x² + m_y² + c_1) (s_x² + s_y² + c_2)),

    with means m, variances s² and covariance s_xy in a Gaussian window around p (1.5 voxels wide, 7
    across), c_1 = (0.01 data_range)², c_2 = (0.03 data_range)². Computed by MONAI. ``mask`` (X, Y,
    Z) says which places to average over, by default all whose window lies in the volume; the result
    is (N,).
    """
    import torch
    from monai.metrics.regression import compute_ssim_and_cs

    edge = 3
    if min(x.shape[1:]) < 2 * edge + 1:
        raise InputError(f"SSIM needs sides of at least 7 voxels; these volumes have {x.shape[1:]}")
    inner = tuple(slice(edge, side - edge) for side in x.shape[1:])
    inside = np.ones(x.shape[1:], dtype=bool)[inner] if mask is None else mask[inner]
    result = np.empty(len(x))
    for n in range(len(x)):
        pair = [torch.from_numpy(v[n].astype(np.float32))[None, None] for v in (x, y)]
        places, _ = compute_ssim_and_cs(
            *pair, 3, [2 * edge + 1] * 3, [1.5] * 3, data_range=data_range
        )
        result[n] = places[0, 0].numpy()[inside].mean()
    return result
