"""The modality completer: fMRI segments from dMRI segments, and the other way round.

    z <- noise;     for t from 1 to 0:  z <- step(v(z, t, source, direction, labels), t, z)
    y = m(source) + a z

PDM, TR and the Gaussian that they start from are in :mod:`neuromix.augment.pds.dual_modal`; the
presets say which is which. ``demo``, ``tiny`` and ``base`` are ours: a regression in closed form,
sharpened by TR, is the mean, and a flow around it makes samples. ``paper`` is the published system,
a DDPM with a cosine schedule that starts from noise and is drawn by DDIM, whose samples TR refines
afterwards.

Filling uses no label, for training and test subjects alike: an image that was made after its
diagnosis would carry it as a watermark, which test images lack. Labels may be given for subjects of
the training split alone, which the completer knows by their hashes; for all others they are refused
here, so that a test subject's label cannot enter its image.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from neuromix.augment.bank.filling import derive
from neuromix.augment.completion import Posterior
from neuromix.augment.data.grid import Grid
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.diffusion.fitting import Job, Trainable
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.loop import Trained, check_size
from neuromix.augment.diffusion.loop import estimate as estimate_training
from neuromix.augment.diffusion.pipeline import refuse_worker
from neuromix.augment.errors import InputError
from neuromix.augment.pds.config import MODALITIES, ModalityConfig
from neuromix.augment.pds.dual_modal import DualModalDiffusion
from neuromix.augment.pds.fit import Fitting, SubjectBatch
from neuromix.augment.pds.pairs import DenoisingSet, Pairs, common_frame, paired, read, support_of
from neuromix.augment.pds.two_stage import SemanticConsistency
from neuromix.augment.replacement import has_image

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

ESTIMATED = 4
"""Subjects that a dry run looks at."""
CHUNK = 4
"""Samples are made in chunks of this size, the last one padded, so that none depends on how many
are asked for."""
FARTHEST = 6.0
"""Standard deviations that DDIM cuts its guesses at: its first steps divide by almost nothing."""


class ModalityCompleter(Trainable, DiffusionPipeline):
    """Fills in one of two modalities of a subject from the other; a Completer.

    Args:
        model: Mean, Gaussian, PDM and TR.
        scheduler: Owns the times and the step from one to the next.
        directions: Modalities that it was trained to fill in; both by default.
        steps: Evaluations of PDM for a sample.
        provenance: Who and what made it.
    """

    model: DualModalDiffusion
    scheduler: Any  # diffusers' own types of its steps are too narrow

    def __init__(
        self,
        model: DualModalDiffusion,
        scheduler: FlowMultistepScheduler | DDIMScheduler,
        directions: list[str] | None = None,
        steps: int = 10,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler)
        directions = list(directions or MODALITIES)
        self.register_to_config(directions=directions, steps=steps, provenance=provenance)

    @property
    def grid(self) -> Grid:
        """Where its volumes lie."""
        return self.model.grid

    @classmethod
    def _fit(cls, job: Job) -> tuple[ModalityCompleter, Trained, dict[str, Any]]:
        # Those who lack a modality teach nothing, but count as seen.
        config, pairs = job.config, [paired(each) for each in job.cohorts]
        frames = [common_frame(each) for each in pairs]
        if frames[-1] != frames[0]:
            raise InputError(
                f"the validation subjects have {frames[1][1]} segments of {frames[1][0]} and the "
                f"training's {frames[0][1]} of {frames[0][0]}; bring all to one grid with "
                "`neuromix prepare`"
            )
        grid, segments = frames[0]
        count = len(pairs[0]) * len(config.directions)
        check_size(count, config.training)
        if config.refine != "none":
            check_size(count, config.refining)
        with PartialState().main_process_first():
            job.keep(asdict(config), MODALITIES, pairs)
            sets = [
                Pairs(job.work / f"pairs-{name}.npy", each)
                for name, each in zip(job.names, pairs, strict=True)
            ]
        scheduler = _scheduler(config)
        fitting = Fitting(job, sets, grid)

        def draw(part: SubjectBatch) -> Tensor:
            sampler = cls(fitting.model, scheduler, list(config.directions), config.sampling_steps)
            return torch.cat([
                sampler._draw(source[None], support[None], part.direction, [number], {})
                for source, support, number in zip(
                    part.source, part.support, part.numbers, strict=True
                )
            ])  # fmt: skip

        alphas = scheduler.alphas_cumprod if config.objective == "noise" else None
        trained = fitting.run(alphas, draw)
        record = job.record(digest for each in sets for digest in each.digests())
        record["labelled"] = sorted(subject_hash(*key) for key in job.cohorts[0].subject_keys)
        record["segments"] = segments
        completer = cls(fitting.model, scheduler, list(config.directions), config.sampling_steps)
        return completer, trained, record

    @classmethod
    @torch.no_grad()
    def estimate(
        cls, cohort: Cohort, config: ModalityConfig, count: int | None = None
    ) -> tuple[float, float]:
        """Seconds on this machine of a fit, and of a sample; nothing is kept.

        ``cohort`` may be a few of ``count`` training subjects.
        """
        pairs = paired(cohort)
        few = pairs.where(np.arange(len(pairs)) < ESTIMATED)
        still = replace(config.training, steps=1, batch_size=1, validate_every=1)
        brief = replace(config, training=still, refining=still)
        with tempfile.TemporaryDirectory() as folder:
            grid, _ = common_frame(few)
            job = Job([few], brief, Path(folder))
            fitting = Fitting(job, [Pairs(job.work / "pairs.npy", few)], grid)
            fitting.model = model = fitting.build()
            begun = time.perf_counter()
            fitting.closed_form()
            once = time.perf_counter() - begun  # most of it is solving, whoever was read before
            begun = time.perf_counter()
            for d in fitting.directions:  # what every subject is met with
                source, _, support = fitting.sets[0].chosen(model, d, range(len(few)))
                mean = model.mean(source, support, d)
                chosen = torch.full((len(few),), d)
                if config.start == "gaussian":
                    model.residual.fill(mean, support, torch.randn_like(mean), chosen)
            each = (time.perf_counter() - begun) / len(few)
            begun = time.perf_counter()
            known = model.known(source, mean, support)
            model(mean, torch.full((len(few),), 500.0), known, chosen, {
                name: torch.zeros(len(few), dtype=torch.long) for name in model.label_space.names
            })  # fmt: skip
            sample = config.sampling_steps * (time.perf_counter() - begun) / len(few)
            nothing = np.zeros((len(few), len(config.directions), *fitting.sets[0].array.shape[2:]))
            data = DenoisingSet(fitting.sets[0], model, fitting.directions, nothing, nothing)
            scheduler = _scheduler(config)
            alphas = scheduler.alphas_cumprod if config.objective == "noise" else None
            objective = SemanticConsistency(model, config.label_dropout, alphas)
            seconds = once + each * (count or len(pairs))
            with torch.enable_grad():
                seconds += estimate_training(objective, data, config.training)
                if config.refine != "none":
                    seconds += fitting.pace_refining(config)
        return seconds, sample

    def complete(
        self, subject: tio.Subject, want: str, seed: int, labels: Mapping[str, Any] | None = None
    ) -> tio.Image:
        """One sample of the image ``want`` given the other modality of a subject.

        Args:
            subject: With the other modality, on the grid of the training.
            want: ``fmri`` or ``dmri``.
            seed: Decides the sample.
            labels: None by default; for subjects of the training split alone, see the module.
        """
        source, support, direction = self._seen(subject, want, labels)
        values = self._draw(source, support, direction, [seed], labels or {})[0]
        return self._image(self._units(values, direction))

    def posterior(
        self,
        subject: tio.Subject,
        want: str,
        seed: int,
        samples: int = 16,
        labels: Mapping[str, Any] | None = None,
    ) -> Posterior:
        """Mean and uncertainty of the image ``want`` by two ``samples`` or more."""
        if samples < 2:
            raise InputError(f"{samples} samples came; two or more tell an uncertainty")
        source, support, direction = self._seen(subject, want, labels)
        seeds = [derive(seed, k, 0) for k in range(samples)]
        values = self._units(self._draw(source, support, direction, seeds, labels or {}), direction)
        mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
        return Posterior(self._image(mean), self._image(deviation), values)

    @torch.no_grad()
    def _draw(
        self,
        source: Tensor,
        support: Tensor,
        direction: int,
        seeds: Sequence[int],
        labels: Mapping[str, Any],
    ) -> Tensor:
        """Samples (K, N, X, Y, Z) for one subject, in units of the modality's scale."""
        model = self.model
        mean = model.mean(source, support, direction)
        known = model.known(source, mean, support).expand(CHUNK, -1, -1, -1, -1)
        chosen = torch.full((CHUNK,), direction, device=source.device)
        codes = model.label_space.encode(dict(labels))
        label_codes = {k: torch.tensor([v] * CHUNK, device=source.device) for k, v in codes.items()}
        drawn = []
        for start in range(0, len(seeds), CHUNK):
            part = seeds[start : start + CHUNK]
            padded = [*part, *[part[-1]] * (CHUNK - len(part))]
            z = torch.stack([
                torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(s))
                for s in padded
            ]).to(source)  # fmt: skip
            self.scheduler.set_timesteps(self.config["steps"])
            for t in self.scheduler.timesteps:
                predicted = model(z, t.expand(CHUNK).to(source.device), known, chosen, label_codes)
                z = self.scheduler.step(predicted, t, z).prev_sample
            made = (mean + model.residual.deviation[direction] * z) * support
            if model.refine == "sample":
                made = torch.cat([model.refined(source, y[None], support, direction) for y in made])
            drawn.append(made[: len(part)])
        return torch.cat(drawn)

    def _seen(
        self, subject: tio.Subject, want: str, labels: Mapping[str, Any] | None
    ) -> tuple[Tensor, Tensor, int]:
        """Source, support (B = 1) and direction; whatever does not fit is refused."""
        refuse_worker()
        if want not in self.config["directions"]:
            raise InputError(
                f"{want!r} came; this completer was trained to fill in "
                f"{', '.join(self.config['directions'])}"
            )
        direction = MODALITIES.index(want)
        have = MODALITIES[1 - direction]
        who = f"sub-{subject.get('subject_id', '?')}"
        if not has_image(subject, have):
            other = "neither fmri nor dmri" if not has_image(subject, want) else f"no {have}"
            raise InputError(f"{who} has {other}, so that {want} can't be filled in from {have}")
        if labels:
            self._check_labels(subject, who)
            self.model.label_space.encode(dict(labels))
        image = subject[have]
        x, y, z = image.spatial_shape
        grid, segments = Grid((x, y, z), image.affine), image.shape[0]
        if grid != self.grid or segments != self.model.segments:
            raise InputError(
                f"{have} of {who} has {segments} segments of {grid} and the training had "
                f"{self.model.segments} of {self.grid}, or they lie elsewhere; bring it there with "
                "`neuromix prepare`"
            )
        volume = read(image, have)[None].to(self.model.device)
        return volume / self.model.scale[1 - direction], support_of(volume), direction

    def _check_labels(self, subject: tio.Subject, who: str) -> None:
        """Labels may fill training subjects alone."""
        key = subject_hash(str(subject.get("dataset", "")), str(subject.get("subject_id", "")))
        if key not in self.record.get("labelled", ()):
            raise InputError(
                f"labels came for {who}, who is not in this completer's training split; fill "
                "held-out subjects without labels"
            )

    def _units(self, values: Tensor, direction: int) -> np.ndarray:
        """Back to the unit of the images, within the range of the training's."""
        low, high = self.model.limits[direction].tolist()
        scaled: np.ndarray = (values * self.model.scale[direction]).float().cpu().numpy()
        return np.clip(scaled, low, high)

    def _image(self, volume: np.ndarray) -> tio.Image:
        import torchio as tio

        tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
        return tio.ScalarImage(tensor=tensor, affine=self.grid.affine)


def _scheduler(config: ModalityConfig) -> Any:
    if config.objective == "flow":
        return FlowMultistepScheduler()
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=True, clip_sample_range=FARTHEST
    )
