"""What is measured, and how much of it: the options of ``neuromix benchmark``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuromix.augment.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What all have."""

    out: Path | None = None
    """JSON file for the figures. Without it they are only printed."""

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if isinstance(count, int | float) and not isinstance(count, bool) and count <= 0:
                raise InputError(f"{count} {name} measure nothing; give at least 1")


@dataclass(frozen=True, kw_only=True)
class Foundation(Benchmark):
    """Time the phantom, the BIDS index and the imports on this machine."""

    subjects: int = 80
    """Phantom subjects to time, of each kind (a tenth of it for task)."""
    indexed: int = 100_000
    """Subjects of the empty BIDS tree to index."""


@dataclass(frozen=True, kw_only=True)
class Sampling(Benchmark):
    """Time a finished MD volume: ours, diffusers' DiTPipeline and MONAI's 3D U-Net of equal size.

    Weights are fresh, as they do not change the speed. Takes about ten minutes on two cores.
    """

    preset: Literal["demo", "tiny", "base"] = "tiny"
    """Size of our sampler, and so of all."""
    spacing: float = 4.0
    """Voxel side in mm."""
    repeats: int = 3
    """Rounds in which each runs once; medians are shown."""
    measured: int = 1
    """Steps that are run of the slow ones; the time of all steps follows from them."""


@dataclass(frozen=True, kw_only=True)
class Training(Benchmark):
    """Time the training loop against bare steps, and weigh it for growing cohorts.

    Latents are made up, as they do not change the speed. Takes about ten minutes on two cores.
    """

    preset: Literal["demo", "tiny", "base"] = "tiny"
    """Size of the network and of its batch."""
    spacing: float = 4.0
    """Voxel side in mm."""
    pairs: int = 30
    """Steps of the loop and bare steps, by turns; medians are shown."""
    cohorts: tuple[int, ...] = (200, 2000, 20_000)
    """Training subjects for the memory, a process each (Linux only)."""


@dataclass(frozen=True, kw_only=True)
class Transforms(Benchmark):
    """Time draws from a bank and loaders, and weigh many draws (Linux only).

    Images are made up, as they do not change the speed.
    """

    spacing: float = 1.75
    """Voxel side in mm; 1.75 makes 96 x 112 x 96 voxels."""
    samples: int = 30
    """Of the bank; there are as many real subjects."""
    rounds: int = 30
    """Draws and their rivals, by turns; medians are shown. A tenth for the loaders."""
    workers: tuple[int, ...] = (0, 2, 4)
    """Numbers of workers of the loaders."""
    draws: int = 1000
    """Over which the memory is watched."""


@dataclass(frozen=True, kw_only=True)
class Everything(Benchmark):
    """Run every benchmark with its defaults: one table, each figure beside its peer.

    Takes about forty minutes on two cores.
    """

    quick: bool = False
    """Small sizes, a few minutes: it shows that all works and little of the speed."""
    against: Path | None = None
    """JSON file of an earlier run, to compare with."""
