"""Brains whose cortex folds anew: version 2 of the anatomy, outside the family of linear priors.

A sulcus is where a random field of one wavelength vanishes, drawn for this person alone,

    sheet = {x : f(q(x)) = 0 and core(x) > beta(x)},   r(x) = min(surface(x), distance to sheet),

with ``q`` the nearest point of the brain's surface (nearly: sheets bend), so that sulci open
outwards, ``core`` the distance from the white matter that everybody has, and ``beta`` a random
smooth field that ends sulci and lets gyri bridge them. Where r is below the sulcus' half-width lies
CSF, above it cortex of some 2.5 mm, then white matter. Half-widths, thickness, ventricles and
lesions depend on smooth fields of the person through exponentials and thresholds: a label acts
where and as strongly as the person has it. All is drawn at 2 mm or finer, and averaged over voxels.

A narrow band tells distances from one evaluation, exact for a plane wave of wave number k:

    distance to {f = 0}  =  arctan(k |f| / |grad f|) / k
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
from scipy import ndimage

from neuromix.augment.data.grid import Grid, template
from neuromix.augment.phantom.anatomy import (
    anatomy_at,
    expand,
    spline_matrix,
    template_axes,
    template_brain,
    template_deep,
    template_hippocampi,
    template_ventricles,
)
from neuromix.augment.phantom.population import Participant

FINE = 2.0
"""Voxel side in mm at which brains are drawn, where the grid is no finer."""
WAVELENGTH = 23.0
"""Of the folds, in mm: two gyri and the sulci between them."""
LATTICE = 4.0
"""Distance in mm of the points at which the folding field is drawn."""
BEND = 0.2
"""Share of depth in the folding field: at 0 every sulcus stands upright on the surface."""
THICKNESS = 2.6
"""Of a healthy cortex, in mm."""
PUSHED = 6.0
"""How far ventricles push the white matter away, in mm; larger ones take its place."""
SPREADS = (0.4, 0.3, 0.15, 0.6)
"""How far the effects on form of sex, disease (ventricles, hippocampi) and atrophy differ by place:
standard deviations of their logarithms."""


class FoldedAnatomy:
    """Draws people's tissue maps on one grid of the standard field of view."""

    def __init__(self, grid: Grid) -> None:
        self._fine = anatomy_at(min(FINE, grid.spacing[0]))
        self._averages = [_overlap(grid, self._fine.grid, axis) for axis in range(3)]
        self._splines = [spline_matrix(self._fine.points, axis, LATTICE) for axis in range(3)]
        self._atlas, nearest = _atlas()
        self._near = _read(self._atlas["brain"], self._fine.points) > -11
        points = self._fine.points[:, self._near]
        surface = np.stack([_read(coordinate, points) for coordinate in nearest])
        self._roots = (1 - BEND) * surface + BEND * points

    def draw(self, who: Participant, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Maps of one person, each (X, Y, Z) in [0, 1].

        Those of :meth:`Anatomy.draw`, and ``cortex`` and ``lesions``, which are parts of the grey
        and of the white matter.
        """
        fine, near = self._fine, self._near
        warp = fine.smooth_warp(rng, (1.0, 1.0, 0.5))
        sex, ventricles, hippocampi, atrophy = (
            np.exp(spread * fine.smooth_map(rng, 0) - spread**2 / 2) for spread in SPREADS
        )
        pushed = replace(who.shape, ventricles=min(who.shape.ventricles, PUSHED))
        points = fine.read_points(pushed, warp, sex, ventricles, hippocampi)[:, near]
        at = {name: _read(data, points) for name, data in self._atlas.items()}
        lost = np.minimum(who.shape.atrophy * atrophy[near], 0.4)
        depth = self._depth(at, points, warp, rng)
        width = 0.3 + 5 * lost
        csf = self._share(width - depth) * (1 - at["hippocampi"])
        cortex = self._share(width + THICKNESS * (1 - lost) - depth) - csf
        # Cerebellum and brainstem, whose folia are too fine for any voxel, are the template's.
        csf += at["hind"] * (1 - at["gm"] - at["wm"] - csf)
        cortex *= 1 - at["hind"]
        eaten = 0.45 * (who.shape.ventricles - pushed.ventricles)
        hollow = np.maximum(at["ventricles"], self._share(at["cavity"] + eaten) * (eaten > 0))
        csf = np.maximum(csf, hollow)
        grey = np.maximum.reduce([cortex, at["deep"], at["hippocampi"], at["hind"] * at["gm"]])
        grey = np.minimum(grey, 1 - csf)
        patches = fine.smooth_map(rng, 2)[near]
        close = np.clip(1.5 + at["cavity"] / 8, 0, 1)
        lesions = np.clip(4 * (patches - 2.6 + close * (0.6 + 1.1 * who.lesions)), 0, 1)
        inside = self._share(at["brain"] - 1)
        white = inside * (1 - csf - grey)
        maps = {
            "gm": inside * grey,
            "wm": white,
            "csf": inside * csf,
            "deep": at["deep"],
            "ventricles": hollow,
            "hippocampi": at["hippocampi"],
            "cortex": inside * np.minimum(cortex, 1 - csf),
            "lesions": white * lesions,
        }
        drawn = np.zeros((len(maps), *near.shape), dtype=np.float32)
        drawn[:, near] = np.stack(list(maps.values()))
        return dict(zip(maps, expand(drawn, self._averages), strict=True))

    def _depth(
        self,
        at: dict[str, np.ndarray],
        points: np.ndarray,
        warp: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Distance in mm from each voxel near the brain to the CSF around it, (V,)."""
        fine, near = self._fine, self._near
        field = expand(self._folds(rng)[None], self._splines)[0]
        origin = fine.grid.affine[:3, 3].astype(np.float32)
        index = (self._roots + 1.2 * warp[:, near] - origin[:, None]) / fine.grid.spacing[0]
        folded = np.zeros(near.shape, dtype=np.float32)
        folded[near] = ndimage.map_coordinates(
            field, index, order=1, output=np.float32, mode="nearest"
        )
        k = 2 * np.pi / WAVELENGTH
        slope = np.sqrt(sum(part[near] ** 2 for part in np.gradient(folded, *fine.grid.spacing)))
        sheet = np.arctan2(k * np.abs(folded[near]), slope) / k
        end = 1.0 + 2.5 * fine.smooth_map(rng, 2)[near]
        space = 0.5 * np.exp(0.5 * fine.smooth_map(rng, 1)[near])
        depth = np.minimum(at["surface"] - space, np.hypot(sheet, np.maximum(end - at["core"], 0)))
        # No sulcus reaches the centre, where thalamus and basal ganglia lie.
        return np.maximum(depth, 20 * (1.15 - _centre(*points)))

    def _folds(self, rng: np.random.Generator) -> np.ndarray:
        """White noise on the lattice, of which a band around the wavelength is left."""
        shape = tuple(matrix.shape[1] for matrix in self._splines)
        noise = np.fft.rfftn(rng.standard_normal(shape))
        x, y, z = (
            np.fft.fftfreq(shape[0], LATTICE),
            np.fft.fftfreq(shape[1], LATTICE),
            np.fft.rfftfreq(shape[2], LATTICE),
        )
        radius = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
        band = np.exp(-0.5 * ((radius * WAVELENGTH - 1) / 0.3) ** 2)
        return np.fft.irfftn(noise * band, shape, axes=(0, 1, 2)).astype(np.float32)

    def _share(self, margin: np.ndarray) -> np.ndarray:
        """Share of a voxel on the inner side of a surface that lies ``margin`` mm away."""
        return np.clip(0.5 + margin / self._fine.grid.spacing[0], 0, 1)


@functools.cache
def _atlas() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What all people share, on every second voxel of the template.

    Signed distances in mm, positive inside (``brain``; ``surface``: the cerebrum without the great
    fissures; ``cavity``: the ventricles; ``core``: positive outside of the white matter that
    everybody has), and shares (``hind``: cerebellum and brainstem). Beside it, the world
    coordinates of the nearest point of the surface, (3, X, Y, Z).
    """
    maps, grid = template()
    x, y, z = (axis[::2] for axis in template_axes())
    half = (slice(None, None, 2),) * 3
    shares = {
        "ventricles": template_ventricles(),
        "hippocampi": template_hippocampi(),
        "deep": np.clip(1.6 * template_deep(), 0, 1),
        "gm": maps["gm"],
        "wm": maps["wm"],
    }
    atlas = {name: ndimage.gaussian_filter(data, 0.7)[half] for name, data in shares.items()}
    brain = ndimage.gaussian_filter(template_brain(), 1.0)[half] > 0.5
    tentorium = 2 - 0.9 * abs(x) + 0.006 * x**2 + 0.15 * np.minimum(y + 45, 0)
    stem = (abs(x) < 20) & (z < -18) | (abs(x) < 17) & (z < -10)
    hind = (y + 0.3 * (z + 30) < -38) & (z < tentorium) | stem & (y < -6)
    cavity = _signed_distance(atlas["ventricles"] > 0.5)
    inner = (_centre(x, y, z) < 1) | (cavity > -4)
    fissures = ~inner & (1 - atlas["gm"] - atlas["wm"] > 0.4)
    outside = ~brain | fissures | hind
    core = inner | (ndimage.gaussian_filter(maps["wm"], 3.0)[half] > 0.62)
    nearest = ndimage.distance_transform_edt(~outside, return_distances=False, return_indices=True)
    nearest = 2 * np.stack([ndimage.gaussian_filter(i.astype(np.float32), 1.5) for i in nearest])
    atlas |= {
        "brain": _signed_distance(brain),
        "cavity": cavity,
        "surface": _signed_distance(~outside),
        "core": _signed_distance(~core),
        "hind": ndimage.gaussian_filter(hind.astype(np.float32), 0.5),
    }
    return atlas, nearest + grid.affine[:3, 3].astype(np.float32)[:, None, None, None]


def _centre(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Below 1 in an ellipsoid around the deep nuclei."""
    return (x / 34) ** 2 + ((y + 6) / 30) ** 2 + ((z - 5) / 18) ** 2


def _signed_distance(inside: np.ndarray) -> np.ndarray:
    """Distance in mm to the border of a mask of 2 mm voxels, positive inside."""
    away = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return ndimage.gaussian_filter(2 * away.astype(np.float32), 0.7)


def _read(data: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The atlas at world coordinates (3, …)."""
    _, grid = template()
    origin = grid.affine[:3, 3].astype(np.float32).reshape(3, *[1] * (points.ndim - 1))
    return ndimage.map_coordinates(
        data, (points - origin) / 2, order=1, output=np.float32, mode="nearest"
    )


def _overlap(coarse: Grid, fine: Grid, axis: int) -> np.ndarray:
    """Share of each fine voxel in each coarse one along an axis, (coarse, fine): box averages."""
    low, high = (
        [
            grid.affine[axis, 3] + grid.spacing[axis] * (np.arange(grid.shape[axis]) + end)
            for end in (-0.5, 0.5)
        ]
        for grid in (coarse, fine)
    )
    shared = np.minimum(low[1][:, None], high[1]) - np.maximum(low[0][:, None], high[0])
    return (np.maximum(shared, 0) / coarse.spacing[axis]).astype(np.float32)
