"""Learning curves on the md phantom: is it as hard as real data, and does more data help?

The phantom is only worth something if a compact CNN finds it about as hard as people's brains. The
same test subjects judge every cell; a cell is (target, training size, seed), where the seed draws
the training subjects and the network.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.phantom import make_phantom
from neuromix.classifiers import statistics
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.evaluate import Predictions, predict
from neuromix.experiments.frame.figures import Picture, Point, curves
from neuromix.experiments.frame.pace import classifier_pace, few_subjects, phantom_seconds
from neuromix.experiments.frame.pages import report_page, rich_table
from neuromix.experiments.frame.run import Run, show_plan
from neuromix.experiments.quality.config import Calibration

FREE = ("targets", "sizes", "seeds", "steps")
"""Settings that a cell names, or that do not matter to it."""


def run(config: Calibration, *, dry_run: bool = False) -> dict[str, Any]:
    """Fit all cells that are not done yet, and write ``results.json`` and ``report.html``."""
    console = Console()
    console.print(asdict(config))
    if dry_run:
        show_plan(plan(config), console)
        return {}
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    with Run.open(config.out, "calibration", settings, console, free=FREE) as folder:
        place = folder.folder / "phantom"
        data = make_phantom(place, "md", subjects=config.subjects, progress=True)
        parts = Cohort.from_bids(data).split((6 / 7, 0.0, 1 / 7), seed=0)
        train, test = parts.train.subjects(), parts.test.subjects()
        rows = []
        for target, size, seed in itertools.product(
            config.targets, config.sizes, range(config.seeds)
        ):

            def fit(target: str = target, size: int = size, seed: int = seed) -> dict[str, Any]:
                classifier = VolumeClassifier(target, steps=config.steps, seed=seed)
                pool = [s for s, y in zip(train, classifier.labels(train), strict=True) if y]
                order = np.random.default_rng(seed).permutation(len(pool))
                chosen = [pool[k] for k in order[:size]]
                classifier.fit(chosen)
                return {
                    "used": len(chosen),
                    "train_score": classifier.score(chosen),
                    "predictions": predict(classifier, test).to_dict(),
                }

            key = {"target": target, "size": size, "seed": seed, "steps": config.steps}
            rows.append(folder.cell(key, fit))
        table = summarise(rows)
        cells = {"verdict": verdict(table), "cells": table.to_dict(orient="records")}
        results = folder.about | cells
        page = report_page(
            results,
            title="Calibration of the md phantom",
            tables=[("Balanced accuracy on held-out phantom subjects", table)],
            figures=[_curves(table)],
        )
        folder.finish(results, page)
        console.print(rich_table(table))
    return results


def plan(config: Calibration) -> list[tuple[str, float]]:
    """What would be done, and seconds for each; steps are measured on this machine."""
    with few_subjects("md", None, 4.0) as few:
        step, judged = classifier_pace(VolumeClassifier(), few.subjects(), ("F", "M"))
    fits = len(config.targets) * len(config.sizes) * config.seeds
    return [
        ("phantom", phantom_seconds("md", 4.0, config.subjects)),
        (f"{fits} fits", fits * (config.steps * step + config.subjects / 7 * judged)),
    ]


def summarise(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Mean balanced accuracy of each target and size, with its interval over seeds and subjects."""
    result = []
    cells = [record["cell"] | dict(record) for record in rows]
    for (target, _), group in itertools.groupby(cells, lambda c: (c["target"], c["size"])):
        fits = list(group)
        runs = [Predictions.from_dict(fit["predictions"]) for fit in fits]
        score = statistics.summarise(runs)
        low, high = score["interval"]
        result.append({
            "target": target,
            "training subjects": fits[0]["used"],
            "balanced accuracy": score["value"],
            "low": low,
            "high": high,
            "chance": 1 / len(set(runs[0].truth)),
            "on training subjects": float(np.mean([fit["train_score"] for fit in fits])),
            "test subjects": score["subjects"],
            "seeds": len(fits),
            "seconds a fit": float(np.median([fit["seconds"] for fit in fits])),
        })  # fmt: skip
    return pd.DataFrame(result)


def verdict(table: pd.DataFrame) -> str:
    """The curves in a sentence."""
    parts = []
    for target, curve in table.groupby("target", sort=False):
        points = [
            f"{row['balanced accuracy']:.2f} with {row['training subjects']}"
            for _, row in curve.iterrows()
        ]
        parts.append(f"{target} {', '.join(points)}")
    return f"Balanced accuracy on phantom site B by training subjects: {'; '.join(parts)}."


def _curves(table: pd.DataFrame) -> Picture:
    names = ["training subjects", "balanced accuracy", "low", "high"]
    return curves(
        {
            str(target): [Point(*row) for row in group[names].itertuples(index=False)]
            for target, group in table.groupby("target", sort=False)
        },
        xlabel="training subjects", ylabel="balanced accuracy", log=True,
        caption="Balanced accuracy against the number of training subjects.",
    )  # fmt: skip
