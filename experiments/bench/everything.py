"""Every benchmark in one table, kept as JSON, beside an earlier run if there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from neuromix.augment.errors import InputError
from neuromix.experiments.bench.figures import Figure, keep, machine
from neuromix.experiments.bench.foundation import foundation
from neuromix.experiments.bench.images_4d import completing, runs
from neuromix.experiments.bench.maps import sampling
from neuromix.experiments.bench.training import training
from neuromix.experiments.bench.transforms import transforms
from neuromix.experiments.frame.pages import rich_table

SIZES: dict[str, tuple[Callable[..., list[Figure]], tuple[Any, ...], tuple[Any, ...]]] = {
    "foundation": (foundation, (80, 100_000), (10, 1000)),
    "sampling": (sampling, ("tiny", 4.0, 3, 1), ("demo", 8.0, 1, 1)),
    "training": (training, ("tiny", 4.0, 30, (200, 2000, 20_000)), ("demo", 8.0, 2, (200, 2000))),
    "transforms": (transforms, (1.75, 30, 30, (0, 2, 4), 1000), (8.0, 8, 5, (0, 2), 100)),
    "completing": (completing, ("tiny", 6.0, 16, 5), ("demo", 12.0, 2, 1)),
    "runs": (runs, ("tiny", 12.0, 100, 5), ("demo", 12.0, 40, 1)),
}
"""Each benchmark, and what it is called with in a whole and in a quick run."""


def everything(quick: bool, out: Path | None, against: Path | None) -> list[dict[str, Any]]:
    """Run all parts; ``against`` is the file of an earlier run."""
    before = _earlier(against, quick) if against else {}
    rows = []
    for measure, whole, small in SIZES.values():
        for figure in measure(*(small if quick else whole), None):
            row: dict[str, Any] = figure._asdict()
            if before:
                old = before["values"].get((figure.part, figure.what))
                row["earlier"] = old
                row["to earlier"] = figure.value / old if old else None
            rows.append(row)
    title = machine() + (f"; earlier: {before['machine']}" if before else "")
    table = pd.DataFrame(rows).drop(columns="weights").astype(object).fillna("")
    Console().print(rich_table(table, title=title))
    if out is not None:
        keep(out, {"quick": quick, "rows": rows})
    return rows


def _earlier(path: Path, quick: bool) -> dict[str, Any]:
    """What another run measured, by part and name."""
    try:
        content = json.loads(path.read_text())
        values = {(row["part"], row["what"]): row["value"] for row in content["rows"]}
        figures = {"machine": content["machine"], "values": values}
        was_quick = bool(content["quick"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no figures of neuromix benchmark all ({error}); "
            "give the file that an earlier run wrote with --out"
        ) from None
    if was_quick != quick:
        was, now = ("quick", "whole") if was_quick else ("whole", "quick")
        raise InputError(f"{path} is of a {was} run, this is a {now} one; compare like with like")
    return figures
