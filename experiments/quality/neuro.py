"""The evaluation of task fMRI on real runs alone: do halves agree, and are trivial generators told?

The subjects of a cohort (or the runs, each taken as a subject) are parted at random in two: the
generators of :mod:`neuromix.experiments.quality.runs_baselines` are fitted to one part and judged
by the other, beside halves of the other against each other. An evaluation that works finds the real
halves alike and sees through each generator; how well it can, on this cohort, is what this
experiment shows before any sampler is judged on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from rich.console import Console

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.digests import Content
from neuromix.augment.errors import InputError
from neuromix.augment.metrics.neuro import FEWEST, NeuroJudge, failed
from neuromix.augment.metrics.task_runs import TaskRun, read_runs, subjects_of
from neuromix.experiments.frame.cohorts import load_cohort
from neuromix.experiments.frame.pages import rich_table
from neuromix.experiments.frame.run import Run
from neuromix.experiments.quality import neuro_report
from neuromix.experiments.quality.config import Neuro
from neuromix.experiments.quality.runs_baselines import GENERATORS, Generator, Request

HEADLINE = ("group_map", "rsa", "group_top1", "subject_top1", "roi_course")
"""Metrics that the verdict names."""


def run(config: Neuro, out: Path, *, console: Console | None = None) -> dict[str, Any]:
    """Judge each generator that is not judged yet; write ``results.json`` and ``report.html``."""
    cohort = load_cohort(config.data, ("bold",) if config.data.is_dir() else ())
    train, heldout = divide(as_units(read_runs(cohort), config.by), config.by, config.seed)
    content = {"data": Content.of(cohort, ("bold",))}
    with Run.open(out, "neuro", asdict(config), console, content) as folder:
        folder.log(
            f"{len(subjects_of(heldout))} held-out and {len(subjects_of(train))} training "
            f"{config.by}s of {cohort.name}"
        )
        affine = nib.load(cohort.table["bold_path"].iloc[0]).affine
        judge = NeuroJudge(
            heldout, affine, train=train, noise_model=config.noise_model,
            smoothing=config.smoothing, splits=config.splits, seed=config.seed,
        )  # fmt: skip
        requests = [Request.like(each) for each in heldout]
        rows, shown = {}, {"real": judge.real.group()}
        for name, make in GENERATORS.items():

            def table(make: Callable[[], Generator] = make) -> dict[str, Any]:
                return judge.table(make().fit(train).draw(requests, range(len(requests))))

            rows[name] = folder.cell({"generator": name}, table)
        halves = np.arange(len(judge.real)) % 2
        for k, name in enumerate(("even", "odd")):
            half = judge.real.take(np.flatnonzero(halves == k))
            shown[f"{name} {config.by}s"] = half.group()
        results = summarise(rows, about=_about(config, cohort, judge))
        results |= folder.about
        page = neuro_report.page(results, shown, judge)
        folder.finish(results, page)
        folder.console.print(rich_table(neuro_report.overview(rows)))
    return results


def as_units(runs: Sequence[TaskRun], by: str) -> list[TaskRun]:
    """The runs, with each one as a subject of its own if ``by`` is ``run``."""
    if by == "subject":
        return list(runs)
    return [replace(run, subject=str(run).removeprefix("sub-"), repeat="") for run in runs]


def divide(runs: Sequence[TaskRun], by: str, seed: int) -> tuple[list[TaskRun], list[TaskRun]]:
    """Part subjects at random into training and held-out ones, half each."""
    names = subjects_of(runs)
    if len(names) < 2 * FEWEST:
        advice = "take each run as one with --by run" if by == "subject" else "bring more runs"
        raise InputError(
            f"{len(names)} {by}s can't be parted into training and held-out ones; needed are "
            f"{2 * FEWEST} or more: {advice}"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[k] for k in order[: len(names) // 2]}
    return (
        [run for run in runs if run.subject in chosen],
        [run for run in runs if run.subject not in chosen],
    )


def summarise(rows: Mapping[str, Mapping[str, Any]], *, about: str) -> dict[str, Any]:
    """What came out, as plain content, of the table of each generator; ``about`` is the cohort."""
    faults = {name: failed(row) for name, row in rows.items()}
    first = next(iter(rows.values()))["metrics"]
    real = [
        f"{name.replace('_', ' ')} {first[name]['real']:.2f} "
        f"({first[name]['real_interval'][0]:.2f} to {first[name]['real_interval'][1]:.2f})"
        for name in HEADLINE
        if name in first
    ]
    failing = [f"{name} by {len(odd)} metrics" for name, odd in faults.items() if odd]
    missed = [name for name, odd in faults.items() if not odd]
    verdict = f"Halves of real {about}: {', '.join(real)}. "
    verdict += f"{len(failing)} of {len(rows)} trivial generators are told from real runs"
    verdict += f": {', '.join(failing)}" if failing else ""
    verdict += f"; not told: {', '.join(missed)}." if missed else "."
    return {"verdict": verdict, "failed": faults, "rows": dict(rows)}


def _about(config: Neuro, cohort: Cohort, judge: NeuroJudge) -> str:
    return (
        f"{config.by}s of {cohort.name} ({len(judge.real)} held out, {len(judge.conditions)} "
        f"conditions, {int(judge.mask.sum())} voxels)"
    )
