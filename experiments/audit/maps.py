"""The audit of a bank of scalar maps, see :mod:`neuromix.experiments.audit.audit`.

Volumes of a map that is no MD are divided by a unit learnt from training subjects, and tissues are
looked at where the subjects lie in MNI152 space.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.errors import InputError
from neuromix.augment.metrics import anatomy
from neuromix.augment.metrics import features as clouds
from neuromix.augment.metrics.fidelity import label_faithfulness
from neuromix.augment.tiled.config import FAINTEST, LARGEST
from neuromix.experiments.audit import base
from neuromix.experiments.audit.base import NEAREST, Limit
from neuromix.experiments.audit.config import FEWEST, Audit
from neuromix.experiments.evidence.samples import sex_or_dementia
from neuromix.experiments.frame.cohorts import first_scans, names_of
from neuromix.experiments.frame.figures import WHITE, label_text, slices
from neuromix.experiments.frame.findings import (
    CARE,
    FAULT,
    FINE,
    Finding,
    interval_text,
    metrics_table,
)
from neuromix.experiments.frame.run import Run
from neuromix.experiments.quality.fidelity_judges import TARGETS, Bench, targets

LIMITS = {
    "copies": Limit(0.05, 0.2, "share of near-copies, 0.01 among real subjects"),
    "membership": base.MEMBERSHIP,
    "likeness": Limit(0.03, 0.1, "MS-SSIM between samples less that between real subjects"),
    "variety": Limit(0.15, 0.5, "recall that is missing, as a share of real subjects'"),
    "realism": Limit(0.15, 0.5, "precision that is missing, as a share of real subjects'"),
    "distance": Limit(1.0, 10.0, "MMD² over the 95th percentile of real-real splits"),
    "detail": Limit(0.15, 0.5, "log power of fine detail, more or less than real"),
    "grain": Limit(0.15, 0.5, "relative change of noise where tissue is uniform"),
    "units": Limit(0.02, 0.1, "relative change of a tissue's mean diffusivity"),
    "slices": Limit(0.1, 0.3, "relative change of the difference between neighbouring slices"),
    "range": Limit(0.0, 0.01, "share of voxels that no tissue can have"),
    "labels": Limit(0.1, 0.3, "share of real subjects' label accuracy that is missing"),
    "use": base.USE,
}
"""Chosen on phantoms, so that fresh real subjects in place of samples pass them all."""
SHUFFLES = 20
"""Random deals of the labels among the samples."""
TITLE = ("sex", "diagnosis")


class MapAudit(base.BankAudit):
    """Of a bank of a scalar map; each part reads what it needs."""

    title = "Audit of a bank of samples"
    limits = tuple(LIMITS.values())

    def __init__(self, config: Audit, bank: SampleBank, frame: Run) -> None:
        self.images = bank.images
        (self.image,) = bank.images
        super().__init__(config, bank, frame)
        train, heldout = self.whole.values()
        halves = heldout.split((0.5, 0.0, 0.5), seed=config.seed)
        tests = first_scans(halves.test)
        for name, size, least in (
            ("--train", len(train.subject_keys), FEWEST),
            ("half of --heldout", len(tests), FEWEST // 2),
            ("the bank", len(bank), FEWEST),
        ):
            if size < least:
                what = "samples" if name == "the bank" else "people"
                raise InputError(f"{name} has {size} {what}; an audit needs {least} or more")
        parts = {
            "train": self.some(train),
            "heldout": self.some(tests),
            "judges": self.some(halves.train),
        }
        self.bench = Bench(parts, config.judge_steps, config.seed, self.image)
        grid, other = self.bench.grid, train.grid(self.image)
        if grid != other:
            raise InputError(f"--train lies on {other} and --heldout on {grid}; use one grid")
        self.chosen, self.is_matched = _matched(
            bank, self.bench.rows("heldout"), config.most, config.seed
        )

    def parts(self) -> dict[str, Any]:
        """The records of all parts, by name."""
        cells = self.cells(self.fidelity, self.labels, self.anatomy, self.privacy)
        return super().parts() | cells | {"utility": self.utility()}

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """The findings of all parts."""
        yield from super().findings(parts)
        yield from _fidelity_findings(parts["fidelity"])
        anatomy = parts["anatomy"]
        odd = anatomy["outside the range"]
        yield LIMITS["range"].finding(
            "range", odd,
            f"{100 * odd:.2g} % of voxels in the brain have values that no tissue has (no training "
            f"subject, but for MD); all lie from {interval_text(anatomy['range'])}",
        )  # fmt: skip
        yield base.laterality_finding(anatomy["left-right"])
        yield base.membership_finding(parts["privacy"]["membership"])
        for name, row in parts["labels"]["targets"].items():
            yield _label_finding(name, row)
        for name, use in parts["utility"].items():
            yield base.use_finding(name, use["gain"])

    def page(self, results: Mapping[str, Any]) -> str:
        """The data card."""
        sizes = results["fidelity"]["sizes"]
        near = results["privacy"]["closest"]
        return self.card(
            results,
            figures=[
                (slices(*zip(*self._pairs(), strict=True), upper=WHITE),
                 "Held-out subjects and samples of the same sex and diagnosis."),
                base.nearest_picture(
                    near, self.made, self.bench.volumes("train"), WHITE, "subject"
                ),
                *base.use_pictures(results["utility"]),
            ],
            methods=[
                f"{sizes['synthetic']} samples are compared with {sizes['heldout']} held-out and "
                f"{sizes['train']} training scans. Held-out subjects are parted in two: one half "
                "trains the classifiers that judge labels, the features and the choice of "
                "checkpoints, the other half is compared with and tested on.",
                "Utility is the balanced accuracy of a compact CNN on real held-out subjects, "
                "trained on the training subjects, on samples, or on both, for the same number of "
                "steps. Intervals are over subjects and seeds of the classifier; another sampler "
                "is in none.",
            ],
            tables=base.use_tables(results["utility"]),
            details=[("All metrics of fidelity", metrics_table(results["fidelity"]["metrics"]))],
        )  # fmt: skip

    def fidelity(self) -> dict[str, Any]:
        """Every metric of fidelity, beside held-out subjects."""
        table = self.bench.compare(self.made, self.asked)
        return table | {"same labels as held-out": self.is_matched}

    def labels(self) -> dict[str, Any]:
        """Do samples show their labels, and does it matter which label was asked for?"""
        results = {}
        rng, seed = np.random.default_rng(self.config.seed), self.config.seed
        for target, classifier in self.bench.classifiers.items():
            classes = [str(c) for c in classifier.classes_]
            asked = np.array(targets(target, self.asked), dtype=object)
            labelled = np.flatnonzero([label is not None for label in asked])
            if not set(classes) <= set(asked[labelled]):
                continue
            made, asked, judge = self.made[labelled], asked[labelled], self.bench.predictor(target)
            again = _repeat(judge(made))
            shuffled = [
                label_faithfulness(again, made, rng.permutation(asked).tolist(), classes)["value"]
                for _ in range(SHUFFLES)
            ]
            real = targets(target, self.bench.rows("heldout"))
            results[target] = {
                "own": label_faithfulness(again, made, asked.tolist(), classes, seed=seed),
                "shuffled": float(np.mean(shuffled)),
                "real": label_faithfulness(
                    judge, self.bench.volumes("heldout"), real, classes, seed=seed
                ),
                "chance": 1 / len(classes),
            }
        return {"targets": results}

    def anatomy(self) -> dict[str, Any]:
        """Left and right, and values that no tissue has."""
        mask = anatomy.common_mask(self.bench.volumes("train"))
        inside = self.made[:, mask]
        # What the samplers leave, with room for rounding.
        low, high = FAINTEST / 2, LARGEST * 1.01
        if self.image != "md":
            real = self.bench.volumes("train")[:, mask]
            low, high = real.min(), real.max() + 0.01 * np.ptp(real)
        odd = ((inside < low) & (inside != 0)) | (inside > high)
        sides = base.laterality(self.made, self.bench.volumes("heldout"), mask, self.config.seed)
        return {
            "left-right": sides,
            "outside the range": float(odd.mean()),
            "range": [float(each * self.bench.unit) for each in (self.made.min(), self.made.max())],
        }

    def privacy(self) -> dict[str, Any]:
        """Do samples give away who was trained on?"""
        mask = anatomy.common_mask(self.bench.volumes("train"))
        images = {part: self.volumes(part)[:, mask] for part in ("samples", "train", "heldout")}
        among = clouds.squared_distances(images["heldout"], images["heldout"])
        np.fill_diagonal(among, np.inf)
        attack = self.membership(images.__getitem__, lambda part: names_of(self.bench.parts[part]))
        return attack | {"closest real pair": float(np.sqrt(among.min() / mask.sum()))}

    def utility(self) -> dict[str, Any]:
        """Balanced accuracy on test subjects, trained on real subjects, on samples and on both."""
        sets = [self.bench.rows("train"), self.bench.rows("heldout"), self.asked]
        shared = [t for t in TARGETS if min(_fewest_of_a_class(t, rows) for rows in sets) > 1]
        make = functools.partial(sex_or_dementia, image=self.image)
        return self.worth(shared, make, self.subjects)

    def subjects(self, part: str) -> list[tio.Subject]:
        """Of ``samples`` or of a part of the real ones."""
        if part == "samples":
            return self.samples
        return list(self.keep("subjects", part, self.bench.parts[part].subjects))

    def volumes(self, part: str) -> np.ndarray:
        """Of ``samples`` or of a part of the real ones, (N, X, Y, Z)."""
        return self.made if part == "samples" else self.bench.volumes(part)

    @functools.cached_property
    def samples(self) -> list[tio.Subject]:
        """The chosen samples, on the grid of the real subjects."""
        every = self.bank.subjects()
        chosen = [every[k] for k in self.chosen]
        grid, image = self.bench.grid, chosen[0][self.image]
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
        made = [subject[self.image].data[0].float().numpy() for subject in self.samples]
        return np.stack(made) / np.float32(self.bench.unit)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Their labels."""
        names = ("sex", "diagnosis", "age")
        return [{name: subject[name] for name in names} for subject in self.samples]

    def _pairs(self) -> list[tuple[np.ndarray, str]]:
        """Held-out subjects, each with the sample that has most of its labels."""
        pairs = []
        rows, volumes = self.bench.rows("heldout"), self.bench.volumes("heldout")
        for row, volume in list(zip(rows, volumes, strict=True))[:NEAREST]:
            alike = [sum(each.get(n) == row.get(n) for n in TITLE) for each in self.asked]
            best = int(np.argmax(alike))
            pairs += [(volume, f"real {label_text(row)}")]
            pairs += [(self.made[best], f"sample {label_text(self.asked[best])}")]
        return pairs


