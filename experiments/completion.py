"""``neuromix experiment completion``: does a completer beat the regressions that it must beat?

Training, validation and held-out subjects of one split have both modalities. In each direction, the
completer and every baseline predict the held-out subjects' real images, by the metrics of
:mod:`augment.metrics.completion`, in the template's brain. Trained baselines get as much processor
time as the completer's fit took. Beside them stand the completer with the source of another
subject, and, on a phantom, the PSNR of its ideal regression.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio
from rich.console import Console

from augment import bids, files
from augment.cohort import Cohort, Split
from augment.errors import InputError
from augment.grid import template_on
from augment.metrics.completion import completion_table, source_use
from augment.phantom import make_phantom
from augment.regions import region_maps
from augment.report import report_page, slices
from augment.samplers.modality import ModalityCompleter
from augment.samplers.modality_config import MODALITIES, PRESETS, ModalityConfig
from augment.samplers.pairs import common_frame, paired, read
from experiments.completing import ABLATIONS, ablated
from experiments.completion_baselines import baselines
from experiments.data import load_cohort
from experiments.run import Run

RANGE = 1.6
"""Data range of PSNR and SSIM: of the phantom, and of segments in their usual units."""
HALF = 0.5
"""Where the template's brain begins."""


@dataclass(frozen=True)
class Completion:
    """What decides the results."""

    data: str = ""
    """BIDS folder or table; by default a phantom is made."""
    preset: str = "tiny"
    train: int = 160
    validation: int = 20
    heldout: int = 40
    samples: int = 16
    spacing: float = 6.0
    arms: tuple[str, ...] = ("full",)
    """``full``, ``source-blind``, and parts to leave out: ``pattern``, ``refinement``,
    ``microstructure``, ``diagnosis``."""
    baselines: tuple[str, ...] = tuple(baselines(0))
    seconds: float | None = None
    """Processor time of each trained baseline; by default that of the first arm's fit."""
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "arms": ("full", "source-blind", *ABLATIONS),
            "baselines": tuple(baselines(0)),
            "preset": tuple(PRESETS),
        }
        given = {"arms": self.arms, "baselines": self.baselines, "preset": (self.preset,)}
        for field, names in given.items():
            for name in names:
                if name not in allowed[field]:
                    raise InputError(
                        f"{field} {name!r} is not known; allowed are {', '.join(allowed[field])}"
                    )
        if not self.arms:
            raise InputError("no arm came; name at least one, such as full")


def run(settings: Completion, out: Path) -> dict[str, Any]:
    """Run the experiment; finished cells are not computed again.

    Args:
        settings: What to do.
        out: Run folder, or a folder of them.
    """
    console = Console()
    with Run.open(out, "completion", asdict(settings), console) as stage:
        split, truth = _subjects(settings, stage)
        bench = Bench(settings, split, stage)
        seconds = settings.seconds
        for arm in settings.arms:
            record = stage.cell({"fit": arm}, lambda arm=arm: bench.fit(arm))  # type: ignore[misc]
            seconds = seconds if seconds is not None else record["processor"]
            for want in MODALITIES:
                stage.cell({"arm": arm, "want": want}, lambda a=arm, w=want: bench.judge(a, w))  # type: ignore[misc]
        for name in settings.baselines:
            for want in MODALITIES:
                stage.cell(
                    {"baseline": name, "want": want},
                    lambda n=name, w=want: bench.baseline(n, w, float(seconds or 0)),  # type: ignore[misc]
                )
        results = summarise(stage.records(), truth)
        picture = bench.montage(settings.arms[0])
        page = report_page(
            title="neuromix completion",
            verdict=results["verdict"],
            tables=[(f"{w} from the other", _frame(results["tables"][w])) for w in MODALITIES],
            figures=picture,
            warnings=["one fit an arm: how much another would differ is in no interval"],
            config=asdict(settings),
        )
        stage.finish(results, page)
    return results


