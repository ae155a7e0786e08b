"""Pairs of modalities on their way to a completer: read, compared, kept on disk.

Memory holds a batch, however large the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort
    from neuromix.augment.data.conditions import LabelSpace

Encoder = Callable[[Tensor, int, int], Mapping[str, Tensor]]

BATCH = 8
"""Subjects that are read at a time."""


class Usual(NamedTuple):
    """What training pairs come to, for each of the two modalities."""

    mean: Tensor
    """Over those who have brain at a voxel, (2, N, X, Y, Z)."""
    spread: Tensor
    """Standard deviation around it, (2,)."""
    limits: Tensor
    """The least and the largest value, (2, 2)."""
    covariance: Tensor
    """Of segments, over the brain and in units of the spread, (2, N, N)."""
    covered: Tensor
    """Share of people who have brain at a voxel, (2, X, Y, Z)."""


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
    """Segments (N, X, Y, Z) of an image; the subject does not keep them."""
    from neuromix.augment.data.scans import WholeImage

    image = WholeImage(image.path) if image.path is not None else image
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

    def chosen(self, subjects: Sequence[int]) -> Tensor:
        """Pairs (B, 2, N, X, Y, Z) of some."""
        return torch.from_numpy(np.stack([self.array[k] for k in subjects]))

    def batches(self) -> Iterator[Tensor]:
        """Pairs of all, some at a time."""
        for start in range(0, len(self), BATCH):
            yield self.chosen(range(start, min(start + BATCH, len(self))))

    def usual(self) -> Usual:
        """Moments of both modalities."""
        modalities, segments, *shape = self.array.shape[1:]
        total, count = torch.zeros(modalities, segments, *shape), torch.zeros(modalities, *shape)
        limits = torch.tensor([[torch.inf, -torch.inf]] * modalities)
        for pairs in self.batches():
            total += pairs.sum(0)
            count += (pairs != 0).any(2).sum(0)
            values = pairs.transpose(0, 1).flatten(1)
            limits[:, 0] = limits[:, 0].minimum(values.amin(1))
            limits[:, 1] = limits[:, 1].maximum(values.amax(1))
        mean = total / count.clamp_min(1)[:, None]
        products = torch.zeros(modalities, segments, segments)
        for pairs in self.batches():
            rest = (pairs - mean) * (pairs != 0).any(2, keepdim=True)
            flat = rest.permute(1, 2, 0, 3, 4, 5).flatten(2)
            products += flat @ flat.mT
        products /= count.sum((1, 2, 3))[:, None, None]
        variance = products.diagonal(dim1=1, dim2=2).mean(1)
        scaled = products / variance[:, None, None]
        return Usual(mean, variance.sqrt(), limits, scaled, count / len(self))


class Samples:
    """Training samples by number, which are (subject, direction), for the training loop.

    ``encode`` makes of pairs (1, 2, N, X, Y, Z), a direction and the number of the subject what the
    sample is, tensors (1, ...) by name.
    """

    def __init__(
        self, pairs: Pairs, directions: Sequence[int], space: LabelSpace, encode: Encoder
    ) -> None:
        self.pairs, self.directions, self.encode = pairs, list(directions), encode
        self.codes = encode_rows(space, pairs.rows)

    def __len__(self) -> int:
        return len(self.pairs) * len(self.directions)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """What the encoder makes, (B, ...), ``direction`` (B,) and ``labels``."""
        items = [divmod(k, len(self.directions)) for k in indices]
        parts = [
            self.encode(self.pairs.chosen([subject]), self.directions[which], subject)
            for subject, which in items
        ]
        subjects = [subject for subject, _ in items]
        return {
            **{name: torch.cat([part[name] for part in parts]) for name in parts[0]},
            "direction": torch.tensor([self.directions[which] for _, which in items]),
            "labels": {name: codes[subjects] for name, codes in self.codes.items()},
        }
