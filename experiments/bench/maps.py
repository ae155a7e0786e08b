"""How fast the tiled MD sampler makes volumes, beside diffusers and MONAI at equal size.

Weights are fresh, which does not change how long anything takes. All run by turns in one process,
so that a busy machine is as unkind to one as to the other, and medians are shown. Seconds are those
of the clock; CPU seconds tell how much of them the process itself had.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from rich.console import Console
from rich.progress import track
from torch import nn

from neuromix.augment.data.conditions import CATEGORIES, LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.codec import DeformableTemplate
from neuromix.augment.tiled.config import PRESETS, TiledMDConfig
from neuromix.augment.tiled.mosaic import Tiling
from neuromix.augment.tiled.sampler import CHUNK, TiledMDSampler, build_network, token_side
from neuromix.experiments.bench.foundation import keep, machine
from neuromix.experiments.frame.pages import rich_table

if TYPE_CHECKING:
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

SPACE = LabelSpace(CATEGORIES, {"age": (55.0, 90.0)})
LABELS = {"sex": "F", "diagnosis": "NC", "age": 70.0}
COMPONENTS = 128
"""Of the Gaussian in PCA space."""


@dataclass(frozen=True)
class Contender:
    """Something that makes volumes, CHUNK at a time.

    Args:
        name: For the table.
        network: What it calls at every step.
        draw: Makes a chunk in a number of steps.
        steps: Numbers of steps to tell the time of.
        measured: Steps that are run; all being alike, the time of more follows from them.
        decoder: Numbers in what comes after the last step.
    """

    name: str
    network: nn.Module
    draw: Callable[[int], Any]
    steps: tuple[int, ...]
    measured: int
    decoder: int = 0


def sampling(
    preset: str, spacing: float, repeats: int, measured: int, out: Path | None
) -> list[dict[str, Any]]:
    """Time finished volumes.

    Args:
        preset: Size of ours, and so of all.
        spacing: Voxel side in mm.
        repeats: Rounds in which each contender runs once.
        measured: Steps that are run of those that take too long.
        out: JSON file for the figures.
    """
    if min(repeats, measured) < 1:
        raise InputError(f"{repeats} repeats of {measured} steps measure nothing; give at least 1")
    grid = Grid.mni(spacing)
    contenders = _contenders(PRESETS[preset], grid, measured)
    turns = [(turn, c) for turn in range(repeats + 1) for c in contenders]
    runs: dict[str, list[np.ndarray]] = {contender.name: [] for contender in contenders}
    for turn, contender in track(turns, "Sampling"):
        if turn == 0:
            contender.draw(1)  # a first run also pays for what is set up once
        else:
            runs[contender.name].append(_timed(contender))

    own = _volume(runs[contenders[1].name], 20)
    rows = []
    for contender in contenders:
        times = runs[contender.name]
        for steps in contender.steps:
            volume = _volume(times, steps)
            seconds, cpu = np.median(volume, axis=0).tolist()
            ratio, cpu_ratio = np.median(volume / own, axis=0).tolist()  # within a round
            rows.append({
                "what": contender.name, "weights": parameters(contender.network),
                "decoder": contender.decoder, "measured": contender.measured, "passes": steps,
                "s/pass": float(np.median([a_pass[0] for a_pass, _, _ in times])) / CHUNK,
                "s/volume": seconds, "CPU s": cpu,
                "ratio": ratio, "CPU ratio": cpu_ratio,
            })  # fmt: skip
    how = (
        f"{machine()}, {torch.get_num_threads()} threads; {grid}; chunks of {CHUNK}, no guidance, "
        f"fresh weights; medians of {repeats}; ours with 20 steps is 1"
    )
    shown = pd.DataFrame(rows).drop(columns=["decoder", "measured", "CPU s"])
    Console().print(rich_table(shown, title=how))
    if out is not None:
        keep(out, {"how": how, "rows": rows})
    return rows


def _volume(times: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """Seconds and CPU seconds of a volume in each round, (repeats, 2)."""
    return np.stack([steps * a_step + rest for _, a_step, rest in times]) / CHUNK


def parameters(network: nn.Module) -> int:
    """How many a network has."""
    return sum(weight.numel() for weight in network.parameters())


def ours_alone(config: TiledMDConfig, grid: Grid) -> tuple[DeformableTemplate, Any]:
    """Our codec, unfitted, and our network with fresh weights."""
    factor, depth = config.cell
    tiling = Tiling(grid.shape, config.plane, token_side(config))
    codec = DeformableTemplate(
        tiling=tiling.to_dict(), spacing=list(grid.spacing), factor=factor, depth=depth
    )
    return codec, build_network(config, SPACE, codec, config.rank)


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


def unet(target: int) -> DiffusionModelUNet:
    """MONAI's 3D diffusion U-Net with about as many parameters; unconditional, which favours it."""
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    def build(width: int) -> DiffusionModelUNet:
        # Levels widen about twofold; all widths divide into groups of four.
        widths = tuple(4 * max(round(width * k / 4), 1) for k in (1, 2, 4))
        return DiffusionModelUNet(
            spatial_dims=3, in_channels=1, out_channels=1, channels=widths, num_res_blocks=1,
            attention_levels=(False, False, True), num_head_channels=widths[-1],
            norm_num_groups=4,
        )  # fmt: skip

    network: DiffusionModelUNet = _closest(build, range(4, 513), target)
    return network


