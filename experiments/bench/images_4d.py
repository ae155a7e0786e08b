"""Benchmarks of what makes 4D images: completed subjects and task fMRI runs, each by its rivals.

Weights are nearly fresh, as they do not change the speed. All run by turns, and ratios are medians
within a round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS as SAMPLERS
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import PRESETS as COMPLETERS
from neuromix.augment.pds.pairs import read
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.bench.config import Completing, Runs
from neuromix.experiments.bench.figures import Figure, beside, by_turns, report
from neuromix.experiments.quality.completion import without
from neuromix.experiments.quality.completion_baselines import baselines
from neuromix.experiments.quality.monai_unet import unet_beside, weights_of
from neuromix.experiments.quality.runs_samplers import Workshop

PEOPLE = 6
BRIEF: dict[str, Any] = {
    "steps": 1, "batch_size": 2, "warmup": 0, "validate_every": 1, "checkpoint_every": 1,
}  # fmt: skip
"""A training that only makes weights."""
WINDOW = 40
"""Frames that networks make jointly."""


def completing(asked: Completing) -> list[Figure]:
    """Time the completion of a subject, dMRI from fMRI."""
    samples, spacing = asked.samples, asked.spacing
    if samples < 2:
        raise InputError(f"{samples} samples measure nothing; give at least 2")
    with tempfile.TemporaryDirectory() as name:
        data = make_phantom(Path(name) / "pairs", "paired", subjects=PEOPLE, spacing=spacing)
        cohort = Cohort.from_bids(data)
        config = COMPLETERS[asked.preset]
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
            contenders[title] = partial(_predict, rival, pair[0], seeds)
        contenders["reading the two real files"] = lambda k: [
            read(subjects[k][m], m) for m in ("fmri", "dmri")
        ]
        networks = {"neuromix": completer.model} | {
            title: rival.network_ for title, rival in fitted.items() if hasattr(rival, "network_")
        }
        return _timed("completing", contenders, asked.rounds, 1, networks, asked.out)


def runs(asked: Runs) -> list[Figure]:
    """Time task fMRI runs, in closed form and by networks in ten steps."""
    frames = asked.frames
    with tempfile.TemporaryDirectory() as name:
        data = make_phantom(Path(name) / "runs", "task", subjects=PEOPLE, spacing=asked.spacing)
        cohort = Cohort.from_bids(data).where(task="motor")
        split = cohort.split((0.6, 0.4, 0.0), stratify=(), seed=0)
        base = replace(
            SAMPLERS[asked.preset], autoencoder="vq", window=WINDOW, overlap=8, head_dim=16,
        )  # fmt: skip
        usual = SAMPLERS[asked.preset]
        windows = {"window": usual.window, "overlap": usual.overlap}
        shop = Workshop(split.train, split.val, base, Path(name) / "samplers", 0.0)
        made = {
            "neuromix, closed form": shop.closed_form(shop.people)[0],
            "neuromix, network": shop.denoiser("denoiser", windows, 0.0)[0],
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
        contenders["reading a real run"] = lambda k: nib.load(paths.iloc[k]).dataobj[..., :frames]
        networks = {t: each.transformer for t, each in made.items() if each.transformer}
        named = {f"{title}, 100 frames": work for title, work in contenders.items()}
        sized = {f"{title}, 100 frames": network for title, network in networks.items()}
        return _timed("runs", named, asked.rounds, 100 / frames, sized, asked.out)


def _predict(rival: Any, sources: np.ndarray, seeds: Sequence[int], k: int) -> Any:
    return rival.predict(sources[k : k + 1], seeds)


def _run(sampler: TaskFMRISampler, frames: int, seed: int) -> None:
    for _ in sampler.timed(None, frames).stream({"task": "motor"}, seed, 10):
        pass


def _timed(
    part: str,
    contenders: Mapping[str, Callable[[int], Any]],
    rounds: int,
    scale: float,
    networks: Mapping[str, torch.nn.Module],
    out: Path | None,
) -> list[Figure]:
    """Time all of them by turns, each on the next person, beside the first."""
    works = {
        title: lambda turn, work=work: work(turn % PEOPLE) for title, work in contenders.items()
    }
    with torch.no_grad():
        taken = {title: scale * each for title, each in by_turns(works, rounds).items()}
    weights = {title: weights_of(network) for title, network in networks.items()}
    return report(beside(part, taken, "s", next(iter(taken)), weights), out)
