"""The modality completer: an image that a person lacks from those that there are.

    x <- noise;     for t from 1 to 0:  x <- step(v(x, t, sources, want, labels), t, x)

Images are segments of fMRI and dMRI, or any maps on one grid. The model is a prior given the
sources and a network for what it lacks (:mod:`neuromix.augment.pds.joint`), or the published one, a
DDPM whose samples TR refines (:mod:`neuromix.augment.pds.published`).

How far samples of one image differ is compared, once, with how far they are off: of validation
people, or else of training people whom the prior of other people serves. The deviation that
:meth:`ModalityCompleter.posterior` gives is multiplied by what that came to. A source unlike those
of the training gives rise to doubts (:mod:`neuromix.augment.pds.trust`).

Filling uses no label, for training and test subjects alike: an image that was made after its
diagnosis would carry it as a watermark, which test images lack. Labels may be given for subjects of
the training split alone, which the completer knows by their hashes; for all others they are refused
here, so that a test subject's label cannot enter its image.
"""

from __future__ import annotations

import contextlib
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
from neuromix.augment.pds import joint, trust
from neuromix.augment.pds.config import MODALITIES, ModalityConfig
from neuromix.augment.pds.images import Images, Pattern, common_frame, read, together
from neuromix.augment.pds.joint import JointDenoiser
from neuromix.augment.pds.published import system
from neuromix.augment.pds.published.system import PublishedPDS
from neuromix.augment.replacement import has_image

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

ESTIMATED = 8
"""Subjects that a dry run looks at."""
JUDGED, DRAWN = 8, 8
"""People, and samples of each, that the deviation is calibrated on."""
CHUNK = 4
"""Samples are made in chunks of this size, the last one padded, so that none depends on how many
are asked for."""


