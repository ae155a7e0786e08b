"""neuromix: diffusion-made brain MRI as a drop-in augmentation transform."""

import importlib
from typing import Any

_HOMES = {
    "Cohort": "augment.cohort",
    "Grid": "augment.grid",
    "InputError": "augment.errors",
    "LabelSpace": "augment.conditions",
    "Problem": "augment.validate",
    "Split": "augment.cohort",
    "TiledMDSampler": "augment.samplers.tiled_md",
    "make_phantom": "augment.phantom",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import augment`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'augment' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
