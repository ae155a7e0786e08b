"""The published PDS: a DDPM from noise, pattern-aware, in two stages, and TR on its samples.

PDM (:mod:`neuromix.augment.pds.published.network`) predicts the noise of a volume in units of its
modality, on a cosine schedule, by *semantic consistency*: the volume as a whole must say what the
source says. TR (:mod:`neuromix.augment.pds.published.refinement`) then sharpens its samples by
*anatomical and microstructural detail*. With e an error inside the brain, P the map and w the
weights of the pattern-aware module,

    semantic = mean (1 + P) e²  +  sum_r w_r (mean_r e)²
    detail   = semantic + 0.1 mean |grad e| + m mean |e - mean over segments of e|

The last term is MR, microstructure refinement: how a voxel's signal changes from gradient to
gradient (or over time), which is what microstructure leaves in it, apart from how bright it is.
Volumes are (B, N, X, Y, Z); a direction is the number of the image to fill in, of two.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.fitting import Job
from neuromix.augment.diffusion.label_embedding import drop_labels
from neuromix.augment.diffusion.loop import Trained, check_size, estimate
from neuromix.augment.diffusion.objectives import Batch, Generators, Objective, noise_like
from neuromix.augment.diffusion.pipeline import solve
from neuromix.augment.pds.config import ModalityConfig
from neuromix.augment.pds.images import Images, Pattern, Samples, support_of
from neuromix.augment.pds.published.network import DualModalUNet
from neuromix.augment.pds.published.pattern import PatternModule
from neuromix.augment.pds.published.refinement import TissueRefiner

MODALITIES = 2
EDGES = 0.1
"""Weight of the errors of edges."""
FARTHEST = 6.0
"""Standard deviations that DDIM cuts its guesses at: its first steps divide by almost nothing."""


class PublishedPDS(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """PDM, TR and the pattern; settings are those of the config beside the completer."""

    centre: Tensor
    scale: Tensor
    limits: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        label_space: dict[str, Any],
        grid: dict[str, Any],
        segments: int,
        source_blind: bool,
        refinement: bool,
        pattern: bool,
        widths: Sequence[int],
        patch: int,
        heads: int,
        refiner_width: int,
        refiner_blocks: int,
    ) -> None:
        super().__init__()
        self.label_space = LabelSpace.from_dict(label_space)
        self.grid, self.segments = Grid.from_dict(grid), segments
        self.source_blind = source_blind
        self.latent_shape = (segments, *self.grid.shape)
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("limits", torch.zeros(2, 2))
        # Under another name: diffusers gives a setting precedence over a module of its name.
        self.atlas = PatternModule(grid) if pattern else None
        known = 1 if source_blind else 1 + segments
        self.network = DualModalUNet(
            self.label_space,
            modalities=MODALITIES,
            known_channels=known,
            segments=segments,
            widths=widths,
            patch=patch,
            heads=heads,
            pattern=self.atlas,
        )
        self.refiner = None
        if refinement:
            self.refiner = TissueRefiner(MODALITIES, segments, known, refiner_width, refiner_blocks)

    def forward(
        self, noisy: Tensor, timestep: Tensor, known: Mapping[str, Tensor], pattern: Pattern
    ) -> Tensor:
        """Noise (B, N, X, Y, Z); ``known`` are labels and :meth:`conditions`."""
        chosen = torch.full((len(noisy),), pattern[0], device=noisy.device)
        predicted: Tensor = self.network(noisy, known["known"], timestep, chosen, known)
        return predicted

    def pattern(self, want: int, have: Sequence[int]) -> Pattern:
        """One from the other."""
        return want, (1 - want,)

    def conditions(self, images: Tensor, pattern: Pattern) -> dict[str, Tensor]:
        """What PDM is told of images (B, 2, N, X, Y, Z)."""
        source = images[:, 1 - pattern[0]]
        support = support_of(source)
        shown = [] if self.source_blind else [self.encode(source, support, 1 - pattern[0])]
        return {"known": torch.cat([support, *shown], 1)}

    def encode(self, volumes: Tensor, support: Tensor, modality: int) -> Tensor:
        """Volumes in units of their modality, 0 outside the support (B, 1, X, Y, Z)."""
        return support * (volumes - self.centre[modality]) / self.scale[modality]

    def decode(self, latents: Tensor, images: Tensor, pattern: Pattern) -> Tensor:
        """Samples in the support of their source, as TR sharpens them."""
        direction = pattern[0]
        support = support_of(images[:, 1 - direction])
        if self.refiner is not None:
            support = support.expand(len(latents), -1, -1, -1, -1)
            known = self.conditions(images, pattern)["known"].expand(len(latents), -1, -1, -1, -1)
            chosen = torch.full((len(latents),), direction, device=latents.device)
            latents = self.refiner(known, latents * support, chosen)
        return (self.scale[direction] * latents + self.centre[direction]) * support

    def semantic(self, error: Tensor, support: Tensor) -> Tensor:
        """The first stage's loss of errors (B, N, X, Y, Z) that are zero outside the support."""
        squares = error**2
        if self.atlas is None:
            return squares.sum() / (support.sum().clamp_min(1) * error.shape[1])
        weight = (1 + self.atlas.map()) * support
        loss = (weight * squares).sum() / (weight.sum().clamp_min(1) * error.shape[1])
        return loss + self.atlas.region_error(error, support)


