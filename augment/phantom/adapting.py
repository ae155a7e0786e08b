"""Task fMRI whose responses adapt: version 2 of the phantom, outside the family of linear models.

    BOLD(x, t) = B(x) [1 + sum_r M_r(x) y_r(t) + rest(x, t) + physiology(x, t)] (1 - spins(z, t))
                 + motion + noise

Neurons and blood of a region r answer to the events of its condition by :func:`respond`, in a shape
of the region's and the person's own: less to a quick repeat, never twice as much to twice as long.
Its map is one focus or two, moved by more than their width and bent by a warp of the person, so
that no few people's maps add up to another's. Heart and breath are quicker than the scanner and
appear at frequencies where nobody would look for them. The head wanders and jerks, and slices that
a jerk has moved hold spins that were excited elsewhere, for as long as T1. Anatomy, tasks, resting
networks, drifts and distortion are those of version 1, on brains of version 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import signal

from neuromix.augment.phantom.anatomy import Anatomy
from neuromix.augment.phantom.haemodynamics import STEP, Vessels, boxcar, respond
from neuromix.augment.phantom.task import (
    FRAMES,
    REST_SECONDS,
    TASKS,
    TR,
    ar1,
    baseline,
    displace,
    distortion,
    motion_modes,
    spontaneous,
)

TRAINS = ((14.0,), (3.0,), (3.0, 3.0), (2.0, 2.0, 2.0))
"""Durations of the trials that come together: a block, one trial, quick repeats."""
GAP = 2.0
"""Seconds between quick repeats."""
MOVED = 7.0
"""How far foci lie from the population's, in mm (standard deviation along each axis)."""
SPLIT = 0.4
"""Share of regions that are two foci."""
HEART, BREATH = (1.1, 0.12), (0.28, 0.04)
"""Rates in Hz of people: mean and standard deviation."""
PULSE, CHEST = 0.9, 0.5
"""What heart and breath do to the signal where they do most, in per cent."""
T1 = 1.4
"""Seconds of grey matter."""
JERKS = 3
"""Of a run, on average."""


class Region(NamedTuple):
    """One answering place of a person."""

    condition: str
    """``task/condition``."""
    foci: list[list[float]]
    """Centres in MNI mm."""
    peak: float
    """Per cent signal change in an answer to a block, if no other region overlaps."""


@dataclass(frozen=True)
class AdaptingResponse:
    """How one subject answers to any task; R regions."""

    amplitude: float
    regions: list[Region]
    maps: np.ndarray
    """(R, X, Y, Z) in per cent."""
    vessels: Vessels
    heart: float
    breath: float

    def truth(self) -> dict[str, Any]:
        """What only the truth file knows, with the time in seconds of each region's peak."""
        stimuli = np.tile(boxcar(np.zeros(1), np.ones(1), 20.0), (len(self.regions), 1))
        peaks = STEP * respond(stimuli, self.vessels).argmax(1)
        return {
            "amplitude": self.amplitude,
            "heart_hz": self.heart,
            "breath_hz": self.breath,
            "regions": [
                region._asdict() | {"peak_seconds": round(float(time), 1)}
                for region, time in zip(self.regions, peaks, strict=True)
            ],
        }


def draw_response(anatomy: Anatomy, rng: np.random.Generator) -> AdaptingResponse:
    """One subject's amplitude, topography and blood, the same in all of its runs."""
    amplitude = float(np.exp(0.3 * rng.standard_normal()))
    points = anatomy.points + 1.5 * anatomy.smooth_warp(rng, (1.0, 1.0, 1.0))
    regions, maps = [], []
    for task, conditions in TASKS.items():
        for condition, blobs in conditions.items():
            for *place, usual in blobs:
                centre = np.array(place) + MOVED * rng.standard_normal(3)
                apart = rng.standard_normal(3)
                apart *= rng.uniform(8, 14) / np.linalg.norm(apart)
                share = rng.uniform(0.3, 0.7) if rng.random() < SPLIT else 1.0
                foci = [(centre, share)]
                if share < 1:
                    foci = [(centre + apart, share), (centre - apart, 1 - share)]
                radius = 7.0 * np.exp(0.2 * rng.standard_normal())
                peak = usual * amplitude * np.exp(0.3 * rng.standard_normal())
                maps.append(peak * sum(
                    part * np.exp(
                        -0.5 * ((points - at[:, None, None, None]) ** 2).sum(0) / radius**2
                    )
                    for at, part in foci
                ))  # fmt: skip
                where = [np.round(at, 1).tolist() for at, _ in foci]
                regions.append(Region(f"{task}/{condition}", where, round(float(peak), 3)))
    # Regions differ in the population, and people differ from it.
    vessels = Vessels.average(len(regions)).vary(np.random.default_rng(105), 1.0)
    heart, breath = (max(m + sd * rng.standard_normal(), m / 2) for m, sd in (HEART, BREATH))
    return AdaptingResponse(
        amplitude, regions, np.stack(maps).astype(np.float32), vessels.vary(rng, 0.6),
        float(heart), float(breath),
    )  # fmt: skip


