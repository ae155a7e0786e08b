"""What came out of :mod:`neuro`: tables and maps on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neuromix.experiments.frame.figures import glass_brains
from neuromix.experiments.frame.findings import estimate_text
from neuromix.experiments.frame.pages import report_page

if TYPE_CHECKING:
    from neuromix.augment.metrics.neuro import NeuroJudge

Rows = Mapping[str, Mapping[str, Any]]
"""By name, of :meth:`neuromix.augment.metrics.neuro.NeuroJudge.table`."""


def overview(rows: Rows) -> pd.DataFrame:
    """A row a metric: real halves with their interval, each generator's value and its share."""
    first = next(iter(rows.values()))["metrics"]
    return pd.DataFrame([
        {
            "metric": name.replace("_", " "),
            "kind": row["kind"],
            "real halves": estimate_text(row["real"], row["real_interval"], ".2f"),
            **{each: share_text(rows[each]["metrics"].get(name)) for each in rows},
        }
        for name, row in first.items()
    ])  # fmt: skip


def share_text(row: Mapping[str, Any] | None) -> str:
    """A value with its share of the ceiling."""
    if row is None:
        return ""
    return f"{row['value']:.2f}" + (f" ({row['share']:.2f})" if row["share"] is not None else "")


def faults_table(failed: Mapping[str, list[str]]) -> pd.DataFrame:
    """The metrics in which each generator fails."""
    return pd.DataFrame([
        {"generator": name, "metrics": ", ".join(metrics).replace("_", " ") or "none"}
        for name, metrics in failed.items()
    ])  # fmt: skip


def page(results: Mapping[str, Any], shown: Mapping[str, np.ndarray], judge: NeuroJudge) -> str:
    """The report, with mean maps (C, V) by name."""
    return report_page(
        results,
        title="Evaluation of task fMRI on real runs",
        tables=[
            ("Real halves, and trivial generators with their share of them",
             overview(results["rows"])),
            ("Metrics in which a generator is surely below 0.9 of real",
             faults_table(results["failed"])),
        ],
        figures=[glass_brains(shown, judge.conditions, judge.mask, judge.affine)],
        methods=[
            "Each value compares as many subjects as half of the held-out ones with one half of "
            "them, over random splits; real is one half against the other. The interval holds 95 % "
            "of the splits. A share is the value over that of real halves (distances: of one less "
            "the value; levels: one less the relative difference).",
        ],
    )  # fmt: skip
