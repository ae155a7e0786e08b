"""Do two runs of :mod:`fidelity` rank generators alike? A phantom is believed as far as they do.

For each figure, generators are ranked by how far they are from what people have; the ranks are
averaged over figures. Agreement is Kendall's tau-b of these over the generators that both runs
have, with the values of a bootstrap over the people of both runs beside it: noise of few people
pulls those towards 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from neuromix.augment.data import bids
from neuromix.augment.errors import InputError
from neuromix.augment.metrics.features import limits
from neuromix.experiments.quality.config import Ranking

IDEALS = {"structure": 0.5, "texture": 0.5, "mmd": 0.0, "spread": 1.0, "spectrum": 0.0}
ONE_SIDED = ("structure", "texture", "mmd")
"""Figures that are no worse below what is ideal."""
FEWEST = 3


def run(config: Ranking) -> dict[str, Any]:
    """Compare two runs and say how well they agree."""
    one, other = (_rows(path) for path in (config.one, config.other))
    result = agreement(one, other)
    low, high = result["interval"]
    Console().print(
        f"Kendall's tau {result['tau']:.2f} ({low:.2f} to {high:.2f} over people) between the "
        f"rankings of {len(result['generators'])} generators by {config.one} and {config.other}"
    )
    for name, tau in result["by figure"].items():
        Console().print(f"  {name} {tau:.2f}")
    return result


def agreement(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Kendall's tau of two tables of rows by generator, its interval, and by figure.

    Also ``generators``, the best first by the first table.
    """
    names = [name for name in one if name in other]
    if len(names) < FEWEST:
        raise InputError(
            f"{len(names)} generators are in both runs ({', '.join(names) or 'none'}); needed are "
            f"{FEWEST} or more, and 10 to say much"
        )
    tables = [_shortfalls(rows, names) for rows in (one, other)]
    ranks = [stats.rankdata(table, axis=2).mean(axis=0) for table in tables]
    taus = [_tau(a, b) for a, b in zip(*ranks, strict=True)]
    return {
        "tau": taus[0],
        "interval": limits(np.array(taus[1:]), taus[0]),
        "by figure": {
            name: _tau(tables[0][k, 0], tables[1][k, 0]) for k, name in enumerate(IDEALS)
        },
        "generators": [names[k] for k in np.argsort(ranks[0][0], kind="stable")],
    }  # fmt: skip


def _shortfalls(rows: dict[str, Any], names: list[str]) -> np.ndarray:
    """How far from ideal, by figure, value and draws of it, and generator, (F, 1 + D, N)."""
    table = []
    for figure, ideal in IDEALS.items():
        metrics = [rows[name]["metrics"][figure] for name in names]
        off = np.array([[each["value"], *each["draws"]] for each in metrics]).T - ideal
        table.append(np.maximum(off, 0) if figure in ONE_SIDED else np.abs(off))
    return np.stack(table)


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b; 0 where all are tied."""
    return float(np.nan_to_num(stats.kendalltau(a, b).statistic))


def _rows(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    rows = bids.read_json(path).get("rows", {}) if path.is_file() else {}
    if not rows or not all("draws" in row["metrics"]["structure"] for row in rows.values()):
        raise InputError(
            f"{folder} holds no finished run of fidelity of this version; make one with `neuromix "
            "experiment fidelity`"
        )
    return dict(rows)