def _fidelity_findings(table: Mapping[str, Any]) -> Iterator[Finding]:
    """Of :func:`neuromix.augment.metrics.fidelity.fidelity_table`."""
    metrics = table["metrics"]

    def beside(name: str) -> str:
        row = metrics[name]
        return f"{row['value']:.3g}, real {row['real']:.3g}"

    def worst(prefix: str) -> tuple[str, Mapping[str, Any]]:
        rows = ((n.removeprefix(prefix), m) for n, m in metrics.items() if n.startswith(prefix))
        return max(rows, key=lambda item: abs(item[1]["change"]))

    copies = metrics["near_copies"]
    yield LIMITS["copies"].finding(
        "copies", copies["interval"][0],
        f"{100 * copies['value']:.0f} % of samples lie as near to a training subject as 1 % of "
        f"real ones ({interval_text(copies['interval'], times=100)} %)",
    )  # fmt: skip
    likeness = metrics["ms_ssim"]["change"]
    note = f"MS-SSIM between samples {beside('ms_ssim')}"
    yield LIMITS["likeness"].finding("likeness", likeness, note)
    for what, name in (("variety", "recall"), ("realism", "precision")):
        lost = 1 - metrics[name]["value"] / max(metrics[name]["real"], 1e-9)
        yield LIMITS[what].finding(what, lost, f"{name} {beside(name)}")
    ratio = metrics["mmd2"]["ratio"]
    yield LIMITS["distance"].finding(
        "distance", ratio, f"MMD² is {ratio:.2g} times the 95th percentile of real splits",
        more="" if table["same labels as held-out"] else
        " (labels are in other shares than among held-out subjects)",
    )  # fmt: skip
    off = metrics["sharpness"]["change"]
    blur = "blurred" if off < 0 else "too rough"
    yield LIMITS["detail"].finding("detail", abs(off), f"log power {off:+.2f} against real", blur)
    off = metrics["graininess"]["change"]
    yield LIMITS["grain"].finding("grain", abs(off), f"{100 * off:+.0f} % against real")
    if any(name.startswith("tissue_md_") for name in metrics):
        tissue, row = worst("tissue_md_")
        yield LIMITS["units"].finding(
            "units", abs(row["change"]),
            f"{tissue} has {row['value']:.4g}, real {row['real']:.4g}, in 1e-3 mm²/s",
            base.unit_error(row["value"] / max(row["real"], 1e-12)),
        )  # fmt: skip
    else:
        yield Finding("units", FINE, "tissues are left out: the maps are not in MNI152 space")
    off = worst("continuity_")[1]["change"]
    yield LIMITS["slices"].finding("slices", abs(off), f"{100 * off:+.0f} % against real")


def _label_finding(name: str, row: Mapping[str, Any]) -> Finding:
    own, real = row["own"], row["real"]
    what = f"label {name}"
    note = (
        f"shown in {100 * own['value']:.0f} % ({interval_text(own['interval'], times=100)}), real "
        f"subjects {100 * real['value']:.0f} %, with labels shuffled {100 * row['shuffled']:.0f} %"
    )
    if real["interval"][0] <= row["chance"]:
        return Finding(what, CARE, f"{note}: the judge does not tell it on real subjects either")
    if own["interval"][1] < row["chance"]:
        return Finding(what, FAULT, f"{note}: labels are wrong")
    if own["interval"][0] <= row["chance"]:
        return Finding(what, FAULT, f"{note}: labels have no effect that can be seen")
    return LIMITS["labels"].finding(what, 1 - own["value"] / real["value"], note)


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


def _fewest_of_a_class(target: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Zero if there is one class alone."""
    labels = [label for label in targets(target, rows) if label is not None]
    counts = np.unique(labels, return_counts=True)[1]
    return int(counts.min()) if len(counts) > 1 else 0


def _repeat(probabilities: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A judge that has said this of the volumes already."""
    return lambda _: probabilities
