"""Ways to train a decoder of task fMRI on few people: the arms of ``neuromix experiment decoding``.

    arm              what a decoder sees of a training response at a step
    real             it
    classical        it or a copy of it, moved, turned and scaled, brighter here and darker there
    runs             it, or as often one of a synthetic run in its place
    runs-classical   it or a copy, or as often one of a synthetic run in its place
    runs-only        one of a synthetic run
    mean-response    it, or as often one of the mean response and noise

All arms have the same real people and as many steps. Responses of synthetic runs come from a bank;
:class:`~neuromix.augment.transforms.RandomSynthetic` draws one that has the label to be told. There
are as many copies as the bank has responses; they are made once, since that takes longer than a
step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio

from neuromix.augment.data import leakage, origin
from neuromix.augment.data.cohort import COLUMNS, Cohort
from neuromix.augment.fmri.runs import Runs
from neuromix.augment.metrics.task_runs import read_runs
from neuromix.augment.prepare.bold import EVENT_COLUMNS
from neuromix.augment.transforms import RandomSynthetic, TimeConsistent
from neuromix.experiments.evidence.decoding_config import DECODERS
from neuromix.experiments.frame.verdict import TITLES
from neuromix.experiments.quality.runs_baselines import MeanResponse, Request

RUNS, MEAN = "runs", "mean-response"
"""Banks: of the sampler, and of the cheap generator."""

TITLES.update(DECODERS)
BANKS = {"runs": RUNS, "runs-classical": RUNS, "runs-only": RUNS, "mean-response": MEAN}
"""What an arm draws from."""
SHARE = 0.5
"""Of the training items that are synthetic where real ones are, too."""


def placed(arm: str, target: str, banks: Mapping[str, Path]) -> RandomSynthetic | None:
    """What an arm puts in the place of training responses.

    Args:
        arm: Its name.
        target: The label to be told, which a sample shares with the response that it replaces.
        banks: Folders by name.
    """
    if arm not in BANKS:
        return None
    p = 1.0 if arm == "runs-only" else SHARE
    return RandomSynthetic(banks[BANKS[arm]], match=(target,), p=p)


def copies(subjects: Sequence[tio.Subject], count: int, seed: int) -> list[tio.Subject]:
    """So many classically augmented copies of each response; each depends on its place and seed."""
    step = min(subjects[0]["bold"].spacing)
    move = tio.RandomAffine(
        scales=0.05, degrees=5, translation=step / 2, default_pad_value=0, include=["bold"]
    )
    classical = tio.Compose([move, TimeConsistent(tio.RandomBiasField(coefficients=0.3))])
    made = []
    with torch.random.fork_rng(devices=[]):
        for k, subject in enumerate(subjects):
            word = np.random.SeedSequence([seed, k]).generate_state(1)[0]
            torch.default_generator.manual_seed(int(word))
            made += [classical(subject) for _ in range(count)]
    return made


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
