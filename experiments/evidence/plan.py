"""What the experiments would cost: rows of what is done, and seconds for it on this machine.

Samplers and fits are measured on a few subjects, of which nothing is kept; the rest is the table of
:mod:`neuromix.experiments.frame.pace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torchio as tio

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import Grid
from neuromix.augment.fmri.runs import Runs
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.images import together
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.sex import SexClassifier
from neuromix.classifiers.stage import StageClassifier
from neuromix.experiments.evidence.arms import DECODERS, SYNTHETIC
from neuromix.experiments.evidence.configs import (
    MODALITIES,
    SETTINGS,
    Decoding,
    Hybrid,
    Mixing,
    Settings,
    Transfer,
)
from neuromix.experiments.evidence.fillings import completer_config
from neuromix.experiments.evidence.samples import SOLVER_STEPS, needs, sampler_config
from neuromix.experiments.evidence.sites import find_runs
from neuromix.experiments.frame.cohorts import load_cohort
from neuromix.experiments.frame.pace import (
    SECONDS,
    classifier_pace,
    few_subjects,
    map_sampler_pace,
    phantom_seconds,
)

Plan = list[tuple[str, float]]


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
    people = round(1.6 * (config.many + judged + config.fresh)) * (config.data_b is None)
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
    share = float(np.prod(grid.shape) / np.prod(Grid.mni(6.0).shape))
    sides = [-(-side // window.shrink) for side in grid.shape]
    rng = np.random.default_rng(0)
    few = [
        tio.Subject(bold=tio.ScalarImage(tensor=rng.random((window.frames, *sides))), sex=sex)
        for sex in "FM" * 8
    ]
    step, _ = classifier_pace(VolumeClassifier("sex", "bold"), few, ("F", "M"))
    people, read = judged + trained, SECONDS["run read"] * share * runs
    kinds = len({DECODERS[arm].source for arm in config.arms} - {""})
    drawn = kinds * sum(config.sizes) * 2 * runs * config.ratio * len(config.targets)
    of_target = len(config.sizes) * len(config.arms) + (config.fresh > 0)
    fits = config.seeds * len(config.targets) * of_target
    return [
        ("phantom", phantom_seconds("task", config.spacing, people) * (config.data is None)),
        ("reading", 3 * people * read),
        (f"{len(config.sizes)} samplers", 4 * sum(config.sizes) * read),
        (f"{drawn} synthetic runs", drawn * frames * SECONDS["frame, closed form"] * share),
        (f"{fits} fits", fits * config.steps * step),
    ]


def plan_hybrid(config: Hybrid) -> Plan:
    """A completer, and its samples, for each share of subjects that lack an image."""
    own = together(load_cohort(config.data)) if config.data else None
    with few_subjects("paired", own, config.spacing) as scans:
        few = together(scans)
        completers, samples = 0.0, 0.0
        for rate in config.missing:
            count = round((1 - rate / 100) * config.train)
            fit, sample = ModalityCompleter.estimate(few, completer_config(config, count), count)
            completers += fit
            # Samples are made in fours, so that one costs as much.
            rounds = 1 + (rate > 0) * ("pds-by-label" in config.arms)
            samples += 4 * sample * rounds * config.train
        samples += 4 * sample * -(-config.samples // 4) * config.test
        step, judged = classifier_pace(
            StageClassifier(image=MODALITIES), few.subjects(), ("NC", "AD")
        )
    arms = sum(len(set(config.arms) - {"complete"}) if rate > 0 else 1 for rate in config.missing)
    fits = config.seeds * (arms + 1)
    people = (config.train + config.validation + config.test) * (config.data is None)
    # Validation subjects are looked at every 25 steps.
    looks = config.test + config.validation * (config.steps / 25)
    return [
        ("phantom subjects", phantom_seconds("paired", config.spacing, people)),
        (f"{len(config.missing)} completers", completers),
        ("samples", samples),
        (f"{fits} fits", fits * (config.steps * step + looks * judged)),
    ]


def sampler_pace(few: Cohort, config: Mixing) -> tuple[float, float]:
    """Seconds of training a sampler, and of a sample."""
    training, a_pass = map_sampler_pace(few, sampler_config(config))
    return training, SOLVER_STEPS * (1 if config.guidance == 1 else 2) * a_pass


def _plan_mixing(
    config: Mixing,
    data: Path | None,
    people: int,
    sizes: Sequence[int],
    fits: Sequence[tuple[int, str, int]],
) -> Plan:
    """So many phantom subjects, a sampler each size, and fits of so many steps."""
    own = load_cohort(data, (config.image,) if data.is_dir() else ()) if data else None
    with few_subjects("md", own, config.spacing) as few:
        training, sample = sampler_pace(few, config)
        step, judging = classifier_pace(
            SexClassifier(image=config.image), few.subjects(), ("F", "M")
        )
    samples = sum(needs(config.arms, size).get(SYNTHETIC, 0) for size in sizes)
    samplers = len(sizes) if samples else 0
    judged = config.validation + config.test
    return [
        ("phantom subjects", phantom_seconds("md", config.spacing, people)),
        (f"{samplers} samplers", samplers * training),
        (f"{samples} samples", samples * sample),
        *(
            (f"{count} {what}", count * (steps * step + judged * judging))
            for count, what, steps in fits
        ),
    ]
