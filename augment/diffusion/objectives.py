"""Objectives: what a network is trained to do. The training loop knows nothing more of it.

Flow matching (Lipman et al. 2023; rectified flow, Liu et al. 2023): on the straight path from a
sample x to noise n,

    x_t = (1 - t) x + t n,        minimise  || v(x_t, t, y) - (n - x) ||²,

with t logit-normal, so that training dwells where the path is hard (Esser et al. 2024), but moved
towards noise and spread wide: patterns that span a brain are many times as strong as the noise and
are decided near t = 1, grain is decided near t = 0.

Noise prediction (Ho et al. 2020) with a variance-preserving schedule,

    x_t = sqrt(a_t) x + sqrt(1 - a_t) n,    minimise  w_t || e(x_t, t, y) - n ||²,

with w_t = min(snr_t, 5) / snr_t (min-SNR, Hang et al. 2023).

Every random number comes from the generator of its own sample, so that a loss depends neither on
the batch nor on the number of processes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuromix.augment.diffusion.label_embedding import drop_labels

SHIFT, SPREAD = 1.5, 1.5
"""Mean and standard deviation of the logit of t."""

Batch = Mapping[str, Any]
Generators = Sequence[torch.Generator]


class Objective(Protocol):
    """What :func:`neuromix.augment.diffusion.loop.train` needs to know."""

    networks: dict[str, nn.Module]
    """Networks to train by name; each has an optimiser of its own, stepped in this order."""

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """The mean loss of one network over a batch."""
        ...

    def stepped(self) -> dict[str, float]:
        """Called after each step, for what no gradient moves; what it gives is logged."""
        return {}


class _Denoising(Objective):
    """``network(latents (B, C, ...), time (B,), labels)`` that has a ``label_space``.

    Labels are dropped all at once, of a share of samples; the mask, broadcast to (B, C, ...), says
    where latents mean something, by default everywhere.
    """

    def __init__(
        self, network: nn.Module, label_dropout: float = 0.1, mask: Tensor | None = None
    ) -> None:
        space: Any = network.label_space
        # A network that is conditioned on more than labels knows how that is dropped.
        self.drop: Any = getattr(network, "drop", functools.partial(drop_labels, space))
        self.networks = {"network": network}
        self.label_dropout = label_dropout
        self.mask = mask

    def _predict(
        self, noisy: Tensor, time: Tensor, labels: Mapping[str, Tensor], generators: Generators
    ) -> Tensor:
        draws = torch.stack([torch.rand((), generator=g) for g in generators]).to(noisy.device)
        kept = self.drop(labels, draws < self.label_dropout)
        prediction: Tensor = self.networks["network"](noisy, time, kept)
        return prediction

    def _mean(self, errors: Tensor) -> Tensor:
        if self.mask is None:
            return errors.mean()
        mask = self.mask.to(errors.device).expand_as(errors)
        return (errors * mask).sum() / mask.sum()


class FlowMatching(_Denoising):
    """Velocity of the straight path from data to noise."""

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Mean squared error of the velocity over a batch ``{"latents", "labels"}``."""
        clean = batch["latents"]
        normal = torch.stack([torch.randn((), generator=g) for g in generators])
        time = (SHIFT + SPREAD * normal).sigmoid().to(clean)
        noise = noise_like(clean, generators)
        t = time.reshape(-1, *[1] * (clean.ndim - 1))
        noisy = (1 - t) * clean + t * noise
        velocity = self._predict(noisy, 1000 * time, batch["labels"], generators)
        return self._mean((velocity.float() - (noise - clean)) ** 2)


class NoisePrediction(_Denoising):
    """The noise itself, under a diffusers DDPM-like schedule, weighted by min-SNR.

    ``alphas`` are the cumulative products of the schedule, (T,); ``most`` is the signal-to-noise
    ratio at which the weight begins to fall.
    """

    def __init__(
        self,
        network: nn.Module,
        alphas: Tensor,
        label_dropout: float = 0.1,
        mask: Tensor | None = None,
        most: float = 5.0,
    ) -> None:
        super().__init__(network, label_dropout, mask)
        self.alphas = alphas
        self.most = most

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Weighted mean squared error of the noise over a batch ``{"latents", "labels"}``."""
        clean = batch["latents"]
        steps = len(self.alphas)
        drawn = [torch.randint(steps, (), generator=g) for g in generators]
        index = torch.stack(drawn)
        alpha = self.alphas[index].to(clean).reshape(-1, *[1] * (clean.ndim - 1))
        noise = noise_like(clean, generators)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        predicted = self._predict(noisy, index.to(clean.device), batch["labels"], generators)
        snr = alpha / (1 - alpha)
        weight = snr.clamp_max(self.most) / snr
        return self._mean(weight * (predicted.float() - noise) ** 2)


class Autoencoding(Objective):
    """Images through a narrow, noisy code and back (beta-VAE, Higgins et al. 2017).

        mean (x' - x)² + kl mean KL( N(mu, sigma²) || N(0, 1) )

    Squares: with absolute errors instead, 700 steps on slices of MD left held-out errors (root mean
    square) 30 % larger, and a penalty on the errors of edges made them larger still.

    ``network(images, generators)`` gives the images as it sees them, what it makes of them, and
    mean and log-variance of the code; ``kl`` is the weight of a mean over its elements.
    """

    def __init__(self, network: nn.Module, kl: float = 1e-5) -> None:
        self.networks = {"autoencoder": network}
        self.kl = kl

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Mean loss over a batch ``{"images"}`` of (B, 1, h, w)."""
        inputs, again, mean, logvar = self.networks[name](batch["images"], generators)
        mean, logvar = mean.float(), logvar.float()
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return ((again.float() - inputs) ** 2).mean() + self.kl * divergence


def standardise(codec: Any, mask: Tensor, volumes: Iterable[Tensor]) -> None:
    """Set a codec's shift and scale so that latents have mean 0 and variance 1 in each channel.

    ``codec.moments`` gives means and deviations (B, C, ...) of batches of training volumes; the
    mask (1, C, ...) of ones and zeros says where they count.
    """
    codec.shift.zero_()
    codec.scale.fill_(1)
    inside, axes = mask.double(), [0, *range(2, mask.ndim)]
    count, total, squares = 0.0, torch.zeros(1), torch.zeros(1)
    for batch in volumes:
        mean, deviation = (part.double() for part in codec.moments(batch))
        count += len(batch) * float(inside[0, 0].sum())
        total = total.to(mean) + (mean * inside).sum(axes)
        squares = squares.to(mean) + ((mean**2 + deviation**2) * inside).sum(axes)
    centre = total / count
    spread = (squares / count - centre**2).sqrt().clamp_min(1e-6)
    codec.shift.copy_(centre.reshape(codec.shift.shape))
    codec.scale.copy_(spread.reshape(codec.scale.shape))


def noise_like(samples: Tensor, generators: Generators) -> Tensor:
    """Standard normal noise (B, ...), each sample's from its own generator, drawn on the CPU."""
    shape = samples.shape[1:]
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(samples)
