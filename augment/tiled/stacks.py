"""Maps as stacks of slices for the denoiser: kept on disk, and what is fitted to them at once.

Codec and priors are made of training people in closed form, once, and kept in the folder of a fit;
people of one fold are served by the priors of the others while the network trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState

from neuromix.augment import files
from neuromix.augment.data.cohort import label_rows
from neuromix.augment.data.grid import left_right_axis
from neuromix.augment.diffusion.augmentation import MOVES, PARAMETERS, augment
from neuromix.augment.diffusion.cross_fitting import fit_priors
from neuromix.augment.diffusion.denoiser import Denoiser, PriorFlow
from neuromix.augment.diffusion.fitting import Job
from neuromix.augment.diffusion.label_embedding import encode_rows, label_features
from neuromix.augment.diffusion.prior import Prior
from neuromix.augment.diffusion.resolution import budget_of, settings_of
from neuromix.augment.tiled.codec import VolumeCodec, codec_of
from neuromix.augment.tiled.config import TiledMDConfig
from neuromix.augment.tiled.mosaic import PLANES, volumes

if TYPE_CHECKING:
    from neuromix.augment.data.cohort import Cohort
    from neuromix.augment.data.conditions import LabelSpace
    from neuromix.augment.data.grid import Grid

MOST = 600
"""People that priors are made of; more change little and need memory."""


class StackSet:
    """Stacks on disk, (N, L, H, W), with labels and folds, for the training loop."""

    def __init__(
        self,
        path: Path,
        space: LabelSpace,
        rows: Sequence[Mapping[str, Any]],
        folds: np.ndarray,
        augmented: bool,
        contrast: int,
    ) -> None:
        self.stacks = np.load(path, mmap_mode="r")
        self.codes = encode_rows(space, rows)
        self.folds = torch.from_numpy(folds)
        self.augmented, self.contrast = augmented, contrast

    def __len__(self) -> int:
        return len(self.stacks)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """Stacks (B, L, H, W), codes of the labels, parameters of the augmentation, folds."""
        stacks, parameters = [], []
        for index, generator in zip(indices, generators, strict=True):
            stack = torch.from_numpy(np.array(self.stacks[index])).float()
            change = torch.zeros(PARAMETERS)
            if self.augmented:
                stack, change = augment(stack, generator, self.contrast)
            stacks.append(stack)
            parameters.append(change)
        chosen = list(indices)
        return {
            "latents": torch.stack(stacks),
            "labels": {name: codes[chosen] for name, codes in self.codes.items()},
            "parameters": torch.stack(parameters),
            "fold": self.folds[chosen],
        }


def fit_statistics(
    job: Job, space: LabelSpace, grid: Grid, progress: bool
) -> tuple[VolumeCodec, list[Prior]]:
    """The codec and the priors, of all people and of the folds; kept ones are only loaded."""
    config, cohort, folder = job.config, job.cohorts[0], job.work / "statistics"
    if not folder.is_dir():
        if progress:
            print(f"fitting {config.folds + 1} priors to {len(cohort)} scans", flush=True)
        codec, priors = make_statistics(cohort, config, space, grid)
        with files.replacing_folder(folder) as made:
            codec.save_pretrained(made / "codec")
            for number, prior in enumerate(priors):
                prior.save_pretrained(made / f"prior-{number}")
    count = len(list(folder.glob("prior-*")))
    loaded = [Prior.from_pretrained(folder / f"prior-{number}") for number in range(count)]
    return VolumeCodec.from_pretrained(folder / "codec"), loaded


def make_statistics(
    cohort: Cohort, config: TiledMDConfig, space: LabelSpace, grid: Grid
) -> tuple[VolumeCodec, list[Prior]]:
    """A codec and priors of training people."""
    few, codec, stacks, features, settings = _prepared(cohort, config, space, grid)
    if config.prior == "none":
        plain = Prior(**settings | {"share": list(codec.padded), "reach": [0, 0, 0], "sites": 1})
        plain.fit_plain(stacks, codec.inside)
        return codec, [plain]
    folds = torch.from_numpy(folds_of(few, config.folds, config.training.seed))
    generator = torch.Generator().manual_seed(config.training.seed)
    priors = fit_priors(settings, stacks, codec.inside, features, folds, generator)
    return codec, priors


def budget(
    cohort: Cohort, few: Cohort, config: TiledMDConfig, space: LabelSpace, grid: Grid
) -> tuple[float, float]:
    """GiB of memory that the priors of a cohort take, and MB of one; ``few`` of it are read."""
    _, _, _, _, settings = _prepared(few, config, space, grid)
    return budget_of(settings, min(len(cohort), MOST), config.folds)


def _prepared(
    cohort: Cohort, config: TiledMDConfig, space: LabelSpace, grid: Grid
) -> tuple[Cohort, VolumeCodec, torch.Tensor, torch.Tensor | None, dict[str, Any]]:
    """Those whom priors are made of, their codec, stacks and features, and the priors' settings."""
    rows = np.unique(np.linspace(0, len(cohort) - 1, min(len(cohort), MOST)).astype(int))
    few = cohort.where(np.isin(np.arange(len(cohort)), rows))
    maps = torch.from_numpy(few.volumes(config.image))[:, None]
    multiples = (min(config.depth, grid.shape[PLANES[config.plane]]), config.token, config.token)
    codec = codec_of(maps, config.plane, multiples, config.image)
    stacks = codec.encode(maps)
    sides = list(grid.spacing)
    spacing = [sides.pop(codec.axis), *sides]
    codes = encode_rows(space, label_rows(few))
    features = label_features(space, codes) if space.names else None
    settings = settings_of(
        codec.padded, spacing, codec.inside, 0 if features is None else features.shape[1]
    )
    return few, codec, stacks, features, settings


