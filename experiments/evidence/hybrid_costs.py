"""What ``neuromix experiment hybrid`` would cost on this machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import MODALITIES
from neuromix.augment.pds.pairs import paired
from neuromix.augment.phantom import make_phantom
from neuromix.classifiers.stage import StageClassifier
from neuromix.experiments.evidence.hybrid_config import Hybrid
from neuromix.experiments.frame.cohorts import load_cohort
from neuromix.experiments.quality.completion import SECONDS_PER_SUBJECT

FEW = 8
"""Subjects that the estimate is measured with."""
STEPS = 4


def plan(config: Hybrid) -> list[tuple[str, float]]:
    """What would be done, and for how many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        if config.data is None:
            place = Path(folder) / "phantom"
            few = Cohort.from_bids(
                make_phantom(place, "paired", subjects=FEW, spacing=config.spacing)
            )
        else:
            few = paired(load_cohort(config.data))
            few = few.where(np.arange(len(few)) < FEW)
        shares = [1 - rate / 100 for rate in config.missing]
        fits, samples = [], []
        for share in shares:
            count = round(share * config.train)
            fit, sample = ModalityCompleter.estimate(few, config.config(count), count)
            fits.append(fit)
            # Samples are made in fours, so that one costs as much.
            rounds = 1 + (share < 1) * ("pds-by-label" in config.arms)
            samples.append(4 * sample * rounds * config.train)
        samples.append(4 * sample * -(-config.samples // 4) * config.test)
        subjects = few.subjects()
        labels = [("NC", "AD")[k % 2] for k in range(len(subjects))]
        StageClassifier(image=MODALITIES, steps=1).fit(subjects, labels)  # reads, and warms up
        begun = time.perf_counter()
        classifier = StageClassifier(image=MODALITIES, steps=STEPS).fit(subjects, labels)
        step = (time.perf_counter() - begun) / STEPS
        begun = time.perf_counter()
        classifier.predict_proba(subjects)
        judged = (time.perf_counter() - begun) / len(subjects)
    arms = sum(
        len([arm for arm in config.arms if arm != "complete"]) if rate > 0 else 1
        for rate in config.missing
    )
    trainings = config.seeds * (arms + 1)
    people = (config.train + config.validation + config.test) * (config.data is None)
    # Validation subjects are looked at every 25 steps.
    looks = config.test + config.validation * (config.steps / 25)
    return [
        ("phantom subjects", people * SECONDS_PER_SUBJECT * (4 / config.spacing) ** 3),
        (f"{len(fits)} completers", sum(fits)),
        ("samples", sum(samples)),
        (f"{trainings} fits", trainings * (config.steps * step + looks * judged)),
    ]
