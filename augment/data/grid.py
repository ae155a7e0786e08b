"""The common space: a grid in MNI millimetres, and how images get there and back.

The template is MNI152 NLin2009aSym, which is inside nilearn; images that came in another space of
MNI152 keep its name. The standard field of view is 160 x 192 x 160 mm around the brain; sides are
multiples of eight voxels, so that patches, strides and tiles divide them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from neuromix.augment.errors import InputError

SPACE = "MNI152NLin2009aSym"
"""What is registered to the template lies in this space."""
FIELD_OF_VIEW = (160.0, 192.0, 160.0)
CENTRE = (0.0, -17.0, 5.0)
SIGNAL = 0.02
"""Voxels below this share of the bright ones (95th percentile) are background."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in world millimetres.

    Args:
        shape: Voxels along x, y and z.
        affine: Voxel to world, (4, 4).
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def mni(cls, spacing: float) -> Grid:
        """The standard field of view at a spacing in mm, axes along right, anterior, superior."""
        if not 0 < spacing < np.inf:
            raise InputError(f"a spacing of {spacing} mm makes no grid; give more than 0")
        sides = [int(np.ceil(side / spacing / 8) * 8) for side in FIELD_OF_VIEW]
        affine = np.diag([spacing, spacing, spacing, 1.0])
        affine[:3, 3] = np.array(CENTRE) - spacing * (np.array(sides) - 1) / 2
        return cls((sides[0], sides[1], sides[2]), affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sides in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Grid)
            and self.shape == other.shape
            and np.allclose(self.affine, other.affine, atol=1e-3)
        )

    def __str__(self) -> str:
        sides = " x ".join(map(str, self.shape))
        return f"{sides} voxels of {' x '.join(f'{s:g}' for s in self.spacing)} mm"

    def pooled(self, factors: Sequence[int]) -> Grid:
        """The grid of means over blocks of so many voxels; what makes no whole block is left."""
        steps = np.array(factors)
        affine = self.affine @ np.diag([*steps.astype(float), 1.0])
        affine[:3, 3] += self.affine[:3, :3] @ ((steps - 1) / 2)
        x, y, z = (int(side) for side in np.array(self.shape) // steps)
        return Grid((x, y, z), affine)

    def respaced(self, spacing: float) -> Grid:
        """The same field of view and axes in cubes of so many mm."""
        counts = np.maximum(np.round(np.array(self.shape) * self.spacing / spacing), 1).astype(int)
        x, y, z = (int(count) for count in counts)
        axes = self.affine[:3, :3] / self.spacing * spacing
        affine = np.eye(4)
        affine[:3, :3] = axes
        middle = self.affine[:3, :3] @ ((np.array(self.shape) - 1) / 2) + self.affine[:3, 3]
        affine[:3, 3] = middle - axes @ ((counts - 1) / 2)
        return Grid((x, y, z), affine)

    def points(self) -> np.ndarray:
        """World coordinates of all voxels, (3, X, Y, Z) in mm."""
        index = np.indices(self.shape, dtype=np.float32)
        affine = self.affine.astype(np.float32)
        rotation, origin = affine[:3, :3], affine[:3, 3]
        return np.einsum("ij,jxyz->ixyz", rotation, index) + origin[:, None, None, None]

    def to_dict(self) -> dict[str, Any]:
        """Plain content for a JSON file."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Grid:
        """Inverse of :meth:`to_dict`."""
        x, y, z = content["shape"]
        return cls((x, y, z), np.array(content["affine"], dtype=float))


COARSE = Grid.mni(4.0)
"""Where images are compared: 2 mm took four times as long on real T1s and gained nothing."""


def left_right_axis(affine: np.ndarray) -> int:
    """The voxel axis along left and right, or nearest to it.

    Of the identity, TorchIO's affine of an image that tells none, it is the first one.
    """
    from nibabel.orientations import io_orientation

    world = io_orientation(affine)[:, 0]
    if not (world == 0).any():
        raise InputError(f"the affine {np.asarray(affine).tolist()} has no axis along left-right")
    return int((world == 0).argmax())


def bright(volume: np.ndarray) -> np.ndarray:
    """Where there is signal: compression leaves faint noise in backgrounds of zeros."""
    strength = np.abs(volume)
    signal = strength > 0
    shown: np.ndarray = signal & (
        strength > SIGNAL * np.percentile(strength[signal], 95) if signal.any() else signal
    )
    return shown


def resample(
    data: np.ndarray,
    source: Grid,
    target: Grid,
    *,
    transform: np.ndarray | None = None,
    order: int = 1,
) -> np.ndarray:
    """Move an image (X, Y, Z) or (X, Y, Z, T) from one grid to another, as float32.

    Where the target is coarser, the image is smoothed first (a Gaussian of half the ratio), so that
    nothing aliases. Outside the source the value is zero. ``transform`` (4, 4) leads from the world
    of the target to that of the source, by default the same; a spline order of 0 is for label
    images, which are not smoothed.
    """
    if source == target and transform is None:
        return np.asarray(data, dtype=np.float32)
    world = np.eye(4) if transform is None else transform
    matrix = np.linalg.inv(source.affine) @ world @ target.affine
    step = np.linalg.norm(matrix[:3, :3], axis=1)  # source voxels per target voxel, by source axis
    sigma = np.where(step > 1, np.sqrt(np.maximum(step**2 - 1, 0)) / 2.355, 0.0)
    frames = data[..., None] if data.ndim == 3 else data
    result = np.empty((*target.shape, frames.shape[3]), dtype=np.float32)
    for t in range(frames.shape[3]):
        frame = frames[..., t].astype(np.float32)
        if order > 0 and sigma.any():
            frame = ndimage.gaussian_filter(frame, sigma)
        # In mode "constant" a rounding error of 1e-9 at the border would turn its voxels to zero.
        result[..., t] = ndimage.affine_transform(
            frame, matrix[:3, :3], matrix[:3, 3], target.shape, order=order, mode="grid-constant"
        )
    return result[..., 0] if data.ndim == 3 else result


@functools.lru_cache(maxsize=1)
def template() -> tuple[dict[str, np.ndarray], Grid]:
    """The MNI152 template at 1 mm: maps ``t1``, ``gm``, ``wm``, ``brain`` in [0, 1], and its grid.

    Ships inside nilearn, so nothing is downloaded.
    """
    from nilearn import datasets

    t1 = datasets.load_mni152_template(resolution=1)
    maps = {
        "t1": t1.get_fdata(dtype=np.float32),
        "gm": datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32),
        "wm": datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32),
    }
    brain = datasets.load_mni152_brain_mask(resolution=1)
    maps["brain"] = brain.get_fdata(dtype=np.float32)
    x, y, z = t1.shape
    return maps, Grid((x, y, z), t1.affine)


@functools.lru_cache(maxsize=8)
def _template_on(key: tuple[tuple[int, int, int], bytes]) -> dict[str, np.ndarray]:
    shape, affine = key
    maps, source = template()
    target = Grid(shape, np.frombuffer(affine).reshape(4, 4))
    return {name: resample(data, source, target) for name, data in maps.items()}


def template_on(grid: Grid) -> dict[str, np.ndarray]:
    """The template's maps on a grid (cached; do not write into them)."""
    return _template_on((grid.shape, np.asarray(grid.affine, dtype=float).tobytes()))