def folds_of(cohort: Cohort, folds: int, seed: int) -> np.ndarray:
    """A fold for each row, the same for all scans of a person."""
    keys = sorted(cohort.subject_keys)
    order = np.random.default_rng(seed).permutation(len(keys))
    number = {key: int(place) % folds for key, place in zip(keys, order, strict=True)}
    rows = cohort.table[["dataset", "subject_id"]].itertuples(index=False, name=None)
    return np.array([number[row] for row in rows])


def stack_set(job: Job, space: LabelSpace, codec: VolumeCodec, number: int, path: Path) -> StackSet:
    """The stacks of a cohort of a job; training people have folds and are augmented."""
    cohort, config, training = job.cohorts[number], job.config, number == 0
    nobody = np.full(len(cohort), -1)
    folds = folds_of(cohort, config.folds, config.training.seed) if training else nobody
    if config.prior == "none":
        folds = nobody
    return StackSet(
        path, space, label_rows(cohort), folds, training and config.augment,
        codec.room[0] if codec.config["levelled"] else 0,
    )  # fmt: skip


def write_stacks(codec: VolumeCodec, cohort: Cohort, image: str, path: Path) -> None:
    """Write the stacks of a cohort, one after the other."""
    parts = (codec.encode(batch).numpy() for batch in volumes(cohort, image))
    files.write_array(path, len(cohort), parts, np.float16)


def begin_denoiser(
    config: TiledMDConfig,
    space: LabelSpace,
    codec: VolumeCodec,
    priors: Sequence[Prior],
    grid: Grid,
    people: np.ndarray | None = None,
) -> tuple[Denoiser, PriorFlow]:
    """A denoiser that knows what the first prior knows, and its objective.

    It holds the stacks of ``people`` (N, L, H, W), if there are any, for patches.
    """
    slices = codec.padded[0]
    network = config.network | {"depth": min(config.depth, slices)}
    settings = {k: v for k, v in priors[0].config.items() if not k.startswith("_")}
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        denoiser = Denoiser(
            label_space=space.to_dict(), prior_settings=settings,
            parameters=PARAMETERS + MOVES * config.augment,
            network_settings=network if config.training.steps else {}, guide=config.guide,
            has_early=config.early > 0, interval=config.interval,
            held=0 if people is None else len(people),
        )  # fmt: skip
    if people is not None:
        denoiser.people.copy_(torch.from_numpy(people))
    denoiser.prior.load_state_dict(priors[0].state_dict())
    device = PartialState().device
    # Of a stack's axes, the one from left to right, if slices are not cut across it.
    in_plane = [axis for axis in range(3) if axis != codec.axis]
    sides = left_right_axis(grid.affine)
    mirrored = in_plane.index(sides) - 2 if sides in in_plane else None
    objective = PriorFlow(
        denoiser, priors[1:], config.label_dropout, moved=config.augment, mirrored=mirrored
    )
    return denoiser.to(device), objective
