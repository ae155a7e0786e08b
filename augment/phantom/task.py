"""Phantom of task fMRI: seven tasks after the HCP's, two conditions each, both phase encodings.

    BOLD(x, t) = B(x) [1 + sum_c M_c(x) h_c(t) + sum_n N_n(x) a_n(t) + drift] + motion + noise

``B`` is the subject's T2*-weighted anatomy, ``M_c`` the map of condition c in per cent, ``h_c`` its
events convolved with the HRF, ``N_n`` resting networks with slow AR(1) courses. Anatomy and maps
are shifted along x by the phase encoding (LR or RL). What differs most between two runs is the
subject, then the phase encoding, then the task, as in real data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage, signal

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.grid import SPACE
from neuromix.augment.phantom.anatomy import Anatomy
from neuromix.augment.phantom.population import Participant

TR = 2.0
FRAMES = 100
BLOCK_SECONDS, REST_SECONDS = 16.0, 10.0
"""Seconds of a block of trials and of the pause after it."""
NETWORKS = 8

Blob = tuple[float, float, float, float]
"""Centre in MNI mm, and peak in per cent signal change."""

TASKS: dict[str, dict[str, tuple[Blob, ...]]] = {
    "emotion": {
        "faces": ((22, -4, -18, 1.2), (-22, -4, -18, 0.9), (42, -52, -20, 1.6)),
        "shapes": ((42, -74, -4, 1.4), (-42, -74, -4, 1.4), (26, -62, 48, 0.9)),
    },
    "gambling": {
        "reward": ((12, 10, -6, 1.3), (-12, 10, -6, 1.3), (0, 50, -6, 1.0)),
        "loss": ((36, 20, -2, 1.2), (-34, 20, -2, 0.9), (2, 24, 34, 1.2)),
    },
    "language": {
        "story": ((-56, -14, -8, 1.8), (54, -8, -12, 0.9), (-48, 24, 6, 1.4)),
        "math": ((-34, -54, 46, 1.4), (36, -52, 46, 1.2), (28, 4, 56, 1.0)),
    },
    "motor": {
        "lefthand": ((40, -24, 58, 2.0), (-18, -52, -22, 1.2), (4, -4, 60, 0.8)),
        "righthand": ((-38, -26, 58, 2.0), (18, -52, -22, 1.2), (-4, -4, 60, 0.8)),
    },
    "relational": {
        "relation": ((-36, 52, 8, 1.3), (36, 52, 6, 0.9), (-30, -66, 44, 1.2)),
        "match": ((30, -86, 8, 1.3), (-30, -86, 8, 1.3), (-44, 6, 32, 0.7)),
    },
    "social": {
        "mental": ((54, -52, 20, 1.5), (-52, -56, 20, 1.0), (54, -38, 4, 1.0), (2, 54, 22, 1.0)),
        "random": ((46, -66, 2, 1.4), (-44, -68, 2, 1.4), (24, -6, 54, 0.6)),
    },
    "wm": {
        "twoback": ((42, 34, 30, 1.3), (-40, 32, 30, 1.1), (42, -48, 44, 1.2), (0, 16, 48, 1.0)),
        "zeroback": ((0, 48, 0, 0.9), (0, -54, 26, 1.2), (-46, -66, 32, 0.8)),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Response:
    """How one subject answers to any task."""

    amplitude: float
    delay: float
    """Seconds by which the response comes late."""
    maps: dict[str, np.ndarray]
    """Condition (``task/condition``) to its map (X, Y, Z) in per cent."""

    def truth(self) -> dict[str, Any]:
        """What only the truth file knows."""
        return {"amplitude": self.amplitude, "delay": self.delay}


def draw_response(anatomy: Anatomy, rng: np.random.Generator) -> Response:
    """One subject's amplitude, delay and topography, the same in all of its runs."""
    amplitude = float(np.exp(0.3 * rng.standard_normal()))
    delay = float(0.6 * rng.standard_normal())
    maps = {}
    for task, conditions in TASKS.items():
        for condition, blobs in conditions.items():
            total = np.zeros(anatomy.grid.shape, dtype=np.float32)
            for x, y, z, peak in blobs:
                dx, dy, dz, strength = rng.standard_normal(4)
                centre = (x + 4 * dx, y + 4 * dy, z + 4 * dz)
                total += peak * np.exp(0.3 * strength) * anatomy.blob(centre, 8.0)
            maps[f"{task}/{condition}"] = amplitude * total
    return Response(amplitude, delay, maps)