def _closest(build: Callable[[int], Any], widths: Sequence[int], target: int) -> Any:
    """The network whose number of parameters, which grows with the width, is nearest."""

    def count(width: int) -> int:
        with torch.device("meta"):
            return parameters(build(width))

    place = bisect.bisect_left(widths, target, key=count)
    near = widths[max(place - 1, 0) : place + 1]
    return build(min(near, key=lambda width: abs(count(width) - target)))


def _contenders(config: TiledMDConfig, grid: Grid, measured: int) -> list[Contender]:
    """Ours with 10 and 20 steps, diffusers' DiTPipeline, MONAI's U-Net, a Gaussian."""
    from monai.inferers import DiffusionInferer
    from monai.networks import schedulers as monai_schedulers

    codec, network = ours_alone(config, grid)
    numbers = sum(buffer.numel() for buffer in codec.buffers())
    sampler = TiledMDSampler(network, codec, FlowMultistepScheduler(), grid.to_dict(), {})

    def ours(steps: int) -> Any:
        return sampler([LABELS] * CHUNK, list(range(CHUNK)), steps=steps)

    found = [
        Contender(f"neuromix, {steps} steps", network, ours, (steps,), steps, numbers)
        for steps in (10, 20)
    ]

    # One square picture with no fewer tokens than the mosaic. A picture for each slice would cost
    # less attention, but nothing would hold the slices of a volume together.
    side = PATCH * math.ceil(len(network.network.kept) ** 0.5)
    picture = dit(parameters(network), config.layers, config.heads, side)
    vae = autoencoder(numbers)
    voxels = unet(parameters(network))
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

    numbers = parameters(vae)
    basis = nn.Linear(COMPONENTS, math.prod(grid.shape))
    ddpm, ddim = pictures(DDPMScheduler()), pictures(DDIMScheduler())
    ddpm_3d = volumes(monai_schedulers.DDPMScheduler(1000))
    ddim_3d = volumes(monai_schedulers.DDIMScheduler(1000))
    found += [
        Contender("DiTPipeline, DDPM", picture, ddpm, (250,), measured, numbers),
        Contender("DiTPipeline, DDIM", picture, ddim, (50, 20), measured, numbers),
        Contender("MONAI 3D U-Net, DDPM", voxels, ddpm_3d, (1000,), measured),
        Contender("MONAI 3D U-Net, DDIM", voxels, ddim_3d, (50, 20, 10), measured),
        Contender("PCA Gaussian", basis, lambda _: basis(torch.randn(CHUNK, COMPONENTS)), (1,), 1),
    ]
    for contender in found:
        contender.network.eval()
    return found


def now() -> np.ndarray:
    """Seconds of the clock and CPU seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


@torch.no_grad()
def _timed(contender: Contender) -> np.ndarray:
    """Time of a pass through the network, of a whole step, and of all that is no step: (3, 2)."""
    begun: list[np.ndarray] = []
    ended: list[np.ndarray] = []
    network = contender.network
    hooks = (
        network.register_forward_pre_hook(lambda *_: begun.append(now())),
        network.register_forward_hook(lambda *_: ended.append(now())),
    )
    start = now()
    contender.draw(contender.measured)
    whole = now() - start
    for hook in hooks:
        hook.remove()
    inside = ended[-1] - begun[0]
    passes = np.subtract(ended, begun).mean(axis=0)
    return np.stack([passes, inside / len(begun), whole - inside])
