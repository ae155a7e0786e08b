"""The audit of a bank of task fMRI runs, see :mod:`neuromix.experiments.audit.audit`.

Samples are put on the ceilings of held-out runs
(:class:`neuromix.augment.metrics.neuro.NeuroJudge`): their responses, noise, memory and networks,
and how they vary. A run shows its label if the responses to its conditions are those conditions'
and no others'; with the names of conditions exchanged that must be lost. Anatomy, units and privacy
are looked at in the runs' mean images. What samples are good for is told by decoders of the
condition (:mod:`neuromix.augment.fmri.responses`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import Grid
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.responses import Window, responses
from neuromix.augment.metrics.neuro import FEWEST as FEWEST_PEOPLE
from neuromix.augment.metrics.neuro import NeuroJudge, compare_subjects
from neuromix.augment.metrics.summaries import Subjects
from neuromix.augment.metrics.task_runs import TaskRun, read_runs
from neuromix.classifiers.base import FEWEST_VOXELS, VolumeClassifier
from neuromix.experiments.audit import base
from neuromix.experiments.audit.base import Limit
from neuromix.experiments.audit.config import FEWEST, Audit
from neuromix.experiments.frame.figures import glass_brains
from neuromix.experiments.frame.findings import CARE, FAULT, FINE, Finding, interval_text
from neuromix.experiments.frame.run import Run
from neuromix.experiments.quality.neuro_report import overview

SHARES = {
    "group_map": "response maps",
    "roi_course": "time course",
    "response_size": "strength",
    "spread": "variety of responses",
    "tsnr_level": "noise level",
    "tsnr_map": "noise map",
    "autocorrelation_lag1": "memory",
    "spectrum": "rhythm",
    "connectivity": "networks",
    "steady_tsnr": "steadiness",
}
"""Metrics of :mod:`neuromix.augment.metrics.neuro`, and what a finding calls them."""
COPIES = {"nearest_course": "copies of courses", "nearest_anatomy": "copies of anatomies"}
SHARE = Limit(0.1, 0.5, "share of what real halves have that is surely missing")
SIGNAL = Limit(0.1, 0.5, "relative change of the median brain signal")
SPECIFIC = 0.1
"""Share of the responses that may be another condition's."""
SPLITS = 50
"""Halves of the held-out people."""
SIDE = 12.0
"""Voxels in mm that decoders see, or the runs' own if those are larger."""
BRIGHT = 1.6
"""Times the mean in the brain that pictures show as white."""


