"""The arms of transfer and settings by name, and how their sampler is fitted; without torch.

What makes and judges them is in :mod:`neuromix.experiments.evidence.arms`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromix.augment.errors import InputError
from neuromix.augment.tiled.config import PRESETS

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.experiments.evidence.arms import Material

SYNTHETIC, GAUSSIAN = "synthetic", "gaussian"
SHIFT = 2
"""Voxels that classical augmentation moves images by at most; it mirrors half of them, too."""


@dataclass(frozen=True)
class Arm:
    """How a training set is made.

    Args:
        title: What reports call it.
        real: Whether the real subjects are in it.
        source: Where its samples come from, or ``""``.
        ratio: Samples for each real subject.
        classical: Whether images are mirrored and moved while it trains.
    """

    title: str
    real: bool = True
    source: str = ""
    ratio: float = 0.0
    classical: bool = False

    def training_set(self, material: Material) -> list[tio.Subject]:
        """The subjects that it trains on."""
        count = round(self.ratio * len(material.train))
        samples = material.samples[self.source][:count] if count else []
        return [*(material.train if self.real else ()), *samples]

    @property
    def augmentation(self) -> dict[str, Any]:
        """Settings of a classifier. Without augmentation not even the usual shift is left."""
        return {"shift": SHIFT if self.classical else 0, "flip": self.classical}


RATIOS = (0.5, 1.0, 2.0, 4.0)
ARMS: dict[str, Arm] = {
    "real": Arm("real only"),
    "classical": Arm("real + classical augmentation", classical=True),
    **{
        f"synthetic-{r:g}": Arm(f"real + synthetic, ratio {r:g}", source=SYNTHETIC, ratio=r)
        for r in RATIOS
    },
    "synthetic-only": Arm("synthetic only", real=False, source=SYNTHETIC, ratio=max(RATIOS)),
    "synthetic-classical": Arm(
        "real + synthetic + classical", source=SYNTHETIC, ratio=1.0, classical=True
    ),
    "gaussian": Arm("real + PCA-Gaussian", source=GAUSSIAN, ratio=1.0),
}


def check_arms(names: Sequence[str], known: Collection[str] = ARMS, control: str = "real") -> None:
    """Refuse names that are not known, and sets without the arm that all are compared with."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(f"arms {', '.join(unknown)} came; allowed are {', '.join(known)}")
    if control not in names or len(set(names)) != len(names):
        raise InputError(
            f"arms {', '.join(names)} came; each at most once, and {control} among them, which the "
            "others are compared with"
        )


@dataclass(frozen=True)
class Sampling:
    """How the sampler is fitted and asked.

    Args:
        preset: Of the sampler.
        train_steps: Of its training, if not those of the preset.
        steps: Of its solver.
        guidance: Above 1, labels show more than in nature.
        seed: Of its training and its noise.
        labels: That it is conditioned on; those that no subject has are left out.
    """

    preset: str = "tiny"
    train_steps: int | None = None
    steps: int = 20
    guidance: float = 1.0
    seed: int = 0
    labels: tuple[str, ...] = ("sex", "diagnosis", "age")

    def config(self) -> Any:
        """The sampler's configuration."""
        if self.preset not in PRESETS:
            raise InputError(f"preset {self.preset!r} came; allowed are {', '.join(PRESETS)}")
        config = PRESETS[self.preset]
        training = replace(config.training, seed=self.seed)
        if self.train_steps is not None:
            if self.train_steps < 1:
                raise InputError(f"{self.train_steps} sampler steps came; give 1 or more")
            every = min(training.validate_every, self.train_steps)
            training = replace(
                training, steps=self.train_steps, validate_every=every, checkpoint_every=every
            )
        return replace(config, training=training, labels=self.labels)


@dataclass(frozen=True)
class Comparison:
    """What transfer and settings have in common."""

    data_b: Path | None = None
    """BIDS folder or table with md and diagnosis. Without it, a phantom of clinic B is made."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Ways to make a training set."""
    seeds: int = 5
    """Of the classifiers, in each arm."""
    test: int = 300
    """Phantom subjects that judge, of each site; of own data, all that are left do."""
    sampler: str = "tiny"
    """Preset of the sampler."""
    sampler_steps: int | None = None
    """Training steps of the sampler, if not those of its preset."""
    guidance: float = 1.0
    """Above 1, labels show more in samples than in nature."""
    spacing: float = 4.0
    """Voxel side of the phantoms in mm."""
    seed: int = 0
    """Decides the phantoms, the parts and the sampler."""
    endpoint: Path | None = None
    """JSON file of the one comparison that is stated, and committed, before the run: experiment,
    setting, metric, arm, baseline, size and seeds (of the phantom)."""
