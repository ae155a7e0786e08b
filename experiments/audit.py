"""The audit of a bank: is it fit for use, and if not, why?

    training subjects ──► bank ──► fidelity, diversity, anatomy   ┐
            │                      labels, and whether they matter │
            └── privacy ───────────┘                               ├─► findings ──► verdict
    held-out subjects ─┬─ judges: train classifiers and features   │
                       └─ tests: everything is compared with them ─┘

Held-out subjects had no part in the bank: that is the first thing that is checked. Half of them
train the classifier that judges labels and the features, the other half are compared with and
tested on, so that no subject judges what it has shaped. Utility is measured there, too: a
classifier trained on real subjects, on samples, and on both.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torchio as tio
from rich.console import Console

from augment.bank import SampleBank
from augment.cohort import Cohort
from augment.errors import InputError, LeakageError
from augment.leakage import subject_hash
from augment.metrics import anatomy
from augment.metrics import features as clouds
from augment.metrics.fidelity import label_faithfulness
from augment.metrics.privacy import closest, membership
from augment.samplers.latents import common_grid, known
from augment.samplers.tiled_md_config import FAINTEST, LARGEST
from classifiers.evaluate import compare, summarise
from experiments import audit_report
from experiments.arms import judge, runs_of, sex_or_dementia
from experiments.data import load_cohort
from experiments.fidelity_judges import TARGETS, Bench, targets
from experiments.run import Run

NAME = "audit"
FEWEST = 24
"""Scans or samples of each set: half of the held-out ones must do for a comparison of sets."""
ARMS = ("real", "synthetic", "both")
"""What the classifiers of utility are trained on."""
SHUFFLES = 20
"""Random deals of the labels among the samples."""
SHOWN = 4
"""Pairs in each picture."""


@dataclass(frozen=True)
class Audit:
    """What to audit. See ``neuromix audit --help``."""

    bank: Path
    train: Path
    heldout: Path
    seeds: int = 3
    steps: int = 250
    judge_steps: int = 500
    most: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.seeds, self.steps, self.judge_steps) < 1 or self.most < FEWEST:
            raise InputError(
                f"seeds {self.seeds}, steps {self.steps}, judge-steps {self.judge_steps} and most "
                f"{self.most} came; allowed are 1 or more, and {FEWEST} or more for most"
            )


def run(config: Audit, out: Path) -> dict[str, Any]:
    """Do what is not done yet; write ``results.json`` and ``report.html``."""
    console = Console()
    bank = SampleBank(config.bank)
    settings = asdict(config) | {"digest": bank.digest()}
    with Run.open(out, NAME, settings, console) as frame, warnings.catch_warnings():
        # MCI is no answer to the question of dementia; that is known, and not said for each fit.
        warnings.filterwarnings("ignore", message=".* have no label .* and are left out")
        work = _Audit(config, bank, frame)
        results = {
            "files": frame.cell({"part": "files"}, work.files),
            "overlap": frame.cell({"part": "overlap"}, work.overlap),
            "provenance": frame.cell({"part": "provenance"}, work.provenance),
            "fidelity": frame.cell({"part": "fidelity"}, work.fidelity),
            "labels": frame.cell({"part": "labels"}, work.labels)["told"],
            "anatomy": frame.cell({"part": "anatomy"}, work.anatomy),
            "privacy": frame.cell({"part": "privacy"}, work.privacy),
            "utility": work.utility(),
        }
        results = audit_report.weigh(results) | results | {"config": frame.config}
        frame.finish(results, audit_report.page(results, *work.pictures(results["privacy"])))
    console.print(audit_report.overview(results))
    return results


class _Audit:
    """The parts of an audit; each reads what it needs."""

    def __init__(self, config: Audit, bank: SampleBank, frame: Run) -> None:
        self.config, self.bank, self.frame = config, bank, frame
        if bank.images != ("md",):
            raise InputError(
                f"{bank.path} holds {', '.join(bank.images)}; the audit knows md alone so far"
            )
        train, heldout = (
            load_cohort(path, ("md",) if path.is_dir() else ())
            for path in (config.train, config.heldout)
        )
        both = set(train.subject_keys) & set(heldout.subject_keys)
        if both:
            raise InputError(
                f"{len(both)} subjects are in --train and --heldout, the first is {min(both)}; "
                "split them with `neuromix cohort DATA --out FOLDER`"
            )
        halves = heldout.split((0.5, 0.0, 0.5), seed=config.seed)
        sizes = {
            "--train": len(train), "half of --heldout": len(halves.test), "the bank": len(bank),
        }  # fmt: skip
        for name, size in sizes.items():
            least = FEWEST // 2 if name.startswith("half") else FEWEST
            if size < least:
                raise InputError(f"{name} has {size} scans; an audit needs {least} or more")
        self.whole = {"train": train, "heldout": heldout}
        parts = {
            "train": self._some(train),
            "heldout": self._some(halves.test),
            "judges": self._some(halves.train),
        }
        self.bench = Bench(parts, config.judge_steps, config.seed)
        self.tests = parts["heldout"]
        grid, other = self.bench.grid, common_grid(train)
        if grid != other:
            raise InputError(f"--train lies on {other} and --heldout on {grid}; use one grid")
        self.chosen, self.is_matched = _matched(
            bank, self.bench.rows("heldout"), config.most, config.seed
        )

    def files(self) -> dict[str, Any]:
        """Is every file as it was written?"""
        problems = self.bank.verify()
        return {"samples": len(self.bank), "problems": len(problems), "first": problems[:3]}

    def overlap(self) -> dict[str, Any]:
        """Did a held-out subject have a part in the bank?"""
        try:
            self.bank.check_disjoint(self.whole["heldout"])
        except LeakageError as error:
            return {"subjects": len(error.subjects), "says": str(error)}
        return {"subjects": 0, "says": ""}

    def provenance(self) -> dict[str, Any]:
        """Who and what made the bank."""
        record, about = self.bank.record, self.bank.about
        seen = set(record["subjects"])
        named = {subject_hash(*key) for key in self.whole["train"].subject_keys}
        rejected = self.bank.path / "rejected.tsv"
        return {
            "sampler": about["sampler"],
            "settings": about["settings"],
            "versions": record.get("versions", {}),
            "subjects seen": len(seen),
            "training subjects named": len(named),
            "of these seen": len(named & seen),
            "rejected": max(0, len(rejected.read_text().splitlines()) - 1)
            if rejected.is_file()
            else 0,
        }

    def fidelity(self) -> dict[str, Any]:
        """Every metric of fidelity, beside held-out subjects."""
        table = self.bench.compare(self.made, self.asked)
        return table | {"same labels as held-out": self.is_matched}

    def labels(self) -> dict[str, Any]:
        """Do samples show their labels, and does it matter which label was asked for?"""
        found = {}
        rng = np.random.default_rng(self.config.seed)
        for target, classifier in self.bench.classifiers.items():
            classes = [str(c) for c in classifier.classes_]
            asked = np.array(targets(target, self.asked), dtype=object)
            labelled = np.flatnonzero([label is not None for label in asked])
            if not set(classes) <= set(asked[labelled]):
                continue
            predict = _remembered(self.bench.predictor(target)(self.made[labelled]))
            shuffled = [
                label_faithfulness(
                    predict, self.made[labelled], rng.permutation(asked[labelled]).tolist(), classes
                )["value"]
                for _ in range(SHUFFLES)
            ]
            real = label_faithfulness(
                self.bench.predictor(target),
                self.bench.volumes("heldout"),
                targets(target, self.bench.rows("heldout")),
                classes,
                seed=self.config.seed,
            )
            own = label_faithfulness(
                predict, self.made[labelled], asked[labelled].tolist(), classes,
                seed=self.config.seed,
            )  # fmt: skip
            found[target] = {
                "own": own, "shuffled": float(np.mean(shuffled)), "real": real,
                "chance": 1 / len(classes),
            }  # fmt: skip
        return {"told": found}

    def anatomy(self) -> dict[str, Any]:
        """Left and right, and values that no tissue has."""
        mask = anatomy.brain_mask(self.bench.volumes("train"))
        made, real = (
            anatomy.asymmetry(v, mask) for v in (self.made, self.bench.volumes("heldout"))
        )
        values, references = clouds.beside_real(
            anatomy.correlation_of_means, real, made, seed=self.config.seed
        )
        inside = self.made[:, mask]
        # What the samplers leave, with room for rounding.
        odd = ((inside < FAINTEST / 2) & (inside != 0)) | (inside > LARGEST * 1.01)
        return {
            "left-right": {
                "value": float(values.mean()), "real": float(references.mean()),
                "interval": np.quantile(values, (0.025, 0.975)).tolist(),
                "real_interval": np.quantile(references, (0.025, 0.975)).tolist(),
            },
            "outside the range": float(odd.mean()),
            "range": [float(self.made.min()), float(self.made.max())],
        }  # fmt: skip

    def privacy(self) -> dict[str, Any]:
        """Do samples give away who was trained on?"""
        mask = anatomy.brain_mask(self.bench.volumes("train"))
        made, train, heldout = (
            volumes[:, mask]
            for volumes in (self.made, self.bench.volumes("train"), self.bench.volumes("heldout"))
        )
        among = clouds.squared_distances(heldout, heldout)
        np.fill_diagonal(among, np.inf)
        return {
            "membership": membership(made, train, heldout, seed=self.config.seed),
            "closest": closest(made, train, SHOWN),
            "closest real pair": float(np.sqrt(among.min() / made.shape[1])),
        }

    def utility(self) -> dict[str, Any]:
        """Balanced accuracy on test subjects, trained on real subjects, on samples and on both."""
        found: dict[str, Any] = {}
        if self.frame.cell({"part": "overlap"}, self.overlap)["subjects"]:
            return found  # nobody tests what he has shaped
        for target in TARGETS:
            sets = {"real": self.bench.rows("train"), "synthetic": self.asked}
            sets["held-out"] = self.bench.rows("heldout")
            counts = [self._fewest(target, rows) for rows in sets.values()]
            if min(counts) < 2:
                continue
            for arm in ARMS:
                for seed in range(self.config.seeds):
                    self.frame.cell(
                        {"target": target, "arm": arm, "seed": seed},
                        functools.partial(self._fit, target, arm, seed),
                    )
            runs = {
                arm: runs_of(self.frame, {"target": target}, arm, self.config.seeds)[0]
                for arm in ARMS
            }
            found[target] = {
                "scores": {arm: summarise(each) for arm, each in runs.items()},
                "gain": compare(runs["both"], runs["real"]),
                "swap": compare(runs["synthetic"], runs["real"]),
            }
        return found

    def pictures(self, privacy: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Volumes with titles: samples beside held-out subjects, and beside training subjects."""
        rows, real = self.bench.rows("heldout"), self.bench.volumes("heldout")
        pairs: list[Any] = []
        for k in range(min(SHOWN, len(real))):
            alike = [sum(row.get(n) == rows[k].get(n) for n in TITLE) for row in self.asked]
            best = int(np.argmax(alike))
            pairs += [(real[k], f"real {_title(rows[k])}")]
            pairs += [(self.made[best], f"sample {_title(self.asked[best])}")]
        train = self.bench.volumes("train")
        near: list[Any] = []
        for sample, subject, apart in privacy["closest"]:
            near += [(self.made[sample], f"sample, {apart:.3f} off")]
            near += [(train[subject], "training subject")]
        return pairs, near

    @functools.cached_property
    def samples(self) -> list[tio.Subject]:
        """The chosen samples, on the grid of the real subjects."""
        every = self.bank.subjects()
        chosen = [every[k] for k in self.chosen]
        grid = self.bench.grid
        for subject in chosen[:1]:
            image = subject["md"]
            is_there = np.allclose(image.affine, grid.affine, atol=1e-3)
            if tuple(image.spatial_shape) != grid.shape or not is_there:
                raise InputError(
                    f"{self.bank.path} has samples of {tuple(image.spatial_shape)} voxels and the "
                    f"real subjects lie on {grid}, or they lie elsewhere; bring the real ones to "
                    "the grid of the bank with `neuromix prepare`"
                )
        return chosen

    @functools.cached_property
    def made(self) -> np.ndarray:
        """Their volumes, (N, X, Y, Z)."""
        return np.stack([subject["md"].data[0].float().numpy() for subject in self.samples])

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Their labels."""
        names = ("sex", "diagnosis", "age")
        return [{name: subject[name] for name in names} for subject in self.samples]

    def _some(self, cohort: Cohort) -> Cohort:
        """At most so many scans as memory shall hold."""
        order = np.random.default_rng(self.config.seed).permutation(len(cohort))
        return cohort.where(np.isin(np.arange(len(cohort)), order[: self.config.most]))

    def _fewest(self, target: str, rows: list[dict[str, Any]]) -> int:
        labels = [label for label in targets(target, rows) if label is not None]
        counts = np.unique(labels, return_counts=True)[1]
        return int(counts.min()) if len(counts) > 1 else 0

    def _fit(self, target: str, arm: str, seed: int) -> dict[str, Any]:
        real = self._subjects("train")
        train = {"real": real, "synthetic": self.samples, "both": [*real, *self.samples]}[arm]
        classifier = sex_or_dementia(
            target, steps=self.config.steps, seed=seed, class_weight="balanced"
        )
        # The judges had no part in the bank, and only choose the checkpoint.
        return judge(classifier, train, self._subjects("judges"), self._subjects("heldout"))[1]

    def _subjects(self, part: str) -> list[tio.Subject]:
        if part not in self._read:
            self._read[part] = self.bench.parts[part].subjects()
        return self._read[part]

    @functools.cached_property
    def _read(self) -> dict[str, list[tio.Subject]]:
        return {}


TITLE = ("sex", "diagnosis")


def _matched(
    bank: SampleBank, rows: list[dict[str, Any]], most: int, seed: int
) -> tuple[np.ndarray, bool]:
    """Samples that have sex and diagnosis in the shares of held-out subjects, so far as it goes.

    Returns:
        Places in the bank, and whether the shares are equal; else they are a random choice.
    """
    rng = np.random.default_rng(seed)

    def classes(columns: Sequence[Mapping[Any, Any]]) -> np.ndarray:
        names = [name for name in TITLE if name in bank.labels]
        return np.array(["/".join(str(row.get(n) or "") for n in names) for row in columns])

    own = classes(bank.table.to_dict("records"))
    wanted, counts = np.unique(classes(rows), return_counts=True)
    there = np.array([(own == name).sum() for name in wanted])
    total = min(most, int((there * counts.sum() / counts).min()))
    shares = np.floor(total * counts / counts.sum()).astype(int)
    if shares.sum() < FEWEST:
        return np.sort(rng.permutation(len(bank))[:most]), False
    chosen = [
        rng.permutation(np.flatnonzero(own == name))[:count]
        for name, count in zip(wanted, shares, strict=True)
    ]
    return np.sort(np.concatenate(chosen)), True


def _remembered(probabilities: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A judge that has seen these volumes already."""
    return lambda _: probabilities


def _title(row: dict[str, Any]) -> str:
    age = f"{row['age']:.0f}" if known(row.get("age")) else ""
    return " ".join(filter(None, (row.get("sex"), age, row.get("diagnosis"))))
