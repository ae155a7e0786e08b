"""The modality completer: fMRI segments from dMRI segments, and the other way round.

    x <- noise;     for t from 1 to 0:  x <- step(v(x, t, source, direction, labels), t, x)

The model is a prior given the source and a network for what it lacks
(:mod:`neuromix.augment.pds.both_ways`), or the published one, a DDPM whose samples TR refines
(:mod:`neuromix.augment.pds.published`).

Filling uses no label, for training and test subjects alike: an image that was made after its
diagnosis would carry it as a watermark, which test images lack. Labels may be given for subjects of
the training split alone, which the completer knows by their hashes; for all others they are refused
here, so that a test subject's label cannot enter its image.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
from neuromix.augment.diffusion.pipeline import refuse_worker, solve
from neuromix.augment.errors import InputError
from neuromix.augment.pds import both_ways
from neuromix.augment.pds.both_ways import PairDenoiser
from neuromix.augment.pds.config import MODALITIES, ModalityConfig
from neuromix.augment.pds.pairs import Pairs, common_frame, paired, read
from neuromix.augment.pds.published import system
from neuromix.augment.pds.published.system import PublishedPDS
from neuromix.augment.replacement import has_image

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

ESTIMATED = 4
"""Subjects that a dry run looks at."""
CHUNK = 4
"""Samples are made in chunks of this size, the last one padded, so that none depends on how many
are asked for."""


class ModalityCompleter(Trainable, DiffusionPipeline):
    """Fills in one of two modalities of a subject from the other; a Completer.

    Args:
        model: Priors and their network, or the published one.
        scheduler: Owns the times and the step from one to the next.
        directions: Modalities that it was trained to fill in; both by default.
        steps: Evaluations of the model for a sample.
        provenance: Who and what made it.
    """

    model: PairDenoiser | PublishedPDS
    scheduler: Any  # diffusers' own types of its steps are too narrow

    def __init__(
        self,
        model: PairDenoiser | PublishedPDS,
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
        with PartialState().main_process_first():
            job.keep(asdict(config), MODALITIES, pairs)
            sets = [
                Pairs(job.work / f"pairs-{name}.npy", each)
                for name, each in zip(job.names, pairs, strict=True)
            ]
        way: Any = system if config.design == "published" else both_ways
        model, trained = way.fit(job, sets, grid)
        record = job.record(digest for each in sets for digest in each.digests())
        record["labelled"] = sorted(subject_hash(*key) for key in job.cohorts[0].subject_keys)
        record["segments"] = segments
        scheduler = way.scheduler()
        completer = cls(model, scheduler, list(config.directions), config.sampling_steps)
        return completer, trained or Trained(0, 0, math.inf, 0.0, 0.0), record

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
        grid, _ = common_frame(few)
        way: Any = system if config.design == "published" else both_ways
        with tempfile.TemporaryDirectory() as folder:
            kept = Pairs(Path(folder) / "pairs.npy", few)
            with torch.enable_grad():
                seconds, model = way.pace(kept, config, grid, count or len(pairs))
            direction = MODALITIES.index(config.directions[0])
            source = kept.chosen([0])[:, 1 - direction]
            completer = cls(model, way.scheduler(), list(config.directions), 1)
        begun = time.perf_counter()
        completer._draw(source, direction, list(range(CHUNK)), {})
        sample = config.sampling_steps * (time.perf_counter() - begun) / CHUNK
        if config.design == "published" and config.refinement:  # TR sees a sample of everybody
            seconds += (count or len(pairs)) * len(config.directions) * sample
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
        source, direction = self._seen(subject, want, labels)
        return self._image(self._draw(source, direction, [seed], labels or {})[0])

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
        source, direction = self._seen(subject, want, labels)
        seeds = [derive(seed, k, 0) for k in range(samples)]
        values = self._draw(source, direction, seeds, labels or {})
        mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
        return Posterior(self._image(mean), self._image(deviation), values)

    @torch.no_grad()
    def _draw(
        self, source: Tensor, direction: int, seeds: Sequence[int], labels: Mapping[str, Any]
    ) -> np.ndarray:
        """Samples (K, N, X, Y, Z) for a source (1, N, X, Y, Z), within the training's range."""
        model, device = self.model, source.device
        codes = model.label_space.encode(dict(labels))
        known = {k: v.expand(CHUNK, *v.shape[1:]) for k, v in
                 model.conditions(source, direction).items()}  # fmt: skip
        known |= {k: torch.tensor([v] * CHUNK, device=device) for k, v in codes.items()}
        network = functools.partial(model, direction=direction)
        drawn = []
        for start in range(0, len(seeds), CHUNK):
            part = seeds[start : start + CHUNK]
            padded = [*part, *[part[-1]] * (CHUNK - len(part))]
            noise = torch.stack([
                torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(s))
                for s in padded
            ]).to(device)  # fmt: skip
            made = solve(network, self.scheduler, noise, self.config["steps"], 1.0, known, known)
            drawn.append(model.decode(made, source, direction)[: len(part)])
        low, high = model.limits[direction].tolist()
        values: np.ndarray = torch.cat(drawn).float().clamp(low, high).cpu().numpy()
        return values

    def _seen(
        self, subject: tio.Subject, want: str, labels: Mapping[str, Any] | None
    ) -> tuple[Tensor, int]:
        """Source (1, N, X, Y, Z) and direction; whatever does not fit is refused."""
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
        return read(image, have)[None].to(self.model.device), direction

    def _check_labels(self, subject: tio.Subject, who: str) -> None:
        """Labels may fill training subjects alone."""
        key = subject_hash(str(subject.get("dataset", "")), str(subject.get("subject_id", "")))
        if key not in self.record.get("labelled", ()):
            raise InputError(
                f"labels came for {who}, who is not in this completer's training split; fill "
                "held-out subjects without labels"
            )

    def _image(self, volume: np.ndarray) -> tio.Image:
        import torchio as tio

        tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
        return tio.ScalarImage(tensor=tensor, affine=self.grid.affine)
