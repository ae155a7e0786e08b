"""StageClassifier: NC, MCI or AD, which have an order."""

from __future__ import annotations

from dataclasses import dataclass, field

from neuromix.classifiers.base import VolumeClassifier


@dataclass(eq=False, repr=False)
class StageClassifier(VolumeClassifier):
    """Tell the stages ``NC``, ``MCI`` and ``AD`` apart.

    Its settings are those of :class:`~neuromix.classifiers.base.VolumeClassifier` but the target.

    Args:
        ordinal: Learn how far a subject has gone, and where one stage ends and the next begins
            (:func:`neuromix.classifiers.networks.ordinal`), so that AD is a worse answer to NC than
            MCI is. Otherwise the stages are classes without an order.
    """

    target: str = field(init=False, default="diagnosis")
    ordinal: bool = field(default=False, kw_only=True)

    @property
    def is_ordinal(self) -> bool:
        """Whether the network learns the order of the stages."""
        return self.ordinal
