"""Baselines of completion: what a completer must beat, from the mean volume to MONAI's U-Net.

Each has ``fit(source, target)`` and ``predict(source, seeds)``: sources (S, N, X, Y, Z) of S
subjects to samples (S, K, N, X, Y, Z), K seeds each; those that make one prediction ignore seeds
and give K = 1. A baseline knows one direction.

=====================  =============================================================================
mean volume            the mean of the training targets
nearest subject        the target of the training subject whose source is nearest
voxelwise regression   in every voxel, ridge regression of the target's segments on the source's
PCA regression         ridge regression of the whole target on the whole source, in closed form over
                       subjects; its penalty is chosen by leave-one-out
regression U-Net       MONAI's U-Net, squared error, for a given time
diffusion U-Net        MONAI's DiffusionModelUNet by flow matching, source beside noisy target
=====================  =============================================================================
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from neuromix.augment.diffusion.flow import FlowMultistepScheduler

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the PCA regression, in units of the mean eigenvalue."""
BATCH = 4
"""Subjects of a training step."""
TRAINED = ("regression U-Net", "diffusion U-Net")
"""Baselines that are trained for a given time."""
REGRESSIONS = ("voxelwise regression", "PCA regression", "regression U-Net")
"""Baselines that predict a mean."""


class Baseline(Protocol):
    """See the module."""

    def fit(self, source: np.ndarray, target: np.ndarray) -> Baseline:
        """Learn from training pairs (S, N, X, Y, Z)."""

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """Samples (S, K, N, X, Y, Z)."""


class MeanVolume:
    """The mean of the training targets."""

    def fit(self, source: np.ndarray, target: np.ndarray) -> MeanVolume:
        """See :class:`Baseline`."""
        self.mean_ = target.mean(axis=0)
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        return np.repeat(self.mean_[None, None], len(source), axis=0)


class NearestSubject:
    """The target of the training subject whose source is nearest in squares."""

    def fit(self, source: np.ndarray, target: np.ndarray) -> NearestSubject:
        """See :class:`Baseline`."""
        self.source_, self.target_ = source.reshape(len(source), -1), target
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        products = source.reshape(len(source), -1) @ self.source_.T
        distance = (self.source_**2).sum(axis=1) - 2 * products
        return np.asarray(self.target_[distance.argmin(axis=1)])[:, None]


class VoxelwiseRegression:
    """In every voxel, the target's segments from the source's.

    Args:
        penalty: Of the ridge, as a share of the source's mean variance over subjects.
    """

    def __init__(self, penalty: float = 0.05) -> None:
        self.penalty = penalty

    def fit(self, source: np.ndarray, target: np.ndarray) -> VoxelwiseRegression:
        """See :class:`Baseline`."""
        self.source_mean_, self.target_mean_ = source.mean(axis=0), target.mean(axis=0)
        count, segments = source.shape[:2]
        x = (source - self.source_mean_).reshape(count, segments, -1).transpose(2, 0, 1)
        y = (target - self.target_mean_).reshape(count, segments, -1).transpose(2, 0, 1)
        gram = x.transpose(0, 2, 1) @ x
        ridge = self.penalty * np.trace(gram, axis1=1, axis2=2).mean() / segments + 1e-6
        solved = np.linalg.solve(gram + ridge * np.eye(segments), x.transpose(0, 2, 1) @ y)
        self.weights_ = solved.astype(np.float32)
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        x = (source - self.source_mean_).reshape(*source.shape[:2], -1)
        y = np.einsum("snv,vnm->smv", x, self.weights_, optimize=True)
        return (y.reshape(source.shape) + self.target_mean_)[:, None]


class PCARegression:
    """The whole target from the whole source: ridge regression in the space of subjects."""

    def fit(self, source: np.ndarray, target: np.ndarray) -> PCARegression:
        """See :class:`Baseline`."""
        self.source_mean_, self.target_mean_ = source.mean(axis=0), target.mean(axis=0)
        self.source_ = (source - self.source_mean_).reshape(len(source), -1)
        y = (target - self.target_mean_).reshape(len(target), -1)
        power, vectors = np.linalg.eigh((self.source_ @ self.source_.T).astype(np.float64))
        power = np.maximum(power, 0)
        inside = vectors.T @ y
        errors = []
        for penalty in PENALTIES:
            shrunk = power / (power + penalty * power.mean())
            # Leave-one-out of a linear smoother: residuals over one less the leverage.
            leverage = (vectors**2 * shrunk).sum(axis=1) + 1 / len(y)
            left = (y - vectors @ (shrunk[:, None] * inside)) / (1 - leverage)[:, None]
            errors.append(float((left**2).mean()))
        self.penalty_ = PENALTIES[int(np.argmin(errors))]
        scaled = inside / (power + self.penalty_ * power.mean())[:, None]
        self.weights_ = (vectors @ scaled).astype(np.float32)
        return self

    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        x = (source - self.source_mean_).reshape(len(source), -1)
        y = (x @ self.source_.T) @ self.weights_
        return (y.reshape(source.shape) + self.target_mean_)[:, None]


