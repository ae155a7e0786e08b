"""What a benchmark gives: contenders timed by turns, in one kind of table, kept as JSON.

A busy machine is as unkind to one contender as to the next, so that ratios are medians within a
round, which hold better than the times themselves.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from neuromix.augment import files
from neuromix.augment.software import commit, versions
from neuromix.experiments.frame.pages import rich_table


class Figure(NamedTuple):
    """One figure: what was measured, and how it stands to its peer in the same run."""

    part: str
    what: str
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None
    weights: int = 0


def seconds(work: Callable[..., Any], *args: Any, **options: Any) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    work(*args, **options)
    return time.perf_counter() - begun


def by_turns(contenders: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each contender in each round, which it is told; a round before warms up."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in track(range(rounds + 1), f"{rounds} rounds"):
        for name, work in contenders.items():
            taken[name].append(seconds(work, turn))
    return {name: np.array(times[1:]) for name, times in taken.items()}


def beside(
    part: str, values: Mapping[str, np.ndarray], unit: str, peer: str, weights: Mapping[str, int]
) -> list[Figure]:
    """Medians over rounds of values (rounds,) by name, and of their ratios to those of a peer."""
    return [
        Figure(
            part, name, float(np.median(each)), unit, peer,
            float(np.median(each / values[peer])), weights.get(name, 0),
        )
        for name, each in values.items()
    ]  # fmt: skip


def report(figures: Sequence[Figure], out: Path | None, how: str = "") -> list[Figure]:
    """Show figures as a table, and write them to a file if there is one."""
    table = pd.DataFrame(figures).drop(columns="part").astype(object)
    title = ", ".join(filter(None, [machine(), how]))
    Console().print(rich_table(table.where(table.notna(), ""), title=title))
    if out is not None:
        keep(out, {"how": how, "rows": [figure._asdict() for figure in figures]})
    return list(figures)


def keep(out: Path, content: Mapping[str, Any]) -> None:
    """Write figures, with what they were measured of and on."""
    software = {"versions": versions(), "commit": commit()}
    files.write_json(out, {"machine": machine(), **software, **content})


def machine() -> str:
    """The machine in words."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