class SemanticConsistency(Objective):
    """PDM's loss; ``alphas`` are cumulative products of a noise schedule (T,)."""

    def __init__(self, model: PublishedPDS, label_dropout: float, alphas: Tensor) -> None:
        self.model, self.label_dropout, self.alphas = model, label_dropout, alphas
        self.networks = {"network": model.network}

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Of a batch ``{"latents", "known", "direction", "labels"}``."""
        clean = batch["latents"]
        noise = noise_like(clean, generators)
        time = torch.stack([torch.randint(len(self.alphas), (), generator=g) for g in generators])
        alpha = self.alphas[time].to(clean)[:, None, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        draws = torch.stack([torch.rand((), generator=g) for g in generators]).to(clean.device)
        labels = drop_labels(self.model.label_space, batch["labels"], draws < self.label_dropout)
        predicted = self.networks[name](
            noisy, batch["known"], time.to(clean.device), batch["direction"], labels
        )
        # What lies outside the brain must be denoised, too.
        return self.model.semantic(predicted.float() - noise, torch.ones_like(clean[:, :1]))


class Refinement(Objective):
    """TR's loss; ``microstructure`` is the weight m of MR."""

    def __init__(self, model: PublishedPDS, microstructure: float) -> None:
        assert model.refiner is not None
        self.model, self.microstructure = model, microstructure
        self.networks = {"refiner": model.refiner}

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Of a batch ``{"latents", "estimate", "known", "direction"}``."""
        support = batch["known"][:, :1]
        refined = self.networks[name](batch["known"], batch["estimate"], batch["direction"])
        error = support * (refined.float() - batch["latents"])
        loss = self.model.semantic(error, support)
        for axis in (2, 3, 4):
            both = support.narrow(axis, 1, support.shape[axis] - 1)
            both = both * support.narrow(axis, 0, support.shape[axis] - 1)
            steps = (error.diff(dim=axis).abs() * both).sum() / both.sum().clamp_min(1)
            loss = loss + EDGES / 3 * steps / error.shape[1]
        contrast = (error - error.mean(1, keepdim=True)).abs().sum()
        voxels = support.sum().clamp_min(1) * error.shape[1]
        return loss + self.microstructure * contrast / voxels


def fit(job: Job, sets: Sequence[Images], grid: Grid) -> tuple[PublishedPDS, Trained]:
    """PDM, then TR on what it makes of everybody."""
    config: ModalityConfig = job.config
    if config.refinement:
        check_size(len(sets[0]) * len(config.wanted), config.refining)
    kept = job.work / "start"
    with PartialState().main_process_first():
        if not kept.is_dir():
            with files.replacing_folder(kept) as folder:
                begin(sets[0], config, grid).save_pretrained(folder)
    model = PublishedPDS.from_pretrained(kept).to(PartialState().device)
    objective = SemanticConsistency(model, config.label_dropout, scheduler().alphas_cumprod)
    trained = job.train(objective, [_samples(model, p, config) for p in sets], config.training)
    model.eval()
    if model.refiner is not None:
        paths = job.arrays(lambda k, path: _draw(model, sets[k], config, path), "sample-")
        drawn = [
            _samples(model, pairs, config, np.load(path, mmap_mode="r"))
            for pairs, path in zip(sets, paths, strict=True)
        ]
        refining = config.refining.within(config.training)
        job.train(Refinement(model, config.microstructure), drawn, refining, "refiner")
    return model.eval(), trained


def begin(pairs: Images, config: ModalityConfig, grid: Grid) -> PublishedPDS:
    """The model before training, which knows the units and where disease shows."""
    usual = pairs.usual()
    space = LabelSpace.from_known(pairs.rows, config.labels)
    names = ("source_blind", "refinement", "pattern", "patch", "heads", "refiner_width",
             "refiner_blocks")  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        model = PublishedPDS(
            label_space=space.to_dict(), grid=grid.to_dict(), segments=pairs.array.shape[2],
            widths=list(config.widths), **{name: getattr(config, name) for name in names},
        )  # fmt: skip
    weight = usual.covered / usual.covered.sum((1, 2, 3), keepdim=True)
    means = usual.mean.mean(1)
    model.centre.copy_((weight * means).sum((1, 2, 3)))
    between = (weight * (means - model.centre[:, None, None, None]) ** 2).sum((1, 2, 3))
    model.scale.copy_((usual.spread**2 + between).sqrt())
    model.limits.copy_(usual.limits)
    if model.atlas is not None:
        signals = torch.cat([
            torch.stack([model.atlas.signals(part[:, m], support_of(part[:, m])) for m in (0, 1)])
            for part, _ in pairs.batches()
        ], 1)  # fmt: skip
        model.atlas.learn(signals, [str(row.get("diagnosis") or "") for row in pairs.rows])
    return model


def scheduler() -> DDIMScheduler:
    """A cosine schedule, drawn by DDIM."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=True, clip_sample_range=FARTHEST
    )


