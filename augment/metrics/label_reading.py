"""Do samples show the labels that they were made for, as real people do?

A classifier of points (N, F) that is fitted to other real people reads the labels of samples and of
held-out people. With the labels dealt anew among the samples, its accuracy must drop to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuromix.augment.metrics.features import limits

FEWEST_OF_A_CLASS = 3
"""Volumes with a label's value that each set needs."""
SHUFFLES = 20
"""Random deals of the labels among the samples."""
DRAWS = 2000
"""Behind each interval."""

Texts = Sequence[str | None]
"""The label of each volume; ``None`` is left out."""


def label_reader(points: np.ndarray, labels: Texts) -> Any:
    """A classifier of points (N, F), fitted to real people."""
    known = np.array([label is not None for label in labels])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, class_weight="balanced"))
    return model.fit(points[known], np.array([label for label in labels if label is not None]))


def label_accuracy(read: Texts, labels: Texts, *, seed: int | list[int] = 0) -> dict[str, Any]:
    """Balanced accuracy: the mean over classes of the share that is read as that class.

    Returns:
        ``value``, its 95 % ``interval`` (Jeffreys' for each recall, so that 20 of 20 does not mean
        always), and ``recall`` by class.
    """
    classes = sorted({label for label in labels if label is not None})
    said, true = np.array(read, dtype=object), np.array(labels, dtype=object)
    counts = np.array([(true == name).sum() for name in classes])
    hits = np.array([((true == name) & (said == name)).sum() for name in classes])
    rng = np.random.default_rng(seed)
    draws = rng.beta(hits + 0.5, counts - hits + 0.5, size=(DRAWS, len(classes))).mean(axis=1)
    value = float((hits / counts).mean())
    return {
        "value": value,
        "interval": limits(draws, value),
        "recall": dict(zip(classes, (hits / counts).tolist(), strict=True)),
    }


def labels_told(
    points: Sequence[np.ndarray], labels: Sequence[Texts], *, seed: int = 0
) -> dict[str, Any] | None:
    """The accuracy of the labels of samples, beside that of held-out people.

    Args:
        points: (N, F) of the people whom the classifier is fitted to, of samples, and of held-out
            people.
        labels: Of each of these sets.
        seed: Of the intervals, and of the labels that are dealt anew.

    Returns:
        ``value``, ``interval`` and ``recall`` of the samples, ``real`` and ``real_interval``,
        ``ratio`` to real, ``shuffled`` and ``chance``; ``None`` where fewer than two classes have
        :data:`FEWEST_OF_A_CLASS` volumes in each set.
    """
    classes = [
        name
        for name in sorted({label for label in labels[0] if label is not None})
        if min(list(each).count(name) for each in labels) >= FEWEST_OF_A_CLASS
    ]
    if len(classes) < 2:
        return None
    fitted, asked, true = ([v if v in classes else None for v in each] for each in labels)
    reader = label_reader(points[0], fitted)
    made, real = (reader.predict(each).tolist() for each in points[1:])
    rng = np.random.default_rng(seed)
    shuffled = [
        label_accuracy(made, rng.permutation(np.array(asked, dtype=object)).tolist())["value"]
        for _ in range(SHUFFLES)
    ]
    own = label_accuracy(made, asked, seed=[seed, 0])
    other = label_accuracy(real, true, seed=[seed, 1])
    return own | {
        "real": other["value"],
        "real_interval": other["interval"],
        "ratio": own["value"] / max(other["value"], 1e-12),
        "shuffled": float(np.mean(shuffled)),
        "chance": 1 / len(classes),
    }
