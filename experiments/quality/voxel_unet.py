"""MONAI's 3D diffusion U-Net as a baseline: voxels instead of latents, convolutions for a DiT.

It is trained by flow matching like the sampler, in the one training loop, for a given time; it has
the shape of :class:`neuromix.experiments.quality.baselines.Generator`.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace, known
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.label_embedding import LabelEmbedder
from neuromix.augment.diffusion.loop import TrainConfig, Trained, checkpoints, train
from neuromix.augment.diffusion.objectives import FlowMatching
from neuromix.experiments.quality.baselines import CONDITIONS, Labels, as_volumes, inside_space

CHUNK = 4
"""Volumes that are made at once; the last chunk is padded, so that none depends on its fellows."""
CHECKS = 4
"""Validations of a training: each costs as much as several steps."""
CHECKED = 16
"""Volumes of a validation, for the same reason."""


class MonaiUNet:
    """MONAI's 3D diffusion U-Net on voxels, trained by flow matching for a given time.

    Args:
        training: How to train; its steps follow from ``seconds``.
        folder: For checkpoints; a finished training is not run again.
        parameters: About how many weights.
        seconds: How long to train on this machine.
        validation: Volumes and labels that choose the best step.
        steps: Of the flow, when sampling.
    """

    def __init__(
        self,
        training: TrainConfig,
        folder: Path,
        *,
        parameters: int,
        seconds: float,
        validation: tuple[np.ndarray, Labels],
        steps: int = 20,
    ) -> None:
        self.training, self.folder = training, folder
        self.parameters, self.seconds = parameters, seconds
        self.validation, self.steps = validation, steps

    def fit(self, volumes: np.ndarray, labels: Labels) -> MonaiUNet:
        """See :class:`neuromix.experiments.quality.baselines.Generator`."""
        self.mask_ = np.asarray((volumes > 0).any(axis=0))
        inside = volumes[:, self.mask_]
        self.scale_ = float(inside.mean()), float(inside.std())
        names = [name for name in CONDITIONS if any(known(row.get(name)) for row in labels)]
        space = LabelSpace.from_labels(labels, names)
        with torch.random.fork_rng():
            torch.manual_seed(self.training.seed)
            network = VoxelUNet(space, unet_width(self.parameters))
        mask = torch.from_numpy(self.mask_)[None, None].float()
        objective = FlowMatching(network, mask=mask)
        others, their = self.validation
        data = self._set(space, volumes, labels)
        judges = self._set(space, others[:CHECKED], their[:CHECKED])
        config = self._plan(objective, data, judges)
        done = steps_done(self.folder)
        trained = train(objective, data, config, self.folder, validation=judges)
        self.network_ = objective.networks["network"].eval()
        self.cost = training_cost(self.folder, self.network_, trained, done)
        return self

    @torch.no_grad()
    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """See :class:`neuromix.experiments.quality.baselines.Generator`."""
        network: Any = self.network_
        device = next(network.parameters()).device
        space = network.label_space
        codes = [space.encode(inside_space(space, row)) for row in labels]
        result = np.zeros((len(seeds), *self.mask_.shape), dtype=np.float32)
        for start in range(0, len(seeds), CHUNK):
            part = [min(start + k, len(seeds) - 1) for k in range(CHUNK)]
            wanted = {
                name: torch.tensor([codes[k][name] for k in part], device=device)
                for name in space.names
            }
            generators = [torch.Generator().manual_seed(seeds[k]) for k in part]
            noise = [torch.randn((1, *self.mask_.shape), generator=g) for g in generators]
            x = torch.stack(noise).to(device)
            scheduler = FlowMultistepScheduler()  # the sampler's own, so that both are solved alike
            scheduler.set_timesteps(self.steps)
            for moment in scheduler.timesteps:
                velocity = network(x, moment.expand(CHUNK).to(device), wanted)
                x = scheduler.step(velocity, moment, x).prev_sample
            mean, deviation = self.scale_
            made = (x[:, 0].cpu().numpy() * deviation + mean)[:, self.mask_]
            count = min(CHUNK, len(seeds) - start)
            result[start : start + count] = as_volumes(made[:count], self.mask_)
        return result

    def _set(self, space: LabelSpace, volumes: np.ndarray, labels: Labels) -> VoxelSet:
        mean, deviation = self.scale_
        # Voxels that are never brain are zero, as is their part of the loss.
        scaled = np.where(self.mask_, (volumes - mean) / deviation, 0).astype(np.float32)
        return VoxelSet(scaled, space, [inside_space(space, row) for row in labels])

    def _plan(self, objective: FlowMatching, data: VoxelSet, judges: VoxelSet) -> TrainConfig:
        """As many steps as fit into the time; decided once, so that a training can be resumed."""
        plan = self.folder / "plan.json"
        if not plan.is_file():
            step, check = _pace(objective, data, judges, self.training)
            steps = max(2, round((self.seconds - CHECKS * check) / step))
            files.write_json(plan, {"steps": steps, "seconds_per_step": step, "validation": check})
        steps = int(json.loads(plan.read_text())["steps"])
        every = math.ceil(steps / CHECKS)
        warmup = min(self.training.warmup, steps // 10 + 1)
        return replace(
            self.training, steps=steps, warmup=warmup, validate_every=every, checkpoint_every=every
        )


def steps_done(folder: Path) -> int:
    """Steps of a training that its last checkpoint holds."""
    found = checkpoints(folder)
    return int(found[-1].name.removeprefix("checkpoint-")) if found else 0


def training_cost(
    folder: Path, network: nn.Module, trained: Trained, done: int, preparing: float = 0.0
) -> dict[str, Any]:
    """What a training took; kept in its folder, as a call on a finished one takes no time.

    Args:
        folder: Of the training.
        network: What was trained.
        trained: What the call came to.
        done: Steps that had been done before it.
        preparing: Seconds before the training, which are part of it: of a codec and its latents.
    """
    record = folder / "cost.json"
    if not record.is_file():
        files.write_json(record, {
            "parameters": sum(p.numel() for p in network.parameters()),
            "training steps": trained.step,
            "best step": trained.best_step,
            # A resumed training has timed its last part only.
            "training seconds": preparing
            + trained.seconds * trained.step / max(trained.step - done, 1),
        })  # fmt: skip
    cost: dict[str, Any] = json.loads(record.read_text())
    return cost


class VoxelUNet(nn.Module):
    """MONAI's ``DiffusionModelUNet``, four levels, with labels added to its time embedding.

    Args:
        space: The labels.
        width: Channels at full resolution, doubled at each level; a multiple of 4.
    """

    def __init__(self, space: LabelSpace, width: int) -> None:
        super().__init__()
        self.label_space = space
        self.unet = _unet(width)
        # MONAI adds to the embedded time what this makes of `class_labels`.
        self.unet.class_embedding = nn.Identity()
        self.embedding = 4 * width
        self.label_embedder = LabelEmbedder(space, self.embedding, 0.5)

    def forward(self, noisy: Tensor, time: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Velocity (B, 1, X, Y, Z) of volumes of that shape at times (B,) from 0 to 1000."""
        sides = noisy.shape[2:]
        # Three levels down halve each side three times.
        margin = [edge for side in reversed(sides) for edge in (0, -side % 8)]
        label = self.label_embedder(labels, noisy.new_zeros(len(noisy), self.embedding))
        velocity: Tensor = self.unet(nn.functional.pad(noisy, margin), time, class_labels=label)
        return velocity[:, :, : sides[0], : sides[1], : sides[2]]


