"""The frame of the experiments that compare arms: a plan, cells, groups, statistics, a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from neuromix.experiments.evidence.diagnosis import diagnose
from neuromix.experiments.frame.arms import samplers_of
from neuromix.experiments.frame.cohorts import contents
from neuromix.experiments.frame.history import committed
from neuromix.experiments.frame.pace import spent
from neuromix.experiments.frame.run import Run, show_plan
from neuromix.experiments.frame.verdict import Endpoint, Group, origin_of, weigh


class Comparison(Protocol):
    """An experiment at work in a run folder."""

    def check(self) -> None:
        """Raise ``LeakageError`` if somebody judges who trained or chose anything."""

    def fit(self) -> None:
        """Do the cells that are not done yet."""

    def groups(self) -> list[Group]:
        """What was predicted, the group that the verdict speaks of first."""
        ...

    def page(self, results: dict[str, Any], groups: Sequence[Group]) -> str:
        """The report; what it finds besides is added to the results."""
        ...


def carry_out(
    name: str,
    config: Any,
    out: Path,
    work: Callable[[Any, Run], Comparison],
    plan: Callable[[Any], list[tuple[str, float]]],
    images: Sequence[str],
    *,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Do the cells that are not done yet; write ``results.json`` and ``report.html``.

    Args:
        name: Of the experiment.
        config: A dataclass of its settings.
        out: Folder of the run folders, or one run folder.
        work: Makes the experiment of its settings and a run folder.
        plan: What would be done, and for how many seconds on this machine.
        images: That it looks at.
        dry_run: Show the plan, and stop.
    """
    console = Console()
    settings = asdict(config)
    for key, value in settings.items():
        if isinstance(value, Path):
            settings[key] = str(value.resolve())
    console.print(settings)
    begun = datetime.now(UTC)
    endpoint = Endpoint.of(config, name)
    if "endpoint" in settings:
        settings["endpoint"] = asdict(endpoint) if endpoint else None
    if dry_run:
        show_plan(plan(config), console)
        return {}
    with Run.open(out, name, settings, console, contents(config, images)) as frame:
        comparison = work(config, frame)
        origin = _origin(config.endpoint, frame, begun) if endpoint else ""
        comparison.check()
        comparison.fit()
        groups = comparison.groups()
        results = weigh(groups, endpoint, origin)
        results["diagnosis"] = diagnose(results["groups"], samplers_of(frame))
        results |= frame.about | {"time": spent(frame)}
        page = comparison.page(results, groups)
        frame.finish(results, page)
    return results


def _origin(path: Path, frame: Run, begun: datetime) -> str:
    """When the endpoint was stated: found out before the first cell, and kept with the run."""

    def look() -> dict[str, Any]:
        commit = None if frame.records() else committed(path, begun)
        return {"origin": origin_of(path, commit), **(commit or {})}

    origin = str(frame.cell({"check": "endpoint"}, look)["origin"])
    frame.log(f"Primary endpoint, {origin}")
    return origin
