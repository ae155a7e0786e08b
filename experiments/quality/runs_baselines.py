"""Trivial generators of task fMRI that a sampler has to beat, each blind to something.

All have one shape,

    generator.fit(runs).draw(requests, seeds) -> an iterator of runs, one at a time,

where a request says whose run is wanted, of which task, with which events and how long. Run k
follows from request k and seed k alone. Those that reuse a training run take all runs of one asked
subject from one training subject, so that subjects stay alike.

=====================  =============================================================================
generator              what it lacks
=====================  =============================================================================
``MeanResponse``       subjects, and noise that is correlated in time and space
``TimeShuffled``       any order in time: response, memory, rhythm
``RunCopies``          novelty, and the timing that was asked for
``PhaseRandomised``    the response alone: memory, rhythm and connectivity are a real run's
=====================  =============================================================================
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.glm import design_matrix, first_level
from neuromix.augment.metrics.task_runs import TaskRun, signal_mask

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Request:
    """What a run shall be; names as in :class:`~neuromix.augment.metrics.task_runs.TaskRun`."""

    subject: str
    task: str
    events: pd.DataFrame
    tr: float
    frames: int
    repeat: str = ""

    @classmethod
    def like(cls, run: TaskRun) -> Request:
        """All that may be known of a held-out run: everything but its data."""
        frames = int(np.shape(run.data)[-1])
        return cls(run.subject, run.task, run.events, run.tr, frames, run.repeat)

    def answer(self, data: np.ndarray) -> TaskRun:
        """The run that was asked for, with data (X, Y, Z, T)."""
        return TaskRun(self.subject, self.task, data, self.events, self.tr, self.repeat)


class Generator(Protocol):
    """What every baseline does."""

    def fit(self, runs: Sequence[TaskRun]) -> Self:
        """Learn from training runs on one grid."""
        ...

    def draw(self, requests: Iterable[Request], seeds: Iterable[int]) -> Iterator[TaskRun]:
        """Make a run for each request."""
        ...


class MeanResponse:
    """The mean image, the mean response to the events asked for, and white noise.

        y = m (1 + (sum_c b_c (events_c * HRF) + s n) / 100),        n standard normal

    with m the mean image, b_c the mean effect of a condition in per cent, and s at each voxel as
    strong as what the GLM leaves of a training run.
    """

    def fit(self, runs: Sequence[TaskRun]) -> MeanResponse:
        """See :class:`Generator`."""
        self.mask_ = signal_mask(runs)
        image, variance = np.zeros((2, int(self.mask_.sum())))
        effects: dict[str, list[np.ndarray]] = {}
        for run in runs:
            fit = first_level(run.series(self.mask_), run.events, run.tr)
            image += fit.mean / len(runs)
            variance += fit.residuals.var(axis=0) / len(runs)
            for name, effect in fit.effects.items():
                effects.setdefault(run.condition(name), []).append(effect)
        self.image_, self.deviation_ = image.astype(np.float32), np.sqrt(variance, dtype=np.float32)
        self.effects_ = {name: np.mean(each, axis=0) for name, each in effects.items()}
        return self

    def draw(self, requests: Iterable[Request], seeds: Iterable[int]) -> Iterator[TaskRun]:
        """See :class:`Generator`."""
        for request, seed in zip(requests, seeds, strict=True):
            noise = np.random.default_rng(seed).standard_normal(
                (request.frames, len(self.image_)), dtype=np.float32
            )
            percent = noise * self.deviation_
            design = design_matrix(request.events, request.frames, request.tr)
            for name in set(request.events["trial_type"]):
                condition = f"{request.task}/{name}" if request.task else name
                if condition not in self.effects_:
                    raise InputError(
                        f"condition {condition!r} is in no training run; allowed are "
                        f"{', '.join(sorted(self.effects_))}"
                    )
                course = design[name].to_numpy(dtype=np.float32)
                percent += course[:, None] * self.effects_[condition]
            data = np.zeros((*self.mask_.shape, request.frames), dtype=np.float32)
            data[self.mask_] = (self.image_ * (1 + percent / 100)).T
            yield request.answer(data)


class RunCopies:
    """A training run of the same task and repeat as it is, whatever events were asked for."""

    def fit(self, runs: Sequence[TaskRun]) -> Self:
        """See :class:`Generator`."""
        self.runs_ = list(runs)
        return self

    def draw(self, requests: Iterable[Request], seeds: Iterable[int]) -> Iterator[TaskRun]:
        """See :class:`Generator`."""
        for request, seed in zip(requests, seeds, strict=True):
            rng = np.random.default_rng(seed)
            data = np.asarray(self._donor(request, rng).data, dtype=np.float32)
            # A run that is longer than the donor's goes through it again.
            data = data[..., np.arange(request.frames) % data.shape[3]]
            yield request.answer(self._changed(data, rng))

    def _donor(self, request: Request, rng: np.random.Generator) -> TaskRun:
        same = [run for run in self.runs_ if run.task == request.task]
        if not same:
            raise InputError(
                f"task {request.task!r} is in no training run; allowed are "
                f"{', '.join(sorted({run.task for run in self.runs_}))}"
            )
        names = sorted({run.subject for run in same})
        name = names[zlib.crc32(request.subject.encode()) % len(names)]
        own = [run for run in same if run.subject == name]
        alike = [run for run in own if run.repeat == request.repeat] or own
        return alike[int(rng.integers(len(alike)))]

    def _changed(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return data


class TimeShuffled(RunCopies):
    """The frames of a training run in random order."""

    def _changed(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return data[..., rng.permutation(data.shape[3])]


class PhaseRandomised(RunCopies):
    """A training run with random phases, the same in all voxels (Prichard and Theiler, 1994).

    Power by frequency and the correlation of all pairs of voxels are kept.
    """

    def _changed(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        frames = data.shape[3]
        lit = data.any(axis=3)
        waves = np.fft.rfft(data[lit], axis=1)
        turn = np.exp(2j * np.pi * rng.random(waves.shape[1]))
        turn[0] = 1  # the mean stays
        if frames % 2 == 0:
            turn[-1] = 1  # so does the fastest wave, which has no phase
        changed = np.zeros_like(data)
        changed[lit] = np.fft.irfft(waves * turn, n=frames, axis=1)
        return changed


GENERATORS: dict[str, Callable[[], Generator]] = {
    "mean response + noise": MeanResponse,
    "time-shuffled run": TimeShuffled,
    "training copies": RunCopies,
    "phase-randomised run": PhaseRandomised,
}
