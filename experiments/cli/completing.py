"""Fit a modality completer, and fill in what a dataset lacks with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from neuromix.augment.completion import complete_dataset
from neuromix.augment.data.split import require_apart
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import PRESETS, ablated, shortened
from neuromix.experiments.frame.cohorts import load_cohort


def train_pds(
    data: Path,
    out: Path,
    validation: Path | None,
    preset: str,
    training: Mapping[str, Any],
    refining_steps: int | None,
    model: Mapping[str, Any],
    without: Sequence[str],
    dry_run: bool,
) -> None:
    """Fit the modality completer; see ``neuromix train pds --help``.

    Args:
        data: Training subjects.
        out: Folder for the completer.
        validation: Subjects that choose the best steps.
        preset: Name of a preset.
        training: Fields of the trainings of PDM and TR to change, but for the steps of PDM alone;
            those that are None stay.
        refining_steps: Steps of TR's first stage, or None.
        model: Other fields to change.
        without: Parts to leave out.
        dry_run: Only say how long it would take.
    """
    console = Console()
    config = PRESETS[preset]
    config = shortened(config, training.get("steps"), refining_steps)
    given = {k: v for k, v in training.items() if v is not None and k != "steps"}
    parts = {name: replace(getattr(config, name), **given) for name in ("training", "refining")}
    config = replace(config, **parts, **model)
    config = ablated(config, without)
    cohort = load_cohort(data)
    judges = None if validation is None else load_cohort(validation)
    if judges is not None:
        require_apart({"training": cohort, "validation": judges})
    console.print(asdict(config))
    if dry_run:
        seconds, _ = ModalityCompleter.estimate(cohort, config)
        console.print(f"{len(cohort)} rows, about {seconds / 60:.1f} minutes on this machine")
        return
    _, result = ModalityCompleter.fit(cohort, config, out, validation=judges, progress=True)
    console.print(
        f"PDM: {result.step} steps, {result.seconds:.0f} s in this call, "
        f"{100 * result.waiting:.1f} % of it waiting for data; step {result.best_step} is kept in "
        f"{out}"
    )


def complete(
    data: Path,
    sampler: Path,
    out: Path,
    samples: int,
    held_out: Path | None,
    by_label: bool,
    seed: int,
) -> None:
    """Fill in what a dataset lacks; see ``neuromix complete --help``."""
    if not is_sampler(sampler):
        raise InputError(f"{sampler} holds no completer; make one with `neuromix train pds`")
    completer = ModalityCompleter.from_pretrained(sampler)
    if held_out is not None:
        completer.check_disjoint(load_cohort(held_out))
    done = complete_dataset(
        data, completer, out, samples=samples, seed=seed, by_label=by_label, progress=True
    )
    why = f" ({done.renewed} anew: source or label changed since)" if done.renewed else ""
    print(
        f"{done.made} images made{why} and {done.stood} were there in {out}; {done.whole} "
        "subject-sessions lack nothing"
    )
