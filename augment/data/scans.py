"""Images whose files are whole: what a reader would make up for a lost piece is never used."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import torchio as tio
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from neuromix.augment.errors import InputError

CHUNK = 2**22
LONGEST_HEADER = 540
"""Bytes of the longer of the two headers."""
MAGIC = b"\x1f\x8b"
"""Of gzip, whatever a file is called."""


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
    What is no NIfTI, or has a header that nibabel does not understand, is left to its reader.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    try:
        with path.open("rb") as stream:
            is_packed = stream.read(2) == MAGIC
        needed = _needed(path, is_packed)
        is_whole = _holds(path, is_packed, needed)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        is_whole = False
    if not is_whole:
        raise InputError(
            f"{path} is truncated or damaged: voxels are missing at its end; copy or export the "
            "file again, or drop the row (`neuromix cohort` lists all such files)"
        )


def _needed(path: Path, is_packed: bool) -> int:
    """Bytes that the header speaks of; 0 where none is understood."""
    with gzip.open(path) if is_packed else path.open("rb") as stream:
        start = stream.read(LONGEST_HEADER)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        try:
            header: Any = kind.header_class.from_fileobj(io.BytesIO(start), check=False)
            offset, shape = int(header["vox_offset"]), header.get_data_shape()
            if int(header["sizeof_hdr"]) == kind.header_class.sizeof_hdr:
                return offset + math.prod(shape) * int(header.get_data_dtype().itemsize)
        except (HeaderDataError, WrapStructError, ValueError):
            continue
    return 0


def _holds(path: Path, is_packed: bool, needed: int) -> bool:
    """Whether a file has so many bytes, once it is unpacked."""
    if not is_packed:
        return path.stat().st_size >= needed
    with path.open("rb") as stream:
        stream.seek(max(-4, -path.stat().st_size), 2)
        claimed = int.from_bytes(stream.read(), "little")
    if claimed == needed % 2**32:  # as the last four bytes of an unbroken file tell
        return True
    size = 0  # several members, surplus data, or a piece that is missing
    with gzip.open(path) as packed:
        while size < needed and (chunk := packed.read(min(CHUNK, needed - size))):
            size += len(chunk)
    return size >= needed
