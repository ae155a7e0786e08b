"""Does synthetic task fMRI hold what neuroscience looks for, as far as real runs do?

:class:`NeuroJudge` reads held-out real runs once, and :meth:`NeuroJudge.table` puts the runs of any
generator beside them. Which fault shows where:

======================  ========================================================================
fault                   metrics that see it
======================  ========================================================================
wrong or no response    ``group_map``, ``subject_map``, ``rsa``, ``*_top1``, ``*_margin``
wrong timing            the same, and ``roi_course``
wrong strength          ``response_size``
one mean response       ``subject_share`` near 0, ``spread``
copies of training      ``nearest_course``, ``nearest_anatomy`` far above real
white noise             ``autocorrelation_*``, ``spectrum``, ``connectivity``
wrong noise level       ``tsnr_level``, ``tsnr_map``, ``spread``
long runs that fade     ``steady_tsnr``, ``steady_autocorrelation``
======================  ========================================================================

Definitions are in :mod:`~neuromix.augment.metrics.response_maps`,
:mod:`~neuromix.augment.metrics.glm` and :mod:`~neuromix.augment.metrics.time_series`;
:data:`METRICS` says what is done with them.

**Ceiling.** Every metric compares a set of subjects with a set of real ones. The held-out subjects
are split at random into halves A and B, and as many synthetic subjects are drawn; ``value`` is the
mean of metric(synthetic, A) over the splits and ``real`` that of metric(B, A): sets of one size, so
that a perfect generator reaches it. ``share`` says how near:

    similarity   value / real                          maps, RSA, specificity, courses
    distance     (1 - value) / (1 - real)              spectrum, autocorrelation (both at most 1)
    level        1 - |value - real| / max(|.|, |.|)    sizes that should be as in nature

**Interval.** 95 % of the values over the splits. Half of the subjects drawn without replacement
vary as much as all of them do from sample to sample (the delete-half bootstrap: variance of a mean
of n/2 of n is s²/n), and no subject is compared with itself twice, as in drawing with replacement.
It tells nothing of another training of a generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.metrics import response_maps as maps
from neuromix.augment.metrics import time_series
from neuromix.augment.metrics.features import limits
from neuromix.augment.metrics.summaries import RunReader, Subjects
from neuromix.augment.metrics.task_runs import TaskRun, subjects_of

METRICS = {
    "group_map": "similarity",
    "subject_map": "similarity",
    "rsa": "similarity",
    "group_top1": "similarity",
    "group_margin": "similarity",
    "subject_top1": "similarity",
    "subject_margin": "similarity",
    "roi_course": "similarity",
    "response_size": "level",
    "spread": "level",
    "subject_share": "level",
    "tsnr_map": "similarity",
    "tsnr_level": "level",
    "autocorrelation_lag1": "level",
    "autocorrelation": "distance",
    "spectrum": "distance",
    "connectivity": "similarity",
    "connectivity_level": "level",
    "steady_tsnr": "similarity",
    "steady_autocorrelation": "similarity",
    "nearest_course": "level",
    "nearest_anatomy": "level",
}
"""Name to kind (see the module). Means are over conditions and, for ``subject_*``, subjects.

- ``group_map``: Pearson over the brain of the mean map of all subjects with that of real ones;
  ``subject_map``: of each subject's map with the mean map of real ones. ``rsa``: of the mean maps.
- ``*_top1``, ``*_margin``: specificity of the mean map or of each subject's.
- ``roi_course``: of each run, in the most active voxels of *other* held-out subjects' mean map.
- ``response_size``, ``spread``, ``subject_share``: in the most active voxels of the real mean map.
- ``tsnr_map``: Pearson over the brain of mean maps of tSNR; ``tsnr_level``: its median.
- ``autocorrelation_lag1``: mean; ``autocorrelation``: mean absolute difference over lags;
  ``spectrum``: total variation.
- ``connectivity``: Pearson over pairs of regions of mean Fisher's z; ``connectivity_level``: their
  root mean square.
- ``steady_tsnr``: lowest over highest quarter of the run; ``steady_autocorrelation``: 1 - (highest
  - lowest quarter).
