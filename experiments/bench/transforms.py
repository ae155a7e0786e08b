"""What a bank costs and gives: draws, loaders and memory.

All images are alike: noise in an ellipsoid of a brain's size, zero around it, float32. As samples
they lie in a bank, uncompressed; as real subjects in ``.nii.gz`` files, as ``prepare`` writes them.
All files are in the page cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from rich.progress import track

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.grid import Grid
from neuromix.augment.errors import InputError
from neuromix.augment.mixing import mix
from neuromix.augment.transforms import RandomSynthetic
from neuromix.experiments.bench.config import Transforms
from neuromix.experiments.bench.figures import Figure, beside, by_turns, report
from neuromix.experiments.frame.pace import own_memory

PART = "transforms"
BATCH = 4
SEED = 0
BRAIN = (68.0, 85.0, 65.0)
"""Half axes in mm of the ellipsoid, 1.6 litres."""


class FreeSampler:
    """Noise, which costs next to nothing."""

    version = 1
    record: dict[str, Any] = {"datasets": [], "subjects": [], "voxels": []}  # noqa: RUF012

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        offset = (grid.points().T - grid.points().mean((1, 2, 3))) / BRAIN
        self.brain = ((offset**2).sum(-1) < 1).T

    def fingerprint(self) -> str:
        """There are no weights."""
        return "none"

    def __call__(
        self, labels: Sequence[Mapping[str, Any]], seeds: Sequence[int], steps: int, guidance: float
    ) -> list[tio.Subject]:
        """A subject for each of the labels."""
        return [self.subject(row, seed) for row, seed in zip(labels, seeds, strict=True)]

    def subject(self, labels: Mapping[str, Any], seed: int) -> tio.Subject:
        """A subject of these labels."""
        tensor = torch.from_numpy(self.voxels(seed)[None])
        return tio.Subject(md=tio.ScalarImage(tensor=tensor, affine=self.grid.affine), **labels)

    def voxels(self, seed: int) -> np.ndarray:
        """A volume."""
        noise = np.random.default_rng(seed).standard_normal(self.grid.shape, np.float32)
        return np.where(self.brain, 1 + noise / 10, 0).astype(np.float32)


def transforms(config: Transforms) -> list[Figure]:
    """Time draws and loaders, and weigh many draws."""
    samples, rounds, workers = config.samples, config.rounds, config.workers
    if not workers or min(workers) < 0:
        raise InputError(f"workers {workers} came; give one or more numbers, 0 or more")
    if not Path("/proc/self/status").exists():
        raise InputError("memory is measured on Linux only; run this benchmark there")
    sampler = FreeSampler(Grid.mni(config.spacing))
    labels = [{"sex": "FM"[k % 2], "age": 50.0 + k % 40} for k in range(samples)]
    with tempfile.TemporaryDirectory() as name:
        bank = SampleBank.fill(Path(name) / "bank", sampler, labels, SEED)
        subjects = []
        for k, row in enumerate(labels):
            path = Path(name) / "real" / f"sub-{k:02d}_dwimap.nii.gz"
            files.write_nifti(path, sampler.voxels(k), sampler.grid.affine)
            subjects.append(tio.Subject(md=tio.ScalarImage(path), **row))
        figures = [
            *_draw(bank, subjects, rounds),
            *_loaders(bank, subjects, workers, max(2, rounds // 10)),
            Figure(PART, "memory over draws grows by", _growth(bank, config.draws), "MB"),
        ]
    return report(figures, config.out, f"{sampler.grid}; {samples} samples")


def _draw(bank: SampleBank, subjects: list[tio.Subject], rounds: int) -> list[Figure]:
    """Draws, and what else one could do with a volume."""
    affine, drawn = tio.RandomAffine(), bank.draw({"sex": "F"}, SEED)
    loaded = _load(subjects[0])

    def draw(turn: int) -> None:
        subject = subjects[turn % len(subjects)]
        bank.draw({"sex": subject["sex"], "age": subject["age"]}, turn)

    times = by_turns(
        {
            "SampleBank.draw": draw,
            "TorchIO loads the .nii.gz": lambda turn: _load(subjects[turn % len(subjects)]),
            "RandomAffine": lambda _: affine(loaded),
            "clone of the tensor": lambda _: drawn["md"].data.clone(),
        },
        rounds,
    )
    milliseconds = {name: 1e3 * each for name, each in times.items()}
    return beside(PART, milliseconds, "ms", "SampleBank.draw", {})


def _load(subject: tio.Subject) -> tio.Subject:
    fresh = tio.Subject(**{**subject, "md": tio.ScalarImage(subject["md"].path)})
    fresh.load()
    return fresh


def _loaders(
    bank: SampleBank, subjects: list[tio.Subject], workers: Sequence[int], passes: int
) -> list[Figure]:
    """Items per second of loaders, whose passes run by turns."""
    datasets = {
        "real files alone": tio.SubjectsDataset(subjects),
        "RandomSynthetic, p=0.5": tio.SubjectsDataset(
            subjects, RandomSynthetic(bank, match="sex", p=0.5)
        ),
        "mix, ratio 1, add": mix(subjects, bank, 1.0),
        "mix, ratio 1, replace": mix(subjects, bank, 1.0, mode="replace"),
    }
    figures = []
    for count in workers:
        loaders = {
            f"loader, {name}, {count} workers": tio.SubjectsLoader(
                dataset, batch_size=BATCH, shuffle=True, num_workers=count,
                persistent_workers=count > 0,
            )
            for name, dataset in datasets.items()
        }  # fmt: skip
        # The round before the first starts the workers.
        times = by_turns({name: partial(_pass, loader) for name, loader in loaders.items()}, passes)
        rates = {name: len(loaders[name].dataset) / each for name, each in times.items()}
        figures += beside(PART, rates, "items/s", next(iter(rates)), {})
    return figures


def _pass(loader: tio.SubjectsLoader, _: int) -> None:
    for _ in loader:
        pass


def _growth(bank: SampleBank, draws: int) -> float:
    """What the memory of this process grows by over many draws, after a tenth of them, in MB."""
    held = []
    sexes = bank.table["sex"].to_list()
    for k in track(range(draws), "Memory"):
        bank.draw({"sex": sexes[k % len(sexes)]}, k)
        if k % max(1, draws // 100) == 0:
            held.append(own_memory("RssAnon"))
    after = held[len(held) // 10 :]
    return max(after) - after[0]
