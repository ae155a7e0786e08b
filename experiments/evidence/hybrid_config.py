"""Settings of ``neuromix experiment hybrid``, and presets of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from neuromix.augment.errors import InputError
from neuromix.augment.pds.config import MODALITIES, ModalityConfig, shortened
from neuromix.augment.pds.config import PRESETS as COMPLETERS
from neuromix.experiments.evidence.arm_table import check_arms

FILLINGS = {
    "drop": "dropped",
    "mask": "kept without the image",
    "mean": "mean-fill",
    "regression": "regression-fill",
    "pds": "PDS-fill",
    "pds-extra": "PDS-fill + extra",
    "pds-by-label": "PDS-fill by label",
    "complete": "complete data",
}
"""Titles of the arms."""


@dataclass(frozen=True)
class Hybrid:
    """NC, MCI or AD where training or test subjects lack a modality: drop them, or fill it in?"""

    data: Path | None = None
    """BIDS folder or table with fmri, dmri and diagnosis. Without it, a phantom is made."""
    lacks: str = "dmri"
    """The modality that subjects lack, fmri or dmri."""
    missing: tuple[int, ...] = (0, 30, 50, 70)
    """Shares of the training subjects that lack it, in percent."""
    arms: tuple[str, ...] = tuple(FILLINGS)
    """Ways to train; where mask and complete are among them, test subjects that lack it are judged,
    too."""
    seeds: int = 5
    """Of the classifiers, in each arm."""
    train: int = 160
    """Training subjects."""
    validation: int = 40
    """Subjects that choose the completer's best step, and checkpoints."""
    test: int = 200
    """Phantom subjects that judge; of own data, all that are left do."""
    steps: int = 300
    """Optimiser steps of the classifiers, in every arm."""
    completer: str = "tiny"
    """Preset of the completer."""
    completer_steps: int | None = None
    """Training steps of PDM, if not those of the preset."""
    refining_steps: int | None = None
    """Training steps of TR, if not those of the preset."""
    samples: int = 4
    """Of each test subject that lacks the modality."""
    spacing: float = 6.0
    """Voxel side of the phantom in mm."""
    seed: int = 0
    """Decides the phantom, the parts, who lacks what, and the completer."""

    def __post_init__(self) -> None:
        check_arms(self.arms, FILLINGS, "drop")
        if self.lacks not in MODALITIES:
            raise InputError(
                f"lacks {self.lacks!r} came; allowed are {', '.join(MODALITIES)}, one of which is "
                "taken from subjects"
            )
        odd = [rate for rate in self.missing if not 0 <= rate <= 90]
        if odd or not self.missing or len(set(self.missing)) < len(self.missing):
            raise InputError(
                f"missing {', '.join(map(str, self.missing)) or 'none'} came; shares of the "
                "training subjects in percent are needed, 0 to 90, each once"
            )
        if min(self.seeds, self.steps, self.validation, self.test, self.train) < 1:
            raise InputError("seeds, steps, train, validation and test must each be 1 or more")
        if self.samples < 2:
            raise InputError(f"{self.samples} samples came; 2 or more of a test subject are needed")
        self.config(self.train)

    def config(self, scans: int) -> ModalityConfig:
        """The completer's settings for so many training scans; a batch holds no more than those."""
        if self.completer not in COMPLETERS:
            raise InputError(
                f"completer {self.completer!r} came; allowed are {', '.join(COMPLETERS)}"
            )
        config = shortened(COMPLETERS[self.completer], self.completer_steps, self.refining_steps)
        training, refining = (
            replace(part, batch_size=min(part.batch_size, scans), seed=self.seed)
            for part in (config.training, config.refining)
        )
        return replace(config, training=training, refining=refining, directions=(self.lacks,))


PRESETS = {
    "demo": Hybrid(
        missing=(0, 50), seeds=2, train=24, validation=8, test=12, steps=2, completer="demo",
        completer_steps=2, refining_steps=2, spacing=12.0,
    ),
    "tiny": Hybrid(),
}  # fmt: skip
"""The demo says nothing; it shows in a minute that everything works."""
