"""The tiled MD sampler: mean-diffusivity maps made by a 2D diffusion transformer.

A volume is cut into slices, each slice is encoded by itself, the latents are tiled into one mosaic,
and a DiT makes mosaics from noise along the flow dx/dt = v(x, t, y), from t = 1 down to 0:

    v = v(x, t, none) + guidance (v(x, t, y) - v(x, t, none)),      x <- x + (t' - t) v

Values come back in 1e-3 mm²/s on the grid of the training subjects.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from augment import files
from augment.conditions import LabelSpace
from augment.errors import InputError
from augment.grid import Grid
from augment.nn.labels import drop_labels
from augment.nn.slice_basis import SliceBasis
from augment.nn.tiled_dit import TiledDiT
from augment.objectives import FlowMatching
from augment.samplers.base import check_requests, provenance, voxel_hash
from augment.tiling import Tiling
from augment.train import TrainConfig, Trained, estimate, train

if TYPE_CHECKING:
    import torchio as tio

    from augment.cohort import Cohort

LARGEST = 3.2
"""Diffusivity at body temperature does not pass that of free water, 3.0, by more than noise."""
FAINTEST = 0.15
"""Lower values are background: no tissue diffuses so slowly."""
CHUNK = 4
"""Samples are made in chunks of this size, the last one padded, so that none depends on how many
are asked for."""


@dataclass(frozen=True)
class TiledMDConfig:
    """Everything that a fit is made with."""

    labels: tuple[str, ...] = ("sex", "diagnosis", "age")
    """Labels to condition on; one that no subject has is left out."""
    plane: str = "axial"
    channels: int = 32
    """Latent channels of a square of 8 x 8 pixels."""
    layers: int = 6
    heads: int = 4
    head_dim: int = 64
    label_dropout: float = 0.1
    training: TrainConfig = field(default_factory=TrainConfig)


PRESETS = {
    "demo": TiledMDConfig(
        layers=4, heads=4, head_dim=48,
        training=TrainConfig(
            steps=60, batch_size=8, learning_rate=1e-3, warmup=10, ema_decay=0.95,
            validate_every=30, checkpoint_every=30,
        ),
    ),
    "tiny": TiledMDConfig(
        training=TrainConfig(
            steps=600, batch_size=16, learning_rate=6e-4, ema_decay=0.99,
            validate_every=50, checkpoint_every=50,
        ),
    ),
    "base": TiledMDConfig(
        layers=12, heads=6, head_dim=64,
        training=TrainConfig(
            steps=30_000, batch_size=64, learning_rate=3e-4, warmup=500, ema_decay=0.999,
            precision="bf16", validate_every=1000, checkpoint_every=1000,
        ),
    ),
    "paper": TiledMDConfig(
        layers=28, heads=16, head_dim=72,
        training=TrainConfig(
            steps=100_000, batch_size=64, learning_rate=1e-4, warmup=1000, ema_decay=0.9999,
            precision="bf16", validate_every=2000, checkpoint_every=2000,
        ),
    ),
}  # fmt: skip
"""From two cores in 90 seconds to the size of DiT-XL/2."""


class TiledMDSampler(DiffusionPipeline):
    """Makes MD maps of given labels.

    Args:
        transformer: The denoiser.
        codec: Volumes to latents of mosaics and back.
        scheduler: Owns the times of the flow.
        grid: ``Grid.to_dict()`` of the training subjects.
        provenance: Who and what made it.
    """

    transformer: TiledDiT
    codec: SliceBasis
    scheduler: Any  # diffusers' own types of its steps are too narrow

    def __init__(
        self,
        transformer: TiledDiT,
        codec: SliceBasis,
        scheduler: FlowMatchEulerDiscreteScheduler,
        grid: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, codec=codec, scheduler=scheduler)
        self.register_to_config(grid=grid, provenance=provenance)

    @property
    def label_space(self) -> LabelSpace:
        """What it can be asked for."""
        return self.transformer.label_space

    @property
    def grid(self) -> Grid:
        """Where its volumes lie."""
        return Grid.from_dict(self.config["grid"])

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        config: TiledMDConfig,
        folder: str | Path,
        *,
        validation: Cohort | None = None,
        resume: bool = True,
        progress: bool = False,
    ) -> tuple[TiledMDSampler, Trained]:
        """Fit on the training subjects of a split, and save the sampler in a folder.

        Args:
            cohort: Training subjects; no other subject's image is looked at.
            config: One of :data:`PRESETS`, or one's own.
            folder: For the sampler and, in ``work``, its latents and checkpoints.
            validation: Subjects that choose the best step.
            resume: Go on where an earlier call was stopped.
            progress: Show a progress bar.

        Returns:
            The sampler and what the training came to.
        """
        work = Path(folder) / "work"
        grid = common_grid(cohort)
        codec, transformer, latents, voxels = _begin(cohort, config, grid, work)
        cohorts, judges = [cohort], None
        if validation is not None:
            if common_grid(validation) != grid:
                raise InputError("the validation subjects lie on another grid than the training's")
            path, seen = _encode(codec, validation, work / "validation.npy")
            judges = LatentSet(path, transformer.label_space, label_rows(validation))
            cohorts.append(validation)
            voxels = voxels + seen
        result = train(
            FlowMatching(transformer, config.label_dropout, codec.mask),
            latents,
            config.training,
            work,
            validation=judges,
            resume=resume,
            progress=progress,
        )
        record = provenance(cohorts, voxels) | {"config": asdict(config)}
        record["trained"] = {"best_step": result.best_step, "validation": result.validation}
        scheduler = FlowMatchEulerDiscreteScheduler()
        sampler = cls(transformer, codec, scheduler, grid.to_dict(), record)
        sampler.save_pretrained(folder)
        return sampler, result

    @classmethod
    def estimate(cls, cohort: Cohort, config: TiledMDConfig) -> float:
        """Seconds that the training of a fit would take on this machine; nothing is kept."""
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            codec, transformer, latents, _ = _begin(cohort, config, common_grid(cohort), work)
            objective = FlowMatching(transformer, config.label_dropout, codec.mask)
            return estimate(objective, latents, config.training)

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        steps: int = 20,
        guidance: float = 1.0,
    ) -> list[tio.Subject]:
        """Make a subject for each of the labels.

        Args:
            labels: For example ``[{"sex": "F", "age": 70}]``; labels left out are not asked for.
            seeds: One a subject.
            steps: Of the flow; 10 to 20 are enough.
            guidance: Above 1, labels show more than in nature; 1 follows the training subjects.

        Returns:
            Subjects with ``md`` in 1e-3 mm²/s, their labels, ``synthetic`` and ``synthetic_id``.
        """
        check_requests(labels, seeds)
        codes = [self.label_space.encode(dict(row)) for row in labels]
        subjects: list[tio.Subject] = []
        for start in range(0, len(seeds), CHUNK):
            part = list(range(start, min(start + CHUNK, len(seeds))))
            padded = part + [part[-1]] * (CHUNK - len(part))
            volumes = self._chunk([codes[k] for k in padded], [seeds[k] for k in padded],
                                  steps, guidance)  # fmt: skip
            subjects += [
                self._subject(volume, labels[k], seeds[k], steps, guidance)
                for k, volume in zip(part, volumes, strict=False)
            ]
        return subjects

    def _chunk(
        self, codes: list[dict[str, float]], seeds: list[int], steps: int, guidance: float
    ) -> np.ndarray:
        """Volumes (B, X, Y, Z) of one chunk."""
        device = self.transformer.device
        wanted = {
            name: torch.tensor([row[name] for row in codes], device=device) for name in codes[0]
        }
        everyone = torch.ones(len(codes), dtype=torch.bool, device=device)
        nothing = drop_labels(self.label_space, wanted, everyone)
        both = {name: torch.cat([wanted[name], nothing[name]]) for name in wanted}

        latents = torch.stack([
            torch.randn(self.transformer.latent_shape, generator=torch.Generator().manual_seed(s))
            for s in seeds
        ]).to(device)  # fmt: skip
        mask = self.codec.mask.to(device)
        self.scheduler.set_timesteps(steps)
        for time in self.scheduler.timesteps:
            if guidance == 1:
                velocity = self.transformer(latents, time.expand(len(latents)).to(device), wanted)
            else:
                twice = torch.cat([latents, latents])
                pair = self.transformer(twice, time.expand(len(twice)).to(device), both)
                asked, free = pair.chunk(2)
                velocity = free + guidance * (asked - free)
            latents = self.scheduler.step(velocity, time, latents).prev_sample
        volumes = self.codec.decode(latents * mask)[:, 0].float().cpu().numpy()
        volumes[volumes < FAINTEST] = 0
        return np.minimum(volumes, LARGEST)

    def _subject(
        self, volume: np.ndarray, labels: Mapping[str, Any], seed: int, steps: int, guidance: float
    ) -> tio.Subject:
        import torchio as tio

        image = tio.ScalarImage(
            tensor=torch.from_numpy(volume[None].copy()), affine=self.grid.affine
        )
        keys: dict[str, Any] = {
            "dataset": "neuromix", "subject_id": f"syn{seed}", "session_id": "", "site": "",
            "age": math.nan, "sex": "", "diagnosis": "", "task": "", "dir": "", "run": "",
            "chunk": "",
        }  # fmt: skip
        keys |= {name: value for name, value in labels.items() if _known(value)}
        source = f"seed={seed},steps={steps},guidance={guidance:g}"
        return tio.Subject(md=image, **keys, synthetic=True, synthetic_id=source)


def _begin(
    cohort: Cohort, config: TiledMDConfig, grid: Grid, work: Path
) -> tuple[SliceBasis, TiledDiT, LatentSet, list[str]]:
    """The codec, a fresh network, the latents of the training subjects and their digests."""
    tiling = Tiling(grid.shape, config.plane)
    rows = label_rows(cohort)
    names = [name for name in config.labels if any(_known(row.get(name)) for row in rows)]
    space = LabelSpace.from_labels(rows, names)
    codec = SliceBasis.fit(lambda: _volumes(cohort), tiling, channels=config.channels)
    path, voxels = _encode(codec, cohort, work / "train.npy")
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        transformer = TiledDiT(
            label_space=space.to_dict(),
            tiling=tiling.to_dict(),
            in_channels=config.channels,
            num_layers=config.layers,
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
        )
    return codec, transformer, LatentSet(path, space, rows), voxels


class LatentSet:
    """Latents on disk and encoded labels, for the training loop; memory holds a batch."""

    def __init__(self, path: Path, space: LabelSpace, rows: Sequence[Mapping[str, Any]]) -> None:
        self.latents = np.load(path, mmap_mode="r")
        codes = [space.encode(_inside(space, row)) for row in rows]
        self.codes = {name: torch.tensor([row[name] for row in codes]) for name in space.names}

    def __len__(self) -> int:
        return len(self.latents)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """Latents (B, C, H, W) and codes; this codec has no noise of its own to draw."""
        latents = np.stack([self.latents[k] for k in indices])
        chosen = list(indices)
        labels = {name: codes[chosen] for name, codes in self.codes.items()}
        return {"latents": torch.from_numpy(latents), "labels": labels}


def common_grid(cohort: Cohort) -> Grid:
    """The one grid of a cohort's MD maps; anything else is refused."""
    import nibabel as nib

    if "md" not in cohort.images:
        raise InputError(
            f"the cohort has {', '.join(cohort.images) or 'no images'} but no md; make MD maps "
            "with `neuromix prepare --what md`"
        )
    first: tuple[str, Grid] | None = None
    for path in cohort.table["md_path"]:
        if not path:
            raise InputError("some subjects have no md; drop them with cohort.where(...)")
        image = nib.load(path)
        x, y, z = image.shape[:3]
        grid = Grid((x, y, z), image.affine)
        if first is None:
            first = (path, grid)
        elif grid != first[1]:
            raise InputError(
                f"{path} has {grid} and {first[0]} has {first[1]}, or they lie elsewhere; bring "
                "them to one grid with `neuromix prepare`"
            )
    if first is None:
        raise InputError("the cohort is empty; name one with subjects")
    return first[1]


