"""Settings of ``neuromix experiment decoding``, and presets of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS as SAMPLERS
from neuromix.augment.fmri.config import WindowShape
from neuromix.experiments.evidence.arm_table import check_arms

if TYPE_CHECKING:
    from neuromix.augment.fmri.responses import Window

DECODERS = {
    "real": "real only",
    "classical": "real + classical augmentation",
    "runs": "real + synthetic runs",
    "runs-classical": "real + synthetic runs + classical",
    "runs-only": "synthetic runs only",
    "mean-response": "real + mean response and noise",
}
"""Titles of the arms."""
UNITS = {"condition": "percent", "sex": "signal"}
"""Targets, and the unit that they are looked at in: change of signal, or anatomy as well."""


@dataclass(frozen=True)
class Decoding:
    """Do synthetic task fMRI runs help a decoder of condition, or of sex, that few people train?"""

    data: Path | None = None
    """BIDS folder or table with bold and events. Without it, a phantom is made."""
    targets: tuple[str, ...] = tuple(UNITS)
    """What is told apart."""
    tasks: tuple[str, ...] = ("motor", "language")
    """Whose runs are used."""
    directions: tuple[str, ...] = ()
    """Phase encodings that are used; all where none is named."""
    sizes: tuple[int, ...] = (10, 20, 40)
    """People that decoder and sampler are trained on."""
    arms: tuple[str, ...] = tuple(DECODERS)
    """Ways to train the decoder."""
    seeds: int = 5
    """Of the decoder, in each arm."""
    validation: int = 20
    """People who choose checkpoints."""
    test: int = 100
    """Phantom people who judge; of own data, all that are left do."""
    ceiling: int | None = None
    """Other people that the ceiling is trained on; 0 leaves it out. Without it, as many as judge,
    of own data nobody."""
    ratio: int = 4
    """Responses of synthetic runs for each real one."""
    steps: int = 300
    """Optimiser steps, in every arm."""
    frames: int = 4
    """Of a response."""
    step: float = 6.0
    """Seconds of a frame."""
    shrink: int = 2
    """Voxels along a side of the cubes that a decoder sees as one."""
    sampler: str = "tiny"
    """Preset of the sampler; tiny is the closed form."""
    sampling_steps: int = 10
    """Of a sampler with a network."""
    spacing: float = 6.0
    """Voxel side of the phantom in mm."""
    seed: int = 0
    """Decides the phantom, the parts and the sampler."""
    endpoint: Path | None = None
    """JSON file of the one comparison that is stated, and committed, before the run."""

    def __post_init__(self) -> None:
        check_arms(self.arms, DECODERS)
        unknown = sorted(set(self.targets) - set(UNITS))
        if unknown or not self.targets:
            raise InputError(
                f"targets {', '.join(unknown) or 'none'} came; allowed are {', '.join(UNITS)}"
            )
        if not self.sizes or min(self.sizes) < 2 or len(set(self.sizes)) < len(self.sizes):
            raise InputError(
                f"sizes {', '.join(map(str, self.sizes)) or 'none'} came; numbers of people are "
                "needed, each 2 or more and once"
            )
        counts = (self.seeds, self.validation, self.ratio, self.steps, self.sampling_steps)
        if min(counts) < 1 or self.test < 2 or self.fresh < 0:
            raise InputError(
                "seeds, validation, ratio, steps and sampling-steps must each be 1 or more, test 2 "
                "or more and ceiling 0 or more"
            )
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler {self.sampler!r} came; allowed are {', '.join(SAMPLERS)}")
        WindowShape(self.frames, self.step, shrink=self.shrink)

    def window(self, target: str) -> Window:
        """What is looked at of a response."""
        from neuromix.augment.fmri.responses import Window

        unit: Any = UNITS[target]
        return Window(self.frames, self.step, unit, self.shrink)

    @property
    def keys(self) -> list[dict[str, Any]]:
        """Of all groups: the fewest people of the first target first."""
        return [
            {"setting": target, "size": size}
            for target in self.targets
            for size in sorted(self.sizes)
        ]

    @property
    def fresh(self) -> int:
        """People of the ceiling: by default as many as judge, and of one's own data nobody."""
        if self.ceiling is None:
            return self.test if self.data is None else 0
        return self.ceiling


PRESETS = {
    "demo": Decoding(
        tasks=("motor",), directions=("LR",), sizes=(4,), seeds=2, validation=2, test=4, ratio=1,
        steps=2, shrink=1, spacing=12.0, arms=("real", "classical", "runs", "mean-response"),
    ),
    "tiny": Decoding(),
}  # fmt: skip
"""The demo says nothing; it shows in seconds that everything works."""