class ModalityCompleter(Trainable, DiffusionPipeline):
    """Fills in an image of a subject from others; a Completer.

    Args:
        model: Priors and their network, or the published one.
        scheduler: Owns the times and the step from one to the next.
        images: Those that it knows; segments of fMRI and dMRI by default.
        directions: Those that it was trained to fill in; all by default.
        steps: Evaluations of the model for a sample.
        provenance: Who and what made it.
    """

    model: JointDenoiser | PublishedPDS
    scheduler: Any  # diffusers' own types of its steps are too narrow

    def __init__(
        self,
        model: JointDenoiser | PublishedPDS,
        scheduler: FlowMultistepScheduler | DDIMScheduler,
        images: list[str] | None = None,
        directions: list[str] | None = None,
        steps: int = 10,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler)
        images = list(images or MODALITIES)
        directions = list(directions or images)
        self.register_to_config(
            images=images, directions=directions, steps=steps, provenance=provenance
        )

    @property
    def grid(self) -> Grid:
        """Where its volumes lie."""
        return self.model.grid

    @classmethod
    def _fit(cls, job: Job) -> tuple[ModalityCompleter, Trained, dict[str, Any]]:
        # Those who have one image alone teach nothing, but count as seen.
        config = job.config
        names = config.images
        pairs = [together(each, names) for each in job.cohorts]
        frames = [common_frame(each, names) for each in pairs]
        if frames[-1] != frames[0]:
            raise InputError(
                f"the validation subjects have {frames[1][1]} segments of {frames[1][0]} and the "
                f"training's {frames[0][1]} of {frames[0][0]}; bring all to one grid with "
                "`neuromix prepare`"
            )
        for name in names:
            if name not in pairs[0].images or not (pairs[0].table[f"{name}_path"] != "").any():
                raise InputError(
                    f"no subject has {name} and another of {', '.join(names)}; name images of the "
                    "cohort with --images"
                )
        grid, segments = frames[0]
        check_size(len(pairs[0]) * len(config.wanted), config.training)
        with PartialState().main_process_first():
            job.keep(asdict(config), names, pairs)
            sets = [
                Images(job.work / f"images-{name}.npy", each, names, segments)
                for name, each in zip(job.names, pairs, strict=True)
            ]
        way: Any = system if config.design == "published" else joint
        model, trained = way.fit(job, sets, grid)
        record = job.record(digest for each in sets for digest in each.digests())
        record["labelled"] = sorted(subject_hash(*key) for key in job.cohorts[0].subject_keys)
        record["segments"] = segments
        record["ranges"] = trust.ranges(sets[0], names)
        completer = cls(
            model, way.scheduler(), list(names), list(config.wanted), config.sampling_steps
        )
        record["calibration"] = completer._calibration(job, sets)
        return completer, trained or Trained(0, 0, math.inf, 0.0, 0.0), record

    @torch.no_grad()
    def _calibration(self, job: Job, sets: Sequence[Images]) -> dict[str, float]:
        """By image, how much farther off samples' means are than samples differ."""
        images, config = sets[-1], job.config
        model: Any = self.model
        folds, priors = None, {}
        if len(sets) == 1 and isinstance(model, JointDenoiser):
            folds, priors = joint.folds_of(images, config), joint.fold_priors(job, model)
        result = {}
        for want in map(config.images.index, config.wanted):
            rows = [k for k in images.having([want]) if images.there[k].sum() > 1]
            squares = variances = 0.0
            for k in rows[:: max(1, len(rows) // JUDGED)][:JUDGED]:
                volumes = images.chosen([int(k)]).to(model.device)
                has = [m for m in images.there[k].nonzero()[0].tolist() if m != want]
                pattern = model.pattern(want, has)
                with contextlib.ExitStack() as served:
                    if folds is not None:
                        own = joint.served_by(model, pattern, priors, int(folds[k]))
                        served.enter_context(own)
                    made = self._draw(volumes, pattern, range(DRAWN), {})
                off = made.mean(0) - volumes[0, want].cpu().numpy()
                inside = (made != 0).any(0)
                squares += float((off[inside] ** 2).sum())
                variances += float(made.var(axis=0, ddof=1)[inside].sum()) * (1 + 1 / DRAWN)
            # Where nobody can be looked at, samples are taken at their word.
            result[config.images[want]] = (squares / variances) ** 0.5 if variances else 1.0
        return result

    @classmethod
    @torch.no_grad()
    def estimate(
        cls, cohort: Cohort, config: ModalityConfig, count: int | None = None
    ) -> tuple[float, float]:
        """Seconds on this machine of a fit, and of a sample; nothing is kept.

        ``cohort`` may be a few of ``count`` training subjects.
        """
        pairs = together(cohort, config.images)
        few = pairs.where(np.arange(len(pairs)) < ESTIMATED)
        grid, segments = common_frame(few, config.images)
        way: Any = system if config.design == "published" else joint
        with tempfile.TemporaryDirectory() as folder:
            kept = Images(Path(folder) / "images.npy", few, config.images, segments)
            with torch.enable_grad():
                seconds, model = way.pace(kept, config, grid, count or len(pairs))
            completer = cls(model, way.scheduler(), list(config.images), list(config.wanted), 1)
            want = config.images.index(config.wanted[0])
            k = int(kept.having([want])[0])
            has = [m for m in kept.there[k].nonzero()[0].tolist() if m != want]
            volumes = kept.chosen([k])
        begun = time.perf_counter()
        completer._draw(volumes, model.pattern(want, has), range(CHUNK), {})
        sample = config.sampling_steps * (time.perf_counter() - begun) / CHUNK
        if config.design == "published" and config.refinement:  # TR sees a sample of everybody
            seconds += (count or len(pairs)) * len(config.wanted) * sample
        return seconds, sample

    def complete(
        self, subject: tio.Subject, want: str, seed: int, labels: Mapping[str, Any] | None = None
    ) -> tio.Image:
        """One sample of the image ``want`` given the others of a subject.

        Args:
            subject: With other images that it knows, on the grid of the training.
            want: Name of the image to make; what the subject has of it is not looked at.
            seed: Decides the sample.
            labels: None by default; for subjects of the training split alone, see the module.
        """
        images, pattern = self._seen(subject, want, labels)
        return self._image(self._draw(images, pattern, [seed], labels or {})[0])

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
        images, pattern = self._seen(subject, want, labels)
        seeds = [derive(seed, k, 0) for k in range(samples)]
        values = self._draw(images, pattern, seeds, labels or {})
        deviation = values.std(axis=0, ddof=1) * self.record.get("calibration", {}).get(want, 1.0)
        names = self.config["images"]
        known = self.record.get("ranges")
        why = [
            line
            for m in pattern[1] if known
            for line in trust.doubts(names[m], images[0, m].cpu(), known[names[m]])
        ]  # fmt: skip
        inside = (values != 0).any(axis=0)
        error = float(np.sqrt((deviation[inside] ** 2).mean())) if inside.any() else 0.0
        mean = self._image(values.mean(axis=0))
        return Posterior(mean, self._image(deviation), values, error, why)

    @torch.no_grad()
    def _draw(
        self, images: Tensor, pattern: Pattern, seeds: Sequence[int], labels: Mapping[str, Any]
    ) -> np.ndarray:
        """Samples (K, N, X, Y, Z) given images (1, M, N, X, Y, Z), within the training's range."""
        model, device = self.model, images.device
        codes = model.label_space.encode(dict(labels))
        known = {k: v.expand(CHUNK, *v.shape[1:]) for k, v in
                 model.conditions(images, pattern).items()}  # fmt: skip
        known |= {k: torch.tensor([v] * CHUNK, device=device) for k, v in codes.items()}
        network = functools.partial(model, pattern=pattern)
        drawn = []
        for start in range(0, len(seeds), CHUNK):
            part = seeds[start : start + CHUNK]
            padded = [*part, *[part[-1]] * (CHUNK - len(part))]
            noise = torch.stack([
                torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(s))
                for s in padded
            ]).to(device)  # fmt: skip
            made = solve(network, self.scheduler, noise, self.config["steps"], 1.0, known, known)
            drawn.append(model.decode(made, images, pattern)[: len(part)])
        low, high = model.limits[pattern[0]].tolist()
        values: np.ndarray = torch.cat(drawn).float().clamp(low, high).cpu().numpy()
        return values

    def _seen(
        self, subject: tio.Subject, want: str, labels: Mapping[str, Any] | None
    ) -> tuple[Tensor, Pattern]:
        """Images (1, M, N, X, Y, Z) and the pattern; whatever does not fit is refused."""
        refuse_worker()
        names = self.config["images"]
        if want not in self.config["directions"]:
            raise InputError(
                f"{want!r} came; this completer was trained to fill in "
                f"{', '.join(self.config['directions'])}"
            )
        who = f"sub-{subject.get('subject_id', '?')}"
        has = [name for name in names if name != want and has_image(subject, name)]
        if not has:
            others = [name for name in names if name != want]
            raise InputError(
                f"{who} has no {' and no '.join(others)}, so that {want} can't be filled in"
            )
        if labels:
            self._check_labels(subject, who)
            self.model.label_space.encode(dict(labels))
        images = torch.zeros(1, len(names), self.model.segments, *self.grid.shape)
        for name in has:
            image = subject[name]
            x, y, z = image.spatial_shape
            grid, segments = Grid((x, y, z), image.affine), image.shape[0]
            if grid != self.grid or segments != self.model.segments:
                raise InputError(
                    f"{name} of {who} has {segments} segments of {grid} and the training had "
                    f"{self.model.segments} of {self.grid}, or they lie elsewhere; bring it there "
                    "with `neuromix prepare`"
                )
            images[0, names.index(name)] = read(image, name)
        pattern = self.model.pattern(names.index(want), [names.index(name) for name in has])
        return images.to(self.model.device), pattern

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
