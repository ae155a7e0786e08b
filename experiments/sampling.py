"""Fit a sampler, and make a dataset with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from augment import bids, files
from augment.errors import InputError
from augment.grid import SPACE
from augment.samplers.base import is_sampler
from augment.samplers.tiled_md import PRESETS, TiledMDSampler
from experiments.data import load_cohort


def train_md(
    data: Path,
    out: Path,
    validation: Path | None,
    preset: str,
    steps: int | None,
    batch_size: int | None,
    seed: int,
    dry_run: bool,
) -> None:
    """Fit the tiled MD sampler; see ``neuromix train md --help``."""
    console = Console()
    config = PRESETS[preset]
    given: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "seed": seed}
    training = replace(config.training, **{k: v for k, v in given.items() if v is not None})
    config = replace(config, training=training)
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


def generate(
    folder: Path,
    out: Path,
    count: int,
    labels: Mapping[str, str],
    seed: int,
    steps: int,
    guidance: float,
) -> None:
    """Make a dataset of synthetic subjects; see ``neuromix generate --help``."""
    if not is_sampler(folder):
        raise InputError(f"{folder} holds no sampler; make one with `neuromix train md`")
    sampler = TiledMDSampler.from_pretrained(folder)
    sampler.set_progress_bar_config(disable=True)
    wanted = [draw_labels(sampler.label_space, labels, seed, k) for k in range(count)]
    bids.describe(out, name=f"neuromix-{folder.name}", derivative=True)
    rows = []
    for k in track(range(count), "Generating"):
        name = f"syn{k + 1:06d}"
        stem = f"sub-{name}_space-{SPACE}_desc-synthetic_param-md_dwimap"
        place = out / f"sub-{name}" / "dwi"
        recipe = {
            "Units": "1e-3 mm^2/s",
            "SpatialReference": SPACE,
            "Synthetic": True,
            "Labels": wanted[k],
            "Seed": [seed, k],
            "Steps": steps,
            "Guidance": guidance,
        }
        sidecar = place / f"{stem}.json"
        # The sidecar is written last, so an image beside an equal one is whole.
        if not (sidecar.is_file() and bids.read_json(sidecar) == recipe):
            number = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
            subject = sampler([wanted[k]], [number], steps, guidance)[0]
            image = subject["md"]
            files.write_nifti(place / f"{stem}.nii", image.numpy()[0], image.affine)
            files.write_json(sidecar, recipe)
        rows.append({"participant_id": f"sub-{name}", **wanted[k]})
    files.write_table(out / "participants.tsv", pd.DataFrame(rows))
    print(f"{count} synthetic subjects in {out}")


def draw_labels(space: Any, given: Mapping[str, str], seed: int, k: int) -> dict[str, Any]:
    """Labels of sample ``k``: those that are given, categories in turn, the rest at random."""
    rng = np.random.default_rng([seed, k])
    labels: dict[str, Any] = {}
    turn = k
    for name, values in space.categories.items():
        labels[name] = given.get(name, values[turn % len(values)])
        turn = turn // len(values) if name not in given else turn
    for name, (low, high) in space.ranges.items():
        drawn = round(float(rng.uniform(low, high)), 1)
        try:
            labels[name] = float(given.get(name, min(max(drawn, low), high)))
        except ValueError:
            raise InputError(f"{name} {given[name]!r} is no number; give one") from None
    unknown = set(given) - set(space.names)
    if unknown:
        raise InputError(
            f"labels {sorted(unknown)} are not in the sampler; it has {list(space.names)}"
        )
    space.encode(labels)
    return labels
