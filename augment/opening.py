"""Open what samples come from, a bank or a sampler, by its path."""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path
from typing import cast

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data import bids
from neuromix.augment.errors import InputError
from neuromix.augment.source import SAMPLERS, Source


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
        return SampleBank(folder)
    kind = bids.read_json(folder / name).get("_class_name")
    if kind not in SAMPLERS:
        raise InputError(
            f"{folder} holds a {kind}; samplers that can be opened are {', '.join(SAMPLERS)}"
        )
    sampler = getattr(importlib.import_module(SAMPLERS[kind].module), kind)
    return cast(Source, sampler.from_pretrained(folder))
