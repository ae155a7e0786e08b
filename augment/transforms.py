"""Drop-in TorchIO transforms: synthetic subjects, missing modalities, frames that change together.

A random transform draws from torch's generator and hands what it drew to its deterministic twin,
which alone enters the history of the subject and replays the very same result:

    RandomSynthetic -> Synthetic,  CompleteModality -> Completed,  TimeConsistent -> SharedOverTime

``synthetic`` is True as soon as a voxel of the subject is, ``synthetic_id`` says which sample it is
and ``origin`` where that is from (:mod:`neuromix.augment.data.origin`); all are ordinary keys,
since ``tio.SubjectsLoader`` drops the history.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torchio as tio
from torchio.transforms.augmentation import RandomTransform
from torchio.transforms.data_parser import DataParser
from torchio.transforms.intensity_transform import IntensityTransform
from torchio.transforms.preprocessing.intensity import NormalizationTransform
from torchio.utils import get_subclasses

from neuromix.augment.data import origin
from neuromix.augment.data.leakage import voxels_of
from neuromix.augment.errors import InputError
from neuromix.augment.opening import open_source
from neuromix.augment.replacement import (
    BARE,
    Frame,
    fit,
    from_dict,
    has_image,
    labels_of,
    partner,
    replacement,
    to_dict,
    with_images,
    with_marks,
    with_origin,
)
from neuromix.augment.source import Completer, Source

MODES = ("replace", "mixup")


class _Marked(tio.Transform):
    """Takes what TorchIO's transforms take, and MONAI's dicts of MetaTensors.

    The output carries ``synthetic``, ``synthetic_id`` and ``origin`` whether or not it was changed,
    so that batches collate. The input is never modified, whatever ``copy`` says: results are built
    anew.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"copy": False})

    def __call__(self, data: Any, labels: Mapping[str, Any] | None = None) -> Any:
        """Transform a subject, a dict or, with its labels beside it, a bare image.

        Args:
            data: A ``tio.Subject``; a dict with tensors, arrays or MetaTensors (C, X, Y, Z) under
                the keys in ``include``; or one image, tensor or array.
            labels: Of an image without a subject, such as ``{"sex": "F"}``.

        Returns:
            The same type as the input.
        """
        if labels is not None and isinstance(data, Mapping) and not isinstance(data, tio.Image):
            raise InputError("labels came beside a subject or dict; put them under its keys")
        if isinstance(data, tio.Subject):
            return super().__call__(with_marks(data))
        if isinstance(data, dict) and not isinstance(data, tio.Image):
            subject = with_marks(from_dict(data, self.include, self.label_keys))
            return to_dict(super().__call__(subject), data)
        parser = DataParser(data)
        subject = parser.get_subject()
        subject.update(labels or {})
        return parser.get_output(super().__call__(with_marks(subject)))


