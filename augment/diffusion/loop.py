"""The one training loop of the project, on accelerate.

Nothing random has a state: which samples make a batch, their noise and their dropped labels follow
from (seed, step, position in the global batch). A checkpoint therefore holds only weights, their
moving average and the optimisers, and a training that was killed anywhere goes on from its last
checkpoint to the weights of an unbroken one. The same holds for any number of processes: each takes
its share of the same global batch.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from safetensors.torch import save_file
from torch import Tensor

from neuromix.augment import files
from neuromix.augment.diffusion.config import TrainConfig
from neuromix.augment.diffusion.memory import keep_freed_memory
from neuromix.augment.diffusion.objectives import Batch, Objective
from neuromix.augment.diffusion.precision import precision_of
from neuromix.augment.diffusion.state import TrainingState
from neuromix.augment.errors import InputError, TrainingError

BEST, EARLY, LOG = "best.safetensors", "early.safetensors", "metrics.jsonl"


class TrainingSet(Protocol):
    """Samples by number; nothing says that they are in memory."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], generators: Sequence[torch.Generator]) -> Batch:
        """Samples as tensors; a random encoding draws from the generator of its sample."""
        ...


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    step: int
    best_step: int
    """Step whose averaged weights had the lowest validation loss; they are the result."""
    validation: float
    seconds: float
    waiting: float
    """Share of the time in which the network waited for data."""
    precision: str = "no"


def train(
    objective: Objective,
    data: TrainingSet,
    config: TrainConfig,
    folder: str | Path,
    *,
    validation: TrainingSet | None = None,
    resume: bool = True,
    progress: bool = False,
    on_step: Callable[[int], None] | None = None,
    early: int = 0,
) -> Trained:
    """Train the networks of an objective; they hold the best averaged weights at the end.

    Args:
        objective: Networks and losses.
        data: Training samples.
        config: How to train.
        folder: For checkpoints, ``metrics.jsonl`` and TensorBoard's events.
        validation: Samples that decide which step was best; the last step is by default.
        resume: Go on from the last checkpoint in the folder; else what an earlier training left
            there is removed before the first step.
        progress: Show a progress bar with the time left.
        on_step: Called after each step with its number.
        early: Step whose averaged weights are kept beside the result, in ``early.safetensors``.
    """
    training = _Training(objective, data, validation, config, Path(folder))
    training.early = early
    return training.run(resume, progress, on_step)


def estimate(objective: Objective, data: TrainingSet, config: TrainConfig) -> float:
    """Seconds that a training would take, from two steps; nothing is written or changed."""
    times = []
    kind, networks = PartialState().device.type, objective.networks.values()
    is_half = precision_of(config.precision, kind, networks) == "bf16"
    before = {name: copy.deepcopy(n.state_dict()) for name, n in objective.networks.items()}
    for step in range(3):
        begun = time.perf_counter()
        generators = sample_generators(config.seed, step, range(config.batch_size))
        batch = data.batch([k % len(data) for k in range(config.batch_size)], generators)
        for name, network in objective.networks.items():
            with torch.autocast(kind, torch.bfloat16, enabled=is_half):
                loss = objective.loss(name, batch, generators)
            loss.backward()
            network.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - begun)
    for name, network in objective.networks.items():
        network.load_state_dict(before[name])  # codebooks move in a forward pass
    return config.steps * min(times[1:])


def check_size(samples: int, config: TrainConfig) -> None:
    """Refuse a training set that does not fill a batch."""
    if samples < config.batch_size:
        raise InputError(
            f"{samples} training samples are fewer than a batch of {config.batch_size}; choose a "
            "smaller batch_size or add subjects"
        )


