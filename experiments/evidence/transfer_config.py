"""Settings of ``neuromix experiment transfer``, and presets of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuromix.augment.errors import InputError
from neuromix.experiments.evidence.arm_table import Comparison, Sampling, check_arms

SEX, DEMENTIA = "sex-a", "dementia-b"
"""Settings of the groups: sex on site A, dementia on site B."""


@dataclass(frozen=True)
class Transfer(Comparison):
    """Does synthetic data help to learn sex at site A, and from it to find dementia at site B?"""

    data_a: Path | None = None
    """BIDS folder or table with md and sex. Without it, a phantom of community A is made."""
    sizes: tuple[int, ...] = (40, 160)
    """Real training subjects of site A."""
    sizes_b: tuple[int, ...] = (20, 80)
    """Real training subjects of site B."""
    validation: int = 60
    """Subjects of each site that choose checkpoints."""
    ceiling: int = 2000
    """Fresh phantom subjects that the ceiling is trained on; 0 leaves it out."""
    steps: int = 300
    """Optimiser steps at site A, in every arm."""
    steps_b: int = 100
    """Optimiser steps at site B."""

    def __post_init__(self) -> None:
        check_arms(self.arms)
        for name in ("sizes", "sizes_b"):
            given = getattr(self, name)
            if not given or min(given) < 4 or len(set(given)) != len(given):
                raise InputError(
                    f"{name} {', '.join(map(str, given)) or 'none'} came; each must be 4 or more, "
                    "and occur once"
                )
        counts = (self.seeds, self.steps, self.steps_b, self.validation, self.test)
        if min(counts) < 1 or self.ceiling < 0:
            raise InputError(
                "seeds, steps, steps-b, validation and test must each be 1 or more, ceiling 0 or "
                "more"
            )
        self.sampling.config()

    @property
    def sampling(self) -> Sampling:
        """Of the sampler."""
        return Sampling(self.sampler, self.sampler_steps, guidance=self.guidance, seed=self.seed)

    @property
    def fresh(self) -> int:
        """Subjects of the ceiling, which only a phantom has."""
        return self.ceiling if self.data_a is None else 0

    @property
    def keys(self) -> list[dict[str, Any]]:
        """Of all groups; the verdict speaks of the first: fewest subjects of A, most of B."""
        transferred = [
            {"setting": DEMENTIA, "size": size, "size_b": size_b}
            for size in sorted(self.sizes)
            for size_b in sorted(self.sizes_b, reverse=True)
        ]
        return [*transferred, *({"setting": SEX, "size": size} for size in self.sizes)]


PRESETS = {
    "demo": Transfer(
        sizes=(12,), sizes_b=(8,), arms=("real", "synthetic-1", "gaussian"), seeds=2, validation=8,
        test=16, ceiling=24, steps=4, steps_b=2, sampler="demo", sampler_steps=2, spacing=12.0,
    ),
    "tiny": Transfer(),
}  # fmt: skip
"""The demo says nothing; it shows in seconds that everything works."""
