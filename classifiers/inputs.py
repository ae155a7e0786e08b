"""Images as a network takes them: read once, standardised, and kept in half precision.

A volume of 48 x 56 x 48 voxels takes 0.25 MB. Of several images a subject may lack some, but not
all: those are zeros, and ``present`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch.utils.data import Dataset

from neuromix.augment.data import origin
from neuromix.augment.data.grid import left_right_axis
from neuromix.augment.errors import InputError
from neuromix.augment.replacement import has_image

FRAMES = ("all", "summary")
HIDDEN = 0.25
"""Share of training volumes of which one of several images is hidden, so that each is learnt."""

Scale = dict[str, np.ndarray]
"""Mean and deviation of each channel, (channels, 2), by image."""


def read(subject: tio.Subject, images: Sequence[str], frames: str) -> dict[str, np.ndarray]:
    """Those of the images that a subject has, (C, X, Y, Z) in float32.

    It may hold placeholders of :class:`neuromix.augment.transforms.FillMissing`. ``all`` frames are
    channels, or a ``summary``: their mean and deviation over time.
    """
    volumes = {}
    for name in images:
        if not has_image(subject, name):
            continue
        image = subject[name]
        data = image.data.float().numpy()
        if not np.isfinite(data).all():
            raise InputError(
                f"{image.path or 'an image'} holds NaN or Inf; mend it or drop the subject "
                "(Cohort.validate lists all such images)"
            )
        if frames == "summary":
            if len(data) < 2:
                raise InputError(
                    f"{name} has {len(data)} frame; a summary needs two: set frames='all'"
                )
            data = np.stack([data.mean(0), data.std(0)])
        volumes[name] = data
    if not volumes:
        names = sorted(subject.get_images_dict(intensity_only=False))
        wanted = " or ".join(map(repr, images))
        raise InputError(f"a subject has no image {wanted}; it has {names}")
    return volumes


def one_shape(rows: Sequence[Mapping[str, np.ndarray]], images: Sequence[str]) -> dict[str, Any]:
    """The shape of each image, the same in all rows."""
    result = {}
    for name in images:
        shapes = sorted({row[name].shape for row in rows if name in row})
        if not shapes:
            raise InputError(f"no subject has the image {name!r}; leave it out of image=")
        if len(shapes) > 1:
            raise InputError(
                f"the images {name!r} have shapes {shapes}; a network needs one shape: bring them "
                "to one grid with `neuromix prepare` (of 4D images, to as many frames)"
            )
        result[name] = shapes[0]
    return result


def scale_of(rows: Sequence[Mapping[str, np.ndarray]], images: Sequence[str]) -> Scale:
    """Mean and deviation of each channel over all rows; a constant channel has the deviation 1."""
    scale = {}
    for name in images:
        flat = [row[name].reshape(len(row[name]), -1) for row in rows if name in row]
        means = np.array([each.mean(1, dtype=float) for each in flat])
        spread = np.mean([each.var(1, dtype=float) for each in flat], axis=0) + means.var(0)
        if not (spread > 0).any():
            raise InputError(f"all images {name!r} are constant; look at them, or prepare anew")
        scale[name] = np.stack([means.mean(0), np.sqrt(np.where(spread > 0, spread, 1))], axis=1)
    return scale


def standardise(data: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(C, X, Y, Z) with mean 0 and deviation 1 in each channel of the training set."""
    mean, deviation = scale.T[:, :, None, None, None].astype(np.float32)
    result: np.ndarray = (data - mean) / deviation
    return result


@dataclass(frozen=True, eq=False)
class Store:
    """Standardised images of N subjects, (N, C, X, Y, Z) by image.

    ``present`` (N, images) says which a row has.
    """

    volumes: dict[str, torch.Tensor]
    present: torch.Tensor
    scale: Scale

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, np.ndarray]],
        shapes: Mapping[str, Sequence[int]],
        scale: Scale,
        dtype: torch.dtype = torch.float16,
    ) -> Store:
        """Keep rows of :func:`read`, whose images have these shapes."""
        volumes = {}
        for name, shape in shapes.items():
            volumes[name] = torch.zeros(len(rows), *shape, dtype=dtype)
            for kept, row in zip(volumes[name].numpy(), rows, strict=True):
                if name in row:
                    kept[:] = standardise(row[name], scale[name])
        present = torch.tensor([[name in row for name in shapes] for row in rows])
        return cls(volumes, present, scale)

    def __len__(self) -> int:
        return len(self.present)

    def batch(self, rows: slice | np.ndarray) -> Any:
        """Input of a network: a tensor, or several by name."""
        chosen = {name: volumes[rows].float() for name, volumes in self.volumes.items()}
        return network_input(chosen, self.present[rows])