def unet_width(parameters: int, build: Callable[[int], Any] | None = None) -> int:
    """The width whose U-Net has about as many parameters as asked for.

    Args:
        parameters: How many.
        build: Makes the U-Net of a width; that of voxels by default.
    """
    build = build or _unet
    few = (4, 8, 12)
    counts = []
    for width in few:
        with torch.device("meta"):
            counts.append(sum(p.numel() for p in build(width).parameters()))
    # Layers hold inputs times outputs, so three widths tell the count of any.
    widths = np.arange(4, 512, 4)
    total = np.polyval(np.polyfit(few, counts, 2), widths)
    return int(widths[np.abs(np.log(total / parameters)).argmin()])


def _unet(width: int) -> Any:
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        num_res_blocks=1,
        channels=(width, 2 * width, 4 * width, 8 * width),
        attention_levels=(False, False, False, True),
        norm_num_groups=4,
        num_head_channels=8 * width,
        num_class_embeds=1,
    )


class VoxelSet:
    """Volumes in memory and encoded labels, for the training loop."""

    def __init__(self, volumes: np.ndarray, space: LabelSpace, labels: Labels) -> None:
        self.volumes = torch.from_numpy(volumes)[:, None]
        codes = [space.encode(dict(row)) for row in labels]
        self.codes = {name: torch.tensor([row[name] for row in codes]) for name in space.names}

    def __len__(self) -> int:
        return len(self.volumes)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """Volumes (B, 1, X, Y, Z) and codes."""
        chosen = list(indices)
        labels = {name: codes[chosen] for name, codes in self.codes.items()}
        return {"latents": self.volumes[chosen], "labels": labels}


def _pace(
    objective: FlowMatching, data: VoxelSet, judges: VoxelSet, training: TrainConfig
) -> tuple[float, float]:
    """Seconds of a step, and of a validation with a checkpoint, on the device of the training."""
    trial = copy.deepcopy(objective)
    config = replace(training, steps=4, validate_every=4, checkpoint_every=4)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(trial, data, config, folder, validation=judges,
              on_step=lambda _: ends.append(time.perf_counter()))  # fmt: skip
    seconds = np.diff(ends)
    step = float(seconds[:-1].min())
    return step, max(0.0, float(seconds[-1]) - step)
