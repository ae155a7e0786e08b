"""Where samples come from: what transforms and experiments ask of a bank or a sampler.

A Source draws a subject for some labels and a seed, and gives the very same one again by its
``synthetic_id``. A Completer makes a missing image of a subject from the others. Both tell a
``uri``, a path that they can be opened from again, so that a history can replay them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort


class Source(Protocol):
    """Draws synthetic subjects."""

    @property
    def uri(self) -> str:
        """A path that :func:`neuromix.augment.opening.open_source` takes, or ``""``."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that can be asked for."""

    def draw(self, labels: Mapping[str, Any], seed: int) -> tio.Subject:
        """A subject of these labels; equal seeds give equal subjects."""

    def replay(self, synthetic_id: str) -> tio.Subject:
        """The very same subject again that was drawn with this ``synthetic_id``."""

    def check_disjoint(self, cohort: Cohort, *, voxels: bool = True) -> None:
        """Raise ``LeakageError`` if a subject of the cohort had a part in its making."""


class Completer(Protocol):
    """Makes a missing image of a subject."""

    @property
    def uri(self) -> str:
        """A path that it can be opened from again, or ``""``."""

    def complete(
        self,
        subject: tio.Subject,
        want: str,
        seed: int,
        labels: Mapping[str, Any] | None = None,
    ) -> tio.Image:
        """The image ``want``, made to fit the images that the subject has."""


class Sampler(Protocol):
    """What a bank asks of the sampler that fills it.

    A sample must not depend on the others of its call.
    """

    @property
    def version(self) -> int:
        """Grows when equal weights, labels and seeds give other samples."""

    @property
    def record(self) -> dict[str, Any]:
        """Who had a part in its making: ``neuromix.augment.data.leakage.provenance``.

        And the ``space`` that it makes images in; a bank calls it custom where nothing is said.
        """

    def fingerprint(self) -> str:
        """A digest of the weights and of all else that decides a sample."""

    def __call__(
        self, labels: Sequence[Mapping[str, Any]], seeds: Sequence[int], steps: int, guidance: float
    ) -> list[tio.Subject]:
        """A subject for each of the labels."""


class Kind(NamedTuple):
    """A class of samplers: where it lives and its version."""

    module: str
    version: int


SAMPLERS = {
    "TiledMDSampler": Kind("neuromix.augment.tiled.sampler", 1),
    "TaskFMRISampler": Kind("neuromix.augment.fmri.sampler", 1),
    "ModalityCompleter": Kind("neuromix.augment.pds.completer", 1),
}
"""Samplers and completers that can be opened, by their class. Nothing is imported before
its use."""
