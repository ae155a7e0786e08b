"""Settings of the tiled MD sampler, and presets from two cores to the published size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from neuromix.augment.diffusion.config import TrainConfig, schedule
from neuromix.augment.errors import InputError

LARGEST = 3.2
"""Diffusivity at body temperature does not pass that of free water, 3.0, by more than noise."""
FAINTEST = 0.15
"""Lower values are background: no tissue diffuses so slowly."""


@dataclass(frozen=True)
class TiledMDConfig:
    """Fit the tiled sampler of maps (md) on training subjects."""

    labels: tuple[str, ...] = ("sex", "diagnosis", "age")
    """Labels to condition on; one that no subject has is left out."""
    image: str = "md"
    """The map that it makes, by its name in the cohort: md, t1, fa or any other."""
    plane: str = "axial"
    autoencoder: str = "template"
    """``template`` (closed form, for registered subjects: a template that bends, and what it leaves
    over), ``kl`` (a convolutional one that is trained first), or a pretrained ``AutoencoderKL``: a
    folder, or NAME or NAME@REVISION on the hub."""
    channels: int = 4
    """Latent channels of ``kl``."""
    cell: tuple[int, int] = (8, 1)
    """Pixels along a side of a block of ``template``, and its slices: above 1, true 3D."""
    rank: int = 100
    """Patterns of the Gaussian that ``template`` starts from; a quarter of the subjects at most."""
    patch: int = 3
    """Latent pixels along a side of a token, but for a pretrained network."""
    objective: Literal["flow", "noise"] = "flow"
    """Velocity, from a Gaussian start, or noise, as published DiTs."""
    pretrained: str = ""
    """A DiT to start from, with its layers, heads and head_dim: a folder, or NAME or NAME@REVISION
    on the hub."""
    lora_rank: int = 0
    """Above 0, low-rank updates of a pretrained network are trained instead of all of it."""
    layers: int = 6
    heads: int = 4
    head_dim: int = 64
    label_dropout: float = 0.1
    training: TrainConfig = field(default_factory=TrainConfig)
    widths: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of the levels of a ``kl`` autoencoder."""
    autoencoding: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=3000, batch_size=16, learning_rate=2e-3, ema_decay=0.99
        )
    )
    """Training of a ``kl`` autoencoder, on single slices; seed and precision are those above."""

    def __post_init__(self) -> None:
        if self.objective not in ("flow", "noise"):
            raise InputError(f"objective {self.objective!r} is not known; give flow or noise")
        if self.lora_rank < 0 or (self.lora_rank and not self.pretrained):
            raise InputError(
                f"lora_rank {self.lora_rank} came without a pretrained network or is negative; "
                "name a network to update (pretrained), or leave lora_rank at 0"
            )


PRESETS = {
    "demo": TiledMDConfig(
        layers=3, heads=3,
        training=schedule(150, 8, 1e-3, warmup=10, ema_decay=0.95, every=50),
    ),
    "tiny": TiledMDConfig(
        layers=4,
        training=schedule(1200, 8, 1e-3, warmup=50, ema_decay=0.98, every=150),
    ),
    "base": TiledMDConfig(
        layers=12, heads=6, head_dim=64,
        training=schedule(
            30_000, 64, 3e-4, warmup=500, ema_decay=0.999, every=1000, precision="bf16",
        ),
    ),
    "paper": TiledMDConfig(
        pretrained="facebook/DiT-XL-2-256@refs/pr/1",  # the revision that has safetensors
        autoencoder="facebook/DiT-XL-2-256@refs/pr/1",
        patch=2, objective="noise", layers=28, heads=16, head_dim=72,
        training=schedule(
            100_000, 64, 1e-4, warmup=1000, ema_decay=0.9999, every=2000, precision="bf16",
        ),
    ),
}  # fmt: skip
"""From two cores in 90 seconds to fine-tuning the DiT-XL/2 that was published for pictures."""
