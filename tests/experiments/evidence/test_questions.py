import numpy as np
import pandas as pd
import pytest

from neuromix.augment.bank import quotas
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.errors import InputError
from neuromix.experiments.evidence.settings import (
    confounded,
    confounders,
    few_labels,
    imbalance,
    new_site,
)

RNG = np.random.default_rng(0)


def made_up(count, site="B", sites=1):
    """Labelled subjects whose images nobody opens; age tells nothing of the diagnosis."""
    return Cohort(pd.DataFrame({
        "subject_id": [f"{site}{k}" for k in range(count)],
        "sex": ["FM"[k % 2] for k in range(count)],
        "diagnosis": [("NC", "AD")[k // 2 % 2] for k in range(count)],
        "age": RNG.uniform(55, 90, count).round(1),
        "site": [f"{site}{k // 4 % sites}" for k in range(count)],
        "md_path": "none.nii",
    }), f"clinic {site}")  # fmt: skip


def space_of(cohort, *names):
    return LabelSpace.from_labels(cohort.table.to_dict("records"), names)


def test_few_keep_their_label_to_train_and_to_choose():
    pool = made_up(40)
    question = few_labels(pool, 8, seed=0)
    assert len(question.train) == 6
    assert sorted(question.validation.table["diagnosis"]) == ["AD", "NC"]
    assert len(question.sampler_train) == 38
    chosen = set(question.validation.subject_keys)
    assert not chosen & {*question.train.subject_keys, *question.sampler_train.subject_keys}
    shown = question.sampler_train.table[question.sampler_train.table["diagnosis"] != ""]
    assert set(shown["subject_id"]) == set(question.train.table["subject_id"])
    asked = question.requests(space_of(question.sampler_train, "sex", "diagnosis"), 12)
    assert sorted(r["diagnosis"] for r in asked) == ["AD"] * 6 + ["NC"] * 6


def test_ten_to_one_and_a_bank_that_evens_it_out():
    question = imbalance(made_up(100), 40, seed=0)
    counts = question.train.table["diagnosis"].value_counts()
    assert dict(counts) == {"NC": 40, "AD": 4}
    asked = question.requests(space_of(question.train, "sex", "diagnosis"), 44)
    assert [r["diagnosis"] for r in asked[:36]] == ["AD"] * 36
    assert {r["diagnosis"] for r in asked[36:]} == {"NC", "AD"}
    with pytest.raises(InputError, match="50 scans of clinic B have dementia 'no', and 60"):
        imbalance(made_up(100), 60, seed=0)


def test_age_goes_with_the_diagnosis_and_the_bank_undoes_it():
    pool = made_up(400)
    question = confounded(pool, 80, seed=0)
    assert dict(question.train.table["diagnosis"].value_counts()) == {"NC": 40, "AD": 40}
    space = space_of(question.train, "sex", "diagnosis", "age")
    asked = question.requests(space, 160)
    table = quotas.associations(question.train, asked, "diagnosis", ("age",))
    assert table["before"][0] > 0.5
    assert table["after"][0] < 0.15
    assert quotas.associations(pool, (), "diagnosis", ("age",))["before"][0] < 0.15


def test_site_is_confounded_where_there_are_several():
    assert confounders(made_up(40)) == ("age",)
    pool = made_up(400, sites=4)
    assert confounders(pool) == ("age", "site")
    question = confounded(pool, 80, seed=0)
    table = quotas.associations(question.train, (), "diagnosis", ("site",))
    assert table["before"][0] > 0.5


def test_samples_are_asked_for_the_new_site():
    old = made_up(60, "A")
    old = Cohort(old.table.assign(site="", diagnosis=""), old.name)
    question = new_site(old, made_up(60, "B"), 40, 6, seed=0)
    assert list(question.train.table["site"].value_counts()[["clinic A", "B0"]]) == [40, 6]
    asked = question.requests(space_of(question.train, "sex", "site", "age"), 12)
    assert {row["site"] for row in asked} == {"B0"}
