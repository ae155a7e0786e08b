"""What the training loop costs beside bare steps, and what memory it holds for large cohorts.

Latents are made up, which does not change how long anything takes. A step of the loop and a bare
step run by turns in one process, and the median of the ratios of such neighbours is shown: a busy
machine is as unkind to one as to the other.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import nn

from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.loop import sample_generators, train
from neuromix.augment.diffusion.objectives import FlowMatching
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.config import PRESETS, TiledMDConfig
from neuromix.augment.tiled.latents import LatentSet
from neuromix.experiments.bench.foundation import keep, machine
from neuromix.experiments.bench.maps import LABELS, SPACE, now, ours_alone, parameters, unet
from neuromix.experiments.frame.pace import own_memory
from neuromix.experiments.frame.pages import rich_table

STEPS = 6
"""Of a training whose memory is measured; it has stopped growing by then."""
AT_ONCE = 2
"""Volumes of a MONAI step: a whole batch would hold tens of gigabytes and be no faster a volume."""


def training(
    preset: str,
    spacing: float,
    pairs: int,
    cohorts: Sequence[int],
    out: Path | None,
) -> dict[str, Any]:
    """Time and weigh the training loop.

    Args:
        preset: Size of the network and of its batch.
        spacing: Voxel side in mm.
        pairs: Steps of the loop and bare steps, by turns; a tenth of it for MONAI's.
        cohorts: Training subjects, for the memory.
        out: JSON file for the figures.
    """
    config, grid = PRESETS[preset], Grid.mni(spacing)
    size = config.training.batch_size
    if pairs < 1:
        raise InputError(f"{pairs} pairs of steps measure nothing; give at least 1")
    if min(cohorts, default=size) < size:
        raise InputError(f"{min(cohorts)} subjects are fewer than a batch; give at least {size}")
    if cohorts and not Path("/proc/self/status").exists():
        raise InputError("memory is measured on Linux only; give --cohorts without a number")
    with Progress() as bar, tempfile.TemporaryDirectory() as name:
        clock = bar.add_task("Training", total=pairs + 2)
        scale = bar.add_task("Memory", total=len(cohorts), visible=bool(cohorts))
        result = _speed(config, grid, pairs, Path(name), lambda: bar.advance(clock))
        result["memory"] = []
        # A process each, as memory once asked for stays with a process; the server that forks them
        # has imported what all of them need.
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload([__name__])
        for count in cohorts:
            with ProcessPoolExecutor(1, processes) as pool:
                held = pool.submit(_memory, config, grid, count, Path(name)).result()
            result["memory"].append({"subjects": count} | held)
            bar.advance(scale)
    how = (
        f"{machine()}, {torch.get_num_threads()} threads; {grid}; batch of {size}; medians; "
        "bare steps are 1"
    )
    console = Console()
    shown = pd.DataFrame(result["rows"]).drop(columns=["s/step", "CPU s", "quartiles"])
    console.print(rich_table(shown, title=how))
    console.print(f"Waiting for data: {result['waiting']:.2%} of the training.")
    if cohorts:
        console.print(rich_table(pd.DataFrame(result["memory"]), title="Memory of a training"))
    if out is not None:
        keep(out, {"how": how} | result)
    return result


def _speed(
    config: TiledMDConfig, grid: Grid, pairs: int, folder: Path, advance: Callable[[], None]
) -> dict[str, Any]:
    """Time of a step of the loop, of a bare step of the same network, and of MONAI's."""
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    size = config.training.batch_size
    (codec, network), (_, twin) = ours_alone(config, grid), ours_alone(config, grid)
    objective = FlowMatching(network, config.label_dropout, codec.mask)
    shape = (8 * size, 2, *network.latent_shape)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    np.save(folder / "speed.npy", noise)
    data = LatentSet(folder / "speed.npy", SPACE, [LABELS] * len(noise))

    batch = data.batch(range(size), sample_generators(0, 0, range(size)))
    times, target = torch.full((size,), 500.0), torch.randn_like(batch["latents"])
    bare = _bare_step(
        twin, lambda: F.mse_loss(twin(batch["latents"], times, batch["labels"]), target)
    )
    voxels = unet(parameters(network))
    volumes = torch.randn(2, AT_ONCE, 1, *grid.shape)
    inferer = DiffusionInferer(DDPMScheduler(1000))
    times_2 = torch.full((AT_ONCE,), 500)
    other = _bare_step(
        voxels, lambda: F.mse_loss(inferer(volumes[0], voxels, volumes[1], times_2), volumes[1])
    )

    ours: list[np.ndarray] = []
    plain: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    begun = now()

    def on_step(step: int) -> None:
        nonlocal begun
        ours.append(now() - begun)
        plain.append(_time(bare))
        if step == 1 or step % 10 == 2:
            theirs.append(_time(other) * size / AT_ONCE)
        advance()
        begun = now()

    # The first step of each warms up. One more ends with the checkpoint, which is not measured.
    # A log at every step is more than a training has.
    settings = replace(config.training, steps=pairs + 2, checkpoint_every=pairs + 2, log_every=1)
    trained = train(objective, data, settings, folder / "run", on_step=on_step)

    loop, alone = np.array(ours[1:-1]), np.array(plain[1:-1])
    return {
        "rows": [
            _row("train, but checkpoints", network, loop, alone),
            _row("bare steps", twin, alone, alone),
            _row("MONAI 3D U-Net, bare", voxels, np.array(theirs[1:]), np.median(alone, axis=0)),
        ],
        "waiting": trained.waiting * trained.seconds / float(np.sum(ours, axis=0)[0]),
    }


def _row(what: str, network: nn.Module, times: np.ndarray, bare: np.ndarray) -> dict[str, Any]:
    """Times (n, 2) of steps, and their ratio to those of bare steps."""
    seconds, cpu = np.median(times, axis=0)
    ratio, cpu_ratio = np.median(times / bare, axis=0)
    return {
        "what": what, "weights": parameters(network), "s/step": float(seconds),
        "steps/s": 1 / float(seconds), "ratio": float(ratio), "CPU s": float(cpu),
        "CPU ratio": float(cpu_ratio),
        "quartiles": np.percentile((times / bare)[:, 1], (25, 75)).tolist(),
    }  # fmt: skip


def _bare_step(network: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(network.parameters())

    def step() -> None:
        loss().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _time(work: Callable[[], None]) -> np.ndarray:
    begun = now()
    work()
    return now() - begun


def _memory(config: TiledMDConfig, grid: Grid, subjects: int, folder: Path) -> dict[str, float]:
    """Train for some steps and tell the most memory that was held, in MB.

    Its own memory is what the system cannot take away (RssAnon); the peak counts pages of files as
    well, which the system drops when it needs the room.
    """
    codec, network = ours_alone(config, grid)
    path, shape = folder / f"{subjects}.npy", (subjects, 2, *network.latent_shape)
    # The file has holes: it is read as any other, but the disk need not have the room.
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    data = LatentSet(path, SPACE, [LABELS] * subjects)
    own: list[float] = []
    # At the end of a forward pass all activations are held.
    network.register_forward_hook(lambda *_: own.append(own_memory("RssAnon")))
    settings = replace(config.training, steps=STEPS, checkpoint_every=STEPS)
    objective = FlowMatching(network, config.label_dropout, codec.mask)
    train(objective, data, settings, folder / str(subjects))
    return {
        "latents, MB": data.latents.nbytes / 1e6,
        "own, MB": max(own),
        "peak, MB": own_memory("VmHWM"),
    }
