"""A person who withdraws: which banks, samplers, completers and classifiers they had a part in.

Their records are asked, which hold salted hashes of names and of images, and no name. What a person
had a part in can't be freed of them: it is made again without them, samplers first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from neuromix.augment.data import bids
from neuromix.augment.data.leakage import image_hashes, subject_hash
from neuromix.augment.data.origin import RECORDS
from neuromix.augment.errors import InputError

COMMANDS = {"TiledMDSampler": "md", "TaskFMRISampler": "fmri", "ModalityCompleter": "pds"}
"""How ``neuromix train`` calls each sampler."""
ORDER = ("model_index.json", "bank.json", "completion.json", "classifier.json")
"""In which order they are made again."""


class Part(NamedTuple):
    """Something that a person had a part in."""

    folder: Path
    what: str
    """What it is."""
    how: str
    """By what the person is known in it: name, image, or both."""
    remedy: str
    """How it is made again without the person."""


def parts_of(root: Path, dataset: str, subject_id: str, image: Path | None = None) -> list[Part]:
    """Everything under a folder that a person had a part in, in the order of making it again.

    ``image``, one of the person's, finds them under other names, too.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder; name one with banks, samplers or classifiers")
    if image is not None and not image.is_file():
        raise InputError(f"{image} does not exist; name an image of the person, or none")
    digest = next(image_hashes([image])) if image else ""
    name, who = subject_hash(dataset, subject_id), subject_id.removeprefix("sub-")
    parts = []
    walk = ((Path(folder) / n, n) for folder, _, names in os.walk(root) for n in names)
    records = [path for path, n in walk if n in RECORDS]
    for path in sorted(records, key=lambda p: (ORDER.index(p.name), p)):
        about = bids.read_json(path)
        record: dict[str, Any] = about.get(RECORDS[path.name]) or {}
        known = {
            "by name": name in record.get("subjects", ()),
            "by an image": bool(digest) and digest in record.get("voxels", ()),
            # Whoever the completer was fitted on.
            "as one who is filled in": path.name == "completion.json"
            and bids.title_of(path.parent).lower() == dataset.lower()
            and (path.parent / f"sub-{who}").is_dir(),
        }
        if any(known.values()):
            how = ", ".join(way for way, is_so in known.items() if is_so)
            what, remedy = _remedy(path, about)
            parts.append(Part(path.parent, what, how, remedy))
    return parts


def _remedy(path: Path, about: dict[str, Any]) -> tuple[str, str]:
    """What a folder holds, and how it is made again."""
    settings = about.get("settings", {})
    if path.name == "model_index.json":
        kind = str(about.get("_class_name"))
        command = f"`neuromix train {COMMANDS.get(kind, 'KIND')} TRAIN.tsv NEW`"
        return kind, (
            f"take the person's rows out of the training and validation tables, then {command}; "
            "its settings stand under provenance in model_index.json"
        )
    if path.name == "bank.json":
        return f"bank of {about.get('samples')} samples", (
            "`neuromix generate SAMPLER NEW` with a sampler, filters and a --like table without "
            f"the person; it had --seed {settings.get('seed')} --steps {settings.get('steps')} "
            f"--guidance {settings.get('guidance')}, its labels stand in participants.tsv"
        )
    if path.name == "completion.json":
        return "completions", (
            "`neuromix complete --data DATA --sampler COMPLETER --out NEW` with a completer "
            "without the person, and DATA without them; it had "
            f"--seed {settings.get('seed')} --samples {settings.get('samples')}"
        )
    return str(about.get("kind", "classifier")), (
        "fit it again on subjects and banks without the person; its settings stand in "
        "classifier.json"
    )
