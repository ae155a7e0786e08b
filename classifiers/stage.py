"""StageClassifier: NC, MCI or AD, which have an order."""

from __future__ import annotations

from typing import Any

from neuromix.classifiers.base import VolumeClassifier


class StageClassifier(VolumeClassifier):
    """Tell the stages ``NC``, ``MCI`` and ``AD`` apart.

    Args:
        ordinal: Learn how far a subject has gone, and where one stage ends and the next begins
            (:func:`neuromix.classifiers.networks.ordinal`), so that AD is a worse answer to NC than
            MCI is. Otherwise the stages are classes without an order.
        **options: As in :class:`~neuromix.classifiers.base.VolumeClassifier`.
    """

    def __init__(self, *, ordinal: bool = False, **options: Any) -> None:
        super().__init__("diagnosis", **options)
        self.ordinal = ordinal

    @property
    def is_ordinal(self) -> bool:
        """Whether the network learns the order of the stages."""
        return self.ordinal
