"""Labels as tables tell them: which column is which, and what its values mean.

The values themselves are understood by :mod:`neuromix.augment.data.conditions`; here are the
columns, the codes that a dataset explains (Levels), and the tables of a BIDS dataset.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from neuromix.augment.data import bids
from neuromix.augment.data.conditions import CATEGORIES, MISSING, code_of, parse_label
from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("site", "age", "sex", "diagnosis")
ALIASES = {
    "subject_id": ("subject_id", "participant_id", "subject"),
    "session_id": ("session_id", "session"),
    "site": ("site", "center", "centre", "scanner_site"),
    # Age in years at the scan. A column of the age at baseline alone must be named by the user.
    "age": ("age", "age_at_scan"),
    "sex": ("sex", "gender", "gender_text"),
    # ADNI's DX is per visit and so goes before DX_bl, the diagnosis at baseline (BASELINE).
    "diagnosis": ("diagnosis", "dx", "dx_bl"),
}
"""Columns that are taken for ours, in any case; of two in one table the user must choose."""
BASELINE = "dx_bl"

OLDEST = 130.0

Codings = Mapping[str, Mapping[str, str]]
Columns = Mapping[str, str]


def canonical(
    table: pd.DataFrame, codings: Codings, columns: Columns, levels: Codings
) -> pd.DataFrame:
    """Give ids and labels their own names and values; other columns stay as they are.

    ``codings`` are more spellings, by label, and win over all others; ``columns`` say where to find
    a label or an id that has another name; ``levels`` what the dataset says that codes mean, by
    column.
    """
    _check_names("codings", codings, LABELS)
    _check_names("columns", columns, ALIASES)
    sources, rejected = {}, set()
    for target, aliases in ALIASES.items():
        fitting = [c for c in table.columns if c.strip().lower() in aliases]
        if target in columns:
            source = columns[target] if columns[target] in table.columns else None
            rejected |= {*fitting} if source else set()  # they would be ambiguous in a saved table
        else:
            source = _source(target, fitting)
        if source is not None:
            sources[target] = source
    taken = {*ALIASES, *sources.values(), *rejected}
    problems: list[str] = []
    result = table.drop(columns=[column for column in table.columns if column in taken])
    for target, source in sources.items():
        spellings = {code_of(code): value for code, value in codings.get(target, {}).items()}
        values: dict[str, str | float] = {}
        for text in table[source].unique():  # each value is understood once
            try:
                if target == "age":
                    values[text] = _age(text, spellings)
                elif target in LABELS:
                    values[text] = _label(target, text, spellings, levels.get(source, {}))
                else:
                    values[text] = text.strip().removeprefix("sub-").removeprefix("ses-")
            except InputError as error:
                first = (table[source] == text).argmax()
                who = f"sub-{result['subject_id'].iloc[first]}: " if "subject_id" in result else ""
                problems.append(f"{who}{error}")
        result[target] = table[source].map(values)
    if problems:
        several = f"{len(problems)} labels are not understood: " if len(problems) > 1 else ""
        raise InputError(several + "; ".join(problems))
    return result


def _source(target: str, candidates: list[str]) -> str | None:
    """The one column that tells a label, of those with a fitting name."""
    if len(candidates) > 1:
        candidates = [column for column in candidates if column.strip().lower() != BASELINE]
    if len(candidates) > 1:
        raise InputError(
            f"columns {' and '.join(map(repr, candidates))} all tell {target}; say which one "
            f"counts with columns={{{target!r}: {candidates[0]!r}}}"
        )
    return candidates[0] if candidates else None


def _check_names(argument: str, given: Collection[str], allowed: Collection[str]) -> None:
    for name in given:
        if name not in allowed:
            raise InputError(f"{argument} speaks of {name!r}; allowed are {', '.join(allowed)}")


def _label(name: str, text: str, codings: Mapping[str, str], levels: Mapping[str, str]) -> str:
    code = code_of(text)
    if name in CATEGORIES and code in levels and code not in codings:
        try:
            return parse_label(name, levels[code]) or ""
        except InputError as error:
            # "AD" explains itself, whatever the long text says. The number 1 does not.
            if code.isdigit():
                raise InputError(f"code {code}: {error}") from None
    return parse_label(name, code, codings) or ""


def _age(text: str, codings: Mapping[str, str]) -> float:
    value = codings.get(code_of(text), text.strip())
    if str(value).lower() in MISSING:
        return math.nan
    try:
        years = float(str(value).removesuffix("+"))  # BIDS writes 89+ for the oldest
    except ValueError:
        years = math.nan
    if not 0 <= years <= OLDEST:
        raise InputError(
            f"age {text!r} is not known; allowed are years from 0 to {OLDEST:g}, 89+ and n/a; "
            f"say what it means with codings={{'age': {{{text!r}: 'n/a'}}}}, on the command line "
            f"--codings age:{text}=n/a"
        )
    return years


def attach(rows: pd.DataFrame, home: Path, codings: Codings, columns: Columns) -> pd.DataFrame:
    """Add to rows of images what a BIDS dataset knows of its subjects and sessions.

    Labels come from ``participants.tsv`` (of the session too, if it has a ``session_id``) and where
    a subject's ``sessions.tsv`` tells a value for the session, from there. Rows that nothing is
    known of lack labels; participants without images are left out.

    ``home`` is the folder of ``participants.tsv``.
    """
    people_file = home / "participants.tsv"
    people = bids.read_table(people_file) if people_file.is_file() else None
    visits = _visits(home, rows)
    names = [*([] if people is None else people.columns), *visits.columns]
    for column in columns.values():
        if column not in names:
            raise InputError(f"{home} tells no {column!r} of its subjects; it has {names}")
    levels = {**_levels(home / "participants.json"), **_levels(home / "sessions.json")}
    result = rows
    if people is not None:
        people = canonical(people, codings, columns, levels)
        if "subject_id" not in people.columns:
            raise InputError(f"{people_file} has no column participant_id; it has {names}")
        result = _left_join(rows, people, people_file)
    if len(visits):
        known = _left_join(rows, canonical(visits, codings, columns, levels), home)
        for column in known.columns.difference(rows.columns):
            value = known[column]
            if column in result.columns:
                value = value.mask(value.isna() | (value == ""), result[column])
            result = result.assign(**{column: value})
    return result


def _left_join(rows: pd.DataFrame, known: pd.DataFrame, origin: Path) -> pd.DataFrame:
    on = ["subject_id"]
    if "session_id" in known.columns and (rows["session_id"] != "").any():
        on.append("session_id")
    ours = {*rows.columns, "dataset"}
    strange = [c for c in known.columns if c not in on and (c in ours or c.endswith("_path"))]
    known = known.drop(columns=strange).drop_duplicates()
    twice = known[known.duplicated(on)]
    if len(twice):
        name = ", ".join(twice.iloc[0][on])
        raise InputError(f"{origin} tells two things of {name}; keep one row of each {on[-1]}")
    joined = rows.merge(known, on=on, how="left", indicator=True)
    if len(known) and (joined["_merge"] == "left_only").all():
        warnings.warn(
            f"none of the images' subjects is in {origin}: all labels are missing", stacklevel=4
        )
    return joined.drop(columns="_merge")


def _visits(home: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The ``sessions.tsv`` of all subjects that have sessions, one below the other."""
    import pandas as pd

    visits = []
    for subject in rows.loc[rows["session_id"] != "", "subject_id"].unique():
        path = home / f"sub-{subject}" / f"sub-{subject}_sessions.tsv"
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                lines = list(csv.DictReader(stream, delimiter="\t"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{path} cannot be read as a table ({error}); mend it") from None
        for line in lines:
            cells = {column: value for column, value in line.items() if column and value}
            if "session_id" not in cells:
                raise InputError(f"{path} has no session_id in each line; add the column")
            visits.append({**cells, "subject_id": subject})
    return pd.DataFrame(visits, dtype=str).fillna("").replace("n/a", "")


def _levels(path: Path) -> dict[str, dict[str, str]]:
    """What a JSON data dictionary says that the codes of each column mean."""
    content = bids.read_json(path) if path.is_file() else {}
    levels = {}
    for column, entry in content.items():
        meanings = entry.get("Levels") if isinstance(entry, dict) else None
        if isinstance(meanings, dict):
            levels[column] = {
                str(code): str(text.get("Description", "") if isinstance(text, dict) else text)
                for code, text in meanings.items()
            }
    return levels
