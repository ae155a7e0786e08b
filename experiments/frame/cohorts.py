"""Find the cohort that a user names on the command line, and the people in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuromix.augment.data.bids import CUSTOM, space_of
from neuromix.augment.data.checks import Problem
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import DEMENTIA
from neuromix.augment.data.digests import Content
from neuromix.augment.data.split import UNNAMED
from neuromix.augment.errors import InputError

PLACES = ("data", "data_a", "data_b", "train", "heldout")
"""Settings that name cohorts."""
NAMED = 5
"""Subjects that a line names."""
FEWEST = 3
"""People that anything can be fitted to."""
SERIES = {
    "bold": "train fmri, experiment decoding",
    "fmri": "train pds and experiment hybrid, beside dmri",
    "dmri": "train pds and experiment hybrid, beside fmri",
    "dwi": "prepare --what md or segments",
}
"""What images of four dimensions are for."""


def load_cohort(
    data: Path,
    images: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    codings: Mapping[str, Mapping[str, str]] | None = None,
    dataset: str = "",
) -> Cohort:
    """A BIDS folder, or a CSV or TSV table with a column ``NAME_path`` for each image.

    Args:
        data: Where it is.
        images: All that are there by default.
        columns: Label to the column that holds it, where that has another name.
        codings: Label to code to meaning, where that is not built in.
        dataset: The study that a table is of.
    """
    if data.is_dir():
        if dataset:
            raise InputError(
                f"--dataset {dataset} came with the BIDS folder {data}, which has a name; leave it "
                "out, or change Name in its dataset_description.json"
            )
        return Cohort.from_bids(data, tuple(images) or None, codings=codings, columns=columns)
    if not data.exists():
        raise InputError(f"{data} does not exist; name a BIDS folder or a CSV or TSV table")
    if images or columns or codings:
        places = {name: f"{name}_path" for name in images} or None
        return Cohort.from_table(data, places, codings=codings, columns=columns, dataset=dataset)
    return Cohort.load(data, dataset)


def names_of(cohort: Cohort) -> np.ndarray:
    """Whose each row is."""
    return (cohort.table["dataset"] + "/" + cohort.table["subject_id"]).to_numpy(str)


def first_scans(cohort: Cohort) -> Cohort:
    """A row a person, for what takes rows as independent: intervals, and halves of a set."""
    return cohort.where(~cohort.table.duplicated(["dataset", "subject_id"]).to_numpy())


def contents(config: Any, images: Sequence[str]) -> dict[str, Content]:
    """What the cohorts hold that an experiment's settings name, of the images that it looks at.

    Where it is one image, nothing else is looked for in a BIDS folder.
    """
    named = {name: getattr(config, name, None) for name in PLACES}
    return {
        name: Content.of(
            load_cohort(path, images if path.is_dir() and len(images) == 1 else ()), images
        )
        for name, path in named.items()
        if isinstance(path, Path)
    }


def parse_codings(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """``["sex:0=F", "sex:1=M"]`` as ``{"sex": {"0": "F", "1": "M"}}``."""
    codings: dict[str, dict[str, str]] = {}
    for text in texts:
        label, colon, rest = text.partition(":")
        code, equals, meaning = rest.partition("=")
        if not (label and colon and equals):
            raise InputError(f"coding {text!r} is not understood; write it as sex:0=F")
        codings.setdefault(label, {})[code] = meaning
    return codings


def uses(cohort: Cohort, problems: Sequence[Problem]) -> list[str]:
    """What the images without a problem can be used for and what not, in a line each."""
    lines, bad = [], {"", *(problem.path for problem in problems)}
    for image in cohort.images:
        part = cohort.where(~cohort.table[f"{image}_path"].isin(bad).to_numpy())
        people, paths = len(part.subject_keys), part.table[f"{image}_path"]
        if people < FEWEST:
            lines.append(f"{image}: {people} people without a problem; {FEWEST} or more are needed")
            continue
        try:
            where = f"on one grid of {part.grid(image)}"
        except InputError:
            where = ""
        is_in_mni = part.is_in_mni(image)
        space = space_of(paths).replace(CUSTOM, "MNI152" if is_in_mni else "unknown")
        kinds = [name for name in ("sex", "dementia") if _has_classes(part, name)]
        fits, unfit = [SERIES.get(image, "")], []
        if image in SERIES:
            pass
        elif not where:
            what = "md" if image == "md" else f"map --image {image}"
            fits, unfit = (
                [f"prepare --what {what}"],
                ["samplers and classifiers, which need one grid"],
            )
        else:
            option = "" if image == "md" else f" --image {image}"
            fits = [f"train tiled{option}", "audit"]
            fits += [f"classifiers and experiments of {' and '.join(kinds)}"] if kinds else []
            unfit = [] if kinds else ["classifiers: neither sex nor dementia is told of two kinds"]
            unfit += [] if is_in_mni else ["checks of tissues and regions, which need MNI152"]
        line = f"{image}: {people} people {where or 'on several grids'}, space {space}"
        lines.append(f"{line}; fits {', '.join(fits)}" + "".join(f"; not {u}" for u in unfit))
    return lines


def _has_classes(cohort: Cohort, target: str) -> bool:
    """Whether two classes of sex, or of dementia, have two people each."""
    people = first_scans(cohort).table
    values = people["sex"] if target == "sex" else people["diagnosis"].map(DEMENTIA).fillna("")
    counts = values[values != ""].value_counts()
    return len(counts) > 1 and bool(counts.min() > 1)


def gaps(cohort: Cohort) -> list[str]:
    """Whose label is missing, in a line for each label that others have; a dataset without name."""
    lines = []
    if cohort.table["dataset"].str.startswith(UNNAMED).any():
        lines.append(
            "no dataset is named: the people of this table can't be compared with those of another "
            "(--dataset NAME, the same for all tables of a study)"
        )
    for name in ("sex", "age", "diagnosis"):
        values = cohort.table[name]
        absent = values.isna() | (values == "")
        if absent.any() and not absent.all():
            who = list(dict.fromkeys(cohort.table["subject_id"][absent]))
            shown = ", ".join(f"sub-{each}" for each in who[:NAMED])
            more = f" and {len(who) - NAMED} more" if len(who) > NAMED else ""
            lines.append(f"{name} is missing: {shown}{more}")
    return lines
