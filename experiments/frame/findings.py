"""What came out, in one form for every page: findings, and values with their intervals.

A criterion of an experiment is ``met`` or ``missed``. A finding of an audit is ``fine``, asks for
``care``, or is a ``fault``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

MET, MISSED = "met", "missed"
FINE, CARE, FAULT = "fine", "care", "fault"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its level, and what was seen, in words with numbers.

    An aim that a value can meet or miss is stated beside it.
    """

    name: str
    level: str
    note: str
    aim: str = ""
    value: float | None = None


def criterion(
    name: str, value: float | None, aim: str, is_met: bool, note: str = ""
) -> dict[str, Any]:
    """A finding with an aim, as plain content; by default its note is the value."""
    number = None if value is None else float(value)
    return asdict(Finding(name, MET if is_met else MISSED, note or f"{number:.3g}", aim, number))


def tally(criteria: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """How many criteria are met, ``"4 of 6 criteria"``; then a clause on those that are missed."""
    missed = [row for row in criteria if row["level"] == MISSED]
    texts = [f"{row['name']} {row['note']} ({row['aim']} wanted)" for row in missed]
    clause = f"; missed are {'; '.join(texts)}" if texts else ""
    return f"{len(criteria) - len(missed)} of {len(criteria)} criteria", clause


def findings_table(findings: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A finding a row; what none of them has is left out."""
    table = pd.DataFrame(findings)[["name", "level", "aim", "note"]]
    return table.loc[:, (table != "").any()].rename(columns={"name": "what", "note": "result"})


def interval_text(interval: Sequence[float], spec: str = ".3g", times: float = 1.0) -> str:
    """The ends of an interval."""
    low, high = (f"{times * end:{spec}}" for end in interval)
    return f"{low} to {high}"


def estimate_text(value: float, interval: Sequence[float], spec: str = ".3g") -> str:
    """A value with its interval."""
    return f"{value:{spec}} ({interval_text(interval, spec)})"


def pairs_table(
    content: Mapping[str, Any], names: Sequence[str] = ("what", "value")
) -> pd.DataFrame:
    """Names and values; those of nested content have both names."""
    rows: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}, {key}", str(each)) for key, each in value.items()]
        else:
            rows.append((name, str(value)))
    return pd.DataFrame(rows, columns=list(names))
