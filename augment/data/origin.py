"""Where synthetic voxels are from: what each subject carries of it, and the records behind that.

``origin`` is an ordinary key of a subject, as ``synthetic`` is: the folders of the banks, samplers
and completers that made a part of it, which hold their records, and for a mixup the digests of the
real images in it, a line each; ``""`` where all is real. So a record is at hand wherever a subject
is: in a list made from a mix, in a batch of a loader, behind any number of transforms. What is from
a place that holds no record is ``untraced``, and whoever uses it is warned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuromix.augment.data import bids

Person = tuple[str, str]
"""Dataset and subject_id."""

VOXELS = "voxels:"
"""Begins a line that is the digest of a real image."""
SAMPLE, IMPUTED = "_desc-synthetic", "_desc-imputed"
"""In the names of files that a bank or a completer made."""
RECORDS = {
    "bank.json": "provenance",
    "completion.json": "provenance",
    "model_index.json": "provenance",
    "classifier.json": "record",
}
"""Files that hold a record, and under which key."""

_in_memory: dict[str, Mapping[str, Any]] = {}


def is_made(subject: Mapping[str, Any]) -> bool:
    """Whether a subject was made from nothing: no scan of a real person is in it.

    A sample has no name or its own. A person with an imputed image or a mixup keeps the name.
    """
    who = subject.get("subject_id")
    return bool(subject.get("synthetic")) and who in (None, "", subject.get("synthetic_id"))


def person_of(subject: Mapping[str, Any]) -> Person | None:
    """The real person of a subject, if it names one."""
    if is_made(subject) or not subject.get("subject_id"):
        return None
    return str(subject.get("dataset", "")), str(subject["subject_id"])


def of_maker(maker: Any) -> str:
    """What a subject says of its maker.

    That is its ``uri``, a folder that holds its record, or what leads to its ``record``.
    """
    record = getattr(maker, "record", None)
    uri = str(getattr(maker, "uri", ""))
    return (uri or type(maker).__name__) if record is None else remember(record, uri)


def remember(record: Mapping[str, Any], uri: str = "") -> str:
    """Keep a record at hand while the process lives, and return the origin that leads to it."""
    if not uri:
        content = json.dumps(record, sort_keys=True, default=str)
        uri = f"memory:{hashlib.sha256(content.encode()).hexdigest()[:24]}"
    _in_memory[uri] = record
    return uri


def of_subject(subject: Mapping[str, Any]) -> set[str]:
    """The lines of a subject's origin; of a synthetic one that tells none, that it does not."""
    lines = set(str(subject.get("origin", "")).splitlines())
    if subject.get("synthetic") and not lines:
        return {str(subject.get("synthetic_id") or "a synthetic subject")}
    return lines


def of_files(paths: Iterable[str | Path]) -> str:
    """The folders of the banks and completers that made some of these files, or ``""``."""
    origins = []
    for path in map(Path, paths):
        if SAMPLE in path.name or IMPUTED in path.name:
            homes = (up for up in path.parents if any((up / name).is_file() for name in RECORDS))
            origins.append(str(next(homes, path.parent)))
    return join(*origins)


def join(*origins: str) -> str:
    """One origin of several."""
    return "\n".join(dict.fromkeys(line for origin in origins for line in origin.splitlines()))


def records(origins: Iterable[str]) -> list[dict[str, Any]]:
    """The records behind lines of origins; one that says what is untraced, if anything is.

    A folder tells what it holds now, and one that was filled anew tells of whom it held before only
    where this process knows it.
    """
    at: list[dict[str, Any]] = []
    for line in sorted(set(origins)):
        if line.startswith(VOXELS):
            at.append({"voxels": [line.removeprefix(VOXELS)]})
            continue
        known = [record for record in (_in_memory.get(line), read_record(line)) if record]
        at += [dict(record) for record in known] or [{"untraced": [line]}]
    return at


def records_of(*places: str | None) -> list[dict[str, Any]]:
    """The records of models that a training begins from; what is no folder has none."""
    folders = [Path(place) for place in places if place and Path(place).is_dir()]
    above = (read_record(up) for folder in folders for up in (folder, folder.resolve().parent))
    return [record for record in above if record]


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """The record of the bank, sampler, completer or classifier in a folder, if one is there."""
    for name, key in RECORDS.items():
        path = Path(folder) / name
        if path.is_file():
            record = bids.read_json(path).get(key)
            return record if isinstance(record, dict) else None
    return None
