"""What there is to prepare: the scans of a BIDS or HCP folder or of a cohort, and their files."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromix.augment.data import bids
from neuromix.augment.data.grid import SPACE
from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    from neuromix.augment.data.cohort import Cohort

INPUTS = {"md": ("md", "dwi"), "bold": ("bold",), "segments": ("bold", "dwi"), "map": ()}
"""What can be prepared, and from which images (:mod:`neuromix.augment.data.bids`); a map is any
one of a cohort."""

HCP_SPACE = "MNI152NLin6Asym"
HCP_RUN = re.compile(r"tfMRI_([A-Za-z0-9]+)_(LR|RL|AP|PA)")

Entities = Mapping[str, str | Collection[str]]


@dataclass(frozen=True)
class Scan:
    """One image (``md``, ``dwi``, ``bold``, ``map``) to prepare, and what JSON files say of it.

    Its companions are files beside it: ``mask``, ``bval``, ``bvec``, ``events`` (a TSV, or HCP's
    folder).
    """

    kind: str
    image: Path
    entities: dict[str, str]
    sidecar: dict[str, Any] = field(default_factory=dict)
    companions: dict[str, Path] = field(default_factory=dict)

    @property
    def is_in_mni(self) -> bool:
        """Whether the image has been brought to MNI152 space already."""
        return self.entities.get("space", "").startswith(bids.MNI)

    def prepared_space(self, to: str) -> str:
        """The space of what is made of the image: its own if it tells one, or what it goes to."""
        own = self.entities.get("space", "")
        return own if self.is_in_mni or to == "none" else SPACE if to == "template" else to


def find_scans(
    root: Path, what: str, raw: Path, entities: Entities
) -> tuple[list[Scan], dict[str, str]]:
    """List the scans of a BIDS dataset, or of HCP's ``<subject>/MNINonLinear/Results`` tree.

    Events are looked for in ``raw`` too, the dataset behind a derivative. Also returned is why the
    files of a subject are ambiguous, where they are.
    """
    if "bold" in INPUTS[what] and (hcp := _hcp_scans(root)):
        chosen = [scan for scan in hcp if _has(scan.entities, entities)]
        if not chosen:
            raise InputError(f"{root} has {len(hcp)} HCP runs, but none with {dict(entities)}")
        return chosen, {}
    present = Counter(file.image for file in bids.index(root))
    kinds = [kind for kind in INPUTS[what] if kind in present]
    if present and not kinds:
        has = ", ".join(f"{count} {kind}" for kind, count in present.items())
        raise InputError(
            f"{root} has no {' or '.join(INPUTS[what])} image to make {what} of; it has {has}"
        )
    chosen_files, _ = bids.find(root, kinds or INPUTS[what][-1:], entities)
    known = {file.path: file for file in chosen_files}
    # Either of MD and DWI makes one map; BOLD and DWI make a file each.
    groups = [tuple(kinds)] if what == "md" else [(kind,) for kind in kinds]
    scans, failures = [], {}
    for subject, members in itertools.groupby(chosen_files, key=lambda file: file.entities["sub"]):
        files = list(members)
        try:
            for group in groups:
                rows = bids.join_runs([file for file in files if file.image in group], group)
                paths = [next(path for path in row[2 + len(bids.RUN) :] if path) for row in rows]
                scans += [_scan(known[path], raw) for path in paths]
        except InputError as error:
            failures[f"sub-{subject}"] = str(error)
    return scans, failures


def map_scans(cohort: Cohort, image: str) -> list[Scan]:
    """The scans of one map of a cohort; its subjects are renamed where BIDS forbids their names."""
    if image not in cohort.images:
        raise InputError(f"{cohort.name} has no image {image!r}; it has {', '.join(cohort.images)}")
    scans: dict[tuple[str, str], Scan] = {}
    for row in cohort.table.to_dict("records"):
        path = Path(row[f"{image}_path"])
        if not row[f"{image}_path"]:
            continue
        person = bids_label(row["subject_id"]), bids_label(row["session_id"])
        if person in scans:
            raise InputError(
                f"{path} and {scans[person].image} are both of sub-{person[0]} in one session; "
                "keep one, or give a session_id"
            )
        space = bids.space_of([path]).replace(bids.CUSTOM, "")
        named = {"sub": person[0], "ses": person[1], "space": space}
        entities = {key: label for key, label in named.items() if label}
        mask = None
        if path.name.startswith("sub-"):
            with contextlib.suppress(InputError):
                mask = _mask(path, bids.parse_name(path.name)[0])
        scans[person] = Scan("map", path, entities, companions={"mask": mask} if mask else {})
    if not scans:
        raise InputError(f"{cohort.name} has no file of {image}; name an image that subjects have")
    return list(scans.values())


def bids_label(text: str) -> str:
    """A name as BIDS allows it in a file's, of letters and digits."""
    return re.sub("[^0-9A-Za-z]", "", text)


def _scan(file: bids.ImageFile, raw: Path) -> Scan:
    image = Path(file.path)
    endings = {
        "bold": {"events": "events.tsv"}, "dwi": {"bval": "dwi.bval", "bvec": "dwi.bvec"},
    }.get(file.image, {})  # fmt: skip
    companions = {
        name: next(bids.files_about(image, ending, [raw] if name == "events" else []), None)
        for name, ending in endings.items()
    }
    companions["mask"] = _mask(image, file.entities)
    there = {name: path for name, path in companions.items() if path}
    return Scan(file.image, image, file.entities, bids.metadata(image), there)


def _mask(image: Path, entities: Mapping[str, str]) -> Path | None:
    """The brain mask that fMRIPrep and QSIPrep write beside an image."""
    shared = {k: v for k, v in entities.items() if k not in ("desc", "model", "param")}
    names = [bids.build_name({**shared, "desc": "brain"}, "mask", ext) for ext in bids.EXTENSIONS]
    return next((image.parent / name for name in names if (image.parent / name).is_file()), None)


def _has(own: Mapping[str, str], wanted: Entities) -> bool:
    allowed = {k: [label] if isinstance(label, str) else label for k, label in wanted.items()}
    return all(own.get(key, "") in labels for key, labels in allowed.items())


def _hcp_scans(root: Path) -> list[Scan]:
    """Task runs of HCP's minimally preprocessed tree, which is no BIDS but in MNI152 space."""
    scans = []
    for folder in sorted(root.glob("[!.]*/MNINonLinear/Results/tfMRI_*")):
        subject, image = folder.parents[2].name, folder / f"{folder.name}.nii.gz"
        match = HCP_RUN.fullmatch(folder.name)
        if not (match and subject.isalnum() and image.is_file()):
            continue
        entities = {"sub": subject, "task": match[1], "dir": match[2], "space": HCP_SPACE}
        events = folder / "EVs"
        companions = {"events": events} if events.is_dir() else {}
        scans.append(Scan("bold", image, entities, companions=companions))
    return scans
