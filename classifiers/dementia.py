"""DementiaClassifier: AD against NC, often from the features of a classifier of a larger cohort.

sex = SexClassifier().fit(many)
dementia = DementiaClassifier.from_classifier(sex, freeze=True).fit(few)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from neuromix.classifiers.base import VolumeClassifier


@dataclass(eq=False, repr=False)
class DementiaClassifier(VolumeClassifier):
    """Tell ``yes`` (AD) from ``no`` (NC); subjects with MCI are neither, and left out.

    Its settings are those of :class:`~neuromix.classifiers.base.VolumeClassifier` but the target.
    """

    target: str = field(init=False, default="dementia")
