"""MONAI's 3D diffusion U-Net, the baseline of every system: convolutions for a hybrid or a DiT.

It is trained by flow matching in the one loop, for as long as a sampler was, and sampled with the
samplers' own scheduler. What it is conditioned on are arguments: labels and a design, embedded, are
added to its embedded time; sources and known frames are channels beside the noisy ones.

    map        (1, X, Y, Z)      labels                          :class:`VolumeUNet`
    run        (F, C, x, y, z)   labels, design, known frames    :func:`unet_beside`
    completion (N, X, Y, Z)      the other modality              :class:`DiffusionUNet`

Of runs it is the baseline of Seo et al. (2025): frames are stacked into channels.

:class:`RegressionUNet` predicts the mean of a completion: MONAI's plain U-Net, squared errors.
"""

from __future__ import annotations

import bisect
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuromix.augment.data.conditions import LabelSpace, inside, known
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.label_embedding import LabelEmbedder, drop_labels
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.diffusion.objectives import Batch, FlowMatching, Generators, Objective
from neuromix.augment.fmri.published.parts import Parts
from neuromix.experiments.quality.baselines import CONDITIONS, Labels, as_volumes
from neuromix.experiments.quality.training_time import train_for

CHUNK = 4
"""Volumes that are made at once; the last chunk is padded, so that none depends on its fellows."""
LEVELS = 3
"""Halvings of a volume's sides, where they are long enough."""
LABEL_SCALE = 0.5
"""Standard deviation of embedded labels at the start."""


def unet(width: float, inputs: int = 1, outputs: int = 1, levels: int = 3) -> Any:
    """MONAI's network; channels double at each level, in groups of four."""
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    widths = tuple(4 * max(round(width * 2**k / 4), 1) for k in range(levels))
    return DiffusionModelUNet(
        spatial_dims=3, in_channels=inputs, out_channels=outputs, channels=widths,
        num_res_blocks=1, attention_levels=(False,) * (levels - 1) + (True,),
        norm_num_groups=4, num_head_channels=widths[-1],
    )  # fmt: skip


def weights_of(network: nn.Module) -> int:
    """How many a network has."""
    return sum(weight.numel() for weight in network.parameters())


def closest_width(build: Callable[[int], nn.Module], widths: Sequence[int], weights: int) -> int:
    """The width whose network is nearest in its number of weights, which grows with the width."""

    def count(width: int) -> int:
        with torch.device("meta"):
            return weights_of(build(width))

    place = bisect.bisect_left(widths, weights, key=count)
    near = widths[max(place - 1, 0) : place + 1]
    return min(near, key=lambda width: abs(count(width) - weights))


