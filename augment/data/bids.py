"""BIDS: names made of entities, the index of a dataset's images, and its small text files.

A name such as ``sub-01_ses-a_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz`` is a list
of entities (``key-label``), a suffix and an extension. Which image it is, in this project's words,
is decided here and nowhere else:

======== ============================================================================
image    file name
======== ============================================================================
md       ``param-md`` with suffix ``dwimap``; suffix ``MD`` or ``desc-md`` (any case)
NAME     ``param-NAME`` with suffix ``map``, or ``dwimap``: any other scalar map
fmri     ``desc-segments`` with suffix ``bold``, or ``desc-imputed``
dmri     ``desc-segments`` with suffix ``dwi``, or ``desc-imputed``
bold     any other with suffix ``bold``
dwi      any other with suffix ``dwi``
t1w      suffix ``T1w``
======== ============================================================================
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neuromix.augment import files
from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

VERSION = "1.10.0"
SERIES = ("bold", "fmri", "dmri", "dwi")
"""Images of four dimensions; any other name is that of a scalar map."""
DEFAULTS = ("md", "bold", "fmri", "dmri")
"""What a cohort holds unless it is told, beside prepared maps: all else only on request."""
MAP = "map"
"""Suffix of prepared maps, and of samples of them."""
MNI = "MNI152"
"""Begins the names of the spaces that the template's regions and tissues fit."""
RUN = ("task", "dir", "run", "chunk")
EXTENSIONS = (".nii", ".nii.gz")
MAX_TR = 60.0
TIMES = {"msec": 1e-3, "usec": 1e-6}
"""Units of time in NIfTI headers, in seconds."""
UNITS = {
    "md": "1e-3 mm^2/s",
    "fmri": "fraction of the run's mean brain signal",
    "dmri": "attenuation S/S0",
}
"""Units of the images that have some; the others are arbitrary."""
NOT_AVAILABLE = ("", "n/a")
CUSTOM = "custom"
"""The space of images whose names tell none."""
BACKSLASH = "a backslash is no separator here, write /"

ENTITIES = (
    "sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec",
    "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split",
    "recording", "chunk", "seg", "res", "den", "label", "model", "param", "desc",
)  # fmt: skip
"""Entities in the order that BIDS wants them in a name."""


def parse_name(name: str) -> tuple[dict[str, str], str, str]:
    """Take a file name apart.

    Entities (``{"sub": "01", "task": "rest"}``), suffix and extension.
    """
    *pairs, last = name.split("_")
    suffix, dot, extension = last.partition(".")
    entities = {}
    for pair in pairs:
        key, dash, label = pair.partition("-")
        if not (key and dash and label) or key in entities:
            raise InputError(
                f"{name!r} is not a BIDS name; it must look like sub-01_ses-a_param-md_dwimap.nii"
            )
        entities[key] = label
    return entities, suffix, dot + extension


def build_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """Put a file name together, entities in BIDS order; entities with an empty label are left out.

    Inverse of :func:`parse_name`.
    """
    for key, label in entities.items():
        if key not in ENTITIES:
            raise InputError(f"{key!r} is not a BIDS entity; they are {', '.join(ENTITIES)}")
        if label and not label.replace("+", "").isalnum():
            raise InputError(
                f"{key} {label!r} cannot stand in a BIDS name; use letters and digits only"
            )
    pairs = [f"{key}-{entities[key]}" for key in ENTITIES if entities.get(key)]
    return "_".join([*pairs, suffix]) + extension


