"""neuromix: diffusion-made brain MRI as a drop-in augmentation transform."""

import importlib
from typing import Any

_HOMES = {
    "Cohort": "augment.cohort",
    "CompleteModality": "augment.transforms",
    "FillMissing": "augment.transforms",
    "GeneratorKFold": "augment.folds",
    "Grid": "augment.grid",
    "InputError": "augment.errors",
    "LabelSpace": "augment.conditions",
    "LeakageError": "augment.errors",
    "Problem": "augment.validate",
    "RandomSynthetic": "augment.transforms",
    "SampleBank": "augment.bank",
    "Split": "augment.cohort",
    "Synthetic": "augment.transforms",
    "SyntheticSampler": "augment.mixing",
    "TaskFMRISampler": "augment.samplers.task_fmri",
    "TiledMDSampler": "augment.samplers.tiled_md",
    "TimeConsistent": "augment.transforms",
    "make_phantom": "augment.phantom",
    "mix": "augment.mixing",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import augment`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'augment' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
