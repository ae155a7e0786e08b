"""Similarity of pairs of volumes: PSNR, SSIM and MS-SSIM, each with an explicit data range.

PSNR and SSIM judge a reconstruction against its original; MS-SSIM of random pairs tells how much
the volumes of one set differ among themselves.
"""

from __future__ import annotations

import numpy as np

from neuromix.augment.errors import InputError

DATA_RANGE = 3.0
"""Range of mean diffusivity: 0 to free water at 3.0 in 1e-3 mm²/s."""

LEAST_SIDE = 12
"""Voxels that three scales need."""
SCALE_WEIGHTS = (0.071, 0.4529, 0.4761)
"""The first three of the five weights of MS-SSIM (Wang et al., 2003), made to sum to one."""


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


def ms_ssim(
    volumes: np.ndarray, *, data_range: float = DATA_RANGE, pairs: int = 100, seed: int = 0
) -> np.ndarray:
    """Multi-scale SSIM of random pairs within a set: how alike the volumes of a set are.

    A higher value than that of real pairs means less variety than in nature, a lower one more (or
    noise). Three scales (each half the resolution of the one before) instead of five, which 4 mm
    volumes are too small for. Computed by MONAI.

    Volumes are (N, X, Y, Z) with sides of 12 voxels or more; a thinner slab is compared slice by
    slice. The result is (pairs,), of which up to N / 2 share no volume.
    """
    import torch
    from monai.metrics.regression import compute_ms_ssim

    thin = int(np.argmin(volumes.shape[1:])) + 1
    dimensions = 2 if volumes.shape[thin] < LEAST_SIDE else 3
    # Slices of a slab are channels, which are averaged over.
    volumes = np.moveaxis(volumes, thin, 1) if dimensions == 2 else volumes[:, None]
    # MONAI wants a quarter of each side to be as large as the window; 7 is enough of the Gaussian.
    window = min(7, (min(volumes.shape[2:]) // 4 - 1) // 2 * 2 + 1)
    if len(volumes) < 2 or window < 3:
        raise InputError(
            f"MS-SSIM needs two volumes or more with two sides of at least {LEAST_SIDE} voxels; "
            f"these are {len(volumes)} of {volumes.shape[1:]}"
        )
    rng = np.random.default_rng(seed)
    half = len(volumes) // 2
    rounds = [rng.permutation(len(volumes))[: 2 * half] for _ in range(-(-pairs // half))]
    chosen = np.concatenate(rounds).reshape(-1, 2)[:pairs]
    result = np.empty(pairs)
    for start in range(0, pairs, 10):
        part = slice(start, start + 10)
        x, y = (torch.from_numpy(volumes[chosen[part, side]].astype(np.float32)) for side in (0, 1))
        value = compute_ms_ssim(
            x, y, dimensions, data_range=data_range, kernel_size=window, weights=SCALE_WEIGHTS
        )
        result[part] = value[:, 0].numpy()
    return result
