"""The audit of a bank of scalar maps, see :mod:`neuromix.experiments.audit.audit`.

Samples and people are seen through one :class:`~neuromix.augment.metrics.realism.Brain`, which is
learnt from training people, and judged by :mod:`~neuromix.augment.metrics.realism` and
:mod:`~neuromix.augment.metrics.privacy`. Units, left and right and the range are looked at in the
values as they are; tissues where the subjects lie in MNI152 space.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import label_rows
from neuromix.augment.errors import InputError
from neuromix.augment.metrics import anatomy, privacy
from neuromix.augment.metrics.label_reading import labels_told
from neuromix.augment.metrics.realism import Brain, realism, structure
from neuromix.augment.tiled.config import FAINTEST, LARGEST, QUANTITATIVE
from neuromix.classifiers.base import VolumeClassifier
from neuromix.experiments.audit import base
from neuromix.experiments.audit.base import NEAREST, Limit
from neuromix.experiments.audit.config import FEWEST, Audit
from neuromix.experiments.evidence.samples import sex_or_dementia
from neuromix.experiments.frame.cohorts import first_scans, names_of
from neuromix.experiments.frame.figures import label_text, slices
from neuromix.experiments.frame.findings import CARE, FAULT, FINE, Finding, estimate_text
from neuromix.experiments.frame.findings import interval_text as ends
from neuromix.experiments.frame.run import Run
from neuromix.experiments.quality.baselines import Labels
from neuromix.experiments.quality.fidelity_report import METHODS, NAMES

LIMITS = {
    "copies": Limit(0.05, 0.2, "share of patch copies, 0.01 in people, lower end of its interval"),
    "nearness": Limit(0.1, 0.5, "distance to the nearest training person that is surely missing"),
    "membership": base.MEMBERSHIP,
    "variety": Limit(0.05, 0.3, "relative change of the spread, the end nearest to none"),
    "distance": Limit(1.0, 10.0, "MMD² over the 95th percentile of splits of real people"),
    "structure": Limit(0.6, 0.9, "AUC by the coarse image, lower end of its interval"),
    "texture": Limit(0.6, 1.0, "AUC by detail, lower end of its interval, which is care alone"),
    "detail": Limit(
        0.3, 0.75, "deviations of people that the worst band of the spectrum is surely off"
    ),
    "slices": Limit(0.1, 0.3, "relative change of the difference between neighbouring slices"),
    "units": Limit(0.02, 0.1, "relative change of a tissue's mean"),
    "range": Limit(0.0, 0.01, "share of voxels that no tissue can have"),
    "labels": Limit(0.1, 0.3, "share of real subjects' label accuracy that is missing"),
    "use": base.USE,
}
"""Chosen on phantoms, so that fresh real subjects in place of samples pass them all."""
TARGETS = ("sex", "dementia")
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
        self.cohorts = {
            "train": self.some(train),
            "heldout": self.some(tests),
            "judges": self.some(halves.train),
        }
        self.grid, other = tests.grid(self.image), train.grid(self.image)
        if self.grid != other:
            raise InputError(f"--train lies on {other} and --heldout on {self.grid}; use one grid")
        self.chosen, self.is_matched = _matched(
            bank, self.rows("heldout"), config.most, config.seed
        )

    def parts(self) -> dict[str, Any]:
        """The records of all parts, by name."""
        cells = self.cells(self.fidelity, self.labels, self.anatomy, self.privacy)
        return super().parts() | cells | {"utility": self.utility()}

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """The findings of all parts."""
        yield from super().findings(parts)
        yield from _realism_findings(parts["fidelity"] | parts["privacy"], self.is_matched)
        yield from _anatomy_findings(parts["anatomy"])
        yield base.membership_finding(parts["privacy"]["membership"])
        for name, row in parts["labels"]["targets"].items():
            yield _label_finding(name, row)
        for name, use in parts["utility"].items():
            yield base.use_finding(name, use["gain"])

    def page(self, results: Mapping[str, Any]) -> str:
        """The data card."""
        near = results["privacy"]["closest"]
        samples, train = self.seen("samples"), self.seen("train")
        figures = [
            {"figure": NAMES[name], "samples": estimate_text(row["value"], row["interval"])}
            for name, row in (results["fidelity"] | results["privacy"]).items()
            if name in NAMES
        ]
        return self.card(
            results,
            figures=[
                (slices(*zip(*self._pairs(), strict=True)),
                 "Held-out subjects and samples of the same sex and diagnosis."),
                base.nearest_picture(near, samples, train, self.brain.top, "subject"),
                *base.use_pictures(results["utility"]),
            ],
            methods=[
                f"{len(samples)} samples are compared with {len(self.rows('heldout'))} held-out "
                f"and {len(train)} training scans. Held-out subjects are parted in two: one half "
                "trains the classifiers that read labels and chooses checkpoints, the other half "
                "is compared with and tested on.",
                *METHODS,
                "Utility is the balanced accuracy of a compact CNN on real held-out subjects, "
                "trained on the training subjects, on samples, or on both, for the same number of "
                "steps. Intervals are over subjects and seeds of the classifier; another sampler "
                "is in none.",
            ],
            tables=[
                *base.use_tables(results["utility"]),
                ("Beside held-out people", pd.DataFrame(figures)),
            ],
        )  # fmt: skip

    def fidelity(self) -> dict[str, Any]:
        """Are samples told from held-out people?"""
        train, heldout, made = map(self.seen, ("train", "heldout", "samples"))
        return realism(train, heldout, made, self.brain, seed=self.config.seed)

    def labels(self) -> dict[str, Any]:
        """Do samples show their labels, and does it matter which label was asked for?"""
        names = ("judges", "samples", "heldout")
        points = [structure(self.seen(part), self.brain.mask) for part in names]
        rows = {
            target: labels_told(
                points, [_labels(target, self.rows(part)) for part in names], seed=self.config.seed
            )
            for target in TARGETS
        }
        return {"targets": {target: row for target, row in rows.items() if row is not None}}

    def anatomy(self) -> dict[str, Any]:
        """Left and right, units, slices that fit together, and values that no tissue has."""
        made, real = self.volumes("samples"), self.volumes("heldout")
        mask, inside = self.brain.mask, made[:, self.brain.mask]
        # What the samplers leave, with room for rounding.
        low, high = FAINTEST / 2, LARGEST * 1.01
        if self.image != "md":
            train = self.volumes("train")[:, mask]
            low, high = train.min(), train.max() + 0.01 * np.ptp(train)
        odd = ((inside < low) & (inside != 0)) | (inside > high)
        is_in_mni = self.cohorts["heldout"].is_in_mni(self.image)
        tissues = anatomy.tissue_masks(self.grid) if is_in_mni else {}
        steps = [anatomy.slice_steps(volumes, mask) for volumes in (made, real)]
        return {
            "left-right": base.laterality(made, real, mask, self.config.seed),
            "tissues": {
                name: [float(volumes[:, tissue].mean()) for volumes in (made, real)]
                for name, tissue in tissues.items()
                if tissue.any()
            },
            "slices": [float(each.mean()) for each in steps],
            "outside the range": float(odd.mean()),
            "range": [float(made.min()), float(made.max())],
        }

    def privacy(self) -> dict[str, Any]:
        """Do samples give away who was trained on, in whole or in pieces?"""
        mask, seed = self.brain.mask, self.config.seed
        made, train, heldout = map(self.seen, ("samples", "train", "heldout"))
        points = [each[:, mask] for each in (made, train, heldout)]
        attack = self.membership(
            lambda part: self.seen(part)[:, mask], lambda part: names_of(self.cohorts[part])
        )
        return attack | {
            "nearest": privacy.nearest(points[0], points[1], points[2], seed=seed),
            "patch copies": privacy.patch_copies(made, train, heldout, mask, seed=seed),
        }

    def utility(self) -> dict[str, Any]:
        """Balanced accuracy on test subjects, trained on real subjects, on samples and on both."""
        sets = [self.rows(part) for part in ("train", "heldout", "samples")]
        shared = [t for t in TARGETS if min(_fewest_of_a_class(t, rows) for rows in sets) > 1]
        make = functools.partial(sex_or_dementia, image=self.image)
        return self.worth(shared, make, self.subjects)

    def subjects(self, part: str) -> list[tio.Subject]:
        """Of ``samples`` or of a part of the real ones."""
        if part == "samples":
            return self.samples
        return list(self.keep("subjects", part, self.cohorts[part].subjects))

    def rows(self, part: str) -> Labels:
        """Labels of ``samples`` or of a part of the real ones."""
        if part == "samples":
            names = (*TITLE, "age")
            return [{name: subject[name] for name in names} for subject in self.samples]
        return label_rows(self.cohorts[part])

    def volumes(self, part: str) -> np.ndarray:
        """Of ``samples`` or of a part of the real ones, (N, X, Y, Z)."""

        def read() -> np.ndarray:
            if part == "samples":
                return np.stack([s[self.image].data[0].float().numpy() for s in self.samples])
            return self.cohorts[part].volumes(self.image)

        return np.asarray(self.keep("volumes", part, read))

    def seen(self, part: str) -> np.ndarray:
        """The same volumes as the brain is looked at."""
        return np.asarray(self.keep("seen", part, lambda: self.brain(self.volumes(part))))

    @functools.cached_property
    def brain(self) -> Brain:
        """Of the training people."""
        return Brain.of(self.volumes("train"), is_levelled=self.image not in QUANTITATIVE)

    @functools.cached_property
    def samples(self) -> list[tio.Subject]:
        """The chosen samples, on the grid of the real subjects."""
        every = self.bank.subjects()
        chosen = [every[k] for k in self.chosen]
        image = chosen[0][self.image]
        is_there = np.allclose(image.affine, self.grid.affine, atol=1e-3)
        if tuple(image.spatial_shape) != self.grid.shape or not is_there:
            raise InputError(
                f"{self.bank.path} has samples of {tuple(image.spatial_shape)} voxels and the "
                f"real subjects lie on {self.grid}, or they lie elsewhere; bring the real ones to "
                "the grid of the bank with `neuromix prepare`"
            )
        return chosen

    def _pairs(self) -> list[tuple[np.ndarray, str]]:
        """Held-out subjects, each with the sample that has most of its labels."""
        pairs, made, asked = [], self.volumes("samples"), self.rows("samples")
        rows, volumes = self.rows("heldout"), self.volumes("heldout")
        for row, volume in list(zip(rows, volumes, strict=True))[:NEAREST]:
            alike = [sum(each.get(n) == row.get(n) for n in TITLE) for each in asked]
            best = int(np.argmax(alike))
            pairs += [(volume, f"real {label_text(row)}")]
            pairs += [(made[best], f"sample {label_text(asked[best])}")]
        return pairs


def _realism_findings(rows: Mapping[str, Any], is_matched: bool) -> Iterator[Finding]:
    """Of :mod:`neuromix.augment.metrics.realism` and :mod:`neuromix.augment.metrics.privacy`."""
    text = {n: estimate_text(r["value"], r["interval"]) for n, r in rows.items() if n in NAMES}
    yield LIMITS["copies"].finding(
        "copies", rows["patch copies"]["interval"][0],
        f"a share of {text['patch copies']} of patches are pieces of a training person, 0.01 of "
        "real ones",
    )  # fmt: skip
    yield LIMITS["nearness"].finding(
        "nearness", 1 - rows["nearest"]["interval"][1],
        f"distance to the nearest training person is {text['nearest']} of held-out people's",
    )  # fmt: skip
    low, high = rows["spread"]["interval"]
    yield LIMITS["variety"].finding(
        "variety", max(low - 1, 1 - high, 0.0),
        f"the spread over samples is {text['spread']} of that over people",
        "samples are too " + ("alike" if high < 1 else "far apart"),
    )  # fmt: skip
    yield LIMITS["distance"].finding(
        "distance", rows["mmd"]["value"],
        f"MMD² is {text['mmd']} times the 95th percentile of real splits",
        more="" if is_matched else
        " (labels are in other shares than among held-out subjects)",
    )  # fmt: skip
    for name in ("structure", "texture"):
        note = f"samples are told from people with an AUC of {text[name]}"
        yield LIMITS[name].finding(name, rows[name]["interval"][0], note)
    low, high = rows["spectrum"]["interval"]
    yield LIMITS["detail"].finding(
        "detail", max(low, -high, 0.0),
        f"the worst band of the spectrum is {text['spectrum']} deviations of people off",
        "blurred" if high < 0 else "too rough",
    )  # fmt: skip


def _anatomy_findings(anatomy: Mapping[str, Any]) -> Iterator[Finding]:
    own, real = anatomy["slices"]
    off = own / max(real, 1e-12) - 1
    yield LIMITS["slices"].finding("slices", abs(off), f"{100 * off:+.0f} % against real")
    if anatomy["tissues"]:
        ratios = {n: own / max(real, 1e-12) for n, (own, real) in anatomy["tissues"].items()}
        worst = max(ratios, key=lambda name: abs(ratios[name] - 1))
        own, real = anatomy["tissues"][worst]
        yield LIMITS["units"].finding(
            "units", abs(ratios[worst] - 1), f"{worst} has {own:.4g}, real {real:.4g}",
            base.unit_error(ratios[worst]),
        )  # fmt: skip
    else:
        yield Finding("units", FINE, "tissues are left out: the maps are not in MNI152 space")
    odd = anatomy["outside the range"]
    yield LIMITS["range"].finding(
        "range", odd,
        f"{100 * odd:.2g} % of voxels in the brain have values that no tissue has (no training "
        f"subject, but for MD); all lie from {ends(anatomy['range'])}",
    )  # fmt: skip
    yield base.laterality_finding(anatomy["left-right"])


def _label_finding(name: str, row: Mapping[str, Any]) -> Finding:
    what = f"label {name}"
    note = (
        f"shown in {100 * row['value']:.0f} % ({ends(row['interval'], times=100)}), real "
        f"subjects {100 * row['real']:.0f} %, with labels shuffled {100 * row['shuffled']:.0f} %"
    )
    if row["real_interval"][0] <= row["chance"]:
        return Finding(what, CARE, f"{note}: the judge does not tell it on real subjects either")
    if row["interval"][1] < row["chance"]:
        return Finding(what, FAULT, f"{note}: labels are wrong")
    if row["interval"][0] <= row["chance"]:
        return Finding(what, FAULT, f"{note}: labels have no effect that can be seen")
    return LIMITS["labels"].finding(what, 1 - row["ratio"], note)


def _labels(target: str, rows: Labels) -> Sequence[str | None]:
    """What a classifier of this target should say of each row; ``None`` where there is no truth."""
    texts = [{name: row.get(name) or "" for name in TITLE} for row in rows]
    return VolumeClassifier(target).labels(texts)


def _matched(bank: SampleBank, rows: Labels, most: int, seed: int) -> tuple[np.ndarray, bool]:
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
    labels = [label for label in _labels(target, rows) if label is not None]
    counts = np.unique(labels, return_counts=True)[1]
    return int(counts.min()) if len(counts) > 1 else 0
