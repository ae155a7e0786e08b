"""Phantom of paired fMRI and dMRI segments that share a disease pattern, but not everything.

In the brain, with region profiles ``r`` around the Dosenbach-160 coordinates,

    fmri_k(x) = T(x) [1 + sum_r r(x) (0.10 c_k z_r + 0.08 u_r)] + v_k(x) + noise
    dmri_k(x) = A_k(x) [1 - sum_r r(x) (0.12 z_r + 0.09 w_r)] + q_k(x) + noise

``T`` and ``A_k`` are the anatomy as either modality sees it and ``z`` the shared pattern, which
carries the disease. ``u, v`` belong to fMRI alone and ``w, q`` to dMRI alone: no model can predict
them. So the best that a regression could reach from the other modality is the formula with the
private parts and the noise left out; its PSNR stands in the truth file, as an upper bound (a real
model must first read ``z`` and the anatomy off a noisy image).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.grid import SPACE, template_on
from neuromix.augment.data.regions import dosenbach
from neuromix.augment.phantom.anatomy import Anatomy
from neuromix.augment.phantom.md import DIFFUSIVITY, gradients
from neuromix.augment.phantom.population import Participant

SEGMENTS = 8
RANGE = 1.6
"""Data range of both modalities, for the PSNR: images lie in 0 to 1.6."""


class PairedScanner:
    """Makes the two modalities of any subject on one grid, and keeps the score of the ideal."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.regions = np.stack([
            anatomy.blob(centre, 7.0) for centre in dosenbach()
        ])  # fmt: skip
        # Which regions the disease changes, and how much: a fact of the population.
        rng = np.random.default_rng(105)
        self.pattern = np.where(rng.random(len(self.regions)) < 0.2, 1.0, 0.0)
        self.score = IdealScore(anatomy)
        self.courses = 1 + 0.3 * np.cos(np.linspace(0, np.pi, SEGMENTS))

    def draw(
        self, person: Participant, maps: dict[str, np.ndarray], rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The images of one subject, and what an ideal regression would predict of them.

        Two dicts with ``fmri`` and ``dmri``, arrays (X, Y, Z, 8).
        """
        inside = np.clip(maps["gm"] + maps["wm"] + maps["csf"], 0, 1)
        shared = 0.9 * person.severity * self.pattern + 0.8 * rng.standard_normal(len(self.pattern))
        own_f, own_d = rng.standard_normal((2, len(self.pattern)))
        z, u, w = (self._spread(values) for values in (shared, own_f, own_d))
        contrast = 1.0 * maps["gm"] + 0.8 * maps["wm"] + 1.25 * maps["csf"]
        course = self.courses
        fmri = contrast[..., None] * (1 + 0.10 * z[..., None] * course)
        attenuation = self._attenuation(maps)
        dmri = attenuation * (1 - 0.12 * z[..., None])
        ideal = {"fmri": fmri, "dmri": dmri}
        fmri = fmri + (0.08 * contrast * u)[..., None]
        dmri = dmri - attenuation * (0.09 * w)[..., None]
        images = {
            "fmri": fmri + self._private(inside, 0.03, rng),
            "dmri": dmri + self._private(inside, 0.025, rng),
        }
        mask = inside > 0.5
        for name in images:
            noisy = images[name] + 0.03 * rng.standard_normal(fmri.shape, dtype=np.float32)
            images[name] = (np.clip(noisy, 0, RANGE) * mask[..., None]).astype(np.float32)
            ideal[name] = (ideal[name] * mask[..., None]).astype(np.float32)
        return images, ideal

    def _spread(self, values: np.ndarray) -> np.ndarray:
        return np.tensordot(values.astype(np.float32), self.regions, 1)

    def _attenuation(self, maps: dict[str, np.ndarray]) -> np.ndarray:
        """Signal left after diffusion weighting, per gradient segment, (X, Y, Z, 8)."""
        # Segments run from gradients along the body axis to gradients across it.
        order = np.argsort(-np.abs(gradients()[:, 2]))
        groups = np.array_split(gradients()[order], SEGMENTS)
        along = np.stack([
            ((np.tensordot(group, self.anatomy.fibres, 1) ** 2).mean(0) - 1 / 3) for group in groups
        ], -1)  # fmt: skip
        white = maps["wm"][..., None] * np.exp(-DIFFUSIVITY["wm"] - 0.6 * along)
        rest = maps["gm"] * np.exp(-DIFFUSIVITY["gm"]) + maps["csf"] * np.exp(-DIFFUSIVITY["csf"])
        return white + rest[..., None]

    def _private(self, inside: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
        common = self.anatomy.smooth_map(rng, 1)
        each = [common + 0.6 * self.anatomy.smooth_map(rng, 1) for _ in range(SEGMENTS)]
        return size * np.stack(each, -1) * inside[..., None]


class IdealScore:
    """Pooled PSNR of the ideal regression and of the cohort's mean volume, in a fixed mask."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._mask = template_on(anatomy.grid)["brain"] > 0.5
        self._count = 0
        self._sum: dict[str, np.ndarray] = {}
        self._squares: dict[str, float] = {"fmri": 0.0, "dmri": 0.0}
        self._errors: dict[str, float] = {"fmri": 0.0, "dmri": 0.0}

    def add(self, images: dict[str, np.ndarray], ideal: dict[str, np.ndarray]) -> None:
        """Take in one subject."""
        self._count += 1
        for name, image in images.items():
            inside = image[self._mask].astype(float)
            self._sum[name] = self._sum.get(name, 0) + inside
            self._squares[name] += float((inside**2).mean())
            self._errors[name] += float(((inside - ideal[name][self._mask]) ** 2).mean())

    def result(self) -> dict[str, dict[str, float]] | None:
        """PSNR in dB by predicted modality; the mean volume's error is that on a new subject.

        One subject has no mean volume to be compared with, and so no score.
        """
        scores = {}
        n = self._count
        if n < 2:
            return None
        for name in self._sum:
            around = self._squares[name] / n - float(((self._sum[name] / n) ** 2).mean())
            mean_error = around * (n + 1) / (n - 1)
            scores[name] = {
                "range": RANGE,
                "psnr_mean_volume": _psnr(mean_error),
                "psnr_ideal_regression": _psnr(self._errors[name] / n),
            }
        return scores


def write_subject(
    folder: Path, images: dict[str, np.ndarray], anatomy: Anatomy, person: Participant
) -> None:
    """Write both modalities of one subject."""
    own = {"sub": person.subject_id, "space": SPACE, "desc": "segments"}
    fmri = bids.path_of("func", own | {"task": "rest"}, "bold", ".nii.gz")
    files.write_nifti(folder / fmri, images["fmri"], anatomy.grid.affine)
    dmri = bids.path_of("dwi", own, "dwi", ".nii.gz")
    files.write_nifti(folder / dmri, images["dmri"], anatomy.grid.affine)


def _psnr(error: float) -> float:
    return float(10 * np.log10(RANGE**2 / max(error, 1e-12)))
