"""How fast the tiled MD sampler makes volumes, beside diffusers and MONAI at equal size.

Weights are fresh, which does not change how long anything takes. All run by turns in one process,
and medians are shown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from rich.progress import track
from torch import nn

from neuromix.augment.data.conditions import CATEGORIES, LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.augmentation import MOVES, PARAMETERS
from neuromix.augment.diffusion.denoiser import Denoiser
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.resolution import settings_of
from neuromix.augment.tiled.codec import VolumeCodec
from neuromix.augment.tiled.config import PRESETS, TiledMDConfig
from neuromix.augment.tiled.sampler import CHUNK, TiledMDSampler
from neuromix.experiments.bench.config import Sampling
from neuromix.experiments.bench.figures import Figure, beside, report, seconds
from neuromix.experiments.quality.monai_unet import closest_width, unet, weights_of

SPACE = LabelSpace(CATEGORIES, {"age": (55.0, 90.0)})
LABELS = {"sex": "F", "diagnosis": "NC", "age": 70.0}
COMPONENTS = 128
"""Of the Gaussian in PCA space."""


class Contender(NamedTuple):
    """Something that makes volumes, CHUNK at a time."""

    network: nn.Module
    """What it calls at every step."""
    draw: Callable[[int], Any]
    """Makes a chunk in a number of steps."""
    steps: tuple[int, ...]
    """Numbers of steps to tell the time of."""
    measured: int
    """Steps that are run; all being alike, the time of more follows from them."""


def sampling(config: Sampling) -> list[Figure]:
    """Time finished volumes."""
    grid = Grid.mni(config.spacing)
    contenders = _contenders(PRESETS[config.preset], grid, config.measured)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in track(range(config.repeats + 1), "Sampling"):
        for name, contender in contenders.items():
            if turn == 0:
                contender.draw(1)  # a first run also pays for what is set up once
            else:
                times[name].append(_timed(contender))
    volumes, weights = {}, {}
    for name, contender in contenders.items():
        for steps in contender.steps:
            what = f"{name}, {steps} passes"
            volumes[what] = np.array([steps * step + rest for step, rest in times[name]]) / CHUNK
            weights[what] = weights_of(contender.network)
    how = f"{torch.get_num_threads()} threads; {grid}; chunks of {CHUNK}, no guidance"
    peer = "neuromix, 20 steps, 20 passes"
    return report(beside("sampling", volumes, "s", peer, weights), config.out, how)


def ours_alone(config: TiledMDConfig, grid: Grid) -> tuple[VolumeCodec, Denoiser]:
    """Our codec, unfitted, and our denoiser with fresh weights."""
    depth = min(config.depth, grid.shape[2])
    codec = VolumeCodec(
        shape=list(grid.shape), plane="axial", multiples=(depth, config.token, config.token),
        levelled=False,
    )  # fmt: skip
    x, y, z = grid.spacing
    features = sum(map(len, SPACE.categories.values())) + len(SPACE.ranges)
    return codec, Denoiser(
        label_space=SPACE.to_dict(), network_settings=config.network | {"depth": depth},
        prior_settings=settings_of(codec.padded, (z, x, y), codec.inside, features),
        parameters=PARAMETERS + MOVES,
    )  # fmt: skip


PATCH = 2
"""Latent pixels along a side of a token of diffusers' DiT."""


def dit(target: int, layers: int, heads: int, side: int) -> DiTTransformer2DModel:
    """Diffusers' DiT with about as many parameters, for pictures of ``side`` latent pixels."""

    def build(width: int) -> DiTTransformer2DModel:
        return DiTTransformer2DModel(
            num_attention_heads=heads, attention_head_dim=width, in_channels=4, out_channels=8,
            num_layers=layers, sample_size=side, patch_size=PATCH,
        )  # fmt: skip

    network: DiTTransformer2DModel = _closest(build, range(4, 129, 4), target)
    return network


