"""Settings of the audit, which are also the options of ``neuromix audit``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from neuromix.augment.errors import InputError

FEWEST = 24
"""People or samples of each set: half of the held-out ones must do for a comparison of sets."""


@dataclass(frozen=True)
class Audit:
    """What to audit, and how thoroughly."""

    bank: tyro.conf.Positional[Path]
    """Folder that `neuromix generate` has filled, with maps or with task fMRI runs, or that
    `neuromix train pds` has."""
    train: Path
    """BIDS folder or table of the subjects that the sampler was trained on."""
    heldout: Path
    """Of subjects of the same population that had no part in it; 100 or more are of use."""
    seeds: int = 3
    """Of the classifiers that tell what samples are good for."""
    steps: int = 250
    """Optimiser steps of each of them."""
    most: int = 400
    """Scans or samples of each set that are looked at, at random."""
    seed: int = 0
    """Decides halves, choices and draws."""

    def __post_init__(self) -> None:
        if min(self.seeds, self.steps) < 1 or self.most < FEWEST:
            raise InputError(
                f"seeds {self.seeds}, steps {self.steps} and most {self.most} came; allowed are 1 "
                f"or more, and {FEWEST} or more for most"
            )
