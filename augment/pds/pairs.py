"""Pairs of modalities on their way to a completer: read, compared, kept on disk.

Memory holds a batch, however large the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neuromix.augment import files
from neuromix.augment.data.cohort import label_rows
from neuromix.augment.data.grid import Grid
from neuromix.augment.data.leakage import image_hashes
from neuromix.augment.diffusion.label_embedding import encode_rows
from neuromix.augment.errors import InputError
from neuromix.augment.pds.config import MODALITIES
from neuromix.augment.pds.dual_modal import DualModalDiffusion

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

BATCH = 8
"""Subjects that are read at a time."""


def paired(cohort: Cohort) -> Cohort:
    """The rows that have both modalities; a cohort without any is refused."""
    if not set(MODALITIES) & set(cohort.images):
        raise InputError(
            f"the cohort has {', '.join(cohort.images)}, neither fmri nor dmri segments; make them "
            "with `neuromix prepare --what segments`"
        )
    absent = [name for name in MODALITIES if name not in cohort.images]
    table = cohort.table
    both = np.zeros(len(table), bool)
    if not absent:
        both = np.logical_and.reduce([table[f"{name}_path"] != "" for name in MODALITIES])
    if not both.any():
        raise InputError(
            "no subject of the cohort has both fmri and dmri; a completer learns from some that do"
        )
    return cohort.where(both)


def common_frame(cohort: Cohort) -> tuple[Grid, int]:
    """The one grid, and the one number of segments, of a cohort's pairs; others are refused."""
    import nibabel as nib

    first: tuple[str, Grid, int] | None = None
    for path in (p for name in MODALITIES for p in cohort.table[f"{name}_path"]):
        image = nib.load(path)
        grid = Grid(image.shape[:3], image.affine)
        segments = image.shape[3] if len(image.shape) > 3 else 1
        if first is None:
            first = (path, grid, segments)
        elif (grid, segments) != first[1:]:
            raise InputError(
                f"{path} has {segments} segments of {grid} and {first[0]} has {first[2]} of "
                f"{first[1]}, or they lie elsewhere; bring them to one grid with `neuromix prepare`"
            )
    assert first is not None
    return first[1], first[2]


def read(image: tio.Image, name: str) -> Tensor:
    """Segments (N, X, Y, Z) of an image; the subject does not keep what it has not read yet."""
    from neuromix.augment.data.scans import WholeImage

    # One that is in memory may have been changed by a transform.
    image = image if image._loaded or image.path is None else WholeImage(image.path)
    data: Tensor = image.data.float()
    if not torch.isfinite(data).all():
        raise InputError(f"{image.path or name} holds NaN or Inf; mend it or drop the subject")
    return data


def support_of(volumes: Tensor) -> Tensor:
    """Where a volume (B, N, X, Y, Z) has signal in any segment, (B, 1, X, Y, Z): the brain."""
    return (volumes != 0).any(1, keepdim=True).float()


