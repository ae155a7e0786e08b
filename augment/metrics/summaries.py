"""From runs of task fMRI to what the metrics compare: one pass over the data, then small arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.metrics import glm, time_series
from neuromix.augment.metrics import response_maps as maps
from neuromix.augment.metrics.task_runs import TaskRun, grid_regions, signal_mask, subjects_of

if TYPE_CHECKING:
    import pandas as pd

SEGMENT = 32
"""Frames of the spectrum's segments, and the least that quarters are taken of."""


SMOOTHING = 8.0
"""Width of the Gaussian in mm that effect maps are smoothed by, as is customary."""


@dataclass(frozen=True, eq=False)
class Subjects:
    """What is kept of the runs of S subjects; an array each, subjects along the first axis."""

    maps: np.ndarray
    """Effects by repeat and condition in per cent, (S, L, C, V), NaN where there is no run."""
    mean_maps: np.ndarray
    """Their means over repeats, (S, C, V)."""
    roi_course: np.ndarray
    """(S, C)."""
    tsnr: np.ndarray
    """(S, V)."""
    autocorrelation: np.ndarray
    """(S, lags)."""
    spectrum: np.ndarray
    """(S, F)."""
    connectivity: np.ndarray
    """(S, E)."""
    quarters: np.ndarray
    """Median tSNR and lag-one correlation, (S, 2, 4)."""
    nearest: np.ndarray
    """Nearest course and anatomy of training runs, (S, 2)."""

    def __len__(self) -> int:
        return len(self.maps)

    def take(self, index: np.ndarray) -> Subjects:
        """Some of the subjects."""
        return Subjects(*(getattr(self, field.name)[index] for field in fields(self)))

    def group(self) -> np.ndarray:
        """Mean effects over subjects, (C, V)."""
        return maps.group_maps(self.mean_maps)


class Fingerprint:
    """What a copy of a run shares with it: its courses and its mean image."""

    def __init__(self, run: TaskRun, fit: glm.RunFit, regions: np.ndarray) -> None:
        self.task = run.task
        self.courses = time_series.region_courses(fit.residuals, regions)
        """Standardised, (T, R)."""
        self.image = fit.mean / np.median(fit.mean[fit.lit])
        """Relative brightness, (V,)."""