def pace(pairs: Images, config: ModalityConfig, grid: Grid, _: int) -> tuple[float, PublishedPDS]:
    """Seconds of the trainings, and a model as it is before them."""
    model = begin(pairs, config, grid)
    objective = SemanticConsistency(model, config.label_dropout, scheduler().alphas_cumprod)
    seconds = estimate(objective, _samples(model, pairs, config), config.training)
    if model.refiner is not None:
        nothing = np.zeros((len(pairs), MODALITIES, *model.latent_shape), np.float16)
        data = _samples(model, pairs, config, nothing)
        seconds += estimate(Refinement(model, config.microstructure), data, config.refining)
    return seconds, model.eval()


def _samples(
    model: PublishedPDS, pairs: Images, config: ModalityConfig, drawn: np.ndarray | None = None
) -> Samples:
    def encode(pair: Tensor, pattern: Pattern, subject: int) -> dict[str, Tensor]:
        pair, want = pair.to(model.device), pattern[0]
        latents = model.encode(pair[:, want], support_of(pair[:, 1 - want]), want)
        sample = {"latents": latents, **model.conditions(pair, pattern)}
        if drawn is not None:
            estimate = torch.from_numpy(np.array(drawn[subject, want], np.float32))
            sample["estimate"] = estimate[None].to(latents)
        return sample

    return Samples(pairs, _patterns(config), model.label_space, encode)


def _patterns(config: ModalityConfig) -> list[Pattern]:
    """Each of two from the other, as far as asked for."""
    return [(d, (1 - d,)) for d in map(config.images.index, config.wanted)]


@torch.no_grad()
def _draw(model: PublishedPDS, pairs: Images, config: ModalityConfig, path: Any) -> None:
    """A sample of PDM of each pair and direction: (subjects, 2, N, X, Y, Z)."""
    ddim = scheduler()
    codes = {
        k: torch.tensor([v], device=model.device) for k, v in model.label_space.encode({}).items()
    }

    def made(subject: int) -> np.ndarray:
        both = np.zeros((1, MODALITIES, *model.latent_shape), np.float32)
        images = pairs.chosen([subject]).to(model.device)
        for pattern in _patterns(config):
            known = {**model.conditions(images, pattern), **codes}
            noise = torch.randn(
                1, *model.latent_shape, generator=torch.Generator().manual_seed(subject)
            )
            network = functools.partial(model, pattern=pattern)
            sample = solve(
                network, ddim, noise.to(images), config.sampling_steps, 1.0, known, known
            )
            support = support_of(images[:, 1 - pattern[0]])
            both[:, pattern[0]] = (sample * support).cpu().numpy()
        return both

    files.write_array(path, len(pairs), map(made, range(len(pairs))), np.float16)
