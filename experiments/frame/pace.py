"""What runs cost: the one table of paces that dry runs add up, and time and memory afterwards."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.phantom import make_phantom
from neuromix.augment.tiled.config import TiledMDConfig
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.experiments.frame.run import Run

SECONDS = {
    "md subject": 0.12, "paired subject": 1.0, "task subject": 4.4,  # of phantoms at 4 mm
    "run read": 0.14, "frame, closed form": 0.003, "frame, network": 0.04,  # at 6 mm
    "U-Net pass": 0.6,
}  # fmt: skip
"""Of what a dry run does not measure, on two cores of a small server."""
FEW = 8
"""Subjects that a dry run measures on."""
STEPS = 10
"""Of a classifier that is measured."""


def phantom_seconds(kind: str, spacing: float, subjects: int) -> float:
    """Of making the subjects of a phantom."""
    return subjects * SECONDS[f"{kind} subject"] * (4 / spacing) ** 3


@contextlib.contextmanager
def few_subjects(kind: str, cohort: Cohort | None, spacing: float) -> Iterator[Cohort]:
    """Some subjects of a cohort, or of a phantom that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        if cohort is None:
            place = Path(folder) / "phantom"
            cohort = Cohort.from_bids(make_phantom(place, kind, subjects=FEW, spacing=spacing))
        yield cohort.where(np.arange(len(cohort)) < FEW)


def map_sampler_pace(few: Cohort, config: TiledMDConfig) -> tuple[float, float]:
    """Seconds of training a sampler of maps, and of a pass of one volume through its network."""
    training = TiledMDSampler.estimate(few, config)
    # A training step goes forward and back through a batch, three times the work of a pass.
    return training, training / config.training.steps / config.training.batch_size / 3


def classifier_pace(
    classifier: Any, subjects: Sequence[Any], classes: tuple[str, str]
) -> tuple[float, float]:
    """Seconds of an optimiser step, and of predicting one subject; labels are made up."""
    labels = [classes[k % 2] for k in range(len(subjects))]
    classifier.set_params(steps=1).fit(subjects, labels)  # reads images, and sets up the process
    begun = time.perf_counter()
    classifier.set_params(steps=STEPS).fit(subjects, labels)
    fitted = time.perf_counter()
    classifier.predict_proba(subjects)
    return (fitted - begun) / STEPS, (time.perf_counter() - fitted) / len(subjects)


def time_by_part(run: Run) -> dict[str, Any]:
    """What the finished cells took, and the share of it that went into loading data.

    Loading is the time in which images were read before a fit, and in which a fit waited for a
    batch. A cell that was interrupted counts from its last start.
    """
    parts: dict[str, float] = {}
    loading = 0.0
    for record in run.records():
        cell = record["cell"]
        named = next((name for name in ("sampler", "bank", "check") if name in cell), None)
        part = f"{named}s" if named else f"fits, {cell['setting']}"
        parts[part] = parts.get(part, 0.0) + record["seconds"]
        loading += record.get("loading", 0.0) + record.get("waiting", 0.0)
    total = sum(parts.values())
    return {
        "seconds": total,
        "loading share": loading / total if total else 0.0,
        "seconds by part": parts,
    }


def own_memory(name: str) -> float:
    """A figure of this process from Linux, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))
