"""The task fMRI sampler: BOLD runs of any length that follow given events.

A person, an anatomy B and response maps M, is drawn in closed form (:class:`LinearRun`). Frames are
deviations from that anatomy, made jointly by windows: a :class:`RunDenoiser`, what statistics know
of a window (the linear response, the noise's patterns and memory, the frames before) and a network
for what they do not, gives the velocity v of the flow dx/dt = v, with classifier-free guidance that
drops labels and design at once:

    p = p(x, t, none) + guidance (p(x, t, y) - p(x, t, none)),      x <- step(p, t, x)
    run = B (1 + unit x)

A long run is made window by window. Each begins with some frames of the one before, which are known
to it. Memory holds a window, however long the run: see :meth:`TaskFMRISampler.stream`. Without a
network (0 steps of training) the run is the closed form's own, frame after frame.

The published system (Seo et al. 2025) is the preset ``paper``, in ``published/``: windows of VQ-GAN
latents, frames stacked into channels, noise prediction with T = 1000 and the square root of beta
even from 0.0015 to 0.0195, no prior.

Values come back in the scanner's units of the training runs, whose middle mean brain signal they
have, on their grid and with their repetition time. Every frame is zero outside the brain mask.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from neuromix.augment.data import bids
from neuromix.augment.data.conditions import LabelSpace, known
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.fitting import ImageSet, Job, Trainable
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.loop import Trained, check_size, estimate
from neuromix.augment.diffusion.pipeline import SamplerSource, check_requests, recipe
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.closed_form import ClosedRun, about_of, check_alike, fit_linear
from neuromix.augment.fmri.config import TaskFMRIConfig
from neuromix.augment.fmri.linear_run import LinearRun
from neuromix.augment.fmri.published.hybrid_dit import HybridDiT
from neuromix.augment.fmri.published.parts import Parts, scheduler_of
from neuromix.augment.fmri.published.vqgan import VolumeAutoencoder
from neuromix.augment.fmri.published.windows import draw_latents, write_latents
from neuromix.augment.fmri.run_prior import RunDenoiser
from neuromix.augment.fmri.runs import Runs, Survey, design_of, draw_events, task_of
from neuromix.augment.fmri.windows import draw_windows, fit_windows
from neuromix.augment.prepare.bold import EVENT_COLUMNS, check_events

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

ESTIMATED = 8
"""Runs that a dry run looks at."""


class RunPlan(NamedTuple):
    """What a run is to be."""

    labels: dict[str, Any]
    events: pd.DataFrame
    design: np.ndarray
    """(T, BASIS * conditions)."""


class TaskFMRISampler(Trainable, SamplerSource, DiffusionPipeline):
    """Makes BOLD runs of given labels and events.

    Args:
        transformer: The denoiser; without one, runs are those of the closed form.
        codec: Volumes to latents and back, of the published design alone.
        scheduler: Owns the times and the step from one to the next.
        linear: Draws people, and runs in closed form; the published design has none.
        about: Label space, conditions, event timings and lengths of the training runs, repetition
            time, signal, grid, window and overlap; and the events and frames of :meth:`timed`.
        provenance: Who and what made it.
    """

    _optional_components = ["transformer", "codec", "linear"]  # noqa: RUF012  # diffusers' name
    image = "bold"
    transformer: RunDenoiser | HybridDiT | None
    codec: VolumeAutoencoder | None
    linear: LinearRun | None
    scheduler: Any  # diffusers' own types of its steps are too narrow

    def __init__(
        self,
        transformer: RunDenoiser | HybridDiT | None,
        codec: VolumeAutoencoder | None,
        scheduler: FlowMultistepScheduler | DPMSolverMultistepScheduler,
        linear: LinearRun | None,
        about: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if codec is not None and linear is not None:
            raise InputError(
                "a network of latents came with a closed form to start from, which this release "
                "does not have; fit the sampler again, or open it with the release that saved it"
            )
        self.register_modules(
            transformer=transformer, codec=codec, scheduler=scheduler, linear=linear
        )
        self.register_to_config(about=about, provenance=provenance)

    @property
    def about(self) -> dict[str, Any]:
        """What it knows of runs, see above."""
        return dict(self.config["about"])

    @property
    def label_space(self) -> LabelSpace:  # type: ignore[override]
        """What it can be asked for."""
        return LabelSpace.from_dict(self.about["label_space"])

    @property
    def grid(self) -> Grid:
        """Where its volumes lie."""
        return Grid.from_dict(self.about["grid"])

    @property
    def tr(self) -> float:
        """Seconds between frames."""
        return float(self.about["tr"])

    @classmethod
    def _fit(cls, job: Job) -> tuple[TaskFMRISampler, Trained, dict[str, Any]]:
        cohort, config, work = job.cohorts[0], job.config, job.work
        looked = [Runs.of(each, config.window) for each in job.cohorts]
        check_alike(looked)
        if config.training.steps:
            check_size(len(cohort), config.training)
        folders = [work / name for name in job.names]
        with PartialState().main_process_first():  # the others find what it has written
            settings = asdict(config)
            del settings["training"], settings["autoencoding"]  # the loop looks at its own
            job.keep(settings, ("bold",))
            surveys = [
                Survey.of(runs, folder, config.sampled, job.progress)
                for runs, folder in zip(looked, folders, strict=True)
            ]
        network: Any = None
        codec: Any = None
        linear, scheduler = None, FlowMultistepScheduler()
        if config.autoencoder:
            with PartialState().main_process_first():
                parts = Parts.begin(looked[0], surveys[0], config)
            parts.fit_codec(folders, config, work, job.resume, job.progress)
            paths = job.arrays(
                lambda k, path: write_latents(
                    parts.codec, looked[k], surveys[k], path, job.progress
                )
            )
            latents = [parts.windows(*pair) for pair in zip(paths, looked, strict=True)]
            objective = parts.objective(config)
            trained = job.train(objective, latents, config.training)
            network, codec = objective.networks["network"].eval(), parts.codec
            scheduler = scheduler_of(config)
        elif config.training.steps:
            with PartialState().main_process_first():
                fitted = fit_windows(looked, surveys, config, work, job.progress)
            trained = job.train(fitted.objective, fitted.sets, config.training)
            network, linear = fitted.denoiser, fitted.linear
            network.network = fitted.objective.networks["network"]
            network.eval()
        else:
            begun = time.perf_counter()
            with PartialState().main_process_first():
                linear = fit_linear(looked[0], surveys[0], config, work, job.progress)
            trained = Trained(0, 0, math.inf, time.perf_counter() - begun, 0.0)
        record = job.record(digest for survey in surveys for digest in survey.digests)
        record["space"] = bids.space_of(cohort.table["bold_path"])
        about = about_of(looked[0], surveys[0], config)
        return cls(network, codec, scheduler, linear, about), trained, record

    @classmethod
    def estimate(cls, cohort: Cohort, config: TaskFMRIConfig) -> float:
        """Seconds that the training of a fit would take on this machine; nothing is kept."""
        few = cohort.where(np.arange(len(cohort)) < ESTIMATED)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            runs = Runs.of(few, config.window)
            begun = time.perf_counter()
            survey = Survey.of(runs, work, config.sampled)
            seconds = 0.0
            if config.autoencoder:
                parts = Parts.begin(runs, survey, config)
                path = write_latents(parts.codec, runs, survey, work / "train.npy")
                reading = time.perf_counter() - begun
                frames = ImageSet(work / "frames.npy")
                seconds += estimate(parts.game, frames, config.autoencoding)
                objective: Any = parts.objective(config)
                seconds += estimate(objective, parts.windows(path, runs), config.training)
            elif config.training.steps:
                fitted = fit_windows([runs], [survey], config, work)
                reading = time.perf_counter() - begun
                seconds += estimate(fitted.objective, fitted.sets[0], config.training)
            else:
                fit_linear(runs, survey, config, work)
                reading = time.perf_counter() - begun
            return seconds + reading / len(few) * len(cohort)

    def timed(self, events: pd.DataFrame | None, frames: int | None = None) -> TaskFMRISampler:
        """The same sampler for runs of given events and length: another sampler, as it were.

        By default events are drawn like the training runs', and runs as long as those of the task.
        """
        about = self.about
        if frames is not None:
            if frames < 1:
                raise InputError(f"{frames} frames came; a run needs 1 or more")
            about["frames"] = frames
        if events is not None:
            about["events"] = events[list(EVENT_COLUMNS)].to_numpy().tolist()
        sampler = type(self)(**self.components, about=about, provenance=self.config["provenance"])
        if events is not None:
            task = task_of(events, about["timings"], about["conditions"])
            sampler._plan({"task": task}, 0)  # so that what does not fit is told at once
        return sampler

    def __call__(
        self,
        labels: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        steps: int = 20,
        guidance: float = 1.0,
    ) -> list[tio.Subject]:
        """Make a subject with one run for each of the labels.

        Args:
            labels: For example ``[{"task": "motor", "dir": "LR"}]``. The task follows from the
                events of :meth:`timed`, or is drawn; so is the phase encoding.
            seeds: One a subject.
            steps: Of the scheduler; 10 to 20 are enough.
            guidance: Above 1, labels and events show more than in nature.

        Returns:
            Subjects with ``bold``, channels = frames, in scanner units. The image tells its
            ``RepetitionTime`` and its ``events``, rows of onset, duration and trial type as JSON.
        """
        check_requests(labels, seeds)
        return [
            self._run(dict(row), seed, steps, guidance)
            for row, seed in zip(labels, seeds, strict=True)
        ]

    @torch.no_grad()
    def stream(
        self,
        labels: Mapping[str, Any],
        seed: int,
        steps: int = 20,
        guidance: float = 1.0,
        *,
        person: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Make a run piece by piece, in the memory of a window.

        Args:
            labels: As of a call.
            seed: Of the run.
            steps: As of a call.
            guidance: As of a call.
            person: Seed of the person, so that several runs can be one person's; by default the
                run's. The published design knows no persons.

        Yields:
            Frames (n, X, Y, Z) in scanner units, one piece after the other.
        """
        plan = self._plan(labels, seed)
        who = seed if person is None else person
        for frames in self._pieces(plan, seed, who, steps, guidance):
            yield np.maximum(frames.cpu().numpy(), 0) * np.float32(self.about["signal"])

    def _pieces(
        self, plan: RunPlan, seed: int, who: int, steps: int, guidance: float
    ) -> Iterator[Tensor]:
        """Frames (n, X, Y, Z), scaled to a mean of about 1."""
        window, overlap = self.about["window"], self.about["overlap"]
        codes = self.label_space.encode(plan.labels)
        network: Any = self.transformer
        if self.codec is not None:
            yield from draw_latents(
                network, self.codec, self.scheduler, plan.design, codes, overlap, seed,
                steps, guidance,
            )  # fmt: skip
        elif network is not None:
            assert self.linear is not None
            yield from draw_windows(
                network, self.scheduler, self.linear, plan.design, codes, self.tr, overlap,
                (seed, who), steps, guidance,
            )  # fmt: skip
        else:
            assert self.linear is not None
            if guidance != 1:
                warnings.warn("guidance changes nothing: this sampler has no network", stacklevel=3)
            prior = ClosedRun.draw(self.linear, plan.labels, seed, who)
            for start in range(0, len(plan.design), window):
                yield prior.take(plan.design[start : start + window])

    def _plan(self, labels: Mapping[str, Any], seed: int) -> RunPlan:
        """Labels, events and design of a run, drawn where they are not told."""
        about, space = self.about, self.label_space
        rng = np.random.default_rng([seed, 1])
        chosen = {name: value for name, value in labels.items() if known(value)}
        events = about.get("events")
        table = None if events is None else pd.DataFrame(events, columns=list(EVENT_COLUMNS))
        if table is not None and "task" not in chosen:
            chosen["task"] = task_of(table, about["timings"], about["conditions"])
        for name in ("task", "dir"):
            values = space.categories.get(name, ())
            drawn = rng.permutation(values)
            if values:
                chosen.setdefault(name, str(drawn[0]))
        space.encode(chosen)
        task = str(chosen.get("task", ""))
        frames = int(about.get("frames") or about["lengths"][task])
        if table is None:
            table = draw_events(about["timings"][task], frames, self.tr, rng)
        check_events(table, frames, self.tr)
        design = design_of(table, task, about["conditions"], frames, self.tr)
        return RunPlan(chosen, table, design)

    def _run(self, labels: dict[str, Any], seed: int, steps: int, guidance: float) -> tio.Subject:
        import torchio as tio

        plan = self._plan(labels, seed)
        run = np.concatenate([*self.stream(labels, seed, steps, guidance)])
        image = tio.ScalarImage(
            tensor=torch.from_numpy(run),
            affine=self.grid.affine,
            RepetitionTime=self.tr,
            events=json.dumps(plan.events.to_numpy().tolist()),
        )
        made_by = recipe(labels, seed, steps, guidance)
        return self._subject(image, seed, made_by, plan.labels)
