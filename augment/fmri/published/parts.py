"""What the published design is fitted with: its networks, their objectives and its scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.fitting import ImageSet
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.loop import train
from neuromix.augment.diffusion.objectives import FlowMatching, NoisePrediction
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.closed_form import label_space_of
from neuromix.augment.fmri.config import TaskFMRIConfig
from neuromix.augment.fmri.published.adversarial import AdversarialAutoencoding
from neuromix.augment.fmri.published.hybrid_dit import HybridDiT
from neuromix.augment.fmri.published.vqgan import VolumeAutoencoder, VolumeDiscriminator
from neuromix.augment.fmri.published.windows import WindowSet
from neuromix.augment.fmri.runs import BASIS, Runs, Survey

CODE = {"vq": 1.0, "kl": 1e-6}
"""Weight of the code's loss: commitment, or divergence."""

LEAST = 12
"""Voxels along an axis that the autoencoder and its judge can halve."""


@dataclass
class Parts:
    """What a fit works with."""

    space: LabelSpace
    conditions: tuple[str, ...]
    window: int
    codec: VolumeAutoencoder
    game: AdversarialAutoencoding
    network: HybridDiT

    @classmethod
    def begin(cls, runs: Runs, survey: Survey, config: TaskFMRIConfig) -> Parts:
        """Everything as it is before training."""
        if min(runs.grid.shape) < LEAST:
            raise InputError(
                f"a grid of {runs.grid} came; a network needs {LEAST} voxels or more along each "
                "axis: prepare with a smaller spacing, or leave the autoencoder out"
            )
        space = label_space_of(runs, config)
        with torch.random.fork_rng():
            torch.manual_seed(config.training.seed)
            codec = VolumeAutoencoder(
                shape=list(runs.grid.shape), kind=config.autoencoder, channels=config.channels,
                widths=list(config.autoencoder_widths), codes=config.codes,
            )  # fmt: skip
            codec.mask.copy_(torch.from_numpy(survey.mask).float())
            judge = VolumeDiscriminator(width=config.autoencoder_widths[0])
            network = HybridDiT(
                label_space=space.to_dict(), courses=BASIS * len(runs.conditions),
                frames=config.window, shape=list(codec.latent_shape), channels=config.channels,
                stages=list(config.stages), widths=list(config.widths),
                depths=list(config.depths), head_dim=config.head_dim, time=config.time,
                cross_attention=config.cross_attention,
            )  # fmt: skip
        game = AdversarialAutoencoding(codec, judge, code=CODE[config.autoencoder])
        return cls(space, runs.conditions, config.window, codec, game, network)

    def fit_codec(
        self,
        folders: Sequence[Path],
        config: TaskFMRIConfig,
        work: Path,
        resume: bool,
        progress: bool,
    ) -> None:
        """Train the autoencoder on volumes of the surveys; a finished one is only loaded."""
        sets = [ImageSet(folder / "frames.npy") for folder in folders]
        train(
            self.game,
            sets[0],
            config.autoencoding.within(config.training),
            work / "autoencoder",
            validation=sets[1] if len(sets) > 1 else None,
            resume=resume,
            progress=progress,
        )
        every = range(0, len(sets[0]), 16)
        batches = (sets[0].batch(range(k, min(k + 16, len(sets[0]))), ()) for k in every)
        self.codec.eval().standardise(batch["images"] for batch in batches)

    def windows(self, path: Path, runs: Runs) -> WindowSet:
        """Latents on disk as a training set."""
        return WindowSet(path, runs, self.conditions, self.space, self.window)

    def objective(self, config: TaskFMRIConfig) -> FlowMatching | NoisePrediction:
        """What the network is trained to do."""
        mask = self.codec.latent_mask[None]
        if config.objective == "flow":
            return FlowMatching(self.network, config.label_dropout, mask)
        # Unweighted, as published.
        alphas = scheduler_of(config).alphas_cumprod
        return NoisePrediction(self.network, alphas, config.label_dropout, mask, math.inf)


def scheduler_of(config: TaskFMRIConfig) -> Any:
    """Times and steps: of the flow, or of the published noise."""
    if config.objective == "flow":
        return FlowMultistepScheduler()
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        use_lu_lambdas=True,
    )