def draw_events(task: str, rng: np.random.Generator) -> pd.DataFrame:
    """Blocks of the two conditions in random order, as a BIDS events table."""
    names = list(TASKS[task])
    blocks = int((FRAMES * TR - REST_SECONDS) // (BLOCK_SECONDS + REST_SECONDS))
    order = rng.permutation([names[k % 2] for k in range(blocks)])
    onsets = (
        REST_SECONDS / 2
        + np.arange(blocks) * (BLOCK_SECONDS + REST_SECONDS)
        + rng.uniform(0, REST_SECONDS / 2, blocks)
    )
    return pd.DataFrame({
        "onset": np.round(onsets, 2), "duration": BLOCK_SECONDS, "trial_type": order
    })  # fmt: skip


def simulate(
    anatomy: Anatomy,
    maps: dict[str, np.ndarray],
    response: Response,
    task: str,
    direction: str,
    events: pd.DataFrame,
    rng: np.random.Generator,
) -> np.ndarray:
    """One run (X, Y, Z, T) of a subject's tissue ``maps`` in scanner units as int16."""
    from nilearn.glm.first_level import compute_regressor

    base, mask = baseline(anatomy, maps)
    activation = {
        name: response.maps[f"{task}/{name}"] * (0.15 + maps["gm"]) for name in TASKS[task]
    }
    shift = distortion(anatomy) * (1 if direction == "LR" else -1)
    base = displace(base, shift)
    mask = displace(mask.astype(np.float32), shift) > 0.5
    times = TR * np.arange(FRAMES)
    spatial, temporal = [], []
    for name, activated in activation.items():
        rows = events[events["trial_type"] == name]
        blocks = (rows["onset"] + response.delay, rows["duration"], np.ones(len(rows)))
        course, _ = compute_regressor(np.array(blocks), "glover", times)
        spatial.append(displace(activated, shift)[mask])
        temporal.append(course[:, 0] / max(np.abs(course).max(), 1e-6))
    for place, course in spontaneous(anatomy, maps["gm"], mask, rng):
        spatial.append(place)
        temporal.append(course)
    percent = np.stack(spatial, 1) @ np.stack(temporal).astype(np.float32)
    run = base[mask][:, None] * (1 + percent / 100)
    run += motion_modes(base, anatomy, mask) @ _walk(rng).astype(np.float32)
    run += 10 * ar1(rng, run.shape, 0.3)
    volume = np.zeros((*anatomy.grid.shape, FRAMES), dtype=np.int16)
    volume[mask] = np.clip(np.round(run), 0, 32000)
    return volume


def write_subject(
    folder: Path,
    anatomy: Anatomy,
    person: Participant,
    maps: dict[str, np.ndarray],
    rng: np.random.Generator,
    scanner: ModuleType,
) -> dict[str, Any]:
    """Write all runs of one subject, and return what only the truth file knows.

    ``scanner`` is this module, or that of another version.
    """
    response = scanner.draw_response(anatomy, rng)
    for task in TASKS:
        for direction in ("LR", "RL"):
            events = scanner.draw_events(task, rng)
            run = scanner.simulate(anatomy, maps, response, task, direction, events, rng)
            own = {"sub": person.subject_id, "task": task, "dir": direction}
            place = folder / bids.path_of("func", own, "events", ".tsv")
            files.write_table(place, events)
            own |= {"space": SPACE, "desc": "preproc"}
            place = folder / bids.path_of("func", own, "bold", ".nii.gz")
            files.write_nifti(place, run, anatomy.grid.affine, tr=TR)
    truth: dict[str, Any] = response.truth()
    return truth


def baseline(anatomy: Anatomy, maps: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """T2*-weighted intensity (X, Y, Z) with dropout above the sinuses and ears, and the mask."""
    base = 1000 * maps["gm"] + 820 * maps["wm"] + 1250 * maps["csf"]
    for centre in ((0, 38, -24), (48, -14, -34), (-48, -14, -34)):
        base = base * (1 - 0.55 * anatomy.blob(centre, 12.0))
    return base, maps["gm"] + maps["wm"] + maps["csf"] > 0.5


def distortion(anatomy: Anatomy) -> np.ndarray:
    """Shift along x in mm that one phase encoding makes; the other makes the opposite one."""
    field = 2.0 * np.ones(anatomy.grid.shape, dtype=np.float32)
    for centre in ((0, 40, -20), (46, -16, -32), (-46, -16, -32)):
        field += 7.0 * anatomy.blob(centre, 18.0)
    return field / anatomy.grid.spacing[0]


def displace(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """An image (X, Y, Z) read at places that lie ``shift`` voxels away along x."""
    index = np.indices(image.shape, dtype=np.float32)
    index[0] += shift
    stretched = 1 + np.gradient(shift, axis=0)  # signal piles up where the field squeezes it
    return ndimage.map_coordinates(image, index, order=1, output=np.float32) * stretched


def spontaneous(
    anatomy: Anatomy, grey: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Resting networks and drifts: a map (voxels,) in per cent and its course (T,), each."""
    population = np.random.default_rng(104)  # networks are facts of the population
    for _ in range(NETWORKS):
        network = anatomy.smooth_map(population, 1) + 0.5 * anatomy.smooth_map(rng, 1)
        network = network + network[::-1]  # homologous regions of both sides go together
        yield 0.25 * (network * grey)[mask], ar1(rng, (FRAMES,), 0.75)
    times = TR * np.arange(FRAMES)
    for order in (1, 2):
        drift = np.polynomial.legendre.legval(times / times[-1] * 2 - 1, np.eye(3)[order])
        yield 0.4 * anatomy.smooth_map(rng, 0)[mask], drift


def motion_modes(base: np.ndarray, anatomy: Anatomy, mask: np.ndarray) -> np.ndarray:
    """Change of intensity (voxels, 6) by a mm along, or a radian about, each axis."""
    gradient = np.stack(np.gradient(ndimage.gaussian_filter(base, 0.7), *anatomy.grid.spacing))
    x, y, z = anatomy.grid.points()
    gx, gy, gz = gradient
    turns = (gz * y - gy * z, gx * z - gz * x, gy * x - gx * y)
    return np.stack([part[mask] for part in (gx, gy, gz, *turns)], 1)


def _walk(rng: np.random.Generator) -> np.ndarray:
    """Shifts in mm and turns in radians of a head that wanders, (6, T)."""
    walk = np.cumsum(rng.standard_normal((6, FRAMES)), 1)
    return signal.detrend(walk, axis=1) * np.array([[0.02]] * 3 + [[0.0003]] * 3)


def ar1(rng: np.random.Generator, shape: tuple[int, ...], rho: float) -> np.ndarray:
    """Noise of unit variance with lag-one correlation ``rho`` along the last axis."""
    white = rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(1 - rho**2))
    return signal.lfilter([1.0], [1.0, -rho], white, axis=-1).astype(np.float32)