class RunReader:
    """Reads runs in one way.

    Args:
        real: Held-out real runs.
        affine: Voxel to world in mm, (4, 4), of all runs.
        mask: Of the brain, (X, Y, Z); by default
            :func:`~neuromix.augment.metrics.task_runs.signal_mask`.
        regions: Of the mask's voxels, for connectivity, (V,); by default
            :func:`~neuromix.augment.metrics.task_runs.grid_regions`.
        train: Runs that the generators were trained on; without them copies can't be told.
        conditions: ``task/trial_type`` to judge by; by default all that the real runs have.
        noise_model: ``ols`` or ``ar1``, see :func:`~neuromix.augment.metrics.glm.first_level`.
        smoothing: Full width at half maximum of the Gaussian that effect maps are smoothed by, in
            mm. Single voxels of single runs are mostly noise: without it the ceiling is low.
        lags: Of the autocorrelation.
    """

    def __init__(
        self,
        real: Sequence[TaskRun],
        affine: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        regions: np.ndarray | None = None,
        train: Iterable[TaskRun] = (),
        conditions: Sequence[str] | None = None,
        noise_model: str = "ols",
        smoothing: float = SMOOTHING,
        lags: int = 5,
    ) -> None:
        if smoothing < 0:
            raise InputError(f"a smoothing of {smoothing:g} mm can't be; give 0 or more")
        self.affine, self.smoothing = affine, smoothing
        self.noise_model, self.lags = noise_model, lags
        present = {run.condition(name) for run in real for name in glm.trial_types(run.events)}
        unknown = sorted(set(conditions or ()) - present)
        if unknown:
            raise InputError(
                f"condition {unknown[0]!r} is in no real run; allowed are "
                f"{', '.join(sorted(present))}"
            )
        self.conditions = list(conditions or sorted(present))
        if len(self.conditions) < 2:
            raise InputError(
                f"{len(self.conditions)} conditions are to be judged by "
                f"({', '.join(self.conditions)}); two or more are needed to tell whether maps are "
                "specific"
            )
        self.mask = signal_mask(real) if mask is None else mask
        self.regions = grid_regions(self.mask, affine) if regions is None else regions
        self.segment = min(SEGMENT, *(int(np.shape(run.data)[-1]) for run in real))
        self._training = [Fingerprint(run, self._fit(run), self.regions) for run in train]
        if self._training:
            images = np.stack([each.image for each in self._training])
            self._usual = images.mean(axis=0)
            self._images = maps.standard(images - self._usual)

    def frequencies(self) -> list[float]:
        """Of the spectrum, in cycles per frame."""
        return [k / self.segment for k in range(1, self.segment // 2 + 1)]

    def heldout(self, runs: Sequence[TaskRun]) -> Subjects:
        """Read real runs, with the course of each subject in regions that the others decide.

        Regions of the subject's own maps would find its noise as well as its response.
        """
        subjects, names = self.read(runs), subjects_of(runs)
        rois = {}
        for k, name in enumerate(names):
            others = subjects.take(np.flatnonzero(np.arange(len(names)) != k))
            rois[name] = maps.active_voxels(others.group())
        sums, counts = np.zeros((2, len(names), len(self.conditions)))
        for run in runs:
            who = names.index(run.subject)
            series = run.series(self.mask)
            design = glm.design_matrix(run.events, len(series), run.tr)
            percent = glm.percent_signal(series)[0]
            for code, value in self._courses(run, percent, design, rois[run.subject]):
                sums[who, code] += value
                counts[who, code] += 1
        subjects.roi_course[:] = np.where(counts, sums / np.maximum(counts, 1), np.nan)
        return subjects

    def read(self, runs: Iterable[TaskRun], rois: np.ndarray | None = None) -> Subjects:
        """Fit each run and keep what the metrics need; each is read once, and then let go.

        ``rois`` (C, V) are the regions whose courses are looked at, by condition; none by default.
        """
        kept: dict[str, dict[str, list[Any]]] = {}
        effects: dict[tuple[str, str, int], np.ndarray] = {}
        for run in runs:
            fit = self._fit(run)
            for code, name in self._codes(run):
                key = (run.subject, run.repeat, code)
                if key in effects:
                    raise InputError(
                        f"{run} comes twice with condition {name!r}; tell runs apart by repeat"
                    )
                effect = fit.effects[name]
                effects[key] = maps.smooth(effect, self.mask, self.affine, self.smoothing)
            own = kept.setdefault(run.subject, {})
            for name, value in self._summary(run, fit, rois).items():
                own.setdefault(name, []).append(value)
        return self._stack(kept, effects)

    def _fit(self, run: TaskRun) -> glm.RunFit:
        series = run.series(self.mask)
        try:
            return glm.first_level(
                series,
                run.events,
                run.tr,
                noise_model=self.noise_model,
            )
        except InputError as error:
            raise InputError(f"{run}: {error}") from None

    def _summary(
        self, run: TaskRun, fit: glm.RunFit, rois: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """What is averaged over the runs of a subject."""
        course = np.full(len(self.conditions), np.nan)
        if rois is not None:
            for code, value in self._courses(run, fit.percent, fit.design, rois):
                course[code] = value
        residuals = fit.residuals[:, fit.lit]
        noise = np.zeros(len(fit.lit))
        noise[fit.lit] = time_series.tsnr(residuals)
        is_long = len(residuals) >= SEGMENT
        trace = Fingerprint(run, fit, self.regions)
        return {
            "roi_course": course,
            "tsnr": noise,
            "autocorrelation": time_series.autocorrelation(residuals, self.lags),
            "spectrum": time_series.power_shares(residuals, self.segment),
            "connectivity": time_series.connectivity(trace.courses),
            "quarters": time_series.by_quarter(residuals) if is_long else np.full((2, 4), np.nan),
            "nearest": self._nearest(trace),
        }

    def _codes(self, run: TaskRun) -> Iterator[tuple[int, str]]:
        """The conditions of a run that are judged: place among all, and name in the run."""
        present = [(run.condition(name), name) for name in glm.trial_types(run.events)]
        known = [(self.conditions.index(c), name) for c, name in present if c in self.conditions]
        if not known:
            raise InputError(
                f"{run} has none of the conditions that are judged: it has "
                f"{', '.join(c for c, _ in present) or 'none'}; allowed are "
                f"{', '.join(self.conditions)}"
            )
        yield from known

    def _courses(
        self, run: TaskRun, percent: np.ndarray, design: pd.DataFrame, rois: np.ndarray
    ) -> Iterator[tuple[int, float]]:
        for code, name in self._codes(run):
            yield code, glm.roi_course(percent[:, rois[code]].mean(axis=1), design, name)

    def _nearest(self, own: Fingerprint) -> np.ndarray:
        """Highest correlation with a training run of the same task: of courses, and of images."""
        if not self._training:
            return np.full(2, np.nan)
        courses = [
            float((other.courses * own.courses).mean())
            for other in self._training
            if other.task == own.task and other.courses.shape == own.courses.shape
        ]
        alike = self._images @ maps.standard(own.image - self._usual)
        return np.array([max(courses, default=np.nan), float(alike.max())])

    def _stack(
        self,
        kept: Mapping[str, Mapping[str, Sequence[Any]]],
        effects: Mapping[tuple[str, str, int], np.ndarray],
    ) -> Subjects:
        present = {code for *_, code in effects}
        absent = [name for code, name in enumerate(self.conditions) if code not in present]
        if absent:
            raise InputError(
                f"no run has the condition {absent[0]!r}; needed are {', '.join(self.conditions)}"
            )
        names, repeats = list(kept), sorted({repeat for _, repeat, _ in effects})
        shape = (len(names), len(repeats), len(self.conditions), int(self.mask.sum()))
        stacked = np.full(shape, np.nan, dtype=np.float32)
        for (name, repeat, code), effect in effects.items():
            stacked[names.index(name), repeats.index(repeat), code] = effect
        means = {
            each: np.stack([maps.group_maps(np.stack(own[each])) for own in kept.values()])
            for each in kept[names[0]]
        }
        return Subjects(stacked, maps.group_maps(np.moveaxis(stacked, 1, 0)), **means)
