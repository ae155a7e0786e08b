"""What ``neuromix experiment decoding`` would cost."""

from __future__ import annotations

import time

import numpy as np
import torchio as tio

from neuromix.augment.data.grid import Grid
from neuromix.augment.fmri.runs import Runs
from neuromix.classifiers.base import VolumeClassifier
from neuromix.experiments.evidence.decoders import BANKS
from neuromix.experiments.evidence.decoding_config import Decoding
from neuromix.experiments.evidence.decoding_people import runs_asked_for

SECONDS = {"subject": 1.3, "run read": 0.14, "frame": 0.003}
"""Of the phantom at 6 mm, on two cores of a small server; the dry run's estimate."""


def plan(config: Decoding) -> list[tuple[str, float]]:
    """What would be done, and seconds for each; the fits are measured on this machine."""
    if config.data is None:
        grid, runs = Grid.mni(config.spacing), 2 * (len(config.tasks) or 7)
        frames, judged = 100.0, config.test
        runs = runs // 2 * (len(config.directions) or 2)
    else:
        cohort = runs_asked_for(config, config.data)
        looked = Runs.of(cohort, 1)
        grid, runs = looked.grid, -(-len(cohort) // len(cohort.subject_keys))
        frames = float(np.mean([each.frames for each in looked.runs]))
        judged = len(cohort.subject_keys) - max(config.sizes) - config.validation - config.fresh
    part = float(np.prod(grid.shape) / np.prod(Grid.mni(6.0).shape))
    people = judged + max(config.sizes) + config.validation + config.fresh
    sides = [-(-side // config.shrink) for side in grid.shape]
    rng = np.random.default_rng(0)
    few = [
        tio.Subject(bold=tio.ScalarImage(tensor=rng.random((config.frames, *sides))), sex=sex)
        for sex in "FM" * 8
    ]
    VolumeClassifier("sex", "bold", steps=1).fit(few)  # what is done once in a process
    spans = []
    for steps in (1, 11):
        begun = time.perf_counter()
        VolumeClassifier("sex", "bold", steps=steps).fit(few)
        spans.append(time.perf_counter() - begun)
    pace = max(spans[1] - spans[0], 0) / 10
    read = SECONDS["run read"] * part * runs
    drawn = sum(config.sizes) * 2 * runs * config.ratio * len(config.targets)
    kinds = len({BANKS[arm] for arm in config.arms if arm in BANKS})
    fits = config.seeds * len(config.targets) * (
        len(config.sizes) * len(config.arms) + (config.fresh > 0)
    )  # fmt: skip
    return [
        ("phantom", people * SECONDS["subject"] * part * (config.data is None)),
        ("reading", 3 * people * read),
        (f"{len(config.sizes)} samplers", 4 * sum(config.sizes) * read),
        (f"{kinds * drawn} synthetic runs", kinds * drawn * frames * SECONDS["frame"] * part),
        (f"{fits} fits", fits * config.steps * pace),
    ]
