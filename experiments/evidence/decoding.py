"""Do synthetic task fMRI runs help a decoder of few people?

    few people: real runs ──► responses ──────────────────────────────┐
                    │                                                 ▼
                    └► sampler ──► synthetic runs ──► bank of responses ──► decoder ──► other people

A decoder tells the condition, or the person's sex, from the response of a run to one condition
(:mod:`neuromix.augment.fmri.responses`). The sampler is fitted to the people that the decoder is
trained on, and to nobody else. The arms of :mod:`neuromix.experiments.evidence.decoders` differ in
what takes the place of a training response. Scores are those of responses of held-out people; the
bootstrap draws people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torchio as tio
from rich.progress import track

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import inside
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS as SAMPLERS
from neuromix.augment.fmri.responses import ResponseSampler, responses
from neuromix.augment.fmri.runs import Runs
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.classifiers.base import VolumeClassifier
from neuromix.experiments.evidence.comparison import carry_out
from neuromix.experiments.evidence.decoders import BANKS, RUNS, MeanRuns, copies, placed
from neuromix.experiments.evidence.decoding_config import UNITS, Decoding
from neuromix.experiments.evidence.decoding_costs import plan
from neuromix.experiments.evidence.decoding_people import divide, runs_asked_for
from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.frame.arms import check_disjoint, judge, runs_of
from neuromix.experiments.frame.cohorts import names_of
from neuromix.experiments.frame.figures import Picture, slices
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import CEILING, Group, Roles

NAME = "decoding"
ROLES = Roles(
    "real",
    ("real", "classical", "mean-response"),
    ("runs", "runs-classical", "runs-only"),
    ("runs", "runs-classical"),
    CEILING,
)
SHOWN = 3
"""Conditions in the picture."""


def run(config: Decoding, out: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Do the cells that are not done yet; write ``results.json`` and ``report.html``."""
    return carry_out(NAME, config, out, _Decoding, plan, ("bold",), dry_run=dry_run)


