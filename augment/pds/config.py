"""Settings of the modality completer, and presets from two cores to the published size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from neuromix.augment.diffusion.config import TrainConfig, schedule
from neuromix.augment.errors import InputError, require_choice

MODALITIES = ("fmri", "dmri")
"""The two that the published system completes from one another."""
MOST_IMAGES = 4
"""Each image may have any others as sources: seven sets of them with four images."""


@dataclass(frozen=True)
class ModalityConfig:
    """Fit the modality completer on subjects with several images, one to be made from others."""

    images: tuple[str, ...] = MODALITIES
    """Images of a person that tell of one another, two or more on one grid: segments of fMRI and
    dMRI, or maps by their names in the cohort (t1 fa md)."""
    directions: tuple[str, ...] = ()
    """Those that can be filled in; all by default."""
    labels: tuple[str, ...] = ("diagnosis",)
    """Labels to condition on, dropped at random; one that no subject has is left out. Empty: no
    diagnosis."""
    label_dropout: float = 0.5
    """Filling uses no label unless it is told to, so that most training samples show none."""
    design: Literal["prior", "published"] = "prior"
    """A prior given the source, with a network for what it lacks; or a DDPM from noise with a
    cosine schedule, drawn by DDIM, whose samples TR refines."""
    source_blind: bool = False
    """Hide the source, as the published code does; for comparison only."""
    sampling_steps: int = 10
    """Evaluations of the network for a sample."""
    depth: int = 8
    """Slices of a tile of the mosaic, which are channels of one picture."""
    width: int = 64
    """Channels of the convolutions; tokens have twice as many."""
    blocks: int = 4
    """Residual blocks of convolutions before the transformer and after it, each."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    token: int = 8
    """Voxels that a token covers along a side."""
    folds: int = 4
    """Parts that training people are put in; each is served by the prior of the others."""
    training: TrainConfig = field(default_factory=TrainConfig)
    """Of the network; no steps leave the prior alone."""
    refinement: bool = True
    """TR. This and what follows are of the published design alone."""
    pattern: bool = True
    """The pattern-aware module."""
    microstructure: float = 0.05
    """Weight of MR; 0 leaves it out."""
    patch: int = 1
    """Voxels along a side of a position of PDM's finest resolution."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """PDM's channels at each resolution."""
    refiner_width: int = 128
    refiner_blocks: int = 4
    refining: TrainConfig = field(default_factory=TrainConfig)
    """Of TR."""

    def __post_init__(self) -> None:
        if not 2 <= len(set(self.images)) == len(self.images) <= MOST_IMAGES:
            raise InputError(
                f"images {', '.join(self.images)} came; name 2 to {MOST_IMAGES} different ones"
            )
        if unknown := [name for name in self.directions if name not in self.images]:
            raise InputError(
                f"directions {', '.join(unknown)} came; images that can be filled in are "
                f"{', '.join(self.images)}"
            )
        require_choice("design", self.design, ("prior", "published"))
        if self.folds < 2 or self.depth < 1 or self.token < 2 or self.token % 2:
            raise InputError(
                f"folds {self.folds}, depth {self.depth} and token {self.token} came; allowed are "
                "at least 2 folds, a depth of at least 1 and an even token"
            )
        if self.design == "published" and len(self.images) != 2:
            raise InputError(
                f"{len(self.images)} images came; the published design knows two, one from the "
                "other"
            )
        if self.design == "published" and not self.training.steps:
            raise InputError("0 training steps came; the published design has no prior to stand on")

    @property
    def wanted(self) -> tuple[str, ...]:
        """Images that can be filled in."""
        return self.directions or self.images

    @property
    def network(self) -> dict[str, int]:
        """Settings of the hybrid network."""
        names = ("depth", "width", "blocks", "layers", "heads", "token")
        return {name: getattr(self, name) for name in names}


PRESETS = {
    "demo": ModalityConfig(
        width=32, blocks=2, layers=2, folds=2,
        training=schedule(60, 8, 1e-3, warmup=10, ema_decay=0.95, every=30),
    ),
    "tiny": ModalityConfig(
        training=schedule(3000, 16, 1e-3, warmup=50, ema_decay=0.998, every=250),
    ),
    "base": ModalityConfig(
        width=256, blocks=6, layers=8, heads=8,
        training=schedule(30_000, 32, 3e-4, warmup=500, ema_decay=0.9995, every=1000),
    ),
    "paper": ModalityConfig(
        design="published", heads=8, sampling_steps=50,
        training=schedule(200_000, 8, 1e-4, warmup=1000, ema_decay=0.9999, every=2000),
        refining=schedule(50_000, 16, 1e-4, warmup=500, ema_decay=0.999, every=1000),
    ),
}  # fmt: skip
"""``demo`` and ``tiny`` for two cores, ``base`` for one GPU; ``paper`` is the published system (a
DDPM from noise, then TR on its samples) at its size, and needs days of a GPU."""


ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "diagnosis": ("", {"labels": ()}),
    "network": ("prior", {}),
    "pattern": ("published", {"pattern": False}),
    "refinement": ("published", {"refinement": False}),
    "microstructure": ("published", {"microstructure": 0.0}),
}
"""What leaves a part out, and the design that has the part, if not both have it."""


def shortened(
    config: ModalityConfig, steps: int | None, refining_steps: int | None = None
) -> ModalityConfig:
    """The config with other numbers of steps, of the network and of TR, where they are given."""
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
        design, changes = ABLATIONS[name]
        if design not in ("", config.design):
            own = [each for each, (of, _) in ABLATIONS.items() if of in ("", config.design)]
            raise InputError(
                f"{name} is no part of the design {config.design}, whose parts are {', '.join(own)}"
            )
        config = replace(config, **changes)
        if name == "network":
            config = replace(config, training=replace(config.training, steps=0))
    return config
