"""Predictions with a planted accuracy, and groups of them, for what weighs evidence."""

import numpy as np

from neuromix.classifiers.evaluate import Predictions
from neuromix.experiments.evidence.samples import AUGMENTATION
from neuromix.experiments.frame.verdict import Group

SUBJECTS = 200
SEEDS = 5


def run(accuracy, seed):
    """A run that is right on so many of the subjects; equal seeds err on the same ones."""
    truth = np.arange(SUBJECTS) % 2
    right = np.random.default_rng(seed).random(SUBJECTS) < accuracy
    case = np.where(right, truth, 1 - truth)
    probability = 0.5 + 0.3 * (2 * case - 1)
    names = np.array([f"study/{k:03d}" for k in range(SUBJECTS)])
    classes = ("no", "yes")
    table = np.stack([1 - probability, probability], axis=1)
    return Predictions(names, np.array(classes)[truth], table, classes)


def group(accuracies, validation=None, size=40, setting="dementia-b"):
    """A group whose arms have these accuracies."""
    runs = {arm: [run(a, seed) for seed in range(SEEDS)] for arm, a in accuracies.items()}
    return Group(
        {"setting": setting, "size": size},
        f"dementia on held-out subjects, {size} real subjects",
        "phantom site B",
        "dementia",
        runs,
        {**accuracies, **(validation or {})},
        AUGMENTATION,
    )