class ConditionedUNet(nn.Module):
    """:func:`unet`, which takes and gives what networks of ours do.

    Args:
        space: Labels.
        shape: Of what it makes, (..., X, Y, Z); all but the sides become channels.
        beside: Channels of each condition that stands beside the noisy ones, by name.
        design: Numbers of a design; 0 for none.
        weights: About how many; by default those of 16 channels at full resolution.
        levels: Each halves the sides.
    """

    def __init__(
        self,
        space: LabelSpace,
        shape: Sequence[int],
        *,
        beside: Mapping[str, int] | None = None,
        design: int = 0,
        weights: int | None = None,
        levels: int = 3,
    ) -> None:
        super().__init__()
        self.label_space, self.window_shape, self.levels = space, tuple(shape), levels
        self.beside = tuple(beside or ())
        outputs = math.prod(shape[:-3])
        inputs = outputs + sum((beside or {}).values())

        def build(width: int) -> Any:
            return unet(width, inputs, outputs, levels)

        self.unet = build(closest_width(build, range(4, 513), weights) if weights else 16)
        # MONAI adds to the embedded time what this makes of `class_labels`.
        self.unet.num_class_embeds, self.unet.class_embedding = 1, nn.Identity()
        embedding = 4 * self.unet.block_out_channels[0]
        self.label_embedder = LabelEmbedder(space, embedding, LABEL_SCALE)
        self.design_embedder = nn.Linear(design, embedding) if design else None
        self.nothing = nn.Parameter(torch.zeros(embedding), requires_grad=bool(design))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.nothing.device

    def forward(self, noisy: Tensor, time: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Velocity (B, ..., X, Y, Z) of noisy samples of that shape at times (B,) to 1000."""
        sides = noisy.shape[-3:]
        planes = [noisy, *(conditions[name].to(noisy) for name in self.beside)]
        hidden = torch.cat([_channels(each, sides) for each in planes], dim=1)
        margin = [edge for side in reversed(sides) for edge in (0, -side % 2 ** (self.levels - 1))]
        label = self.label_embedder(conditions, self.nothing.expand(len(noisy), -1))
        if self.design_embedder is not None:
            design = conditions["design"].flatten(1)
            missing = design.isnan().any(-1, keepdim=True)
            course = self.design_embedder(design.nan_to_num().to(noisy))
            label = label + torch.where(missing, self.nothing, course)
        velocity = self.unet(nn.functional.pad(hidden, margin), time, class_labels=label)
        velocity = velocity[:, :, : sides[0], : sides[1], : sides[2]]
        return torch.as_tensor(velocity).reshape(noisy.shape)

    def drop(self, conditions: Mapping[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
        """Make samples (B,) unconditional, labels and design at once; what stands beside stays."""
        codes = {name: conditions[name] for name in self.label_space.names}
        kept = {**conditions, **drop_labels(self.label_space, codes, dropped)}
        if self.design_embedder is not None:
            kept["design"] = kept["design"].masked_fill(dropped[:, None, None], torch.nan)
        return kept


def _channels(values: Tensor, sides: Sequence[int]) -> Tensor:
    """(B, ..., X, Y, Z), or (B, N) that hold everywhere, as (B, channels, X, Y, Z)."""
    if values.ndim == 2:
        values = values[..., None, None, None].expand(*values.shape, *sides)
    return values.flatten(1, -4)


@torch.no_grad()
def solve(
    network: nn.Module, noise: Tensor, conditions: Mapping[str, Tensor], steps: int
) -> Tensor:
    """Samples from noise (B, ...), by the scheduler of our samplers: all are solved alike."""
    device = next(network.parameters()).device
    x, conditions = noise.to(device), {name: c.to(device) for name, c in conditions.items()}
    scheduler = FlowMultistepScheduler()
    scheduler.set_timesteps(steps)
    for moment in scheduler.timesteps:
        velocity = network(x, moment.expand(len(x)).to(device), conditions)
        x = scheduler.step(velocity, moment, x).prev_sample
    return x.cpu()


class Arrays:
    """What is to be made (N, ...) and its conditions (N, ...) by name, in memory, for the loop."""

    def __init__(self, samples: Tensor, conditions: Mapping[str, Tensor]) -> None:
        self.samples, self.conditions = samples, conditions

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Sequence[int], generators: Generators) -> dict[str, Any]:
        """Samples and conditions of these numbers."""
        chosen = list(indices)
        labels = {name: values[chosen] for name, values in self.conditions.items()}
        return {"latents": self.samples[chosen], "labels": labels}


class VolumeUNet:
    """Volumes for labels, a :class:`neuromix.experiments.quality.baselines.Generator`.

    A training in the folder goes on where it stopped, for some seconds of processor time in all.
    ``steps`` are those of the flow.
    """

    def __init__(
        self,
        training: TrainConfig,
        folder: Path,
        *,
        seconds: float,
        weights: int | None = None,
        steps: int = 20,
    ) -> None:
        self.training, self.folder, self.weights = training, folder, weights
        self.seconds, self.steps = seconds, steps

    def fit(self, volumes: np.ndarray, labels: Labels) -> VolumeUNet:
        """Learn from training volumes (N, X, Y, Z)."""
        self.mask_, self.top_ = np.asarray((volumes > 0).any(axis=0)), float(volumes.max())
        values = volumes[:, self.mask_]
        self.scale_ = float(values.mean()), float(values.std())
        names = [name for name in CONDITIONS if any(known(row.get(name)) for row in labels)]
        space = LabelSpace.from_labels(labels, names)
        levels = 1 + min(LEVELS, int(math.log2(min(self.mask_.shape))))
        with torch.random.fork_rng():
            torch.manual_seed(self.training.seed)
            self.network_ = ConditionedUNet(
                space, (1, *self.mask_.shape), weights=self.weights, levels=levels
            )
        objective = FlowMatching(self.network_, mask=torch.from_numpy(self.mask_)[None, None])
        data = Arrays(self._scaled(volumes), self._codes(labels))
        self.cost = train_for(self.seconds, objective, data, self.training, self.folder)
        return self

    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """Make a volume for each of the labels, (M, X, Y, Z)."""
        codes = self._codes(labels)
        result = np.zeros((len(seeds), *self.mask_.shape), dtype=np.float32)
        for start in range(0, len(seeds), CHUNK):
            part = [min(start + k, len(seeds) - 1) for k in range(CHUNK)]
            noise = _noise((1, *self.mask_.shape), [seeds[k] for k in part])
            wanted = {name: values[part] for name, values in codes.items()}
            made = solve(self.network_, noise, wanted, self.steps)[:, 0].numpy()
            mean, deviation = self.scale_
            volumes = as_volumes((made * deviation + mean)[:, self.mask_], self.mask_, self.top_)
            result[start : start + CHUNK] = volumes[: len(seeds) - start]
        return result

    @torch.no_grad()
    def denoise(
        self, volumes: np.ndarray, noise: np.ndarray, sigma: float, labels: Labels
    ) -> np.ndarray:
        """E[x | x + n], of the flow at t = s / (1 + s), s the noise in units of training."""
        noisy = volumes + noise
        (mean, deviation), device = self.scale_, self.network_.device
        time = sigma / (sigma + deviation)
        x = (1 - time) * torch.from_numpy((noisy - mean) / deviation)[:, None].float().to(device)
        codes = {name: values.to(device) for name, values in self._codes(labels).items()}
        clean = torch.cat([
            x[k : k + CHUNK] - time * self.network_(
                x[k : k + CHUNK], torch.full((len(x[k : k + CHUNK]),), 1000 * time, device=device),
                {name: values[k : k + CHUNK] for name, values in codes.items()},
            )
            for k in range(0, len(x), CHUNK)
        ])  # fmt: skip
        return np.asarray(clean[:, 0].cpu().numpy() * deviation + mean)

    def _codes(self, labels: Labels) -> dict[str, Tensor]:
        space = self.network_.label_space
        rows = [space.encode(inside(space, row)) for row in labels]
        return {name: torch.tensor([row[name] for row in rows]) for name in space.names}

    def _scaled(self, volumes: np.ndarray) -> Tensor:
        mean, deviation = self.scale_
        scaled = ((volumes - mean) / deviation * self.mask_).astype(np.float32)
        return torch.from_numpy(scaled)[:, None]


def unet_beside(parts: Parts) -> ConditionedUNet:
    """One of about as many weights as the network of the parts, for the same windows."""
    network = parts.network
    frames, channels = network.window_shape[:2]
    return ConditionedUNet(
        parts.space, network.window_shape, weights=weights_of(network),
        beside={"given": frames * channels, "known": frames},
        design=frames * network.config["courses"],
    )  # fmt: skip


class DiffusionUNet:
    """Completions: the source stands beside the noisy target; ``steps`` are those of the flow.

    It has the shape of :class:`neuromix.experiments.quality.completion_baselines.Baseline`, and is
    trained for some seconds of processor time.
    """

    def __init__(
        self, seconds: float, training: TrainConfig, weights: int | None = None, steps: int = 10
    ) -> None:
        self.seconds, self.training = seconds, training
        self.weights, self.steps = weights, steps

    def fit(self, source: np.ndarray, target: np.ndarray) -> Any:
        """Learn from sources (S, C, X, Y, Z) and targets (S, N, X, Y, Z)."""
        self.scales_ = [(float(v.mean()), float(v.std())) for v in (source, target)]
        with torch.random.fork_rng():
            torch.manual_seed(self.training.seed)
            self.shape_ = target.shape[1:]
            self.network_ = self._network(source.shape[1], self.shape_)
        data = Arrays(self._scaled(target, 1), {"source": self._scaled(source, 0)})
        training = replace(self.training, batch_size=min(self.training.batch_size, len(source)))
        with tempfile.TemporaryDirectory() as folder:
            cost = train_for(self.seconds, self._objective(), data, training, Path(folder))
        self.steps_ = cost["training steps"]
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """Samples (S, K, N, X, Y, Z)."""
        mean, deviation = self.scales_[1]
        made = torch.stack([self._made(volume, seeds) for volume in self._scaled(source, 0)])
        return np.asarray(made.numpy() * deviation + mean)

    def _network(self, channels: int, shape: tuple[int, ...]) -> nn.Module:
        return ConditionedUNet(
            LabelSpace(), shape, beside={"source": channels}, weights=self.weights
        )

    def _objective(self) -> Objective:
        return FlowMatching(self.network_)

    def _made(self, source: Tensor, seeds: Sequence[int]) -> Tensor:
        """Samples (K, N, X, Y, Z) in units of training."""
        beside = {"source": source.expand(len(seeds), *source.shape)}
        return solve(self.network_, _noise(self.shape_, seeds), beside, self.steps)

    def _scaled(self, volumes: np.ndarray, which: int) -> Tensor:
        mean, deviation = self.scales_[which]
        return torch.from_numpy((np.asarray(volumes, dtype=np.float32) - mean) / deviation)


class RegressionUNet(DiffusionUNet):
    """The mean of a completion: MONAI's plain U-Net with squared errors."""

    def _network(self, channels: int, shape: tuple[int, ...]) -> nn.Module:
        from monai.networks.nets.unet import UNet

        return _Padded(
            UNet(3, channels, shape[0], (16, 32, 64), strides=(2, 2), num_res_units=1), 4
        )

    def _objective(self) -> Objective:
        return _SquaredError(self.network_)

    @torch.no_grad()
    def _made(self, source: Tensor, seeds: Sequence[int]) -> Tensor:
        device = next(self.network_.parameters()).device
        return torch.as_tensor(self.network_(source[None].to(device))).cpu()


class _Padded(nn.Module):
    """A network of volumes (B, C, X, Y, Z) whose sides it wants to be multiples of a number."""

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, volumes: Tensor) -> Tensor:
        """As of the network, on the sides that came."""
        x, y, z = volumes.shape[-3:]
        ends = [part for n in (z, y, x) for part in (0, -n % self.multiple)]
        made: Tensor = self.network(nn.functional.pad(volumes, ends))[..., :x, :y, :z]
        return made


class _SquaredError(Objective):
    """Of samples from their ``source``."""

    def __init__(self, network: nn.Module) -> None:
        self.networks = {"network": network}

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Mean squared error over a batch of :class:`Arrays`."""
        source = batch["labels"]["source"]
        return nn.functional.mse_loss(self.networks[name](source), batch["latents"])


def _noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal (B, ...), each sample's from its own seed."""
    return torch.stack([
        torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds
    ])  # fmt: skip