@dataclass
class Bench:
    """Held-out subjects, and what predicts them."""

    settings: Completion
    split: Split
    stage: Run

    def __post_init__(self) -> None:
        self.grid, _ = common_frame(self.split.train)
        self.mask = template_on(self.grid)["brain"] > HALF
        self.regions = region_maps(self.grid)
        self.test = self.split.test.subjects()

    def config(self, arm: str) -> ModalityConfig:
        """The settings of an arm."""
        config = PRESETS[self.settings.preset]
        config = replace(config, training=replace(config.training, seed=self.settings.seed))
        if arm == "full":
            return config
        if arm == "source-blind":
            return replace(config, source_blind=True)
        return ablated(config, [arm])

    def folder(self, arm: str) -> Path:
        """Where an arm's completer lies."""
        return self.stage.folder / "completers" / arm

    def fit(self, arm: str) -> dict[str, Any]:
        """Fit an arm."""
        begun = time.process_time()
        _, trained = ModalityCompleter.fit(
            self.split.train, self.config(arm), self.folder(arm), validation=self.split.val,
            progress=True,
        )  # fmt: skip
        return {
            "processor": time.process_time() - begun,
            "best_step": trained.best_step,
            "validation": trained.validation,
        }

    def judge(self, arm: str, want: str) -> dict[str, Any]:
        """An arm's table, and what a shuffled source costs."""
        completer = ModalityCompleter.from_pretrained(self.folder(arm))
        completer.check_disjoint(self.split.test)
        begun, errors = time.process_time(), {"own": 0.0, "shuffled": 0.0, "mean": 0.0}
        average = np.mean(
            [read(s[want], want).numpy() for s in self.split.train.subjects()], axis=0
        )

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for k, subject in enumerate(self.test):
                real = read(subject[want], want).numpy()
                own, other = (
                    completer.posterior(_without(s, want), want, k, self.settings.samples)
                    for s in (subject, self.test[k - 1])
                )
                for name, image in (
                    ("own", own.mean.numpy()), ("shuffled", other.mean.numpy()), ("mean", average),
                ):  # fmt: skip
                    error = (image - real)[:, self.mask]
                    errors[name] += float((error**2).mean()) / len(self.test)
                yield own.samples, real

        table = self.table(pairs())
        made = 2 * len(self.test)
        return {
            "table": table, "errors": errors,
            "processor a subject": (time.process_time() - begun) / made,
        }  # fmt: skip

    def baseline(self, name: str, want: str, seconds: float) -> dict[str, Any]:
        """A baseline's table."""
        have = MODALITIES[1 - MODALITIES.index(want)]
        train = self.split.train.subjects()
        source, target = (np.stack([read(s[m], m).numpy() for s in train]) for m in (have, want))
        begun = time.process_time()
        fitted = baselines(seconds, self.settings.seed)[name].fit(source, target)
        processor = time.process_time() - begun
        seeds = range(self.settings.samples)

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for subject in self.test:
                seen = read(subject[have], have).numpy()[None]
                yield fitted.predict(seen, seeds)[0], read(subject[want], want).numpy()

        steps = getattr(fitted, "steps_", None)
        return {"table": self.table(pairs()), "processor": processor, "steps": steps}

    def table(self, pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, float]]:
        """See :func:`augment.metrics.completion.completion_table`."""
        return completion_table(
            pairs, mask=self.mask, data_range=RANGE, regions=self.regions, seed=self.settings.seed
        )

    def montage(self, arm: str) -> list[tuple[bytes, str]]:
        """Real, mean, sample and uncertainty of the first held-out subject, both directions."""
        completer = ModalityCompleter.from_pretrained(self.folder(arm))
        pictures = []
        for want in MODALITIES:
            subject = self.test[0]
            real = read(subject[want], want).numpy()[0]
            posterior = completer.posterior(_without(subject, want), want, 0, self.settings.samples)
            volumes = [real, posterior.mean.numpy()[0], posterior.samples[0, 0]]
            volumes.append(10 * posterior.deviation.numpy()[0])
            titles = ["real", "mean", "one sample", "10 x deviation"]
            picture = slices(volumes, titles, upper=float(np.percentile(real, 99.8)))
            files.write_bytes(self.stage.folder / f"montage-{want}.png", picture)
            text = f"The first segment of {want} of a held-out subject, made from the other."
            pictures.append((picture, text))
        return pictures


def summarise(records: list[dict[str, Any]], truth: dict[str, Any] | None) -> dict[str, Any]:
    """Tables by direction and the verdict, as plain content."""
    tables: dict[str, dict[str, Any]] = {want: {} for want in MODALITIES}
    extra: dict[str, dict[str, Any]] = {want: {} for want in MODALITIES}
    for record in records:
        cell = record["cell"]
        if "want" not in cell:
            continue
        want, name = cell["want"], cell.get("arm") or cell["baseline"]
        tables[want][name] = record["table"]
        if "errors" in record:
            extra[want][name] = {"errors": record["errors"]}
            if truth:
                ideal = RANGE**2 / 10 ** (truth[want]["psnr_ideal_regression"] / 10)
                use = source_use(record["errors"] | {"ideal": ideal})
                extra[want][name]["share of the ideal's gain that a shuffle costs"] = use
    said = []
    for want, table in tables.items():
        first = next(name for name in table if name in extra[want])
        others = [name for name in table if name not in extra[want]]
        best = max(others, key=lambda n: table[n]["psnr"]["value"], default=None)
        text = f"{want} {table[first]['psnr']['value']:.2f} dB"
        if best:
            text += f" against {table[best]['psnr']['value']:.2f} dB of the best baseline, {best}"
        if truth:
            text += f", and {truth[want]['psnr_ideal_regression']:.2f} dB of the ideal regression"
        said.append(text)
    return {"verdict": "; ".join(said) + ".", "tables": tables, "source": extra, "truth": truth}


def _subjects(settings: Completion, stage: Run) -> tuple[Split, dict[str, Any] | None]:
    counts = (settings.train, settings.validation, settings.heldout)
    truth = None
    if settings.data:
        cohort = paired(load_cohort(Path(settings.data)))
    else:
        folder = make_phantom(
            stage.folder / "phantom", "paired", subjects=sum(counts), seed=settings.seed,
            spacing=settings.spacing, progress=True,
        )  # fmt: skip
        cohort = Cohort.from_bids(folder)
        truth = bids.read_json(folder / "truth.json")["prediction_from_the_other_modality"]
    if len(cohort.subject_keys) < sum(counts):
        raise InputError(
            f"{len(cohort.subject_keys)} subjects have both modalities, and {sum(counts)} are "
            "asked for; lower train, validation or heldout"
        )
    whole = sum(counts)
    fractions = (counts[0] / whole, counts[1] / whole, counts[2] / whole)
    return cohort.split(fractions, stratify=("diagnosis",), seed=settings.seed), truth


def _without(subject: tio.Subject, want: str) -> tio.Subject:
    """The subject as one that lacks an image."""
    return tio.Subject({key: value for key, value in subject.items() if key != want})


def _frame(tables: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for name, table in tables.items():
        shown = {
            k: f"{v['value']:.3g} ({v['low']:.3g} to {v['high']:.3g})" for k, v in table.items()
        }
        rows.append({"arm": name, **shown})
    return pd.DataFrame(rows).fillna("")
