"""Do synthetic task fMRI runs help a decoder of few people?

    few people: real runs ──► responses ──────────────────────────────┐
                    │                                                 ▼
                    └► sampler ──► synthetic runs ──► bank of responses ──► decoder ──► other people

A decoder tells the condition, or the person's sex, from the response of a run to one condition
(:mod:`neuromix.augment.fmri.responses`). The sampler is fitted to the people that the decoder is
trained on, and to nobody else. The arms differ in what takes the place of a training response. All
have the same real people and as many steps. Scores are those of responses of held-out people; the
bootstrap draws people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data import leakage, origin
from neuromix.augment.data.cohort import COLUMNS, Cohort
from neuromix.augment.data.conditions import inside
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS
from neuromix.augment.fmri.responses import ResponseSampler, responses
from neuromix.augment.fmri.runs import Runs
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.metrics.task_runs import read_runs
from neuromix.augment.prepare.bold import EVENT_COLUMNS
from neuromix.augment.transforms import RandomSynthetic, TimeConsistent
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.evaluate import nested_subsets
from neuromix.experiments.evidence.arms import DECODERS, MEAN_RESPONSE, RUNS, Arm
from neuromix.experiments.evidence.comparison import (
    Cell,
    Comparison,
    carry_out,
    cells_of,
    fill_bank,
    fit_sampler,
    run_cells,
)
from neuromix.experiments.evidence.configs import UNITS, Decoding
from neuromix.experiments.evidence.plan import plan_decoding
from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.evidence.sites import (
    FEWEST_OF_CLASS,
    Parts,
    find_runs,
    require_classes,
)
from neuromix.experiments.frame.arms import judge
from neuromix.experiments.frame.cohorts import names_of
from neuromix.experiments.frame.figures import Picture, slices
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import CEILING, Group, Roles
from neuromix.experiments.quality.runs_baselines import MeanResponse, Request

ROLES = Roles(
    "real",
    ("real", "classical", "mean-response"),
    ("runs", "runs-classical", "runs-only"),
    ("runs", "runs-classical"),
    CEILING,
)
SYNTHETIC_SHARE = 0.5
"""Of the training items that are synthetic where real ones are, too."""
PICTURED = 3
"""Conditions in the picture."""


class DecodingComparison(Comparison):
    """All targets and sizes, cell by cell."""

    name, images = "decoding", ("bold",)
    plan = staticmethod(plan_decoding)
    config: Decoding

    def __init__(self, config: Decoding, frame: Run) -> None:
        super().__init__(config, frame)
        parts = self.parts = divide(find_runs(config, frame.folder / "phantom"), config)
        self.runs = Runs.of(parts.test, 1)
        self.trained, self.tests = [parts.pool, parts.validation], [parts.test]
        self.ceiling = parts.ceiling
        self._read: dict[tuple[str, str | int], list[tio.Subject]] = {}

    def fit(self) -> None:
        """Every arm with every number of people, and the ceiling, for each target."""
        config = self.config
        for key in config.keys:
            target, size = key["setting"], key["size"]
            cells = cells_of(key, config.arms, config.seeds)
            material = partial(self._material, target, size)
            run_cells(self.frame, f"{target}, {size} people", cells, material, self._fit_arm)
        for target in config.targets if self.ceiling is not None else ():
            cells = cells_of(_ceiling_of(target), [CEILING], config.seeds)
            fresh = partial(self._responses, target, "ceiling")
            make = partial(self._fit_decoder, target)
            run_cells(self.frame, f"{target}, many people", cells, fresh, make)

    def groups(self) -> list[Group]:
        """The finished runs."""
        config, groups = self.config, []
        for key in config.keys:
            target = key["setting"]
            arms = dict.fromkeys(config.arms, key)
            if self.ceiling is not None:
                arms[CEILING] = _ceiling_of(target)
            title = f"{target} of responses of held-out people, {key['size']} people to learn from"
            groups.append(self.group(key, title, self.parts.name, target, ROLES, arms))
        return groups

    def page(self, results: dict[str, Any], groups: Sequence[Group]) -> str:
        """The report."""
        config = self.config
        judges, choosers = (
            len(part.subject_keys) for part in (self.parts.test, self.parts.validation)
        )
        origin = f"phantom task, seed {config.seed}" if config.data is None else "own data"
        methods = [
            f"The cohort is {self.parts.name} ({origin}), {len(self.runs.runs)} runs of "
            f"{judges} people who judge and {choosers} who choose checkpoints. "
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
            methods=methods,
            warnings=[seeds_warning(config.seeds, "number of people")],
            first=self._pictures(),
        )

    def _pictures(self) -> list[Picture]:
        """Mean responses of the fewest people, and of what is made from them."""
        if "condition" not in self.config.targets:
            return []
        pictures: list[Picture] = []
        size = min(self.config.sizes)
        train = self._responses("condition", size)
        kinds = {"real": train}
        for name, folder in self._banks("condition", size).items():
            kinds["synthetic" if name == RUNS else "mean response"] = SampleBank(folder).subjects()
        for name in sorted({subject["condition"] for subject in train})[:PICTURED]:
            volumes = [_strongest(subjects, name) for subjects in kinds.values()]
            upper = float(np.percentile(volumes[0], 99.8))
            text = (
                f"Mean response to {name}, in per cent from 0 to {upper:.2f}, at its strongest "
                f"frame: of {size} people, and of what is made from them."
            )
            pictures.append((slices(volumes, list(kinds), upper=upper), text))
        return pictures

    def _responses(self, target: str, people: str | int) -> list[tio.Subject]:
        """Of a part of the people or the first so many of the pool, read once for each unit."""
        key = (UNITS[target], people)
        if key not in self._read:
            window = self.config.window(target)
            cohort = self._first(people) if isinstance(people, int) else getattr(self.parts, people)
            self._read[key] = responses(cohort, window)
        return self._read[key]

    def _first(self, size: int) -> Cohort:
        """The runs of the first so many people of the pool."""
        return self.parts.pool.where(first_people(self.parts.pool, size, self.config.seed))

    def _material(
        self, target: str, size: int
    ) -> tuple[list[tio.Subject], list[tio.Subject], dict[str, Path]]:
        """Real responses, classical copies of them, and banks of synthetic ones."""
        config = self.config
        banks = self._banks(target, size)
        real = self._responses(target, size)
        is_moved = any(DECODERS[arm].classical for arm in config.arms)
        return real, classical_copies(real, config.ratio, config.seed) if is_moved else [], banks

    def _fit_arm(self, cell: Cell, material: tuple[Any, Any, dict[str, Path]]) -> Cell:
        real, copies, banks = material
        arm, target = DECODERS[cell["arm"]], cell["setting"]
        train = [*real, *copies] if arm.classical else real
        return self._fit_decoder(target, cell, train, replacement(arm, target, banks))

    def _fit_decoder(
        self, target: str, cell: Cell, train: Sequence[tio.Subject], transform: Any = None
    ) -> Cell:
        decoder = VolumeClassifier(
            target, "bold", steps=self.config.steps, seed=cell["seed"], shift=0, augment=transform
        )
        held_out = [self._responses(target, part) for part in ("validation", "test")]
        return judge(decoder, train, *held_out)[1]

    def _banks(self, target: str, size: int) -> dict[str, Path]:
        """Responses of synthetic runs, by what made them."""
        config = self.config
        banks: dict[str, Path] = {}
        for kind in dict.fromkeys(DECODERS[arm].source for arm in config.arms):
            if kind:
                make = partial(self._requests, kind, target, size)
                name = f"{kind}-{size}-{UNITS[target]}"
                banks[kind] = fill_bank(
                    self.frame, name, make, config.seed, steps=config.sampling_steps
                )
        return banks

    def _requests(
        self, kind: str, target: str, size: int
    ) -> tuple[ResponseSampler, list[dict[str, Any]]]:
        """A sampler of responses, and the labels of each training response in random order."""
        config, sampler = self.config, self._sampler(size)
        rows = [
            inside(sampler.label_space, subject) | {"condition": subject["condition"]}
            for subject in self._responses(target, size)
        ] * config.ratio
        order = np.random.default_rng(config.seed).permutation(len(rows))
        maker = MeanRuns(self._first(size)) if kind == MEAN_RESPONSE else sampler
        return ResponseSampler(maker, config.window(target)), [rows[k] for k in order]

    def _sampler(self, size: int) -> TaskFMRISampler:
        preset = PRESETS[self.config.sampler]
        training = replace(preset.training, seed=self.config.seed)
        validation = self.parts.validation if preset.training.steps else None
        sampler: TaskFMRISampler = fit_sampler(
            self.frame,
            f"{RUNS}-{size}",
            TaskFMRISampler,
            self._first(size),
            replace(preset, training=training),
            validation,
            self.tests,
            voxels=False,
        )
        return sampler


run = partial(carry_out, DecodingComparison)


def divide(cohort: Cohort, config: Decoding) -> Parts:
    """Part people at random and evenly in sex; of one's own, all that are left judge."""
    sizes = {"pool": max(config.sizes), "validation": config.validation, "ceiling": config.fresh}
    people = len(cohort.subject_keys)
    if people - sum(sizes.values()) < 2:
        raise InputError(
            f"{people} people of {cohort.name} have such runs; {sum(sizes.values())} to train and "
            "validate are asked for and 2 or more must be left to judge: ask for fewer, or bring "
            "more"
        )
    parts, taken = {}, np.zeros(len(cohort), bool)
    sizes["test"] = people - sum(sizes.values())
    ends = np.cumsum(list(sizes.values())).tolist()
    for (part, count), end in zip(sizes.items(), ends, strict=True):
        chosen = first_people(cohort, end, config.seed)
        parts[part] = cohort.where(chosen & ~taken)
        taken = chosen
        if count and part != "validation" and "sex" in config.targets:
            fewest = FEWEST_OF_CLASS if part == "test" else 1
            require_classes(parts[part], "sex", f"{part} part of {cohort.name}", fewest)
    fresh = parts["ceiling"] if config.fresh else None
    return Parts(cohort.name, parts["pool"], parts["validation"], parts["test"], fresh)


