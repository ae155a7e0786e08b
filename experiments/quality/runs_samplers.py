"""Task fMRI samplers for an experiment: one codec for published networks, each with a given time.

What a network is fed is made once, a codec trained and all frames encoded, so that networks differ
in nothing but themselves and all of the time is theirs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from neuromix.augment import files
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import inside
from neuromix.augment.data.leakage import provenance
from neuromix.augment.diffusion.fitting import ImageSet
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.fmri.closed_form import about_of
from neuromix.augment.fmri.config import TaskFMRIConfig
from neuromix.augment.fmri.published.parts import Parts, scheduler_of
from neuromix.augment.fmri.published.vqgan import VolumeAutoencoder
from neuromix.augment.fmri.published.windows import write_latents
from neuromix.augment.fmri.runs import Runs, Survey
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.fmri.windows import fit_windows
from neuromix.augment.metrics.task_runs import TaskRun
from neuromix.experiments.quality.runs_baselines import Request
from neuromix.experiments.quality.training_time import timed, train_for

Build = Callable[[Parts], Any]
"""Makes another network for the same windows."""
PERSON = 1_000_000
"""Seeds of persons lie beyond those of runs."""


class Workshop:
    """Fits samplers to the training subjects; whatever is finished in the folder is only loaded.

    Networks have the settings of ``base``, of which a variant changes some.
    """

    def __init__(
        self,
        train: Cohort,
        validation: Cohort,
        base: TaskFMRIConfig,
        folder: Path,
        codec_seconds: float,
    ) -> None:
        self.cohorts = {"train": train, "validation": validation}
        self.base, self.folder, self.codec_seconds = base, folder, codec_seconds

    def closed_form(self, people: int) -> tuple[TaskFMRISampler, dict[str, Any]]:
        """A sampler without a network, of the first people, and what its fit took."""
        cohort = _first(self.cohorts["train"], people)
        without = replace(self.base.training, steps=0)
        config = replace(self.base, autoencoder="", training=without)
        folder = self.folder / f"closed-form-{people}"
        begun = time.process_time()
        sampler, _ = TaskFMRISampler.fit(cohort, config, folder)
        record = folder / "cost.json"
        if not record.is_file():
            files.write_json(record, {"training seconds": time.process_time() - begun})
        return sampler, json.loads(record.read_text())

    def network(
        self, name: str, changes: Mapping[str, Any], seconds: float, build: Build | None = None
    ) -> tuple[TaskFMRISampler, dict[str, Any]]:
        """A published sampler whose network alone was trained for some seconds, and its cost."""
        config = replace(self.base, **changes)
        folder = self.folder / name
        runs, survey = self._runs["train"], self._surveys["train"]
        parts = replace(Parts.begin(runs, survey, config), codec=self._codec)
        if build is not None:
            parts = replace(parts, network=build(parts))
        sets = {each: parts.windows(self._latents[each], self._runs[each]) for each in self._runs}
        objective = parts.objective(config)
        cost = train_for(
            seconds, objective, sets["train"], config.training, folder, sets["validation"]
        )
        network: Any = objective.networks["network"]
        about = about_of(runs, survey, config)
        record = provenance([*self.cohorts.values()], survey.digests)
        sampler = TaskFMRISampler(network, self._codec, scheduler_of(config), None, about, record)
        return sampler, cost

    def denoiser(
        self, name: str, changes: Mapping[str, Any], seconds: float
    ) -> tuple[TaskFMRISampler, dict[str, Any]]:
        """The closed form with the network over frames that learns the rest, and its cost."""
        config = replace(self.base, autoencoder="", **changes)
        folder = self.folder / name
        looked, surveys = list(self._runs.values()), list(self._surveys.values())
        fitted = fit_windows(looked, surveys, config, folder)
        cost = train_for(
            seconds, fitted.objective, fitted.sets[0], config.training, folder, fitted.sets[1]
        )
        network: Any = fitted.denoiser
        network.network = fitted.objective.networks["network"]
        record = provenance([*self.cohorts.values()], surveys[0].digests)
        about = about_of(looked[0], surveys[0], config)
        sampler = TaskFMRISampler(
            network.eval(), None, FlowMultistepScheduler(), fitted.linear, about, record
        )
        return sampler, cost

    @property
    def people(self) -> int:
        """Training subjects."""
        return len(set(self.cohorts["train"].table["subject_id"]))

    @cached_property
    def _runs(self) -> dict[str, Runs]:
        return {name: Runs.of(part, self.base.window) for name, part in self.cohorts.items()}

    @cached_property
    def _surveys(self) -> dict[str, Survey]:
        place, sampled = self.folder / "shared", self.base.sampled
        return {name: Survey.of(runs, place / name, sampled) for name, runs in self._runs.items()}

    @cached_property
    def _codec(self) -> VolumeAutoencoder:
        place = self.folder / "shared"
        parts = Parts.begin(self._runs["train"], self._surveys["train"], self.base)
        frames = ImageSet(place / "train" / "frames.npy")
        codec = self.base.autoencoding.within(self.base.training)
        plan = timed(parts.game, frames, codec, self.codec_seconds, place / "codec")
        config = replace(self.base, autoencoding=plan)
        parts.fit_codec([place / name for name in self._runs], config, place / "codec", True, False)
        return parts.codec

    @cached_property
    def _latents(self) -> dict[str, Path]:
        paths = {name: self.folder / "shared" / f"{name}.npy" for name in self._runs}
        for name, path in paths.items():
            if not path.is_file():
                write_latents(self._codec, self._runs[name], self._surveys[name], path)
        return paths


class SamplerRuns:
    """A sampler in the shape of :class:`neuromix.experiments.quality.runs_baselines.Generator`.

    All runs that are asked for one subject are one person's, of the labels in ``people``.
    """

    def __init__(
        self, sampler: TaskFMRISampler, people: Mapping[str, Mapping[str, Any]], steps: int
    ) -> None:
        self.sampler, self.people, self.steps = sampler, people, steps
        self.seconds, self.frames = 0.0, 0

    def draw(self, requests: Iterable[Request], seeds: Iterable[int]) -> Iterator[TaskRun]:
        """Make a run for each request."""
        space = self.sampler.label_space
        numbers = {name: k for k, name in enumerate(self.people)}
        for request, seed in zip(requests, seeds, strict=True):
            begun = time.process_time()
            words = request.repeat.split()
            known = [word for word in words if word in space.categories.get("dir", ())]
            row = dict(self.people[request.subject]) | {
                "task": request.task,
                "dir": [*known, ""][0],
            }
            pieces = self.sampler.timed(request.events, request.frames).stream(
                inside(space, row), seed, self.steps, person=PERSON + numbers[request.subject]
            )
            data = np.moveaxis(np.concatenate(list(pieces)), 0, 3)
            self.seconds += time.process_time() - begun
            self.frames += request.frames
            yield request.answer(data)


def _first(cohort: Cohort, people: int) -> Cohort:
    return cohort.where(subject_id=list(dict.fromkeys(cohort.table["subject_id"]))[:people])
