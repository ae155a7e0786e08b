"""Settings of a training, which every sampler's settings hold; no torch is imported for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from neuromix.augment.errors import InputError

PRECISIONS = ("auto", "no", "bf16")
"""Their gradients need no scaling. Those of fp16 do, and would be clipped while scaled."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. One instance a preset stands beside each sampler."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 16
    """Samples of an optimiser step, over all processes and micro-batches together."""
    learning_rate: float = 3e-4
    warmup: int = 50
    """Steps in which the learning rate rises; it then falls to zero along a cosine."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    accumulation: int = 1
    """Micro-batches of an optimiser step."""
    precision: str = "no"
    """``no`` (float32), ``bf16`` (mixed) or ``auto``: bf16 where the machine has it."""
    validate_every: int = 200
    checkpoint_every: int = 200
    checkpoints: int = 2
    """How many checkpoints are kept."""
    log_every: int = 10
    seed: int = 0
    """Decides the first weights, the order and the noise."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision {self.precision!r} came; allowed are {', '.join(PRECISIONS)}: take "
                "auto, which is bf16 where the machine has it"
            )

    def within(self, training: TrainConfig) -> TrainConfig:
        """The same with another training's seed and precision."""
        return replace(self, seed=training.seed, precision=training.precision)


def schedule(
    steps: int,
    batch_size: int,
    learning_rate: float,
    *,
    warmup: int,
    ema_decay: float,
    every: int,
) -> TrainConfig:
    """How to train for a preset, with a look at validation and a checkpoint ``every`` so often."""
    return TrainConfig(
        steps, batch_size, learning_rate, warmup, ema_decay=ema_decay, precision="auto",
        validate_every=every, checkpoint_every=every,
    )  # fmt: skip
