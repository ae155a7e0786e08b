"""Every problem of a cohort at once: its rows, and each of its files (:mod:`examine`)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment.data import bids
from neuromix.augment.data.examine import PREPARE, Look, look_at, write
from neuromix.augment.data.grid import COARSE, template_on

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with an image or a row, and what to do about it."""

    subject: str
    session: str
    image: str
    path: str
    what: str
    advice: str

    def __str__(self) -> str:
        if not self.subject:  # it is about the cohort as a whole
            return f"{self.what}; {self.advice}"
        where = f"sub-{self.subject}" + (f" ses-{self.session}" if self.session else "")
        file = f" ({self.path})" if self.path else ""
        return f"{where} {self.image}".rstrip() + f"{file}: {self.what}; {self.advice}"


def validate(
    table: pd.DataFrame, images: Sequence[str], *, progress: bool = False
) -> list[Problem]:
    """Find every problem of a cohort's table, in the order of its rows.

    A missing label is none, nor is an image that a row lacks if the row has another.
    """
    import joblib
    from nibabel.imageglobals import logger
    from rich.progress import track

    places: dict[str, tuple[str, int]] = {}  # path -> image, first row
    for image in images:
        for row, path in enumerate(table[f"{image}_path"]):
            if path:
                places.setdefault(path, (image, row))
    template_on(COARSE)  # once, before the threads ask for it
    jobs = (joblib.delayed(look_at)(path, image) for path, (image, _) in places.items())
    threads = min(8, os.cpu_count() or 1)
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # nibabel would print what is reported here
    try:
        looks = joblib.Parallel(threads, prefer="threads", return_as="generator")(jobs)
        bar = track(looks, "checking files", total=len(places), disable=not progress)
        look_of = dict(zip(places, bar, strict=True))
    finally:
        logger.setLevel(level)
    mixed = [
        problem
        for image in images
        for problem in _mixed(
            image, [look_of[p] for p, (name, _) in places.items() if name == image]
        )
    ]
    problems = [
        *mixed,
        *_empty_rows(table),
        *_repeated_rows(table),
        *_contradictions(table),
        *_shared_files(table, images),
    ]
    subjects, sessions = list(table["subject_id"]), list(table["session_id"])
    for path, (image, row) in sorted(places.items(), key=lambda place: place[1][1]):
        for finding in look_of[path].findings:
            problems.append(Problem(subjects[row], sessions[row], image, path, *finding))
    return problems


def _empty_rows(table: pd.DataFrame) -> Iterator[Problem]:
    if not len(table):
        yield Problem("", "", "", "", "the cohort has no rows", "bring subjects with images")
    paths = [column for column in table.columns if column.endswith("_path")]
    bare = table[(table[paths] == "").all(axis=1)]
    for subject, session in zip(bare["subject_id"], bare["session_id"], strict=True):
        yield Problem(subject, session, "", "", "no image", "name one or drop the row")


def _contradictions(table: pd.DataFrame) -> Iterator[Problem]:
    told = table[table["sex"] != ""].drop_duplicates(["dataset", "subject_id", "sex"])
    several = told[told.duplicated(["dataset", "subject_id"], keep=False)]
    for (_, subject), rows in several.groupby(["dataset", "subject_id"], sort=False):
        what = f"sex is {' in one row and '.join(rows['sex'])} in another"
        yield Problem(str(subject), "", "", "", what, "mend the one that is wrong")


def _repeated_rows(table: pd.DataFrame) -> Iterator[Problem]:
    key = ["dataset", "subject_id", "session_id", *bids.RUN]
    for values, rows in table[table.duplicated(key, keep=False)].groupby(key, sort=False):
        run = "".join(f", {k} {v}" for k, v in zip(bids.RUN, values[3:], strict=True) if v)
        what = f"{len(rows)} rows for this session{run}"
        yield Problem(str(values[1]), str(values[2]), "", "", what, "keep one of them")


def _shared_files(table: pd.DataFrame, images: Sequence[str]) -> Iterator[Problem]:
    for image in images:
        column = f"{image}_path"
        users = table[table[column] != ""].drop_duplicates(["dataset", "subject_id", column])
        for path, rows in users[users.duplicated(column, keep=False)].groupby(column, sort=False):
            names = ", ".join(f"sub-{subject}" for subject in rows["subject_id"])
            what = f"the same file stands for {len(rows)} subjects ({names})"
            yield Problem(
                rows["subject_id"].iloc[0], "", image, str(path), what, "give each its own"
            )


def _mixed(image: str, looks: list[Look]) -> Iterator[Problem]:
    """Report each file whose grid differs from that of most others, or that there is no such."""
    differences: dict[int, list[str]] = {}
    for name in ("spacing", "shape", "orientation", "position"):
        values = {i: look.geometry[name] for i, look in enumerate(looks) if name in look.geometry}
        if not values:
            continue
        usual = Counter(values.values()).most_common(1)[0][0]
        for i, value in values.items():
            if not _same(value, usual):
                by = ", " if name == "position" else " x "
                text = f"{name} {write(value, by)} instead of {write(usual, by)}"
                differences.setdefault(i, []).append(text)
    if 2 * len(differences) > len(looks):
        what = f"{image} files lie on different grids, most on one of their own"
        yield Problem("", "", image, "", what, f"bring all to one grid: {PREPARE}")
        return
    for i, texts in differences.items():
        what = f"not on the grid of most {image} files: {', '.join(texts)}"
        looks[i].report(what, f"bring all to one grid: {PREPARE}")


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    if len(a) != len(b) or isinstance(a[0], str):
        return a == b
    return np.allclose(a, b, rtol=0, atol=0.01)
