"""Images of people on their way to a completer: read, compared, kept on disk.

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

Pattern = tuple[int, tuple[int, ...]]
"""The image to fill in and its sources, by their numbers."""
Encoder = Callable[[Tensor, Pattern, int], Mapping[str, Tensor]]

BATCH = 8
"""Subjects that are read at a time."""
ALL = 0.5
"""Share of training samples that see every source that a person has; others see some of them."""


class Usual(NamedTuple):
    """What training people's images come to, for each of the M images."""

    mean: Tensor
    """Over those who have brain at a voxel, (M, N, X, Y, Z)."""
    spread: Tensor
    """Standard deviation around it, (M,)."""
    limits: Tensor
    """The least and the largest value, (M, 2)."""
    covariance: Tensor
    """Of channels, over the brain and in units of the spread, (M, N, N)."""
    covered: Tensor
    """Share of those who have the image that have brain at a voxel, (M, X, Y, Z)."""


def together(cohort: Cohort, images: Sequence[str] = MODALITIES) -> Cohort:
    """The rows that have two or more of some images; a cohort without any is refused."""
    table, what = cohort.table, " and ".join(images)
    if not set(images) & set(cohort.images):
        how = "segments" if tuple(images) == MODALITIES else "map"
        raise InputError(
            f"the cohort has {', '.join(cohort.images)}, and none of {what}; make them with "
            f"`neuromix prepare --what {how}`"
        )
    there = [table[f"{name}_path"] != "" for name in images if name in cohort.images]
    chosen = np.sum([each.to_numpy(int) for each in there], axis=0) > 1
    if not chosen.any():
        both = "both" if len(images) == 2 else "two of"
        raise InputError(
            f"no subject of the cohort has {both} {what}; a completer learns from some that do"
        )
    return cohort.where(chosen)


def common_frame(cohort: Cohort, images: Sequence[str] = MODALITIES) -> tuple[Grid, int]:
    """The one grid, and the one number of channels, of a cohort's images; others are refused."""
    import nibabel as nib

    first: tuple[str, Grid, int] | None = None
    columns = [f"{name}_path" for name in images if name in cohort.images]
    for path in (p for column in columns for p in cohort.table[column] if p):
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
    """Channels (N, X, Y, Z) of an image; the subject does not keep what it has not read yet."""
    from neuromix.augment.data.scans import WholeImage

    # One that is in memory may have been changed by a transform.
    image = image if image._loaded or image.path is None else WholeImage(image.path)
    data: Tensor = image.data.float()
    if not torch.isfinite(data).all():
        raise InputError(f"{image.path or name} holds NaN or Inf; mend it or drop the subject")
    return data


def support_of(volumes: Tensor, dim: int = 1) -> Tensor:
    """Where volumes (B, ..., X, Y, Z) have signal in any of a dimension: the brain."""
    return (volumes != 0).any(dim, keepdim=True).float()


