"""The tiled sampler: maps of any scalar (MD, FA, T1, ...) made slice beside slice.

A volume is a stack of slices, some of which make a tile of a mosaic. A :class:`Denoiser`, a prior
in closed form and a hybrid of convolutions and transformer blocks, gives the velocity v of the flow
dx/dt = v, which is solved from noise to data in two-step updates, with classifier-free guidance:

    p = p(x, t, none) + guidance (p(x, t, y) - p(x, t, none)),      x <- step(p, t, x)

The published design is a plain :class:`TiledDiT` over latents of mosaics, which predicts velocity,
or the noise of a DDPM.

Values come back in the unit and on the grid of the training subjects.
"""

from __future__ import annotations

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
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from safetensors.torch import load_file

from neuromix.augment.data import bids, origin
from neuromix.augment.data.cohort import label_rows
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.data.leakage import image_hashes
from neuromix.augment.diffusion.denoiser import Denoiser
from neuromix.augment.diffusion.fitting import Job, Trainable
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.label_embedding import drop_labels
from neuromix.augment.diffusion.loop import EARLY, Trained, check_size, estimate
from neuromix.augment.diffusion.pipeline import SamplerSource, check_requests, recipe, solve
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.codec import VolumeCodec
from neuromix.augment.tiled.config import FAINTEST, LARGEST, TiledMDConfig
from neuromix.augment.tiled.published import plain
from neuromix.augment.tiled.published.dit import TiledDiT
from neuromix.augment.tiled.published.slice_autoencoder import SliceAutoencoder
from neuromix.augment.tiled.stacks import (
    MOST,
    begin_denoiser,
    budget,
    fit_statistics,
    make_statistics,
    stack_set,
    write_stacks,
)

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

ESTIMATED = 8
"""Subjects that a dry run looks at."""
CHUNK = 4
"""Samples are made in chunks of this size, the last one padded, so that none depends on how many
are asked for."""


