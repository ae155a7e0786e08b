"""Settings of ``neuromix experiment decoding``, and presets of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS as SAMPLERS
from neuromix.augment.fmri.responses import Window
from neuromix.experiments.evidence.decoders import DECODERS, check_decoders

UNITS = {"condition": "percent", "sex": "signal"}
"""Targets, and the unit that they are looked at in: change of signal, or anatomy as well."""


@dataclass(frozen=True)
class Decoding:
    """What to do. See ``neuromix experiment decoding --help``."""

    data: Path | None = None
    targets: tuple[str, ...] = tuple(UNITS)
    tasks: tuple[str, ...] = ("motor", "language")
    directions: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (10, 20, 40)
    arms: tuple[str, ...] = tuple(DECODERS)
    seeds: int = 5
    validation: int = 20
    test: int = 100
    ceiling: int | None = None
    ratio: int = 4
    steps: int = 300
    frames: int = 4
    step: float = 6.0
    shrink: int = 2
    sampler: str = "tiny"
    sampling_steps: int = 10
    spacing: float = 6.0
    seed: int = 0
    endpoint: Path | None = None

    def __post_init__(self) -> None:
        check_decoders(self.arms)
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
        self.window("condition")

    def window(self, target: str) -> Window:
        """What is looked at of a response."""
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