def label_rows(cohort: Cohort) -> list[dict[str, Any]]:
    """The labels of each row of a cohort."""
    return [{str(k): v for k, v in row.items()} for row in cohort.table.to_dict("records")]


def _inside(space: LabelSpace, row: Mapping[str, Any]) -> dict[str, Any]:
    """Labels of a row as far as the space knows them; validation subjects may lie outside."""
    labels = {name: row.get(name) for name in space.names}
    for name, values in space.categories.items():
        labels[name] = labels[name] if labels[name] in values else None
    for name, (low, high) in space.ranges.items():
        if _known(labels[name]):
            labels[name] = min(max(float(row[name]), low), high)
    return labels


def _volumes(cohort: Cohort, size: int = 16) -> Iterator[Tensor]:
    """Batches (B, 1, X, Y, Z) of MD maps, read one after the other."""
    subjects = cohort.subjects()
    for start in range(0, len(subjects), size):
        yield torch.stack([_read(subject) for subject in subjects[start : start + size]])


def _read(subject: tio.Subject) -> Tensor:
    import torchio as tio

    # A copy of the image, so that the subject does not keep the data.
    data: Tensor = tio.ScalarImage(subject["md"].path).data.float()
    if not torch.isfinite(data).all():
        raise InputError(f"{subject['md'].path} holds NaN or Inf; mend it or drop the subject")
    return data


def _encode(codec: SliceBasis, cohort: Cohort, path: Path) -> tuple[Path, list[str]]:
    """Write the latents of a cohort, (N, C, H, W), and return digests of its images."""
    digests: list[str] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        writer = None
        for batch in _volumes(cohort):
            latents = codec.encode(batch).numpy()
            if writer is None:
                writer = np.lib.format.open_memmap(
                    temporary, mode="w+", dtype=np.float32, shape=(len(cohort), *latents.shape[1:])
                )
            writer[len(digests) : len(digests) + len(latents)] = latents
            digests += [voxel_hash(volume.numpy()) for volume in batch]
        assert writer is not None
        writer.flush()
    return path, digests


def _known(value: Any) -> bool:
    return value not in (None, "") and not (isinstance(value, float) and math.isnan(value))
