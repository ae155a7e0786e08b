"""What a bank costs and gives: draws, loaders, memory, and fills that are shared or killed.

All images are alike: noise in an ellipsoid of a brain's size, zero around it, float32. As samples
they lie in a bank, uncompressed; as real subjects in ``.nii.gz`` files, as ``prepare`` writes them.
What is compared runs by turns, and medians of the ratios of neighbours are shown, since a busy
machine is as unkind to one as to the other. All files are in the page cache.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torchio as tio
from rich.console import Console
from rich.progress import track

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.grid import Grid
from neuromix.augment.errors import InputError
from neuromix.augment.mixing import mix
from neuromix.augment.transforms import RandomSynthetic
from neuromix.experiments.bench.foundation import keep, machine
from neuromix.experiments.frame.pages import rich_table

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


def transforms(
    spacing: float,
    samples: int,
    rounds: int,
    workers: Sequence[int],
    draws: int,
    kills: int,
    out: Path | None,
) -> dict[str, Any]:
    """Time draws and loaders, weigh many draws, and kill fills.

    Args:
        spacing: Voxel side in mm; 1.75 makes 96 x 112 x 96 voxels.
        samples: Of the bank; there are as many real subjects.
        rounds: Draws and their rivals, by turns; a tenth of it, at least 2, passes of the loaders.
        workers: Numbers of workers of the loaders.
        draws: Over which the memory is watched.
        kills: Fills that are killed and taken up again.
        out: JSON file for the figures.
    """
    for name, count in {
        "samples": samples, "rounds": rounds, "draws": draws, "kills": kills,
    }.items():  # fmt: skip
        if count < 1:
            raise InputError(f"{count} {name} measure nothing; give at least 1")
    if not workers or min(workers) < 0:
        raise InputError(f"workers {tuple(workers)} came; give one or more numbers, 0 or more")
    if not Path("/proc/self/status").exists():
        raise InputError("memory is measured on Linux only; run this benchmark there")
    sampler = FreeSampler(Grid.mni(spacing))
    labels = [{"sex": "FM"[k % 2], "age": 50.0 + k % 40} for k in range(samples)]
    # The server that forks the filling processes has imported all that they need.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = Task(sampler, labels, processes)
        seconds, path = _fill_with(1, task, folder / "alone")
        bank, subjects = SampleBank(path), _real(folder / "real", task)
        result = {
            "draw": _draw(bank, subjects, rounds),
            "loader": _loaders(bank, subjects, workers, max(2, rounds // 10)),
            "memory": _memory(bank, draws),
            "fill": _shared(bank, seconds, task, folder / "shared"),
            "kills": _kills(bank, seconds, task, folder, kills),
        }
    how = f"{machine()}; {sampler.grid}; {samples} samples"
    _show(result, how)
    if out is not None:
        keep(out, {"how": how} | result)
    return result


class Task(NamedTuple):
    """What is filled, and how processes are made."""

    sampler: FreeSampler
    labels: list[dict[str, Any]]
    processes: ForkServerContext


def _real(folder: Path, task: Task) -> list[tio.Subject]:
    """Real subjects, with the labels of the samples."""
    subjects = []
    for k, row in enumerate(task.labels):
        path = folder / f"sub-{k:02d}_dwimap.nii.gz"
        files.write_nifti(path, task.sampler.voxels(k), task.sampler.grid.affine)
        subjects.append(tio.Subject(md=tio.ScalarImage(path), **row))
    return subjects


def _draw(bank: SampleBank, subjects: list[tio.Subject], rounds: int) -> list[dict[str, Any]]:
    """Draws, and what else one could do with a volume."""
    affine = tio.RandomAffine()
    times = []
    for k in track(range(rounds + 1), "Draws"):
        subject = subjects[k % len(subjects)]
        labels = {"sex": subject["sex"], "age": subject["age"]}
        draw, sample = _timed(lambda: bank.draw(labels, k))  # noqa: B023  (called at once)
        load, loaded = _timed(lambda: _load(subject))  # noqa: B023
        turn, _ = _timed(lambda: affine(loaded))  # noqa: B023
        copy, _ = _timed(sample["md"].data.clone)
        times.append((draw, load, turn, copy))
    seconds = np.array(times[1:])  # the first round warms up
    names = {
        "SampleBank.draw": "",
        "TorchIO loads the .nii.gz": "0.15 or less",
        "RandomAffine": "0.05 or less",
        "clone of the tensor": "2 or less: half of its bandwidth",
    }
    return [
        {
            "what": name, "ms": float(np.median(column)) * 1e3,
            "draw / it": float(np.median(seconds[:, 0] / column)), "target": target,
        }
        for (name, target), column in zip(names.items(), seconds.T, strict=True)
    ]  # fmt: skip


def _load(subject: tio.Subject) -> tio.Subject:
    fresh = tio.Subject(**{**subject, "md": tio.ScalarImage(subject["md"].path)})
    fresh.load()
    return fresh


def _loaders(
    bank: SampleBank, subjects: list[tio.Subject], workers: Sequence[int], passes: int
) -> list[dict[str, Any]]:
    """Items per second of loaders, whose passes run by turns."""
    datasets = {
        "real files alone": tio.SubjectsDataset(subjects),
        "RandomSynthetic, p=0.5": tio.SubjectsDataset(
            subjects, RandomSynthetic(bank, match="sex", p=0.5)
        ),
        "mix, ratio 1, add": mix(subjects, bank, 1.0),
        "mix, ratio 1, replace": mix(subjects, bank, 1.0, mode="replace"),
    }
    rows = []
    for count in workers:
        loaders = [
            tio.SubjectsLoader(
                dataset, batch_size=BATCH, shuffle=True, num_workers=count,
                persistent_workers=count > 0,
            )
            for dataset in datasets.values()
        ]  # fmt: skip
        # The first pass starts the workers.
        turns = track(range(passes + 1), f"Loaders, {count} workers")
        times = [[_timed(lambda: _pass(one))[0] for one in loaders] for _ in turns]  # noqa: B023
        rates = np.array([len(d) for d in datasets.values()]) / np.array(times[1:])
        for name, rate in zip(datasets, rates.T, strict=True):
            rows.append(
                {
                    "what": name, "workers": count, "items/s": float(np.median(rate)),
                    "to real": float(np.median(rate / rates[:, 0])),
                    "target": "1.5 or more" if name.startswith("mix") else "",
                }
            )  # fmt: skip
    return rows


def _pass(loader: tio.SubjectsLoader) -> None:
    for _ in loader:
        pass


def _memory(bank: SampleBank, draws: int) -> dict[str, Any]:
    """What the memory of this process grows by over many draws, after a tenth of them."""
    held = []
    sexes = bank.table["sex"].to_list()
    for k in track(range(draws), "Memory"):
        bank.draw({"sex": sexes[k % len(sexes)]}, k)
        if k % max(1, draws // 100) == 0:
            held.append(_own())
    before = held[len(held) // 10 :]
    return {"draws": draws, "own, MB": before[0], "growth, MB": max(before) - before[0]}


def _own() -> float:
    """Memory of this process that the system cannot take away, in MB."""
    text = Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+)", text)[0]) * 1024 / 1e6


def _fill(path: Path, sampler: FreeSampler, labels: list[dict[str, Any]], begun: Event) -> None:
    begun.set()
    SampleBank.fill(path, sampler, labels, SEED)


def _start(task: Task, folder: Path) -> tuple[Path, BaseProcess]:
    """Start a process that fills a bank, and wait until it begins to.

    All banks have one name, which is in their description, so that their files are equal.
    """
    path, begun = folder / "bank", task.processes.Event()
    process = task.processes.Process(target=_fill, args=(path, *task[:2], begun))
    process.start()
    begun.wait()
    return path, process


def _fill_with(count: int, task: Task, folder: Path) -> tuple[float, Path]:
    """Fill a bank by so many processes, and tell how long it took once the first had begun."""
    path, first = _start(task, folder)
    begun = time.perf_counter()
    fills = [first, *(_start(task, folder)[1] for _ in range(1, count))]
    for process in fills:
        process.join()
    seconds = time.perf_counter() - begun
    if any(process.exitcode for process in fills):
        raise RuntimeError("a process that filled a bank failed; its message stands above")
    return seconds, path


def _shared(bank: SampleBank, seconds: float, task: Task, folder: Path) -> list[dict[str, Any]]:
    """Fills by one process and by two."""
    shared, path = _fill_with(2, task, folder)
    same = SampleBank(path).digest() == bank.digest()
    return [
        {"processes": 1, "seconds": seconds, "same digest": True},
        {"processes": 2, "seconds": shared, "same digest": same},
    ]


def _kills(
    bank: SampleBank, seconds: float, task: Task, folder: Path, kills: int
) -> dict[str, Any]:
    """Kill fills at random moments, look at what they left, and go on with them."""
    rng = np.random.default_rng(SEED)
    whole = _content(bank.path)
    stood: list[float] = []
    same, partial, missed = 0, 0, 0
    for number in track(range(kills), "Kills"):
        place = folder / f"killed-{number}"
        while True:
            path, process = _start(task, place)
            time.sleep(rng.uniform(0, seconds))
            process.kill()
            process.join()
            if process.exitcode != 0:
                break
            missed += 1  # it had ended before
            shutil.rmtree(place)
        left = _content(path)
        partial += sum(_is_partial(name, content, whole) for name, content in left.items())
        stood.append(sum(name.endswith(".nii") for name in left) / len(bank))
        resumed = SampleBank.fill(path, task.sampler, task.labels, SEED)
        # Every file is compared; no temporary one may be left, either.
        same += resumed.digest() == bank.digest() and _content(path, hidden=True) == whole
        shutil.rmtree(place)
    return {
        "kills": kills, "same as unbroken": same, "partial files": partial,
        "images at the kill": sorted(stood), "ended before": missed,
    }  # fmt: skip


def _content(folder: Path, *, hidden: bool = False) -> dict[str, bytes]:
    """What readers see of a bank, file by file; temporary files too, if wanted."""
    return {
        path.relative_to(folder).as_posix(): _gist(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and (hidden or not path.name.startswith("."))
    }


def _gist(path: Path) -> bytes:
    """The content of a text file, the checksum of an image."""
    content = path.read_bytes()
    return hashlib.sha256(content).digest() if path.suffix == ".nii" else content


def _is_partial(name: str, content: bytes, whole: Mapping[str, bytes]) -> bool:
    """Whether a file is neither what it is in the end nor whole JSON, as some change on the way."""
    if content == whole.get(name):
        return False
    try:
        json.loads(content)
    except ValueError:
        return True
    return not name.endswith(".json")


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def _show(result: dict[str, Any], how: str) -> None:
    """The tables for the terminal."""
    console = Console()
    console.print(how)
    console.print(rich_table(pd.DataFrame(result["draw"]), title="A draw, medians"))
    console.print(
        rich_table(pd.DataFrame(result["loader"]), title=f"Loaders, batch of {BATCH}, medians")
    )
    console.print(rich_table(pd.DataFrame([result["memory"]]), title="Memory over draws"))
    console.print(rich_table(pd.DataFrame(result["fill"]), title="Fills of one bank at once"))
    kills = result["kills"]
    stood = [f"{100 * share:.0f}" for share in kills["images at the kill"]]
    shown = {**kills, "images at the kill": " ".join(stood) + " %"}
    console.print(rich_table(pd.DataFrame([shown]), title="Fills killed and taken up again"))
