"""SexClassifier: female or male, the label that every cohort has, and a start for rarer ones."""

from __future__ import annotations

from typing import Any

from neuromix.classifiers.base import VolumeClassifier


class SexClassifier(VolumeClassifier):
    """Tell ``F`` from ``M``.

    Args:
        **options: As in :class:`~neuromix.classifiers.base.VolumeClassifier`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("sex", **options)
