"""What all samplers share: where samples come from, and who was seen on the way.

A sampler is a diffusers ``DiffusionPipeline`` with ``fit(train, config, folder, *, resume)``,
``__call__(labels, seeds, steps, guidance)``, ``save_pretrained`` and ``from_pretrained``. Sample k
depends on the weights, label k, seed k, the steps and the guidance alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from augment.errors import InputError

if TYPE_CHECKING:
    from augment.cohort import Cohort

SALT = "neuromix"
"""Keeps plain subject names out of published files; it is no secret against guessing."""


def subject_hash(dataset: str, subject_id: str) -> str:
    """A subject's name in the provenance: equal for equal subjects, whatever the spelling."""
    name = f"{dataset.strip().lower()}/{subject_id.strip().lower().removeprefix('sub-')}"
    return hashlib.sha256(f"{SALT}:{name}".encode()).hexdigest()[:24]


def voxel_hash(volume: np.ndarray) -> str:
    """A digest of an image's content, which sees through new names of the same file."""
    rounded = np.ascontiguousarray(np.round(volume, 3), dtype="<f4") + np.float32(0)
    return hashlib.sha256(rounded.tobytes()).hexdigest()[:24]


def provenance(cohorts: Sequence[Cohort], voxels: Sequence[str]) -> dict[str, Any]:
    """What a sampler remembers of its making.

    Args:
        cohorts: Every cohort that influenced it: training, validation.
        voxels: Digests of their images.
    """
    keys = {key for cohort in cohorts for key in cohort.subject_keys}
    return {
        "datasets": sorted({dataset for dataset, _ in keys}),
        "subjects": sorted(subject_hash(*key) for key in keys),
        "voxels": sorted(voxels),
        "versions": {name: version(name) for name in ("neuromix", "torch", "diffusers")},
    }


def check_requests(labels: Sequence[Any], seeds: Sequence[int]) -> None:
    """Refuse lists that do not belong together."""
    if len(labels) != len(seeds):
        raise InputError(f"{len(labels)} labels came with {len(seeds)} seeds; give one seed each")


def is_sampler(folder: Path) -> bool:
    """Whether a folder holds a finished sampler."""
    return (folder / "model_index.json").is_file()