- ``nearest_course``: highest correlation of a run's courses in all regions with a training run of
  the task; ``nearest_anatomy``: the same of mean images, less the training subjects' mean.

What can't be measured is left out: ``nearest_*`` without training runs, ``subject_share`` where
nobody has two runs of a condition, ``rsa`` below three conditions, ``steady_*`` in runs of fewer
than 32 frames.
"""

FEWEST = 4
"""Subjects of which halves can be compared."""


class NeuroJudge:
    """Held-out real runs that generators are judged by.

    Args:
        real: Runs of held-out subjects, none of them in the training of any generator. They are
            read twice, so that ``data`` may be a file's.
        affine: Voxel to world in mm, (4, 4), of all runs.
        splits: Into halves.
        seed: Of the splits.
        **reading: As :class:`~neuromix.augment.metrics.summaries.RunReader` takes it.
    """

    def __init__(
        self,
        real: Sequence[TaskRun],
        affine: np.ndarray,
        *,
        splits: int = 100,
        seed: int = 0,
        **reading: Any,
    ) -> None:
        count = len(subjects_of(real))
        if count < FEWEST:
            raise InputError(
                f"{count} held-out subjects can't be split into halves; give {FEWEST} or more, or "
                "take each run as a subject"
            )
        self.reader = RunReader(real, affine, **reading)
        self.affine, self.splits, self.seed = affine, splits, seed
        self.mask, self.conditions = self.reader.mask, self.reader.conditions
        self.real = self.reader.heldout(real)

    def read(self, synthetic: Iterable[TaskRun]) -> Subjects:
        """What is compared of synthetic runs, which are read once, one at a time."""
        return self.reader.read(synthetic, maps.active_voxels(self.real.group()))

    def table(self, synthetic: Iterable[TaskRun] | Subjects) -> dict[str, Any]:
        """Every metric of a generator, beside the split-half ceiling.

        Synthetic runs should be asked for what the held-out ones are: the same tasks, events and
        lengths, so that no difference is one of the request.

        Args:
            synthetic: Runs, or what :meth:`read` has made of them.

        Returns:
            Plain content for a JSON file: ``sizes``, ``conditions``, ``metrics`` and ``curves``. A
            metric is a dict of ``kind``, ``value`` with its 95 % ``interval``, ``real`` with
            ``real_interval``, ``share`` with ``share_interval`` (None where the ceiling's interval
            reaches 0, so that there is nothing to have a share of), and ``full``: all synthetic
            against all real subjects, which is what others report, but has no ceiling.
            ``group_map`` has ``full_by_condition``, too. Curves have a ``real`` and a ``synthetic``
            one each: ``rdm``, ``autocorrelation``, ``spectrum`` (with ``frequency`` in cycles per
            frame) and ``quarters`` (tSNR, lag-one correlation).
        """
        made = synthetic if isinstance(synthetic, Subjects) else self.read(synthetic)
        if len(made) < FEWEST:
            raise InputError(
                f"{len(made)} synthetic subjects can't be halved; give {FEWEST} or more, each with "
                "a name of its own"
            )
        size = min(len(self.real), len(made)) // 2
        values, reals = [], []
        rng = np.random.default_rng(self.seed)
        for _ in range(self.splits):
            order = rng.permutation(len(self.real))
            half, other = self.real.take(order[:size]), self.real.take(order[size : 2 * size])
            some = made.take(rng.permutation(len(made))[:size])
            values.append(compare_subjects(some, half))
            reals.append(compare_subjects(other, half))
        full = compare_subjects(made, self.real)
        rows = {
            name: _row(
                kind,
                np.array([draw[name] for draw in values]),
                np.array([draw[name] for draw in reals]),
                full[name],
            )
            for name, kind in METRICS.items()
        }
        metrics = {name: row for name, row in rows.items() if row is not None}
        by_condition = maps.own(maps.correlations(made.group(), self.real.group())).tolist()
        metrics["group_map"]["full_by_condition"] = dict(
            zip(self.conditions, by_condition, strict=True)
        )
        return {
            "sizes": {"real": len(self.real), "synthetic": len(made), "split": size},
            "conditions": self.conditions,
            "metrics": metrics,
            "curves": {
                "frequency": self.reader.frequencies(),
                "synthetic": _curves(made),
                "real": _curves(self.real),
            },
        }


def compare_subjects(some: Subjects, reference: Subjects) -> dict[str, float]:
    """All :data:`METRICS` of a set of subjects against real ones; NaN where there is no telling."""
    goal, group = reference.group(), some.group()
    active = maps.active_voxels(goal)
    by_group = maps.correlations(group, goal)
    by_subject = maps.correlations(some.mean_maps, goal)
    noise, real_noise = (each.tsnr.mean(axis=0) for each in (some, reference))
    memory, real_memory = (each.autocorrelation.mean(axis=0) for each in (some, reference))
    links, real_links = (each.connectivity.mean(axis=0) for each in (some, reference))
    (tsnr, lag1) = some.quarters.mean(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what nobody has is NaN
        nearest = some.nearest.mean(axis=0)
        (group_top, group_margin), (top, margin) = (
            map(np.nanmean, maps.specificity(each)) for each in (by_group, by_subject)
        )
        values = {
            "group_map": np.nanmean(maps.own(by_group)),
            "subject_map": np.nanmean(maps.own(by_subject)),
            "rsa": maps.rsa(group, goal),
            "group_top1": group_top,
            "group_margin": group_margin,
            "subject_top1": top,
            "subject_margin": margin,
            "roi_course": np.nanmean(some.roi_course),
            "response_size": maps.response_size(group, active),
            "spread": maps.spread(some.mean_maps, active),
            "subject_share": maps.subject_share(some.maps, active),
            "tsnr_map": maps.correlations(noise[None], real_noise[None])[0, 0],
            "tsnr_level": np.median(noise),
            "autocorrelation_lag1": memory[0],
            "autocorrelation": np.abs(memory - real_memory).mean(),
            "spectrum": time_series.spectrum_distance(
                some.spectrum.mean(axis=0), reference.spectrum.mean(axis=0)
            ),
            "connectivity": maps.correlations(links[None], real_links[None])[0, 0],
            "connectivity_level": np.sqrt((links**2).mean()),
            "steady_tsnr": tsnr.min() / tsnr.max(),
            "steady_autocorrelation": 1 - np.ptp(lag1),
            "nearest_course": nearest[0],
            "nearest_anatomy": nearest[1],
        }
    return {name: float(value) for name, value in values.items()}


def failed(table: Mapping[str, Any], least: float = 0.9) -> list[str]:
    """The metrics in which a generator is worse than real: the interval lies below ``least``."""
    return [
        name
        for name, row in table["metrics"].items()
        if row["share"] is not None and row["share_interval"][1] < least
    ]


def share(kind: str, value: Any, real: Any) -> Any:
    """How near a value is to what real subjects have, 1 for as good; see the module.

    NaN for a similarity that real subjects do not have.
    """
    if kind == "similarity":
        return value / np.where(real > 0, real, np.nan)
    if kind == "distance":
        return (1 - value) / np.maximum(1 - real, 1e-12)
    larger = np.maximum(np.maximum(np.abs(value), np.abs(real)), 1e-12)
    return np.maximum(1 - np.abs(value - real) / larger, 0)


def _row(kind: str, values: np.ndarray, reals: np.ndarray, full: float) -> dict[str, Any] | None:
    if not (np.isfinite(values).all() and np.isfinite(reals).all()):
        return None
    value, real = float(values.mean()), float(reals.mean())
    ceiling = limits(reals, real)
    row: dict[str, Any] = {
        "kind": kind,
        "value": value,
        "interval": limits(values, value),
        "real": real,
        "real_interval": ceiling,
        "share": None,
        "share_interval": None,
        "full": full,
    }
    if kind == "distance" or ceiling[0] > 0:
        row["share"] = float(share(kind, value, real))
        row["share_interval"] = limits(share(kind, values, reals), row["share"])
    return row


def _curves(subjects: Subjects) -> dict[str, Any]:
    return {
        "rdm": maps.rdm(subjects.group()).tolist(),
        "autocorrelation": subjects.autocorrelation.mean(axis=0).tolist(),
        "spectrum": subjects.spectrum.mean(axis=0).tolist(),
        "quarters": subjects.quarters.mean(axis=0).tolist(),
    }
