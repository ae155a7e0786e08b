"""PDS on the denoiser: a prior given the source for each direction, and one network for both.

The N segments of a modality are turned into as many modes, the principal components of what differs
between people (an orthonormal Q, so that noise stays white), and their slices are stacked::

    x = stack( Q' (y - mean) / scale ),        (N L, H, W);        0 outside the brain

Modes hardly vary together, so that a filter that sees one mode of the target misses little; what
one segment differs from the others by, which is what MR of the paper looks after, are modes of
their own, and count as much as the mean of all. Context are the same mode of the source, its first
mode (what all segments share), that one smoothed, and where the brain is. The :class:`Denoiser` of
each direction has its prior; the network, which is told the direction, is the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.denoiser import CONTEXT, PARAMETERS, Denoiser, PriorFlow
from neuromix.augment.diffusion.fitting import Job
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.loop import Trained, estimate
from neuromix.augment.diffusion.network import HybridNet
from neuromix.augment.diffusion.objectives import Batch, Generators, Objective
from neuromix.augment.diffusion.prior import Prior, fit_priors
from neuromix.augment.diffusion.resolution import LEVELS, settings_of
from neuromix.augment.errors import InputError
from neuromix.augment.pds.config import MODALITIES, ModalityConfig
from neuromix.augment.pds.pairs import Pairs, Samples, Usual, support_of

MOST = 200
"""People that priors are made of: with their context, six volumes of all segments each are held."""
RARE = 0.02
"""Share of people who must have tissue at a voxel for it to count as brain."""
CONTEXTS = 5
"""Channels of context."""


class PairDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Velocity of a noised modality, given the other.

    Args:
        label_space: ``LabelSpace.to_dict()``.
        grid: ``Grid.to_dict()`` of the training subjects.
        segments: N.
        source_blind: Whether context is where the brain is, and no more.
        multiples: L, H and W are padded at their ends to multiples of these.
        prior_settings: Of the :class:`Prior` by modality to fill in.
        network_settings: Of the :class:`HybridNet`; empty for the priors alone.
    """

    mean: Tensor
    scale: Tensor
    limits: Tensor
    mixing: Tensor
    network: nn.Module | None

    @register_to_config
    def __init__(
        self,
        *,
        label_space: dict[str, Any],
        grid: dict[str, Any],
        segments: int,
        source_blind: bool,
        multiples: Sequence[int],
        prior_settings: dict[str, dict[str, Any]],
        network_settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.label_space = LabelSpace.from_dict(label_space)
        self.grid, self.segments = Grid.from_dict(grid), segments
        x, y, z = self.grid.shape
        self.sides = (z, x, y)
        self.padded = tuple(-(-n // m) * m for n, m in zip(self.sides, multiples, strict=True))
        self.latent_shape = (segments * self.padded[0], *self.padded[1:])
        self.register_buffer("mean", torch.zeros(2, segments, x, y, z))
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("limits", torch.zeros(2, 2))
        self.register_buffer("mixing", torch.eye(segments).repeat(2, 1, 1))
        self.denoisers = nn.ModuleDict({
            want: Denoiser(
                label_space=label_space, prior_settings=each, network_settings={}, parameters=1
            )
            for want, each in prior_settings.items()
        })  # fmt: skip
        self.network = None
        if network_settings:
            channels = 4 + self.contexts
            self.use(
                HybridNet(self.label_space, self.latent_shape, channels, 1, **network_settings)
            )

    @property
    def contexts(self) -> int:
        """Channels of context."""
        return 1 if self.config["source_blind"] else CONTEXTS

    def use(self, network: nn.Module) -> None:
        """Let both directions use a network."""
        self.network = network
        for denoiser in self.denoisers.values():  # as a guest, who is saved once
            object.__setattr__(denoiser, "network", network)

    def learn(self, usual: Usual) -> None:
        """Take scales and modes from what training pairs come to."""
        self.mean.copy_(usual.mean)
        self.scale.copy_(usual.spread)
        self.limits.copy_(usual.limits)
        self.mixing.copy_(torch.linalg.eigh(usual.covariance).eigenvectors.flip(2))

    def forward(
        self, latents: Tensor, timestep: Tensor, known: Mapping[str, Tensor], direction: int
    ) -> Tensor:
        """Velocity of x_t (B, N L, H, W); ``known`` are labels and :meth:`conditions`."""
        velocity: Tensor = self.denoisers[MODALITIES[direction]](latents, timestep, known)
        return velocity

    def conditions(self, source: Tensor, direction: int) -> dict[str, Tensor]:
        """What a network and a prior are told of sources (B, N, X, Y, Z)."""
        support = support_of(source)
        there = self._stack(support)
        channels = [there]
        if not self.config["source_blind"]:
            own = self._stack(self._modes(source, support, 1 - direction))
            first = own[:, :1]
            near, edge = _smooth(first), _smooth(there)
            channels += [own, first, near / edge.clamp_min(0.05), edge]
        context = torch.stack(
            [part.expand(-1, self.segments, -1, -1, -1).flatten(1, 2) for part in channels], 1
        )
        sign = source.new_full((len(source), 1), 2.0 * direction - 1)
        return {CONTEXT: context, PARAMETERS: sign}

    def encode(self, target: Tensor, support: Tensor, direction: int) -> Tensor:
        """Latents x of targets (B, N, X, Y, Z) in the support (B, 1, X, Y, Z) of their sources."""
        return self._stack(self._modes(target, support, direction)).flatten(1, 2)

    def decode(self, latents: Tensor, source: Tensor, direction: int) -> Tensor:
        """Targets of latents, in the support of their source."""
        slices = latents.unflatten(1, (self.segments, -1))
        z, x, y = self.sides
        modes = slices[:, :, :z, :x, :y].movedim(2, 4)
        values = torch.einsum("bmxyz,nm->bnxyz", modes, self.mixing[direction])
        return (self.scale[direction] * values + self.mean[direction]) * support_of(source)

    def _modes(self, volumes: Tensor, support: Tensor, modality: int) -> Tensor:
        rest = support * (volumes - self.mean[modality]) / self.scale[modality]
        return torch.einsum("bnxyz,nm->bmxyz", rest, self.mixing[modality])

    def _stack(self, volumes: Tensor) -> Tensor:
        """Slices (B, C, L, H, W) of volumes (B, C, X, Y, Z), padded at their ends."""
        ends = [n - side for n, side in zip(self.padded, self.sides, strict=True)]
        return F.pad(volumes.movedim(4, 2), (0, ends[2], 0, ends[1], 0, ends[0]))


class BothWays(Objective):
    """The flows of both directions, of which a batch holds samples; see :class:`PriorFlow`."""

    def __init__(
        self, model: PairDenoiser, priors: Mapping[str, Sequence[Prior]], label_dropout: float
    ) -> None:
        assert model.network is not None
        self.networks = {"network": model.network}
        self.flows = {
            MODALITIES.index(want): PriorFlow(denoiser, priors[want], label_dropout)  # type: ignore[arg-type]
            for want, denoiser in model.denoisers.items()
        }
        for flow in self.flows.values():
            flow.networks = self.networks  # which the loop wraps

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Mean over samples of the loss of their direction."""
        total = torch.zeros((), device=batch["latents"].device)
        for direction, flow in self.flows.items():
            here = (batch["direction"] == direction).nonzero().flatten()
            if len(here):
                part = {
                    key: {k: v[here] for k, v in value.items()}
                    if isinstance(value, Mapping) else value[here] for key, value in batch.items()
                }  # fmt: skip
                mine = [generators[k] for k in here.tolist()]
                loss = flow.loss(name, part, mine)
                total = total + loss * len(here) / len(generators)
        return total


def fit(job: Job, sets: Sequence[Pairs], grid: Grid) -> tuple[PairDenoiser, Trained | None]:
    """Priors in closed form, once, then the network; None if it has no steps."""
    config: ModalityConfig = job.config
    kept = job.work / "start"
    with PartialState().main_process_first():
        if not kept.is_dir():
            model, priors = begin(sets[0], config, grid, job.progress)
            with files.replacing_folder(kept) as folder:
                model.save_pretrained(folder)
                for want, each in priors.items():
                    for number, prior in enumerate(each):
                        prior.save_pretrained(folder / f"{want}-{number}")
    device = PartialState().device
    model = PairDenoiser.from_pretrained(kept).to(device)
    if not config.training.steps:
        return model.eval(), None
    count = len(list(kept.glob(f"{config.directions[0]}-*")))
    priors = {
        want: [Prior.from_pretrained(kept / f"{want}-{k}") for k in range(count)]
        for want in config.directions
    }
    objective = BothWays(model, priors, config.label_dropout)
    data = [samples(model, pairs, config, k == 0) for k, pairs in enumerate(sets)]
    trained = job.train(objective, data, config.training)
    model.use(objective.networks["network"])
    return model.eval(), trained


def begin(
    pairs: Pairs, config: ModalityConfig, grid: Grid, progress: bool = False
) -> tuple[PairDenoiser, dict[str, list[Prior]]]:
    """A model that knows what priors know, and the priors of the folds, by direction."""
    multiples = (min(config.depth, grid.shape[2]), config.token, config.token)
    shell: dict[str, Any] = {
        "label_space": LabelSpace.from_known(pairs.rows, config.labels).to_dict(),
        "grid": grid.to_dict(), "segments": pairs.array.shape[2],
        "source_blind": config.source_blind, "multiples": list(multiples),
    }  # fmt: skip
    bare = PairDenoiser(**shell, prior_settings={}, network_settings={})
    usual = pairs.usual()
    bare.learn(usual)
    settings: dict[str, dict[str, Any]] = {}
    fitted: dict[str, list[Prior]] = {}
    x, y, z = grid.spacing
    for want in config.directions:
        d = MODALITIES.index(want)
        covered = usual.covered[1 - d][None, None].expand(1, bare.segments, -1, -1, -1)
        inside = bare._stack((covered > RARE).float()).flatten(1, 2)[0] > 0
        settings[want] = settings_of(bare.latent_shape, (z, x, y), inside, 0, bare.contexts)
        if progress:
            print(f"fitting {config.folds + 1} priors to {len(pairs)} pairs: {want}", flush=True)
        few = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), MOST)).astype(int)).tolist()
        parts = [_encoded(bare, pairs.chosen([k]), d) for k in few]
        volumes, context = (torch.cat([p[key] for p in parts]) for key in ("latents", CONTEXT))
        folds = torch.from_numpy(folds_of(pairs, config)[few])
        generator = torch.Generator().manual_seed(config.training.seed)
        fitted[want] = fit_priors(settings[want], volumes, inside, None, folds, generator, context)
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        network = config.network | {"depth": multiples[0]} if config.training.steps else {}
        model = PairDenoiser(**shell, prior_settings=settings, network_settings=network)
    model.learn(usual)
    for want, each in fitted.items():
        prior: Any = model.denoisers[want].prior
        prior.load_state_dict(each[0].state_dict())
    return model, {want: each[1:] for want, each in fitted.items()}


def folds_of(pairs: Pairs, config: ModalityConfig) -> np.ndarray:
    """A fold for each pair, the same for all sessions of a person."""
    people = [(row["dataset"], row["subject_id"]) for row in pairs.rows]
    names = sorted(set(people))
    if len(names) < 2:
        raise InputError(
            "one person has both fmri and dmri; what is learned from one must hold for "
            "another, so give two or more"
        )
    order = np.random.default_rng(config.training.seed).permutation(len(names))
    fold = {name: int(k) % config.folds for name, k in zip(names, order, strict=True)}
    return np.array([fold[person] for person in people])


def samples(model: PairDenoiser, pairs: Pairs, config: ModalityConfig, training: bool) -> Samples:
    """The samples of a set; training people have folds."""
    folds = folds_of(pairs, config) if training else np.full(len(pairs), -1)

    def encode(pair: Tensor, direction: int, subject: int) -> dict[str, Tensor]:
        fold = torch.from_numpy(folds[subject : subject + 1])
        return {**_encoded(model, pair, direction), "fold": fold}

    directions = [MODALITIES.index(name) for name in config.directions]
    return Samples(pairs, directions, model.label_space, encode)


def scheduler() -> FlowMultistepScheduler:
    """What owns the times of the flow."""
    return FlowMultistepScheduler()


def pace(
    pairs: Pairs, config: ModalityConfig, grid: Grid, count: int
) -> tuple[float, PairDenoiser]:
    """Seconds of a fit to ``count`` pairs, from a few, and the model of those."""
    begun = time.perf_counter()
    model, priors = begin(pairs, config, grid)
    seconds = time.perf_counter() - begun
    # Filters are solved as quickly for many people, who are then looked at at every level.
    prior = priors[config.directions[0]][0]
    begun = time.perf_counter()
    prior.posterior(torch.zeros(1, *model.latent_shape), torch.full((1,), 0.5))
    each = LEVELS * len(config.directions) * (time.perf_counter() - begun)
    seconds += max(min(count, MOST) - len(pairs), 0) * each
    if config.training.steps:
        objective = BothWays(model, priors, config.label_dropout)
        seconds += estimate(objective, samples(model, pairs, config, True), config.training)
    return seconds, model.eval()


def _encoded(model: PairDenoiser, pair: Tensor, direction: int) -> dict[str, Tensor]:
    """Latents and conditions of pairs (B, 2, N, X, Y, Z)."""
    source = pair[:, 1 - direction].to(model.device)
    latents = model.encode(pair[:, direction].to(source), support_of(source), direction)
    return {"latents": latents, **model.conditions(source, direction)}


def _smooth(slices: Tensor) -> Tensor:
    """Means over 3 x 3 x 3 voxels, twice, of slices (B, 1, L, H, W)."""
    for _ in range(2):
        slices = F.avg_pool3d(slices, 3, 1, 1)
    return slices
