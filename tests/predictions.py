"""Simulated training runs whose true score is known."""

import numpy as np

from neuromix.classifiers.evaluate import Predictions


def simulate(rng, count, seeds, margin=1.0, *, subject=1.0, seed=0.2, noise=0.7, shared=None):
    """Runs whose balanced accuracy is ``norm.cdf(margin / spread)`` over subjects and seeds.

    A row is right if ``margin`` and three normal deviates, of its subject, of the seed and of both,
    are above zero together. ``shared`` gives the subjects' deviates.
    """
    truth = np.arange(count) % 2
    easy = rng.normal(0, subject, count) if shared is None else shared
    runs = []
    for luck in rng.normal(0, seed, seeds):
        score = margin + easy + luck + rng.normal(0, noise, count)
        runs.append(of_scores(truth, (2 * truth - 1) * score))
    return runs


def of_scores(truth, scores):
    """A run of two classes, of which each row has another subject."""
    positive = 1 / (1 + np.exp(-np.asarray(scores, float)))
    return Predictions(
        np.array([f"study/{k:04d}" for k in range(len(truth))]),
        np.array(["NC", "AD"])[truth],
        np.stack([1 - positive, positive], axis=1),
        ("NC", "AD"),
    )
