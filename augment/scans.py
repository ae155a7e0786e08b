"""Images whose files are whole: what a reader would make up for a lost piece is never used."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import torchio as tio
from nibabel.filebasedimages import ImageFileError

from augment.errors import InputError

CHUNK = 2**22


class WholeImage(tio.ScalarImage):
    """A TorchIO image that refuses to load a NIfTI file which ends too early.

    Its usual reader fills up what a truncated ``.nii.gz`` lacks, without a word.
    """

    def load(self) -> None:
        """See :class:`torchio.Image`."""
        if not self._loaded and isinstance(self.path, Path):
            require_whole(self.path)
        super().load()


def require_whole(path: Path) -> None:
    """Raise ``InputError`` if a NIfTI file ends before its voxels do. It costs a header's reading.

    Flipped bits are not looked for, which takes reading all of the file: see ``Cohort.validate``.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    try:
        needed = _needed(path)
        found = _size(path, needed)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        found, needed = -1, 0
    if found < needed:
        raise InputError(
            f"{path} is truncated or damaged: voxels are missing at its end; copy or export the "
            "file again, or drop the row (`neuromix cohort` lists all such files)"
        )


def _needed(path: Path) -> int:
    """Bytes that the header speaks of; none, where there is no header."""
    try:
        voxels: Any = nib.load(path).dataobj
    except ImageFileError:
        return 0  # no NIfTI, whatever its name: the reader may know it
    return int(voxels.offset) + math.prod(voxels.shape) * int(voxels.dtype.itemsize)


def _size(path: Path, needed: int) -> int:
    """Bytes of a file once it is unpacked."""
    if not path.name.endswith(".gz"):
        return path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(-4, -path.stat().st_size), 2)
        told = int.from_bytes(stream.read(), "little")
    if told == needed % 2**32:  # as the last four bytes of an unbroken file tell
        return needed
    size = 0  # several members, surplus data, or a piece that is missing
    with gzip.open(path) as packed:
        while chunk := packed.read(CHUNK):
            size += len(chunk)
    return size
