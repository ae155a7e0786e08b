"""Smooth random anatomy: the MNI152 tissue template, deformed anew for every subject.

A subject's tissue maps are the template's, read at read_points points:

    p(x) = template(A x + u(x)),   u = random + sex + petalia + ventricles + hippocampi

``A`` is the size of the head (registration is rigid in this phantom's world, so size survives),
``random`` a sum of cubic B-spline fields at three scales (lobes, gyri, folds), ``petalia`` the
population's left-right asymmetry that the symmetric template lacks, and the last two widen the
ventricles and shrink the hippocampi along the gradient of their smoothed masks. Atrophy of the
cortex turns a share of grey matter into CSF.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import BSpline

from neuromix.augment.data.grid import FIELD_OF_VIEW, Grid, template

TISSUES = ("gm", "wm", "csf")
WARP_SCALES = ((36.0, 2.0), (18.0, 1.4), (10.0, 0.8))
"""Random deformation: distance of control points and their standard deviation, both in mm."""


@dataclass(frozen=True)
class Shape:
    """What decides the form of one brain. Lengths are in mm."""

    size: float = 1.0
    """Length relative to the template."""
    sex_warp: float = 0.0
    """Strength of the average male (positive) or female (negative) form."""
    petalia: float = 1.0
    """Strength of the population's asymmetry; 0 is symmetric on average."""
    ventricles: float = 0.0
    """How far the walls of the ventricles have moved outward."""
    hippocampi: float = 0.0
    """How far the surface of the hippocampi has moved inward."""
    atrophy: float = 0.05
    """Share of cortical grey matter that has turned into CSF."""


