"""The task fMRI sampler beside trivial generators and MONAI's U-Net: is it as good as real runs?

Subjects are parted into training, validation and held-out ones. Every generator is fitted to the
training subjects and asked for the runs of held-out ones: their tasks, phase encodings, events and
labels. :class:`neuromix.augment.metrics.neuro.NeuroJudge` compares what comes with the held-out
runs, beside halves of these against each other. In the same way are compared, as in the published
figures,

- *scaling*: the closed form of fewer people, and networks of other widths;
- *ablation*: other backbones, trained for the same time, on the same latents;
- *steps* of the sampler.

And a run of 300 frames, and events that no training run has
(:mod:`neuromix.experiments.quality.runs_probes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from rich.console import Console

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.metrics.neuro import NeuroJudge
from neuromix.augment.metrics.task_runs import read_runs
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.frame.cohorts import contents, load_cohort
from neuromix.experiments.frame.pace import SECONDS, phantom_seconds
from neuromix.experiments.frame.pages import rich_table
from neuromix.experiments.frame.run import Run, show_plan
from neuromix.experiments.quality import neuro_report, runs_report
from neuromix.experiments.quality.config import ABLATIONS, FMRI
from neuromix.experiments.quality.monai_unet import unet_beside
from neuromix.experiments.quality.runs_baselines import GENERATORS, Request
from neuromix.experiments.quality.runs_probes import any_length, unseen_timing
from neuromix.experiments.quality.runs_report import CLOSED, HYBRID, MIXED, UNET
from neuromix.experiments.quality.runs_samplers import SamplerRuns, Workshop

NAME = "fmri"
PROBED = (CLOSED, MIXED)
"""Samplers that are asked for unseen timings and a long run."""
PEOPLE = ("sex", "diagnosis", "age")


def run(config: FMRI, out: Path, *, dry_run: bool = False, console: Console | None = None) -> Any:
    """Fit, draw and judge what is not done yet; write ``results.json`` and ``report.html``."""
    console = console or Console()
    if dry_run:
        show_plan(plan(config), console)
        return {}
    content = contents(config, ("bold",))
    with Run.open(out, NAME, asdict(config), console, content) as folder:
        parts = divide(_cohort(config, folder), config)
        names = {name: len(set(part.table["subject_id"])) for name, part in parts.items()}
        folder.log(", ".join(f"{count} {name}" for name, count in names.items()))
        bench = _Bench(config, folder, parts)
        bench.main()
        bench.probes()
        bench.variants()
        about = f"phantom task, seed {config.seed}" if config.data is None else config.data.name
        about += f" ({names['train']} training and {names['heldout']} held-out subjects)"
        results = runs_report.summarise(bench.rows, bench.extra, about=about) | folder.about
        page = runs_report.page(results, bench.shown(), bench.judge)
        folder.finish(results, page)
        main = {name: bench.rows["main"][name] for name in (*GENERATORS, CLOSED)}
        folder.console.print(rich_table(neuro_report.overview(main)))
    return results


def divide(cohort: Cohort, config: FMRI) -> dict[str, Cohort]:
    """Part subjects at random; those that are left over are not used."""
    cohort = cohort.where(task=list(config.tasks))
    if config.directions:
        cohort = cohort.where(dir=list(config.directions))
    names = sorted(map(str, set(cohort.table["subject_id"])))
    sizes = {"train": config.train, "validation": config.validation, "heldout": config.heldout}
    if len(names) < sum(sizes.values()):
        raise InputError(
            f"{len(names)} subjects have runs of {', '.join(config.tasks)}, and {sizes} are asked "
            "for; ask for fewer, or bring more"
        )
    order = list(np.random.default_rng(config.seed).permutation(names))
    parts = {}
    for name, count in sizes.items():
        parts[name] = cohort.where(subject_id=order[:count])
        order = order[count:]
    return parts


class _Bench:
    """Fits and judges, each row once; see :class:`neuromix.experiments.frame.run.Run`."""

    def __init__(self, config: FMRI, folder: Run, parts: dict[str, Cohort]) -> None:
        self.config, self.folder = config, folder
        base, shortest = PRESETS[config.preset], _shortest(parts["train"])
        self.windows = {"window": min(base.window, shortest), "overlap": base.overlap}
        training = replace(base.training, seed=config.seed)
        self.base = base = replace(
            base, autoencoder="vq", window=min(40, shortest), overlap=8, time=config.time,
            head_dim=16, training=training,
        )  # fmt: skip
        self.workshop = Workshop(
            parts["train"], parts["validation"], base, folder.folder / "samplers",
            config.codec_seconds,
        )  # fmt: skip
        self.trained = read_runs(parts["train"])
        real = read_runs(parts["heldout"])
        affine = nib.load(parts["heldout"].table["bold_path"].iloc[0]).affine
        self.judge = NeuroJudge(
            real, affine, train=self.trained, splits=config.splits, seed=config.seed
        )
        table = parts["heldout"].table
        columns = [name for name in PEOPLE if name in table]
        first = table.drop_duplicates("subject_id").set_index("subject_id")[columns]
        self.people: dict[str, dict[str, Any]] = {
            str(name): dict(row) for name, row in first.iterrows()
        }
        self.requests = [Request.like(each) for each in real]
        few = list(self.people)[: config.drawn]
        self.few = [each for each in self.requests if each.subject in few]
        self.networks = (HYBRID, MIXED, UNET) if config.seconds else ()
        self.rows: dict[str, dict[str, Any]] = {}
        self.extra: dict[str, Any] = {}
        self.heldout = parts["heldout"]

    def main(self) -> None:
        """Trivial generators and samplers."""
        for name, trivial in GENERATORS.items():

            def fit(trivial: Callable[[], Any] = trivial) -> tuple[Any, dict[str, Any]]:
                return trivial().fit(self.trained), {}

            self._row("main", name, fit, self.requests)
        self._row("main", CLOSED, partial(self._sampler, CLOSED), self.requests)
        self._row("networks", CLOSED, partial(self._sampler, CLOSED), self.few)
        for name in self.networks:
            self._row("networks", name, partial(self._sampler, name), self.few)

    def variants(self) -> None:
        """Scaling, ablation and steps."""
        config = self.config
        for count in config.people:
            self._row("people", str(count), partial(self._closed, count), self.few)
        if not self.networks:
            return
        for width in config.widths:
            widths = {} if width == self.base.widths[0] else {"widths": (width, 2 * width)}
            self._row("width", str(width), partial(self._cell, widths), self.few)
        for name in config.ablations:
            self._row("ablation", name, partial(self._cell, ABLATIONS[name]), self.few)
        for steps in config.steps:
            self._row("steps", str(steps), partial(self._sampler, MIXED, steps), self.few)

    def probes(self) -> None:
        """Unseen timing and a long run, of the closed form and of a network."""
        config, judge = self.config, self.judge
        asked: dict[str, tuple[Any, ...]] = {
            "timing": (unseen_timing, self.people, config.drawn, config.usual, config.seed),
            "length": (any_length, config.tasks[0], config.usual, config.seed),
        }
        for what, (ask, *rest) in asked.items():
            self.extra[what] = {}
            for name in PROBED if self.networks else PROBED[:1]:

                def probe(ask: Any = ask, name: str = name, rest: Any = rest) -> dict[str, Any]:
                    result: dict[str, Any] = ask(self._sampler(name)[0].sampler, judge, *rest)
                    return result

                self.extra[what][name] = self.folder.cell({what: name}, probe)

    def shown(self) -> dict[str, np.ndarray]:
        """Mean maps for the pictures."""
        groups = {CLOSED: "main", **dict.fromkeys(self.networks, "networks")}
        maps = {name: self.folder.array({group: name}) for name, group in groups.items()}
        return {"real": self.judge.real.group(), **maps}

    def _row(
        self, group: str, name: str, make: Callable[[], tuple[Any, Any]], asked: Sequence[Request]
    ) -> None:
        def row() -> dict[str, Any]:
            generator, cost = make()
            made = self.judge.read(generator.draw(asked, range(len(asked))))
            if isinstance(generator, SamplerRuns):
                cost = dict(cost) | {"frames a second": generator.frames / generator.seconds}
            self.folder.keep_array({group: name}, made.group())
            return self.judge.table(made) | {"cost": cost}

        self.rows.setdefault(group, {})[name] = self.folder.cell({group: name}, row)

    def _sampler(self, name: str, steps: int | None = None) -> tuple[SamplerRuns, dict[str, Any]]:
        if name == CLOSED:
            return self._closed(self.config.train)
        shop, place, seconds = self.workshop, _slug(name), self.config.seconds
        if name == MIXED:
            return self._runs_of(*shop.denoiser(place, self.windows, seconds), steps)
        build = unet_beside if name == UNET else None
        return self._runs_of(*shop.network(place, {}, seconds, build), steps)

    def _closed(self, people: int) -> tuple[SamplerRuns, dict[str, Any]]:
        return self._runs_of(*self.workshop.closed_form(people))

    def _cell(self, changes: dict[str, Any]) -> tuple[SamplerRuns, dict[str, Any]]:
        changes = {k: v for k, v in changes.items() if getattr(self.base, k) != v}
        words = [f"{name} {value}" for name, value in changes.items()]
        place = _slug("cell " + " ".join(words))
        return self._runs_of(*self.workshop.network(place, changes, self.config.cell_seconds))

    def _runs_of(
        self, sampler: TaskFMRISampler, cost: dict[str, Any], steps: int | None = None
    ) -> tuple[SamplerRuns, dict[str, Any]]:
        sampler.check_disjoint(self.heldout, voxels=False)
        return SamplerRuns(sampler, self.people, steps or self.config.usual), cost


def plan(config: FMRI) -> list[tuple[str, float]]:
    """What would be done, and seconds for each."""
    people = config.train + config.validation + config.heldout
    each = 2 * len(config.tasks)
    part = (6 / config.spacing) ** 3
    frames, read = 100 * each * part, SECONDS["run read"] * each * part
    closed = frames * SECONDS["frame, closed form"] + read
    drawn = config.drawn * (frames * SECONDS["frame, network"] + read)
    fit = 4 * read
    cells = len(config.widths) + len(config.ablations)
    steps = [
        ("phantom", phantom_seconds("task", config.spacing, people) * (config.data is None)),
        ("held-out runs", 2 * config.heldout * read),
        ("trivial generators", len(GENERATORS) * config.heldout * read),
        (CLOSED, config.train * fit + (config.heldout + config.drawn) * closed),
        ("fewer people", sum(config.people) * fit + len(config.people) * config.drawn * closed),
        ("long runs and unseen timing", 2 * drawn),
    ]
    if not config.seconds:
        return steps
    return [
        *steps,
        ("codec and latents", config.codec_seconds + config.train * frames * 0.01),
        (f"{HYBRID}, {MIXED}, {UNET}", 3 * (config.seconds + drawn)),
        ("widths and ablations", cells * (config.cell_seconds + drawn)),
        ("steps", sum(drawn * (0.5 + count / 20) for count in config.steps)),
    ]


def _cohort(config: FMRI, folder: Run) -> Cohort:
    if config.data is not None:
        return load_cohort(config.data, ("bold",) if config.data.is_dir() else ())
    people = config.train + config.validation + config.heldout
    place = folder.folder / "phantom"
    make_phantom(
        place, "task", subjects=people, seed=config.seed, spacing=config.spacing, progress=True
    )
    return Cohort.from_bids(place)


def _shortest(cohort: Cohort) -> int:
    return min(int(nib.load(path).shape[3]) for path in cohort.table["bold_path"])


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text).lower().split())
