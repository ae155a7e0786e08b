"""Every benchmark in one table, kept as JSON, beside an earlier run if there is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console

from neuromix.augment.errors import InputError
from neuromix.experiments.bench.foundation import foundation, keep, machine
from neuromix.experiments.bench.images_4d import completing, runs
from neuromix.experiments.bench.maps import sampling
from neuromix.experiments.bench.training import training
from neuromix.experiments.bench.transforms import transforms
from neuromix.experiments.frame.pages import rich_table


class Figure(NamedTuple):
    """One figure: what was measured, and how it stands to its peer in the same run."""

    part: str
    what: str
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None


def _foundation(quick: bool) -> Iterator[Figure]:
    for row in foundation(10 if quick else 80, 1000 if quick else 100_000, None):
        yield Figure("foundation", row["what"], row["seconds"], "s")


def _sampling(quick: bool) -> Iterator[Figure]:
    rows = sampling("demo" if quick else "tiny", 8.0 if quick else 4.0, 1 if quick else 3, 1, None)
    for row in rows:
        what = f"{row['what']}, {row['passes']} passes"
        yield Figure("sampling", what, row["s/volume"], "s", "neuromix, 20 steps", row["ratio"])


def _training(quick: bool) -> Iterator[Figure]:
    sizes = (200, 2000) if quick else (200, 2000, 20_000)
    preset, spacing, pairs = ("demo", 8.0, 2) if quick else ("tiny", 4.0, 30)
    result = training(preset, spacing, pairs, sizes, None)
    for row in result["rows"]:
        yield Figure("training", row["what"], row["s/step"], "s", "bare steps", row["ratio"])
    yield Figure("training", "waiting for data", 100 * result["waiting"], "%")
    first = result["memory"][0]["own, MB"]
    for row in result["memory"]:
        what, own = f"own memory, {row['subjects']} subjects", row["own, MB"]
        yield Figure("training", what, own, "MB", f"{sizes[0]} subjects", own / first)


def _transforms(quick: bool) -> Iterator[Figure]:
    if quick:
        result = transforms(8.0, 8, 5, (0, 2), 100, 1, None)
    else:
        result = transforms(1.75, 30, 30, (0, 2, 4), 1000, 3, None)
    for row in result["draw"]:
        yield Figure(
            "transforms", row["what"], row["ms"], "ms", "SampleBank.draw", 1 / row["draw / it"]
        )
    for row in result["loader"]:
        what = f"loader, {row['what']}, {row['workers']} workers"
        yield Figure(
            "transforms", what, row["items/s"], "items/s", "real files alone", row["to real"]
        )
    yield Figure("transforms", "memory over draws grows by", result["memory"]["growth, MB"], "MB")


def _completing(quick: bool) -> Iterator[Figure]:
    rows = completing(*(("demo", 12.0, 2, 1) if quick else ("tiny", 6.0, 16, 5)), None)
    for row in rows:
        yield Figure("completing", row["what"], row["s/subject"], "s", "neuromix", row["ratio"])


def _runs(quick: bool) -> Iterator[Figure]:
    rows = runs(*(("demo", 12.0, 40, 1) if quick else ("tiny", 12.0, 100, 5)), None)
    for row in rows:
        peer = "neuromix, closed form"
        yield Figure(
            "runs", f"{row['what']}, 100 frames", row["s/100 frames"], "s", peer, row["ratio"]
        )


PARTS: dict[str, Callable[[bool], Iterator[Figure]]] = {
    "foundation": _foundation,
    "sampling": _sampling,
    "training": _training,
    "transforms": _transforms,
    "completing": _completing,
    "runs": _runs,
}


def everything(quick: bool, out: Path | None, against: Path | None) -> list[dict[str, Any]]:
    """Run all parts.

    Args:
        quick: Small sizes, which show that all works and little of the speed.
        out: JSON file for the figures.
        against: JSON file of an earlier run.
    """
    before = _earlier(against, quick) if against else {}
    rows = []
    for measure in PARTS.values():
        for figure in measure(quick):
            row: dict[str, Any] = figure._asdict()
            if before:
                old = before["values"].get((figure.part, figure.what))
                row["earlier"] = old
                row["to earlier"] = figure.value / old if old else None
            rows.append(row)
    title = machine() + (f"; earlier: {before['machine']}" if before else "")
    Console().print(rich_table(pd.DataFrame(rows).astype(object).fillna(""), title=title))
    if out is not None:
        keep(out, {"quick": quick, "rows": rows})
    return rows


def _earlier(path: Path, quick: bool) -> dict[str, Any]:
    """What another run measured, by part and name."""
    try:
        content = json.loads(path.read_text())
        values = {(row["part"], row["what"]): row["value"] for row in content["rows"]}
        known = {"machine": content["machine"], "values": values}
        sized = bool(content["quick"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no figures of neuromix benchmark all ({error}); "
            "give the file that an earlier run wrote with --out"
        ) from None
    if sized != quick:
        was, now = ("quick", "whole") if sized else ("whole", "quick")
        raise InputError(f"{path} is of a {was} run, this is a {now} one; compare like with like")
    return known
