"""What the experiments would cost: rows of what is done, and seconds for it on this machine.

Samplers and fits are measured on a few subjects, of which nothing is kept; the rest is a table.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torchio as tio

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import Grid
from neuromix.augment.fmri.runs import Runs
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.pairs import paired
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.sex import SexClassifier
from neuromix.classifiers.stage import StageClassifier
from neuromix.experiments.evidence.arms import DECODERS, SYNTHETIC
from neuromix.experiments.evidence.configs import (
    MODALITIES,
    SETTINGS,
    Comparing,
    Decoding,
    Hybrid,
    Mixing,
    Settings,
    Transfer,
)
from neuromix.experiments.evidence.fillings import completer_config
from neuromix.experiments.evidence.samples import SOLVER_STEPS, needs, sampler_config
from neuromix.experiments.evidence.sites import find_cohort, find_runs

Plan = list[tuple[str, float]]
SECONDS = {"md": 0.12, "paired": 1.0, "task": 4.4, "run read": 0.47, "frame": 0.01}
"""At 4 mm, on two cores of a small server: a phantom subject of each kind, a run that is read, and
a frame of a synthetic one."""
MEASURED = 8
"""Subjects, and steps of a classifier, that are measured."""


def plan_transfer(config: Transfer) -> Plan:
    """Two sites, and a sampler a size of A."""
    judged = config.validation + config.test
    people = (max(config.sizes) + judged + config.fresh) * (config.data_a is None)
    people += round(1.6 * (max(config.sizes_b) + judged)) * (config.data_b is None)
    ceilings = int(config.fresh > 0)
    of_a = len(config.sizes) * len(config.arms) + ceilings
    fits = [
        (config.seeds * of_a, "fits of sex", config.steps),
        (config.seeds * len(config.sizes_b) * (of_a + 1), "fits of dementia", config.steps_b),
    ]
    return _plan_mixing(config, config.data_a, people, config.sizes, fits)


def plan_settings(config: Settings) -> Plan:
    """Two sites, and a sampler a setting."""
    judged = config.validation + config.test
    people = 1.6 * (config.many + judged + config.fresh) * (config.data_b is None)
    if "new-site" in config.settings:
        people += (config.size + judged) * (config.data_a is None)
    counts = [config.real[name] for name in config.settings]
    ceilings = len({SETTINGS[name] for name in config.settings}) * (config.fresh > 0)
    fits = config.seeds * (len(counts) * len(config.arms) + ceilings)
    labels = ", ".join(f"{name} {config.labelled[name]}" for name in config.settings)
    rows = [(fits, f"fits; labels in all: {labels}", config.steps)]
    return _plan_mixing(config, config.data_b, people, counts, rows)


def plan_decoding(config: Decoding) -> Plan:
    """A sampler, and banks of its responses, for each number of people."""
    window = config.window("condition")
    trained = max(config.sizes) + config.validation + config.fresh
    if config.data is None:
        grid, judged, frames = Grid.mni(config.spacing), config.test, 100.0
        runs = (len(config.tasks) or 7) * (len(config.directions) or 2)
    else:
        cohort = find_runs(config, config.data)
        known = Runs.of(cohort, 1)
        grid, runs = known.grid, -(-len(cohort) // len(cohort.subject_keys))
        frames = float(np.mean([run.frames for run in known.runs]))
        judged = len(cohort.subject_keys) - trained
    share = float(np.prod(grid.shape) / np.prod(Grid.mni(4.0).shape))
    sides = [-(-side // window.shrink) for side in grid.shape]
    rng = np.random.default_rng(0)
    few = [
        tio.Subject(bold=tio.ScalarImage(tensor=rng.random((window.frames, *sides))), sex=sex)
        for sex in "FM" * 8
    ]
    step, _ = fit_pace(lambda steps: VolumeClassifier("sex", "bold", steps=steps), few)
    people, read = judged + trained, SECONDS["run read"] * share * runs
    kinds = len({DECODERS[arm].source for arm in config.arms} - {""})
    drawn = kinds * sum(config.sizes) * 2 * runs * config.ratio * len(config.targets)
    of_target = len(config.sizes) * len(config.arms) + (config.fresh > 0)
    fits = config.seeds * len(config.targets) * of_target
    return [
        ("phantom", people * SECONDS["task"] * share * (config.data is None)),
        ("reading", 3 * people * read),
        (f"{len(config.sizes)} samplers", 4 * sum(config.sizes) * read),
        (f"{drawn} synthetic runs", drawn * frames * SECONDS["frame"] * share),
        (f"{fits} fits", fits * config.steps * step),
    ]


def plan_hybrid(config: Hybrid) -> Plan:
    """A completer, and its samples, for each share of subjects that lack an image."""
    with few_scans(config.data, "paired", (), config) as scans:
        few = paired(scans)
        completers, samples = 0.0, 0.0
        for rate in config.missing:
            count = round((1 - rate / 100) * config.train)
            fit, sample = ModalityCompleter.estimate(few, completer_config(config, count), count)
            completers += fit
            # Samples are made in fours, so that one costs as much.
            rounds = 1 + (rate > 0) * ("pds-by-label" in config.arms)
            samples += 4 * sample * rounds * config.train
        samples += 4 * sample * -(-config.samples // 4) * config.test
        labels = ["NC", "AD"]
        step, judged = fit_pace(
            lambda steps: StageClassifier(image=MODALITIES, steps=steps), few.subjects(), labels
        )
    arms = sum(len(set(config.arms) - {"complete"}) if rate > 0 else 1 for rate in config.missing)
    fits = config.seeds * (arms + 1)
    people = (config.train + config.validation + config.test) * (config.data is None)
    # Validation subjects are looked at every 25 steps.
    looks = config.test + config.validation * (config.steps / 25)
    return [
        ("phantom subjects", people * SECONDS["paired"] * (4 / config.spacing) ** 3),
        (f"{len(config.missing)} completers", completers),
        ("samples", samples),
        (f"{fits} fits", fits * (config.steps * step + looks * judged)),
    ]


@contextmanager
def few_scans(
    data: Path | None, kind: str, images: tuple[str, ...], config: Comparing
) -> Iterator[Cohort]:
    """The first few scans of one's own cohort, or of a phantom that is made for this."""
    with tempfile.TemporaryDirectory() as folder:
        cohort = find_cohort(data, kind, images, Path(folder) / "phantom", MEASURED, config)
        yield cohort.where(np.arange(len(cohort)) < MEASURED)


