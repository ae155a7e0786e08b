"""neuromix: diffusion-made brain MRI as a drop-in augmentation transform."""

import importlib
from typing import Any

_HOMES = {
    "Cohort": "neuromix.augment.data.cohort",
    "CompleteModality": "neuromix.augment.transforms",
    "FillMissing": "neuromix.augment.transforms",
    "GeneratorKFold": "neuromix.augment.data.folds",
    "Grid": "neuromix.augment.data.grid",
    "InputError": "neuromix.augment.errors",
    "LabelSpace": "neuromix.augment.data.conditions",
    "LeakageError": "neuromix.augment.errors",
    "Problem": "neuromix.augment.data.checks",
    "RandomSynthetic": "neuromix.augment.transforms",
    "SampleBank": "neuromix.augment.bank.bank",
    "Split": "neuromix.augment.data.cohort",
    "Synthetic": "neuromix.augment.transforms",
    "SyntheticSampler": "neuromix.augment.mixing",
    "TaskFMRISampler": "neuromix.augment.fmri.sampler",
    "TiledMDSampler": "neuromix.augment.tiled.sampler",
    "TimeConsistent": "neuromix.augment.transforms",
    "make_phantom": "neuromix.augment.phantom",
    "mix": "neuromix.augment.mixing",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(
            f"module 'neuromix.augment' has no attribute {name!r}; it has {__all__}"
        )
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
