"""The leak guard: who had a part in the making of a model, and whether a cohort shares anyone.

Whoever influenced the weights, the choice of a step, a statistic or a filter is remembered in a
record, which travels with samplers and banks: salted hashes of (dataset, subject), and digests of
the voxels, which see through new names of the same image. Of subjects that are synthetic, in whole
or in part, :mod:`neuromix.augment.data.origin` finds the record.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment.data import digests, origin
from neuromix.augment.data.origin import Person, person_of
from neuromix.augment.data.split import name_of, require_comparable
from neuromix.augment.errors import LeakageError

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

SALT = "neuromix"
"""Keeps plain subject names out of published files; it is no secret against guessing."""
VOXEL_DIGEST = "voxels 1"
"""Kind of the digests that :func:`image_hashes` keeps; another number where others come out."""
NAMED = 10
"""Subjects that an error names; the others are counted."""
LISTS = ("datasets", "subjects", "voxels", "untraced")
"""What a record holds of those who had a part; the rest of it says with what it was made."""


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
    return digests.cached_digests(paths, VOXEL_DIGEST, _read)


def voxel_hashes(cohort: Cohort) -> list[str]:
    """Digests of all images of a cohort."""
    return [digest for _, digest in _images(cohort)]


def voxels_of(subject: tio.Subject, images: Iterable[str]) -> set[str]:
    """Digests of images of a subject: as they are, and as their files are.

    The two differ behind a transform, which would else hide whose image it is.
    """
    digests = set()
    for image in (subject[name] for name in images):
        digests.add(voxel_hash(image.data.float().numpy()))
        if subject.applied_transforms and isinstance(image.path, Path) and image.path.is_file():
            digests.add(_read(image.path))
    return digests


def provenance(cohorts: Sequence[Cohort], voxels: Sequence[str] = ()) -> dict[str, Any]:
    """The record of a model that the cohorts and the images of these digests influenced.

    Who had a part in banks and completers whose files are in the cohorts is in it, too.
    """
    people: set[Person] = set()
    origins: set[str] = set()
    for cohort in cohorts:
        columns = [f"{image}_path" for image in cohort.images]
        for row in cohort.table.to_dict("records"):
            paths = [row[column] for column in columns if row[column]]
            origins.update(origin.of_files(paths).splitlines())
            is_sample = [origin.SAMPLE in Path(path).name for path in paths]
            if not paths or not all(is_sample):
                people.add((row["dataset"], row["subject_id"]))
    return merge([record_of(people, voxels), *origin.records(origins)])


def record_of(people: Iterable[Person], voxels: Iterable[str] = ()) -> dict[str, Any]:
    """The record of some people and the digests of their images."""
    people = set(people)
    return {
        "datasets": sorted({dataset for dataset, _ in people}),
        "subjects": sorted(subject_hash(*person) for person in people),
        "voxels": sorted(set(voxels)),
        "versions": {name: version(name) for name in ("neuromix", "torch", "diffusers", "torchio")},
    }


def merge(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One record of several, such as a sampler's and those of its filters.

    Whom any of them saw, the whole has seen; the rest is told as the first one has it.
    """
    together = {key: sorted({x for r in records for x in r.get(key, ())}) for key in LISTS}
    if not together["untraced"]:
        del together["untraced"]
    return {**(records[0] if records else {}), **together}


def check_disjoint(record: Mapping[str, Any], cohort: Cohort, *, voxels: bool = True) -> None:
    """Raise :class:`LeakageError` if a cohort shares subjects with the makers of a model.

    ``voxels`` compares images too, which finds subjects under new names; each image is read.
    """
    images = _images(cohort) if voxels and record["voxels"] else ()
    _refuse(record, cohort.subject_keys, images)


def check_subjects(
    record: Mapping[str, Any], subjects: Sequence[tio.Subject], images: Sequence[str]
) -> None:
    """As :func:`check_disjoint`, for subjects whose images are in memory, or will be."""
    people = {person: None for subject in subjects if (person := person_of(subject))}
    digests = (
        (person, digest)
        for subject in subjects
        if (person := person_of(subject)) is not None
        for digest in voxels_of(subject, [name for name in images if name in subject])
    )
    _refuse(record, list(people), digests if record["voxels"] else ())


def _refuse(
    record: Mapping[str, Any], people: Sequence[Person], images: Iterable[tuple[Person, str]]
) -> None:
    """Raise if one of the people, or of their images, is in the record."""
    warn_untraced(record)
    require_comparable(record.get("datasets", ()), {dataset for dataset, _ in people})
    names, digests = set(record["subjects"]), set(record["voxels"])
    by_name = [person for person in people if subject_hash(*person) in names]
    copies = dict.fromkeys(person for person, digest in images if digest in digests)
    renamed = [person for person in copies if person not in by_name]
    shared = by_name + renamed
    if not shared:
        return
    named = ", ".join(name_of(*person) for person in shared[:NAMED])
    more = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
    how = f" ({len(renamed)} of them by their images, under other names)" if renamed else ""
    raise LeakageError(
        f"{len(shared)} of {len(people)} held-out subjects had a part in the making of "
        f"what they would judge{how}: {named}{more}; hold out others, or fit without them",
        shared,
    )


def warn_untraced(record: Mapping[str, Any]) -> None:
    """Warn of makers that are not known."""
    if makers := record.get("untraced"):
        more = f" and {len(makers) - NAMED} more" if len(makers) > NAMED else ""
        warnings.warn(
            f"whoever had a part in {', '.join(makers[:NAMED])}{more} is not known, so that nobody "
            "can say whether held-out subjects had one; open banks, samplers and completers from "
            "the folders that they were saved in",
            stacklevel=3,
        )


def _images(cohort: Cohort) -> Iterator[tuple[Person, str]]:
    """Subject and digest of each image."""
    columns = [f"{image}_path" for image in cohort.images]
    rows = cohort.table.to_dict("records")
    places = [(row, row[column]) for row in rows for column in columns if row[column]]
    hashes = image_hashes(path for _, path in places)
    for (row, _), digest in zip(places, hashes, strict=True):
        yield (row["dataset"], row["subject_id"]), digest


def _read(path: Path) -> str:
    from neuromix.augment.data.scans import WholeImage

    # Read as samplers read, so that equal files give equal values.
    return voxel_hash(WholeImage(path).data.float().numpy())
