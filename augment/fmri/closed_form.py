"""Runs in closed form: :class:`LinearRun` fitted to a cohort's runs, and drawn piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import encode_rows
from neuromix.augment.fmri.config import TaskFMRIConfig
from neuromix.augment.fmri.linear_run import Courses, Estimated, LinearRun
from neuromix.augment.fmri.runs import BASIS, Runs, Survey, design_of, of_task

PERSON, NOISE = 1, 2
"""Streams of random numbers of a run, beside those of its windows."""


@dataclass
class ClosedRun:
    """A person in closed form, and the noise of one run, which goes on from piece to piece."""

    linear: LinearRun
    base: Tensor
    maps: Tensor
    courses: Courses

    @classmethod
    def draw(
        cls, linear: LinearRun, labels: Mapping[str, Any], seed: int, person: int
    ) -> ClosedRun:
        """The person of a seed, and the run of another before its first frame."""
        space = linear.label_space
        codes = {name: torch.tensor([code]) for name, code in space.encode(labels).items()}
        direction = int(codes["dir"]) if "dir" in codes else 0
        base, maps = linear.draw(direction, codes, generator(person, 0, PERSON))
        return cls(linear, base, maps, linear.begin(generator(seed, 0, NOISE)))

    def take(self, design: np.ndarray) -> Tensor:
        """The next frames (n, 1, X, Y, Z), which follow the next rows of the design."""
        answer = torch.from_numpy(design) @ self.maps.cpu() + self.courses.take(len(design))
        mask = self.linear.mask.cpu()
        frames = torch.zeros(len(design), 1, *mask.shape)
        frames[:, 0, mask] = (self.base.cpu() * (1 + answer)).clamp_min(0)
        return frames


def fit_linear(
    runs: Runs,
    survey: Survey,
    config: TaskFMRIConfig,
    work: Path,
    progress: bool = False,
) -> LinearRun:
    """The closed form of training runs, or one that was fitted before and kept in ``work``."""
    kept = work / "linear"
    if kept.is_dir():
        before: LinearRun = LinearRun.from_pretrained(kept)
        return before
    space = label_space_of(runs, config)
    people = list(dict.fromkeys(run.subject for run in runs.runs))
    directions = list(space.categories.get("dir", ("",)))
    estimated = [
        Estimated(
            design_of(run.events, run.task, runs.conditions, run.frames, runs.tr),
            run.task,
            _place(directions, str(run.labels["dir"])),
            people.index(run.subject),
            [
                BASIS * k + part
                for k, name in enumerate(runs.conditions)
                for part in range(BASIS)
                if name in of_task(runs.conditions, run.task)
            ],
        )
        for run in runs.runs
    ]
    linear = LinearRun(
        label_space=space.to_dict(), courses=BASIS * len(runs.conditions),
        shape=list(survey.mask.shape), voxels=int(survey.mask.sum()),
        people=min(config.people, len(people)), patterns=config.patterns,
    )  # fmt: skip
    linear.mask.copy_(torch.from_numpy(survey.mask))

    def read(k: int) -> np.ndarray:
        data: np.ndarray = runs.runs[k].read()[:, survey.mask] / np.float32(survey.scales[k])
        return data

    codes = encode_rows(space, [run.labels for run in runs.runs])
    linear.fit(estimated, read, codes, runs.tr, work, progress)
    with files.replacing_folder(kept) as folder:
        linear.save_pretrained(folder)
    return linear


def label_space_of(runs: Runs, config: TaskFMRIConfig) -> LabelSpace:
    """What a sampler of these runs can be asked for."""
    return LabelSpace.from_known([run.labels for run in runs.runs], config.labels)


def generator(*words: int) -> torch.Generator:
    """Of the seed of a run, the number of a window, and what is drawn."""
    word = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def _place(directions: list[str], direction: str) -> int:
    """Index of a phase encoding; of a run that tells none, the first."""
    return directions.index(direction) if direction in directions else 0
