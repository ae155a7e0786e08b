r"""Scores of predictions under weights: a row of weights is one draw of a bootstrap.

With weight :math:`w_{dk}` of row k in draw d, every score is a ratio of weighted counts, so that
all draws are computed at once. Truth is (n,) of class numbers, probabilities (n, C), weights
(D, n), and each score (D,). What is not defined, such as the AUC of one class, is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CONFIDENCE_BINS = 10
"""Of equal width, in which :func:`ece` compares confidence with accuracy."""


def confusion(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted counts, (D, truth, predicted)."""
    count = probabilities.shape[1]
    cells = np.eye(count * count)[truth * count + probabilities.argmax(1)]
    return (weights @ cells).reshape(len(weights), count, count)


def balanced_accuracy(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Mean recall over the classes that occur."""
    table = confusion(truth, probabilities, weights)
    return _mean(_ratio(_diagonal(table), table.sum(2)))


def f1(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the classes that occur or are predicted."""
    table = confusion(truth, probabilities, weights)
    return _mean(_ratio(2 * _diagonal(table), table.sum(1) + table.sum(2)))


def auc(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve; of more than two classes, the mean of each against the rest."""
    count = probabilities.shape[1]
    areas = []
    for code in range(count) if count > 2 else (1,):
        order = np.argsort(probabilities[:, code], kind="stable")
        ties = np.flatnonzero(np.diff(probabilities[order, code], prepend=-np.inf) > 0)
        sorted_weights, is_class = weights[:, order], truth[order] == code
        inside = np.add.reduceat(sorted_weights * is_class, ties, axis=1)
        outside = np.add.reduceat(sorted_weights * ~is_class, ties, axis=1)
        below = outside.cumsum(1) - outside / 2
        areas.append(_ratio((inside * below).sum(1), inside.sum(1) * outside.sum(1)))
    return _mean(np.stack(areas, axis=1))


def ece(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error: how far confidence is from accuracy, over bins of confidence."""
    confidence = probabilities.max(1)
    excess = confidence - (probabilities.argmax(1) == truth)
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    by_bin = weights @ (np.eye(CONFIDENCE_BINS)[bins] * excess[:, None])
    return np.abs(by_bin).sum(1) / weights.sum(1)


def brier(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean squared error of the probabilities, 0 to 1 for two classes and 0 to 2 for more."""
    count = probabilities.shape[1]
    errors = ((probabilities - np.eye(count)[truth]) ** 2).sum(1) / (2 if count == 2 else 1)
    return weights @ errors / weights.sum(1)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "balanced_accuracy": balanced_accuracy,
    "auc": auc,
    "f1": f1,
    "ece": ece,
    "brier": brier,
}
"""Scores by name."""


def _diagonal(tables: np.ndarray) -> np.ndarray:
    return np.diagonal(tables, axis1=1, axis2=2)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Of what is defined in each row."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(1), known.sum(1).astype(float))