def autoencoder(target: int) -> AutoencoderKL:
    """Diffusers' f8 autoencoder with about as many parameters."""

    def build(width: int) -> AutoencoderKL:
        return AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[width, 2 * width, 4 * width, 4 * width], norm_num_groups=4,
        )  # fmt: skip

    vae: AutoencoderKL = _closest(build, range(4, 257, 4), target)
    return vae


def _closest(build: Callable[[int], Any], widths: Sequence[int], weights: int) -> Any:
    return build(closest_width(build, widths, weights))


def _contenders(config: TiledMDConfig, grid: Grid, measured: int) -> dict[str, Contender]:
    """Ours with 10 and 20 steps, diffusers' DiTPipeline, MONAI's U-Net, a Gaussian."""
    from monai.inferers import DiffusionInferer
    from monai.networks import schedulers as monai_schedulers

    codec, network = ours_alone(config, grid)
    sampler = TiledMDSampler(network, codec, FlowMultistepScheduler(), grid.to_dict(), {})

    def ours(steps: int) -> Any:
        return sampler([LABELS] * CHUNK, list(range(CHUNK)), steps=steps)

    # One square picture with no fewer tokens than the mosaic. A picture for each slice would cost
    # less attention, but nothing would hold the slices of a volume together.
    slices, height, width = codec.padded
    tokens = (
        slices // min(config.depth, slices) * (height // config.token) * (width // config.token)
    )
    side = PATCH * math.ceil(tokens**0.5)
    picture = dit(weights_of(network), config.layers, config.heads, side)
    vae = autoencoder(0)  # the smallest, which favours it
    # Unconditional, which favours it.
    voxels = _closest(unet, range(4, 513), weights_of(network))
    inferer = DiffusionInferer(monai_schedulers.DDPMScheduler(1000))

    def pictures(scheduler: Any) -> Callable[[int], Any]:
        pipeline = DiTPipeline(picture, vae, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        classes = [0] * CHUNK
        return lambda steps: pipeline(
            classes, guidance_scale=1.0, num_inference_steps=steps, output_type="pt"
        )

    def volumes(scheduler: Any) -> Callable[[int], Any]:
        def draw(steps: int) -> Any:
            scheduler.set_timesteps(steps)
            noise = torch.randn(CHUNK, 1, *grid.shape)
            return inferer.sample(noise, voxels, scheduler, verbose=False)

        return draw

    basis = nn.Linear(COMPONENTS, math.prod(grid.shape))
    ddpm, ddim = pictures(DDPMScheduler()), pictures(DDIMScheduler())
    ddpm_3d = volumes(monai_schedulers.DDPMScheduler(1000))
    ddim_3d = volumes(monai_schedulers.DDIMScheduler(1000))
    contenders = {
        "neuromix, 10 steps": Contender(network, ours, (10,), 10),
        "neuromix, 20 steps": Contender(network, ours, (20,), 20),
        "DiTPipeline, DDPM": Contender(picture, ddpm, (250,), measured),
        "DiTPipeline, DDIM": Contender(picture, ddim, (50, 20), measured),
        "MONAI 3D U-Net, DDPM": Contender(voxels, ddpm_3d, (1000,), measured),
        "MONAI 3D U-Net, DDIM": Contender(voxels, ddim_3d, (50, 20, 10), measured),
        "PCA Gaussian": Contender(basis, lambda _: basis(torch.randn(CHUNK, COMPONENTS)), (1,), 1),
    }
    for contender in contenders.values():
        contender.network.eval()
    return contenders


@torch.no_grad()
def _timed(contender: Contender) -> tuple[float, float]:
    """Seconds of a whole step, and of all that is no step."""
    begun: list[float] = []
    ended: list[float] = []
    network = contender.network
    hooks = (
        network.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter())),
        network.register_forward_hook(lambda *_: ended.append(time.perf_counter())),
    )
    whole = seconds(contender.draw, contender.measured)
    for hook in hooks:
        hook.remove()
    inside = ended[-1] - begun[0]
    return inside / len(begun), whole - inside
