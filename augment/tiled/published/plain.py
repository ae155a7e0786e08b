"""A plain tiled DiT, as published: an autoencoder of slices, and a DiT over mosaics of its latents.

Both may be pretrained; it learns a velocity, or the noise of a DDPM.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from neuromix.augment.data.cohort import label_rows
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.loop import Trained, estimate
from neuromix.augment.diffusion.objectives import Autoencoding, FlowMatching, NoisePrediction
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.config import LARGEST, TiledMDConfig
from neuromix.augment.tiled.mosaic import Tiling
from neuromix.augment.tiled.published.dit import TiledDiT, add_lora
from neuromix.augment.tiled.published.latents import (
    LatentSet,
    fit_autoencoder,
    write_latents,
    write_slices,
)
from neuromix.augment.tiled.published.slice_autoencoder import SliceAutoencoder

if TYPE_CHECKING:
    from neuromix.augment.data.cohort import Cohort
    from neuromix.augment.data.grid import Grid
    from neuromix.augment.diffusion.fitting import Job


def fit(job: Job, grid: Grid) -> tuple[Any, Any, Any, Trained]:
    """A tiled DiT over latents, its codec and scheduler, and what the training came to."""
    config = job.config
    with PartialState().main_process_first():
        parts = Plain.begin(job.cohorts[0], config, grid)
    if config.autoencoder == "kl":
        fit_autoencoder(parts.codec, job)
    paths = job.arrays(
        lambda k, path: write_latents(parts.codec, job.cohorts[k], config.image, path, job.progress)
    )
    sets = [
        LatentSet(path, parts.space, label_rows(each))
        for path, each in zip(paths, job.cohorts, strict=True)
    ]
    objective = parts.objective(config)
    trained = job.train(objective, sets, config.training)
    transformer: Any = objective.networks["network"]
    if config.lora_rank:
        transformer = transformer.merge_and_unload()
    return transformer, parts.codec, parts.scheduler, trained


def estimate_fit(job: Job, grid: Grid, count: int) -> float:
    """Seconds that a fit to ``count`` subjects would take, from the few of a job."""
    config, few = job.config, job.cohorts[0]
    parts = Plain.begin(few, config, grid)
    seconds = 0.0
    if config.autoencoder == "kl":
        slices = write_slices(parts.codec.tiling, few, config.image, job.work / "slices.npy")
        seconds += estimate(Autoencoding(parts.codec), slices, config.autoencoding)
    begun = time.perf_counter()
    path = write_latents(parts.codec, few, config.image, job.work / "train.npy")
    seconds += (time.perf_counter() - begun) / len(few) * count
    latents = LatentSet(path, parts.space, label_rows(few))
    return seconds + estimate(parts.objective(config), latents, config.training)


@dataclass
class Plain:
    """What a fit of a plain DiT works with."""

    space: LabelSpace
    codec: SliceAutoencoder
    network: Any  # a TiledDiT, or peft's wrapping of one
    scheduler: Any

    @classmethod
    def begin(cls, cohort: Cohort, config: TiledMDConfig, grid: Grid) -> Plain:
        """Everything as it is before training."""
        space = LabelSpace.from_known(label_rows(cohort), config.labels)
        with torch.random.fork_rng():
            torch.manual_seed(config.training.seed)
            codec = _codec(config, grid)
            torch.manual_seed(config.training.seed)
            network = build_network(config, space, codec)
        return cls(space, codec, network, _scheduler(config))

    def objective(self, config: TiledMDConfig) -> FlowMatching | NoisePrediction:
        """What it is trained with."""
        if config.objective == "flow":
            return FlowMatching(self.network, config.label_dropout, self.codec.mask)
        alphas = self.scheduler.alphas_cumprod
        return NoisePrediction(self.network, alphas, config.label_dropout, self.codec.mask)


def _codec(config: TiledMDConfig, grid: Grid) -> SliceAutoencoder:
    """The autoencoder as it is before it has seen a subject."""
    tiling = Tiling(grid.shape, config.plane, token_side(config))
    if config.autoencoder == "kl":
        return SliceAutoencoder.new(
            tiling, channels=config.channels, widths=config.widths, largest=LARGEST
        )
    path, revision = _source(config.autoencoder)
    return SliceAutoencoder.from_kl(path, tiling, largest=LARGEST, revision=revision)


def build_network(config: TiledMDConfig, space: LabelSpace, codec: SliceAutoencoder) -> Any:
    """A DiT with fresh or pretrained weights."""
    tiling, (channels, height, _) = codec.tiling, codec.mask.shape[1:]
    factor = tiling.mosaic_shape[0] // height
    if not config.pretrained:
        return TiledDiT(
            label_space=space.to_dict(),
            tiling=tiling.to_dict(),
            num_layers=config.layers,
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            patch_size=config.patch,
            latent_factor=factor,
            in_channels=channels,
        )
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
