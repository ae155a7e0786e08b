import math

import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data.conditions import LabelSpace, known, parse_label
from neuromix.augment.errors import InputError


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


def test_targets_of_codings_go_through_the_table():
    assert parse_label("sex", np.float32(1), {"1": "female"}) == "F"
    assert parse_label("sex", "9", {"9": "n/a"}) is None
    with pytest.raises(InputError, match=r"codings={'sex': {'1': 'banana'}}.*allowed are F, M"):
        parse_label("sex", 1, {"1": "banana"})


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
    "labels", [{"sex": "X"}, {"age": 90}, {"age": "old"}, {"hand": "left"}, {"diagnosis": "MCI"}]
)
def test_labels_outside_the_space_are_refused(space, labels):
    with pytest.raises(InputError, match="space"):
        space.encode(labels)


def test_a_label_that_nobody_has_is_refused():
    with pytest.raises(InputError, match="no subject has the label 'age'"):
        LabelSpace.from_labels([{"sex": "F"}], ("age",))


@pytest.mark.parametrize("sex", ["X", 1])
def test_a_category_that_is_not_ours_makes_no_space(sex):
    with pytest.raises(InputError, match=r"sex '[X1]' is not known; allowed are F, M"):
        LabelSpace.from_labels([{"sex": sex}], ("sex",))


def test_numbers_of_numpy_are_numbers():
    ages = [np.int64(20), np.float32(60), 40]
    space = LabelSpace.from_labels([{"age": age} for age in ages], ("age",))
    assert space.ranges == {"age": (20.0, 60.0)}
    assert space.encode({"age": np.float32(40)}) == {"age": 0.5}


@pytest.mark.parametrize("missing", [None, "", math.nan, np.float16("nan"), pd.NA])
def test_every_way_to_be_missing(space, missing):
    assert space.encode({"sex": missing})["sex"] == 2
    assert math.isnan(space.encode({"age": missing})["age"])
    assert parse_label("sex", missing) is None


@pytest.mark.parametrize("missing", [None, "", math.nan, np.float32("nan"), pd.NA])
def test_a_label_that_is_missing_is_no_part_of_a_space(missing):
    assert not known(missing) and known(0) and known("0")
    rows = [{"sex": "F", "age": missing}, {"sex": "M", "age": missing}]
    assert LabelSpace.from_known(rows, ("sex", "age", "site")).names == ("sex",)
