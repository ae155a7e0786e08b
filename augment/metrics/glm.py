"""The first-level GLM of one run: what each condition does at each voxel, and what is left over.

    100 (y_v / mean(y_v) - 1) = X b_v + e_v,     X = [events * HRF | cosine drift | 1]

with the HRF of Glover and nilearn's design matrix and solver. The effect map of condition c is
b_vc in per cent of the voxel's mean, against the baseline that no event explains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.task_runs import DARK

if TYPE_CHECKING:
    import pandas as pd

HIGH_PASS = 0.01
"""Hz below which drift is removed, nilearn's default."""
NOISE_MODELS = ("ols", "ar1")


class RunFit(NamedTuple):
    """A GLM that was fitted to one run of T frames and V voxels."""

    design: pd.DataFrame
    """Columns by name: the run's trial types, drifts and a constant, (T, P)."""
    effects: dict[str, np.ndarray]
    """Trial type to its effect in per cent, (V,); 0 where the run has no signal."""
    percent: np.ndarray
    """What was fitted, (T, V), see :func:`percent_signal`."""
    residuals: np.ndarray
    """What the design does not explain, (T, V) in per cent."""
    mean: np.ndarray
    """Over time, in the unit of the data, (V,)."""
    lit: np.ndarray
    """Where the run has signal, (V,)."""


def design_matrix(events: pd.DataFrame, frames: int, tr: float) -> pd.DataFrame:
    """The predicted response to each trial type, cosine drifts and a constant, (frames, P)."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    return make_first_level_design_matrix(
        tr * np.arange(frames), events, hrf_model="glover", high_pass=HIGH_PASS
    )


def percent_signal(series: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Change of signal (T, V) in per cent of each voxel's mean over time; 0 where there is none.

    Also the means (V,), and where the run has signal (V,).
    """
    mean = series.mean(axis=0)
    lit = mean > DARK * np.median(mean)
    percent = np.zeros(series.shape, dtype=np.float32)
    np.divide(100 * (series - mean), mean, out=percent, where=lit)
    return percent, mean, lit


def first_level(
    series: np.ndarray,
    events: pd.DataFrame,
    tr: float,
    *,
    noise_model: str = "ols",
) -> RunFit:
    """Fit the GLM of one run (T, V).

    ``ols``, or ``ar1``, which whitens each voxel and takes longer; effects are unbiased either way.
    """
    from nilearn.glm.first_level import run_glm

    if noise_model not in NOISE_MODELS:
        raise InputError(f"noise model {noise_model!r} came; allowed are {', '.join(NOISE_MODELS)}")
    design = design_matrix(events, len(series), tr)
    if len(series) <= design.shape[1]:
        raise InputError(
            f"a run of {len(series)} frames is too short for a design of {design.shape[1]} "
            "columns; give a longer one"
        )
    percent, mean, lit = percent_signal(series)
    if noise_model == "ols":  # as nilearn does it, without the copies that its statistics need
        weights = np.linalg.pinv(design.to_numpy()).astype(np.float32) @ percent
    else:
        labels, results = run_glm(percent, design.to_numpy(), noise_model=noise_model)
        weights = np.empty((design.shape[1], series.shape[1]), dtype=np.float32)
        for label, result in results.items():
            weights[:, labels == label] = result.theta
    effects = {name: weights[list(design).index(name)] for name in trial_types(events)}
    residuals = percent - design.to_numpy(dtype=np.float32) @ weights
    return RunFit(design, effects, percent, residuals, mean, lit)


def roi_course(course: np.ndarray, design: pd.DataFrame, trial_type: str) -> float:
    """How well the mean of a region follows the response that the design predicts for a condition.

    The partial correlation of the course with the condition's regressor, given the regressors of
    all other conditions, drift and constant. 1 is a noiseless response of the predicted shape, 0
    none, -1 its opposite. ``course`` is the mean over the region of the signal in per cent, (T,).
    """
    if trial_type not in design.columns:
        raise InputError(
            f"condition {trial_type!r} is not in the design; it has {', '.join(design.columns)}"
        )
    others = design.drop(columns=trial_type).to_numpy()
    pair = np.column_stack([course, design[trial_type]])
    pair = pair - others @ np.linalg.lstsq(others, pair, rcond=None)[0]
    x, y = pair.T
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 1e-12 else 0.0  # a course that never changes follows none


def trial_types(events: pd.DataFrame) -> list[str]:
    """The conditions of a run, sorted."""
    return sorted(set(events["trial_type"]))