class Anatomy:
    """Draws tissue maps on one grid of the standard field of view."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.points = grid.points()
        maps, fine = template()
        csf = np.clip(template_brain() - maps["gm"] - maps["wm"], 0, 1)
        # Voxels are coarser than the template: blur it to their size before it is read at points.
        blur = np.sqrt(max(grid.spacing[0] ** 2 - 1, 0)) / 2.355
        self._template = {
            name: ndimage.gaussian_filter(data, blur)
            for name, data in zip(TISSUES, (maps["gm"], maps["wm"], csf), strict=True)
        }
        self._origin = fine.affine[:3, 3].astype(np.float32)
        # No brain reaches further than 16 mm from the template's: the rest is never read.
        self._near = np.ones(grid.shape, dtype=bool)
        brain = self._read(template_brain(), self.points) > 0
        reach = int(np.ceil(16 / grid.spacing[0]))
        self._near = ndimage.binary_dilation(brain, iterations=reach)
        self.toward_ventricles = self._pull(template_ventricles(), 6.0)
        self._toward_hippocampi = self._pull(template_hippocampi(), 4.0)
        self._splines = [
            [spline_matrix(self.points, axis, scale) for axis in range(3)]
            for scale, _ in WARP_SCALES
        ]
        # The average sex difference and the asymmetry are facts of the population, so they have
        # seeds of their own that no cohort's seed changes.
        self._sex_warp = self.smooth_warp(np.random.default_rng(101), (1.0, 1.0, 0.0))
        self._petalia = self._petalia_warp()
        direction = self.smooth_warp(np.random.default_rng(103), (1.0, 1.0, 0.0))
        self.fibres = direction / np.maximum(np.linalg.norm(direction, axis=0), 1e-3)
        """Direction of white-matter fibres, unit vectors (3, X, Y, Z)."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Tissue maps of one subject: ``gm``, ``wm``, ``csf``, each (X, Y, Z) in [0, 1].

        Two further maps, ``hippocampi`` and ``ventricles``, say where these structures lie.
        """
        points = self.read_points(shape, self.smooth_warp(rng, (1.0, 1.0, 1.0)))
        maps = {name: self._read(data, points) for name, data in self._template.items()}
        lost = np.clip(shape.atrophy * (1 + 0.5 * self.smooth_map(rng, 1)), 0, 0.6)
        maps["deep"] = self._read(template_deep(), points)
        lost = lost * (1 - maps["deep"])
        maps["csf"] = maps["csf"] + lost * maps["gm"]
        maps["gm"] = (1 - lost) * maps["gm"]
        maps["ventricles"] = self._read(template_ventricles(), points)
        maps["hippocampi"] = self._read(template_hippocampi(), points)
        return maps

    def read_points(
        self,
        shape: Shape,
        warp: np.ndarray,
        sex: np.ndarray | float = 1.0,
        ventricles: np.ndarray | float = 1.0,
        hippocampi: np.ndarray | float = 1.0,
    ) -> np.ndarray:
        """Where in the template each voxel of a brain is read, (3, X, Y, Z) in mm.

        ``warp`` is this brain's random displacement; the last three weigh a cause by place.
        """
        displacement = warp + sex * shape.sex_warp * self._sex_warp
        displacement += shape.petalia * self._petalia
        displacement += ventricles * shape.ventricles * self.toward_ventricles
        displacement -= hippocampi * shape.hippocampi * self._toward_hippocampi
        return np.asarray(self.points / shape.size + displacement)

    def volumes(self, maps: dict[str, np.ndarray]) -> dict[str, float]:
        """Volumes in ml that a subject's maps hold."""
        voxel = float(np.prod(self.grid.spacing)) / 1000
        brain = maps["gm"] + maps["wm"] + maps["csf"]
        structures = {
            "brain_ml": brain,
            "ventricles_ml": maps["ventricles"],
            "hippocampi_ml": maps["hippocampi"],
        } | {f"{name}_ml": maps[name] for name in ("cortex", "lesions") if name in maps}
        return {name: round(voxel * float(part.sum()), 2) for name, part in structures.items()}

    def smooth_warp(
        self, rng: np.random.Generator, weights: tuple[float, float, float]
    ) -> np.ndarray:
        """A random displacement (3, X, Y, Z) in mm, its three scales weighted."""
        field = np.zeros((3, *self.grid.shape), dtype=np.float32)
        for (_, deviation), weight, splines in zip(
            WARP_SCALES, weights, self._splines, strict=True
        ):
            control = rng.standard_normal((3, *(matrix.shape[1] for matrix in splines)))
            if weight:
                field += weight * deviation * expand(control.astype(np.float32), splines)
        return field

    def smooth_map(self, rng: np.random.Generator, scale: int) -> np.ndarray:
        """A random smooth scalar map (X, Y, Z) of unit variance at one of the three scales."""
        splines = self._splines[scale]
        control = rng.standard_normal((1, *(matrix.shape[1] for matrix in splines)))
        return expand(control.astype(np.float32), splines)[0]

    def blob(self, centre: tuple[float, float, float], radius: float) -> np.ndarray:
        """A Gaussian bump (X, Y, Z) of height one at a world coordinate."""
        offset = self.points - np.array(centre, dtype=np.float32)[:, None, None, None]
        return np.exp(-0.5 * (offset**2).sum(0) / radius**2)

    def _petalia_warp(self) -> np.ndarray:
        """Right frontal and left occipital lobes reach further out (Yakovlevian torque)."""
        x, y, _ = self.points
        side = np.tanh(x / 15)
        reach = 3.0 * side * np.tanh(y / 40)
        warp = np.zeros_like(self.points)
        # Points are read from nearer the centre where the lobe is larger.
        warp[1] = -reach * np.sign(y) * np.minimum(np.abs(y) / 40, 1)
        warp[0] = -0.5 * reach * np.sign(x)
        return warp

    def _read(self, data: np.ndarray, points: np.ndarray) -> np.ndarray:
        # The template has 1 mm voxels, so a shift of the origin turns mm into its indices.
        index = points[:, self._near] - self._origin[:, None]
        result = np.zeros(self.grid.shape, dtype=np.float32)
        result[self._near] = ndimage.map_coordinates(data, index, order=1, output=np.float32)
        return result

    def _pull(self, mask: np.ndarray, sigma: float) -> np.ndarray:
        """The gradient of the smoothed mask, at most one long: points into the structure."""
        smooth = ndimage.gaussian_filter(mask, sigma, truncate=3)
        gradient = np.stack([self._read(part, self.points) for part in np.gradient(smooth)])
        return gradient / np.linalg.norm(gradient, axis=0).max()


