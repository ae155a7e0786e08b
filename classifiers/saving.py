"""A fitted classifier as files: settings in JSON, weights in safetensors, and no pickled code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from neuromix.augment import files
from neuromix.augment.errors import InputError
from neuromix.classifiers.inputs import Scale
from neuromix.classifiers.training import features_of

FORMAT = 1
SETTINGS, WEIGHTS = "classifier.json", "classifier.safetensors"
FEATURES = "pretrained/"
"""Before the names of weights that a classifier started from."""


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Features of a fitted classifier, which another one starts from.

    It is a setting of that other one: scikit-learn's ``clone`` keeps it, where it would reset a
    classifier.
    """

    kind: str
    features: dict[str, torch.Tensor] = field(repr=False)
    scale: Scale = field(repr=False)
    record: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, source: Any) -> Self:
        """Features of a fitted classifier."""
        state = source.net_.module_.state_dict()
        features = {
            name: tensor.detach().cpu().clone()
            for name, tensor in state.items()
            if "features" in name.split(".")
        }
        return cls(type(source).__name__, features, source.scale_, source.record_)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse images that the features do not fit."""
        has = {name: len(scale) for name, scale in self.scale.items()}
        came = {name: shape[0] for name, shape in shapes.items()}
        if has != came:
            raise InputError(
                f"images with channels {came} came, and the pretrained {self.kind} saw {has}; "
                "prepare them as those it was trained on"
            )

    def give(self, module: torch.nn.Module, *, freeze: bool) -> None:
        """Put the features into a network."""
        fresh = {name for name in module.state_dict() if "features" in name.split(".")}
        if fresh != set(self.features):
            raise InputError(
                f"the features are of another network than network= names; the pretrained "
                f"{self.kind} knows: use VolumeClassifier.from_classifier"
            )
        module.load_state_dict(self.features, strict=False)
        if freeze:
            for part in features_of(module):
                part.requires_grad_(False)


def save(classifier: Any, folder: Path) -> None:
    """Write a fitted classifier; the settings come last, and name nothing that is not there."""
    settings = classifier.get_params(deep=False)
    if not isinstance(classifier.image, str):
        settings["image"] = classifier._images()
    pretrained: Pretrained | None = settings.pop("pretrained")
    if settings.pop("augment") is not None:
        warnings.warn("augment= is not saved; give it again to fit again", stacklevel=3)
    tensors = {k: t.detach().cpu() for k, t in classifier.net_.module_.state_dict().items()}
    content = {
        "format": FORMAT,
        "kind": type(classifier).__name__,
        "settings": settings,
        "classes": classifier.classes_,
        "shapes": classifier.shapes_,
        "scale": classifier.scale_,
        "temperature": classifier.temperature_,
        "steps": classifier.steps_,
        "history": classifier.history_,
        "record": classifier.record_,
    }
    if pretrained is not None:
        tensors |= {f"{FEATURES}{name}": tensor for name, tensor in pretrained.features.items()}
        content["pretrained"] = {
            "kind": pretrained.kind,
            "scale": pretrained.scale,
            "record": pretrained.record,
        }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    files.write_bytes(folder / WEIGHTS, save_tensors(tensors))
    files.write_json(folder / SETTINGS, content)


def load(cls: type[Any], folder: Path) -> Any:
    """Read a fitted classifier of this very class."""
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} has no {SETTINGS}; name a folder that a classifier's save made")
    try:
        content = json.loads((folder / SETTINGS).read_text())
        saved, kind = content["format"], content["kind"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / SETTINGS} is damaged; save the classifier again") from None
    if saved != FORMAT:
        raise InputError(
            f"{folder} was saved in format {saved}, and this version of neuromix reads {FORMAT}; "
            "load it with the version that saved it, or train again"
        )
    if kind != cls.__name__:
        raise InputError(f"{folder} holds a {kind}, not a {cls.__name__}; use {kind}.load")
    try:
        tensors = load_tensors((folder / WEIGHTS).read_bytes())
        features = {
            name.removeprefix(FEATURES): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(FEATURES)
        }
        classifier = cls(**content["settings"])
        classifier.classes_ = np.array(content["classes"])
        classifier.shapes_ = {name: tuple(shape) for name, shape in content["shapes"].items()}
        classifier.scale_ = _arrays(content["scale"])
        classifier.temperature_ = content["temperature"]
        classifier.steps_, classifier.history_ = content["steps"], content["history"]
        classifier.record_ = content["record"]
        if "pretrained" in content:
            saved = content["pretrained"]
            scale = _arrays(saved["scale"])
            classifier.pretrained = Pretrained(saved["kind"], features, scale, saved["record"])
        with torch.random.fork_rng():
            module = classifier._module()
        module.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder} is damaged ({reason}); save the classifier again") from None
    classifier.net_ = classifier._wrap(module)
    return classifier


def _arrays(scale: Mapping[str, Any]) -> Scale:
    return {name: np.array(values, float) for name, values in scale.items()}