class Pairs:
    """Pairs on disk, written if absent: an array (subjects, 2, N, X, Y, Z) in the images' units."""

    def __init__(self, path: Path, cohort: Cohort) -> None:
        if not path.is_file():
            parts = (
                np.stack([read(subject[name], name).numpy() for name in MODALITIES])[None]
                for subject in cohort.subjects()
            )
            files.write_array(path, len(cohort), parts, np.float32)
        self.array = np.load(path, mmap_mode="r")
        self.rows = label_rows(cohort)
        self.paths = [row[f"{name}_path"] for row in self.rows for name in MODALITIES]

    def __len__(self) -> int:
        return len(self.array)

    def digests(self) -> list[str]:
        """A digest of each image."""
        return list(image_hashes(self.paths))

    def batches(
        self, model: DualModalDiffusion, direction: int, subjects: Sequence[int] | None = None
    ) -> Callable[[], Iterator[tuple[Tensor, Tensor, Tensor]]]:
        """Source, target and support of some or all, in units of the modalities' scales."""
        subjects = range(len(self)) if subjects is None else subjects

        def run() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for start in range(0, len(subjects), BATCH):
                yield self.chosen(model, direction, subjects[start : start + BATCH])

        return run

    def chosen(
        self, model: DualModalDiffusion, direction: int, subjects: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Source, target and support of some; the target is zero where the source has nothing."""
        pairs = torch.from_numpy(np.stack([self.array[k] for k in subjects]))
        pairs = pairs / model.scale.cpu()[:, None, None, None, None]
        source = pairs[:, 1 - direction]
        support = support_of(source)
        return source, pairs[:, direction] * support, support


class DenoisingSet:
    """Residuals on disk for PDM's training: sample k is (subject, direction).

    ``means``, given the source, and ``residuals``, of z, are arrays (subjects, directions, N, X, Y,
    Z).
    """

    def __init__(
        self,
        pairs: Pairs,
        model: DualModalDiffusion,
        directions: Sequence[int],
        means: np.ndarray,
        residuals: np.ndarray,
    ) -> None:
        self.pairs, self.model, self.directions = pairs, model, list(directions)
        self.means, self.residuals = means, residuals
        self.codes = encode_rows(model.label_space, pairs.rows)

    def __len__(self) -> int:
        return len(self.pairs) * len(self.directions)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """See :meth:`neuromix.augment.pds.two_stage.SemanticConsistency.loss`."""
        items = [divmod(k, len(self.directions)) for k in indices]
        known, supports, latents = [], [], []
        for subject, which in items:
            source, _, support = self.pairs.chosen(self.model, self.directions[which], [subject])
            mean = torch.from_numpy(np.array(self.means[subject, which], np.float32))[None]
            known.append(self.model.known(source, mean, support))
            supports.append(support)
            latents.append(torch.from_numpy(np.array(self.residuals[subject, which], np.float32)))
        subjects = [subject for subject, _ in items]
        return {
            "latents": torch.stack(latents),
            "known": torch.cat(known),
            "support": torch.cat(supports),
            "direction": torch.tensor([self.directions[which] for _, which in items]),
            "labels": {name: codes[subjects] for name, codes in self.codes.items()},
        }


class BoxSet:
    """Boxes of volumes and their estimates for TR's training: sample k is (subject, direction).

    ``estimates`` are an array (subjects, directions, N, X, Y, Z), ``box`` a side in voxels.
    """

    def __init__(
        self,
        pairs: Pairs,
        model: DualModalDiffusion,
        directions: Sequence[int],
        estimates: np.ndarray,
        box: int,
    ) -> None:
        self.pairs, self.model, self.directions = pairs, model, list(directions)
        self.estimates, self.box = estimates, box
        shape = model.grid.shape
        weight = torch.ones(1, *shape)
        if model.atlas is not None:
            weight = 1 + model.atlas.map()[0].cpu()
        self.weight = weight
        self.averages = [model.regression.prior(d)[0].cpu() for d in self.directions]
        self.deviations = [model.residual.deviation[d].cpu() for d in self.directions]
        place = torch.stack(
            [p.cpu() for p in torch.unravel_index(model.regression.place, shape)], dim=1
        )
        self.places = place  # boxes are cut around voxels that are brain in someone

    def __len__(self) -> int:
        return len(self.pairs) * len(self.directions)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """See :meth:`neuromix.augment.pds.two_stage.Refinement.loss`."""
        columns: dict[str, list[Tensor]] = {}
        for k, generator in zip(indices, generators, strict=True):
            subject, which = divmod(k, len(self.directions))
            direction = self.directions[which]
            cut = self._cut(generator)
            scale = self.model.scale.cpu()
            pair = self.pairs.array[subject]
            source = torch.from_numpy(np.array(pair[1 - direction][cut])) / scale[1 - direction]
            target = torch.from_numpy(np.array(pair[direction][cut])) / scale[direction]
            estimate = np.array(self.estimates[subject, which][cut], np.float32)
            support = support_of(source[None])[0]
            parts = {
                "source": torch.zeros_like(source) if self.model.source_blind else source,
                "target": target * support,
                "estimate": torch.from_numpy(estimate),
                "support": support,
                "average": self.averages[which][cut],
                "deviation": self.deviations[which][cut],
                "weight": self.weight[cut],
                "direction": torch.tensor(direction),
            }
            for name, part in parts.items():
                columns.setdefault(name, []).append(part)
        return {name: torch.stack(parts) for name, parts in columns.items()}

    def _cut(self, generator: torch.Generator) -> tuple[slice, ...]:
        """A random box that lies in the volume."""
        chosen = int(torch.randint(len(self.places), (), generator=generator))
        slices = [slice(None)]
        for middle, side in zip(self.places[chosen].tolist(), self.model.grid.shape, strict=True):
            size = min(self.box, side)
            start = min(max(middle - size // 2, 0), side - size)
            slices.append(slice(start, start + size))
        return tuple(slices)