def path_of(datatype: str, entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """Where a file lies in its dataset."""
    session = f"ses-{entities['ses']}/" if entities.get("ses") else ""
    name = build_name(entities, suffix, extension)
    return f"sub-{entities['sub']}/{session}{datatype}/{name}"


def space_of(paths: Iterable[str | Path]) -> str:
    """The one ``space`` that the names of images tell, or ``custom``."""
    matches = (re.search(r"_space-([A-Za-z0-9+]+)_", Path(path).name) for path in paths)
    names = {match[1] if match else CUSTOM for match in matches}
    return names.pop() if len(names) == 1 else CUSTOM


class ImageFile(NamedTuple):
    """An image of a dataset: where it lies, its entities, and which image it is (see above)."""

    path: str
    entities: dict[str, str]
    image: str


def index(root: str | Path) -> list[ImageFile]:
    """Find every image of a dataset in one walk over ``sub-*/[ses-*/]<datatype>``, sorted.

    Other folders (``derivatives``, ``sourcedata``, ``code``) are not entered, and no file is opened
    or asked for its size, so that 100,000 subjects take seconds.
    """
    files_there = []
    try:
        for subject in _entries(root):
            if not (subject.name.startswith("sub-") and subject.is_dir()):
                continue
            for folder in _entries(subject.path):
                if folder.name.startswith("ses-") and folder.is_dir():
                    for datatype in _entries(folder.path):
                        files_there += _images(datatype)
                else:
                    files_there += _images(folder)
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}); name a BIDS folder you may read"
        ) from None
    return files_there


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _images(datatype: os.DirEntry[str]) -> list[ImageFile]:
    images: list[ImageFile] = []
    if not datatype.is_dir():
        return images
    for entry in _entries(datatype.path):
        if not (entry.name.startswith("sub-") and entry.name.endswith(EXTENSIONS)):
            continue
        try:
            entities, suffix, _ = parse_name(entry.name)
        except InputError:
            continue  # not BIDS, so it is not one of ours
        image = _which(suffix, entities.get("param", ""), entities.get("desc", ""))
        if image:
            images.append(ImageFile(entry.path, entities, image))
    return images


@functools.lru_cache(maxsize=4096)
def _which(suffix: str, param: str, desc: str) -> str:
    """The image that a suffix and two entities stand for, or ``""``."""
    if suffix in (MAP, "dwimap") and param:
        return "md" if param.lower() == "md" else param
    if suffix.lower() == "md" or (desc.lower() == "md" and suffix != "mask"):
        return "md"
    if suffix in ("bold", "dwi") and desc in ("segments", "imputed"):
        return {"bold": "fmri", "dwi": "dmri"}[suffix]
    return {"bold": "bold", "dwi": "dwi", "T1w": "t1w"}.get(suffix, "")


def find(
    root: Path, images: Sequence[str] | None, entities: Mapping[str, str | Collection[str]]
) -> tuple[list[ImageFile], list[str]]:
    """The files of some images that have some entities, and the names of these images.

    Images are by default those of ``DEFAULTS`` and the prepared maps that occur. Entities have
    allowed labels; ``""`` means that the name lacks the entity.
    """
    for key in entities:
        if key not in ENTITIES:
            raise InputError(f"{key!r} is not a BIDS entity; they are {', '.join(ENTITIES)}")
    everything = index(root)
    known = images or DEFAULTS
    if not images:
        known = (*DEFAULTS, *sorted({f.image for f in everything if f"_{MAP}." in f.path}))
    wanted = [file for file in everything if file.image in known]
    chosen = wanted
    for key, label in entities.items():
        allowed = {str(label)} if isinstance(label, str | int) else set(map(str, label))
        chosen = [file for file in chosen if file.entities.get(key, "") in allowed]
    present = {file.image for file in chosen}
    absent = [name for name in images or () if name not in present]
    if chosen and not absent:
        return chosen, [name for name in dict.fromkeys(known) if name in present]
    named = f"{' or '.join(absent or DEFAULTS)} image"
    if len(wanted) > len(chosen):
        labels = {key: {file.entities.get(key, "") for file in wanted} for key in entities}
        has = "; ".join(f"{key} is {', '.join(map(repr, sorted(labels[key])))}" for key in labels)
        raise InputError(f"{root} has no {named} with {dict(entities)}; in its files {has}")
    counts = Counter(file.image for file in everything)
    has = ", ".join(f"{count} {name}" for name, count in counts.items())
    if has:
        advice = f"it has {has}; ask for them with images={list(counts)}"
    else:
        names = [entry.name for entry in _entries(root)]
        has = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "nothing"
        advice = f"looked for .nii and .nii.gz in sub-*/[ses-*/]<datatype>/; the folder has {has}"
    raise InputError(f"{root} has no {named}; {advice}")


