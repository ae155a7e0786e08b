"""Settings of the task fMRI sampler, and presets from two cores to the published size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from neuromix.augment.diffusion.config import TrainConfig, schedule
from neuromix.augment.errors import InputError


@dataclass(frozen=True)
class TaskFMRIConfig:
    """Fit the task fMRI sampler on training runs.

    Each needs its events.tsv; all have one grid and one TR (`neuromix prepare --what bold`).
    """

    labels: tuple[str, ...] = ("task", "dir", "sex", "diagnosis", "age")
    """Labels to condition on, beside the events; one that no subject has is left out."""
    window: int = 16
    """Frames that are made jointly."""
    overlap: int = 6
    """Frames of a window that the window before has made, and that it goes on from."""
    people: int = 100
    """Training people whose deviations in anatomy and responses the closed form sums."""
    patterns: int = 64
    """Patterns of its noise."""
    folds: int = 3
    """Parts that training people are put in; each is served by the closed form of the others."""
    width: int = 64
    """Channels of the network's convolutions; tokens have twice as many."""
    blocks: int = 3
    """Residual blocks of convolutions before the transformer and after it, each."""
    layers: int = 3
    """Transformer blocks over all tokens of a window."""
    heads: int = 4
    token: int = 4
    """Voxels that a token covers along a side."""
    label_dropout: float = 0.05
    training: TrainConfig = field(default_factory=TrainConfig)
    """Of the network; 0 steps leave it out: the run is the closed form's."""
    autoencoder: Literal["", "vq", "kl"] = ""
    """Empty for the closed form and its network over frames. The published design has latents:
    VQ-GAN (vq), or a normal code (kl). What follows is of that design alone."""
    objective: Literal["flow", "noise"] = "flow"
    """Velocity of a flow, or the noise of the published schedule."""
    stages: tuple[str, ...] = ("cnn", "transformer")
    """``cnn`` or ``transformer`` for each level of the backbone, finest first."""
    widths: tuple[int, ...] = (48, 96)
    depths: tuple[int, ...] = (1, 2)
    head_dim: int = 32
    time: Literal["factorised", "stack"] = "factorised"
    """Attention over space and time in turn, or frames stacked into channels, as published."""
    cross_attention: bool = True
    """Whether transformers attend to the condition, beside AdaLN."""
    channels: int = 4
    codes: int = 8192
    autoencoder_widths: tuple[int, int] = (32, 64)
    sampled: int = 8
    """Volumes of each run that the autoencoder is trained on."""
    autoencoding: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=2000, batch_size=8, ema_decay=0.99)
    )
    """Training of the autoencoder on single volumes; seed and precision are those above."""

    def __post_init__(self) -> None:
        if self.objective not in ("flow", "noise"):
            raise InputError(f"objective {self.objective!r} is not known; give flow or noise")
        if self.autoencoder not in ("", "vq", "kl"):
            raise InputError(
                f"autoencoder {self.autoencoder!r} came; allowed are vq, kl, and empty for none"
            )
        if self.objective == "noise" and not self.autoencoder:
            raise InputError(
                "objective noise came without an autoencoder; it is of the published design: name "
                "vq or kl, or take flow"
            )
        if not 1 <= self.overlap < self.window:
            raise InputError(
                f"an overlap of {self.overlap} frames does not go with a window of {self.window}; "
                "allowed is 1 to one less than the window"
            )
        if self.folds < 2 or self.token < 2 or self.token % 2:
            raise InputError(
                f"folds {self.folds} and token {self.token} came; allowed are at least 2 folds and "
                "an even token"
            )
        if self.sampled < 1:
            raise InputError(f"{self.sampled} volumes of a run came; the autoencoder needs 1")

    @property
    def network(self) -> dict[str, int]:
        """Settings of the network over frames but for its depth."""
        return {
            "width": self.width,
            "blocks": self.blocks,
            "layers": self.layers,
            "heads": self.heads,
            "token": self.token,
        }


@dataclass(frozen=True)
class WindowShape:
    """What is looked at of a response."""

    frames: int = 4
    step: float = 6.0
    """Seconds of a frame."""
    unit: Literal["percent", "signal"] = "percent"
    shrink: int = 1
    """Voxels along a side of the cubes that are averaged to one."""

    def __post_init__(self) -> None:
        if self.frames < 1 or not 0 < self.step < float("inf") or self.shrink < 1:
            raise InputError(
                f"{self.frames} frames of {self.step:g} s, shrunk by {self.shrink}, came; a "
                "response needs 1 frame or more, a step above 0 s and cubes of 1 voxel or more"
            )
        if self.unit not in ("percent", "signal"):
            raise InputError(f"unit {self.unit!r} came; allowed are percent, signal")


PRESETS = {
    "demo": TaskFMRIConfig(
        width=16, blocks=1, layers=1, codes=256, widths=(16, 32), depths=(1, 1), head_dim=16,
        autoencoder_widths=(8, 16),
        training=replace(schedule(60, 4, 1e-3, warmup=10, ema_decay=0.95, every=30), steps=0),
        autoencoding=schedule(100, 8, 2e-3, warmup=10, ema_decay=0.95, every=50),
    ),
    "tiny": TaskFMRIConfig(
        codes=1024, autoencoder_widths=(16, 32),
        training=schedule(3000, 8, 1e-3, warmup=50, ema_decay=0.995, every=250),
        autoencoding=schedule(1000, 8, 1e-3, warmup=50, ema_decay=0.99, every=250),
    ),
    "base": TaskFMRIConfig(
        window=32, overlap=8, width=256, blocks=4, layers=8, heads=8,
        training=schedule(
            50_000, 16, 3e-4, warmup=500, ema_decay=0.999, every=2000,
        ),
    ),
    "paper": TaskFMRIConfig(
        window=40, overlap=8, autoencoder="vq", objective="noise", time="stack",
        stages=("cnn", "cnn", "transformer"), widths=(256, 512, 1024), depths=(2, 2, 8),
        head_dim=64, autoencoder_widths=(64, 128),
        training=schedule(
            400_000, 16, 1e-4, warmup=1000, ema_decay=0.9999, every=5000,
        ),
        autoencoding=schedule(100_000, 8, 1e-4, warmup=1000, ema_decay=0.999, every=5000),
    ),
}  # fmt: skip
"""From two cores to the size of the published system, whose window and widths are not known. demo
is the closed form alone, which two readings of the runs fit."""
