"""N segments along the time axis of an fMRI or the gradient axis of a dMRI.

Runs differ in frames and scans in gradients; a network that sees both modalities needs axes that
align. As in PDS (arXiv 2511.04963) an axis of length L is divided into N contiguous groups of L / N
frames, one more or less, and each group is averaged:

    segment_k = mean of data[..., i] over i in group k.

What a segment means is fixed so that it is the same in every subject:

- *fMRI*: groups follow time. The signal is divided by the run's mean over the brain, one number per
  run, so that 1 is an average brain voxel and 0.01 a change of one percent. A percent signal change
  against each voxel's own mean would remove the anatomy, which the two modalities share most; it is
  still there, as 100 * (segment / mean over segments - 1).
- *dMRI*: the signal is divided by the mean b0 image (attenuation S / S0, free of coil and receiver
  gain). Of the shells the one nearest to b = 1000 s/mm² is taken. Gradients are ordered by their
  angle to the superior-inferior axis, from along it to across it. Over evenly spread directions the
  cosine of that angle is uniform, so that segment k covers cosines from 1 - k/N down to
  1 - (k+1)/N, whatever the gradient table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.prepare.diffusion import B0, check_gradients

SHELL = 1000.0
SUPERIOR = (0.0, 0.0, 1.0)
MAX_ATTENUATION = 1.5
"""S / S0 is at most 1; noise and motion lift it, and beyond this it is an artefact."""


def segment(
    data: np.ndarray, n: int, order: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Average ``n`` contiguous, nearly equal groups along the last axis of (X, Y, Z, L).

    ``order`` are indices along it in the order in which they are grouped; those that are not in it
    are left out. Returns segments (X, Y, Z, N), float32, and the record that :func:`expand` needs:
    plain content for JSON.
    """
    if data.ndim != 4:
        raise InputError(f"the image has shape {data.shape}; (X, Y, Z, frames) is needed")
    indices = np.arange(data.shape[3]) if order is None else np.asarray(order, dtype=int)
    if not 1 <= n <= len(indices):
        raise InputError(
            f"{len(indices)} frames cannot be divided into {n} segments; allowed are 1 to "
            f"{len(indices)}"
        )
    groups = [group.tolist() for group in np.array_split(indices, n)]
    means = [data[..., group].mean(axis=3, dtype=np.float64) for group in groups]
    record = {"length": data.shape[3], "groups": groups, "b0": [], "scale": 1.0}
    return np.stack(means, axis=3).astype(np.float32), record


def expand(segments: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """Go back to the original axis: every frame gets the value of its segment.

    Of segments (X, Y, Z, N) and the record that came with them it makes (X, Y, Z, L), float32: for
    fMRI in the units of the run; for dMRI the attenuation, which is 1 at b0. Frames that no segment
    covers (other shells) are NaN: nothing is known of them.
    """
    if segments.shape[-1] != len(record["groups"]):
        raise InputError(
            f"the image has {segments.shape[-1]} segments, its record {len(record['groups'])}; "
            "use the record that was written with it"
        )
    frames = np.full((*segments.shape[:-1], record["length"]), np.nan, dtype=np.float32)
    for k, group in enumerate(record["groups"]):
        frames[..., group] = segments[..., k, None] * record["scale"]
    frames[..., record["b0"]] = 1
    return frames


def segment_bold(data: np.ndarray, n: int, mask: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Segments (X, Y, Z, N) of a run (X, Y, Z, T), relative to its mean brain signal.

    That is the ``scale`` of the record; ``mask`` (X, Y, Z) is the brain.
    """
    segments, record = segment(data, n)
    sizes = [len(group) for group in record["groups"]]
    mean = np.average(segments, axis=3, weights=sizes)
    level = float(mean[mask].mean()) if mask.any() else 0.0
    if not level > 0:
        raise InputError(f"the mean signal in the brain is {level:g}; BOLD in raw units is needed")
    record["scale"] = level
    return segments / np.float32(level), record


def segment_dwi(
    data: np.ndarray,
    bvals: np.ndarray,
    bvecs: np.ndarray,
    affine: np.ndarray,
    n: int,
    superior: Sequence[float] | np.ndarray = SUPERIOR,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Segments (X, Y, Z, N) of a diffusion scan (X, Y, Z, L), as attenuation S / S0.

    They are zero where there is no signal without weighting. Directions (L, 3) or (3, L) are in
    FSL's convention, which refers to the ``affine``. ``superior`` is that axis of the brain in
    world coordinates: a registration knows it better than the scanner, as its transform's third
    column. The record has the ``b0`` indices and the ``shell`` (its mean b-value).
    """
    if data.ndim != 4:
        raise InputError(f"the scan has shape {data.shape}; (X, Y, Z, volumes) is needed")
    bvals, directions = check_gradients(bvals, bvecs, data.shape[3])
    b0 = np.flatnonzero(bvals <= B0)
    shell = _shell(bvals, n)
    world = to_world(directions, affine)
    cosines = np.abs(world[shell] @ (np.asarray(superior) / np.linalg.norm(superior)))
    order = shell[np.argsort(-cosines, kind="stable")]
    segments, record = segment(data, n, order)
    unweighted = data[..., b0].mean(axis=3, dtype=np.float64)[..., None]
    safe = np.where(unweighted > 0, unweighted, np.inf)
    record.update(b0=b0.tolist(), shell=float(bvals[shell].mean()))
    return np.clip(segments / safe, 0, MAX_ATTENUATION).astype(np.float32), record


def to_world(directions: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn FSL's directions (N, 3) into world directions.

    FSL's lie along the voxel axes, with the first one mirrored if these form a right-handed system.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    mirror = np.array([-1.0 if np.linalg.det(axes) > 0 else 1.0, 1.0, 1.0])
    return (directions * mirror) @ axes.T


def _shell(bvals: np.ndarray, n: int) -> np.ndarray:
    """Indices of the shell nearest to b = 1000 that has a direction for each segment."""
    weighted = np.flatnonzero(bvals > B0)
    ascending = weighted[np.argsort(bvals[weighted], kind="stable")]
    # A step of more than 100 s/mm² begins another shell; within one, scanners jitter by tens.
    shells = np.split(ascending, np.flatnonzero(np.diff(bvals[ascending]) > 100) + 1)
    fitting = [np.sort(shell) for shell in shells if len(shell) >= n]
    if not fitting:
        sizes = ", ".join(f"{len(s)} at b = {bvals[s].mean():.0f}" for s in shells if len(s))
        raise InputError(
            f"no shell has {n} directions (there are {sizes or 'none'}); use fewer segments"
        )
    return min(fitting, key=lambda shell: abs(bvals[shell].mean() - SHELL))
