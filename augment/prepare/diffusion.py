"""Mean diffusivity from a diffusion scan, by a weighted least-squares fit of the tensor.

    ln S(b, g) = ln S0 - b gᵀ D g,        MD = trace(D) / 3

The scan must have been corrected for motion, eddy currents and distortion (QSIPrep does that).
b is in s/mm², MD in 1e-3 mm²/s, the unit of this project.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuromix.augment.data.examine import MD_RANGE
from neuromix.augment.errors import InputError
from neuromix.augment.prepare.space import brain_mask

B0 = 50.0
"""A volume counts as unweighted up to this b-value (s/mm²); within a shell they differ as much."""


def read_gradients(bval: Path, bvec: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read FSL's b-values (N,) in s/mm² and directions as the file has them, (3, N) or (N, 3)."""
    tables = []
    for path in (bval, bvec):
        try:
            tables.append(np.loadtxt(path, ndmin=2))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read as a table of numbers ({error}); mend or replace it"
            ) from None
    return tables[0].ravel(), tables[1]


def check_gradients(
    bvals: np.ndarray, bvecs: np.ndarray, volumes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Check b-values (N,) in s/mm² and directions (N, 3) or (3, N) for a scan of so many volumes.

    Directions come back as (N, 3) of unit length, zero where b is (close to) zero.
    """
    bvals, bvecs = np.ravel(bvals).astype(float), np.array(bvecs, dtype=float)
    if bvecs.ndim == 2 and bvecs.shape[0] == 3 and bvecs.shape[1] != 3:
        bvecs = bvecs.T
    if len(bvals) != volumes or bvecs.shape != (volumes, 3):
        raise InputError(
            f"{volumes} volumes, {len(bvals)} b-values and directions of shape {bvecs.shape} do "
            "not fit together; one b-value and one direction per volume are needed"
        )
    if not np.isfinite(bvals).all() or bvals.min() < 0:
        raise InputError("b-values must be numbers from 0 on; the table holds others")
    if not (bvals <= B0).any():
        raise InputError(f"no volume has b <= {B0:g}; at least one b0 is needed to compare with")
    if 0 < bvals.max() < B0:
        raise InputError(
            f"the largest b-value is {bvals.max():g}; s/mm² are needed (such as 1000), and this "
            "looks like ms/µm²: multiply by 1000"
        )
    weighted = bvals > B0
    lengths = np.linalg.norm(bvecs[weighted], axis=1)
    wrong = ~(np.abs(lengths - 1) < 0.1)  # NaN is wrong, too
    if wrong.any():
        volume = int(np.flatnonzero(weighted)[wrong][0])
        raise InputError(
            f"the direction of volume {volume} (b = {bvals[volume]:g}) has length "
            f"{lengths[wrong][0]:.3g}; weighted volumes need unit vectors"
        )
    directions = np.zeros_like(bvecs)
    directions[weighted] = bvecs[weighted] / lengths[:, None]
    return bvals, directions


def fit_md(
    data: np.ndarray,
    bvals: np.ndarray,
    bvecs: np.ndarray,
    mask: np.ndarray | None = None,
    b_max: float = 1500.0,
) -> np.ndarray:
    """Fit the diffusion tensor and return its mean diffusivity.

    Shells above ``b_max`` are dropped: there ln S bends upward (kurtosis), and the tensor, which
    has no term for that, would find an MD that is too small and depends on the scan's b-values.

    Args:
        data: Signal (X, Y, Z, N).
        bvals: b-values (N,) in s/mm².
        bvecs: Directions (N, 3) or (3, N).
        mask: Booleans (X, Y, Z); by default the brain in the mean b0 image (dipy's median Otsu).
        b_max: Largest b-value to use, in s/mm²; scanners' jitter of up to 50 above it is accepted.

    Returns:
        MD (X, Y, Z) in 1e-3 mm²/s, float32, within [0, 3.2]; 0 outside the mask and where there is
        no signal without weighting.
    """
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    if data.ndim != 4:
        raise InputError(f"the scan has shape {data.shape}; (X, Y, Z, volumes) is needed")
    bvals, directions = check_gradients(bvals, bvecs, data.shape[3])
    unweighted = bvals <= B0
    weighted = ~unweighted & (bvals <= b_max + B0)
    g = directions[weighted]
    # A tensor has six numbers: six directions that do not lie on one cone or plane.
    products = np.stack([g[:, i] * g[:, j] for i in range(3) for j in range(i, 3)], axis=1)
    rank = np.linalg.matrix_rank(products, tol=1e-3) if len(g) else 0
    if rank < 6:
        raise InputError(
            f"{rank} independent directions with b <= {b_max:g} are left; a tensor needs at least "
            "6: check bval and bvec, or raise b_max"
        )
    b0 = np.nan_to_num(data[..., unweighted].mean(axis=3), posinf=0, neginf=0)
    if mask is None:
        mask = brain_mask(b0)
    elif mask.shape != data.shape[:3]:
        raise InputError(
            f"the mask has shape {mask.shape}, the scan {data.shape[:3]}; they must be equal"
        )
    inside = mask.astype(bool) & (b0 > 0)
    md = np.zeros(data.shape[:3], dtype=np.float32)
    if not inside.any():
        return md
    used = unweighted | weighted
    signal = np.nan_to_num(data[inside][:, used].astype(float), posinf=0, neginf=0)
    # Zeros, which interpolation leaves behind, have no logarithm. At b = 1500 even free water keeps
    # a hundredth of its signal.
    signal = np.maximum(signal, 1e-3 * b0[inside][:, None])
    table = gradient_table(bvals[used], bvecs=directions[used], b0_threshold=B0)
    fitted = 1000 * TensorModel(table, fit_method="WLS").fit(signal).md
    md[inside] = np.clip(np.nan_to_num(fitted, nan=0.0), *MD_RANGE)
    return md
