"""Labels: which values are allowed, what raw codings mean, how networks are conditioned on them.

A label that is missing stays missing (``None``); a label that is not understood is refused. Nothing
is guessed: every accepted spelling is in the two tables below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from neuromix.augment.errors import InputError

SEX = {
    "f": "F", "female": "F", "woman": "F",
    "m": "M", "male": "M", "man": "M",
    # ISO/IEC 5218, as ADNI, Cam-CAN and IXI code it. 0 is refused: "not known" there, "female" in
    # the UK Biobank.
    "1": "M", "2": "F",
}  # fmt: skip

DIAGNOSIS = {
    "nc": "NC", "cn": "NC", "hc": "NC", "control": "NC",
    # Subjective memory concern: no impairment is measured, so ADNI counts it as normal.
    "smc": "NC",
    "mci": "MCI", "emci": "MCI", "lmci": "MCI",
    "ad": "AD", "dementia": "AD",
}  # fmt: skip

CODINGS: dict[str, dict[str, str]] = {"sex": SEX, "diagnosis": DIAGNOSIS}
CATEGORIES: dict[str, tuple[str, ...]] = {"sex": ("F", "M"), "diagnosis": ("NC", "MCI", "AD")}
DEMENTIA = {"NC": "no", "AD": "yes"}
"""Dementia as a two-class label: MCI is neither, so it is missing."""

MISSING = {"", "n/a", "na", "nan", "none", "unknown", "?"}


def parse_label(name: str, value: Any, codings: Mapping[str, str] | None = None) -> str | None:
    """Translate one raw label into the project's own value, or ``None`` if it is missing.

    ``name`` is ``sex``, ``diagnosis`` or any other label (which is kept as it is); ``codings`` are
    more spellings, such as ``{"0": "F"}``, which win over the built-in ones.
    """
    text = code_of(value)
    for code, target in (codings or {}).items():
        if code_of(code) == text:
            try:
                return parse_label(name, target)
            except InputError:
                raise InputError(
                    f"codings={{{name!r}: {{{code!r}: {target!r}}}}} means nothing known; allowed "
                    f"are {', '.join(CATEGORIES[name])} and n/a: write {code!r}: "
                    f"{CATEGORIES[name][0]!r}"
                ) from None
    if text.lower() in MISSING:
        return None
    if name not in CODINGS:
        return text
    spellings = CODINGS[name]
    if text.lower() not in spellings:
        raise InputError(
            f"{name} {value!r} is not known; allowed are {', '.join(spellings)} (any case); "
            f"say what it means, or n/a: codings={{{name!r}: {{{text!r}: 'n/a'}}}}, on the command "
            f"line --codings {name}:{text}=n/a"
        )
    return spellings[text.lower()]


def code_of(value: Any) -> str:
    """A label's code as it is compared: spreadsheets write 1.0 for 1."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip()) if known(value) else ""


@dataclass(frozen=True)
class LabelSpace:
    """What a network is conditioned on: named categories and named ranges.

    Args:
        categories: Label name to its allowed values, for example ``{"sex": ("F", "M")}``.
        ranges: Continuous label name to its (low, high), for example ``{"age": (18, 88)}``.
    """

    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All label names, categories first."""
        return (*self.categories, *self.ranges)

    @classmethod
    def from_labels(cls, rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> LabelSpace:
        """Read the space off labelled rows (dicts): the values that occur, and the range of age."""
        rows = list(rows)
        categories: dict[str, tuple[str, ...]] = {}
        ranges: dict[str, tuple[float, float]] = {}
        for name in names:
            values = [row[name] for row in rows if name in row and known(row[name])]
            if not values:
                raise InputError(
                    f"no subject has the label {name!r}; choose labels that the cohort has"
                )
            if name not in CATEGORIES and all(isinstance(value, Real) for value in values):
                ranges[name] = (float(min(values)), float(max(values)))
            else:
                present = set(map(str, values))
                order = CATEGORIES.get(name, tuple(sorted(present)))
                if strange := present.difference(order):
                    raise InputError(
                        f"{name} {min(strange)!r} is not known; allowed are {', '.join(order)}; "
                        "translate it with parse_label"
                    )
                categories[name] = tuple(value for value in order if value in present)
        return cls(categories, ranges)

    @classmethod
    def from_known(cls, rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> LabelSpace:
        """As :meth:`from_labels`, of those labels that some row has."""
        return cls.from_labels(rows, [n for n in names if any(known(row.get(n)) for row in rows)])

    def encode(self, labels: Mapping[str, Any]) -> dict[str, float]:
        """Turn labels into numbers: the index of a category, a range scaled to [0, 1].

        A missing category becomes the null index (the number of categories), a missing continuous
        label NaN. A label outside the space is refused.
        """
        for name in labels:
            if name not in self.names:
                raise InputError(f"label {name!r} is not in the space; it has {list(self.names)}")
        codes: dict[str, float] = {}
        for name, values in self.categories.items():
            value = labels.get(name)
            if not known(value):
                codes[name] = len(values)
            elif value not in values:
                raise InputError(f"{name} {value!r} is not in the space; allowed are {values}")
            else:
                codes[name] = values.index(value)
        for name, (low, high) in self.ranges.items():
            value = labels.get(name)
            if not known(value):
                codes[name] = math.nan
                continue
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                number = math.nan
            if not low <= number <= high:
                raise InputError(
                    f"{name} {value!r} is outside the space; allowed is {low:g} to {high:g}"
                )
            codes[name] = (number - low) / (high - low) if high > low else 0.0
        return codes

    def to_dict(self) -> dict[str, Any]:
        """Plain content for a JSON config."""
        return {
            "categories": {name: list(values) for name, values in self.categories.items()},
            "ranges": {name: list(limits) for name, limits in self.ranges.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LabelSpace:
        """Inverse of :meth:`to_dict`."""
        return cls(
            {name: tuple(values) for name, values in content["categories"].items()},
            {name: (low, high) for name, (low, high) in content["ranges"].items()},
        )


def known(value: Any) -> bool:
    """Whether a label is there: missing ones are ``None``, ``""``, NaN and pandas' NA."""
    # pandas.NA is known by its type's name, since this module does without pandas.
    if value is None or type(value).__name__ == "NAType":
        return False
    return not math.isnan(value) if isinstance(value, Real) else bool(value != "")


def inside(space: LabelSpace, row: Mapping[str, Any]) -> dict[str, Any]:
    """Labels of a row as far as the space knows them; validation subjects may lie outside."""
    labels = {name: row.get(name) for name in space.names}
    for name, values in space.categories.items():
        labels[name] = labels[name] if labels[name] in values else None
    for name, (low, high) in space.ranges.items():
        if known(labels[name]):
            labels[name] = min(max(float(row[name]), low), high)
    return labels
