"""Settings of ``neuromix experiment hybrid``, and presets of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from neuromix.augment.errors import InputError
from neuromix.augment.pds.config import MODALITIES, ModalityConfig, shortened
from neuromix.augment.pds.config import PRESETS as COMPLETERS
from neuromix.experiments.evidence.fillings import FILLINGS, check_fillings


@dataclass(frozen=True)
class Hybrid:
    """What to do. See ``neuromix experiment hybrid --help``."""

    data: Path | None = None
    lacks: str = "dmri"
    missing: tuple[int, ...] = (0, 30, 50, 70)
    arms: tuple[str, ...] = tuple(FILLINGS)
    seeds: int = 5
    train: int = 160
    validation: int = 40
    test: int = 200
    steps: int = 300
    completer: str = "tiny"
    completer_steps: int | None = None
    refining_steps: int | None = None
    samples: int = 4
    spacing: float = 6.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fillings(self.arms)
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