def first_people(cohort: Cohort, count: int, seed: int) -> np.ndarray:
    """The rows of so many people, at random and evenly in sex; fewer are among more of them."""
    chosen = nested_subsets(names_of(cohort), cohort.table["sex"].to_list(), [count], seed)
    return np.isin(np.arange(len(cohort)), chosen[count])


def replacement(arm: Arm, target: str, banks: Mapping[str, Path]) -> RandomSynthetic | None:
    """What an arm puts in the place of training responses: samples with the same target."""
    if not arm.source:
        return None
    p = SYNTHETIC_SHARE if arm.real else 1.0
    return RandomSynthetic(banks[arm.source], match=(target,), p=p)


def classical_copies(subjects: Sequence[tio.Subject], count: int, seed: int) -> list[tio.Subject]:
    """So many classically augmented copies of each response; each depends on its place and seed."""
    step = min(subjects[0]["bold"].spacing)
    move = tio.RandomAffine(
        scales=0.05, degrees=5, translation=step / 2, default_pad_value=0, include=["bold"]
    )
    classical = tio.Compose([move, TimeConsistent(tio.RandomBiasField(coefficients=0.3))])
    copies = []
    with torch.random.fork_rng(devices=[]):
        for k, subject in enumerate(subjects):
            word = np.random.SeedSequence([seed, k]).generate_state(1)[0]
            torch.default_generator.manual_seed(int(word))
            copies += [classical(subject) for _ in range(count)]
    return copies