class RunsAudit(base.BankAudit):
    """Of a bank of runs; each part reads what it needs."""

    title = "Audit of a bank of task fMRI runs"
    images = ("bold",)
    limits = (SHARE, SIGNAL, base.MEMBERSHIP, base.USE)

    def __init__(self, config: Audit, bank: SampleBank, frame: Run) -> None:
        super().__init__(config, bank, frame)
        halves = self.whole["heldout"].split((0.5, 0.0, 0.5), seed=config.seed)
        self.cohorts = {
            "samples": self.some(Cohort.from_bids(bank.path, ("bold",))),
            "train": self.some(self.whole["train"]),
            "judges": halves.train,
            "heldout": halves.test,
        }
        if (count := len(self.cohorts["samples"])) < FEWEST:
            raise InputError(f"the bank has {count} runs; an audit needs {FEWEST} or more")
        for name, part in (("--train", "train"), ("half of --heldout", "heldout")):
            if (people := len(self.cohorts[part].subject_keys)) < FEWEST_PEOPLE:
                raise InputError(
                    f"{name} has {people} people; an audit of runs needs {FEWEST_PEOPLE} or more"
                )
        own, self.grid = (_grid(self.cohorts[part]) for part in ("samples", "heldout"))
        if own != self.grid:
            raise InputError(
                f"the bank lies on {own} and --heldout on {self.grid}, or elsewhere; bring the "
                "real runs to the grid of the bank with `neuromix prepare --what bold`"
            )

    def parts(self) -> dict[str, Any]:
        """The records of all parts, by name."""
        cells = self.cells(self.neuro, self.labels, self.anatomy, self.privacy)
        make = functools.partial(VolumeClassifier, image="bold", shift=0)
        return (
            super().parts() | cells | {"utility": self.worth(["condition"], make, self._responses)}
        )

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """The findings of all parts."""
        yield from super().findings(parts)
        metrics = parts["neuro"]["metrics"]
        for names, finding in ((SHARES, _share_finding), (COPIES, _copy_finding)):
            for name, what in names.items():
                if name in metrics:
                    yield finding(what, metrics[name])
        yield _label_finding(parts["labels"], metrics["group_top1"])
        yield base.laterality_finding(parts["anatomy"]["left-right"])
        yield from _unit_findings(parts["anatomy"])
        yield base.membership_finding(parts["privacy"]["membership"])
        for name, use in parts["utility"].items():
            yield base.use_finding(name, use["gain"])

    def page(self, results: Mapping[str, Any]) -> str:
        """The data card."""
        near = results["privacy"]["closest"]
        samples, train = (self._volumes(self._images(part)) for part in ("samples", "train"))
        maps = {"held-out": self.judge.real.group(), "samples": self.made.group()}
        sizes = results["neuro"]["sizes"]
        return self.card(
            results,
            figures=[
                glass_brains(maps, self.judge.conditions, self.judge.mask, self.judge.affine),
                base.nearest_picture(near, samples, train, BRIGHT, "run"),
                *base.use_pictures(results["utility"]),
            ],
            methods=[
                f"{sizes['synthetic']} samples are compared with {sizes['real']} held-out people, "
                f"in random halves of {sizes['split']}, as halves of these are with each other. "
                "The other half of the held-out people chooses checkpoints of decoders. Where real "
                "halves do not agree, nothing is said. The time between frames may not differ.",
                "Specificity is the share of conditions whose mean map is nearest to that "
                "condition's real one. With names exchanged, each condition is called by the next "
                "one's name. Privacy is looked at in mean images, whose brightness is divided by "
                "its mean.",
                "Utility is the balanced accuracy of a compact CNN that tells the condition from "
                "the mean response of a run of real held-out people, trained on the responses of "
                "training people, of samples, or of both, for the same number of steps.",
            ],
            tables=[
                *base.use_tables(results["utility"]),
                ("Every metric beside real halves", overview({"samples": results["neuro"]})),
            ],
        )  # fmt: skip

    def neuro(self) -> dict[str, Any]:
        """Every metric beside held-out halves."""
        return self.judge.table(self.made)

    def labels(self) -> dict[str, Any]:
        """Is each response its condition's, and not if the names of conditions are exchanged?"""
        count = len(self.judge.conditions)
        turned, made = np.roll(np.arange(count), 1), self.made
        other = replace(made, maps=made.maps[:, :, turned], mean_maps=made.mean_maps[:, turned])
        own, exchanged = (
            compare_subjects(each, self.judge.real)["group_top1"] for each in (made, other)
        )
        return {"own": own, "exchanged": exchanged, "chance": 1 / count}

    def anatomy(self) -> dict[str, Any]:
        """Left and right, brightness, and the time between frames."""
        means = {part: self._means(part) for part in ("samples", "heldout")}
        made, real = (self._volumes(each) for each in means.values())
        first = np.unique([run.subject for run in self._runs("heldout")], return_index=True)[1]
        pairs = {
            "signal": [float(np.median(each.mean(axis=1))) for each in means.values()],
            "tr": [self._runs(part)[0].tr for part in means],
        }
        return {
            "left-right": base.laterality(made, real[first], self.judge.mask, self.config.seed),
            **{name: {"value": own, "real": other} for name, (own, other) in pairs.items()},
        }

    def privacy(self) -> dict[str, Any]:
        """Do mean images give away who was trained on?"""
        return self.membership(self._images, lambda part: [run.subject for run in self._runs(part)])

    @functools.cached_property
    def judge(self) -> NeuroJudge:
        """Half of the held-out people."""
        return NeuroJudge(
            self._runs("heldout"), self.grid.affine, train=self._runs("train"), splits=SPLITS,
            seed=self.config.seed,
        )  # fmt: skip

    @functools.cached_property
    def made(self) -> Subjects:
        """What is compared of the samples."""
        return self.judge.read(self._runs("samples"))

    def _responses(self, part: str) -> list[tio.Subject]:
        def read() -> list[tio.Subject]:
            # A network needs some voxels along each axis.
            coarsest = min(self.grid.shape) // (2 * FEWEST_VOXELS)
            shrink = max(1, min(round(SIDE / min(self.grid.spacing)), coarsest))
            every = responses(self.cohorts[part], Window(shrink=shrink))
            subjects = [s for s in every if s["condition"] in self.judge.conditions]
            for subject in subjects if part == "samples" else ():
                subject["synthetic"] = True
                subject.update_attributes()
            return subjects

        return list(self.keep("responses", part, read))

    def _runs(self, part: str) -> Sequence[TaskRun]:
        return list(self.keep("runs", part, lambda: read_runs(self.cohorts[part])))

    def _means(self, part: str) -> np.ndarray:
        """Mean image of each run in the brain, in its own units, (N, V)."""

        def read() -> np.ndarray:
            mask = self.judge.mask
            return np.stack([run.series(mask).mean(axis=0) for run in self._runs(part)])

        return np.asarray(self.keep("means", part, read))

    def _images(self, part: str) -> np.ndarray:
        """Mean images, each divided by its mean over the brain."""
        raw = self._means(part)
        return raw / np.maximum(raw.mean(axis=1, keepdims=True), 1e-12)

    def _volumes(self, images: np.ndarray) -> np.ndarray:
        """Images (N, V) as volumes, (N, X, Y, Z)."""
        volumes = np.zeros((len(images), *self.grid.shape), np.float32)
        volumes[:, self.judge.mask] = images
        return volumes


