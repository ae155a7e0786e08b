"""Phantom of mean diffusivity: tissue compartments, a noisy diffusion signal, a tensor fit.

    S(b, g) = | sum_t  p_t s_t exp(-b d_t(g)) + noise |,   MD = trace of the fitted tensor / 3

The noise is Rician and the fit is what a study would do, so partial volume with CSF, the noise
floor in the ventricles and the spatial noise of the map come out as they do in nature.
Diffusivities are in 1e-3 mm²/s and b in 1e3 s/mm² throughout.
"""

from __future__ import annotations

import functools

import numpy as np

from neuromix.augment.data.examine import MD_RANGE
from neuromix.augment.phantom.anatomy import Anatomy
from neuromix.augment.phantom.population import SITES, Participant

B_VALUE = 1.0
DIRECTIONS = 12
SIGNAL = {"gm": 1.0, "wm": 0.8, "csf": 1.7}
"""Signal without diffusion weighting: proton density and T2."""
DIFFUSIVITY = {"gm": 0.74, "deep": 0.68, "wm": 0.68, "csf": 3.0}


@functools.cache
def gradients() -> np.ndarray:
    """Unit vectors (12, 3): the corners of an icosahedron, one of each opposite pair twice turned.

    Its six axes and their mirror twins weigh all directions alike, so that the mean over them is
    the trace.
    """
    golden = (1 + np.sqrt(5)) / 2
    axes = np.array([
        (0, 1, golden), (0, 1, -golden), (1, golden, 0),
        (1, -golden, 0), (golden, 0, 1), (-golden, 0, 1),
    ])  # fmt: skip
    return np.concatenate([axes, axes[:, [1, 0, 2]]]) / np.linalg.norm(axes[0])


def diffusivities(
    anatomy: Anatomy, person: Participant, maps: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """True mean diffusivity of each compartment, (X, Y, Z) in 1e-3 mm²/s."""
    deep = np.clip(2 * maps["deep"], 0, 1)
    grey = DIFFUSIVITY["gm"] + person.grey_matter + 0.02 * anatomy.smooth_map(rng, 1)
    grey += 0.03 * person.severity * maps["hippocampi"]
    grey += (DIFFUSIVITY["deep"] - DIFFUSIVITY["gm"]) * deep
    tract = np.random.default_rng(102)  # a fact of the population: tracts differ
    white = DIFFUSIVITY["wm"] + person.white_matter + 0.025 * anatomy.smooth_map(tract, 1)
    white += 0.015 * anatomy.smooth_map(rng, 1)
    if "lesions" in maps:
        # Version 2: its thin cortex is mixed with CSF in any voxel, as people's is.
        grey += 0.14 * maps["hippocampi"] - 0.045 * (1 - deep)
        white += 0.45 * maps["lesions"] / np.maximum(maps["wm"], 0.05)
    else:
        # Lesions lie in caps and bands around the ventricles, in patches of their own.
        near = np.clip(3 * np.linalg.norm(anatomy.toward_ventricles, axis=0), 0, 1)
        patches = np.clip(anatomy.smooth_map(rng, 2) - 0.2, 0, None)
        white += 0.35 * person.lesions * near * patches
    csf = np.full(anatomy.grid.shape, DIFFUSIVITY["csf"], dtype=np.float32)
    return {"gm": grey, "wm": white, "csf": csf}


def dwi(
    anatomy: Anatomy, person: Participant, maps: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Simulate a diffusion scan of a brain that :meth:`Anatomy.draw` made.

    The signal (X, Y, Z, 13) with the unweighted volume first, b-values (13,) in s/mm², gradient
    directions (13, 3), and the brain mask (X, Y, Z).
    """
    inside = maps["gm"] + maps["wm"] + maps["csf"]
    mask = inside > 0.5
    means = diffusivities(anatomy, person, maps, rng)
    share = {name: (maps[name] / np.maximum(inside, 1e-6))[mask] for name in SIGNAL}
    fibre = anatomy.fibres[:, mask]
    directions = gradients()
    signal = np.empty((int(mask.sum()), 1 + len(directions)), dtype=np.float32)
    signal[:, 0] = sum(SIGNAL[name] * share[name] for name in SIGNAL)
    along = (directions @ fibre) ** 2 - 1 / 3  # zero on average over directions
    b = B_VALUE * person.gain
    weighted = {
        name: SIGNAL[name] * share[name] * np.exp(-b * means[name][mask]) for name in SIGNAL
    }
    for k in range(len(directions)):
        white = weighted["wm"] * np.exp(-b * 0.6 * along[k])
        signal[:, 1 + k] = weighted["gm"] + weighted["csf"] + white
    # Larger voxels hold more signal; 4 mm is what the site's SNR is stated for.
    level = (4 / anatomy.grid.spacing[0]) ** 3 / SITES[person.site].snr
    real = signal + level * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = level * rng.standard_normal(signal.shape, dtype=np.float32)
    volume = np.zeros((*anatomy.grid.shape, signal.shape[1]), dtype=np.float32)
    volume[mask] = np.hypot(real, imaginary)
    b_values = 1000 * np.array([0.0] + [B_VALUE] * len(directions))
    return volume, b_values, np.vstack([np.zeros(3), directions]), mask


def mean_diffusivity(
    anatomy: Anatomy, person: Participant, maps: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """The MD map (X, Y, Z) of one subject as a study would have it, float32 in 1e-3 mm²/s.

    The directions are balanced, so the trace of the least-squares tensor is the mean over them.
    """
    signal, _, _, mask = dwi(anatomy, person, maps, rng)
    inside = np.maximum(signal[mask], 1e-3)
    apparent = np.log(inside[:, :1] / inside[:, 1:]).mean(1) / B_VALUE
    result = np.zeros(anatomy.grid.shape, dtype=np.float32)
    result[mask] = np.clip(apparent, *MD_RANGE)
    return result
