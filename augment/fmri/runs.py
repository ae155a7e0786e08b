"""Task runs on their way to a sampler: checked, read one after the other, and described.

Memory holds one run, however large the cohort. A run is divided by its mean brain signal, so that
values are around 1; what a sampler makes is multiplied by the middle one of the training runs, and
so is in their scanner's units.

The design of a run has two columns a condition, each a course over frames: its events convolved
with Glover's haemodynamic response h, and h(t) - h(t - 1 s), which lets a response come sooner or
later. A condition is called ``task/trial_type``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import label_rows
from neuromix.augment.data.digests import file_digests
from neuromix.augment.data.grid import Grid
from neuromix.augment.data.leakage import voxel_hash
from neuromix.augment.errors import InputError
from neuromix.augment.prepare.bold import EVENT_COLUMNS, check_events, read_events

if TYPE_CHECKING:
    import pandas as pd

    from neuromix.augment.data.cohort import Cohort

BASIS = 2
"""Columns of the design a condition."""
BRAIN = 0.25
"""Brain is where a run's mean passes this share of its bright voxels' (98th percentile)."""
KEPT = 16
"""Event tables of each task that a sampler remembers, to draw timings like them."""


class BoldRun(NamedTuple):
    """A run of a cohort."""

    path: str
    frames: int
    events: pd.DataFrame
    labels: dict[str, Any]

    @property
    def task(self) -> str:
        """Its task."""
        return str(self.labels["task"])

    @property
    def subject(self) -> tuple[str, str]:
        """Whose run it is, as the leak guard names people."""
        return str(self.labels["dataset"]), str(self.labels["subject_id"])

    def read(self) -> np.ndarray:
        """Its frames (T, X, Y, Z)."""
        import nibabel as nib

        # TorchIO, with which the leak guard reads, makes zeros of a frame of NaN; else they agree.
        data = np.moveaxis(np.asarray(nib.load(self.path).dataobj, dtype=np.float32), 3, 0)
        finite = np.isfinite(data).all(axis=(1, 2, 3))
        if not finite.all():
            frame = int(np.argmin(finite))
            count = int((~np.isfinite(data[frame])).sum())
            raise InputError(
                f"{self.path}: frame {frame} of {len(data)} has {count} voxels of NaN or Inf; mend "
                "it, or drop the run"
            )
        return data


@dataclass(frozen=True)
class Runs:
    """The runs of a cohort, which lie on one grid and have one repetition time."""

    runs: tuple[BoldRun, ...]
    grid: Grid
    tr: float

    @classmethod
    def of(cls, cohort: Cohort, window: int) -> Runs:
        """Look at the header and events of every ``bold``; whatever does not fit is told.

        Each run must have ``window`` frames at least.
        """
        if "bold" not in cohort.images:
            raise InputError(
                f"the cohort has {', '.join(cohort.images) or 'no images'} but no bold; bring runs "
                "to one grid with `neuromix prepare --what bold`"
            )
        runs, grids, trs = [], [], []
        for row in label_rows(cohort):
            run, grid, tr = _look(row, window)
            runs.append(run)
            grids.append(grid)
            trs.append(tr)
            if grid != grids[0]:
                raise InputError(
                    f"{run.path} has {grid} and {runs[0].path} has {grids[0]}, or they lie "
                    "elsewhere; bring them to one grid with `neuromix prepare --what bold`"
                )
            if abs(tr - trs[0]) > 1e-3:
                raise InputError(
                    f"{run.path} has a repetition time of {tr:g} s and {runs[0].path} of "
                    f"{trs[0]:g} s; a sampler has one: fit one for each"
                )
        if not runs:
            raise InputError("the cohort is empty; name one with subjects")
        return cls(tuple(runs), grids[0], trs[0])

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """All conditions, sorted."""
        return tuple(sorted({f"{r.task}/{t}" for r in self.runs for t in r.events["trial_type"]}))

    @cached_property
    def timings(self) -> dict[str, list[list[list[Any]]]]:
        """Task to event tables, each a list of onset, duration and trial type."""
        by_task: dict[str, list[list[list[Any]]]] = {}
        for run in self.runs:
            tables = by_task.setdefault(run.task, [])
            if len(tables) < KEPT:
                tables.append(run.events[list(EVENT_COLUMNS)].values.tolist())
        return by_task


def _look(row: dict[str, Any], window: int) -> tuple[BoldRun, Grid, float]:
    """A run with its grid and repetition time, if all is well."""
    import nibabel as nib
    import pandas as pd

    path = row["bold_path"]
    if not path:
        raise InputError(
            f"sub-{row['subject_id']} has no bold; drop such rows with cohort.where(...)"
        )
    image = nib.load(path)
    if len(image.shape) != 4:
        raise InputError(f"{path} has the shape {image.shape}; a run has four dimensions")
    x, y, z, frames = image.shape
    if frames < window:
        raise InputError(
            f"{path} has {frames} frames, fewer than a window of {window}; drop the run, or train "
            "with a shorter window"
        )
    try:
        tr = bids.repetition_time(image.header, bids.metadata(path))
        place = next(bids.files_about(Path(path), "events.tsv"), None)
        if place is not None:
            events = read_events(place)
        elif row["task"] == "rest":
            events = pd.DataFrame({"onset": [], "duration": [], "trial_type": []})
        else:
            raise InputError(
                "there is no events.tsv for it; put one beside it, or name the raw dataset that "
                "has it with `neuromix prepare --what bold --raw FOLDER`"
            )
        check_events(events, frames, tr)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return BoldRun(path, frames, events, row), Grid((x, y, z), image.affine), tr


@dataclass(frozen=True)
class Survey:
    """What a first reading of all runs found."""

    mask: np.ndarray
    """Brain (X, Y, Z): voxels that are brain in half of the runs at least."""
    scales: list[float]
    """Mean brain signal of each run."""
    digests: list[str]
    """Of the voxels of each run, for the leak guard."""

    @classmethod
    def of(cls, runs: Runs, folder: Path, sampled: int, progress: bool = False) -> Survey:
        """Read all runs once, or what an earlier call has found and kept in ``folder``.

        ``frames.npy`` there holds ``sampled`` volumes of each run, evenly apart and scaled, (N, 1,
        X, Y, Z) as float16.
        """
        from rich.progress import track

        record = folder / "survey.json"
        made_of = [version("neuromix"), sampled, *file_digests(run.path for run in runs.runs)]
        earlier = json.loads(record.read_text()) if record.is_file() else {}
        if earlier.get("made of") == made_of:
            return cls(np.load(folder / "mask.npy"), earlier["scales"], earlier["digests"])
        folder.mkdir(parents=True, exist_ok=True)
        held = np.zeros(runs.grid.shape, int)
        scales, digests = [], []
        shape = (len(runs.runs) * sampled, 1, *runs.grid.shape)
        with files.replacing(folder / "frames.npy") as temporary:
            frames = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            listed = track(runs.runs, f"Reading {folder.name}", disable=not progress)
            for number, run in enumerate(listed):
                data = run.read()
                mean = data.mean(0)
                if mean.max() <= 0:
                    raise InputError(f"{run.path} has no signal; drop the run")
                brain = brain_of(mean)
                held += brain
                scales.append(float(mean[brain].mean()))
                digests.append(voxel_hash(data))
                chosen = np.linspace(0, len(data) - 1, sampled).round().astype(int)
                frames[number * sampled : (number + 1) * sampled, 0] = data[chosen] / scales[-1]
            frames.flush()
        mask = 2 * held >= len(runs.runs)
        with files.replacing(folder / "mask.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, mask)
        files.write_json(
            record,
            {"made of": made_of, "scales": scales, "digests": digests},
        )
        return cls(mask, scales, digests)


def brain_of(mean: np.ndarray) -> np.ndarray:
    """Where a run has brain, of its mean over time."""
    return mean > BRAIN * np.percentile(mean[mean > 0], 98)


def scaled(runs: Runs, survey: Survey) -> Iterator[tuple[BoldRun, np.ndarray]]:
    """Runs and their frames (T, X, Y, Z), scaled, one after the other."""
    for run, scale in zip(runs.runs, survey.scales, strict=True):
        yield run, run.read() / scale


def design_of(
    events: pd.DataFrame, task: str, conditions: Sequence[str], frames: int, tr: float
) -> np.ndarray:
    """The design (T, BASIS * conditions) of a run, zero for conditions that it does not have."""
    from nilearn.glm.first_level import compute_regressor

    times = tr * np.arange(frames)
    design = np.zeros((frames, BASIS * len(conditions)), np.float32)
    for name, rows in events.groupby("trial_type"):
        condition = f"{task}/{name}"
        if condition not in conditions:
            known = ", ".join(c.removeprefix(f"{task}/") for c in of_task(conditions, task))
            raise InputError(
                f"condition {name!r} of task {task!r} is unknown; the sampler knows "
                f"{known or 'none of that task'}"
            )
        column = BASIS * list(conditions).index(condition)
        onset, duration = (rows[key].to_numpy(float) for key in ("onset", "duration"))
        early, late = (
            compute_regressor(np.stack([onset + s, duration, np.ones_like(onset)]), "glover", times)
            for s in (0.0, 1.0)
        )
        design[:, column] = early[0][:, 0]
        design[:, column + 1] = (early[0] - late[0])[:, 0]
    return design


def of_task(conditions: Sequence[str], task: str) -> list[str]:
    """The conditions of a task."""
    return [name for name in conditions if name.rpartition("/")[0] == task]


def draw_events(
    tables: Sequence[Sequence[Sequence[Any]]], frames: int, tr: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Timings like those of training runs: blocks and pauses of one of them in a new order.

    They go on, order after order, to the end of the run.
    """
    import pandas as pd

    table = tables[int(rng.integers(len(tables)))]
    onsets, durations = (np.array([row[k] for row in table], float) for k in (0, 1))
    gaps = onsets - np.concatenate([[0.0], (onsets + durations)[:-1]])  # below 0: they overlap
    rows, time = [], 0.0
    while len(table) and time < frames * tr:
        for block, pause in zip(
            rng.permutation(len(table)), rng.permutation(len(table)), strict=True
        ):
            onset = max(time + gaps[pause], 0.0)
            if onset < frames * tr:
                rows.append((round(onset, 3), float(durations[block]), str(table[block][2])))
            time = onset + durations[block]
        if durations.sum() + gaps.sum() <= 0:
            break
    drawn = pd.DataFrame(rows, columns=list(EVENT_COLUMNS))
    return drawn.sort_values(list(EVENT_COLUMNS), ignore_index=True)


def task_of(events: pd.DataFrame, timings: Mapping[str, Any], conditions: Sequence[str]) -> str:
    """The one task that has all conditions of an events table."""
    wanted = {str(name) for name in events["trial_type"]}
    fitting = [t for t in sorted(timings) if {f"{t}/{name}" for name in wanted} <= set(conditions)]
    if len(fitting) != 1:
        odd = sorted(name for name in wanted if not any(c.endswith(f"/{name}") for c in conditions))
        came = f"condition {odd[0]!r}" if odd else f"the conditions {', '.join(sorted(wanted))}"
        raise InputError(
            f"{came} came, which {len(fitting)} tasks have; the sampler knows "
            f"{', '.join(conditions)}: name the task with --labels task NAME"
        )
    return fitting[0]
