"""Where samples come from: what transforms and experiments ask of a bank or a sampler.

A Source draws a subject for some labels and a seed, and gives the very same one again by its
``synthetic_id``. A Completer makes a missing image of a subject from the others. Both tell a
``uri``, a path that they can be opened from again, so that a history can replay them.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from augment import bids
from augment.errors import InputError

if TYPE_CHECKING:
    import torchio as tio

    from augment.cohort import Cohort


class Source(Protocol):
    """Draws synthetic subjects."""

    @property
    def uri(self) -> str:
        """A path that :func:`open_source` takes, or ``""``."""

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
        """Who had a part in its making: ``augment.leakage.provenance``."""

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
    "TiledMDSampler": Kind("augment.samplers.tiled_md", 1),
    "TaskFMRISampler": Kind("augment.samplers.task_fmri", 1),
    "ModalityCompleter": Kind("augment.samplers.modality", 1),
}
"""Samplers and completers that can be opened, by their class. Nothing is imported before
its use."""


def open_source(uri: str | os.PathLike[str]) -> Source:
    """Open a bank's or a sampler's folder; the same folder is opened once in a process."""
    folder = Path(uri).resolve()
    for name in ("bank.json", "model_index.json"):
        if uri and (folder / name).is_file():
            # A folder that was written to since is another one.
            return _open(folder, name, (folder / name).stat().st_mtime_ns)
    raise InputError(
        f"{str(uri)!r} is no source of samples; name the folder of a bank (`neuromix generate`) or "
        "of a sampler (`neuromix train`)"
    )


@functools.lru_cache(maxsize=8)
def _open(folder: Path, name: str, written: int) -> Source:
    if name == "bank.json":
        return cast(Source, importlib.import_module("augment.bank").SampleBank(folder))
    kind = bids.read_json(folder / name).get("_class_name")
    if kind not in SAMPLERS:
        raise InputError(
            f"{folder} holds a {kind}; samplers that can be opened are {', '.join(SAMPLERS)}"
        )
    sampler = getattr(importlib.import_module(SAMPLERS[kind].module), kind)
    return cast(Source, sampler.from_pretrained(folder))
