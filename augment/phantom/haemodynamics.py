"""How blood answers to neurons: adaptation, and the balloon model of Buxton and Friston.

A region's neurons tire while a stimulus u lasts and recover after it, blood flow f follows what
they do, a vein of volume v swells with the flow, and deoxyhaemoglobin q is washed out (Buxton et
al. 1998; Friston et al. 2000)::

    g' = (1 - g) / recovery - tiring g u,                    n = g u
    s' = 0.6 n - s / decay - (f - 1) / regulation,               f' = s
    transit v' = f - v^(1 / stiffness)
    transit q' = f E(f) / E0 - v^(1 / stiffness) q / v,      E(f) = 1 - (1 - E0)^(1 / f)
    y  = 7 E0 (1 - q) + 2 (1 - q / v) + (2 E0 - 0.2) (1 - v)

Two quick stimuli get less than twice the answer to one; delay, width and undershoot are the
region's.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

STEP = 0.1
"""Seconds of a step of the integration."""
EXTRACTED = 0.34
"""Share E0 of the oxygen that is extracted at rest."""
EFFICACY = 0.6
"""How strongly neurons drive the flow."""
LONG = 16.0
"""Seconds of the stimulus whose answer in an average region peaks at one."""
SPREAD = (0.25, 0.2, 0.25, 0.08, 0.3, 0.3)
"""How far regions differ: standard deviations of logarithms, in the order of the fields."""


@dataclass(frozen=True)
class Vessels:
    """What decides the answers of R regions; each field is (R,). Times are in seconds."""

    decay: np.ndarray
    regulation: np.ndarray
    transit: np.ndarray
    stiffness: np.ndarray
    tiring: np.ndarray
    """A second of stimulus takes this share of what is left."""
    recovery: np.ndarray
    delay: np.ndarray
    """Between a stimulus and the neurons' answer."""

    @classmethod
    def average(cls, regions: int) -> Vessels:
        """Those of textbooks."""
        return cls(*(np.full(regions, x) for x in (1.54, 2.46, 0.98, 0.33, 0.3, 8.0, 0.5)))

    def vary(self, rng: np.random.Generator, share: float) -> Vessels:
        """Each parameter moved by ``share`` of the spread of regions, and delays in seconds."""
        *fields, delay = vars(self).values()
        size = len(delay)
        moved: list[np.ndarray] = [
            field * np.exp(share * spread * rng.standard_normal(size))
            for field, spread in zip(fields, SPREAD, strict=True)
        ]
        moved.append(np.maximum(delay + 0.7 * share * rng.standard_normal(size), 0))
        return Vessels(*moved)


def respond(stimuli: np.ndarray, vessels: Vessels) -> np.ndarray:
    """Answers (R, S) of regions to stimuli (R, S), every STEP seconds; LONG ones peak near one."""
    return _integrate(stimuli, vessels) / _peak()


def boxcar(onsets: np.ndarray, durations: np.ndarray, seconds: float) -> np.ndarray:
    """A stimulus (S,) that is one while an event lasts."""
    times = STEP * np.arange(round(seconds / STEP))
    on = (times >= onsets[:, None]) & (times < (onsets + durations)[:, None])
    return np.asarray(on.any(0), dtype=float)


def _integrate(stimuli: np.ndarray, vessels: Vessels) -> np.ndarray:
    regions, size = stimuli.shape
    lags = np.round(vessels.delay / STEP).astype(int)[:, None]
    index = np.arange(size) - lags
    late = np.where(index >= 0, np.take_along_axis(stimuli, np.maximum(index, 0), 1), 0.0)
    fresh, flow, volume, deoxy = np.ones((4, regions))
    signal = np.zeros(regions)
    made = np.empty((size, regions))
    for k, u in enumerate(late.T):
        out = volume ** (1 / vessels.stiffness)
        extracted = 1 - (1 - EXTRACTED) ** (1 / flow)
        steps = (
            (1 - fresh) / vessels.recovery - vessels.tiring * fresh * u,
            EFFICACY * fresh * u - signal / vessels.decay - (flow - 1) / vessels.regulation,
            signal,
            (flow - out) / vessels.transit,
            (flow * extracted / EXTRACTED - out * deoxy / volume) / vessels.transit,
        )
        fresh = fresh + STEP * steps[0]
        signal = signal + STEP * steps[1]
        flow = np.maximum(flow + STEP * steps[2], 0.1)
        volume = np.maximum(volume + STEP * steps[3], 0.1)
        deoxy = np.maximum(deoxy + STEP * steps[4], 0.01)
        made[k] = (
            7 * EXTRACTED * (1 - deoxy)
            + 2 * (1 - deoxy / volume)
            + (2 * EXTRACTED - 0.2) * (1 - volume)
        )
    return made.T


@functools.cache
def _peak() -> float:
    stimulus = boxcar(np.zeros(1), np.full(1, LONG), 3 * LONG)
    return float(_integrate(stimulus[None], Vessels.average(1)).max())
