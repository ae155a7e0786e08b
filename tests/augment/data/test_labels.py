import math

import pandas as pd
import pytest

from neuromix.augment.data.labels import canonical
from neuromix.augment.errors import InputError


def read(column, values, codings=None, columns=None, levels=None):
    table = pd.DataFrame({column: values}, dtype=str)
    return canonical(table, codings or {}, columns or {}, levels or {})


@pytest.mark.parametrize(
    ("column", "label"),
    [
        ("Gender", "sex"),
        ("gender_text", "sex"),
        ("AGE_AT_SCAN", "age"),
        ("Scanner_Site", "site"),
        ("centre", "site"),
        ("DX", "diagnosis"),
        ("DX_bl", "diagnosis"),
        ("participant_id", "subject_id"),
        ("Session", "session_id"),
    ],
)
def test_columns_have_aliases_in_any_case(column, label):
    assert list(read(column, ["1"] if label != "diagnosis" else ["AD"]).columns) == [label]


def test_two_columns_for_one_label_need_a_choice():
    table = pd.DataFrame({"Gender": ["F"], "sex": ["M"]})
    with pytest.raises(InputError, match=r"'Gender' and 'sex' all tell sex; .*columns="):
        canonical(table, {}, {}, {})
    assert list(canonical(table, {}, {"sex": "Gender"}, {})["sex"]) == ["F"]


def test_the_diagnosis_of_the_visit_goes_before_that_at_baseline():
    table = pd.DataFrame({"DX_bl": ["CN"], "DX": ["Dementia"]})
    labels = canonical(table, {}, {}, {})
    assert labels.to_dict("list") == {"DX_bl": ["CN"], "diagnosis": ["AD"]}


def test_a_named_column_replaces_the_usual_one():
    table = pd.DataFrame({"diagnosis": ["n/a"], "group": ["HC"]})
    labels = canonical(table, {}, {"diagnosis": "group"}, {})
    assert labels.to_dict("list") == {"diagnosis": ["NC"]}


def test_ids_lose_their_prefix_only():
    assert list(read("participant_id", ["sub-001", "002"])["subject_id"]) == ["001", "002"]
    assert list(read("session_id", ["ses-a"])["session_id"]) == ["a"]


def test_codes_mean_what_the_dataset_says():
    levels = {"sex": {"1": "female", "2": "male"}}  # not the built-in reading of 1 and 2
    assert list(read("sex", ["1", "2.0", "n/a"], levels=levels)["sex"]) == ["F", "M", ""]


def test_a_code_that_explains_itself_needs_no_level():
    levels = {"diagnosis": {"AD": "Alzheimer's disease, NIA-AA 2011"}}
    assert list(read("diagnosis", ["AD"], levels=levels)["diagnosis"]) == ["AD"]


def test_a_number_with_a_meaning_we_do_not_know_is_not_guessed():
    levels = {"sex": {"1": "women's arm", "2": "men's arm"}}
    with pytest.raises(InputError, match=r"code 1.*women's arm"):
        read("sex", ["1"], levels=levels)


def test_codings_win_over_levels():
    levels = {"sex": {"0": "male"}}
    labels = read("sex", ["0"], codings={"sex": {0: "F"}}, levels=levels)
    assert list(labels["sex"]) == ["F"]


def test_targets_of_codings_are_understood_like_labels():
    codings = {"sex": {"1.0": "female", 2: "man", "9": "n/a"}}
    assert list(read("sex", ["1", "2.0", "9"], codings)["sex"]) == ["F", "M", ""]
    with pytest.raises(InputError, match=r"codings=.*'banana'.*allowed are F, M"):
        read("sex", ["1"], {"sex": {"1": "banana"}})


def test_an_unknown_label_is_refused_with_the_allowed_ones():
    with pytest.raises(InputError, match=r"'FTD' is not known; allowed are nc, cn, .*dementia"):
        read("diagnosis", ["CN", "FTD"])


def test_ages_are_years():
    ages = read("age", ["71.5", "89+", "n/a", "", "-4"], codings={"age": {"-4": "n/a"}})["age"]
    assert list(ages[:2]) == [71.5, 89.0]
    assert all(math.isnan(age) for age in ages[2:])


@pytest.mark.parametrize("age", ["45Y", "-4", "450", "inf", "1970-01-01"])
def test_an_age_that_is_none_is_refused(age):
    with pytest.raises(InputError, match="allowed are years"):
        read("age", [age])


@pytest.mark.parametrize("argument", ["codings", "columns"])
def test_a_misspelt_label_name_is_refused(argument):
    with pytest.raises(InputError, match=f"{argument} speaks of 'diagnose'"):
        read("sex", ["F"], **{argument: {"diagnose": {"a": "AD"}}})


def test_all_that_is_not_understood_is_told_at_once_and_no_class_is_proposed():
    table = pd.DataFrame({
        "participant_id": ["sub-1", "sub-2", "sub-3"], "sex": ["F", "femme", "M"],
        "diagnosis": ["NC", "NC", "bvFTD"], "age": ["60", "61", "old"],
    })  # fmt: skip
    with pytest.raises(InputError) as told:
        canonical(table, {}, {}, {})
    line = str(told.value)
    assert line.startswith("3 labels are not understood: ")
    for words in ("sub-2: sex 'femme'", "sub-3: diagnosis 'bvFTD'", "sub-3: age 'old'",
                  "--codings diagnosis:bvFTD=n/a"):  # fmt: skip
        assert words in line
    assert "bvFTD': 'NC'" not in line