class TiledMDSampler(Trainable, SamplerSource, DiffusionPipeline):
    """Makes maps of given labels.

    Args:
        transformer: The denoiser.
        codec: Volumes to latents of mosaics and back.
        scheduler: Owns the times and the step from one to the next.
        grid: ``Grid.to_dict()`` of the training subjects.
        provenance: Who and what made it.
        image: Name of the map that it makes.
    """

    transformer: TiledDiT | Denoiser
    codec: VolumeCodec | SliceAutoencoder
    scheduler: Any  # diffusers' own types of its steps are too narrow

    def __init__(
        self,
        transformer: TiledDiT | Denoiser,
        codec: VolumeCodec | SliceAutoencoder,
        scheduler: FlowMultistepScheduler | DPMSolverMultistepScheduler,
        grid: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
        image: str = "md",
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, codec=codec, scheduler=scheduler)
        self.register_to_config(grid=grid, provenance=provenance, image=image)

    @property
    def label_space(self) -> LabelSpace:  # type: ignore[override]
        """What it can be asked for."""
        return self.transformer.label_space

    @property
    def image(self) -> str:  # type: ignore[override]
        """Name of the map that it makes."""
        return str(self.config.get("image", "md"))

    @property
    def grid(self) -> Grid:
        """Where its volumes lie."""
        return Grid.from_dict(self.config["grid"])

    @classmethod
    def _fit(cls, job: Job) -> tuple[TiledMDSampler, Trained, dict[str, Any]]:
        cohort, config = job.cohorts[0], job.config
        grid = cohort.grid(config.image)
        if any(each.grid(config.image) != grid for each in job.cohorts[1:]):
            raise InputError("the validation subjects lie on another grid than the training's")
        check_size(len(cohort), config.training)  # before minutes go into statistics
        paths = [path for each in job.cohorts for path in each.table[f"{config.image}_path"]]
        digests = list(image_hashes(paths))
        with PartialState().main_process_first():
            settings = asdict(config)
            del settings["training"], settings["autoencoding"]  # the loop looks at its own
            job.keep(settings, (config.image,))
        fit = plain.fit if config.autoencoder else _fit_denoiser
        transformer, codec, scheduler, trained = fit(job, grid)
        record = job.record(digests, origin.records_of(config.pretrained, config.autoencoder))
        record["space"] = bids.space_of(cohort.table[f"{config.image}_path"])
        sampler = cls(transformer, codec, scheduler, grid.to_dict(), image=config.image)
        record["scans"] = sampler.scans
        return sampler, trained, record

    @classmethod
    def estimate(cls, cohort: Cohort, config: TiledMDConfig) -> float:
        """Seconds that a fit would take on this machine; nothing is kept."""
        few = cohort.where(np.arange(len(cohort)) < ESTIMATED)
        grid = cohort.grid(config.image)
        space = LabelSpace.from_known(label_rows(few), config.labels)
        with tempfile.TemporaryDirectory() as folder:
            job = Job([few], config, Path(folder))
            begun = time.perf_counter()
            if not config.autoencoder:
                # Filters take most of the time, and as long for few people as for many.
                codec, priors = make_statistics(few, config, space, grid)
                seconds = time.perf_counter() - begun
                write_stacks(codec, few, config.image, job.work / "train.npy")
                stacks = stack_set(job, space, codec, 0, job.work / "train.npy")
                objective = begin_denoiser(config, space, codec, priors, grid)[1]
                return seconds + estimate(objective, stacks, config.training)
            return plain.estimate_fit(job, grid, len(cohort))

    @classmethod
    def budget(cls, cohort: Cohort, config: TiledMDConfig) -> str:
        """What a fit asks of the machine beside time, in a line; empty for a plain DiT."""
        if config.autoencoder:
            return ""
        few = cohort.where(np.arange(len(cohort)) < ESTIMATED)
        space = LabelSpace.from_known(label_rows(few), config.labels)
        memory, saved = budget(cohort, few, config, space, cohort.grid(config.image))
        line = f"at most {memory:.1f} GiB for its priors, of which one of {saved:.0f} MB is saved"
        return line + ", and the scans of training people with it" * config.patches

    @property
    def scans(self) -> int:
        """Training scans that its weights hold pieces of."""
        return len(getattr(self.transformer, "people", ()))

    def push_to_hub(self, *args: Any, **options: Any) -> Any:
        """As of any pipeline, but for one that holds people's scans."""
        if self.scans:
            raise InputError(
                f"this sampler holds the scans of {self.scans} training people, for patches; fit "
                "one without --patches to share it"
            )
        return super().push_to_hub(*args, **options)

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        steps: int = 20,
        guidance: float = 1.0,
    ) -> list[tio.Subject]:
        """Make a subject for each of the labels.

        Args:
            labels: For example ``[{"sex": "F", "age": 70}]``; labels left out are not asked for.
            seeds: One a subject.
            steps: Of the scheduler; 10 to 20 are enough.
            guidance: Above 1, labels show more than in nature; 1 follows the training subjects.

        Returns:
            Subjects with the map, their labels, ``synthetic`` and ``synthetic_id``.
        """
        import torchio as tio

        check_requests(labels, seeds)
        codes = [self.label_space.encode(dict(row)) for row in labels]
        subjects: list[tio.Subject] = []
        for start in range(0, len(seeds), CHUNK):
            part = list(range(start, min(start + CHUNK, len(seeds))))
            padded = part + [part[-1]] * (CHUNK - len(part))
            volumes = self._chunk([codes[k] for k in padded], [seeds[k] for k in padded],
                                  steps, guidance)  # fmt: skip
            for k, volume in zip(part, volumes, strict=False):
                image = tio.ScalarImage(
                    tensor=torch.from_numpy(volume[None].copy()), affine=self.grid.affine
                )
                made_by = recipe(labels[k], seeds[k], steps, guidance)
                subjects.append(self._subject(image, seeds[k], made_by, labels[k]))
        return subjects

    def _chunk(
        self, codes: list[dict[str, float]], seeds: list[int], steps: int, guidance: float
    ) -> np.ndarray:
        """Volumes (B, X, Y, Z) of one chunk."""
        device = self.transformer.device
        wanted = {
            name: torch.tensor([row[name] for row in codes], device=device) for name in codes[0]
        }
        everyone = torch.ones(len(codes), dtype=torch.bool, device=device)
        nothing = drop_labels(self.label_space, wanted, everyone)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = torch.stack([
            torch.randn(self.transformer.latent_shape, generator=g) for g in generators
        ]).to(device)  # fmt: skip
        interval = self.transformer.config.get("interval", (0.0, 1.0))
        latents = solve(
            self.transformer, self.scheduler, latents, steps, guidance, wanted, nothing, interval
        )
        codec: Any = self.codec
        if isinstance(codec, VolumeCodec):
            decoded = codec.decode(latents, generators)
        else:
            decoded = codec.decode(latents * codec.mask.to(device))
            decoded[decoded < FAINTEST] = 0
            decoded = decoded.clamp_max(LARGEST)
        volumes: np.ndarray = decoded[:, 0].float().cpu().numpy()
        return volumes


def _fit_denoiser(job: Job, grid: Grid) -> tuple[Any, Any, Any, Trained]:
    """A denoiser, its codec and scheduler, and what the training came to."""
    config = job.config
    space = LabelSpace.from_known(label_rows(job.cohorts[0]), config.labels)
    with PartialState().main_process_first():
        codec, priors = fit_statistics(job, space, grid, job.progress)
    paths = job.arrays(lambda k, path: write_stacks(codec, job.cohorts[k], config.image, path))
    sets = [stack_set(job, space, codec, k, path) for k, path in enumerate(paths)]
    people = np.load(paths[0])[:MOST] if config.patches else None
    denoiser, objective = begin_denoiser(config, space, codec, priors, grid, people)
    if not config.training.steps:
        return denoiser, codec, FlowMultistepScheduler(), Trained(0, 0, math.inf, 0.0, 0.0)
    early = max(1, round(config.early * config.training.steps)) if config.early else 0
    trained = job.train(objective, sets, config.training, early=early)
    denoiser.network = objective.networks["network"]  # type: ignore[assignment]
    if denoiser.early is not None:
        weights = load_file(job.work / EARLY)
        denoiser.early.load_state_dict({k.split("/", 1)[1]: v for k, v in weights.items()})
    return denoiser.eval(), codec, FlowMultistepScheduler(), trained