class MeanRuns:
    """The cheap generator as a sampler: the mean response to a run's events, and noise.

    Runs have the events of a training run of their task. They know no label but the task.

    Args:
        cohort: Training runs.
    """

    version = 1

    def __init__(self, cohort: Cohort) -> None:
        self.runs = Runs.of(cohort, 1)
        self.generator = MeanResponse().fit(read_runs(cohort))
        self.record = leakage.provenance([cohort], leakage.voxel_hashes(cohort))

    def fingerprint(self) -> str:
        """Of those whose runs it is the mean of."""
        content = json.dumps([self.record["voxels"], self.runs.conditions])
        return hashlib.sha256(content.encode()).hexdigest()[:24]

    def __call__(
        self, labels: Sequence[Mapping[str, Any]], seeds: Sequence[int], steps: int, guidance: float
    ) -> list[tio.Subject]:
        """A subject with a run for each of the labels."""
        return [self._one(row, seed) for row, seed in zip(labels, seeds, strict=True)]

    def _one(self, labels: Mapping[str, Any], seed: int) -> tio.Subject:
        of_task = [run for run in self.runs.runs if run.task == labels["task"]]
        like = of_task[int(np.random.default_rng([seed, 1]).integers(len(of_task)))]
        request = Request("", like.task, like.events, self.runs.tr, like.frames)
        (run,) = self.generator.draw([request], [seed])
        image = tio.ScalarImage(
            tensor=torch.from_numpy(np.moveaxis(run.data, 3, 0).copy()),
            affine=self.runs.grid.affine,
            RepetitionTime=self.runs.tr,
            events=json.dumps(like.events[list(EVENT_COLUMNS)].to_numpy().tolist()),
        )
        keys: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"age": float("nan")}
        known = {name: value for name, value in labels.items() if name in COLUMNS}
        marks = {"synthetic": True, "synthetic_id": str(seed), "origin": origin.of_maker(self)}
        return tio.Subject(bold=image, **keys | known, **marks)


def _strongest(subjects: Sequence[tio.Subject], condition: str) -> np.ndarray:
    """The mean response to a condition, at the frame where it is strongest."""
    chosen = [s["bold"].numpy() for s in subjects if s["condition"] == condition]
    mean = np.mean(chosen, axis=0)
    peaks = np.percentile(mean.reshape(len(mean), -1), 99.5, axis=1)
    return np.asarray(mean[int(peaks.argmax())])


def _ceiling_of(target: str) -> Cell:
    return {"setting": f"{target}, many people"}
