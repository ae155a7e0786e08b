"""A synthetic sample in the place of a real subject: the same keys on the same grid.

Loaders collate by the keys of the first subject, and stack images of one shape; so a sample must
look like the subjects that it stands among.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
import torchio as tio

from neuromix.augment.data import origin
from neuromix.augment.data.conditions import known
from neuromix.augment.data.grid import Grid, resample
from neuromix.augment.errors import InputError

BARE = "default_image_name"
"""What TorchIO calls the image of a subject that it makes of a bare tensor, array or image."""


class Frame(NamedTuple):
    """What an image must look like to be stacked with others."""

    channels: int
    grid: Grid

    @classmethod
    def of(cls, image: tio.Image) -> Frame:
        """The frame of an image; of an image that is not loaded, the header is read."""
        name = str(image.path)
        if tio.DATA not in image and name.endswith((".nii", ".nii.gz")):
            header = nib.load(name)  # 20 times as quick as TorchIO, which inflates the whole file
            if len(header.shape) in (3, 4):
                shape, frames = header.shape[:3], header.shape[3:]
                return cls(frames[0] if frames else 1, Grid(shape, header.affine))
        channels, *shape = image.shape
        return cls(channels, Grid(tuple(shape), image.affine))


def labels_of(subject: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Those labels of a subject that are known; a name that it lacks altogether is refused."""
    for name in names:
        if name not in subject:
            if BARE in subject:
                example = dict.fromkeys(names, "...")
                raise InputError(f"an image alone has no {name!r}; give labels={example}")
            raise InputError(f"a subject has no {name!r}; it has {', '.join(map(str, subject))}")
    return {name: subject[name] for name in names if known(subject[name])}


def partner(sample: tio.Subject, name: str) -> tio.Image:
    """The image of a sample that stands for an image of a real subject."""
    images = sample.get_images_dict(intensity_only=False)
    if name == BARE and len(images) == 1:
        return next(iter(images.values()))
    if name == BARE:
        raise InputError(
            f"samples have the images {', '.join(images)}, which one is meant is unknown; pass a "
            "dict and include=[its key]"
        )
    if name not in images:
        raise InputError(
            f"samples have no image {name!r}, they have {', '.join(images)}; leave it out of the "
            f"subjects, or keep the real one with exclude=[{name!r}] if it fits every subject"
        )
    return images[name]


def fit(image: tio.Image, frame: Frame) -> tio.Image:
    """The image on the grid of the frame: as it is, or resampled with a warning."""
    channels, *shape = image.shape
    if channels != frame.channels:
        raise InputError(
            f"a sample has {channels} channels and the subject has {frame.channels}; they must be "
            "prepared alike, see `neuromix prepare`"
        )
    own = Grid(tuple(shape), image.affine)
    if own == frame.grid:
        return image
    kind = type(image)
    if np.array_equal(frame.grid.affine, np.eye(4)):  # TorchIO's word for: not known
        if own.shape != frame.grid.shape:
            raise InputError(
                f"samples have {own} and the subject, which has no affine, has the shape "
                f"{frame.grid.shape}; give it an affine, or bring it to the samples' shape"
            )
        return kind(tensor=image.data, affine=frame.grid.affine)
    warnings.warn(
        f"samples lie on {own} and some subjects on another grid: those samples are resampled to "
        "it; bring all to one grid with `neuromix prepare`",
        stacklevel=2,
    )
    order = 0 if kind is tio.LabelMap else 1
    moved = resample(np.moveaxis(image.numpy(), 0, -1), own, frame.grid, order=order)
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(moved, -1, 0)))
    return kind(tensor=tensor, affine=frame.grid.affine)


def replacement(
    sample: tio.Subject,
    subject: tio.Subject,
    frames: Mapping[str, Frame],
    kept: Collection[str] = (),
) -> tio.Subject:
    """The sample with exactly the keys of the subject, and the marks of :func:`with_marks`.

    Every label comes from the sample. What it does not know is missing: ``""`` or NaN.

    ``frames`` say by image name what the images must look like, others stay as they are; those
    ``kept`` stay the subject's, which is neither changed nor loaded.
    """
    values: dict[str, Any] = {}
    for key, value in subject.items():
        if key in kept:
            values[key] = copy.deepcopy(value)
        elif isinstance(value, tio.Image):
            image = partner(sample, key)
            values[key] = fit(image, frames[key]) if key in frames else image
        elif key in sample:
            values[key] = sample[key]
        else:
            values[key] = _blank(key, value)
    marks = {name: sample[name] for name in ("synthetic_id", "origin")}
    values |= {"synthetic": True, **marks}
    result = tio.Subject(values)
    result.applied_transforms = list(subject.applied_transforms)
    return result


