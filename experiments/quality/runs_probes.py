"""Two questions to a task fMRI sampler that held-out runs do not answer.

*Unseen timing*: events of another length and rhythm than any training run's. Do active regions of
the real runs follow what the design predicts, and how surely, over synthetic people?

*Any length*: a run of 300 frames beside one of 40. Does its memory grow, and do its noise and its
memory of the frame before stay steady along it?
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuromix.augment.fmri.runs import of_task
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.metrics import glm, time_series
from neuromix.augment.metrics import response_maps as maps
from neuromix.augment.metrics.neuro import NeuroJudge
from neuromix.augment.prepare.bold import EVENT_COLUMNS
from neuromix.experiments.frame.pace import own_memory
from neuromix.experiments.quality.runs_baselines import Request
from neuromix.experiments.quality.runs_samplers import SamplerRuns

SHORT, LONG = 40, 300
"""Frames."""
TRIAL = 7.0
"""Seconds of an event that no training run has: theirs are blocks of 16 s."""


def unseen_events(conditions: Sequence[str], frames: int, tr: float, seed: int) -> pd.DataFrame:
    """Trials of :data:`TRIAL` seconds with pauses of 5 to 21, the conditions in turns at random."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[float, float, str]] = []
    names: list[str] = []
    onset = float(rng.uniform(3, 12))
    while onset + TRIAL < frames * tr - 10:
        names = names or [str(name) for name in rng.permutation(list(conditions))]
        rows.append((round(onset, 2), TRIAL, names.pop()))
        onset += TRIAL + float(rng.uniform(5, 21))
    return pd.DataFrame(rows, columns=list(EVENT_COLUMNS))


def unseen_timing(
    sampler: TaskFMRISampler,
    judge: NeuroJudge,
    people: Mapping[str, Mapping[str, Any]],
    count: int,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """Courses of active regions under events that no training run had, by condition.

    Returns:
        For each condition ``r``, the correlation of the mean course of all people with the design
        (:func:`neuromix.augment.metrics.glm.roi_course`), ``each``, the mean over people of their
        own, and the curves ``mean``, ``low``, ``high`` (95 % of people) and ``predicted``, in per
        cent.
    """
    active = maps.active_voxels(judge.real.group())
    curves: dict[str, Any] = {}
    tasks = list(dict.fromkeys(name.rpartition("/")[0] for name in judge.conditions))
    for number, task in enumerate(tasks):
        names = [each.rpartition("/")[2] for each in of_task(judge.conditions, task)]
        frames = int(sampler.about["lengths"][task])
        events = unseen_events(names, frames, sampler.tr, seed + number)
        asked = [Request(who, task, events, sampler.tr, frames) for who in list(people)[:count]]
        design = glm.design_matrix(events, frames, sampler.tr)
        percents = []
        for run in SamplerRuns(sampler, people, steps).draw(asked, range(len(asked))):
            percents.append(glm.percent_signal(run.series(judge.mask))[0])
        for name in names:
            code = judge.conditions.index(f"{task}/{name}")
            courses = np.stack([percent[:, active[code]].mean(axis=1) for percent in percents])
            mean = courses.mean(axis=0)
            size = np.linalg.lstsq(design.to_numpy(), mean, rcond=None)[0]
            predicted = design[name].to_numpy() * size[list(design.columns).index(name)]
            low, high = np.quantile(courses, (0.025, 0.975), axis=0)
            curves[f"{task}/{name}"] = {
                "r": glm.roi_course(mean, design, name),
                "each": float(np.mean([glm.roi_course(c, design, name) for c in courses])),
                "people": len(courses),
                "mean": mean.tolist(), "low": low.tolist(), "high": high.tolist(),
                "predicted": predicted.tolist(),
            }  # fmt: skip
    return {"conditions": curves, "tr": sampler.tr}


def any_length(
    sampler: TaskFMRISampler, judge: NeuroJudge, task: str, steps: int, seed: int
) -> dict[str, Any]:
    """What a run of :data:`LONG` frames costs beside one of :data:`SHORT`, and whether it fades."""
    names = [each.rpartition("/")[2] for each in of_task(judge.conditions, task)]
    result: dict[str, Any] = {}
    for frames in (SHORT, LONG):
        events = unseen_events(names, frames, sampler.tr, seed)
        timed = sampler.timed(events, frames)
        _forget_peak()
        begun, series = time.process_time(), []
        for piece in timed.stream({"task": task}, seed, steps):
            series.append(piece[:, judge.mask])
        result[str(frames)] = {
            "peak, MB": own_memory("VmHWM"),
            "frames a second": frames / (time.process_time() - begun),
        }
    fit = glm.first_level(np.concatenate(series), events, sampler.tr)
    quarters = time_series.by_quarter(fit.residuals[:, fit.lit])
    return result | {"tsnr": quarters[0].tolist(), "lag one": quarters[1].tolist()}


def _forget_peak() -> None:
    """Begin a new peak of memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