def _grid(cohort: Cohort) -> Grid:
    image = nib.load(cohort.table["bold_path"].iloc[0])
    x, y, z = map(int, image.shape[:3])
    return Grid((x, y, z), image.affine)


def _share_finding(what: str, row: Mapping[str, Any]) -> Finding:
    note = f"{row['value']:.3g}, real halves {row['real']:.3g}"
    if row["share"] is None:
        return Finding(what, FINE, f"{note}: real halves do not agree, too little to tell")
    limits = interval_text(row["share_interval"])
    note += f": {row['share']:.2f} of real ({limits})"
    return SHARE.finding(what, 1 - row["share_interval"][1], note)


def _copy_finding(what: str, row: Mapping[str, Any]) -> Finding:
    """Only nearer than real people is bad."""
    low, high = row["interval"][0], row["real_interval"][1]
    note = f"r = {row['value']:.2f} with the nearest training run, real {row['real']:.2f}"
    # Half of the way from what is usual to a perfect copy.
    level = FINE if low <= high else FAULT if low > (1 + high) / 2 else CARE
    return Finding(what, level, note)


def _label_finding(labels: Mapping[str, Any], row: Mapping[str, Any]) -> Finding:
    note = (
        f"{100 * labels['own']:.0f} % of mean responses are their condition's, real halves "
        f"{100 * row['real']:.0f} %, with names exchanged {100 * labels['exchanged']:.0f} %"
    )
    if row["real_interval"][0] <= labels["chance"]:
        return Finding("label condition", CARE, f"{note}: real halves do not tell them either")
    if labels["exchanged"] > labels["own"]:
        return Finding("label condition", FAULT, f"{note}: labels are wrong")
    if row["interval"][1] <= labels["chance"]:
        return Finding("label condition", FAULT, f"{note}: labels have no effect that can be seen")
    level = FINE if row["interval"][1] >= (1 - SPECIFIC) * row["real"] else CARE
    return Finding("label condition", level, note)


def _unit_findings(anatomy: Mapping[str, Any]) -> Iterator[Finding]:
    value, real = (anatomy["signal"][name] for name in ("value", "real"))
    ratio = value / max(real, 1e-12)
    note = f"median brain signal {value:.4g}, real {real:.4g}"
    yield SIGNAL.finding("units", abs(ratio - 1), note, base.unit_error(ratio))
    own, other = (anatomy["tr"][name] for name in ("value", "real"))
    level = FINE if abs(own - other) < 1e-3 else FAULT
    note = f"{own:g} s between frames, real {other:g} s"
    yield Finding("repetition time", level, note)
