"""Benchmarks of what makes 4D images: completed subjects and task fMRI runs, each by its rivals.

Weights are nearly fresh, as they do not change the speed. All run by turns, and ratios are medians
within a round.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS as SAMPLERS
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import PRESETS as COMPLETERS
from neuromix.augment.pds.pairs import read
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.bench.foundation import keep, machine
from neuromix.experiments.frame.pages import rich_table
from neuromix.experiments.quality.completion import without
from neuromix.experiments.quality.completion_baselines import baselines
from neuromix.experiments.quality.monai_unet import unet_beside
from neuromix.experiments.quality.runs_samplers import Workshop

PEOPLE = 6
BRIEF: dict[str, Any] = {
    "steps": 1, "batch_size": 2, "warmup": 0, "validate_every": 1, "checkpoint_every": 1,
}  # fmt: skip
"""A training that only makes weights."""
WINDOW = 40
"""Frames that networks make jointly."""


def completing(
    preset: str, spacing: float, samples: int, rounds: int, out: Path | None
) -> list[dict[str, Any]]:
    """Time the completion of a subject, dMRI from fMRI.

    Args:
        preset: Of our completer.
        spacing: Voxel side in mm.
        samples: Of a subject.
        rounds: In which each contender completes one.
        out: JSON file for the figures.
    """
    if samples < 2 or rounds < 1:
        raise InputError(f"{samples} samples in {rounds} rounds measure nothing; give 2 and 1")
    with tempfile.TemporaryDirectory() as name:
        data = make_phantom(Path(name) / "pairs", "paired", subjects=PEOPLE, spacing=spacing)
        cohort = Cohort.from_bids(data)
        config = COMPLETERS[preset]
        config = replace(
            config,
            training=replace(config.training, **BRIEF),
            refining=replace(config.refining, **BRIEF),
        )
        completer, _ = ModalityCompleter.fit(cohort, config, Path(name) / "completer")
        subjects = cohort.subjects()
        pair = [np.stack([read(s[m], m).numpy() for s in subjects]) for m in ("fmri", "dmri")]
        seeds = range(samples)
        others = {
            "MONAI's diffusion U-Net": "diffusion U-Net",
            "MONAI's U-Net, one prediction": "regression U-Net",
            "voxelwise regression, one prediction": "voxelwise regression",
        }
        fitted = {title: baselines(0.0)[kind].fit(*pair) for title, kind in others.items()}
        contenders: dict[str, Callable[[int], Any]] = {
            "neuromix": lambda k: completer.posterior(
                without(subjects[k], "dmri"), "dmri", k, samples
            )
        }
        for title, rival in fitted.items():
            contenders[title] = partial(_predicted, rival, pair[0], seeds)
        contenders["reading the two real files"] = lambda k: [
            read(subjects[k][m], m) for m in ("fmri", "dmri")
        ]
        weights = {"neuromix": completer.model} | {
            title: rival.network_ for title, rival in fitted.items() if hasattr(rival, "network_")
        }
        return _shown(contenders, rounds, "s/subject", 1, out, weights)


def runs(
    preset: str, spacing: float, frames: int, rounds: int, out: Path | None
) -> list[dict[str, Any]]:
    """Time task fMRI runs, in closed form and by networks in ten steps.

    Args:
        preset: Size of the networks.
        spacing: Voxel side in mm; networks need 12 voxels along each axis.
        frames: Of a run.
        rounds: In which each contender makes one.
        out: JSON file for the figures.
    """
    if min(frames, rounds) < 1:
        raise InputError(f"{frames} frames in {rounds} rounds measure nothing; give 1 or more")
    with tempfile.TemporaryDirectory() as name:
        data = make_phantom(Path(name) / "runs", "task", subjects=PEOPLE, spacing=spacing)
        cohort = Cohort.from_bids(data).where(task="motor")
        split = cohort.split((0.6, 0.4, 0.0), stratify=(), seed=0)
        base = replace(
            SAMPLERS[preset], start=1.0, window=WINDOW, overlap=8, head_dim=16, time="factorised"
        )
        shop = Workshop(split.train, split.val, base, Path(name) / "samplers", 0.0)
        made = {
            "neuromix, closed form": shop.closed_form(shop.people)[0],
            "neuromix, network": shop.network("factorised", {}, 0.0)[0],
            "neuromix, network as published (stacked frames)": shop.network(
                "stacked", {"time": "stack"}, 0.0
            )[0],
            "MONAI's diffusion U-Net on the same latents": shop.network(
                "monai", {"time": "stack"}, 0.0, unet_beside
            )[0],
        }
        contenders: dict[str, Callable[[int], Any]] = {
            title: partial(_run, sampler, frames) for title, sampler in made.items()
        }
        paths = cohort.table["bold_path"]
        contenders["reading a real run"] = lambda k: _real(paths.iloc[k], frames)
        weights = {title: each.transformer for title, each in made.items() if each.transformer}
        return _shown(contenders, rounds, "s/100 frames", 100 / frames, out, weights)


def _predicted(rival: Any, sources: np.ndarray, seeds: Sequence[int], number: int) -> Any:
    return rival.predict(sources[number : number + 1], seeds)


def _run(sampler: TaskFMRISampler, frames: int, seed: int) -> None:
    for _ in sampler.timed(None, frames).stream({"task": "motor"}, seed, 10):
        pass


def _real(path: str, frames: int) -> np.ndarray:
    import nibabel as nib

    image: Any = nib.load(path)
    return np.asarray(image.dataobj[..., :frames], np.float32)


def _shown(
    contenders: Mapping[str, Callable[[int], Any]],
    rounds: int,
    unit: str,
    times: float,
    out: Path | None,
    weights: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Time all of them by turns, beside the first."""
    taken: dict[str, list[float]] = {title: [] for title in contenders}
    for turn in track(range(rounds + 1), f"Rounds, {unit}"):
        for title, work in contenders.items():
            begun = time.perf_counter()
            with torch.no_grad():
                work(turn % PEOPLE)
            if turn:  # a first run also pays for what is set up once
                taken[title].append(times * (time.perf_counter() - begun))
    first = np.array(next(iter(taken.values())))
    rows = [
        {
            "what": title,
            "weights": sum(p.numel() for p in weights[title].parameters())
            if title in weights else 0,
            unit: float(np.median(seconds)),
            "ratio": float(np.median(np.array(seconds) / first)),
        }
        for title, seconds in taken.items()
    ]  # fmt: skip
    Console().print(rich_table(pd.DataFrame(rows), title=machine()))
    if out is not None:
        keep(out, {"rows": rows})
    return rows