def join_runs(found: Sequence[ImageFile], images: Sequence[str]) -> list[list[str]]:
    """Join the images of each session: a row per run, or per session where nothing has runs.

    Only BOLD has runs (task, dir, run, chunk). An image that lacks some of these, such as an
    anatomical one, belongs to every run that agrees with the rest.

    Rows hold subject, session, task, dir, run, chunk and one path per image (``""`` if absent).
    """
    sessions: dict[tuple[str, str], list[ImageFile]] = {}
    for file in found:
        key = (file.entities["sub"], file.entities.get("ses", ""))
        sessions.setdefault(key, []).append(file)
    rows = []
    for session, members in sessions.items():
        runs: dict[tuple[str, ...], dict[str, list[ImageFile]]] = {}
        for file in members:
            has_runs = file.image in ("bold", "fmri")
            run = tuple([file.entities.get(key, "") if has_runs else "" for key in RUN])
            runs.setdefault(run, {}).setdefault(file.image, []).append(file)
        for order in _orders(runs):
            candidates = [next((runs[r][i] for r in order if i in runs[r]), []) for i in images]
            rows.append([*session, *order[0], *map(_one, candidates)])
    return rows


def _orders(runs: Mapping[tuple[str, ...], Collection[str]]) -> list[list[tuple[str, ...]]]:
    """Each run that is a row of its own, followed by the coarser ones whose images it joins."""
    if len(runs) == 1:
        return [list(runs)]
    labels = {run: sum(map(bool, run)) for run in runs}
    orders = []
    for run, own in runs.items():
        finer = (r for r in runs if labels[r] > labels[run] and _agrees(run, r))
        if any(set(own).isdisjoint(runs[r]) for r in finer):
            continue  # it joins finer runs of another image
        coarser = (r for r in runs if labels[r] < labels[run] and _agrees(r, run))
        orders.append([run, *sorted(coarser, key=lambda r: -labels[r])])
    return orders


def _agrees(coarse: tuple[str, ...], fine: tuple[str, ...]) -> bool:
    return all(a in ("", b) for a, b in zip(coarse, fine, strict=True))


def _one(candidates: list[ImageFile]) -> str:
    """The path of the one file that is meant: of several, the one in MNI152 space."""
    if not candidates:
        return ""
    if len(candidates) > 1:
        common = [f for f in candidates if f.entities.get("space", "").startswith("MNI152")]
        candidates = common or candidates
    if len(candidates) > 1:
        a, b = candidates[:2]
        key = next((k for k in ENTITIES if a.entities.get(k) != b.entities.get(k)), None)
        choices = [repr(file.entities.get(key, "")) for file in (a, b)] if key else []
        advice = f"choose with {key}={' or '.join(choices)}" if key else "remove one of them"
        raise InputError(f"two {a.image} files fit one row: {a.path} and {b.path}; {advice}")
    return candidates[0].path


def has_backslash(path: str | Path) -> bool:
    """Whether a path looks like one of Windows on a system where that is none."""
    return os.sep == "/" and "\\" in str(path)


def files_about(image: Path, ending: str, roots: Sequence[Path] = ()) -> Iterator[Path]:
    """The files of a dataset that speak of an image by BIDS's inheritance principle, nearest first.

    They end in ``ending``, such as ``events.tsv``, have no entity that the image lacks, and lie in
    its folder or above, up to the dataset's root; and so in other datasets, given by their
    ``roots``. Of those in a folder, the most specific comes first. An image outside a dataset has
    at most files of its own folder.
    """
    *pairs, _ = image.name.split("_")
    subject = next((up for up in image.parents if up.name.startswith("sub-")), image)
    inside = image.parent.relative_to(subject.parent)
    for root in (subject.parent, *roots):
        for folder in (inside, *inside.parents):
            # Names are tried rather than listed: a root can hold 100,000 folders.
            for count in range(len(pairs), -1, -1):
                for chosen in itertools.combinations(pairs, count):
                    path = root / folder / "_".join([*chosen, ending])
                    if path.is_file():
                        yield path


def metadata(path: str | Path) -> dict[str, Any]:
    """What the JSON sidecars say of an image; those nearer to the image win."""
    path = Path(path)
    suffix = path.name.partition(".")[0].rpartition("_")[2]
    merged: dict[str, Any] = {}
    for sidecar in files_about(path, f"{suffix}.json"):
        merged = read_json(sidecar) | merged
    return merged


