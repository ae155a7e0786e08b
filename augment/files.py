"""Files that are whole or absent: everything neuromix writes goes through here.

A file is first written beside its place under a temporary name, then moved there in one step, so
that Ctrl-C, a full disk or a power cut never leaves half a file under the final name.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import os
import platform
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes ``path`` if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file by itself
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``path`` if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A name beside a path; what dead processes of this machine have left of it is removed."""
    import psutil

    machine = hashlib.blake2b(platform.node().encode(), digest_size=3).hexdigest()
    start = f".{path.name}."
    for left_over in path.parent.iterdir():
        if left_over.name.startswith(start) and left_over.name.endswith(".tmp"):
            where, _, rest = left_over.name.removeprefix(start).partition("-")
            process = rest.partition("-")[0]
            if where == machine and process.isdigit() and not psutil.pid_exists(int(process)):
                if left_over.is_dir():
                    shutil.rmtree(left_over, ignore_errors=True)
                else:
                    left_over.unlink(missing_ok=True)
    return path.with_name(f"{start}{machine}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step, flushed to the disk."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file; arrays and NumPy numbers are accepted, NaN and infinity become null."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a TSV as BIDS wants it: missing values are ``n/a``."""
    write_bytes(path, table.to_csv(sep="\t", index=False, na_rep="n/a").encode())


def write_array(path: Path, count: int, parts: Iterable[np.ndarray], dtype: Any) -> None:
    """Write ``count`` rows of an array, some at a time, so that memory holds no more."""
    with replacing(path) as temporary:
        writer, done = None, 0
        for part in parts:
            if writer is None:
                shape = (count, *part.shape[1:])
                writer = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
            writer[done : done + len(part)] = part
            done += len(part)
        assert writer is not None and done == count
        writer.flush()


def write_nifti(
    path: Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    tr: float | None = None,
    space: str = "MNI152",
) -> None:
    """Write (X, Y, Z) or (X, Y, Z, T) as NIfTI-1, compressed if named ``.gz``.

    Equal input gives equal bytes. ``affine`` is voxel to world in mm; ``tr``, seconds between
    frames. The header claims MNI152 where the name of the ``space`` does.
    """
    import nibabel as nib

    image = nib.Nifti1Image(data, affine)
    code = "mni" if space.startswith("MNI152") else "aligned"
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    image.header.set_xyzt_units("mm", "sec")
    if tr is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    content = image.to_bytes()
    if Path(path).name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=1, mtime=0)
    write_bytes(path, content)


def _plain(value: Any) -> Any:
    """The same content in what JSON knows; what it does not know is left to ``json`` to refuse."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.as_posix() if isinstance(value, Path) else value
