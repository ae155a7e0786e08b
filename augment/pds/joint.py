"""PDS on the denoiser: a prior for every image given any others, and one network for all of them.

A person has some of M images of N channels on one grid (segments of fMRI and dMRI, or maps: N = 1).
The channels of an image are turned into as many modes, the principal components of what differs
between people (an orthonormal Q, so that noise stays white), and their slices are stacked::

    x = stack( Q' (y - mean) / scale ),        (N L, H, W);        0 outside the brain

Modes hardly vary together, so that a filter that sees one mode of the target misses little; what
one channel differs from the others by, which is what MR of the paper looks after, are modes of
their own, and count as much as the mean of all. Context are, of each other image, the same mode,
its first mode (what all channels share) and that one smoothed, zero where a person lacks it; and
where the brain is. What is known of a target depends on which sources there are: each *pattern*
(a target and its sources) has a :class:`Denoiser` with a prior of its own, and the network, which
is told target and sources, is the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
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
from neuromix.augment.diffusion.cross_fitting import fit_priors
from neuromix.augment.diffusion.denoiser import CONTEXT, PARAMETERS, Denoiser, PriorFlow
from neuromix.augment.diffusion.fitting import Job
from neuromix.augment.diffusion.flow import FlowMultistepScheduler
from neuromix.augment.diffusion.loop import Trained, estimate
from neuromix.augment.diffusion.network import HybridNet
from neuromix.augment.diffusion.objectives import Batch, Generators, Objective
from neuromix.augment.diffusion.prior import Prior
from neuromix.augment.diffusion.resolution import LEVELS, settings_of
from neuromix.augment.errors import InputError
from neuromix.augment.pds.config import ModalityConfig
from neuromix.augment.pds.images import Images, Pattern, Samples, Usual, largest, support_of

MOST = 200
"""People that priors are made of: with their context, several volumes of all channels are held."""
FEWEST = 4
"""People with a pattern's images that it takes for a prior of its own."""
RARE = 0.02
"""Share of people who must have tissue at a voxel for it to count as brain."""


class JointDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Velocity of a noised image, given others of the same person.

    Args:
        label_space: ``LabelSpace.to_dict()``.
        grid: ``Grid.to_dict()`` of the training subjects.
        images: Names of the M images.
        segments: N.
        source_blind: Whether context is where the brain is, and no more.
        multiples: L, H and W are padded at their ends to multiples of these.
        prior_settings: Of the :class:`Prior` by pattern, see :func:`name_of`.
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
        images: Sequence[str],
        segments: int,
        source_blind: bool,
        multiples: Sequence[int],
        prior_settings: dict[str, dict[str, Any]],
        network_settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.label_space = LabelSpace.from_dict(label_space)
        self.grid, self.images, self.segments = Grid.from_dict(grid), list(images), segments
        x, y, z = self.grid.shape
        self.sides = (z, x, y)
        self.padded = tuple(-(-n // m) * m for n, m in zip(self.sides, multiples, strict=True))
        self.latent_shape = (segments * self.padded[0], *self.padded[1:])
        count = len(images)
        self.register_buffer("mean", torch.zeros(count, segments, x, y, z))
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("limits", torch.zeros(count, 2))
        self.register_buffer("mixing", torch.eye(segments).repeat(count, 1, 1))
        self.denoisers = nn.ModuleDict({
            name: Denoiser(
                label_space=label_space, prior_settings=each, network_settings={},
                parameters=2 * count,
            )
            for name, each in prior_settings.items()
        })  # fmt: skip
        self.network = None
        if network_settings:
            channels = 4 + self.contexts
            self.use(
                HybridNet(
                    self.label_space, self.latent_shape, channels, 2 * count, **network_settings
                )
            )

    @property
    def contexts(self) -> int:
        """Channels of context."""
        if self.config["source_blind"]:
            return 1
        return 2 + (len(self.images) - 1) * (3 if self.segments > 1 else 2)

    def use(self, network: nn.Module) -> None:
        """Let all patterns use a network."""
        self.network = network
        for denoiser in self.denoisers.values():  # as a guest, who is saved once
            object.__setattr__(denoiser, "network", network)

    def learn(self, usual: Usual) -> None:
        """Take scales and modes from what training images come to."""
        self.mean.copy_(usual.mean)
        self.scale.copy_(usual.spread)
        self.limits.copy_(usual.limits)
        self.mixing.copy_(torch.linalg.eigh(usual.covariance).eigenvectors.flip(2))

    @property
    def patterns(self) -> list[Pattern]:
        """What it has learned."""
        numbers = range(len(self.images))
        every = ((w, s) for w in numbers for n in numbers for s in combinations(numbers, n))
        return [each for each in every if name_of(self.images, each) in self.denoisers]

    def pattern(self, want: int, have: Sequence[int]) -> Pattern:
        """The pattern with the most of the sources that a person has; none is refused."""
        if pattern := largest(self.patterns, want, have):
            return pattern
        raise InputError(
            f"{self.images[want]} can't be filled in from "
            f"{', '.join(self.images[k] for k in have)}; what was learned is "
            f"{', '.join(name.replace('-', ' ') for name in self.denoisers)}"
        )

    def forward(
        self, latents: Tensor, timestep: Tensor, known: Mapping[str, Tensor], pattern: Pattern
    ) -> Tensor:
        """Velocity of x_t (B, N L, H, W); ``known`` are labels and :meth:`conditions`."""
        velocity: Tensor = self.denoisers[name_of(self.images, pattern)](latents, timestep, known)
        return velocity

    def support(self, images: Tensor, pattern: Pattern) -> Tensor:
        """Where a source has signal, (B, 1, X, Y, Z), of images (B, M, N, X, Y, Z)."""
        return support_of(images[:, list(pattern[1])].flatten(1, 2))

    def conditions(self, images: Tensor, pattern: Pattern) -> dict[str, Tensor]:
        """What a network and a prior are told of images (B, M, N, X, Y, Z), of which some count."""
        want, sources = pattern
        support = self.support(images, pattern)
        there = self._stack(support)
        channels = [there]
        if not self.config["source_blind"]:
            edge = _smooth(there)
            channels.append(edge)
            for m in range(len(self.images)):
                if m == want:
                    continue
                own = self._stack(self._modes(images[:, m], support, m)) * (m in sources)
                first = own[:, :1]
                channels += [own, _smooth(first) / edge.clamp_min(0.05)]
                channels += [first] * (self.segments > 1)
        context = torch.stack(
            [part.expand(-1, self.segments, -1, -1, -1).flatten(1, 2) for part in channels], 1
        )
        told = images.new_zeros(len(images), 2, len(self.images))
        told[:, 0, want] = 1
        told[:, 1, list(sources)] = 1
        return {CONTEXT: context, PARAMETERS: told.flatten(1)}

    def encode(self, target: Tensor, support: Tensor, want: int) -> Tensor:
        """Latents x of targets (B, N, X, Y, Z) in the support (B, 1, X, Y, Z) of their sources."""
        return self._stack(self._modes(target, support, want)).flatten(1, 2)

    def decode(self, latents: Tensor, images: Tensor, pattern: Pattern) -> Tensor:
        """Targets of latents, in the support of their sources."""
        want = pattern[0]
        slices = latents.unflatten(1, (self.segments, -1))
        z, x, y = self.sides
        modes = slices[:, :, :z, :x, :y].movedim(2, 4)
        values = torch.einsum("bmxyz,nm->bnxyz", modes, self.mixing[want])
        return (self.scale[want] * values + self.mean[want]) * self.support(images, pattern)

    def _modes(self, volumes: Tensor, support: Tensor, image: int) -> Tensor:
        rest = support * (volumes - self.mean[image]) / self.scale[image]
        return torch.einsum("bnxyz,nm->bmxyz", rest, self.mixing[image])

    def _stack(self, volumes: Tensor) -> Tensor:
        """Slices (B, C, L, H, W) of volumes (B, C, X, Y, Z), padded at their ends."""
        ends = [n - side for n, side in zip(self.padded, self.sides, strict=True)]
        return F.pad(volumes.movedim(4, 2), (0, ends[2], 0, ends[1], 0, ends[0]))


class JointFlow(Objective):
    """The flows of all patterns, of which a batch holds samples; see :class:`PriorFlow`."""

    def __init__(
        self, model: JointDenoiser, priors: Mapping[str, Sequence[Prior]], label_dropout: float
    ) -> None:
        assert model.network is not None
        self.model = model
        self.networks = {"network": model.network}
        self.flows = {
            name: PriorFlow(denoiser, priors[name], label_dropout)  # type: ignore[arg-type]
            for name, denoiser in model.denoisers.items()
        }
        for flow in self.flows.values():
            flow.networks = self.networks  # which the loop wraps

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Mean over samples of the loss of their pattern."""
        total = torch.zeros((), device=batch["latents"].device)
        count, told = len(self.model.images), batch[PARAMETERS].cpu()
        patterns = [
            (int(row[:count].argmax()), tuple(row[count:].nonzero().flatten().tolist()))
            for row in told
        ]
        for pattern in sorted(set(patterns)):
            rows = [k for k, each in enumerate(patterns) if each == pattern]
            here = torch.tensor(rows, device=total.device)
            part = {
                key: {k: v[here] for k, v in value.items()}
                if isinstance(value, Mapping) else value[here.to(value.device)]
                for key, value in batch.items()
            }  # fmt: skip
            flow = self.flows[name_of(self.model.images, pattern)]
            loss = flow.loss(name, part, [generators[k] for k in rows])
            total = total + loss * len(rows) / len(generators)
        return total


def name_of(images: Sequence[str], pattern: Pattern) -> str:
    """Such as ``fa-from-t1-md``."""
    want, sources = pattern
    return f"{images[want]}-from-{'-'.join(images[k] for k in sources)}"


def patterns_of(
    images: Images, names: Sequence[str], wanted: Sequence[str], folds: np.ndarray
) -> Iterator[Pattern]:
    """What enough people of more than one fold teach: an image to fill in, and its sources."""
    people = np.array([f"{row['dataset']}/{row['subject_id']}" for row in images.rows])
    for want in map(list(names).index, wanted):
        others = [k for k in range(len(names)) if k != want]
        for count in range(len(others), 0, -1):
            for sources in combinations(others, count):
                rows = images.having([want, *sources])
                if len(set(people[rows])) >= FEWEST and len(set(folds[rows].tolist())) > 1:
                    yield want, sources


def fit(job: Job, sets: Sequence[Images], grid: Grid) -> tuple[JointDenoiser, Trained | None]:
    """Priors in closed form, once, then the network; None if it has no steps."""
    config: ModalityConfig = job.config
    kept = job.work / "start"
    with PartialState().main_process_first():
        if not kept.is_dir():
            model, priors = begin(sets[0], config, grid, job.progress)
            with files.replacing_folder(kept) as folder:
                model.save_pretrained(folder)
                for name, each in priors.items():
                    for number, prior in enumerate(each):
                        prior.save_pretrained(folder / f"{name}-{number}")
    model = JointDenoiser.from_pretrained(kept).to(PartialState().device)
    if not config.training.steps:
        return model.eval(), None
    objective = JointFlow(model, fold_priors(job, model), config.label_dropout)
    data = [samples(model, images, config, k == 0) for k, images in enumerate(sets)]
    trained = job.train(objective, data, config.training)
    model.use(objective.networks["network"])
    return model.eval(), trained


def fold_priors(job: Job, model: JointDenoiser) -> dict[str, list[Prior]]:
    """The kept priors of the people outside each fold, by pattern."""
    kept, folds = job.work / "start", job.config.folds
    return {
        name: [
            Prior.from_pretrained(kept / f"{name}-{k}")
            for k in range(folds) if (kept / f"{name}-{k}").is_dir()
        ]
        for name in model.denoisers
    }  # fmt: skip


@contextmanager
def served_by(
    model: JointDenoiser, pattern: Pattern, priors: Mapping[str, Sequence[Prior]], fold: int
) -> Iterator[None]:
    """While it lasts, the prior of the people outside a fold serves a pattern."""
    name = name_of(model.images, pattern)
    denoiser: Any = model.denoisers[name]
    other: Any = priors[name][fold]
    own, denoiser.prior = denoiser.prior, other.to(model.device)
    try:
        yield
    finally:
        denoiser.prior = own


def begin(
    images: Images, config: ModalityConfig, grid: Grid, progress: bool = False
) -> tuple[JointDenoiser, dict[str, list[Prior]]]:
    """A model that knows what priors know, and the priors of the folds, by pattern."""
    multiples = (min(config.depth, grid.shape[2]), config.token, config.token)
    shell: dict[str, Any] = {
        "label_space": LabelSpace.from_known(images.rows, config.labels).to_dict(),
        "grid": grid.to_dict(), "images": list(config.images), "segments": images.array.shape[2],
        "source_blind": config.source_blind, "multiples": list(multiples),
    }  # fmt: skip
    bare = JointDenoiser(**shell, prior_settings={}, network_settings={})
    usual = images.usual()
    bare.learn(usual)
    settings: dict[str, dict[str, Any]] = {}
    fitted: dict[str, list[Prior]] = {}
    x, y, z = grid.spacing
    folds = folds_of(images, config)
    for want, sources in patterns_of(images, config.images, config.wanted, folds):
        name = name_of(config.images, (want, sources))
        people = images.having([want, *sources])
        few = people[np.unique(np.linspace(0, len(people) - 1, min(len(people), MOST)).astype(int))]
        covered = usual.covered[list(sources)].amax(0)[None, None]
        inside = (bare._stack((covered > RARE).float()) > 0).expand(-1, bare.segments, -1, -1, -1)
        inside = inside.flatten(1, 2)[0]
        settings[name] = settings_of(bare.latent_shape, (z, x, y), inside, 0, bare.contexts)
        if progress:
            print(f"fitting {config.folds + 1} priors to {len(few)} people: {name}", flush=True)
        parts = [_encoded(bare, images.chosen([k]), (want, sources)) for k in few]
        volumes, context = (torch.cat([p[key] for p in parts]) for key in ("latents", CONTEXT))
        generator = torch.Generator().manual_seed(config.training.seed)
        parted = torch.from_numpy(folds[few])
        fitted[name] = fit_priors(settings[name], volumes, inside, None, parted, generator, context)
    if not fitted:
        raise InputError(
            f"fewer than {FEWEST} people have two of {', '.join(config.images)}; what is learned "
            "of some must hold for others, so add people"
        )
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        network = config.network | {"depth": multiples[0]} if config.training.steps else {}
        model = JointDenoiser(**shell, prior_settings=settings, network_settings=network)
    model.learn(usual)
    for name, each in fitted.items():
        prior: Any = model.denoisers[name].prior
        prior.load_state_dict(each[0].state_dict())
    return model, {name: each[1:] for name, each in fitted.items()}


def folds_of(images: Images, config: ModalityConfig) -> np.ndarray:
    """A fold for each row, the same for all sessions of a person."""
    people = [(row["dataset"], row["subject_id"]) for row in images.rows]
    names = sorted(set(people))
    order = np.random.default_rng(config.training.seed).permutation(len(names))
    fold = {name: int(k) % config.folds for name, k in zip(names, order, strict=True)}
    return np.array([fold[person] for person in people])


def samples(
    model: JointDenoiser, images: Images, config: ModalityConfig, training: bool
) -> Samples:
    """The samples of a set; training people have folds."""
    folds = folds_of(images, config) if training else np.full(len(images), -1)

    def encode(volumes: Tensor, pattern: Pattern, row: int) -> dict[str, Tensor]:
        fold = torch.from_numpy(folds[row : row + 1])
        return {**_encoded(model, volumes, pattern), "fold": fold}

    return Samples(images, model.patterns, model.label_space, encode)


def scheduler() -> FlowMultistepScheduler:
    """What owns the times of the flow."""
    return FlowMultistepScheduler()


def pace(
    images: Images, config: ModalityConfig, grid: Grid, count: int
) -> tuple[float, JointDenoiser]:
    """Seconds of a fit to ``count`` people, from a few, and the model of those."""
    begun = time.perf_counter()
    model, priors = begin(images, config, grid)
    seconds = time.perf_counter() - begun
    # Filters are solved as quickly for many people, who are then looked at at every level.
    prior = next(iter(priors.values()))[0]
    begun = time.perf_counter()
    prior.posterior(torch.zeros(1, *model.latent_shape), torch.full((1,), 0.5))
    each = LEVELS * len(priors) * (time.perf_counter() - begun)
    seconds += max(min(count, MOST) - len(images), 0) * each
    if config.training.steps:
        objective = JointFlow(model, priors, config.label_dropout)
        seconds += estimate(objective, samples(model, images, config, True), config.training)
    return seconds, model.eval()


def _encoded(model: JointDenoiser, images: Tensor, pattern: Pattern) -> dict[str, Tensor]:
    """Latents and conditions of images (B, M, N, X, Y, Z)."""
    images = images.to(model.device)
    latents = model.encode(images[:, pattern[0]], model.support(images, pattern), pattern[0])
    return {"latents": latents, **model.conditions(images, pattern)}


def _smooth(slices: Tensor) -> Tensor:
    """Means over 3 x 3 x 3 voxels, twice, of slices (B, 1, L, H, W)."""
    for _ in range(2):
        slices = F.avg_pool3d(slices, 3, 1, 1)
    return slices
