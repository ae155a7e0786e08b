"""The tiled MD sampler: mean-diffusivity maps made by a 2D diffusion transformer.

A volume is encoded, the latents of its slices are tiled into one mosaic, and a DiT makes mosaics
from noise, step by step, with classifier-free guidance:

    p = p(x, t, none) + guidance (p(x, t, y) - p(x, t, none)),      x <- step(p, t, x)

It predicts the velocity p = v of the flow dx/dt = v, solved from t = 1 to 0 in two-step updates, or
the noise p = e of a DDPM, as published DiTs do; both solvers are of the kind of DPM-Solver++.

Values come back in 1e-3 mm²/s on the grid of the training subjects.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from neuromix.augment import files
from neuromix.augment.data import bids, origin
from neuromix.augment.data.cohort import label_rows
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.fitting import Job, Trainable
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.label_embedding import drop_labels
from neuromix.augment.diffusion.loop import Trained, check_size, estimate
from neuromix.augment.diffusion.objectives import Autoencoding, FlowMatching, NoisePrediction
from neuromix.augment.diffusion.pipeline import SamplerSource, check_requests, recipe, solve
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.codec import DeformableTemplate, registrations
from neuromix.augment.tiled.config import FAINTEST, LARGEST, TiledMDConfig
from neuromix.augment.tiled.gaussian_start import GaussianStart
from neuromix.augment.tiled.latents import (
    LatentSet,
    fit_autoencoder,
    volumes,
    voxel_digests,
    write_latents,
    write_slices,
)
from neuromix.augment.tiled.mosaic import Tiling
from neuromix.augment.tiled.network import TiledDiT, add_lora
from neuromix.augment.tiled.published.slice_autoencoder import SliceAutoencoder

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

ESTIMATED = 8
"""Subjects that a dry run looks at."""
CHUNK = 4
"""Samples are made in chunks of this size, the last one padded, so that none depends on how many
are asked for."""


class TiledMDSampler(Trainable, SamplerSource, DiffusionPipeline):
    """Makes MD maps of given labels.

    Args:
        transformer: The denoiser.
        codec: Volumes to latents of mosaics and back.
        scheduler: Owns the times and the step from one to the next.
        grid: ``Grid.to_dict()`` of the training subjects.
        provenance: Who and what made it.
    """

    image = "md"
    transformer: TiledDiT | GaussianStart
    codec: DeformableTemplate | SliceAutoencoder
    scheduler: Any  # diffusers' own types of its steps are too narrow

    def __init__(
        self,
        transformer: TiledDiT | GaussianStart,
        codec: DeformableTemplate | SliceAutoencoder,
        scheduler: FlowMultistepScheduler | DPMSolverMultistepScheduler,
        grid: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, codec=codec, scheduler=scheduler)
        self.register_to_config(grid=grid, provenance=provenance)

    @property
    def label_space(self) -> LabelSpace:  # type: ignore[override]
        """What it can be asked for."""
        return self.transformer.label_space

    @property
    def grid(self) -> Grid:
        """Where its volumes lie."""
        return Grid.from_dict(self.config["grid"])

    @classmethod
    def _fit(cls, job: Job) -> tuple[TiledMDSampler, Trained, dict[str, Any]]:
        cohort, config, work = job.cohorts[0], job.config, job.work
        grid = cohort.grid(config.image)
        if any(each.grid(config.image) != grid for each in job.cohorts[1:]):
            raise InputError("the validation subjects lie on another grid than the training's")
        check_size(len(cohort), config.training)  # before minutes go into the codec
        digests = [digest for each in job.cohorts for digest in voxel_digests(each)]
        with PartialState().main_process_first():
            settings = asdict(config)
            del settings["training"], settings["autoencoding"]  # the loop looks at its own
            job.keep(settings, ("md",))
            parts = _Parts.begin(cohort, config, grid, work, job.progress)
        if config.autoencoder == "kl":
            fit_autoencoder(parts.codec, job)
        paths = job.arrays(
            lambda k, path: write_latents(parts.codec, job.cohorts[k], path, job.progress)
        )
        sets = [
            LatentSet(path, parts.space, label_rows(each))
            for path, each in zip(paths, job.cohorts, strict=True)
        ]
        if isinstance(parts.network, GaussianStart):
            parts.network.fit(sets[0].latents, sets[0].codes, parts.codec.weigh)
        objective = parts.objective(config)
        trained = job.train(objective, sets, config.training)
        transformer: Any = objective.networks["network"]
        if config.lora_rank:
            transformer = transformer.merge_and_unload()
        record = job.record(digests, origin.inherited(config.pretrained, config.autoencoder))
        record["space"] = bids.space_of(cohort.table["md_path"])
        return cls(transformer, parts.codec, parts.scheduler, grid.to_dict()), trained, record

    @classmethod
    def estimate(cls, cohort: Cohort, config: TiledMDConfig) -> float:
        """Seconds that the training of a fit would take on this machine; nothing is kept."""
        few = cohort.where(np.arange(len(cohort)) < ESTIMATED)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            parts = _Parts.begin(few, config, cohort.grid(config.image))
            seconds = 0.0
            if config.autoencoder == "kl":
                slices = write_slices(parts.codec.tiling, few, work / "slices.npy")
                seconds += estimate(Autoencoding(parts.codec), slices, config.autoencoding)
            begun = time.perf_counter()
            path = write_latents(parts.codec, few, work / "train.npy")
            encoding = (time.perf_counter() - begun) / len(few)
            if isinstance(parts.codec, DeformableTemplate):
                seconds += encoding * registrations(len(cohort))
            latents = LatentSet(path, parts.space, label_rows(few))
            return (
                seconds
                + encoding * len(cohort)
                + estimate(parts.objective(config), latents, config.training)
            )

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
            Subjects with ``md`` in 1e-3 mm²/s, their labels, ``synthetic`` and ``synthetic_id``.
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
        latents = torch.stack([
            torch.randn(self.transformer.latent_shape, generator=torch.Generator().manual_seed(s))
            for s in seeds
        ]).to(device)  # fmt: skip
        latents = solve(self.transformer, self.scheduler, latents, steps, guidance, wanted, nothing)
        decoded = self.codec.decode(latents * self.codec.mask.to(device))
        volumes: np.ndarray = decoded[:, 0].float().cpu().numpy()
        volumes[volumes < FAINTEST] = 0
        return np.minimum(volumes, LARGEST)


@dataclass
class _Parts:
    """What a fit works with."""

    space: LabelSpace
    codec: Any  # a DeformableTemplate or a SliceAutoencoder
    network: Any  # a TiledDiT, peft's wrapping of one, or a GaussianStart
    scheduler: Any

    @classmethod
    def begin(
        cls,
        cohort: Cohort,
        config: TiledMDConfig,
        grid: Grid,
        work: Path | None = None,
        progress: bool = False,
    ) -> _Parts:
        """Everything as it is before training; what is fitted is kept in ``work``."""
        rows = label_rows(cohort)
        space = LabelSpace.from_known(rows, config.labels)
        with torch.random.fork_rng():
            torch.manual_seed(config.training.seed)
            codec = _codec(config, grid)
            torch.manual_seed(config.training.seed)
            # A network that does not fit is told before minutes go by.
            network = build_network(config, space, codec, max(len(cohort) // 4, 1))
            if isinstance(codec, DeformableTemplate):
                codec = _fitted(codec, cohort, grid, work, progress)
        return cls(space, codec, network, _scheduler(config))

    def objective(self, config: TiledMDConfig) -> FlowMatching | NoisePrediction:
        if config.objective == "flow":
            return FlowMatching(self.network, config.label_dropout, self.codec.mask)
        alphas = self.scheduler.alphas_cumprod
        return NoisePrediction(self.network, alphas, config.label_dropout, self.codec.mask)


def _codec(config: TiledMDConfig, grid: Grid) -> DeformableTemplate | SliceAutoencoder:
    """The codec as it is before it has seen a subject."""
    tiling = Tiling(grid.shape, config.plane, token_side(config))
    if config.autoencoder == "template":
        factor, depth = config.cell
        return DeformableTemplate(
            tiling=tiling.to_dict(), spacing=list(grid.spacing),
            factor=factor, depth=depth, floor=FAINTEST,
        )  # fmt: skip
    if config.autoencoder == "kl":
        return SliceAutoencoder.new(
            tiling, channels=config.channels, widths=config.widths, largest=LARGEST
        )
    path, revision = _source(config.autoencoder)
    return SliceAutoencoder.from_kl(path, tiling, largest=LARGEST, revision=revision)


def _fitted(
    codec: DeformableTemplate, cohort: Cohort, grid: Grid, work: Path | None, progress: bool
) -> DeformableTemplate:
    """A template of these settings, learned from a cohort, or before and kept in ``work``."""
    kept = None if work is None else work / "codec"
    if kept is not None and kept.is_dir():
        loaded: DeformableTemplate = DeformableTemplate.from_pretrained(kept)
        return loaded
    factor, _, depth = codec.block
    learned = DeformableTemplate.fit(
        volumes(cohort), len(cohort), codec.volume_tiling, grid.spacing, progress,
        factor=factor, depth=depth, floor=codec.floor,
    )  # fmt: skip
    if kept is not None:
        with files.replacing_folder(kept) as folder:
            learned.save_pretrained(folder)
    return learned


def build_network(
    config: TiledMDConfig,
    space: LabelSpace,
    codec: DeformableTemplate | SliceAutoencoder,
    most: int,
) -> Any:
    """A denoiser with fresh or pretrained weights, or a Gaussian start of ``most`` patterns."""
    tiling, (channels, height, _) = codec.tiling, codec.mask.shape[1:]
    factor = tiling.mosaic_shape[0] // height
    if not config.pretrained:
        settings: dict[str, Any] = {
            "label_space": space.to_dict(),
            "tiling": tiling.to_dict(),
            "num_layers": config.layers,
            "num_attention_heads": config.heads,
            "attention_head_dim": config.head_dim,
            "patch_size": config.patch,
            "latent_factor": factor,
        }
        if isinstance(codec, DeformableTemplate) and config.objective == "flow":
            return GaussianStart(dit=settings, channels=channels, rank=min(config.rank, most))
        return TiledDiT(**settings, in_channels=channels)
    path, revision = _source(config.pretrained)
    network = TiledDiT.from_dit(path, label_space=space, tiling=tiling, revision=revision)
    takes = (network.config["in_channels"], network.config["latent_factor"])
    if takes != (channels, factor):
        raise InputError(
            f"the network {config.pretrained} takes {takes[0]} latent channels of "
            f"{takes[1]} x {takes[1]} pixels, and the autoencoder {config.autoencoder} makes "
            f"{channels} of {factor} x {factor}; name the autoencoder that the network was trained "
            f"with, or set channels to {takes[0]} for kl"
        )
    return add_lora(network, config.lora_rank) if config.lora_rank else network


def token_side(config: TiledMDConfig) -> int:
    """Pixels that a token covers along a side."""
    if config.autoencoder == "template":
        factor = config.cell[0]
    else:
        factor = 2 ** (len(config.widths) - 1) if config.autoencoder == "kl" else 8
    return factor * (2 if config.pretrained else config.patch)


def _scheduler(config: TiledMDConfig) -> Any:
    if config.objective == "flow":
        return FlowMultistepScheduler()
    # The noise of the published DiT. Of a known Gaussian, steps equally spaced in log-SNR miss the
    # spread by 4 % at 10 steps and 2 % at 20, Karras's by 10 and 6 %, trailing ones by more.
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        use_lu_lambdas=True,
    )


def _source(name: str) -> tuple[str, str | None]:
    """A folder, or a name on the hub and what follows its @."""
    if Path(name).is_dir():
        return name, None
    path, _, revision = name.partition("@")
    return path, revision or None
