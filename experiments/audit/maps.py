"""The audit of a bank of mean diffusivity maps, see :mod:`neuromix.experiments.audit.audit`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.conditions import known
from neuromix.augment.errors import InputError
from neuromix.augment.metrics import anatomy
from neuromix.augment.metrics import features as clouds
from neuromix.augment.metrics.fidelity import label_faithfulness
from neuromix.augment.metrics.privacy import closest, membership
from neuromix.augment.tiled.config import FAINTEST, LARGEST
from neuromix.augment.tiled.latents import common_grid
from neuromix.experiments.audit import report
from neuromix.experiments.audit.origin import ARMS, FEWEST, Audit, BankOrigin, left_right, worth
from neuromix.experiments.audit.report import Finding
from neuromix.experiments.evidence.samples import sex_or_dementia
from neuromix.experiments.frame.arms import judge, runs_of
from neuromix.experiments.frame.cohorts import first_scans, names_of
from neuromix.experiments.frame.run import Run
from neuromix.experiments.quality.fidelity_judges import TARGETS, Bench, targets

SHUFFLES = 20
"""Random deals of the labels among the samples."""
SHOWN = 4
"""Pairs in each picture."""


class MDAudit(BankOrigin):
    """Of a bank of mean diffusivity; each part reads what it needs.

    Args:
        config: What to audit.
        bank: The bank.
        frame: Keeps what is done.
    """

    def __init__(self, config: Audit, bank: SampleBank, frame: Run) -> None:
        super().__init__(config, bank, frame, ("md",))
        train, heldout = self.whole.values()
        halves = heldout.split((0.5, 0.0, 0.5), seed=config.seed)
        tests = first_scans(halves.test)
        sizes = {
            "--train": len(train.subject_keys), "half of --heldout": len(tests),
            "the bank": len(bank),
        }  # fmt: skip
        for name, size in sizes.items():
            least = FEWEST // 2 if name.startswith("half") else FEWEST
            if size < least:
                what = "samples" if name == "the bank" else "people"
                raise InputError(f"{name} has {size} {what}; an audit needs {least} or more")
        parts = {
            "train": self.some(train),
            "heldout": self.some(tests),
            "judges": self.some(halves.train),
        }
        self.bench = Bench(parts, config.judge_steps, config.seed)
        self.tests = parts["heldout"]
        grid, other = self.bench.grid, common_grid(train)
        if grid != other:
            raise InputError(f"--train lies on {other} and --heldout on {grid}; use one grid")
        self.chosen, self.is_matched = _matched(
            bank, self.bench.rows("heldout"), config.most, config.seed
        )

    def parts(self) -> dict[str, Any]:
        """All that was looked at."""
        frame = self.frame
        return {
            **self.origin(),
            "fidelity": frame.cell({"part": "fidelity"}, self.fidelity),
            "labels": frame.cell({"part": "labels"}, self.labels)["told"],
            "anatomy": frame.cell({"part": "anatomy"}, self.anatomy),
            "privacy": frame.cell({"part": "privacy"}, self.privacy),
            "utility": self.utility(),
        }

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """What that says."""
        return report.findings(parts)

    def page(self, results: Mapping[str, Any]) -> str:
        """The data card."""
        return report.page(results, *self.pictures(results["privacy"]))

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
        inside = self.made[:, mask]
        # What the samplers leave, with room for rounding.
        odd = ((inside < FAINTEST / 2) & (inside != 0)) | (inside > LARGEST * 1.01)
        return {
            "left-right": left_right(
                self.made, self.bench.volumes("heldout"), mask, self.config.seed
            ),
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
            "membership": membership(
                made,
                train,
                heldout,
                seed=self.config.seed,
                people=[names_of(self.bench.parts[part]) for part in ("train", "heldout")],
            ),
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
            found[target] = worth(runs)
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
