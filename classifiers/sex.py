"""SexClassifier: female or male, the label that every cohort has, and a start for rarer ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from neuromix.classifiers.base import VolumeClassifier


@dataclass(eq=False, repr=False)
class SexClassifier(VolumeClassifier):
    """Tell ``F`` from ``M``; its settings are those of ``VolumeClassifier`` but for the target."""

    target: str = field(init=False, default="sex")