def fit_pace(
    make: Callable[[int], VolumeClassifier],
    subjects: Sequence[tio.Subject],
    classes: Sequence[str] = "FM",
) -> tuple[float, float]:
    """Seconds of a step of a classifier, and of judging a subject."""
    labels = [classes[k % 2] for k in range(len(subjects))]
    make(1).fit(subjects, labels)  # reads images, and what is done once in a process
    begun = time.perf_counter()
    classifier = make(MEASURED).fit(subjects, labels)
    step = (time.perf_counter() - begun) / MEASURED
    begun = time.perf_counter()
    classifier.predict_proba(subjects)
    return step, (time.perf_counter() - begun) / len(subjects)


def sampler_pace(few: Cohort, config: Mixing) -> tuple[float, float]:
    """Seconds of training a sampler, and of a sample."""
    own = sampler_config(config)
    training = TiledMDSampler.estimate(few, own)
    # A training step goes forward and back through a batch, three times the work of a pass.
    a_pass = training / own.training.steps / own.training.batch_size / 3
    return training, SOLVER_STEPS * (1 if config.guidance == 1 else 2) * a_pass


def _plan_mixing(
    config: Mixing,
    data: Path | None,
    people: float,
    sizes: Sequence[int],
    fits: Sequence[tuple[int, str, int]],
) -> Plan:
    """So many phantom subjects, a sampler each size, and fits of so many steps."""
    with few_scans(data, "md", ("md",), config) as few:
        training, sample = sampler_pace(few, config)
        step, judging = fit_pace(lambda steps: SexClassifier(steps=steps), few.subjects())
    samples = sum(needs(config.arms, size).get(SYNTHETIC, 0) for size in sizes)
    samplers = len(sizes) if samples else 0
    judged = config.validation + config.test
    return [
        ("phantom subjects", people * SECONDS["md"] * (4 / config.spacing) ** 3),
        (f"{samplers} samplers", samplers * training),
        (f"{samples} samples", samples * sample),
        *(
            (f"{count} {what}", count * (steps * step + judged * judging))
            for count, what, steps in fits
        ),
    ]
