"""Every benchmark in one table, kept as JSON, beside an earlier run if there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from neuromix.augment.errors import InputError
from neuromix.experiments.bench import config
from neuromix.experiments.bench.figures import Figure, keep, machine
from neuromix.experiments.bench.foundation import foundation
from neuromix.experiments.bench.maps import sampling
from neuromix.experiments.bench.training import training
from neuromix.experiments.bench.transforms import transforms
from neuromix.experiments.frame.pages import rich_table

PARTS: list[tuple[Callable[[Any], list[Figure]], config.Benchmark]] = [
    (foundation, config.Foundation(subjects=10, indexed=1000)),
    (sampling, config.Sampling(preset="demo", spacing=8.0, repeats=1)),
    (training, config.Training(preset="demo", spacing=8.0, pairs=2, cohorts=(200, 2000))),
    (transforms, config.Transforms(spacing=8.0, samples=8, rounds=5, workers=(0, 2), draws=100)),
]
"""Each benchmark and its quick size; its defaults are the whole."""


def everything(asked: config.Everything) -> list[dict[str, Any]]:
    """Run all parts, and put the figures of an earlier run beside them."""
    quick, out = asked.quick, asked.out
    before = _earlier(asked.against, quick) if asked.against else {}
    rows = []
    for measure, small in PARTS:
        for figure in measure(small if quick else type(small)()):
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