@functools.lru_cache(maxsize=2)
def anatomy_at(spacing: float) -> Anatomy:
    """Seconds of work that cohorts of one spacing share."""
    return Anatomy(Grid.mni(spacing))


@functools.cache
def template_brain() -> np.ndarray:
    """The template's brain with the cisterns below it filled, which its mask leaves out."""
    maps, _ = template()
    coarse = np.pad(maps["brain"][::3, ::3, ::3] > 0.5, 4)
    closed = ndimage.binary_closing(coarse, iterations=4)[4:-4, 4:-4, 4:-4]
    filled = ndimage.zoom(closed.astype(np.float32), 3, order=1)
    x, y, z = maps["brain"].shape
    filled = np.pad(filled, 3)[2 : x + 2, 2 : y + 2, 2 : z + 2]
    return np.maximum(maps["brain"], filled)


@functools.cache
def template_ventricles() -> np.ndarray:
    """Lateral and third ventricles: the largest body of CSF inside the template's centre."""
    maps, _ = template()
    x, y, z = template_axes()
    csf = maps["brain"] - maps["gm"] - maps["wm"]
    centre = (abs(x) < 34) & (y > -52) & (y < 38) & (z > -14) & (z < 32)
    bodies, count = ndimage.label((csf > 0.5) & centre)
    sizes = ndimage.sum_labels(np.ones_like(csf), bodies, np.arange(1, count + 1))
    return (bodies == 1 + int(np.argmax(sizes))).astype(np.float32)


@functools.cache
def template_hippocampi() -> np.ndarray:
    """Two bent ellipsoids of about 4 ml each at the place of the hippocampi."""
    x, y, z = template_axes()
    bend = 0.12 * (y + 22)
    across = (abs(x) - 27 + bend) / 6.5
    along = (y + 22) / 18
    up = (z + 14 + 0.35 * (y + 22)) / 7.0
    return (across**2 + along**2 + up**2 < 1).astype(np.float32)


@functools.cache
def template_deep() -> np.ndarray:
    """Grey matter of thalamus and basal ganglia, which has no sulci to widen."""
    maps, _ = template()
    x, y, z = template_axes()
    centre = (x / 34) ** 2 + ((y + 6) / 30) ** 2 + ((z - 5) / 18) ** 2 < 1
    return ndimage.gaussian_filter((maps["gm"] * centre).astype(np.float32), 1.5)


def template_axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World coordinates along the template's axes, shaped to broadcast."""
    _, grid = template()
    x, y, z = (
        origin + np.arange(side, dtype=np.float32)
        for origin, side in zip(grid.affine[:3, 3], grid.shape, strict=True)
    )
    return x[:, None, None], y[:, None], z


def spline_matrix(points: np.ndarray, axis: int, distance: float) -> np.ndarray:
    """Cubic B-splines at the grid's coordinates along one axis, (voxels, control points)."""
    coordinate = np.moveaxis(points[axis], axis, 0)[:, 0, 0]
    # Control points lie on the field of view, not on the grid: a subject has the same form at
    # every spacing.
    half = FIELD_OF_VIEW[axis] / 2 + 24
    middle = (coordinate[0] + coordinate[-1]) / 2
    knots = np.arange(-half - 3 * distance, half + 4 * distance, distance) + middle
    basis = BSpline.design_matrix(coordinate.astype(float), knots, 3).toarray()
    # Scaled so that the field has the variance of its control points in the middle of a cell.
    return (basis / np.sqrt((basis**2).sum(1).mean())).astype(np.float32)


def expand(control: np.ndarray, splines: list[np.ndarray]) -> np.ndarray:
    """Maps (C, I, J, K) times a matrix along each axis, (X, I), (Y, J) and (Z, K)."""
    field = np.einsum("cijk,xi->cxjk", control, splines[0], optimize=True)
    field = np.einsum("cxjk,yj->cxyk", field, splines[1], optimize=True)
    return np.einsum("cxyk,zk->cxyz", field, splines[2], optimize=True)
