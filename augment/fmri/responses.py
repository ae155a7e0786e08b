"""Responses: what follows the blocks of a condition in a run, a short 4D image for each.

Decoding asks which condition, or which person, was scanned, and looks at responses rather than at
runs. The response of a run to one of its conditions has frames at fixed times after the onsets o,
each the mean over its step, read between the run's frames, and over the blocks:

    r_k(x) = mean over o and k step < t < (k + 1) step of y(x, o + t),        k = 0 .. frames - 1

in per cent of each voxel's mean over the run, where activity shows (``percent``), or as a share of
the run's mean brain signal, where anatomy shows too (``signal``). A block that begins so late that
its response would pass the end of the run is left out.

:func:`responses` makes them of real runs. :class:`ResponseSampler` makes them of the runs of a
sampler, so that a bank of responses is filled, opened and drawn from as any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neuromix.augment.bank.filling import derive
from neuromix.augment.data import origin
from neuromix.augment.data.cohort import COLUMNS
from neuromix.augment.diffusion.pipeline import check_requests, recipe
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import WindowShape
from neuromix.augment.fmri.runs import Runs, brain_of
from neuromix.augment.prepare.bold import EVENT_COLUMNS
from neuromix.augment.replacement import with_marks

if TYPE_CHECKING:
    import pandas as pd
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort
    from neuromix.augment.source import Sampler

PARTS = 2
"""Times that are read within a repetition time."""
ATTEMPTS = 8
"""Runs that are made until one has a block of the condition."""


@dataclass(frozen=True)
class Window(WindowShape):
    """What is looked at of a response."""

    def of(
        self, run: np.ndarray, events: pd.DataFrame, tr: float
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Each trial type of a run (T, X, Y, Z) that has a whole response, and the response."""
        mean = run.mean(axis=0)
        if mean.max() <= 0:
            raise InputError("a run has no signal; drop it")
        brain = brain_of(mean)
        flat = run[:, brain]
        parts = max(1, round(PARTS * self.step / tr))
        times = (np.arange(self.frames * parts) + 0.5) * self.step / parts
        for name, rows in events.groupby("trial_type"):
            # Frame i was taken at i * tr.
            places = (rows["onset"].to_numpy(float)[:, None] + times) / tr
            places = places[(places[:, 0] >= 0) & (places[:, -1] <= len(run) - 1)]
            if not len(places):
                continue
            before = np.minimum(places.astype(int), max(len(run) - 2, 0))
            after, share = np.minimum(before + 1, len(run) - 1), places - before
            weights = np.zeros((self.frames, len(run)))
            rows_of = np.broadcast_to(np.arange(times.size) // parts, places.shape)
            np.add.at(weights, (rows_of, before), 1 - share)
            np.add.at(weights, (rows_of, after), share)
            values = (weights / (len(places) * parts)).astype(np.float32) @ flat
            if self.unit == "percent":
                values = 100 * (values / mean[brain] - 1)
            else:
                values /= mean[brain].mean()
            response = np.zeros((self.frames, *mean.shape), np.float32)
            response[:, brain] = values
            yield str(name), self._shrunk(response)

    def affine(self, affine: np.ndarray) -> np.ndarray:
        """Of a response of a run with this one."""
        cube = np.diag([self.shrink, self.shrink, self.shrink, 1.0])
        cube[:3, 3] = (self.shrink - 1) / 2
        moved: np.ndarray = affine @ cube
        return moved

    def _shrunk(self, response: np.ndarray) -> np.ndarray:
        """Means of cubes; outside of the grid is nothing."""
        side = self.shrink
        if side == 1:
            return response
        whole = np.pad(response, [(0, 0), *((0, -length % side) for length in response.shape[1:])])
        x, y, z = (length // side for length in whole.shape[1:])
        return whole.reshape(len(whole), x, side, y, side, z, side).mean(axis=(2, 4, 6))


def responses(cohort: Cohort, window: Window, *, progress: bool = False) -> list[tio.Subject]:
    """The responses of real runs, a subject for each run and condition.

    Subjects have the keys of the cohort's and ``condition``, such as ``motor/lefthand``; their
    ``bold`` has the response's frames.
    """
    from rich.progress import track

    runs = Runs.of(cohort, 1)
    subjects = []
    for run in track(runs.runs, "Responses", disable=not progress):
        keys = {column: run.labels[column] for column in COLUMNS}
        for name, response in window.of(run.read(), run.events, runs.tr):
            condition = f"{run.task}/{name}"
            subjects.append(_subject(response, runs.grid.affine, window, keys, condition))
    if not subjects:
        raise InputError(
            f"none of {len(runs.runs)} runs has a block with {window.frames * window.step:g} s of "
            "frames after its onset; look at fewer frames, or at shorter steps"
        )
    return subjects


class ResponseSampler:
    """Makes responses: a run of ``sampler`` for each, averaged over its blocks of the condition.

    ``SampleBank.fill`` takes it as a sampler.

    Args:
        sampler: Makes runs, such as :class:`~neuromix.augment.fmri.sampler.TaskFMRISampler`;
            it tells their events.
        window: What is looked at.
    """

    def __init__(self, sampler: Sampler, window: Window) -> None:
        self.sampler, self.window = sampler, window

    @property
    def version(self) -> int:
        """Of the sampler."""
        return self.sampler.version

    @property
    def record(self) -> dict[str, Any]:
        """Who had a part in its making."""
        return self.sampler.record

    def fingerprint(self) -> str:
        """A digest of the sampler and the window."""
        content = json.dumps([self.sampler.fingerprint(), asdict(self.window)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:24]

    def __call__(
        self,
        labels: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        steps: int = 20,
        guidance: float = 1.0,
    ) -> list[tio.Subject]:
        """A subject for each of the labels, among which ``condition`` must be."""
        check_requests(labels, seeds)
        return [
            self._one(dict(row), seed, steps, guidance)
            for row, seed in zip(labels, seeds, strict=True)
        ]

    def _one(self, labels: dict[str, Any], seed: int, steps: int, guidance: float) -> tio.Subject:
        import pandas as pd

        condition = str(labels.get("condition", ""))
        task, _, name = condition.rpartition("/")
        if not task:
            raise InputError(
                f"condition {condition!r} came; name one as task/trial_type, such as motor/lefthand"
            )
        asked = {key: value for key, value in labels.items() if key != "condition"}
        for attempt in range(ATTEMPTS):
            number = derive(seed, 0, attempt) if attempt else seed
            run = self.sampler([asked | {"task": task}], [number], steps, guidance)[0]
            bold = run["bold"]
            events = pd.DataFrame(json.loads(bold["events"]), columns=list(EVENT_COLUMNS))
            by_type = dict(self.window.of(bold.numpy(), events, float(bold["RepetitionTime"])))
            if name in by_type:
                made_by = recipe(labels, seed, steps, guidance)
                keys = {column: run[column] for column in COLUMNS}
                marks = {
                    "synthetic": True,
                    "synthetic_id": made_by,
                    "origin": origin.of_maker(self.sampler),
                }
                return _subject(by_type[name], bold.affine, self.window, keys | marks, condition)
        raise InputError(
            f"none of {ATTEMPTS} runs of {task} has a whole response to {name!r}; the last one has "
            f"{', '.join(sorted(by_type)) or 'none to anything'}"
        )


def _subject(
    response: np.ndarray,
    affine: np.ndarray,
    window: Window,
    keys: Mapping[str, Any],
    condition: str,
) -> tio.Subject:
    """A response of a run with that affine."""
    import torchio as tio

    trial = [0.0, window.frames * window.step, condition.rpartition("/")[2]]
    image = tio.ScalarImage(
        tensor=torch.from_numpy(response),
        affine=window.affine(affine),
        RepetitionTime=window.step,
        events=json.dumps([trial]),
    )
    return with_marks(tio.Subject(bold=image, **keys, condition=condition))
