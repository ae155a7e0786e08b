"""The population that phantoms are drawn from: who they are, and what their labels do to them.

Every subject has its own random stream, keyed by (seed, site, index): a cohort of 2,000 begins with
the cohort of 100 of the same seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from neuromix.augment.errors import require_choice
from neuromix.augment.phantom.anatomy import Shape


@dataclass(frozen=True)
class Site:
    """A place where subjects are scanned: whom it sees, and what its scanner does."""

    ages: tuple[float, float]
    diagnoses: dict[str, float]
    """Diagnosis to its share; empty if the site keeps none."""
    gain: float
    """Calibration of the gradients: measured diffusivity over the true one."""
    snr: float
    """Signal to noise of grey matter without diffusion weighting, in 4 mm voxels."""
    sex_effect: float
    """Strength of the average difference between the sexes; populations differ in it."""
    age_effect: float
    """Pace of biological ageing: the community is healthier than a clinic's patients."""


SITES = {
    # A lifespan study of the community, like Cam-CAN: adults of all ages, no diagnosis.
    "A": Site((18, 88), {}, 1.0, 32.0, 1.2, 0.8),
    # A memory clinic, like ADNI: older people with and without impairment, another scanner.
    "B": Site((55, 90), {"NC": 0.4, "MCI": 0.3, "AD": 0.3}, 1.03, 24.0, 1.0, 1.0),
}


@dataclass(frozen=True)
class Participant:
    """One subject: labels, which everybody may see, and latents, which only the truth file has."""

    subject_id: str
    site: str
    age: float
    sex: str
    diagnosis: str | None
    severity: float
    """How far the disease has gone: 0 in the average healthy subject, about 1.9 in dementia."""
    ageing: float
    """Biological age as the deviation from 55 years in units of 20 years."""
    shape: Shape
    white_matter: float
    """Mean diffusivity added to white matter, in 1e-3 mm²/s."""
    grey_matter: float
    """Mean diffusivity added to grey matter, in 1e-3 mm²/s."""
    lesions: float
    """Load of periventricular white-matter lesions, 0 or more."""
    gain: float
    """Calibration of this scan's gradients."""

    def truth(self) -> dict[str, Any]:
        """Plain content for the truth file."""
        return asdict(self)


def person(
    seed: int, site: str, index: int, version: int = 1
) -> tuple[Participant, np.random.Generator]:
    """Draw subject ``index`` of a site, and return its random stream for what follows.

    Both versions of the md phantom have the same people with the same labels; what the labels do to
    the form of a brain is wider, and not linear, in the second.
    """
    require_choice("site", site, SITES)
    where = SITES[site]
    rng = np.random.default_rng([seed, ord(site), index])
    sex = "FM"[rng.integers(2)]
    male = where.sex_effect * (1.0 if sex == "M" else -1.0)
    age = float(np.round(rng.uniform(*where.ages), 1))
    diagnosis = None
    if where.diagnoses:
        diagnosis = str(rng.choice(list(where.diagnoses), p=list(where.diagnoses.values())))
    stage = {None: 0.0, "NC": 0.0, "MCI": 0.9, "AD": 1.9}[diagnosis]
    severity = stage + 0.5 * rng.standard_normal()
    ageing = where.age_effect * (age - 55) / 20 + 0.35 * rng.standard_normal()
    # Ventricles and hippocampi share part of their variation, as in people (r -0.49 at site B).
    shared, own_v, own_h, own_c = rng.standard_normal(4)
    shape = Shape(
        size=float(0.965 + 0.014 * male + 0.022 * rng.standard_normal()),
        sex_warp=float(0.115 * male),
        petalia=float(1 + 0.3 * rng.standard_normal()),
        ventricles=float(
            np.clip(1.5 + ageing + 1.1 * severity + 0.3 * male + 1.5 * shared + 0.7 * own_v, -3, 11)
        ),
        hippocampi=float(0.2 * ageing + 0.75 * severity + 0.55 * shared + 0.3 * own_h - 0.3),
        atrophy=float(np.clip(0.03 + 0.025 * ageing + 0.03 * severity + 0.025 * own_c, 0, 0.4)),
    )
    if version == 2:
        shape = _stretch(shape, male, severity)
    return (
        Participant(
            subject_id=f"{site}{index + 1:04d}",
            site=site,
            age=age,
            sex=sex,
            diagnosis=diagnosis,
            severity=float(severity),
            ageing=float(ageing),
            shape=shape,
            white_matter=float(
                0.012 * max(ageing, -1) + 0.014 * severity + 0.016 * rng.standard_normal()
            ),
            grey_matter=float(0.008 * ageing + 0.012 * severity + 0.014 * rng.standard_normal()),
            lesions=float(
                max(0.0, 0.3 + 0.35 * ageing + 0.2 * severity + 0.3 * rng.standard_normal())
            ),
            gain=float(where.gain + 0.01 * rng.standard_normal()),
        ),
        rng,
    )


def _stretch(shape: Shape, male: float, severity: float) -> Shape:
    """The form of version 2: heads, ventricles and hippocampi of real spread and correlation."""
    above = shape.ventricles - 2
    shrunk = np.tanh((shape.hippocampi + 0.65 * shape.ventricles + 0.5 * severity - 3.0) / 2.4)
    return replace(
        shape,
        size=shape.size + 0.006 * male,
        ventricles=float(min(shape.ventricles + 0.18 * above * abs(above), 16)),
        hippocampi=float(1.9 * shrunk - 0.1 + 12 * (shape.size - 0.965)),
        atrophy=float(np.clip(shape.atrophy + 0.02 * severity, 0, 0.4)),
    )
