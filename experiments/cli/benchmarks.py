"""``neuromix benchmark``: a function for each; imports wait until they are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal


def foundation(subjects: int = 80, indexed: int = 100_000, out: Path | None = None) -> None:
    """Time the phantom, the BIDS index and the imports on this machine.

    Args:
        subjects: Phantom subjects to time, of each kind (a tenth of it for task).
        indexed: Subjects of the empty BIDS tree to index.
        out: JSON file for the figures. Default: only print them.
    """
    from neuromix.experiments.bench.foundation import foundation as run

    run(subjects, indexed, out)


def sampling(
    preset: Literal["demo", "tiny", "base"] = "tiny",
    spacing: float = 4.0,
    repeats: int = 3,
    measured: int = 2,
    out: Path | None = None,
) -> None:
    """Time a finished MD volume: ours, diffusers' DiTPipeline and MONAI's 3D U-Net of equal size.

    Weights are fresh, as they do not change the speed. Takes about ten minutes on two cores.

    Args:
        preset: Size of our sampler, and so of all.
        spacing: Voxel side in mm.
        repeats: Rounds in which each runs once; medians are shown.
        measured: Steps that are run of the slow ones; the time of all steps follows from them.
        out: JSON file for the figures. Default: only print them.
    """
    from neuromix.experiments.bench.maps import sampling as run

    run(preset, spacing, repeats, measured, out)


def training(
    preset: Literal["demo", "tiny", "base"] = "tiny",
    spacing: float = 4.0,
    pairs: int = 30,
    cohorts: tuple[int, ...] = (200, 2000, 20_000),
    out: Path | None = None,
) -> None:
    """Time the training loop against bare steps and MONAI's, and weigh it for growing cohorts.

    Latents are made up, as they do not change the speed. Takes about ten minutes on two cores.

    Args:
        preset: Size of the network and of its batch.
        spacing: Voxel side in mm.
        pairs: Steps of the loop and bare steps, by turns; medians are shown. A tenth for MONAI's.
        cohorts: Training subjects for the memory, a process each (Linux only).
        out: JSON file for the figures. Default: only print them.
    """
    from neuromix.experiments.bench.training import training as run

    run(preset, spacing, pairs, cohorts, out)


def transforms(
    spacing: float = 1.75,
    samples: int = 30,
    rounds: int = 30,
    workers: tuple[int, ...] = (0, 2, 4),
    draws: int = 1000,
    out: Path | None = None,
) -> None:
    """Time draws from a bank and loaders, and weigh many draws (Linux only).

    Images are made up, as they do not change the speed.

    Args:
        spacing: Voxel side in mm; 1.75 makes 96 x 112 x 96 voxels.
        samples: Of the bank; there are as many real subjects.
        rounds: Draws and their rivals, by turns; medians are shown. A tenth for the loaders.
        workers: Numbers of workers of the loaders.
        draws: Over which the memory is watched.
        out: JSON file for the figures. Default: only print them.
    """
    from neuromix.experiments.bench.transforms import transforms as run

    run(spacing, samples, rounds, workers, draws, out)


def completing(
    preset: Literal["demo", "tiny"] = "tiny",
    spacing: float = 6.0,
    samples: int = 16,
    rounds: int = 5,
    out: Path | None = None,
) -> None:
    """Time the completion of a subject: ours, MONAI's diffusion U-Net, regressions.

    Args:
        preset: Of our completer.
        spacing: Voxel side in mm.
        samples: Of a subject.
        rounds: In which each completes one; medians are shown.
        out: JSON file for the figures. Default: only print them.
    """
    from neuromix.experiments.bench.images_4d import completing as run

    run(preset, spacing, samples, rounds, out)


def runs(
    preset: Literal["demo", "tiny"] = "tiny",
    spacing: float = 12.0,
    frames: int = 100,
    rounds: int = 5,
    out: Path | None = None,
) -> None:
    """Time task fMRI runs: our closed form and networks, MONAI's U-Net, reading a real run.

    Args:
        preset: Size of the networks.
        spacing: Voxel side in mm; networks need 12 voxels along each axis.
        frames: Of a run.
        rounds: In which each makes one; medians are shown.
        out: JSON file for the figures. Default: only print them.
    """
    from neuromix.experiments.bench.images_4d import runs as run

    run(preset, spacing, frames, rounds, out)


def everything(quick: bool = False, out: Path | None = None, against: Path | None = None) -> None:
    """Run every benchmark with its defaults: one table, each figure beside its peer.

    Takes about forty minutes on two cores.

    Args:
        quick: Small sizes, a few minutes: it shows that all works and little of the speed.
        out: JSON file for the figures. Default: only print them.
        against: JSON file of an earlier run, to compare with.
    """
    from neuromix.experiments.bench.everything import everything as run

    run(quick, out, against)


BENCHMARKS: dict[str, Callable[..., Any]] = {
    "all": everything,
    "foundation": foundation,
    "sampling": sampling,
    "training": training,
    "transforms": transforms,
    "completing": completing,
    "runs": runs,
}
