"""Volumes as mosaics: all slices of one plane laid out in a single image, and back without loss.

A network for images (a pretrained DiT) then sees a whole volume at once. Slices fill the mosaic row
by row::

    0  1  2
    3  4  5        seven slices in 3 x 3 slots; the two spare slots hold a constant
    6  .  .

Each slice is padded at its end to sides that are multiples of 16 pixels: the autoencoder's factor 8
times the network's patch 2, so that no token straddles two slices and none lies wholly in padding.
Latents are tiled the same way, after each slice was encoded by itself, so that no receptive field
reaches into the neighbouring tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    import torch

    from neuromix.augment.data.cohort import Cohort

BATCH = 16
"""Volumes that are read at a time."""
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Voxel axis along which the slices of a plane are stacked, in a volume whose axes run right,
anterior, superior (in either direction)."""


@dataclass(frozen=True)
class Tiling:
    """How a volume of one shape is laid out as a mosaic.

    Orientation: voxel axes are kept as they are, nothing is flipped, turned or resampled. A slice
    is what indexing gives: ``volume[:, :, k]`` (axial), ``volume[:, k, :]`` (coronal) or
    ``volume[k, :, :]`` (sagittal), its first axis down the rows of the tile. The affine of a volume
    is therefore the affine of what :meth:`from_slices` gives back; keep it beside the tiling. (An
    image viewer, which puts superior or anterior on top, shows the tiles turned.)

    Args:
        shape: Voxels along x, y and z.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        multiple: Sides of a tile are multiples of this, in pixels.
    """

    shape: tuple[int, int, int]
    plane: str = "axial"
    multiple: int = 16

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise InputError(f"plane {self.plane!r} is not known; allowed are {', '.join(PLANES)}")
        if len(self.shape) != 3 or min(self.shape) < 1 or self.multiple < 1:
            raise InputError(
                f"shape {tuple(self.shape)} in multiples of {self.multiple} cannot be tiled; "
                "give three sides (X, Y, Z) and a multiple of at least 1"
            )

    @property
    def axis(self) -> int:
        """The voxel axis along which slices are stacked."""
        return PLANES[self.plane]

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.shape[self.axis]

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Voxels of a slice before padding."""
        rows, columns = (side for axis, side in enumerate(self.shape) if axis != self.axis)
        return rows, columns

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Pixels of a tile: a slice padded to multiples."""
        rows, columns = (math.ceil(side / self.multiple) for side in self.slice_shape)
        return rows * self.multiple, columns * self.multiple

    @cached_property
    def layout(self) -> tuple[int, int]:
        """Rows and columns of tiles: the shortest longer side, and of those the fewest slots."""
        height, width = self.tile_shape

        def sides(columns: int) -> tuple[int, int]:
            rows = math.ceil(self.count / columns)
            return max(rows * height, columns * width), rows * columns

        columns = min(range(self.count, 0, -1), key=sides)  # on a tie rather wide than tall
        return math.ceil(self.count / columns), columns

    @property
    def mosaic_shape(self) -> tuple[int, int]:
        """Pixels of the mosaic."""
        (rows, columns), (height, width) = self.layout, self.tile_shape
        return rows * height, columns * width

    def slices(self, volume: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        """Take volumes (B, C, X, Y, Z) apart into padded slices (B * S, C, h, w)."""
        return self._split(volume, fill).movedim(2, 1).flatten(0, 1)

    def from_slices(self, slices: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`slices`: (B * S, C, h, w) to (B, C, X, Y, Z)."""
        self._check("slices", slices.shape[-2:], self.tile_shape)
        return self._stack(slices.unflatten(0, (-1, self.count)).movedim(1, 2))

    def tile_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Lay the latents of slices (B, S, C, h / f, w / f) out as a mosaic (B, C, H / f, W / f).

        The autoencoder's factor f divides the tile; spare slots are zero.
        """
        self._check("latents", latents.shape[1:2], (self.count,))
        self._check_latents(latents.shape[-2:], self.tile_shape)
        return self._join(latents.movedim(1, 2), 0.0)

    def untile_latents(self, mosaic: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`tile_latents`: (B, C, H / f, W / f) to (B, S, C, h / f, w / f)."""
        self._check_latents(mosaic.shape[-2:], self.mosaic_shape)
        return self._cut(mosaic).movedim(2, 1)

    def token_positions(self, patch: int) -> np.ndarray:
        """Where each token of ``patch`` pixels a side lies in the volume, (N, 3).

        Tokens run along the rows of the mosaic. Row in the slice, column in the slice, slice;
        tokens of spare slots have slice numbers from :attr:`count` on.
        """
        height, width = (side // patch for side in self.tile_shape)
        if (height * patch, width * patch) != self.tile_shape:
            raise InputError(
                f"tiles of {self.tile_shape[0]} x {self.tile_shape[1]} px do not divide into "
                f"tokens of {patch} px; give Tiling(multiple={patch}) or a multiple of it"
            )
        rows, columns = self.layout
        row, column = np.indices((rows * height, columns * width))
        index = row // height * columns + column // width
        return np.stack([row % height, column % width, index], axis=-1).reshape(-1, 3)

    def token_mask(self, patch: int) -> np.ndarray:
        """Which tokens of the mosaic hold a slice: booleans (N,)."""
        return self.token_positions(patch)[:, 2] < self.count

    def to_dict(self) -> dict[str, Any]:
        """Plain content for a JSON config."""
        return {"shape": list(self.shape), "plane": self.plane, "multiple": self.multiple}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Tiling:
        """Inverse of :meth:`to_dict`."""
        x, y, z = content["shape"]
        return cls((x, y, z), content["plane"], content["multiple"])

    def _split(self, volume: torch.Tensor, fill: float) -> torch.Tensor:
        """Volume (..., X, Y, Z) to padded slices (..., S, h, w)."""
        self._check("volume", volume.shape[-3:], self.shape)
        slices = volume.movedim(self.axis - 3, -3)
        return _pad(slices, (*slices.shape[:-2], *self.tile_shape), fill)

    def _stack(self, slices: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`_split`."""
        rows, columns = self.slice_shape
        return slices[..., :rows, :columns].movedim(-3, self.axis - 3)

    def _join(self, tiles: torch.Tensor, fill: float) -> torch.Tensor:
        """Tiles (..., S, h, w) to mosaic (..., rows * h, columns * w)."""
        rows, columns = self.layout
        *batch, _, height, width = tiles.shape
        slots = _pad(tiles, (*batch, rows * columns, height, width), fill)
        grid = slots.unflatten(-3, (rows, columns)).transpose(-3, -2)
        return grid.reshape(*batch, rows * height, columns * width)

    def _cut(self, mosaic: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`_join`."""
        rows, columns = self.layout
        *batch, height, width = mosaic.shape
        grid = mosaic.reshape(*batch, rows, height // rows, columns, width // columns)
        return grid.transpose(-3, -2).flatten(-4, -3)[..., : self.count, :, :]

    def _check(self, what: str, came: Sequence[int], allowed: Sequence[int]) -> None:
        if tuple(came) != tuple(allowed):
            raise InputError(
                f"{what} of shape {tuple(came)} came; this tiling of {tuple(self.shape)} in "
                f"{self.plane} slices takes {tuple(allowed)}"
            )

    def _check_latents(self, came: Sequence[int], pixels: tuple[int, int]) -> None:
        factors = {side / latent for side, latent in zip(pixels, came, strict=True) if latent}
        if len(factors) != 1 or not factors.pop().is_integer():
            raise InputError(
                f"latents with sides {tuple(came)} came; this tiling takes {pixels} divided by "
                "the autoencoder's factor"
            )


def _pad(tensor: torch.Tensor, shape: Sequence[int], fill: float) -> torch.Tensor:
    """Append constant values up to a shape."""
    padded = tensor.new_full(shape, fill)
    padded[tuple(slice(side) for side in tensor.shape)] = tensor
    return padded


def volumes(cohort: Cohort, image: str, size: int = BATCH) -> Iterator[torch.Tensor]:
    """Batches (B, 1, X, Y, Z) of maps, read one after the other."""
    import torch

    numbers = np.arange(len(cohort))
    for start in range(0, len(cohort), size):
        batch = cohort.where((numbers >= start) & (numbers < start + size))
        yield torch.from_numpy(batch.volumes(image))[:, None]
