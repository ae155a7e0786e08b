"""What experiments with arms cost: an estimate before, and what was measured after."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.phantom import make_phantom
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.classifiers.sex import SexClassifier
from neuromix.experiments.evidence.arms import Sampling
from neuromix.experiments.frame.cohorts import load_cohort

SECONDS_PER_SUBJECT = 0.12
"""Of a phantom at 4 mm, on two cores of a small server."""
FEW = 8
"""Subjects that the estimate is measured with."""
STEPS = 20


class Pace(NamedTuple):
    """Seconds on this machine."""

    subject: float
    """To make a phantom subject."""
    sampler: float
    """To train a sampler."""
    sample: float
    """To make a sample."""
    step: float
    """Of a classifier."""
    judged: float
    """To predict one subject."""


def pace(data: Path | None, spacing: float, sampling: Sampling, seed: int) -> Pace:
    """Measure on a few subjects; nothing is kept."""
    config = sampling.config()
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            place = Path(folder) / "phantom"
            make_phantom(place, "md", subjects=FEW, seed=seed, spacing=spacing)
            few = Cohort.from_bids(place)
        else:
            cohort = load_cohort(data, ("md",) if data.is_dir() else ())
            few = cohort.where(np.arange(len(cohort)) < FEW)
        training = TiledMDSampler.estimate(few, config)
        subjects = few.subjects()
        for subject in subjects:
            subject.load()
    labels = ["FM"[k % 2] for k in range(len(subjects))]
    SexClassifier(steps=1).fit(subjects, labels)  # what is done once in a process
    begun = time.perf_counter()
    classifier = SexClassifier(steps=STEPS).fit(subjects, labels)
    step = (time.perf_counter() - begun) / STEPS
    begun = time.perf_counter()
    classifier.predict_proba(subjects)
    judged = (time.perf_counter() - begun) / len(subjects)
    # A training step goes forward and back through a batch, three times the work of a pass.
    a_pass = training / config.training.steps / config.training.batch_size / 3
    passes = sampling.steps * (1 if sampling.guidance == 1 else 2)
    return Pace(SECONDS_PER_SUBJECT * (4 / spacing) ** 3, training, passes * a_pass, step, judged)
