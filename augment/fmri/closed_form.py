"""Runs in closed form: :class:`LinearRun` fitted to a cohort's runs, and drawn piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import encode_rows
from neuromix.augment.errors import InputError
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
        """The next frames (n, X, Y, Z), which follow the next rows of the design."""
        answer = torch.from_numpy(design) @ self.maps.cpu() + self.courses.take(len(design))
        mask = self.linear.mask.cpu()
        frames = torch.zeros(len(design), *mask.shape)
        frames[:, mask] = (self.base.cpu() * (1 + answer)).clamp_min(0)
        return frames


def fit_linear(
    runs: Runs,
    survey: Survey,
    config: TaskFMRIConfig,
    work: Path,
    progress: bool = False,
    chosen: Sequence[int] | None = None,
    name: str = "linear",
) -> LinearRun:
    """The closed form of training runs, or one that was fitted before and kept in ``work``.

    ``chosen`` are the numbers of the runs that it is fitted to; all by default.
    """
    kept = work / name
    if kept.is_dir():
        before: LinearRun = LinearRun.from_pretrained(kept)
        return before
    numbers = range(len(runs.runs)) if chosen is None else chosen
    space = label_space_of(runs, config)
    people = list(dict.fromkeys(runs.runs[k].subject for k in numbers))
    estimated = [
        estimated_of(runs, k, runs.conditions, space, people.index(runs.runs[k].subject))
        for k in numbers
    ]
    linear = LinearRun(
        label_space=space.to_dict(), courses=BASIS * len(runs.conditions),
        shape=list(survey.mask.shape), voxels=int(survey.mask.sum()),
        people=min(config.people, len(people)), patterns=config.patterns,
    )  # fmt: skip
    linear.mask.copy_(torch.from_numpy(survey.mask))

    def numbered(k: int) -> np.ndarray:
        return read(runs, survey, numbers[k])

    codes = encode_rows(space, [runs.runs[k].labels for k in numbers])
    linear.fit(estimated, numbered, codes, runs.tr, work, progress)
    with files.replacing_folder(kept) as folder:
        linear.save_pretrained(folder)
    return linear


def read(runs: Runs, survey: Survey, number: int) -> np.ndarray:
    """Frames (T, V) of a run in its brain, scaled to a mean of about 1."""
    data: np.ndarray = runs.runs[number].read()[:, survey.mask]
    return data / np.float32(survey.scales[number])


def estimated_of(
    runs: Runs, number: int, conditions: Sequence[str], space: LabelSpace, person: int
) -> Estimated:
    """What :class:`LinearRun` knows of a run beside its frames."""
    run = runs.runs[number]
    return Estimated(
        design_of(run.events, run.task, conditions, run.frames, runs.tr),
        run.task,
        _place(list(space.categories.get("dir", ("",))), str(run.labels["dir"])),
        person,
        [
            BASIS * k + part
            for k, name in enumerate(conditions)
            for part in range(BASIS)
            if name in of_task(conditions, run.task)
        ],
    )


def label_space_of(runs: Runs, config: TaskFMRIConfig) -> LabelSpace:
    """What a sampler of these runs can be asked for."""
    return LabelSpace.from_known([run.labels for run in runs.runs], config.labels)


def about_of(runs: Runs, survey: Survey, config: TaskFMRIConfig) -> dict[str, Any]:
    """What a sampler of these runs knows of runs."""
    lengths: dict[str, list[int]] = {}
    for run in runs.runs:
        lengths.setdefault(run.task, []).append(run.frames)
    return {
        "label_space": label_space_of(runs, config).to_dict(),
        "conditions": list(runs.conditions),
        "timings": runs.timings,
        "lengths": {task: int(np.median(each)) for task, each in lengths.items()},
        "tr": runs.tr,
        "signal": float(np.median(survey.scales)),
        "grid": runs.grid.to_dict(),
        "window": config.window,
        "overlap": config.overlap,
    }


def check_alike(looked: Sequence[Runs]) -> None:
    """Validation runs must be runs as the training's."""
    first = looked[0]
    for other in looked[1:]:
        if other.grid != first.grid or abs(other.tr - first.tr) > 1e-3:
            raise InputError(
                f"the validation runs have {other.grid} every {other.tr:g} s and the training's "
                f"{first.grid} every {first.tr:g} s, or they lie elsewhere; prepare both alike"
            )
        strange = sorted(set(other.conditions) - set(first.conditions))
        if strange:
            raise InputError(
                f"condition {strange[0]!r} is in the validation runs and in no training run; drop "
                "its runs, or split anew"
            )


def generator(*words: int) -> torch.Generator:
    """Of the seed of a run, the number of a window, and what is drawn."""
    word = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def _place(directions: list[str], direction: str) -> int:
    """Index of a phase encoding; of a run that tells none, the first."""
    return directions.index(direction) if direction in directions else 0
