"""The task fMRI sampler: BOLD runs of any length that follow given events.

Volumes are encoded one by one, windows of latents are made jointly from noise by a hierarchical
CNN-transformer that knows the task, the phase encoding, the subject's labels and the design (events
convolved with the haemodynamic response) frame by frame, with classifier-free guidance:

    p = p(x, t, none) + guidance (p(x, t, y) - p(x, t, none)),      x <- step(p, t, x)

The published system (Seo et al. 2025) is the preset ``paper``: VQ-GAN latents, frames stacked into
channels, noise prediction with T = 1000 and the square root of beta even from 0.0015 to 0.0195.

On two cores a network that starts from noise stays poor. With ``start`` below 1 the flow begins on
its way: from a run that :class:`LinearRun` has drawn in closed form, encoded and mixed with noise,

    x_s = (1 - s) E(y) + s n,        run = y + D(x_0) - D(E(y))

so that what a codec cannot represent, such as a response of one per cent, is kept (Meng et al.
2022 edit pictures so). With s = 0 the run is y, and there is no network.

A long run is made window by window. Each begins with some frames of the one before, which the
network is given; over these the run goes gradually from the old window to the new. Memory holds a
window, however long the run: see :meth:`TaskFMRISampler.stream`.

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
from neuromix.augment.diffusion.pipeline import SamplerSource, check_requests, recipe, solve
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.closed_form import ClosedRun, fit_linear, generator
from neuromix.augment.fmri.config import TaskFMRIConfig
from neuromix.augment.fmri.linear_run import LinearRun
from neuromix.augment.fmri.network import HybridDiT
from neuromix.augment.fmri.parts import (
    Parts,
    about_of,
    check_alike,
    scheduler_of,
)
from neuromix.augment.fmri.published.vqgan import VolumeAutoencoder
from neuromix.augment.fmri.published.windows import known_frames, write_latents
from neuromix.augment.fmri.runs import Runs, Survey, design_of, draw_events, task_of
from neuromix.augment.prepare.bold import EVENT_COLUMNS, check_events, windows

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
        transformer: The denoiser.
        codec: Volumes to latents and back.
        scheduler: Owns the times and the step from one to the next.
        linear: Draws runs in closed form. With a start of 1 there is none, and with one of 0 no
            transformer and no codec.
        about: Label space, conditions, event timings and lengths of the training runs, repetition
            time, signal, grid, window and overlap; and the events and frames of :meth:`timed`.
        provenance: Who and what made it.
    """

    _optional_components = ["transformer", "codec", "linear"]  # noqa: RUF012  # diffusers' name
    image = "bold"
    transformer: HybridDiT
    codec: VolumeAutoencoder
    linear: LinearRun | None
    scheduler: Any  # diffusers' own types of its steps are too narrow

    def __init__(
        self,
        transformer: HybridDiT | None,
        codec: VolumeAutoencoder | None,
        scheduler: FlowMultistepScheduler | DPMSolverMultistepScheduler,
        linear: LinearRun | None,
        about: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
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
        if config.start > 0:
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
            linear = None
            begun = time.perf_counter()
            if config.start < 1:
                linear = fit_linear(looked[0], surveys[0], config, work, job.progress)
        network: Any = None
        codec: Any = None
        trained = Trained(0, 0, math.inf, time.perf_counter() - begun, 0.0)
        if config.start > 0:
            parts = Parts.begin(looked[0], surveys[0], config)
            parts.fit_codec(folders, config, work, job.resume, job.progress)
            paths = job.arrays(
                lambda k, path: write_latents(
                    parts.codec, looked[k], surveys[k], path, job.progress
                )
            )
            sets = [parts.windows(*pair) for pair in zip(paths, looked, strict=True)]
            objective = parts.objective(config)
            trained = job.train(objective, sets, config.training)
            network, codec = objective.networks["network"].eval(), parts.codec
        record = job.record(digest for survey in surveys for digest in survey.digests)
        record["space"] = bids.space_of(cohort.table["bold_path"])
        about = about_of(looked[0], surveys[0], config)
        return cls(network, codec, scheduler_of(config), linear, about), trained, record

    @classmethod
    def estimate(cls, cohort: Cohort, config: TaskFMRIConfig) -> float:
        """Seconds that the training of a fit would take on this machine; nothing is kept."""
        few = cohort.where(np.arange(len(cohort)) < ESTIMATED)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            runs = Runs.of(few, config.window)
            begun = time.perf_counter()
            survey = Survey.of(runs, work, config.sampled)
            if config.start < 1:
                fit_linear(runs, survey, config, work)
            if config.start == 0:
                return (time.perf_counter() - begun) / len(few) * len(cohort)
            parts = Parts.begin(runs, survey, config)
            path = write_latents(parts.codec, runs, survey, work / "train.npy")
            reading = (time.perf_counter() - begun) / len(few)
            seconds = reading * len(cohort)
            frames = ImageSet(work / "frames.npy")
            seconds += estimate(parts.game, frames, config.autoencoding)
            return seconds + estimate(
                parts.objective(config), parts.windows(path, runs), config.training
            )

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
                run's. A sampler that starts from noise alone knows no persons.

        Yields:
            Frames (n, X, Y, Z) in scanner units, one piece after the other.
        """
        plan = self._plan(labels, seed)
        length, count = self.about["window"], len(plan.design)
        who = seed if person is None else person
        linear = self.linear
        prior = None if linear is None else ClosedRun.draw(linear, plan.labels, seed, who)
        signal = np.float32(self.about["signal"])
        if self.transformer is None:
            assert prior is not None
            if guidance != 1:
                warnings.warn("guidance changes nothing: this sampler has no network", stacklevel=2)
            for start in range(0, count, length):
                frames = prior.take(plan.design[start : start + length])
                yield frames[:, 0].numpy() * signal
            return
        if count < length:
            raise InputError(
                f"a run of {count} frames is shorter than the window of {length}; ask for "
                f"{length} or more"
            )
        starts = windows(count, length, self.about["overlap"] / length)
        device = self.transformer.device
        inside = self.codec.latent_mask.to(device)
        drawn = torch.zeros(0, 1, *self.grid.shape)
        latents: Tensor | None = None
        for number, start in enumerate(starts):
            shared = starts[number - 1] + length - start if number else 0
            design = plan.design[start : start + length]
            before = None if latents is None else latents[length - shared :]
            origin = None
            if prior is not None:
                fresh = prior.take(design[shared:])
                drawn = torch.cat([drawn[len(drawn) - shared :], fresh])
                origin = self.codec.moments(drawn.to(device))[0] * inside
            latents = self._window(plan, design, origin, before, (seed, number), steps, guidance)
            if before is not None:
                share = torch.arange(1, shared + 1).to(latents) / (shared + 1)
                share = share.reshape(-1, 1, 1, 1, 1)
                latents[:shared] = (1 - share) * before + share * latents[:shared]
            done = starts[number + 1] - start if number + 1 < len(starts) else length
            volumes = self.codec.decode(latents[:done])
            if origin is not None:
                volumes = drawn[:done].to(device) + volumes - self.codec.decode(origin[:done])
            yield np.maximum(volumes[:, 0].float().cpu().numpy(), 0) * signal

    def _window(
        self,
        plan: RunPlan,
        design: np.ndarray,
        origin: Tensor | None,
        before: Tensor | None,
        stream: tuple[int, int],
        steps: int,
        guidance: float,
    ) -> Tensor:
        """Latents (F, C, x, y, z) of one window, from those of a run in closed form or from noise.

        Its first frames go on from those before.
        """
        device = self.transformer.device
        draws = generator(*stream)
        latents = torch.randn(1, *self.transformer.window_shape, generator=draws).to(device)
        if origin is not None:
            first = self.scheduler.first
            latents = (1 - first) * origin[None] + first * latents
        given = torch.zeros_like(latents)
        shared = 0 if before is None else len(before)
        if before is not None:
            given[0, :shared] = before
        codes = self.label_space.encode(plan.labels)
        wanted = {name: torch.tensor([code], device=device) for name, code in codes.items()}
        wanted |= known_frames(given, torch.tensor([shared], device=device))
        wanted["design"] = torch.from_numpy(design[None]).to(device)
        nothing = self.transformer.drop(wanted, torch.ones(1, dtype=torch.bool, device=device))
        latents = solve(self.transformer, self.scheduler, latents, steps, guidance, wanted, nothing)
        return latents[0] * self.codec.latent_mask.to(device)

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