def repetition_time(header: Any, sidecar: Mapping[str, Any]) -> float:
    """Seconds between frames, from a NIfTI header and a JSON sidecar, which must agree."""
    zooms = header.get_zooms()
    times = {}
    if len(zooms) > 3 and zooms[3] > 0:
        times["header"] = float(zooms[3]) * TIMES.get(header.get_xyzt_units()[1], 1.0)
    if (stated := sidecar.get("RepetitionTime")) is not None:
        if not isinstance(stated, int | float):
            raise InputError(f"RepetitionTime is {stated!r} in the sidecar; write a number there")
        times["sidecar"] = float(stated)
    if not times:
        raise InputError(
            "the repetition time is neither in the header nor in the sidecar; write it as "
            "RepetitionTime into the JSON"
        )
    if max(times.values()) - min(times.values()) > 1e-3:
        raise InputError(
            f"the repetition time is {times['header']:g} s in the header and "
            f"{times['sidecar']:g} s in the sidecar; correct the one that is wrong"
        )
    # The sidecar's is a decimal number, the header's has been through 32 bits.
    tr = times["sidecar"] if "sidecar" in times else round(times["header"], 6)
    if not 0 < tr < MAX_TR:
        raise InputError(
            f"a repetition time of {tr:g} s cannot be; it must be in seconds, below {MAX_TR:g}"
        )
    return tr


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); mend or remove it") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; it must be a JSON object")
    return content


def source_of(root: Path) -> Path:
    """The raw dataset in whose ``derivatives`` a dataset lies, or the dataset itself."""
    above = root.parent.parent
    marks = ("dataset_description.json", "participants.tsv")
    is_nested = root.parent.name == "derivatives" and any((above / m).is_file() for m in marks)
    return above if is_nested else root


def plain(text: str) -> str:
    """A name without line breaks and double blanks."""
    return " ".join(text.split())


def title_of(folder: Path) -> str:
    """The ``Name`` in a folder's ``dataset_description.json``, or ``""``."""
    path = folder / "dataset_description.json"
    return plain(str(read_json(path).get("Name") or "")) if path.is_file() else ""


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV or TSV as text, so that the subject ``001`` stays ``001``.

    Missing values (empty or ``n/a``) become ``""``. Blanks around headers and cells, rows without
    any value and the empty cells that spreadsheets leave at the end of a row are dropped.
    """
    import pandas as pd

    path = Path(path)
    separators = {".tsv": "\t", ".csv": ","}
    if path.suffix.lower() not in separators:
        raise InputError(f"{path} is no table; its name must end in .csv or .tsv")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=separators[path.suffix.lower()], strict=True)
            lines = [(reader.line_num, _cells(row)) for row in reader]
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); name a table that you may read"
        ) from None
    except (ValueError, csv.Error) as error:  # of the encoding or the quotes
        raise InputError(f"{path} cannot be read as a table ({error}); mend it") from None
    lines = [(number, cells) for number, cells in lines if cells]
    if not lines:
        raise InputError(f"{path} is empty; its first line must name the columns")
    header = lines[0][1]
    if path.suffix.lower() == ".csv" and len(header) == 1 and ";" in header[0]:
        raise InputError(f"{path} is separated by ;: save it with commas")
    for name, count in Counter(header).items():
        if count > 1 and name:
            raise InputError(f"{path} has {count} columns named {name!r}; rename all but one")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            raise InputError(
                f"{path}, line {number}: {len(cells)} fields, but the header has {len(header)}; "
                "put a field that holds the separator in double quotes"
            )
        rows.append(cells + [""] * (len(header) - len(cells)))
    table = pd.DataFrame(rows, columns=header, dtype=str).replace(NOT_AVAILABLE[1], "")
    return table.drop(columns="", errors="ignore")  # pandas and R leave their row numbers unnamed


def _cells(row: Sequence[str]) -> list[str]:
    """The cells of a row without the blanks around them and without empty ones at the end."""
    cells = [cell.strip() for cell in row]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def describe(root: str | Path, *, name: str, derivative: bool) -> None:
    """Write ``dataset_description.json``, which makes a folder a BIDS dataset."""
    from importlib.metadata import version

    files.write_json(
        Path(root) / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": VERSION,
            "DatasetType": "derivative" if derivative else "raw",
            "GeneratedBy": [{"Name": "neuromix", "Version": version("neuromix")}],
        },
    )
