import math

import pytest

from augment.conditions import LabelSpace, parse_label
from augment.errors import InputError


@pytest.mark.parametrize(
    ("name", "raw", "meant"),
    [
        ("sex", "Female", "F"),
        ("sex", 1.0, "M"),
        ("sex", " m ", "M"),
        ("sex", "n/a", None),
        ("sex", None, None),
        ("diagnosis", "CN", "NC"),
        ("diagnosis", "SMC", "NC"),
        ("diagnosis", "LMCI", "MCI"),
        ("diagnosis", "Dementia", "AD"),
        ("scanner", "Prisma", "Prisma"),
    ],
)
def test_known_codings(name, raw, meant):
    assert parse_label(name, raw) == meant


def test_unknown_values_are_refused_with_the_allowed_ones():
    with pytest.raises(InputError, match=r"diagnosis 'FTD' is not known; allowed are nc.*codings"):
        parse_label("diagnosis", "FTD")
    with pytest.raises(InputError, match="sex 0 is not known"):
        parse_label("sex", 0)


def test_codings_win_over_the_built_in_ones():
    assert parse_label("sex", 0.0, {"0": "F", "1": "M"}) == "F"
    assert parse_label("sex", "1", {"1": "F"}) == "F"


@pytest.fixture
def space() -> LabelSpace:
    rows = [
        {"sex": "M", "diagnosis": "AD", "age": 60.0},
        {"sex": "F", "diagnosis": "NC", "age": 80.0},
        {"sex": None, "diagnosis": "", "age": math.nan},
    ]
    return LabelSpace.from_labels(rows, ("sex", "diagnosis", "age"))


def test_a_space_holds_what_occurs_in_the_canonical_order(space):
    assert space.categories == {"sex": ("F", "M"), "diagnosis": ("NC", "AD")}
    assert space.ranges == {"age": (60.0, 80.0)}
    assert LabelSpace.from_dict(space.to_dict()) == space


def test_codes_of_present_and_missing_labels(space):
    assert space.encode({"sex": "M", "diagnosis": "NC", "age": 75}) == {
        "sex": 1, "diagnosis": 0, "age": 0.75
    }  # fmt: skip
    missing = space.encode({"sex": None})
    assert (missing["sex"], missing["diagnosis"]) == (2, 2)
    assert math.isnan(missing["age"])


@pytest.mark.parametrize(
    "labels", [{"sex": "X"}, {"age": 90}, {"hand": "left"}, {"diagnosis": "MCI"}]
)
def test_labels_outside_the_space_are_refused(space, labels):
    with pytest.raises(InputError, match="space"):
        space.encode(labels)


def test_a_label_that_nobody_has_is_refused():
    with pytest.raises(InputError, match="no subject has the label 'age'"):
        LabelSpace.from_labels([{"sex": "F"}], ("age",))