class Images:
    """Images on disk, written if absent: an array (subjects, M, N, X, Y, Z) in their own units.

    What a subject lacks is zero, and False in ``there`` (subjects, M).
    """

    def __init__(self, path: Path, cohort: Cohort, images: Sequence[str], channels: int) -> None:
        self.rows = label_rows(cohort)
        paths = [[row.get(f"{name}_path") or "" for name in images] for row in self.rows]
        self.there = np.array([[bool(each) for each in row] for row in paths])
        self.paths = [each for row in paths for each in row if each]
        if not path.is_file():
            first = cohort.subjects()[0]
            sides = next(first[name] for name in images if name in first).spatial_shape
            nothing = np.zeros((channels, *sides), np.float32)
            parts = (
                np.stack([
                    read(subject[name], name).numpy() if name in subject else nothing
                    for name in images
                ])[None]
                for subject in cohort.subjects()
            )  # fmt: skip
            files.write_array(path, len(cohort), parts, np.float32)
        self.array = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.array)

    def digests(self) -> list[str]:
        """A digest of each image."""
        return list(image_hashes(self.paths))

    def having(self, images: Sequence[int]) -> np.ndarray:
        """The subjects who have all of some images."""
        return np.flatnonzero(self.there[:, list(images)].all(axis=1))

    def chosen(self, subjects: Sequence[int]) -> Tensor:
        """Images (B, M, N, X, Y, Z) of some subjects."""
        return torch.from_numpy(np.stack([self.array[k] for k in subjects]))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of all, some subjects at a time, and which are there (B, M)."""
        for start in range(0, len(self), BATCH):
            some = range(start, min(start + BATCH, len(self)))
            yield self.chosen(some), torch.from_numpy(self.there[start : start + BATCH])

    def usual(self) -> Usual:
        """Moments of all images."""
        count, channels, *shape = self.array.shape[1:]
        total, covered = torch.zeros(count, channels, *shape), torch.zeros(count, *shape)
        limits = torch.tensor([[torch.inf, -torch.inf]] * count)
        for images, there in self.batches():
            total += images.sum(0)
            covered += (images != 0).any(2).sum(0)
            for m in range(count):
                values = images[there[:, m], m]
                if len(values):
                    limits[m, 0] = limits[m, 0].minimum(values.min())
                    limits[m, 1] = limits[m, 1].maximum(values.max())
        mean = total / covered.clamp_min(1)[:, None]
        products = torch.zeros(count, channels, channels)
        for images, _ in self.batches():
            rest = (images - mean) * (images != 0).any(2, keepdim=True)
            flat = rest.permute(1, 2, 0, 3, 4, 5).flatten(2)
            products += flat @ flat.mT
        products /= covered.sum((1, 2, 3))[:, None, None].clamp_min(1)
        variance = products.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        people = torch.from_numpy(self.there.sum(axis=0)).clamp_min(1)[:, None, None, None]
        return Usual(
            mean, variance.sqrt(), limits, products / variance[:, None, None], covered / people
        )


class Samples:
    """Training samples by number, which are (subject, image to fill in), for the training loop.

    ``encode`` makes of images (1, M, N, X, Y, Z), a pattern and the number of the subject what the
    sample is, tensors (1, ...) by name. Half of the samples see all sources that a person has, of
    those that ``patterns`` know; the others see some of them.
    """

    def __init__(
        self, images: Images, patterns: Sequence[Pattern], space: LabelSpace, encode: Encoder
    ) -> None:
        self.images, self.encode = images, encode
        best = (
            (subject, largest(patterns, want, images.there[subject].nonzero()[0].tolist()))
            for subject in range(len(images))
            for want in sorted({want for want, _ in patterns}) if images.there[subject, want]
        )  # fmt: skip
        self.items = [(subject, pattern) for subject, pattern in best if pattern]
        self.codes = encode_rows(space, images.rows)

    def __len__(self) -> int:
        return len(self.items)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """What the encoder makes, (B, ...), ``direction`` (B,) and ``labels``."""
        items = [self.items[k] for k in indices]
        parts = []
        for (subject, (want, sources)), generator in zip(items, generators, strict=True):
            draws = torch.rand(2 + len(sources), generator=generator).tolist()
            if draws[0] > ALL:
                kept = [each for each, draw in zip(sources, draws[2:], strict=True) if draw < 0.5]
                sources = tuple(kept) or (sources[int(draws[1] * len(sources))],)
            parts.append(self.encode(self.images.chosen([subject]), (want, sources), subject))
        subjects = [subject for subject, _ in items]
        return {
            **{name: torch.cat([part[name] for part in parts]) for name in parts[0]},
            "direction": torch.tensor([want for _, (want, _) in items]),
            "labels": {name: codes[subjects] for name, codes in self.codes.items()},
        }


def largest(patterns: Sequence[Pattern], want: int, have: Sequence[int]) -> Pattern | None:
    """The pattern of an image with the most of the sources that there are."""
    fitting = [each for each in patterns if each[0] == want and set(each[1]) <= set(have)]
    return max(fitting, key=lambda each: len(each[1]), default=None)