def draw_events(task: str, rng: np.random.Generator) -> pd.DataFrame:
    """Blocks, single trials and quick repeats of both conditions, as a BIDS events table."""
    rows: list[tuple[float, float, str]] = []
    names = list(TASKS[task])
    time, number = REST_SECONDS / 2 + rng.uniform(0, REST_SECONDS / 2), 0
    kinds = [*rng.permutation(len(TRAINS) * len(names))]
    while True:
        kind = kinds[number % len(kinds)]
        durations = TRAINS[kind % len(TRAINS)]
        if time + sum(durations) + GAP * len(durations) > FRAMES * TR - REST_SECONDS:
            break
        for duration in durations:
            rows.append((round(time, 2), duration, names[kind // len(TRAINS)]))
            time += duration + GAP
        time += REST_SECONDS - GAP + rng.uniform(-2, 2)
        number += 1
    return pd.DataFrame(rows, columns=["onset", "duration", "trial_type"])


def simulate(
    anatomy: Anatomy,
    maps: dict[str, np.ndarray],
    response: AdaptingResponse,
    task: str,
    direction: str,
    events: pd.DataFrame,
    rng: np.random.Generator,
) -> np.ndarray:
    """One run (X, Y, Z, T) of a subject's tissue ``maps`` in scanner units as int16."""
    base, mask = baseline(anatomy, maps)
    shift = distortion(anatomy) * (1 if direction == "LR" else -1)
    base = displace(base, shift)
    mask = displace(mask.astype(np.float32), shift) > 0.5
    own = [
        k for k, region in enumerate(response.regions) if region.condition.startswith(f"{task}/")
    ]
    spatial = [displace(response.maps[k] * (0.15 + maps["gm"]), shift)[mask] for k in own]
    temporal = list(courses(response, own, events))
    for place, course in (
        *spontaneous(anatomy, maps["gm"], mask, rng),
        *physiology(anatomy, maps["csf"], mask, response, rng),
    ):
        spatial.append(place)
        temporal.append(course)
    percent = np.stack(spatial, 1) @ np.stack(temporal).astype(np.float32)
    path = head_path(rng)
    slices = np.broadcast_to(np.arange(mask.shape[2]), mask.shape)[mask]
    run = base[mask][:, None] * (1 + percent / 100)
    run *= 1 - spin_history(path[2], mask.shape[2])[slices]
    run += motion_modes(base, anatomy, mask) @ path.astype(np.float32)
    loud = 10 * np.exp(0.3 * anatomy.smooth_map(rng, 0)[mask])
    run += loud[:, None] * ar1(rng, run.shape, 0.3)
    volume = np.zeros((*anatomy.grid.shape, FRAMES), dtype=np.int16)
    volume[mask] = np.clip(np.round(run), 0, 32000)
    return volume


def courses(response: AdaptingResponse, regions: list[int], events: pd.DataFrame) -> np.ndarray:
    """What some regions answer to events, (R, T)."""
    stimuli = []
    for number in regions:
        rows = events[events["trial_type"] == response.regions[number].condition.split("/")[1]]
        onset, duration = (rows[name].to_numpy(float) for name in ("onset", "duration"))
        stimuli.append(boxcar(onset, duration, FRAMES * TR))
    own = Vessels(*(part[regions] for part in vars(response.vessels).values()))
    return respond(np.stack(stimuli), own)[:, :: round(TR / STEP)]


def physiology(
    anatomy: Anatomy,
    csf: np.ndarray,
    mask: np.ndarray,
    response: AdaptingResponse,
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps (voxels,) in per cent and courses (T,) of heart and breath, as the scanner sees them.

    Each is a wave whose rate wanders, and which comes to some places later than to others; the
    heart is where CSF and the great vessels are, the breath everywhere.
    """
    vessels = sum(anatomy.blob(at, 12.0) for at in ((0, -10, -28), (0, -60, 50), (0, 30, 10)))
    strengths = (PULSE * np.clip(csf + vessels, 0, 1.5), CHEST * np.ones_like(csf))
    parts = []
    for strength, rate in zip(strengths, (response.heart, response.breath), strict=True):
        late = 0.8 * anatomy.smooth_map(rng, 0)
        wander = 0.12 * np.cumsum(rng.standard_normal(FRAMES))
        phase = 2 * np.pi * (rate * TR * np.arange(FRAMES) + rng.random()) + wander
        parts.append(((strength * np.cos(late))[mask], np.cos(phase)))
        parts.append(((strength * np.sin(late))[mask], np.sin(phase)))
    return parts


def head_path(rng: np.random.Generator) -> np.ndarray:
    """Shifts in mm and turns in radians that realignment leaves, (6, T): a walk with jerks."""
    scale = np.array([[0.02]] * 3 + [[0.0003]] * 3)
    walk = signal.detrend(np.cumsum(rng.standard_normal((6, FRAMES)), 1), axis=1)
    jerks = np.zeros((6, FRAMES))
    for time in rng.integers(FRAMES, size=rng.poisson(JERKS)):
        jerks[:, time:] += 8 * rng.standard_normal((6, 1))
    return scale * (walk + jerks - jerks.mean(1, keepdims=True))


def spin_history(height: np.ndarray, slices: int) -> np.ndarray:
    """Share of signal that is lost, (Z, T), when the head moves to a ``height`` in mm (T,).

    Spins that come from another slice were excited at another time, and forget it with T1. Slices
    are taken in turns, odd after even, so that every other one loses more.
    """
    jump = np.abs(np.diff(height, prepend=height[:1]))
    held = signal.lfilter([1.0], [1.0, -np.exp(-TR / T1)], 0.06 * jump)
    turn = np.where(np.arange(slices) % 2, 1.0, 0.5)
    return np.asarray(np.minimum(turn[:, None] * held, 0.3), dtype=np.float32)
