"""DementiaClassifier: AD against NC, often from the features of a classifier of a larger cohort.

sex = SexClassifier().fit(many)
dementia = DementiaClassifier.from_classifier(sex, freeze=True).fit(few)
"""

from __future__ import annotations

from typing import Any

from neuromix.classifiers.base import VolumeClassifier


class DementiaClassifier(VolumeClassifier):
    """Tell ``yes`` (AD) from ``no`` (NC); subjects with MCI are neither, and left out.

    Args:
        **options: As in :class:`~neuromix.classifiers.base.VolumeClassifier`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("dementia", **options)