def network_input(volumes: dict[str, torch.Tensor], present: torch.Tensor) -> Any:
    """One image as it is; of several, a dict with what is present."""
    return {**volumes, "present": present} if len(volumes) > 1 else next(iter(volumes.values()))


@dataclass(eq=False)
class Batches(Dataset[Any]):
    """Training batches. What is done to a volume depends on the seed and its position alone.

    ``codes`` (N,) are the classes, ``order`` the row at each position of the training. Volumes are
    moved by up to ``shift`` voxels along each axis, ``flip`` mirrors half of them left to right,
    whichever axis of theirs that is, and ``augment`` is applied to subjects of ``kept`` with the
    images in their own units; ``recode`` gives the class of one, whose label may be another's.
    """

    store: Store
    codes: np.ndarray
    order: np.ndarray
    _: KW_ONLY
    seed: int
    shift: int
    flip: bool
    augment: Callable[[tio.Subject], tio.Subject] | None = None
    kept: Sequence[tuple[dict[str, Any], dict[str, np.ndarray]]] = ()
    recode: Callable[[tio.Subject, int], int] | None = None

    def __post_init__(self) -> None:
        self.sides = [
            {name: left_right_axis(affine) for name, affine in affines.items()}
            for _, affines in (self.kept if self.flip else ())
        ]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> tuple[Any, torch.Tensor, set[str]]:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> tuple[Any, torch.Tensor, set[str]]:
        """A batch: the input of a network, the classes, and the origins of what is synthetic."""
        rows = self.order[positions]
        rng = np.random.default_rng([self.seed, positions[0]])
        moves = rng.integers(-self.shift, self.shift + 1, (len(rows), 3)).tolist()
        turned = (rng.random(len(rows)) < 0.5) & self.flip
        present, codes = self.store.present[rows], torch.from_numpy(self.codes[rows])
        volumes = {
            name: torch.empty(len(rows), *kept.shape[1:])
            for name, kept in self.store.volumes.items()
        }
        origins: set[str] = set()
        for k, row in enumerate(rows):
            made = {name: kept[row] for name, kept in self.store.volumes.items()}
            if self.augment is not None:
                made, codes[k], lines = self._augmented(int(row), int(positions[k]))
                origins |= lines
            sides = self.sides[row] if turned[k] else {}
            for name, volume in made.items():
                volume = volume.flip(1 + sides[name]) if name in sides else volume
                volumes[name][k] = torch.roll(volume, moves[k], (1, 2, 3)) if self.shift else volume
        several = present.sum(1) > 1
        hidden = torch.from_numpy(rng.random(len(rows)) < HIDDEN) & several
        lots = torch.from_numpy(rng.random(present.shape)) * present
        present[hidden, lots[hidden].argmax(1)] = False
        return network_input(volumes, present), codes, origins

    def _augmented(self, row: int, position: int) -> tuple[dict[str, torch.Tensor], int, set[str]]:
        assert self.augment is not None and self.recode is not None
        labels, affines = self.kept[row]
        images = {}
        for column, (name, kept) in enumerate(self.store.volumes.items()):
            if self.store.present[row, column]:
                mean, deviation = torch.from_numpy(self.store.scale[name].T).float()
                data = kept[row].float() * deviation[:, None, None, None]
                data += mean[:, None, None, None]
                images[name] = tio.ScalarImage(tensor=data, affine=affines[name])
        word = int(np.random.SeedSequence([self.seed, position, 1]).generate_state(1)[0])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(word)
            result = self.augment(tio.Subject({**labels, **images}))
        made = {name: kept[row] for name, kept in self.store.volumes.items()}
        for name, data in read(result, list(images), "all").items():
            if data.shape != made[name].shape:
                raise InputError(
                    f"augment= made {data.shape} of {name}, which had {tuple(made[name].shape)}; "
                    "take transforms that keep the shape, and do others to the subjects before"
                )
            made[name] = torch.from_numpy(standardise(data, self.store.scale[name]))
        return made, self.recode(result, int(self.codes[row])), origin.of_subject(result)
