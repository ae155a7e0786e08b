"""Runs of task fMRI as the metrics take them: four-dimensional data, its events and its TR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment.data import bids
from neuromix.augment.errors import InputError
from neuromix.augment.prepare.bold import check_events, check_frames, read_events

if TYPE_CHECKING:
    import pandas as pd

    from neuromix.augment.data.cohort import Cohort

DARK = 0.1
"""Voxels below this share of the median brightness of the brain have no signal in a run."""
COVERED = 0.8
"""Share of the runs that have signal in each voxel of the mask."""


@dataclass(frozen=True, eq=False)
class TaskRun:
    """One run, real or synthetic.

    Args:
        subject: Whose run it is. A synthetic subject may have several, too.
        task: Name of the task; conditions are named ``task/trial_type``.
        data: (X, Y, Z, T) in any unit, or what ``np.asarray`` reads as such when it is needed, such
            as ``nibabel.load(path).dataobj``.
        events: ``onset`` and ``duration`` in seconds and ``trial_type``.
        tr: Seconds between frames.
        repeat: Tells runs of one subject and task apart, such as ``LR`` and ``RL``. Equal labels
            of two subjects should mean equal circumstances.
    """

    subject: str
    task: str
    data: Any
    events: pd.DataFrame
    tr: float
    repeat: str = ""

    def __str__(self) -> str:
        parts = (f"sub-{self.subject}", f"task-{self.task}" if self.task else "", self.repeat)
        return " ".join(part for part in parts if part)

    def condition(self, trial_type: str) -> str:
        """The name of a condition of this run among those of all tasks."""
        return f"{self.task}/{trial_type}" if self.task else trial_type

    def series(self, mask: np.ndarray) -> np.ndarray:
        """The data in a mask (X, Y, Z), as (T, V) float32; what can't be used raises."""
        data = np.asarray(self.data)
        if data.ndim != 4 or data.shape[:3] != mask.shape:
            raise InputError(
                f"{self} has the shape {data.shape}; needed is {(*mask.shape, 'T')}, the grid of "
                "the mask: bring all runs to one grid with `neuromix prepare`"
            )
        inside = data[mask].T.astype(np.float32)
        try:
            check_frames(inside)
            check_events(self.events, len(inside), self.tr)
        except InputError as error:
            raise InputError(f"{self}: {error}") from None
        broken = int((~np.isfinite(inside)).sum())
        if broken:
            raise InputError(
                f"{self}: {broken} of {inside.size} values in the brain are NaN or infinite; set "
                "voxels outside the field of view to 0, or make the run anew"
            )
        return inside


def read_runs(cohort: Cohort) -> list[TaskRun]:
    """The task runs of a cohort with ``bold``, with events; images are read when they are used.

    Events lie beside each run, by BIDS's inheritance. Runs of tasks that are named rest have none,
    and are left out.
    """
    import nibabel as nib

    if "bold" not in cohort.images:
        raise InputError(
            f"{cohort!r} has no bold; make it with `neuromix prepare DATA OUT --what bold`"
        )
    runs = []
    for row in cohort.table.to_dict("records"):
        path = Path(row["bold_path"])
        if not row["bold_path"] or row["task"].startswith("rest"):
            continue
        image = nib.load(path)
        try:
            tr = bids.repetition_time(image.header, bids.metadata(path))
            place = next(bids.files_about(path, "events.tsv"), None)
            if place is None:
                raise InputError(
                    "there is no events.tsv for it; put one beside it, or prepare the data again "
                    "with --raw naming the dataset that has them"
                )
            events = read_events(place)
            check_events(events, image.shape[3], tr)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from None
        repeat = " ".join(row[name] for name in ("session_id", "dir", "run", "chunk") if row[name])
        runs.append(TaskRun(row["subject_id"], row["task"], image.dataobj, events, tr, repeat))
    if not runs:
        raise InputError(f"{cohort!r} has no run of a task; rest has no events to judge by")
    return runs


def signal_mask(runs: Sequence[TaskRun]) -> np.ndarray:
    """Where at least four fifths of the runs have signal: a mask (X, Y, Z).

    A run has signal where its first frame reaches a tenth of its bright voxels' median.
    """
    counts: Any = 0
    for run in runs:
        frame = np.nan_to_num(np.asarray(run.data[..., 0], dtype=np.float32))
        if np.shape(counts) not in ((), frame.shape):
            raise InputError(
                f"{run} is on a grid of {frame.shape}, others are on {counts.shape}; bring all "
                "runs to one grid with `neuromix prepare`"
            )
        bright = frame[frame > 0]
        counts = counts + (frame > DARK * (np.median(bright) if bright.size else np.inf))
    mask = np.asarray(counts >= COVERED * len(runs))
    if not mask.any():
        raise InputError(
            f"no voxel has signal in four fifths of the {len(runs)} runs; are they in one space?"
        )
    return mask


def grid_regions(mask: np.ndarray, affine: np.ndarray, side: float = 24.0) -> np.ndarray:
    """The brain cut into cubes of ``side`` mm: the region of each voxel of a mask, or -1, (V,).

    Cubes that are filled to less than a quarter of the fullest are left out.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.maximum(1, np.round(side / spacing)).astype(int)
    cube = np.argwhere(mask) // steps
    _, region, counts = np.unique(cube, axis=0, return_inverse=True, return_counts=True)
    kept = counts >= counts.max() / 4
    names = np.where(kept, np.cumsum(kept) - 1, -1)
    return np.asarray(names[region.ravel()])


def subjects_of(runs: Iterable[TaskRun]) -> list[str]:
    """Every subject once, in the order of first runs."""
    return list(dict.fromkeys(run.subject for run in runs))
