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
from neuromix.augment.metrics.privacy import closest, membership
from neuromix.augment.metrics.summaries import Subjects
from neuromix.augment.metrics.task_runs import TaskRun, read_runs
from neuromix.classifiers.base import LEAST, VolumeClassifier
from neuromix.experiments.audit import runs_report
from neuromix.experiments.audit.config import FEWEST, Audit
from neuromix.experiments.audit.origin import ARMS, BankOrigin, left_right, worth
from neuromix.experiments.audit.report import Finding
from neuromix.experiments.frame.arms import judge, runs_of
from neuromix.experiments.frame.run import Run

SPLITS = 50
"""Halves of the held-out people."""
SIDE = 12.0
"""Voxels in mm that decoders see, or the runs' own if those are larger."""
SHOWN = 4
"""Pairs in the picture."""


class RunsAudit(BankOrigin):
    """Of a bank of runs; each part reads what it needs.

    Args:
        config: What to audit.
        bank: The bank.
        frame: Keeps what is done.
    """

    def __init__(self, config: Audit, bank: SampleBank, frame: Run) -> None:
        super().__init__(config, bank, frame, ("bold",))
        self.samples = self.some(Cohort.from_bids(bank.path, ("bold",)))
        self.train = self.some(self.whole["train"])
        halves = self.whole["heldout"].split((0.5, 0.0, 0.5), seed=config.seed)
        self.judges, self.tests = halves.train, halves.test
        if len(self.samples) < FEWEST:
            raise InputError(
                f"the bank has {len(self.samples)} runs; an audit needs {FEWEST} or more"
            )
        for name, cohort in (("--train", self.train), ("half of --heldout", halves.test)):
            people = len(cohort.subject_keys)
            if people < FEWEST_PEOPLE:
                raise InputError(
                    f"{name} has {people} people; an audit of runs needs {FEWEST_PEOPLE} or more"
                )
        first = {
            name: nib.load(cohort.table["bold_path"].iloc[0])
            for name, cohort in (("the bank", self.samples), ("--heldout", self.tests))
        }
        grids = {
            name: Grid((int(x), int(y), int(z)), image.affine)
            for name, image in first.items()
            for x, y, z in [image.shape[:3]]
        }
        self.grid = grids["--heldout"]
        if grids["the bank"] != self.grid:
            raise InputError(
                f"the bank lies on {grids['the bank']} and --heldout on {self.grid}, or elsewhere; "
                "bring the real runs to the grid of the bank with `neuromix prepare --what bold`"
            )

    def parts(self) -> dict[str, Any]:
        """All that was looked at."""
        frame = self.frame
        return {
            **self.origin(),
            "neuro": frame.cell({"part": "neuro"}, self.neuro),
            "labels": frame.cell({"part": "labels"}, self.labels),
            "anatomy": frame.cell({"part": "anatomy"}, self.anatomy),
            "privacy": frame.cell({"part": "privacy"}, self.privacy),
            "utility": self.utility(),
        }

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """What that says."""
        return runs_report.findings(parts)

    def page(self, results: Mapping[str, Any]) -> str:
        """The data card."""
        near: list[tuple[np.ndarray, str]] = []
        for sample, person, apart in results["privacy"]["closest"]:
            near += [(self._volume("samples", sample), f"sample, {apart:.3f} off")]
            near += [(self._volume("train", person), "training run")]
        shown = {"held-out": self.judge.real.group(), "samples": self.made.group()}
        return runs_report.page(results, self.judge, shown, near)

    def neuro(self) -> dict[str, Any]:
        """Every metric beside held-out halves."""
        return self.judge.table(self.made)

    def labels(self) -> dict[str, Any]:
        """Is each response its condition's, and not if the names of conditions are exchanged?"""
        count = len(self.judge.conditions)
        turned = np.roll(np.arange(count), 1)
        made = self.made
        other = replace(made, maps=made.maps[:, :, turned], mean_maps=made.mean_maps[:, turned])
        found = {
            name: compare_subjects(each, self.judge.real)["group_top1"]
            for name, each in (("own", made), ("exchanged", other))
        }
        return found | {"chance": 1 / count}

    def anatomy(self) -> dict[str, Any]:
        """Left and right, brightness, and the time between frames."""
        mask = self.judge.mask
        made, real = (self._volumes(part) for part in ("samples", "tests"))
        first = np.unique([run.subject for run in self._runs("tests")], return_index=True)[1]
        bright = [float(np.median(volumes[:, mask].mean(axis=1))) for volumes in (made, real)]
        trs = [self._runs(part)[0].tr for part in ("samples", "tests")]
        return {
            "left-right": left_right(made, real[first], mask, self.config.seed),
            "signal": {"value": bright[0], "real": bright[1]},
            "tr": {"value": trs[0], "real": trs[1]},
        }

    def privacy(self) -> dict[str, Any]:
        """Do mean images give away who was trained on?"""
        made, train, heldout = (self._images(part) for part in ("samples", "train", "tests"))
        return {
            "membership": membership(
                made,
                train,
                heldout,
                seed=self.config.seed,
                people=[[run.subject for run in self._runs(part)] for part in ("train", "tests")],
            ),
            "closest": closest(made, train, SHOWN),
        }

    def utility(self) -> dict[str, Any]:
        """Decoders of the condition, trained on real responses, on samples' and on both."""
        if self.frame.cell({"part": "overlap"}, self.overlap)["subjects"]:
            return {}  # nobody tests what he has shaped
        target = "condition"
        for arm in ARMS:
            for seed in range(self.config.seeds):
                self.frame.cell(
                    {"target": target, "arm": arm, "seed": seed},
                    functools.partial(self._fit, target, arm, seed),
                )
        seeds = self.config.seeds
        runs = {arm: runs_of(self.frame, {"target": target}, arm, seeds)[0] for arm in ARMS}
        return {target: worth(runs)}

    @functools.cached_property
    def judge(self) -> NeuroJudge:
        """Half of the held-out people."""
        return NeuroJudge(
            self._runs("tests"), self.grid.affine, train=self._runs("train"), splits=SPLITS,
            seed=self.config.seed,
        )  # fmt: skip

    @functools.cached_property
    def made(self) -> Subjects:
        """What is compared of the samples."""
        return self.judge.read(self._runs("samples"))

    def _fit(self, target: str, arm: str, seed: int) -> dict[str, Any]:
        parts = {"real": ("train",), "synthetic": ("samples",), "both": ("train", "samples")}[arm]
        train = [subject for part in parts for subject in self._responses(part)]
        decoder = VolumeClassifier(
            target, "bold", steps=self.config.steps, seed=seed, shift=0, class_weight="balanced"
        )
        # The judges had no part in the bank, and only choose the checkpoint.
        return judge(decoder, train, self._responses("judges"), self._responses("tests"))[1]

    def _responses(self, part: str) -> list[tio.Subject]:
        if part not in self._read:
            # A network needs some voxels along each axis.
            coarsest = min(self.grid.shape) // (2 * LEAST)
            shrink = max(1, min(round(SIDE / min(self.grid.spacing)), coarsest))
            found = responses(getattr(self, part), Window(shrink=shrink))
            self._read[part] = [s for s in found if s["condition"] in self.judge.conditions]
            for subject in self._read[part] if part == "samples" else ():
                subject["synthetic"] = True
                subject.update_attributes()
        return self._read[part]

    def _runs(self, part: str) -> Sequence[TaskRun]:
        if part not in self._listed:
            self._listed[part] = read_runs(getattr(self, part))
        return self._listed[part]

    def _images(self, part: str) -> np.ndarray:
        """Mean image of each run, divided by its mean in the brain, (N, V)."""
        if part not in self._means:
            mask = self.judge.mask
            means = [run.series(mask).mean(axis=0) for run in self._runs(part)]
            self._means[part] = np.stack(means)
        raw = self._means[part]
        return raw / np.maximum(raw.mean(axis=1, keepdims=True), 1e-12)

    def _volumes(self, part: str) -> np.ndarray:
        """Mean images in their own units, (N, X, Y, Z)."""
        self._images(part)
        volumes = np.zeros((len(self._means[part]), *self.grid.shape), np.float32)
        volumes[:, self.judge.mask] = self._means[part]
        return volumes

    def _volume(self, part: str, number: int) -> np.ndarray:
        volume = np.zeros(self.grid.shape, np.float32)
        volume[self.judge.mask] = self._images(part)[number]
        return volume

    @functools.cached_property
    def _listed(self) -> dict[str, Sequence[TaskRun]]:
        return {}

    @functools.cached_property
    def _read(self) -> dict[str, list[tio.Subject]]:
        return {}

    @functools.cached_property
    def _means(self) -> dict[str, np.ndarray]:
        return {}
