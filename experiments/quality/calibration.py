"""Learning curves on the md phantom: is it as hard as real data, and does more data help?

The phantom is only worth something if a compact CNN finds it about as hard as people's brains. The
same test subjects judge every cell; a cell is (target, training size, seed), where the seed draws
the training subjects and the network.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from sklearn.metrics import balanced_accuracy_score

from neuromix.augment import files
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.phantom import make_phantom
from neuromix.classifiers.base import VolumeClassifier
from neuromix.experiments.frame.figures import to_png
from neuromix.experiments.frame.pages import report_page, rich_table
from neuromix.experiments.frame.provenance import Provenance, claim
from neuromix.experiments.quality.config import Calibration

SECONDS_PER_STEP = 0.1
"""On two cores of a small server; the dry run's estimate."""
SECONDS_PER_SUBJECT = 0.15


def run(config: Calibration, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Fit all cells that are not done yet, and write ``results.json`` and ``report.html``."""
    console = Console()
    cells = [
        (target, size, seed)
        for target in config.targets
        for size in config.sizes
        for seed in range(config.seeds)
    ]
    seconds = len(cells) * config.steps * SECONDS_PER_STEP + config.subjects * SECONDS_PER_SUBJECT
    console.print(asdict(config))
    console.print(f"{len(cells)} fits, about {math.ceil(seconds / 60)} minutes on two cores")
    if dry_run:
        return []
    record = config.out / "metrics.jsonl"
    now = Provenance.now({})
    provenance, line = claim(config.out, record.exists(), now, asdict(config))
    data = make_phantom(config.out / "phantom", "md", subjects=config.subjects, progress=True)
    parts = Cohort.from_bids(data).split((6 / 7, 0.0, 1 / 7), seed=0)
    train, test = parts.train.subjects(), parts.test.subjects()
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    done = {(row["target"], row["size"], row["seed"], row["steps"]) for row in rows}
    left = [cell for cell in cells if (*cell, config.steps) not in done]
    reused = f"{len(cells) - len(left)} of {len(cells)} fits reused"
    console.print(line or reused, markup=False, highlight=False)
    for target, size, seed in track(left, "Fits", console=console):
        provenance.add(now, config.out)
        classifier = VolumeClassifier(target, steps=config.steps, seed=seed)
        pool = [s for s, y in zip(train, classifier.labels(train), strict=True) if y]
        judged = [s for s, y in zip(test, classifier.labels(test), strict=True) if y]
        size_used = min(size, len(pool))
        chosen = np.random.default_rng(seed).permutation(len(pool))[:size_used]
        begun = time.perf_counter()
        classifier.fit([pool[k] for k in chosen])
        rows.append({
            "target": target,
            "size": size,
            "used": size_used,
            "seed": seed,
            "steps": config.steps,
            "truth": classifier.labels(judged),
            "predicted": classifier.predict(judged).tolist(),
            "train_score": classifier.score([pool[k] for k in chosen]),
            "seconds": time.perf_counter() - begun,
        })  # fmt: skip
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        files.write_bytes(record, lines.encode())
    wanted = {(*cell, config.steps) for cell in cells}
    rows = [
        row for row in rows if (row["target"], row["size"], row["seed"], row["steps"]) in wanted
    ]
    table = summarise(rows)
    about = {"config": asdict(config), "made by": provenance.told()}
    files.write_json(
        config.out / "results.json",
        {**about, "cells": table.to_dict(orient="records")},
    )
    page = report_page(
        {"verdict": verdict(table), **about},
        title="Calibration of the md phantom",
        tables=[("Balanced accuracy on held-out phantom subjects", table)],
        figures=[(_curves(table), "Balanced accuracy against the number of training subjects.")],
    )
    files.write_bytes(config.out / "report.html", page.encode())
    console.print(rich_table(table, title=verdict(table)))
    return rows


def summarise(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Mean balanced accuracy of each target and size, with its 95 % interval.

    The interval is a bootstrap over seeds and test subjects together.
    """
    result = []
    frame = pd.DataFrame(rows)
    for (target, _), cell in frame.groupby(["target", "size"], sort=False):
        truth = np.array(cell["truth"].iloc[0])
        predicted = np.stack(cell["predicted"].tolist())
        rng = np.random.default_rng(0)
        draws = []
        for _ in range(500):
            subjects = rng.integers(len(truth), size=len(truth))
            seeds = rng.integers(len(predicted), size=len(predicted))
            draws.append(_score(truth[subjects], predicted[seeds][:, subjects]))
        low, high = np.percentile(draws, [2.5, 97.5])
        result.append({
            "target": target,
            "training subjects": int(cell["used"].iloc[0]),
            "balanced accuracy": _score(truth, predicted),
            "low": float(low),
            "high": float(high),
            "chance": 1 / len(np.unique(truth)),
            "on training subjects": float(cell["train_score"].mean()),
            "test subjects": len(truth),
            "seeds": len(cell),
            "seconds a fit": float(cell["seconds"].median()),
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


def _score(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean([balanced_accuracy_score(truth, row) for row in predicted]))


def _curves(table: pd.DataFrame) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for target, curve in table.groupby("target", sort=False):
        x, y = curve["training subjects"], curve["balanced accuracy"]
        axis.errorbar(
            x, y, yerr=[y - curve["low"], curve["high"] - y], marker="o", capsize=3, label=target
        )
    axis.set(xscale="log", xlabel="training subjects", ylabel="balanced accuracy", ylim=(0.3, 1))
    axis.grid(alpha=0.3)
    axis.legend()
    return to_png(figure)