def sample_generators(seed: int, step: int, positions: Sequence[int]) -> list[torch.Generator]:
    """A generator for each position of the global batch of a step."""
    return [torch.Generator().manual_seed(_mix(seed, step, k)) for k in positions]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class _Training:
    """One run of the loop."""

    def __init__(
        self,
        objective: Objective,
        data: TrainingSet,
        validation: TrainingSet | None,
        config: TrainConfig,
        folder: Path,
    ) -> None:
        self.objective, self.data, self.validation = objective, data, validation
        kind, networks = PartialState().device.type, objective.networks.values()
        config = replace(config, precision=precision_of(config.precision, kind, networks))
        self.config, self.folder = config, folder
        # Accelerate holds a process to one precision; networks of several are trained in one.
        self.accelerator = Accelerator(
            mixed_precision="no", log_with="tensorboard", project_dir=folder
        )
        shares = self.accelerator.num_processes * config.accumulation
        if config.batch_size % shares:
            raise InputError(
                f"a batch of {config.batch_size} does not divide into {shares} shares "
                f"({self.accelerator.num_processes} processes x {config.accumulation} "
                "micro-batches); choose a batch_size that does"
            )
        check_size(len(data), config)
        self.early = 0
        self.best: dict[str, Any] = {"step": 0, "loss": math.inf}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=int))

    def run(self, resume: bool, progress: bool, on_step: Callable[[int], None] | None) -> Trained:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        config, accelerator = self.config, self.accelerator
        keep_freed_memory()
        self.state = TrainingState(
            self.objective, accelerator, config.weight_decay, config.ema_decay
        )
        first = self._resume() if resume else self._begin_anew()
        accelerator.init_trackers("tensorboard")
        begun, waited = time.perf_counter(), 0.0
        columns = (
            TextColumn("Training"), BarColumn(), MofNCompleteColumn(), Remaining(),
            TextColumn("{task.fields[loss]}"),
        )  # fmt: skip
        hidden = not (progress and accelerator.is_main_process)
        if first == 0 and self.validation is not None:
            self._validate(0)  # a start in closed form may stay the best
        with Progress(*columns, disable=hidden) as bar:
            task = bar.add_task("", total=config.steps, completed=first, loss="")
            for step in range(first, config.steps):
                losses, wait = self._step(step)
                waited += wait
                done = step + 1
                if done % config.log_every == 0 or done == config.steps:
                    self._log(done, losses)
                bar.update(task, advance=1, loss=f"loss {next(iter(losses.values())):.4f}")
                if done == self.early and accelerator.is_main_process:
                    with self.state.averaged():
                        self._write(EARLY, self.state.weights())
                if self.validation is not None and (
                    done % config.validate_every == 0 or done == config.steps
                ):
                    self._validate(done)
                if done % config.checkpoint_every == 0 or done == config.steps:
                    self._save(done)
                if on_step is not None:
                    on_step(done)
        accelerator.end_training()
        return self._finish(time.perf_counter() - begun, waited)

    def _step(self, step: int) -> tuple[dict[str, float], float]:
        """One step of every optimiser: mean losses over processes, and seconds of waiting."""
        config, accelerator = self.config, self.accelerator
        losses: dict[str, float] = {}
        waited, batches = 0.0, []
        for micro in range(config.accumulation):
            begun = time.perf_counter()
            batches.append(self._share(step, micro))
            waited += time.perf_counter() - begun
        for name, optimiser in self.state.optimisers.items():
            network = self.objective.networks[name]
            total = torch.zeros((), device=accelerator.device)
            for micro, (batch, positions) in enumerate(batches):
                generators = sample_generators(config.seed, step, positions)
                last = micro == config.accumulation - 1
                with torch.enable_grad(), _syncing(accelerator, network, last):
                    with self._autocast():
                        loss = self.objective.loss(name, batch, generators)
                    loss = loss / config.accumulation
                    accelerator.backward(loss)
                total += loss.detach()
            losses[name] = float(accelerator.reduce(total, "mean"))
            norm = accelerator.clip_grad_norm_(network.parameters(), config.clip)
            if not (math.isfinite(losses[name]) and torch.isfinite(torch.as_tensor(norm))):
                raise TrainingError(self._broken(step + 1, name, losses[name]))
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            self.state.average(name)
        return losses | self.objective.stepped(), waited

    def _autocast(self) -> Any:
        """Mixed precision, if the training has it."""
        kind = self.accelerator.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _share(self, step: int, micro: int) -> tuple[Batch, list[int]]:
        """This process's part of a micro-batch, on the device, and its places in the batch."""
        config, accelerator = self.config, self.accelerator
        size = config.batch_size // config.accumulation // accelerator.num_processes
        start = (micro * accelerator.num_processes + accelerator.process_index) * size
        positions = list(range(start, start + size))
        numbers = [self._number(step * config.batch_size + k) for k in positions]
        # Encodings draw from streams of their own: the loss's would run on from different places.
        generators = sample_generators(_mix(config.seed, 1), step, positions)
        return _to(self.data.batch(numbers, generators), accelerator.device), positions

    def _number(self, drawn: int) -> int:
        """The sample that is drawn at a place of the endless stream of shuffled epochs."""
        epoch, place = divmod(drawn, len(self.data))
        if self._order[0] != epoch:
            shuffled = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.data))
            self._order = (epoch, shuffled)
        return int(self._order[1][place])

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """The averaged weights' loss on the validation samples, always with the same noise."""
        assert self.validation is not None
        config, accelerator = self.config, self.accelerator
        total = torch.zeros(2, device=accelerator.device)
        mine = range(accelerator.process_index, len(self.validation), accelerator.num_processes)
        with self.state.averaged():
            name, network = next(iter(self.objective.networks.items()))
            network.eval()
            for start in range(0, len(mine), config.batch_size):
                numbers = list(mine[start : start + config.batch_size])
                encoders = sample_generators(_mix(config.seed, 2), 0, numbers)
                batch = _to(self.validation.batch(numbers, encoders), accelerator.device)
                generators = sample_generators(_mix(config.seed, 3), 0, numbers)
                with self._autocast():
                    loss = self.objective.loss(name, batch, generators)
                total += len(numbers) * torch.stack([loss, torch.ones_like(loss)])
            network.train()
            total = accelerator.reduce(total, "sum")
            loss_value = float(total[0] / total[1])
            if loss_value < self.best["loss"]:
                self.best = {"step": step, "loss": loss_value}
                if accelerator.is_main_process:
                    self._write(BEST, self.state.weights())
        self._log(step, {"validation": loss_value})

    def _save(self, step: int) -> None:
        """A checkpoint is a folder that appears whole; old ones go only after that."""
        if not self.accelerator.is_main_process:
            self.accelerator.wait_for_everyone()
            return
        final = self.folder / f"checkpoint-{step:08d}"
        with files.replacing_folder(final) as temporary:
            state = {
                "step": step,
                "best": self.best,
                "ema_steps": self.state.save(temporary),
                "settings": self._settings(),
            }
            files.write_json(temporary / "state.json", state)
        for old in checkpoints(self.folder)[: -self.config.checkpoints]:
            shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Load the last checkpoint; the step to go on from."""
        there = checkpoints(self.folder)
        if not there:
            return 0
        last = there[-1]
        state = json.loads((last / "state.json").read_text())
        if state["settings"] != self._settings():
            raise InputError(
                f"{self.folder} holds a training with other settings or data; name another folder, "
                "or train without resuming"
            )
        self.state.load(last, state["ema_steps"])
        if state["best"]["loss"] is not None:  # JSON cannot hold the infinite one of no validation
            self.best = state["best"]
        self._trim_log(state["step"])
        return int(state["step"])

    def _begin_anew(self) -> int:
        """Remove an earlier training, whose checkpoints may be of later steps; the first step."""
        if self.accelerator.is_main_process:
            for old in checkpoints(self.folder):
                shutil.rmtree(old)
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            for name in (BEST, EARLY, LOG):
                (self.folder / name).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        return 0

    def _finish(self, seconds: float, waited: float) -> Trained:
        """Put the best averaged weights into the networks."""
        validated = math.isfinite(self.best["loss"])
        self.state.unwrap(self.folder / BEST if validated else None)
        return Trained(
            step=self.config.steps,
            best_step=self.best["step"] if validated else self.config.steps,
            validation=self.best["loss"],
            seconds=seconds,
            waiting=waited / max(seconds, 1e-9),
            precision=self.config.precision,
        )

    def _settings(self) -> str:
        """Digest of what a resumed training must have in common with the one before."""
        config = asdict(self.config)
        for free in ("checkpoint_every", "checkpoints", "log_every", "accumulation"):
            del config[free]
        shapes = {k: list(v.shape) for k, v in self.state.weights().items()}
        text = json.dumps([config, len(self.data), shapes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _broken(self, step: int, name: str, loss: float) -> str:
        there = checkpoints(self.folder)
        good = f"the last good checkpoint is {there[-1]}" if there else "there is no checkpoint yet"
        return (
            f"the loss of {name} at step {step} is {loss} or its gradient is not finite; {good}; "
            "lower the learning rate or look for NaN in the data, then run it again"
        )

    def _log(self, step: int, values: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.accelerator.log(values, step=step)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")

    def _trim_log(self, step: int) -> None:
        """Drop what was logged after the checkpoint: it will be logged again."""
        log = self.folder / LOG
        if self.accelerator.is_main_process and log.exists():
            whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            files.write_bytes(log, "".join(f"{line}\n" for line in kept).encode())

    def _write(self, name: str, weights: dict[str, Tensor]) -> None:
        with files.replacing(self.folder / name) as temporary:
            save_file(weights, temporary)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a training, the oldest first."""
    return sorted(folder.glob("checkpoint-*"))


def _syncing(accelerator: Accelerator, network: torch.nn.Module, last: bool) -> Any:
    """Gradients travel between processes with the last micro-batch only."""
    return contextlib.nullcontext() if last else accelerator.no_sync(network)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {key: _to(part, device) for key, part in value.items()}
    return value.to(device)


def _mix(*numbers: int) -> int:
    """One seed of several numbers, without collisions in practice."""
    words = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return int(words[0]) << 31 ^ int(words[1])
