"""Settings of ``neuromix experiment settings``, and presets of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuromix.augment.errors import InputError
from neuromix.experiments.evidence.arm_table import Comparison, Sampling, check_arms

SETTINGS = {
    "few-labels": "dementia",
    "imbalance": "dementia",
    "confounded": "dementia",
    "new-site": "sex",
}
"""Settings and what is told apart in each."""
CHOOSING = 0.25
"""Share of few labels that choose checkpoint and step, and train nothing."""


@dataclass(frozen=True)
class Settings(Comparison):
    """Does synthetic data help with few labels, imbalance, confounding, at a new site?"""

    data_a: Path | None = None
    """BIDS folder or table of the old site in new-site. Without it, a phantom is made."""
    settings: tuple[str, ...] = tuple(SETTINGS)
    """Which of them."""
    few: int = 40
    """Labelled subjects in few-labels, a quarter of which choose checkpoint and step, and train
    nothing."""
    many: int = 400
    """Pool of site B, which the sampler of few-labels is trained on."""
    size: int = 80
    """Training subjects in confounded, the larger class in imbalance, and subjects of the old site
    in new-site."""
    new: int = 20
    """Subjects of the new site."""
    validation: int = 60
    """Subjects that choose checkpoints in the other settings."""
    ceiling: int = 1000
    """Fresh phantom subjects that the ceiling is trained on; 0 leaves it out."""
    steps: int = 250
    """Optimiser steps, in every arm."""

    def __post_init__(self) -> None:
        check_arms(self.arms)
        unknown = sorted(set(self.settings) - set(SETTINGS))
        if unknown or not self.settings:
            raise InputError(
                f"settings {', '.join(unknown) or 'none'} came; allowed are {', '.join(SETTINGS)}"
            )
        is_small = self.few < 8 or self.new < 4
        if is_small or self.many < 2 * max(self.few, self.new, self.size):
            raise InputError(
                f"few {self.few}, new {self.new}, size {self.size} and many {self.many} came; few "
                "must be 8 or more, new 4 or more, and many at least twice few, new and size: it "
                "is the pool that they are taken from"
            )
        if self.size < 20:
            raise InputError(f"size {self.size} came; 20 or more leave two subjects in ten to one")
        if min(self.seeds, self.steps, self.validation, self.test) < 1 or self.ceiling < 0:
            raise InputError(
                "seeds, steps, validation and test must each be 1 or more, ceiling 0 or more"
            )
        self.sampling.config()

    @property
    def sampling(self) -> Sampling:
        """Of the samplers, which may be asked for a site, too."""
        return Sampling(
            self.sampler, self.sampler_steps, guidance=self.guidance, seed=self.seed,
            labels=("sex", "diagnosis", "age", "site"),
        )  # fmt: skip

    @property
    def fresh(self) -> int:
        """Subjects of the ceiling, which only a phantom has."""
        return self.ceiling if self.data_b is None else 0

    @property
    def real(self) -> dict[str, int]:
        """Real training subjects of each setting."""
        return {
            "few-labels": training_labels(self.few),
            "imbalance": self.size + self.size // 10,
            "confounded": self.size,
            "new-site": self.size + self.new,
        }

    @property
    def labels(self) -> dict[str, int]:
        """Labelled subjects of each setting, those that choose checkpoint and step among them."""
        counts = {name: count + self.validation for name, count in self.real.items()}
        return counts | {"few-labels": self.few}

    @property
    def keys(self) -> list[dict[str, Any]]:
        """Of all groups; the verdict speaks of the first."""
        return [{"setting": name, "size": self.real[name]} for name in self.settings]


def training_labels(few: int) -> int:
    """Of so many labels, those that are left to train on."""
    return few - round(CHOOSING * few)


PRESETS = {
    "demo": Settings(
        arms=("real", "synthetic-1", "gaussian"), seeds=2, few=8, many=48, size=20, new=6,
        validation=8, test=16, ceiling=16, steps=2, sampler="demo", sampler_steps=2, spacing=12.0,
    ),
    "tiny": Settings(),
}  # fmt: skip
"""The demo says nothing; it shows in seconds that everything works."""
