"""Fit a sampler, and make a dataset with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from neuromix.augment.bank import quotas
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import LabelSpace, parse_label
from neuromix.augment.data.split import require_apart
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.fmri import config as task_fmri_config
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.opening import open_source
from neuromix.augment.prepare.bold import read_events
from neuromix.augment.tiled import config as tiled_md_config
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.experiments.frame.cohorts import load_cohort
from neuromix.experiments.frame.pages import rich_table

KINDS: dict[str, tuple[Any, Any]] = {
    "md": (TiledMDSampler, tiled_md_config.PRESETS),
    "fmri": (TaskFMRISampler, task_fmri_config.PRESETS),
}
"""Samplers that can be trained, with their presets."""


def train(
    kind: str,
    data: Path,
    out: Path,
    validation: Path | None,
    preset: str,
    training: Mapping[str, Any],
    model: Mapping[str, Any],
    dry_run: bool,
) -> None:
    """Fit a sampler; see ``neuromix train md --help`` and ``neuromix train fmri --help``.

    Args:
        kind: ``md`` or ``fmri``.
        data: Training subjects.
        out: Folder for the sampler.
        validation: Subjects that choose the best step.
        preset: Name of a preset.
        training: Fields of its training to change; those that are None stay.
        model: Other fields to change, likewise.
        dry_run: Only say how long it would take.
    """
    console = Console()
    sampler, presets = KINDS[kind]
    config = presets[preset]
    config = replace(config, training=replace(config.training, **_given(training)), **_given(model))
    cohort = load_cohort(data, (sampler.image,) if data.is_dir() else ())
    judges = None
    if validation is not None:
        judges = load_cohort(validation, (sampler.image,) if validation.is_dir() else ())
        require_apart({"training": cohort, "validation": judges})
    console.print(asdict(config))
    if dry_run:
        seconds = sampler.estimate(cohort, config)
        console.print(f"{len(cohort)} scans, about {seconds / 60:.1f} minutes on this machine")
        return
    _, result = sampler.fit(cohort, config, out, validation=judges, progress=True)
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
    events: Path | None = None,
    frames: int | None = None,
) -> None:
    """Make a dataset of synthetic subjects; see ``neuromix generate --help``."""
    if not is_sampler(folder):
        raise InputError(f"{folder} holds no sampler; make one with `neuromix train`")
    sampler: Any = open_source(folder)
    if events is not None or frames is not None:
        if not hasattr(sampler, "timed"):
            raise InputError(
                f"--events or --frames came, and {folder} makes {sampler.image}, which has no "
                "time; leave them out"
            )
        sampler = sampler.timed(None if events is None else read_events(events), frames)
    space = sampler.label_space
    if quota == "grid":
        if count is None or like is not None:
            came = "no --count" if count is None else "--like"
            raise InputError(f"{came} came with --quota grid; it needs --count and no --like")
        told = {name: parse_label(name, value) or "" for name, value in labels.items()}
        wanted = quotas.grid(space, told, count, seed)
    else:
        if like is None or labels:
            came = "no --like" if like is None else "--labels"
            raise InputError(
                f"{came} came with --quota {quota}; it needs --like, the training subjects that "
                "all labels are drawn from, and no --labels"
            )
        cohort = load_cohort(like, (sampler.image,) if like.is_dir() else ())
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
