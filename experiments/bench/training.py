"""What the training loop costs beside bare steps, and what memory it holds for large cohorts.

Latents are made up, which does not change how long anything takes. A step of the loop and a bare
step run by turns in one process, and the median of the ratios of such neighbours is shown: a busy
machine is as unkind to one as to the other.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.denoiser import PriorFlow
from neuromix.augment.diffusion.loop import sample_generators, train
from neuromix.augment.diffusion.precision import precision_of
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.config import PRESETS, TiledMDConfig
from neuromix.augment.tiled.stacks import StackSet
from neuromix.experiments.bench.config import Training
from neuromix.experiments.bench.figures import Figure, beside, report, seconds
from neuromix.experiments.bench.maps import LABELS, SPACE, ours_alone
from neuromix.experiments.frame.pace import own_memory
from neuromix.experiments.quality.monai_unet import weights_of

STEPS = 6
"""Of a training whose memory is measured; it has stopped growing by then."""


def training(asked: Training) -> list[Figure]:
    """Time and weigh the training loop."""
    config, grid = PRESETS[asked.preset], Grid.mni(asked.spacing)
    size, pairs, cohorts = config.training.batch_size, asked.pairs, asked.cohorts
    if min(cohorts, default=size) < size:
        raise InputError(f"{min(cohorts)} subjects are fewer than a batch; give at least {size}")
    if cohorts and not Path("/proc/self/status").exists():
        raise InputError("memory is measured on Linux only; give --cohorts without a number")
    with Progress() as bar, tempfile.TemporaryDirectory() as name:
        clock = bar.add_task("Training", total=pairs + 2)
        scale = bar.add_task("Memory", total=len(cohorts), visible=bool(cohorts))
        figures = _speed(config, grid, pairs, Path(name), lambda: bar.advance(clock))
        # A process each, as memory once asked for stays with a process; the server that forks them
        # has imported what all of them need.
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload([__name__])
        own = []
        for count in cohorts:
            with ProcessPoolExecutor(1, processes) as pool:
                own.append(pool.submit(_memory, config, grid, count, Path(name)).result())
            peer, ratio = f"{cohorts[0]} subjects", own[-1] / own[0]
            what = f"own memory, {count} subjects"
            figures.append(Figure("training", what, own[-1], "MB", peer, ratio))
            bar.advance(scale)
    how = f"{torch.get_num_threads()} threads; {grid}; batch of {size}"
    return report(figures, asked.out, how)


def _speed(
    config: TiledMDConfig, grid: Grid, pairs: int, folder: Path, advance: Callable[[], None]
) -> list[Figure]:
    """Time of a step of the loop, and of a bare step of the same network."""
    size = config.training.batch_size
    _, denoiser = ours_alone(config, grid)
    objective = PriorFlow(denoiser, [], moved=True, mirrored=-2)
    noise = np.random.default_rng(0).standard_normal((8 * size, *denoiser.latent_shape))
    np.save(folder / "speed.npy", noise.astype(np.float16))
    data = _stacks(folder / "speed.npy")
    batch = data.batch(range(size), sample_generators(0, 0, range(size)))
    twin = PriorFlow(ours_alone(config, grid)[1], [], moved=True, mirrored=-2)
    network = twin.networks["network"]
    optimiser = torch.optim.AdamW(network.parameters())

    is_half = precision_of(config.training.precision, "cpu", [network]) == "bf16"

    def bare_step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            loss = twin.loss("network", batch, sample_generators(0, 0, range(size)))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    taken: dict[str, list[float]] = {"train, but checkpoints": [], "bare steps": []}
    begun = time.perf_counter()

    def on_step(step: int) -> None:
        nonlocal begun
        taken["train, but checkpoints"].append(time.perf_counter() - begun)
        taken["bare steps"].append(seconds(bare_step))
        advance()
        begun = time.perf_counter()

    # The first step of each warms up. One more ends with the checkpoint, which is not measured.
    # A log at every step is more than a training has.
    settings = replace(config.training, steps=pairs + 2, checkpoint_every=pairs + 2, log_every=1)
    trained = train(objective, data, settings, folder / "run", on_step=on_step)
    steps = {what: np.array(times[1:-1]) for what, times in taken.items()}
    weights = dict.fromkeys(steps, weights_of(network))
    waiting = trained.waiting * trained.seconds / sum(taken["train, but checkpoints"])
    return [
        *beside("training", steps, "s", "bare steps", weights),
        Figure("training", "waiting for data", 100 * waiting, "%"),
    ]


def _memory(config: TiledMDConfig, grid: Grid, subjects: int, folder: Path) -> float:
    """Train for some steps; the most memory in MB that the system could not take away."""
    _, denoiser = ours_alone(config, grid)
    path, shape = folder / f"{subjects}.npy", (subjects, *denoiser.latent_shape)
    # The file has holes: it is read as any other, but the disk need not have the room.
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    data = _stacks(path)
    own: list[float] = []
    # At the end of a forward pass all activations are held.
    objective = PriorFlow(denoiser, [], moved=True, mirrored=-2)
    network = objective.networks["network"]
    network.register_forward_hook(lambda *_: own.append(own_memory("RssAnon")))
    settings = replace(config.training, steps=STEPS, checkpoint_every=STEPS)
    train(objective, data, settings, folder / str(subjects))
    return max(own)


def _stacks(path: Path) -> StackSet:
    """Stacks on disk whose people are in no fold."""
    count = len(np.load(path, mmap_mode="r"))
    return StackSet(path, SPACE, [LABELS] * count, np.full(count, -1), True, 0)
