"""Fit a sampler, and make a dataset with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from augment import quotas
from augment.bank import SampleBank
from augment.cohort import Cohort
from augment.conditions import LabelSpace
from augment.errors import InputError
from augment.report import rich_table
from augment.samplers.base import is_sampler
from augment.samplers.tiled_md import TiledMDSampler
from augment.samplers.tiled_md_config import PRESETS
from experiments.data import load_cohort


def train_md(
    data: Path,
    out: Path,
    validation: Path | None,
    preset: str,
    training: Mapping[str, Any],
    model: Mapping[str, Any],
    dry_run: bool,
) -> None:
    """Fit the tiled MD sampler; see ``neuromix train md --help``.

    Args:
        data: Training subjects.
        out: Folder for the sampler.
        validation: Subjects that choose the best step.
        preset: Name of a preset.
        training: Fields of its training to change; those that are None stay.
        model: Other fields to change, likewise.
        dry_run: Only say how long it would take.
    """
    console = Console()
    config = PRESETS[preset]
    config = replace(config, training=replace(config.training, **_given(training)), **_given(model))
    cohort = load_cohort(data, ("md",) if data.is_dir() else ())
    judges = None
    if validation is not None:
        judges = load_cohort(validation, ("md",) if validation.is_dir() else ())
        both = set(cohort.subject_keys) & set(judges.subject_keys)
        if both:
            raise InputError(
                f"{len(both)} subjects are in both parts, the first is {min(both)}; split them "
                "with `neuromix cohort DATA --out FOLDER`"
            )
    console.print(asdict(config))
    if dry_run:
        seconds = TiledMDSampler.estimate(cohort, config)
        console.print(f"{len(cohort)} scans, about {seconds / 60:.1f} minutes on this machine")
        return
    _, result = TiledMDSampler.fit(cohort, config, out, validation=judges, progress=True)
    console.print(
        f"{result.step} steps, {result.seconds:.0f} s in this call, {100 * result.waiting:.1f} % "
        f"of it waiting for data; step {result.best_step} is kept in {out}"
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def generate(
    folder: Path,
    out: Path,
    count: int | None,
    labels: Mapping[str, str],
    quota: str,
    like: Path | None,
    target: str,
    by: Sequence[str],
    seed: int,
    steps: int,
    guidance: float,
) -> None:
    """Make a dataset of synthetic subjects; see ``neuromix generate --help``."""
    if not is_sampler(folder):
        raise InputError(f"{folder} holds no sampler; make one with `neuromix train md`")
    sampler = TiledMDSampler.from_pretrained(folder)
    sampler.set_progress_bar_config(disable=True)
    space = sampler.label_space
    if quota == "grid":
        if count is None or like is not None:
            came = "no --count" if count is None else "--like"
            raise InputError(f"{came} came with --quota grid; it needs --count and no --like")
        wanted = quotas.grid(space, labels, count, seed)
    else:
        if like is None or labels:
            came = "no --like" if like is None else "--labels"
            raise InputError(
                f"{came} came with --quota {quota}; it needs --like, the training subjects that "
                "all labels are drawn from, and no --labels"
            )
        cohort = load_cohort(like, ("md",) if like.is_dir() else ())
        wanted = _drawn(cohort, space, quota, target, by, count, seed)
    bank = SampleBank.fill(
        out, sampler, wanted, seed, steps=steps, guidance=guidance, progress=True
    )
    print(bank)


def _drawn(
    cohort: Cohort,
    space: LabelSpace,
    quota: str,
    target: str,
    by: Sequence[str],
    count: int | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Labels after a cohort, with a table of what they mend."""
    if quota == "like":
        if count is None:
            raise InputError("no --count came with --quota like; say how many subjects to make")
        return quotas.like(cohort, space, count, seed)
    if quota == "balance":
        wanted = quotas.balance(cohort, space, (target,), count, seed)
    else:
        wanted = quotas.deconfound(cohort, space, target, by, count, seed)
        table = quotas.associations(cohort, wanted, target, by)
        title = f"{target} in {len(cohort)} real and {len(wanted)} synthetic"
        Console().print(rich_table(table, title=title))
    if not wanted:
        raise InputError(f"{cohort.name} needs no sample to {quota} {target}; name a --count")
    return wanted
