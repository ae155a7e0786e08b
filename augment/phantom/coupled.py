"""Paired fMRI and dMRI segments, version 2: coupled where folds are, and not linearly.

On brains of version 2, whose cortex folds anew and whose lesions lie where the person has them,
with tissue shares g, w, c, lesions l, and what both modalities share, an activity s and the loss
h = exp(-5 l̄) of what lies near lesions (l̄ is l smoothed),

    s(x)     =  sum_r z_r r(x + shift(x)) + 0.7 smooth field,  cortex and deep grey alone
    fmri_k   =  T [1 + 0.30 h tanh(a_k s)] + v_k + noise,      a_k from 0.6 to 1.8: BOLD saturates
    dmri_k   =  A_k(l) exp(-0.28 g s² / (1 + s²)) exp(-0.35 g̃ (1 - h)) + q_k + noise

so that dMRI tells of |s| but not of its sign where segments do not, fMRI of lesions by what is lost
around them. The regions' blobs r shift by some 5 mm from person to person. dMRI lies up to a voxel
off, by a smooth warp of the person's own, as echo-planar images do. v, q and the warp are private.

The best that can be said of one modality given all that both share is the formula averaged over the
private parts: v and q are zero on average, and the warp is averaged over draws of it. Its PSNR
stands in the truth file, as an upper bound.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from neuromix.augment.data.regions import dosenbach
from neuromix.augment.phantom.md import DIFFUSIVITY
from neuromix.augment.phantom.paired import RANGE, SEGMENTS, PairedScanner
from neuromix.augment.phantom.population import Participant

SHIFT = 1.6
"""Of the regions, in units of the finest scale of a smooth warp: some 5 mm."""
REGION = 8.0
"""Radius of a region, mm."""
NEAR = 6.0
"""How far around a lesion responses are lost, mm."""
OFF = 0.25
"""Of dMRI against fMRI, in voxels: deviation along each axis."""
AVERAGED = 8
"""Draws of the warp that the ideal is averaged over."""


class CoupledScanner(PairedScanner):
    """Makes both modalities of a subject, and keeps the score of the ideal."""

    def draw(
        self, person: Participant, maps: dict[str, np.ndarray], rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The images of one subject, and what an ideal regression would predict of them."""
        inside = np.clip(maps["gm"] + maps["wm"] + maps["csf"], 0, 1)
        side = self.anatomy.grid.spacing[0]
        grey = np.clip(maps["gm"], 0, 1)
        spared = np.exp(-5 * ndimage.gaussian_filter(maps["lesions"], NEAR / side))[..., None]
        activity = (self._activity(person, rng) * grey)[..., None]
        contrast = maps["gm"] + 0.8 * maps["wm"] - 0.15 * maps["lesions"] + 1.25 * maps["csf"]
        gains = np.linspace(0.6, 1.8, SEGMENTS)
        fmri = contrast[..., None] * (1 + 0.30 * spared * np.tanh(gains * activity))
        squared = activity**2
        dmri = self._attenuation(maps)
        dmri = dmri * np.exp(-0.28 * grey[..., None] * squared / (1 + squared))
        dmri = dmri * np.exp(-0.35 * grey[..., None] * (1 - spared))
        mask = (inside > 0.5)[..., None]
        images = {
            "fmri": fmri + self._private(inside, 0.03, rng),
            "dmri": self._warped(dmri, rng) + self._private(inside, 0.025, rng),
        }
        mean = np.mean([self._warped(dmri, rng) for _ in range(AVERAGED)], axis=0)
        for name, image in images.items():
            noisy = image + 0.03 * rng.standard_normal(fmri.shape, dtype=np.float32)
            images[name] = (np.clip(noisy, 0, RANGE) * mask).astype(np.float32)
        ideal = {"fmri": (fmri * mask).astype(np.float32), "dmri": (mean * mask).astype(np.float32)}
        return images, ideal

    def _activity(self, person: Participant, rng: np.random.Generator) -> np.ndarray:
        """What both share, (X, Y, Z), of unit size."""
        sizes = 1.2 * person.severity * self.pattern + rng.standard_normal(len(self.pattern))
        shifts = SHIFT * self.anatomy.smooth_warp(rng, (1.0, 1.0, 1.0))
        points = (self.anatomy.points + shifts).astype(np.float32)
        field = 0.7 * self.anatomy.smooth_map(rng, 1)
        for size, centre in zip(sizes, dosenbach(), strict=True):
            offset = points - np.array(centre, dtype=np.float32)[:, None, None, None]
            field += size * np.exp(-0.5 * (offset**2).sum(0) / REGION**2)
        return field

    def _attenuation(self, maps: dict[str, np.ndarray]) -> np.ndarray:
        """Signal left after diffusion weighting, (X, Y, Z, 8): water moves freely in lesions."""
        healthy = {**maps, "wm": maps["wm"] - maps["lesions"]}
        scarred = maps["lesions"] * np.exp(-DIFFUSIVITY["wm"] - 0.5)
        return super()._attenuation(healthy) + scarred[..., None]

    def _warped(self, segments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Segments (X, Y, Z, 8) a voxel or less off."""
        off = OFF * np.stack([self.anatomy.smooth_map(rng, 0) for _ in range(3)]).clip(-2, 2)
        index = np.indices(segments.shape[:3], dtype=np.float32) + off
        return np.stack([
            ndimage.map_coordinates(segments[..., k], index, order=1, mode="nearest")
            for k in range(segments.shape[-1])
        ], -1)  # fmt: skip