class RandomSynthetic(_Marked, RandomTransform):
    """Put a synthetic subject in the place of a real one, or mix the two.

    Put it first in a ``Compose``: what comes before it changes the real image alone.

    ``replace`` takes all labels and images from a sample whose ``match`` labels are those of the
    subject; keys that the sample does not know become missing (``""`` or NaN), so that a batch
    collates and no label of the real subject stays. ``mixup`` keeps the subject's keys and blends
    its images with those of such a sample. A subject one of whose ``match`` labels is missing stays
    as it is.

    Where ``include`` or ``exclude`` say so an image stays the subject's own: that fits an atlas or
    a mask common to all subjects.

    Args:
        source: A :class:`~neuromix.augment.bank.bank.SampleBank`, a sampler that was saved (with
            ``num_workers=0`` only), or the path of one.
        match: Labels that a sample must share with the subject. The target that a classifier
            learns must be among them.
        p: Probability that a subject is changed.
        mode: ``replace`` or ``mixup``.
        alpha: Of the symmetric Beta distribution that ``mixup`` draws the sample's weight from, 0.4
            by default. Large values mix evenly, small ones leave either image almost alone.
        **kwargs: As in every TorchIO transform.
    """

    def __init__(
        self,
        source: Source | str | Path,
        match: str | Sequence[str],
        p: float = 0.5,
        mode: str = "replace",
        alpha: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(p=p, **kwargs)
        if isinstance(source, str | Path):
            source = open_source(source)
        match = (match,) if isinstance(match, str) else tuple(match)
        if mode not in MODES:
            raise InputError(f"mode {mode!r} is not known; allowed are {', '.join(MODES)}")
        if not hasattr(source, "draw"):
            raise InputError(
                f"{type(source).__name__} draws no samples; name a bank or a sampler, or use "
                "CompleteModality if it is a completer"
            )
        _require_use(self, source, p)
        unknown = [name for name in match if name not in source.labels]
        if unknown or not match:
            raise InputError(
                f"match={match} came; one or more of {', '.join(source.labels)} are allowed, which "
                f"{source.uri} knows; name at least the target of your classifier"
            )
        if alpha is not None and not 0 < alpha < float("inf"):
            raise InputError(f"alpha {alpha} came; it must be above 0, such as 0.4")
        if alpha is not None and mode == "replace":
            warnings.warn("alpha changes nothing in mode='replace'", stacklevel=2)
        self.source = source
        self.origin = origin.of_maker(source)
        self.match = match
        self.mode = mode
        self.alpha = 0.4 if alpha is None else alpha

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Draw a sample and its weight, and hand them to the twin."""
        labels = labels_of(subject, self.match)
        if len(labels) < len(self.match):
            return subject
        earlier = sorted(_intensity_names().intersection(n for n, _ in subject.applied_transforms))
        if earlier:
            warnings.warn(
                f"{earlier[0]} changed the real image before RandomSynthetic and will not change "
                "the sample; put RandomSynthetic first",
                stacklevel=2,
            )
        sample = self.source.draw(labels, self._get_random_seed())
        weight = 1.0
        if self.mode == "mixup":
            weight = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        twin = Synthetic(
            self.source.uri,
            sample["synthetic_id"],
            self.mode,
            weight,
            **self._get_base_args(),
        )
        twin.drawn = with_origin(sample, self.origin)
        return twin(subject)


class Synthetic(_Marked):
    """Put one certain sample in the place of a subject; what :class:`RandomSynthetic` records.

    ``weight`` is the sample's share of a ``mixup``.
    """

    def __init__(
        self,
        source: str,
        sample_id: str,
        mode: str = "replace",
        weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.sample_id = sample_id
        self.mode = mode
        self.weight = weight
        self.drawn: tio.Subject | None = None
        self.args_names = ["source", "sample_id", "mode", "weight"]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Build the result; the real images are read by ``mixup`` only."""
        sample = self.drawn
        if sample is None:
            sample = with_origin(open_source(self.source).replay(self.sample_id), self.source)
        is_mixup = self.mode == "mixup"
        include = None if BARE in subject else self.include
        images = subject.get_images_dict(is_mixup, include, self.exclude)
        frames = {name: Frame.of(image) for name, image in images.items()}
        if not is_mixup:
            kept = set(subject.get_images_names()) - set(images)
            return replacement(sample, subject, frames, kept)
        blends = {
            name: tio.ScalarImage(
                tensor=torch.lerp(
                    image.data.float(),
                    fit(partner(sample, name), frames[name]).data.float(),
                    self.weight,
                ),
                affine=image.affine,
            )
            for name, image in images.items()
        }
        parents = (f"{origin.VOXELS}{d}" for d in sorted(voxels_of(subject, images)))
        return with_images(subject, blends, self.sample_id, origin.join(sample["origin"], *parents))


class CompleteModality(_Marked, RandomTransform):
    """Fill in an image that a subject lacks, from others that it has.

    A real image is never overwritten; a subject that has none to make it from stays as it is.

    Args:
        completer: Sees the real subject and makes the image, a
            :class:`~neuromix.augment.source.Completer` or the path of one.
        have: The image that it is made from, or several, of which those that are there count.
        want: The image to fill in, where it is absent or a placeholder of :class:`FillMissing`.
        p: Probability that a subject is completed.
        **kwargs: As in every TorchIO transform.
    """

    def __init__(
        self,
        completer: Completer | str | Path,
        have: str | Sequence[str],
        want: str,
        p: float = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(p=p, **kwargs)
        if isinstance(completer, str | Path):
            completer = cast(Completer, open_source(completer))
        if not hasattr(completer, "complete"):
            raise InputError(
                f"{completer!r} completes no images; a completer is needed, see "
                "neuromix.augment.source"
            )
        have = [have] if isinstance(have, str) else list(have)
        if want in have or not have:
            raise InputError(f"have {', '.join(have)} and want {want} came; name different images")
        _require_use(self, completer, p)
        self.completer = completer
        self.origin = origin.of_maker(completer)
        self.have = have
        self.want = want

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Draw a seed and hand it to the twin."""
        if has_image(subject, self.want) or not any(has_image(subject, n) for n in self.have):
            return subject
        seed = self._get_random_seed()
        twin = Completed(self.completer.uri, self.have, self.want, seed, **self._get_base_args())
        twin.completer = self.completer
        return twin(subject)


class Completed(_Marked):
    """Fill in a modality with a certain seed; what :class:`CompleteModality` records."""

    def __init__(
        self, source: str, have: Sequence[str], want: str, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.have = list(have)
        self.want = want
        self.seed = seed
        self.completer: Completer | None = None
        self.args_names = ["source", "have", "want", "seed"]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Complete the subject, unless a real image is there."""
        if has_image(subject, self.want):
            return subject
        completer = self.completer or cast(Completer, open_source(self.source))
        hidden = set(subject.get_images_dict(intensity_only=False)) - set(self.have)
        shown = tio.Subject({name: part for name, part in subject.items() if name not in hidden})
        image = completer.complete(shown, self.want, self.seed)
        made_as = f"{self.want}:seed={self.seed}"
        result = with_images(subject, {self.want: image}, made_as, self.source)
        if "present" in result:
            result["present"] = result["present"] | {self.want: True}
            result.update_attributes()
        return result


class FillMissing(_Marked):
    """Give every subject the same images: zeros where one is missing, and a mask that says so.

    ``present`` becomes a dict such as ``{"fmri": True, "dmri": False}``, which a loader collates to
    tensors of booleans. Put it last.

    Args:
        shapes: The images that every subject gets, with their shape (C, X, Y, Z).
        **kwargs: As in every TorchIO transform.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shapes = {name: [int(side) for side in shape] for name, shape in shapes.items()}
        for name, shape in self.shapes.items():
            if len(shape) != 4 or min(shape) < 1:
                raise InputError(f"{name} has the shape {shape}; four sides are needed: C, X, Y, Z")
        self.args_names = ["shapes"]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Add what is missing; a placeholder takes the affine of the subject's first image."""
        present = {name: has_image(subject, name) for name in self.shapes}
        for name in present:
            if present[name] and list(subject[name].shape) != self.shapes[name]:
                raise InputError(
                    f"{name} has the shape {list(subject[name].shape)} and FillMissing was told "
                    f"{self.shapes[name]}; bring all subjects to one grid with `neuromix prepare`"
                )
        affine = subject.get_first_image().affine
        zeros = {
            name: tio.ScalarImage(tensor=torch.zeros(self.shapes[name]), affine=affine)
            for name in present
            if name not in subject
        }
        result = tio.Subject({**copy.deepcopy(subject), **zeros, "present": present})
        result.applied_transforms = list(subject.applied_transforms)
        return result


class TimeConsistent(RandomTransform):
    """Do to every frame of a 4D image (channels are frames) what is drawn for the first.

    ``RandomGamma`` draws anew for every channel; inside this wrapper it draws once. Frames that
    were equal stay equal, so the noise of a ``RandomNoise`` is the same in all of them.

    Args:
        transform: A TorchIO intensity transform, or ``Compose`` or ``OneOf`` of several.
        **kwargs: As in every TorchIO transform.
    """

    def __init__(self, transform: tio.Transform, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(transform, tio.Transform):
            raise InputError(f"{transform!r} came; TimeConsistent takes a TorchIO transform")
        self.transform = transform

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Draw for the first frame and hand what was recorded to the twin."""
        images = subject.get_images_dict(True, self.include, self.exclude)
        if not images:
            return subject
        steps = self.transform(_frame(subject, images, 0)).applied_transforms
        return SharedOverTime(steps, **self._get_base_args())(subject) if steps else subject


class SharedOverTime(tio.Transform):
    """Apply recorded transforms to every frame; what :class:`TimeConsistent` records."""

    def __init__(self, steps: Sequence[tuple[str, dict[str, Any]]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        allowed = _intensity_names() - {c.__name__ for c in get_subclasses(NormalizationTransform)}
        for name, _ in steps:
            if name not in allowed:
                raise InputError(
                    f"{name} treats all frames alike by itself; TimeConsistent is for intensity "
                    f"transforms: {', '.join(sorted(allowed))}"
                )
        self.steps = list(steps)
        self.args_names = ["steps"]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Change frame after frame."""
        images = subject.get_images_dict(True, self.include, self.exclude)
        replay = _frame(subject, images, 0)
        replay.applied_transforms = self.steps
        steps = replay.get_composed_history()
        frames: dict[str, list[torch.Tensor]] = {name: [] for name in images}
        for time in range(max(len(image.data) for image in images.values())):
            now = steps(_frame(subject, images, time))
            for name in images:
                if name in now:
                    frames[name].append(now[name].data)
        for name, image in images.items():
            image.set_data(torch.cat(frames[name]))
        return subject


def _require_use(transform: tio.Transform, maker: Source | Completer, p: float) -> None:
    """Refuse what no history could replay, and warn of a transform that never does anything."""
    if not maker.uri:
        raise InputError(
            f"{type(maker).__name__} lies at no path, so that a history could not be replayed; "
            "save it and open it from there"
        )
    if p == 0:
        warnings.warn(f"{transform.name} with p=0 changes nothing", stacklevel=3)


def _frame(subject: tio.Subject, images: Mapping[str, tio.Image], time: int) -> tio.Subject:
    """One frame of the images that are that long, beside the subject's label maps."""
    others = {
        key: value for key, value in subject.items() if not isinstance(value, tio.ScalarImage)
    }
    frames = {
        name: tio.ScalarImage(tensor=image.data[time : time + 1].clone(), affine=image.affine)
        for name, image in images.items()
        if time < len(image.data)
    }
    return tio.Subject({**others, **frames})


@functools.cache
def _intensity_names() -> frozenset[str]:
    return frozenset(kind.__name__ for kind in get_subclasses(IntensityTransform))
