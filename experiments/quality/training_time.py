"""Trainings for a given time, in the one loop: how rivals are given as much as a sampler had."""

from __future__ import annotations

import copy
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuromix.augment import files
from neuromix.augment.diffusion.loop import TrainConfig, TrainingSet, checkpoints, train
from neuromix.augment.diffusion.objectives import Objective

CHECKS = 4
"""Validations of a training; they come on top of the given time."""


def timed(
    objective: Objective,
    data: TrainingSet,
    training: TrainConfig,
    seconds: float,
    folder: Path,
) -> TrainConfig:
    """As many steps as fit into the time; decided once, so that a training can be resumed.

    It is processor time, of which others on the machine take none; with an accelerator the clock's.
    """
    plan = folder / "plan.json"
    if not plan.is_file():
        pace = _pace(objective, data, training)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(plan, {"steps": max(2, round(seconds / pace)), "seconds_per_step": pace})
    return lasting(training, int(json.loads(plan.read_text())["steps"]))


def lasting(training: TrainConfig, steps: int) -> TrainConfig:
    """A training of another length; warmup, validations and checkpoints go by it."""
    every = math.ceil(steps / CHECKS)
    warmup = min(training.warmup, steps // 10 + 1)
    return replace(
        training, steps=steps, warmup=warmup, validate_every=every, checkpoint_every=every
    )


def clock() -> float:
    """Seconds that equal compute is told by: of the processor, or of the day beside a GPU."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def train_for(
    seconds: float,
    objective: Objective,
    data: TrainingSet,
    training: TrainConfig,
    folder: Path,
    validation: TrainingSet | None = None,
) -> dict[str, Any]:
    """Train the network of an objective for some seconds, or go on with that; what it cost.

    The cost is kept in the folder, as a call on a finished training takes no time.
    """
    config = timed(objective, data, training, seconds, folder)
    whole = checkpoints(folder)
    done = int(whole[-1].name.removeprefix("checkpoint-")) if whole else 0
    trained = train(objective, data, config, folder, validation=validation)
    network, record = objective.networks["network"].eval(), folder / "cost.json"
    if not record.is_file():
        files.write_json(record, {
            "parameters": sum(p.numel() for p in network.parameters()),
            "training steps": trained.step,
            "best step": trained.best_step,
            # A resumed training has timed its last part only.
            "training seconds": trained.seconds * trained.step / max(trained.step - done, 1),
        })  # fmt: skip
    return json.loads(record.read_text()) | {"loss": trained.validation}


def _pace(objective: Objective, data: TrainingSet, training: TrainConfig) -> float:
    """Seconds of a step of the loop, on the device of the training; nothing is changed."""
    ends: list[float] = []
    brief = replace(training, steps=4, warmup=1, checkpoint_every=4)
    with tempfile.TemporaryDirectory() as folder:
        trial = copy.deepcopy(objective)
        train(trial, data, brief, folder, on_step=lambda _: ends.append(clock()))
    return float(np.diff(ends[:-1]).min())  # the last step ends with a checkpoint