class _Trained:
    """A network of MONAI's that is trained for a given time.

    Args:
        seconds: How long.
        width: Channels at full resolution, doubled at each of three levels; a multiple of 4.
        learning_rate: Of AdamW, without a schedule: the steps follow from the time.
        seed: Decides the first weights, the order and the noise.
    """

    def __init__(
        self, seconds: float, width: int = 16, learning_rate: float = 1e-3, seed: int = 0
    ) -> None:
        self.seconds, self.width = seconds, width
        self.learning_rate, self.seed = learning_rate, seed

    def _network(self, segments: int) -> nn.Module:
        raise NotImplementedError

    def _loss(self, source: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def fit(self, source: np.ndarray, target: np.ndarray) -> Any:
        """See :class:`Baseline`."""
        generator = torch.Generator().manual_seed(self.seed)
        self.scales_ = [(float(v.mean()), float(v.std())) for v in (source, target)]
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.network_ = self._network(source.shape[1])
        optimiser = torch.optim.AdamW(self.network_.parameters(), lr=self.learning_rate)
        # A moving average for sampling, as the completer has; it forgets what the start was.
        average = torch.optim.swa_utils.AveragedModel(
            self.network_, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98)
        )
        begun, self.steps_ = time.process_time(), 0
        while self.steps_ < 2 or time.process_time() - begun < self.seconds:
            chosen = torch.randint(len(source), (BATCH,), generator=generator).numpy()
            seen, wanted = (self._scaled(v[chosen], k) for k, v in enumerate((source, target)))
            loss = self._loss(seen, wanted, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            average.update_parameters(self.network_)
            self.steps_ += 1
        self.network_ = average.module.eval()
        return self

    def _scaled(self, volumes: np.ndarray, which: int) -> Tensor:
        mean, deviation = self.scales_[which]
        return torch.from_numpy(np.asarray(volumes, dtype=np.float32) - mean) / deviation

    def _back(self, values: Tensor) -> np.ndarray:
        mean, deviation = self.scales_[1]
        return np.asarray(values.numpy() * deviation + mean)


class RegressionUNet(_Trained):
    """MONAI's U-Net with squared error."""

    def _network(self, segments: int) -> nn.Module:
        from monai.networks.nets.unet import UNet

        widths = (self.width, 2 * self.width, 4 * self.width)
        network: nn.Module = UNet(3, segments, segments, widths, strides=(2, 2), num_res_units=1)
        return network

    def _loss(self, source: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        return nn.functional.mse_loss(self.network_(source), target)

    @torch.no_grad()
    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        made = [self._back(self.network_(self._scaled(x[None], 0))) for x in source]
        return np.stack(made)


class DiffusionUNet(_Trained):
    """MONAI's diffusion U-Net; the source is concatenated to the noisy target.

    Args:
        seconds: As above.
        width: As above.
        learning_rate: As above.
        seed: As above.
        steps: Of the flow, when sampling.
    """

    def __init__(
        self,
        seconds: float,
        width: int = 16,
        learning_rate: float = 1e-3,
        seed: int = 0,
        steps: int = 10,
    ) -> None:
        super().__init__(seconds, width, learning_rate, seed)
        self.steps = steps

    def _network(self, segments: int) -> nn.Module:
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        network: nn.Module = DiffusionModelUNet(
            spatial_dims=3, in_channels=2 * segments, out_channels=segments, num_res_blocks=1,
            channels=(self.width, 2 * self.width, 4 * self.width),
            attention_levels=(False, False, True), norm_num_groups=4,
            num_head_channels=4 * self.width,
        )  # fmt: skip
        return network

    def _loss(self, source: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(target.shape, generator=generator)
        time = torch.randn(len(target), generator=generator).sigmoid()
        t = time[:, None, None, None, None]
        seen = torch.cat([(1 - t) * target + t * noise, source], dim=1)
        return nn.functional.mse_loss(self.network_(seen, 1000 * time), noise - target)

    @torch.no_grad()
    def predict(self, source: np.ndarray, seeds: Sequence[int] = (0,)) -> np.ndarray:
        """See :class:`Baseline`."""
        result = []
        for volume in source:
            seen = self._scaled(volume[None], 0).expand(len(seeds), -1, -1, -1, -1)
            x = torch.stack([
                torch.randn(volume.shape, generator=torch.Generator().manual_seed(s)) for s in seeds
            ])  # fmt: skip
            scheduler = FlowMultistepScheduler()  # the completer's own: both are solved alike
            scheduler.set_timesteps(self.steps)
            for moment in scheduler.timesteps:
                time = moment.expand(len(seeds))
                velocity = self.network_(torch.cat([x, seen], dim=1), time)
                x = scheduler.step(velocity, moment, x).prev_sample
            result.append(self._back(x))
        return np.stack(result)


def baselines(seconds: float, seed: int = 0) -> dict[str, Any]:
    """All of them, by name; the trained ones get ``seconds`` of processor time."""
    return {
        "mean volume": MeanVolume(),
        "nearest subject": NearestSubject(),
        "voxelwise regression": VoxelwiseRegression(),
        "PCA regression": PCARegression(),
        "regression U-Net": RegressionUNet(seconds, seed=seed),
        "diffusion U-Net": DiffusionUNet(seconds, seed=seed),
    }