def has_image(subject: tio.Subject, name: str) -> bool:
    """Whether a subject has an image, and not a placeholder in its place."""
    return name in subject and bool(subject.get("present", {}).get(name, True))


def with_images(
    subject: tio.Subject, images: dict[str, tio.Image], made_as: str, made_by: str
) -> tio.Subject:
    """A copy of a subject with marks and with some images that are synthetic, in whole or in part.

    ``made_as`` joins its ``synthetic_id``, ``made_by`` its ``origin``.
    """
    rest = {key: copy.deepcopy(value) for key, value in subject.items() if key not in images}
    names = [text for text in (subject["synthetic_id"], made_as) if text]
    marks = {
        "synthetic": True,
        "synthetic_id": ";".join(names),
        "origin": origin.join(subject["origin"], made_by),
    }
    ordered = {key: images[key] if key in images else rest[key] for key in subject}
    result = tio.Subject({**ordered, **images, **marks})
    result.applied_transforms = list(subject.applied_transforms)
    return result


def with_marks(subject: tio.Subject) -> tio.Subject:
    """The subject itself, or the same content with those of the three keys that it lacks."""
    marks = {"synthetic": False, "synthetic_id": "", "origin": ""}
    if marks.keys() <= subject.keys():
        return subject
    marked = tio.Subject({**marks, **subject})
    marked.applied_transforms = list(subject.applied_transforms)
    return marked


def with_origin(sample: tio.Subject, made_by: str) -> tio.Subject:
    """A sample that tells its ``origin``: its own word, or the source that it was drawn from."""
    if sample.get("origin"):
        return sample
    return tio.Subject({**with_marks(sample), "origin": made_by})


def from_dict(
    data: dict[str, Any], include: Sequence[str] | None, label_keys: Sequence[str] | None
) -> tio.Subject:
    """A subject of a dict; the affine of a MetaTensor is kept."""
    names = [name for name in include or () if name in data]
    if not names:
        raise InputError(
            f"a dict with {', '.join(map(str, data))} came; say which are images with "
            "include=[...] when the transform is made"
        )
    values = dict(data)
    for name in names:
        affine = getattr(data[name], "affine", None)
        kind = tio.LabelMap if name in (label_keys or ()) else tio.ScalarImage
        # Of a MetaTensor, the plain tensor.
        tensor = torch.as_tensor(data[name]).as_subclass(torch.Tensor)
        values[name] = kind(tensor=tensor, affine=None if affine is None else np.asarray(affine))
    return tio.Subject(values)


def to_dict(subject: tio.Subject, data: dict[str, Any]) -> dict[str, Any]:
    """A dict of the subject, with images in the types of those that came."""
    values: dict[str, Any] = dict(subject)
    images = subject.get_images_dict(intensity_only=False)
    first = next(data[name] for name in images if name in data)
    for name, image in images.items():
        given = data.get(name, first)
        values[name] = image.data
        if isinstance(given, np.ndarray):
            values[name] = image.data.numpy()
        elif hasattr(given, "meta"):
            from monai.data import MetaTensor

            meta = {key: value for key, value in given.meta.items() if key != "affine"}
            if subject["synthetic"]:  # the file's name would pass the sample off as the real image
                meta["filename_or_obj"] = subject["synthetic_id"]
            values[name] = MetaTensor(image.data, torch.as_tensor(image.affine), meta)
    return values


def _blank(key: str, value: Any) -> Any:
    """The missing value that collates with a real one."""
    if value is None or isinstance(value, str):
        return "" if value is not None else None
    if isinstance(value, Real):
        return math.nan
    raise InputError(
        f"samples have no {key!r} and a {type(value).__name__} cannot be left blank; drop the key, "
        "or add it by a transform that comes later"
    )
