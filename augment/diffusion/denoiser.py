"""A denoiser: what statistics know, and a network for the rest.

    x̂(x_t, t, y) = E[x | x_t, y] + d(t) F(u, t, y, a)
    u = [(x_t - (1 - t) m) / k,  (E - m) / s,  m,  (x_t - (1 - t) E) / t,  context]

E, m and the deviation d come from the :class:`Prior`; s is the deviation over people, with
k² = (1 - t)² s² + t²; a are the parameters of the augmentation, zero when sampling. F is zero at
the start, so that training begins with the prior and can only gain. Its loss is that of the flow in
units of d, which is one at every place and time for a network that has learned nothing::

    L = mean over people, places, t of ( (x - E) / d - F )²

Images that are known without noise, the *context* (a source to fill in from, earlier frames), stand
beside the labels under that name; the prior's filters and F see them too.

A person in training is served by the prior of the other folds (:mod:`.cross_fitting`). *Guidance by
the prior* takes the network's answer ``guide`` times, which is p + guide (x̂ - p) with the prior p
as the bad model (Karras et al. 2024), while t lies in :data:`INTERVAL`; the bad model may also be
the network as it was earlier in its training. *Patches* of training people, if it holds any, give
the details below :data:`~neuromix.augment.diffusion.patches.BELOW`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.augmentation import MOVES, move
from neuromix.augment.diffusion.label_embedding import drop_labels, label_features
from neuromix.augment.diffusion.network import HybridNet
from neuromix.augment.diffusion.objectives import Batch, Generators, Objective, noise_like
from neuromix.augment.diffusion.patches import BELOW, detailed, patch_mean
from neuromix.augment.diffusion.prior import Prior
from neuromix.augment.diffusion.resolution import FIRST

INTERVAL = (0.06, 0.8)
"""Where guidance by the prior acts."""
CONTEXT, PARAMETERS = "context", "parameters"
CENTRE, WIDTH = 0.0, 1.5
"""Log-odds of the times that a network is trained at are normal. What folds look like is decided
below t = .5, and above it the prior knows nearly all that can be known."""


class Denoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Velocity of noised volumes (B, L, H, W), conditioned on a label space.

    Args:
        label_space: ``LabelSpace.to_dict()``.
        prior_settings: Of the :class:`Prior`.
        network_settings: Of the :class:`HybridNet`; empty for the prior alone.
        parameters: Numbers of an augmentation.
        guide: Above 1, guidance by the prior, or by the early network.
        has_early: Whether there is an early network.
        interval: Times between which guidance by labels acts.
        held: Training people whose volumes it holds, for patches.
    """

    people: Tensor

    prior_class: type[Any] = Prior
    """What a subclass may have another of, of the same form: settings with ``shape`` and
    ``context``; a call, ``spread``, ``variance`` and ``inside``."""

    @register_to_config
    def __init__(
        self,
        *,
        label_space: dict[str, Any],
        prior_settings: dict[str, Any],
        network_settings: dict[str, Any],
        parameters: int,
        guide: float = 1.0,
        has_early: bool = False,
        interval: Sequence[float] = (0.0, 1.0),
        held: int = 0,
    ) -> None:
        super().__init__()
        self.label_space = LabelSpace.from_dict(label_space)
        shape = prior_settings["shape"] if held else [0]
        self.register_buffer("people", torch.zeros(held, *shape).half(), persistent=held > 0)
        self.prior: Any = self.prior_class(**prior_settings)
        self.latent_shape = tuple(prior_settings["shape"])

        def network() -> HybridNet:
            channels = 4 + prior_settings.get("context", 0)
            return HybridNet(
                self.label_space, self.latent_shape, channels, parameters, **network_settings
            )

        self.network = network() if network_settings else None
        self.early = network() if network_settings and has_early else None

    def features(self, labels: Mapping[str, Tensor]) -> Tensor | None:
        """What the prior's mean is linear in, (B, F)."""
        return label_features(self.label_space, labels) if self.label_space.names else None

    def forward(self, latents: Tensor, timestep: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Velocity (B, L, H, W) of noised volumes; ``timestep`` (B,) is 1000 times t.

        ``labels`` hold the context (B, K, L, H, W), too, if the prior has any, and may hold
        parameters (B, P), which are zero otherwise.
        """
        t = (timestep / 1000).clamp_max(FIRST).to(latents)
        context = labels.get(CONTEXT)
        estimate, mean = self.prior(latents, t, self.features(labels), context)
        if self.network is not None:
            told = labels.get(PARAMETERS)
            if told is None:
                told = latents.new_zeros(len(latents), self.config["parameters"])
            inputs = self.inputs(latents, t, estimate, mean, context)
            answer = self.network(inputs, timestep, labels, told).float()
            within = ((t > INTERVAL[0]) & (t < INTERVAL[1]))[:, None, None, None]
            if self.config["guide"] != 1 and bool(within.any()):
                bad = 0.0
                if self.early is not None:
                    bad = self.early(inputs, timestep, labels, told).float()
                guided = bad + self.config["guide"] * (answer - bad)
                answer = torch.where(within, guided, answer)
            estimate = estimate + self.prior.spread(t) * answer * self.prior.inside
        # While sampling, all have the same time.
        if len(self.people) and (level := float(t[0])) < BELOW:
            with torch.autocast(latents.device.type, enabled=False):
                patches = patch_mean(latents, level, self.people)
                estimate = torch.where(self.prior.inside, detailed(estimate, patches), estimate)
        # The solver takes it times the t that it knows.
        return (latents - estimate) / (timestep / 1000).to(latents)[:, None, None, None]

    def inputs(
        self, noisy: Tensor, t: Tensor, estimate: Tensor, mean: Tensor, context: Tensor | None
    ) -> Tensor:
        """What F sees, (B, 4 + K, L, H, W)."""
        own = (1 - t)[:, None, None, None]
        total = (own**2 * self.prior.variance + (1 - own) ** 2).sqrt()
        parts = [
            (noisy - own * mean) / total,
            (estimate - mean) / self.prior.variance.sqrt(),
            mean,
            (noisy - own * estimate) / (1 - own).clamp_min(0.01),
        ]
        seen = torch.stack(parts, 1)
        return seen if context is None else torch.cat([seen, context.to(seen)], 1)


class PriorFlow(Objective):
    """The flow of a :class:`Denoiser`, in units of the prior's deviation.

    ``priors`` are those of the folds; a batch is ``{"latents", "labels", "parameters", "fold"}``,
    with the number of a fold, or -1 for people in none, whom the prior of all serves, and
    ``"context"``, if the prior has any. With ``moved``, what the network sees is mirrored (along an
    axis that runs from left to right, if there is one) and shifted in training.
    """

    def __init__(
        self, denoiser: Denoiser, priors: Sequence[Any], label_dropout: float = 0.1,
        *, moved: bool = False, mirrored: int | None = None,
    ) -> None:  # fmt: skip
        self.denoiser, self.priors = denoiser, list(priors)
        self.moved, self.mirrored = moved, mirrored
        self.label_dropout = label_dropout
        self.networks = {} if denoiser.network is None else {"network": denoiser.network}

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Mean squared error of F inside the brain."""
        clean = batch["latents"]
        for prior in (self.denoiser, *self.priors):
            prior.to(clean.device)
        drawn = torch.stack([torch.randn((), generator=g) for g in generators])
        t = (CENTRE + WIDTH * drawn).sigmoid().clamp(0.01, FIRST).to(clean)
        noise = noise_like(clean, generators)
        own = (1 - t)[:, None, None, None]
        noisy = own * clean + (1 - own) * noise
        draws = torch.stack([torch.rand((), generator=g) for g in generators]).to(clean)
        labels = drop_labels(self.denoiser.label_space, batch["labels"], draws < self.label_dropout)
        features, context = self.denoiser.features(labels), batch.get(CONTEXT)
        rows = []
        for k, fold in enumerate(batch["fold"].tolist()):
            prior = self.priors[fold] if fold >= 0 else self.denoiser.prior
            row = None if features is None else features[k : k + 1]
            known = None if context is None else context[k : k + 1]
            rows.append(prior(noisy[k : k + 1], t[k : k + 1], row, known))
        estimate, mean = (torch.cat(parts) for parts in zip(*rows, strict=True))
        wanted = (clean - estimate) / self.denoiser.prior.spread(t)
        inputs = self.denoiser.inputs(noisy, t, estimate, mean, context)
        inside, parameters = self.denoiser.prior.inside.expand_as(clean), batch[PARAMETERS]
        if self.moved and self.networks[name].training:
            parts = (inputs, wanted, inside)
            (inputs, wanted, inside), moves = move(parts, generators, self.mirrored)
            parameters = torch.cat([parameters, moves], 1)
        elif self.moved:
            parameters = F.pad(parameters, (0, MOVES))
        answer = self.networks[name](inputs, 1000 * t, labels, parameters)
        return ((answer.float() - wanted)[inside] ** 2).mean()
