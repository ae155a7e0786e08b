"""Filters: which samples a bank turns away, and why.

A filter is called with a subject and returns the reason to reject it, or ``None``. Whoever a filter
was made from has a part in the bank: that is its ``record``
(:func:`neuromix.augment.data.leakage.provenance`), ``None`` where it has seen nobody. A bank
remembers its filters by their ``repr``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment.data.conditions import known
from neuromix.augment.data.leakage import provenance, voxel_hash
from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    import torch
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

BLOCK = 4
"""Voxels along each side of the blocks that near copies are sought in."""


@dataclass(frozen=True)
class IntensityRange:
    """Rejects images with too many values that no tissue has.

    Zeros are background and count for nothing; NaN and infinity lie outside any range.

    Args:
        low: Lowest plausible value, in the image's unit.
        high: Highest plausible value.
        share: Share of the non-zero values that may lie outside, 0 to below 1.
        image: Which image of the subject to look at.
    """

    low: float
    high: float
    share: float = 0.01
    image: str = "md"
    record = None

    def __post_init__(self) -> None:
        if not (self.low < self.high and 0 <= self.share < 1):
            raise InputError(
                f"low {self.low:g}, high {self.high:g}, share {self.share:g} came; low must be "
                "below high, and share from 0 to below 1"
            )

    def __call__(self, subject: tio.Subject) -> str | None:
        """The reason to reject a subject, or ``None``."""
        values = _data(subject, self.image).numpy()
        values = values[values != 0]
        if not values.size:
            return f"{self.image} is empty"
        outside = 1 - float(((values >= self.low) & (values <= self.high)).mean())
        if outside <= self.share:
            return None
        return (
            f"{100 * outside:.1f} % of {self.image} lies outside {self.low:g} to {self.high:g}, "
            f"allowed is {100 * self.share:g} %"
        )


@dataclass(frozen=True, repr=False)
class Faithful:
    """Rejects images in which a classifier does not see the label that they were made for.

    The classifier that judges the bank later must be another one, trained on other subjects, none
    of them held out. A sample that was not asked for the label passes.

    Args:
        predict_proba: Volumes (N, X, Y, Z) to probabilities (N, C).
        classes: The label of each of the C columns.
        label: Its name, such as ``sex``.
        at_least: Smallest probability of the wanted class, above 0 to 1.
        record: Who trained the classifier: ``provenance([cohort], voxel_hashes(cohort))``.
        image: Which image of the subject to look at.
    """

    predict_proba: Callable[[np.ndarray], np.ndarray]
    classes: Sequence[str]
    label: str
    at_least: float = 0.5
    record: Mapping[str, Any] | None = field(kw_only=True)
    image: str = field(default="md", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        if not 0 < self.at_least <= 1:
            raise InputError(f"at_least {self.at_least:g} came; a probability above 0 to 1 is due")

    def __repr__(self) -> str:
        makers = hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()[:8]
        return (
            f"Faithful({self.classes}, label={self.label!r}, at_least={self.at_least}, "
            f"record={makers}, image={self.image!r})"
        )

    def __call__(self, subject: tio.Subject) -> str | None:
        """The reason to reject a subject, or ``None``."""
        wanted = subject.get(self.label)
        if not known(wanted):
            return None
        names = list(self.classes)
        if wanted not in names:
            raise InputError(
                f"a sample has {self.label} {wanted!r} and the filter's classifier tells {names} "
                "apart; use one that knows all classes of the bank"
            )
        volume = _data(subject, self.image)
        if len(volume) != 1:
            raise InputError(
                f"{self.image} has {len(volume)} channels; the classifier of a filter takes one"
            )
        probabilities = np.asarray(self.predict_proba(volume.numpy()))
        if probabilities.shape != (1, len(names)):
            raise InputError(
                f"predict_proba returned the shape {probabilities.shape} for one volume and "
                f"{len(names)} classes; it must return {(1, len(names))}"
            )
        probability = float(probabilities[0, names.index(wanted)])
        if probability >= self.at_least:
            return None
        return (
            f"{self.label} {wanted} is seen with probability {probability:.2f}, "
            f"wanted is {self.at_least:.2f}"
        )


class NearCopy:
    """Rejects images that are far nearer to one training subject than to all others.

    With d_1 the distance to the nearest subject and d_2 that to the next one, d_1 / d_2 is close to
    1 for a new brain (and for an average one, which is near to all), and close to 0 for a copy. The
    smallest ratio among the N real subjects themselves is the limit, so that of N + 1 new brains
    one is rejected by chance.

    The distance is the root mean square difference of means over blocks of 4 voxels a side, in
    which noise plays no part. A 64th of the training images is kept in memory.

    Args:
        train: The sampler's training subjects, on the sampler's grid.
        image: Which image to look at.
    """

    def __init__(self, train: Cohort, image: str = "md") -> None:
        from neuromix.augment.data.scans import WholeImage

        subjects = [subject for subject in train.subjects() if image in subject]
        people = [(subject["dataset"], subject["subject_id"]) for subject in subjects]
        names = list(dict.fromkeys(people))
        if len(names) < 3:
            raise InputError(
                f"training subjects with an image {image!r}: {len(names)}; three are needed to "
                "know how far apart subjects are"
            )
        digests, voxels = [], []
        for subject in subjects:
            # A copy of the image, so that the subject does not keep the data.
            data = WholeImage(subject[image].path).data.float()
            digests.append(_blocks(data))
            voxels.append(voxel_hash(data.numpy()))
        if len(shapes := {digest.shape for digest in digests}) > 1:
            raise InputError(
                f"the training images {image!r} have several shapes (in blocks of {BLOCK} voxels: "
                f"{sorted(shapes)}); bring them to one grid with `neuromix prepare`"
            )
        self.image = image
        self.record: Mapping[str, Any] = provenance([train], voxels)
        self._digests = np.stack(digests)
        self._person = np.array([names.index(person) for person in people])
        ratios = []
        for digest, person in zip(digests, self._person, strict=True):
            nearest, next_one = self._two_nearest(digest, but=person)
            if nearest < 1e-6 * np.abs(digest).max():
                raise InputError(
                    f"{names[person][0]} sub-{names[person][1]} has the same {image} as another "
                    "training subject; drop one of them"
                )
            ratios.append(nearest / next_one)
        self.limit = min(ratios)
        """Smallest d_1 / d_2 of a real subject among the others."""

    def __repr__(self) -> str:
        return f"NearCopy(limit={self.limit:.6g}, image={self.image!r})"

    def __call__(self, subject: tio.Subject) -> str | None:
        """The reason to reject a subject, or ``None``."""
        digest = _blocks(_data(subject, self.image))
        if digest.shape != self._digests.shape[1:]:
            raise InputError(
                f"{self.image} has another shape than the training images of the filter (in blocks "
                f"of {BLOCK} voxels: {digest.shape}, {self._digests.shape[1:]}); build the filter "
                "from the subjects that the sampler was fitted on"
            )
        nearest, next_one = self._two_nearest(digest)
        ratio = nearest / next_one
        if ratio >= self.limit:
            return None
        return (
            f"{self.image} is {ratio:.2f} times as far from one training subject as from the next, "
            f"in real subjects it is {self.limit:.2f} times at least"
        )

    def _two_nearest(self, digest: np.ndarray, but: int | None = None) -> tuple[float, float]:
        """Distances to the two nearest subjects, each by its nearest session."""
        distances = np.sqrt(((self._digests - digest) ** 2).mean(axis=(1, 2, 3, 4)))
        of_person = np.full(self._person.max() + 1, np.inf)
        np.minimum.at(of_person, self._person, distances)
        if but is not None:
            of_person[but] = np.inf
        nearest, next_one = np.sort(of_person)[:2]
        return float(nearest), float(next_one)


def _blocks(data: torch.Tensor) -> np.ndarray:
    """Means of blocks of (C, X, Y, Z)."""
    from torch.nn.functional import avg_pool3d

    means: np.ndarray = avg_pool3d(data, BLOCK, ceil_mode=True).double().numpy()
    return means


def _data(subject: tio.Subject, image: str) -> torch.Tensor:
    """The image (C, X, Y, Z) in float32."""
    if image not in subject:
        names = sorted(subject.get_images_dict(intensity_only=False))
        raise InputError(f"a sample has no image {image!r}; it has {names}")
    return subject[image].data.float()
