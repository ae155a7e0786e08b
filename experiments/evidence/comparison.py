"""The frame of the experiments that compare arms: a plan, cells, groups, statistics, a page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.progress import track

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.source import Sampler
from neuromix.experiments.evidence.arms import ARMS, DECODERS, FILLINGS
from neuromix.experiments.evidence.diagnosis import diagnose
from neuromix.experiments.frame.arms import check_disjoint, runs_of, samplers_of
from neuromix.experiments.frame.cohorts import contents
from neuromix.experiments.frame.history import committed
from neuromix.experiments.frame.pace import time_by_part
from neuromix.experiments.frame.run import Run, show_plan
from neuromix.experiments.frame.verdict import TITLES, Endpoint, Group, Roles, weigh

TITLES.update({name: arm.title for name, arm in (ARMS | DECODERS | FILLINGS).items()})

Cell = dict[str, Any]


class Comparison(ABC):
    """An experiment at work in a run folder.

    Attributes:
        trained: Everyone that trains a model or chooses a checkpoint.
        tests: Those who judge.
        ceiling: Fresh subjects of a phantom, which only the ceiling is trained on.
    """

    name: ClassVar[str]
    images: ClassVar[tuple[str, ...]] = ()
    """That it looks at, if not the one of its settings."""
    trained: list[Cohort]
    tests: list[Cohort]
    ceiling: Cohort | None = None

    def __init__(self, config: Any, frame: Run) -> None:
        self.config, self.frame = config, frame

    @staticmethod
    @abstractmethod
    def plan(config: Any) -> list[tuple[str, float]]:
        """What would be done, and for how many seconds on this machine."""

    @abstractmethod
    def fit(self) -> None:
        """Do the cells that are not done yet."""

    @abstractmethod
    def groups(self) -> list[Group]:
        """What was predicted, the group that the verdict speaks of first."""

    @abstractmethod
    def page(self, results: dict[str, Any], groups: Sequence[Group]) -> str:
        """The report; what else it says is added to the results."""

    def check(self) -> None:
        """Raise ``LeakageError`` if somebody judges who trains or chooses anything."""

        def compare() -> Cell:
            check_disjoint(self.trained, self.tests, voxels=True)
            if self.ceiling is not None:
                check_disjoint([self.ceiling], self.tests, voxels=False)
            return {"subjects": sum(len(test.subject_keys) for test in self.tests)}

        self.frame.cell({"check": "disjoint"}, compare)

    def group(
        self,
        key: Cell,
        title: str,
        cohort: str,
        target: str,
        roles: Roles,
        cells: Mapping[str, Cell],
    ) -> Group:
        """The finished runs of a group: for each arm, what its cells have in common."""
        seeds = self.config.seeds
        done = {
            arm: runs_of(self.frame, {k: v for k, v in cell.items() if k != "arm"},
                         cell.get("arm", arm), seeds)
            for arm, cell in cells.items()
        }  # fmt: skip
        runs = {arm: predictions for arm, (predictions, _) in done.items()}
        validation = {arm: score for arm, (_, score) in done.items()}
        return Group(key, title, cohort, target, runs, validation, roles)


def carry_out(
    kind: type[Comparison], config: Any, out: Path, *, dry_run: bool = False
) -> dict[str, Any]:
    """Do the cells that are not done yet; write ``results.json`` and ``report.html``.

    Args:
        kind: The experiment.
        config: A dataclass of its settings.
        out: Folder of the run folders, or one run folder.
        dry_run: Show the plan, and stop.
    """
    console = Console()
    settings = asdict(config)
    for key, value in settings.items():
        if isinstance(value, Path):
            settings[key] = str(value.resolve())
    console.print(settings)
    begun = datetime.now(UTC)
    endpoint = Endpoint.of(config, kind.name)
    if "endpoint" in settings:
        settings["endpoint"] = asdict(endpoint) if endpoint else None
    if dry_run:
        show_plan(kind.plan(config), console)
        return {}
    looked_at = kind.images or (config.image,)
    with Run.open(out, kind.name, settings, console, contents(config, looked_at)) as frame:
        comparison = kind(config, frame)
        origin = _origin(config.endpoint, frame, begun) if endpoint else ""
        comparison.check()
        comparison.fit()
        groups = comparison.groups()
        results = weigh(groups, endpoint, origin)
        results["diagnosis"] = diagnose(results["groups"], samplers_of(frame))
        results |= frame.about | {"time": time_by_part(frame)}
        page = comparison.page(results, groups)
        frame.finish(results, page)
    return results


def cells_of(where: Cell, arms: Sequence[str], seeds: int) -> list[Cell]:
    """Cells of all arms and seeds; ``where`` is what they have in common: setting, size."""
    return [{**where, "arm": arm, "seed": seed} for arm in arms for seed in range(seeds)]


def run_cells(
    run: Run,
    what: str,
    cells: Sequence[Cell],
    share: Callable[[], Any],
    make: Callable[[Cell, Any], Mapping[str, Any]],
) -> None:
    """Do the cells that are not done yet.

    ``share`` makes or reads what they share; it is called once, and only if one is to be done.
    """
    left = [cell for cell in cells if not run.is_done(cell)]
    if left:
        shared = share()
        for cell in track(left, f"Fits, {what}", console=run.console):
            run.cell(cell, partial(make, cell, shared))


def fit_sampler(
    run: Run,
    name: str,
    kind: Any,
    cohort: Cohort,
    config: Any,
    validation: Cohort | None,
    tests: Sequence[Cohort],
    *,
    scans: int | None = None,
    voxels: bool = True,
) -> Any:
    """The sampler or completer of that name, fitted where the run does not keep it yet.

    Args:
        run: Keeps it.
        name: Unique in the run.
        kind: Its class.
        cohort: Training subjects.
        config: Of the fit.
        validation: Subjects that choose its best step.
        tests: Those who judge; ``LeakageError`` if they had a part in it.
        scans: How many scans teach it, if not all of the cohort.
        voxels: Whether images are compared, too.
    """
    folder, key = run.folder / "samplers" / name, {"sampler": name}
    count = len(cohort) if scans is None else scans

    def fit() -> Cell:
        run.log(f"Sampler {name}: {count} training scans")
        _, trained = kind.fit(cohort, config, folder, validation=validation, progress=True)
        if not trained.step:  # the closed form has no steps to choose from
            return {"scans": count, "best_step": None}
        return {
            "scans": count,
            "best_step": trained.best_step,
            "validation_loss": trained.validation,
            "waiting": trained.waiting * trained.seconds,
        }

    if run.is_done(key) and not is_sampler(folder):
        raise InputError(
            f"{folder} holds no sampler any more, and {run.folder} needs it; begin in another "
            "folder"
        )
    run.cell(key, fit)
    sampler = kind.from_pretrained(folder)
    for test in tests:
        sampler.check_disjoint(test, voxels=voxels)
    return sampler


def fill_bank(
    run: Run,
    name: str,
    make: Callable[[], tuple[Sampler, list[dict[str, Any]]]],
    seed: int,
    **how: Any,
) -> Path:
    """The folder of the bank of that name, filled where the run does not keep it yet."""
    folder = run.folder / "banks" / name

    def fill() -> Cell:
        sampler, rows = make()
        run.log(f"Bank {name}: {len(rows)} samples")
        SampleBank.fill(folder, sampler, rows, seed, progress=True, **how)
        return {"samples": len(rows)}

    run.cell({"bank": name}, fill)
    return folder


def _origin(path: Path, frame: Run, begun: datetime) -> str:
    """When the endpoint was stated: looked up before the first cell, and kept with the run."""

    def ask() -> Cell:
        commit = None if frame.records() else committed(path, begun)
        if commit is None:
            return {"origin": f"stated in {path}, not known to be committed before"}
        made = f"{commit['commit']} of {commit['time']}"
        return {"origin": f"committed before the run, in {path}: {made}", **commit}

    origin = str(frame.cell({"check": "endpoint"}, ask)["origin"])
    frame.log(f"Primary endpoint, {origin}")
    return origin
