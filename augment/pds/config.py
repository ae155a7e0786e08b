"""Settings of the modality completer, and presets from two cores to the published size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from neuromix.augment.diffusion.config import TrainConfig, schedule
from neuromix.augment.errors import InputError, require_choice

MODALITIES = ("fmri", "dmri")
"""The two that are completed from one another."""


@dataclass(frozen=True)
class ModalityConfig:
    """Fit the modality completer on subjects with fMRI and dMRI segments."""

    directions: tuple[str, ...] = MODALITIES
    """Modalities that can be filled in."""
    labels: tuple[str, ...] = ("diagnosis",)
    """Labels to condition on, dropped at random; one that no subject has is left out. Empty: no
    diagnosis."""
    label_dropout: float = 0.5
    """Filling uses no label unless it is told to, so that most training samples show none."""
    start: Literal["gaussian", "noise"] = "gaussian"
    """``gaussian``: PDM adds to a closed form. ``noise``: PDM does all, as published."""
    objective: Literal["flow", "noise"] = "flow"
    """``flow`` (velocity), or ``noise`` (a DDPM with a cosine schedule, drawn by DDIM)."""
    refine: Literal["mean", "sample", "none"] = "mean"
    """What TR sharpens: the mean that samples spread around, the samples as published, nothing."""
    pattern: bool = True
    """The pattern-aware module."""
    microstructure: float = 0.05
    """Weight of MR; 0 leaves it out."""
    source_blind: bool = False
    """Hide the source, as the published code does; for comparison only."""
    patch: int = 4
    """Voxels along a side of a position of PDM's finest resolution."""
    widths: tuple[int, ...] = (48, 96)
    """PDM's channels at each resolution."""
    heads: int = 4
    refiner_width: int = 48
    refiner_blocks: int = 3
    sampling_steps: int = 10
    """Evaluations of PDM for a sample."""
    box: int = 12
    """Voxels along a side of the boxes that TR is trained on."""
    training: TrainConfig = field(default_factory=TrainConfig)
    """Of PDM."""
    refining: TrainConfig = field(default_factory=TrainConfig)
    """Of TR, first stage; the second takes a third as many steps, at a third of the rate."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.directions if name not in MODALITIES]
        if unknown or not self.directions:
            raise InputError(
                f"directions {list(self.directions)} came; they are modalities to fill in, one or "
                f"both of {', '.join(MODALITIES)}"
            )
        allowed = {
            "start": ("gaussian", "noise"),
            "objective": ("flow", "noise"),
            "refine": ("mean", "sample", "none"),
        }
        for name, values in allowed.items():
            require_choice(name, getattr(self, name), values)
        if self.start == "gaussian" and self.objective == "noise":
            raise InputError(
                "objective noise came with start gaussian, whose flow is a velocity; give "
                "start noise, or objective flow"
            )
        if self.start == "noise" and self.refine == "mean":
            raise InputError(
                "refine mean came with start noise, which has no mean; give refine sample or none"
            )


PRESETS = {
    "demo": ModalityConfig(
        widths=(32, 64), refiner_width=32, refiner_blocks=2,
        refining=schedule(150, 16, 3e-3, warmup=10, ema_decay=0.95, every=75),
        training=schedule(60, 8, 1e-3, warmup=10, ema_decay=0.95, every=30),
    ),
    "tiny": ModalityConfig(
        refiner_width=64,
        refining=schedule(2000, 16, 2e-3, warmup=50, ema_decay=0.99, every=250),
        training=schedule(800, 8, 1e-3, warmup=50, ema_decay=0.98, every=100),
    ),
    "base": ModalityConfig(
        patch=2, widths=(64, 128, 256), refiner_width=128, refiner_blocks=4, box=24,
        refining=schedule(
            20_000, 32, 1e-3, warmup=200, ema_decay=0.999, every=1000,
        ),
        training=schedule(
            30_000, 16, 3e-4, warmup=500, ema_decay=0.999, every=1000,
        ),
    ),
    "paper": ModalityConfig(
        start="noise", objective="noise", refine="sample",
        patch=1, widths=(64, 128, 256, 512), heads=8,
        refiner_width=128, refiner_blocks=4, box=32, sampling_steps=50,
        refining=schedule(
            50_000, 16, 1e-4, warmup=500, ema_decay=0.999, every=1000,
        ),
        training=schedule(
            200_000, 8, 1e-4, warmup=1000, ema_decay=0.9999, every=2000,
        ),
    ),
}  # fmt: skip
"""``demo`` and ``tiny`` for two cores, ``base`` for one GPU; ``paper`` is the published system (a
DDPM from noise, then TR on its samples) at its size, and needs days of a GPU."""


ABLATIONS: dict[str, dict[str, Any]] = {
    "pattern": {"pattern": False},
    "refinement": {"refine": "none"},
    "microstructure": {"microstructure": 0.0},
    "diagnosis": {"labels": ()},
}
"""What leaves a part out."""


def shortened(
    config: ModalityConfig, steps: int | None, refining_steps: int | None = None
) -> ModalityConfig:
    """The config with other numbers of training steps, of PDM and of TR, where they are given."""
    for name, count in (("training", steps), ("refining", refining_steps)):
        if count is None:
            continue
        if count < 1:
            raise InputError(f"{count} {name} steps came; give 1 or more")
        part = getattr(config, name)
        changed = replace(
            part, steps=count, warmup=min(part.warmup, count // 4),
            validate_every=min(part.validate_every, count),
            checkpoint_every=min(part.checkpoint_every, count),
        )  # fmt: skip
        config = replace(config, **{name: changed})
    return config


def ablated(config: ModalityConfig, without: Sequence[str]) -> ModalityConfig:
    """The config without some of its parts."""
    for name in without:
        config = replace(config, **ABLATIONS[name])
    return config
