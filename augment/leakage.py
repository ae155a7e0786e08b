"""The leak guard: who had a part in the making of a model, and whether a cohort shares anyone.

Whoever influenced the weights, the choice of a step, a statistic or a filter is remembered in a
record, which travels with samplers and banks: salted hashes of (dataset, subject), and digests of
the voxels, which see through new names of the same image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from augment import digests
from augment.errors import LeakageError

if TYPE_CHECKING:
    from augment.cohort import Cohort

SALT = "neuromix"
"""Keeps plain subject names out of published files; it is no secret against guessing."""
VOXELS = "voxels 1"
"""Kind of the digests that :func:`image_hashes` keeps; another number where others come out."""
NAMED = 10
"""Subjects that an error names; the others are counted."""


def subject_hash(dataset: str, subject_id: str) -> str:
    """A subject's name in a record: equal for equal subjects, whatever the spelling."""
    name = f"{dataset.strip().lower()}/{subject_id.strip().lower().removeprefix('sub-')}"
    return hashlib.sha256(f"{SALT}:{name}".encode()).hexdigest()[:24]


def voxel_hash(volume: np.ndarray) -> str:
    """A digest of an image's content, which sees through new names of the same file."""
    rounded = np.ascontiguousarray(np.round(volume, 3), dtype="<f4") + np.float32(0)
    return hashlib.sha256(rounded.tobytes()).hexdigest()[:24]


def image_hashes(paths: Iterable[str | Path]) -> Iterator[str]:
    """The digest of the voxels of each image file; those that are as they were are not read."""
    return digests.kept(paths, VOXELS, _read)


def voxel_hashes(cohort: Cohort) -> list[str]:
    """Digests of all images of a cohort."""
    return [digest for _, digest in _images(cohort)]


def provenance(cohorts: Sequence[Cohort], voxels: Sequence[str]) -> dict[str, Any]:
    """The record of a model.

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


def merge(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One record of several, such as a sampler's and those of its filters.

    Whom any of them saw, the whole has seen; the rest is told as the first one has it.
    """
    seen = ("datasets", "subjects", "voxels")
    together = {key: sorted({x for r in records for x in r.get(key, ())}) for key in seen}
    return {**(records[0] if records else {}), **together}


def check_disjoint(record: Mapping[str, Any], cohort: Cohort, *, voxels: bool = True) -> None:
    """Raise :class:`LeakageError` if a cohort shares subjects with the makers of a model.

    Args:
        record: What :func:`provenance` gave.
        cohort: Subjects that shall judge the model.
        voxels: Compare images too, which finds subjects under new names; each image is read.
    """
    names, digests = set(record["subjects"]), set(record["voxels"])
    by_name = [key for key in cohort.subject_keys if subject_hash(*key) in names]
    images = _images(cohort) if voxels and digests else ()
    copies = dict.fromkeys(key for key, digest in images if digest in digests)
    renamed = [key for key in copies if key not in by_name]
    found = by_name + renamed
    if not found:
        return
    named = ", ".join(f"{dataset} sub-{who}" for dataset, who in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    how = f" ({len(renamed)} of them by their images, under other names)" if renamed else ""
    raise LeakageError(
        f"{len(found)} of {len(cohort.subject_keys)} held-out subjects had a part in the making of "
        f"the samples{how}: {named}{more}; hold out others, or fit without them",
        found,
    )


def _images(cohort: Cohort) -> Iterator[tuple[tuple[str, str], str]]:
    """Subject and digest of each image."""
    columns = [f"{image}_path" for image in cohort.images]
    rows = cohort.table.to_dict("records")
    places = [(row, row[column]) for row in rows for column in columns if row[column]]
    hashes = image_hashes(path for _, path in places)
    for (row, _), digest in zip(places, hashes, strict=True):
        yield (row["dataset"], row["subject_id"]), digest


def _read(path: Path) -> str:
    from augment.scans import WholeImage

    # Read as samplers read, so that equal files give equal values.
    return voxel_hash(WholeImage(path).data.float().numpy())