class _Decoding:
    """All targets and sizes, cell by cell."""

    def __init__(self, config: Decoding, frame: Run) -> None:
        self.config, self.frame = config, frame
        cohort = runs_asked_for(config, frame.folder)
        self.name = "phantom task" if config.data is None else cohort.name
        self.parts = divide(cohort, config)
        self.runs = Runs.of(self.parts["test"], 1)  # what does not fit is told before all else

    def check(self) -> None:
        """Nobody judges who trained or chose anything."""

        def look() -> dict[str, Any]:
            parts = self.parts
            check_disjoint([parts["pool"], parts["validation"]], [parts["test"]], voxels=True)
            if "ceiling" in parts:
                check_disjoint([parts["ceiling"]], [parts["test"]], voxels=False)
            return {"people": len(parts["test"].subject_keys)}

        self.frame.cell({"check": "disjoint"}, look)

    def fit(self) -> None:
        """Every target, with every number of people, and its ceiling."""
        for target in self.config.targets:
            for size in self.config.sizes:
                self._fit(target, size)
            self._fit_ceiling(target)

    def _fit(self, target: str, size: int) -> None:
        """Every arm and seed for so many people."""
        config = self.config
        cells: list[dict[str, Any]] = [
            {"setting": target, "size": size, "arm": arm, "seed": seed}
            for arm in config.arms
            for seed in range(config.seeds)
        ]
        left = [cell for cell in cells if not self.frame.is_done(cell)]
        if not left:
            return
        banks = self._banks(target, size)
        real = self._responses(target, f"{size} people")
        copied: list[tio.Subject] = []
        if any("classical" in cell["arm"] for cell in left):
            copied = copies(real, config.ratio, config.seed)
        for cell in track(left, f"Fits, {target}, {size} people", console=self.frame.console):
            arm = cell["arm"]
            train = [*real, *copied] if "classical" in arm else real
            synthetic = placed(arm, target, banks)
            self.frame.cell(cell, partial(self._judged, target, cell["seed"], train, synthetic))

    def _fit_ceiling(self, target: str) -> None:
        """Real responses of many other people."""
        if "ceiling" not in self.parts:
            return
        for seed in range(self.config.seeds):
            key = {"setting": f"{target}, many people", "arm": CEILING, "seed": seed}
            if not self.frame.is_done(key):
                train = self._responses(target, "ceiling")
                self.frame.cell(key, partial(self._judged, target, seed, train, None))

    def groups(self) -> list[Group]:
        """The finished runs."""
        config, result = self.config, []
        for key in config.keys:
            target, size = key["setting"], key["size"]
            found = {arm: runs_of(self.frame, key, arm, config.seeds) for arm in config.arms}
            if "ceiling" in self.parts:
                where = {"setting": f"{target}, many people"}
                found[CEILING] = runs_of(self.frame, where, CEILING, config.seeds)
            title = f"{target} of responses of held-out people, {size} people to learn from"
            runs = {arm: predictions for arm, (predictions, _) in found.items()}
            validation = {arm: score for arm, (_, score) in found.items()}
            result.append(Group(key, title, self.name, target, runs, validation, ROLES))
        return result

    def page(self, results: dict[str, Any], groups: Sequence[Group]) -> str:
        """The report."""
        config = self.config
        counts = {name: len(part.subject_keys) for name, part in self.parts.items()}
        origin = f"phantom task, seed {config.seed}" if config.data is None else "own data"
        methods = [
            f"The cohort is {self.name} ({origin}), {len(self.runs.runs)} runs of "
            f"{counts['test']} people who judge and {counts['validation']} who choose checkpoints. "
            f"A decoder sees the mean response of a run to a condition: {config.frames} frames of "
            f"{config.step:g} s each from the onset on, in per cent of the run's mean where it "
            "tells the condition, and as a share of the mean brain signal where it tells sex"
            + (
                f"; cubes of {config.shrink} voxels a side are averaged"
                if config.shrink > 1
                else ""
            )
            + f". It is trained for {config.steps} steps.",
            "The sampler is fitted to the training people of each size alone. For each of their "
            f"responses its bank holds {config.ratio} of synthetic runs of the same labels, each "
            "of another person. At a training step one such takes the place of a real response "
            "with chance one half, or always ('synthetic runs only').",
            f"Classical augmentation adds {config.ratio} copies of each real response: turned by "
            "up to 5 degrees, scaled by up to 5 %, moved by up to half a voxel, and smoothly "
            "brighter or darker over space, equally in all frames. It does not mirror, since left "
            "and right hand are conditions. 'Mean response and "
            "noise' is the cheap generator: the mean image, the mean response to the events, and "
            "white noise.",
        ]
        return page(
            "Decoding: do synthetic task fMRI runs help?",
            results,
            groups,
            [],
            methods=methods,
            warnings=[seeds_warning(config.seeds, "number of people")],
            config=results["config"],
            first=self.pictures(),
        )

    def pictures(self) -> list[Picture]:
        """Mean responses of the fewest people, and of what is made from them."""
        if "condition" not in self.config.targets:
            return []
        found: list[Picture] = []
        size = min(self.config.sizes)
        train = self._responses("condition", f"{size} people")
        names = sorted({subject["condition"] for subject in train})[:SHOWN]
        kinds = {"real": train}
        for name, folder in self._banks("condition", size).items():
            kinds["synthetic" if name == RUNS else "mean response"] = SampleBank(folder).subjects()
        for name in names:
            volumes = [_strongest(subjects, name) for subjects in kinds.values()]
            upper = float(np.percentile(volumes[0], 99.8))
            text = (
                f"Mean response to {name}, in per cent from 0 to {upper:.2f}, at its strongest "
                f"frame: of {size} people, and of what is made from them."
            )
            found.append((slices(volumes, list(kinds), upper=upper), text))
        return found

    @cached_property
    def _cached(self) -> dict[tuple[str, str], list[tio.Subject]]:
        return {}

    def _responses(self, target: str, part: str) -> list[tio.Subject]:
        """Of some part of the people, read once for each unit."""
        key = (UNITS[target], part)
        if key not in self._cached:
            window = self.config.window(target)
            self._cached[key] = responses(self._people(part), window)
        return self._cached[key]

    def _people(self, part: str) -> Cohort:
        """A part by its name, or ``N people``: the first N of the pool."""
        if part in self.parts:
            return self.parts[part]
        pool = self.parts["pool"]
        names = list(dict.fromkeys(names_of(pool)))[: int(part.split()[0])]
        return pool.where(np.isin(names_of(pool), names))

    def _judged(
        self, target: str, seed: int, train: Sequence[tio.Subject], transform: Any
    ) -> dict[str, Any]:
        decoder = VolumeClassifier(
            target, "bold", steps=self.config.steps, seed=seed, shift=0, augment=transform
        )
        held = [self._responses(target, part) for part in ("validation", "test")]
        return judge(decoder, train, *held)[1]

    def _banks(self, target: str, size: int) -> dict[str, Path]:
        """Responses of synthetic runs, by what made them."""
        config, frame = self.config, self.frame
        made: dict[str, Path] = {}
        for kind in dict.fromkeys(BANKS[arm] for arm in config.arms if arm in BANKS):
            name = f"{kind}-{size}-{UNITS[target]}"
            folder = made[kind] = frame.folder / "banks" / name
            if frame.is_done({"bank": name}):
                continue

            def fill(kind: str = kind, folder: Path = folder) -> dict[str, Any]:
                sampler = self._sampler(size) if kind == RUNS else self._mean(size)
                rows = self._asked(target, size)
                maker = ResponseSampler(sampler, config.window(target))
                frame.log(f"Bank {folder.name}: {len(rows)} responses")
                SampleBank.fill(
                    folder, maker, rows, config.seed, steps=config.sampling_steps, progress=True
                )
                return {"samples": len(rows)}

            frame.cell({"bank": name}, fill)
        return made

    def _asked(self, target: str, size: int) -> list[dict[str, Any]]:
        """The labels of each training response, as often as the ratio says, in random order."""
        train = self._responses(target, f"{size} people")
        space = self._sampler(size).label_space
        rows = [inside(space, s) | {"condition": s["condition"]} for s in train] * self.config.ratio
        order = np.random.default_rng(self.config.seed).permutation(len(rows))
        return [rows[k] for k in order]

    def _sampler(self, size: int) -> TaskFMRISampler:
        folder = self.frame.folder / "samplers" / f"{RUNS}-{size}"
        key = {"sampler": f"{size} people"}

        def fit() -> dict[str, Any]:
            preset = SAMPLERS[self.config.sampler]
            training = replace(preset.training, seed=self.config.seed)
            people, validation = self._people(f"{size} people"), self.parts["validation"]
            self.frame.log(f"Sampler: {len(people)} runs of {size} people")
            _, trained = TaskFMRISampler.fit(
                people,
                replace(preset, training=training),
                folder,
                validation=validation if preset.start > 0 else None,
                progress=True,
            )
            return {"scans": len(people), "best_step": trained.best_step if preset.start else None}

        if self.frame.is_done(key) and not is_sampler(folder):
            raise InputError(
                f"{folder} holds no sampler any more, and {self.frame.folder} needs it; begin in "
                "another folder"
            )
        self.frame.cell(key, fit)
        sampler = TaskFMRISampler.from_pretrained(folder)
        sampler.check_disjoint(self.parts["test"], voxels=False)
        return sampler

    def _mean(self, size: int) -> MeanRuns:
        return MeanRuns(self._people(f"{size} people"))


def _strongest(subjects: Sequence[tio.Subject], condition: str) -> np.ndarray:
    """The mean response to a condition, at the frame where it is strongest."""
    chosen = [s["bold"].numpy() for s in subjects if s["condition"] == condition]
    mean = np.mean(chosen, axis=0)
    peaks = np.percentile(mean.reshape(len(mean), -1), 99.5, axis=1)
    return np.asarray(mean[int(peaks.argmax())])
