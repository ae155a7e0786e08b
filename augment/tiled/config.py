"""Settings of the tiled MD sampler, and presets from two cores to the published size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from neuromix.augment.diffusion.config import TrainConfig, schedule
from neuromix.augment.errors import InputError, require_choice

LARGEST = 3.2
"""Diffusivity at body temperature does not pass that of free water, 3.0, by more than noise."""
FAINTEST = 0.15
"""Lower values are background: no tissue diffuses so slowly."""
QUANTITATIVE = ("md", "fa", "ad", "rd", "gm", "wm", "csf")
"""Maps whose values mean the same in everybody."""


@dataclass(frozen=True)
class TiledMDConfig:
    """Fit the tiled sampler of maps on training subjects."""

    labels: tuple[str, ...] = ("sex", "diagnosis", "age")
    """Labels to condition on; one that no subject has is left out."""
    image: str = "md"
    """The map that it makes, by its name in the cohort: md, t1, fa or any other."""
    plane: str = "axial"
    prior: Literal["filters", "none"] = "filters"
    """What is known in closed form: a coarse Gaussian and a filter at every voxel, or one mean and
    one variance only."""
    kind: Literal["hybrid", "conv", "transformer"] = "hybrid"
    """What the network is made of."""
    depth: int = 8
    """Slices of a tile of the mosaic, which are channels of one picture: 1 for a tile a slice."""
    width: int = 64
    """Channels of the convolutions; tokens have twice as many."""
    blocks: int = 4
    """Residual blocks of convolutions before the transformer and after it, each."""
    token: int = 8
    """Voxels that a token covers along a side."""
    folds: int = 4
    """Parts that training people are put in; each is served by the prior of the others."""
    augment: bool = True
    """Turn, shift and bend training images a little, and tell the network so."""
    patches: bool = False
    """Take details from patches of training people at the same place. Such a sampler holds their
    scans: keep it where they are."""
    guide: float = 1.0
    """Above 1, what the network adds to the prior is taken this many times while sampling."""
    early: float = 0.0
    """Above 0, guide by the network as it was at this share of its training, not by the prior."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Times, from noise (1) to data (0), between which guidance by labels acts."""
    autoencoder: str = ""
    """Empty for the prior and its network. A plain tiled DiT has ``kl`` (a convolutional one that
    is trained first) or a pretrained ``AutoencoderKL``: a folder, or NAME or NAME@REVISION on the
    hub."""
    channels: int = 4
    """Latent channels of ``kl``."""
    patch: int = 2
    """Latent pixels along a side of a token of a plain DiT, but for a pretrained one."""
    objective: Literal["flow", "noise"] = "flow"
    """Velocity, or noise, as published DiTs: of a plain DiT only."""
    pretrained: str = ""
    """A DiT to start from, with its layers, heads and head_dim: a folder, or NAME or NAME@REVISION
    on the hub."""
    lora_rank: int = 0
    """Above 0, low-rank updates of a pretrained network are trained instead of all of it."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    head_dim: int = 64
    """Channels of a head of a plain DiT."""
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
        if self.lora_rank < 0 or (self.lora_rank and not self.pretrained):
            raise InputError(
                f"lora_rank {self.lora_rank} came without a pretrained network or is negative; "
                "name a network to update (pretrained), or leave lora_rank at 0"
            )
        if not self.autoencoder and (self.pretrained or self.objective == "noise"):
            raise InputError(
                "a pretrained network or the objective noise came without an autoencoder; name the "
                "one that the network was trained with, or kl"
            )
        if self.patches and self.autoencoder:
            raise InputError(
                f"patches came with the autoencoder {self.autoencoder}; they are of images, leave "
                "one of the two out"
            )
        allowed = {
            "objective": ("flow", "noise"),
            "plane": ("axial", "coronal", "sagittal"),
            "prior": ("filters", "none"),
            "kind": ("hybrid", "conv", "transformer"),
        }
        for name, values in allowed.items():
            require_choice(name, getattr(self, name), values)
        if self.width % 8 or self.width < 8 or (2 * self.width) % self.heads:
            raise InputError(
                f"width {self.width} and {self.heads} heads came; allowed are multiples of 8, and "
                "heads that divide twice the width"
            )
        if not 0 <= self.early < 1 or not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise InputError(
                f"early {self.early:g} and interval {self.interval} came; allowed are shares of "
                "the training below 1, and two times from 0 to 1, the earlier one last"
            )
        if self.folds < 2 or self.depth < 1 or self.token < 2 or self.token % 2:
            raise InputError(
                f"folds {self.folds}, depth {self.depth} and token {self.token} came; allowed are "
                "at least 2 folds, a depth of at least 1 and an even token"
            )

    @property
    def network(self) -> dict[str, int]:
        """Settings of the hybrid network but for its depth."""
        return {
            "width": self.width,
            "blocks": 0 if self.kind == "transformer" else self.blocks,
            "layers": 0 if self.kind == "conv" else self.layers,
            "heads": self.heads,
            "token": self.token,
        }


PRESETS = {
    "demo": TiledMDConfig(
        width=32, blocks=2, layers=2, folds=2,
        training=schedule(120, 8, 1e-3, warmup=10, ema_decay=0.95, every=40),
    ),
    "tiny": TiledMDConfig(
        width=96, blocks=5,
        training=schedule(3000, 16, 1e-3, warmup=100, ema_decay=0.998, every=250),
    ),
    "base": TiledMDConfig(
        width=256, blocks=6, layers=8, heads=8,
        training=schedule(
            60_000, 64, 3e-4, warmup=500, ema_decay=0.9995, every=2000
        ),
    ),
    "paper": TiledMDConfig(
        pretrained="facebook/DiT-XL-2-256@refs/pr/1",  # the revision that has safetensors
        autoencoder="facebook/DiT-XL-2-256@refs/pr/1",
        patch=2, objective="noise", layers=28, heads=16, head_dim=72,
        training=schedule(
            100_000, 64, 1e-4, warmup=1000, ema_decay=0.9999, every=2000,
        ),
    ),
}  # fmt: skip
"""From two cores in a minute to fine-tuning the DiT-XL/2 that was published for pictures."""
