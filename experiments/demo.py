"""The demo: three phantoms, three samplers, what they make, an audit, and one page that says how.

    runs/0001-demo/
        phantom-md/   phantom-task/   phantom-paired/   three cohorts whose truth is known
        sampler-md/   sampler-fmri/   completer/        fitted to training subjects alone
        bank-md/      bank-fmri/      imputed/          what they made
        0001-audit/   the data card of bank-md
        report.html   what happened

Sizes are for showing that all works, in minutes: nothing is learnt about real brains, and little
about the samplers. Kill it, run it again, and it goes on.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from neuromix.augment.bank import quotas
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.completion import complete_dataset
from neuromix.augment.data.cohort import Cohort, Split
from neuromix.augment.fmri import config as task_fmri_config
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.metrics.glm import first_level
from neuromix.augment.metrics.task_runs import read_runs, signal_mask
from neuromix.augment.pds import config as modality_config
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import shortened
from neuromix.augment.phantom import make_phantom
from neuromix.augment.tiled import config as tiled_md_config
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.experiments.audit import audit
from neuromix.experiments.frame.figures import Picture, label_text, slices
from neuromix.experiments.frame.pages import report_page
from neuromix.experiments.frame.run import Run

NAME = "demo"
TASK = "motor"
SPACING = {"md": 8.0, "task": 12.0, "paired": 12.0}
SEED = 0
AUDIT = "0001-audit"


@dataclass(frozen=True)
class Sizes:
    """How large the demo is."""

    md: int = 160
    task: int = 40
    paired: int = 48
    samples: int = 80
    md_steps: int = 150
    pds_steps: int = 60
    judge_steps: int = 200
    seeds: int = 3


QUICK = Sizes(
    md=80, task=12, paired=24, samples=32, md_steps=20, pds_steps=10, judge_steps=25, seeds=1
)


def run(out: Path, *, quick: bool = False, sizes: Sizes | None = None) -> Path:
    """Make all of it, or go on with that, and write ``report.html``."""
    sizes = sizes or (QUICK if quick else Sizes())
    console = Console()
    with Run.open(out, NAME, asdict(sizes), console) as frame:
        work = _Demo(sizes, frame)
        stages = {
            "phantoms": work.phantoms, "MD maps": work.md, "task fMRI": work.fmri,
            "completion": work.completion, "audit": work.audit,
        }  # fmt: skip
        results: dict[str, Any] = {}
        for number, (name, stage) in enumerate(stages.items(), 1):
            console.rule(f"{number} of {len(stages)}: {name}")
            results[name] = frame.cell({"stage": name}, stage)
        results["verdict"] = _verdict(results)
        results |= frame.about
        frame.finish(results, work.page(results))
        console.print(f"{results['verdict']} Open {frame.folder / 'report.html'}")
        return frame.folder


class _Demo:
    """The stages, each of which finds what an earlier one or an earlier run has made."""

    def __init__(self, sizes: Sizes, frame: Run) -> None:
        self.sizes, self.folder = sizes, frame.folder

    def phantoms(self) -> dict[str, Any]:
        """The three cohorts."""
        problems = []
        for kind, spacing in SPACING.items():
            make_phantom(
                self.folder / f"phantom-{kind}", kind, subjects=getattr(self.sizes, kind),
                spacing=spacing, seed=SEED, progress=True,
            )  # fmt: skip
            problems += self._cohort(kind).validate()
        parts = self._split("md")
        parts.save(self.folder / "split")
        return {
            "problems": [str(problem) for problem in problems],
            "subjects": {kind: getattr(self.sizes, kind) for kind in SPACING},
            "split": {name: len(part) for name, part in parts._asdict().items()},
        }

    def md(self) -> dict[str, Any]:
        """The tiled DiT, and a bank of its samples."""
        parts = self._split("md")
        preset = tiled_md_config.PRESETS["demo"]
        config = replace(preset, training=_steps(preset.training, self.sizes.md_steps))
        sampler, result = TiledMDSampler.fit(
            parts.train, config, self.folder / "sampler-md", validation=parts.val, progress=True
        )
        sampler.set_progress_bar_config(disable=True)
        wanted = quotas.like(parts.train, sampler.label_space, self.sizes.samples, SEED)
        bank = SampleBank.fill(
            self.folder / "bank-md", sampler, wanted, SEED, steps=10, progress=True
        )
        bank.check_disjoint(parts.test)
        return {"samples": len(bank), "best step": result.best_step}

    def fmri(self) -> dict[str, Any]:
        """Runs of one task from the closed form, beside those of held-out people."""
        parts = self._split("task")
        train = parts.train.where(task=TASK)
        sampler, _ = TaskFMRISampler.fit(
            train, task_fmri_config.PRESETS["demo"], self.folder / "sampler-fmri", progress=True
        )
        people = len({*parts.test.subject_keys})
        wanted = quotas.grid(sampler.label_space, {"task": TASK}, people, SEED)
        bank = SampleBank.fill(self.folder / "bank-fmri", sampler, wanted, SEED, progress=True)
        bank.check_disjoint(parts.test)
        condition, maps = self._response_maps()
        brain = np.all([each != 0 for each in maps], axis=0)
        agreement = np.corrcoef([each[brain] for each in maps])[0, 1]
        return {"runs": len(bank), "condition": condition, "agreement": float(agreement)}

    def completion(self) -> dict[str, Any]:
        """The fMRI of held-out people, which is hidden, from their dMRI."""
        parts = self._split("paired")
        config = shortened(
            modality_config.PRESETS["demo"], self.sizes.pds_steps, 2 * self.sizes.pds_steps
        )
        completer, _ = ModalityCompleter.fit(
            parts.train, config, self.folder / "completer", progress=True
        )
        completer.check_disjoint(parts.test)
        done = complete_dataset(
            self._hidden(parts.test), completer, self.folder / "imputed", samples=4, progress=True
        )
        truth, made = self._truth_and_made(parts.test)
        mean = np.mean([s["fmri"].numpy() for s in parts.train.subjects()], axis=0)
        brain = mean > 0.1 * mean.max()
        errors = [
            float(np.mean(np.square((other - truth)[:, brain]))) for other in (made, mean[None])
        ]
        return {"images": done.made + done.stood, "error to the mean": errors[0] / errors[1]}

    def audit(self) -> dict[str, Any]:
        """The data card of the bank of MD maps."""
        sizes, split = self.sizes, self.folder / "split"
        config = audit.Audit(
            self.folder / "bank-md", split / "train.tsv", split / "test.tsv", seeds=sizes.seeds,
            steps=sizes.judge_steps, seed=SEED,
        )  # fmt: skip
        card = audit.run(config, self.folder / AUDIT)
        return {key: card[key] for key in ("verdict", "level", "utility")}

    def page(self, results: dict[str, Any]) -> str:
        """All of it on one page."""
        rows = [
            (target, title, row["b"], row["a"], *(100 * x for x in row["interval"]))
            for target, use in results["audit"]["utility"].items()
            for title, row in (("real + samples", use["gain"]), ("samples only", use["swap"]))
        ]
        names = ["target", "trained on", "real only", "so", "points gained, from", "to (95 %)"]
        fmri, completion = results["task fMRI"], results["completion"]
        card = results["audit"]["verdict"]
        made = [
            ("MD maps in the bank", results["MD maps"]["samples"]),
            ("task fMRI runs in the bank", fmri["runs"]),
            (f"their response to {fmri['condition']} is people's, r", fmri["agreement"]),
            ("fMRI images filled in", completion["images"]),
            ("their squared error, to that of the mean volume", completion["error to the mean"]),
        ]
        return report_page(
            results,
            title="neuromix demo",
            tables=[
                ("What was made", pd.DataFrame(made, columns=["what", "figure"])),
                ("Does a classifier gain?", pd.DataFrame(rows, columns=names)),
                ("The data card of the MD bank", pd.DataFrame({"verdict": [card]})),
            ],
            figures=self._figures(),
            methods=[
                "Phantoms are split by subject; samplers and completer see training subjects "
                "alone, and the leak guard has compared names and images. The data card has a page "
                f"of its own: {AUDIT}/report.html."
            ],
            warnings=[
                "Sizes are for showing that all works, in minutes. The README has figures of runs "
                "that are long enough to mean something.",
            ],
        )  # fmt: skip

    def _figures(self) -> list[Picture]:
        parts = self._split("md")
        real = parts.test.subjects()[:3]
        bank = SampleBank(self.folder / "bank-md")
        made = [
            bank.draw({k: s[k] for k in ("sex", "diagnosis") if k in bank.labels}, SEED)
            for s in real
        ]
        both = [each for pair in zip(real, made, strict=True) for each in pair]
        titles = [f"{'sample' if s['synthetic'] else 'real'}: {label_text(s)}" for s in both]
        condition, maps = self._response_maps()
        truth, filled = self._truth_and_made(self._split("paired").test)
        return [
            (
                slices([s["md"].numpy()[0] for s in both], titles, upper=2.5),
                "Mean diffusivity, 0 to 2.5e-3 mm²/s: held-out phantom subjects, and a sample of "
                "the same sex and diagnosis after each.",
            ),
            (
                slices([np.abs(m) for m in maps], ["held-out people", "samples"]),
                f"Task fMRI: strength of the response to {condition}, mean over people.",
            ),
            (
                slices([truth[0, 0], filled[0, 0]], ["hidden fMRI", "made from dMRI"]),
                "Completion: the first fMRI segment of a held-out person, which was hidden, and "
                "the mean of four samples made from the dMRI.",
            ),
        ]

    def _cohort(self, kind: str) -> Cohort:
        return Cohort.from_bids(self.folder / f"phantom-{kind}")

    def _split(self, kind: str) -> Split:
        fractions = (0.5, 0.1, 0.4) if kind == "md" else (0.6, 0.0, 0.4)
        return self._cohort(kind).split(fractions, seed=SEED)

    def _response_maps(self) -> tuple[str, list[np.ndarray]]:
        """A condition, and its mean effect in per cent, (X, Y, Z), in people and in samples."""
        split = self._split("task")
        mask = signal_mask(read_runs(split.train.where(task=TASK)))
        samples = Cohort.from_bids(self.folder / "bank-fmri", ["bold"])
        maps: list[np.ndarray] = []
        for cohort in (split.test.where(task=TASK), samples):
            runs = read_runs(cohort)
            fits = [first_level(run.series(mask), run.events, run.tr) for run in runs]
            condition = min(fits[0].effects)
            maps.append(np.zeros(mask.shape))
            maps[-1][mask] = np.mean([fit.effects[condition] for fit in fits], axis=0)
        return condition, maps

    def _hidden(self, test: Cohort) -> Path:
        """A dataset of held-out subjects that have dMRI alone."""
        place = self.folder / "phantom-incomplete"
        source = self.folder / "phantom-paired"
        for subject in test.table["subject_id"]:
            shutil.copytree(
                source / f"sub-{subject}", place / f"sub-{subject}",
                ignore=shutil.ignore_patterns("func"), dirs_exist_ok=True,
            )  # fmt: skip
        for name in ("dataset_description.json", "participants.tsv"):
            shutil.copy(source / name, place / name)
        return place

    def _truth_and_made(self, test: Cohort) -> tuple[np.ndarray, np.ndarray]:
        """Hidden images and what was made in their place, (subjects, segments, X, Y, Z)."""
        made = Cohort.from_bids(self.folder / "imputed", ["fmri"])
        table = made.table.set_index("subject_id").loc[test.table["subject_id"]].reset_index()
        return tuple(
            np.stack([s["fmri"].numpy() for s in each.subjects()]) for each in (test, Cohort(table))
        )  # type: ignore[return-value]


def _verdict(results: dict[str, Any]) -> str:
    """What happened, in sentences."""
    gains = []
    for target, use in results["audit"]["utility"].items():
        row = use["gain"]
        low, high = (100 * end for end in row["interval"])
        points = f"{100 * row['difference']:+.1f} points ({low:.1f} to {high:.1f})"
        gains.append(f"{target} by {points}")
    said = "No use shown"
    if gains:
        said = f"Samples beside real subjects changed {' and '.join(gains)}"
    fmri, completion = results["task fMRI"], results["completion"]
    return (
        f"{said}, 95 % intervals. The mean response of {fmri['runs']} synthetic runs to "
        f"{fmri['condition']} is that of held-out people with r = {fmri['agreement']:.2f}. "
        f"{completion['images']} hidden fMRI images were filled in "
        f"from dMRI with {100 * completion['error to the mean']:.0f} % of the squared error of a "
        "mean volume."
    )


def _steps(training: Any, steps: int) -> Any:
    """The training with other numbers of steps."""
    every = min(training.validate_every, steps)
    return replace(
        training, steps=steps, warmup=min(training.warmup, steps // 4), validate_every=every,
        checkpoint_every=every,
    )  # fmt: skip
