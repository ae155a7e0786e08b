from collections import Counter

import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data import leakage
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.folds import GeneratorKFold
from neuromix.augment.errors import InputError, LeakageError


class FakeSource:
    def __init__(self, seen):
        self.record = leakage.provenance([seen], [])

    def check_disjoint(self, cohort, *, voxels=True):
        leakage.check_disjoint(self.record, cohort, voxels=voxels)


def many(subjects=33, sites=6, dataset="made"):
    n = np.repeat(np.arange(subjects), 2)
    table = pd.DataFrame({
        "subject_id": [f"{i:03d}" for i in n],
        "session_id": ["1", "2"] * subjects,
        "site": [f"S{i % sites}" for i in n],
        "sex": np.where(n % 2, "F", "M"),
        "diagnosis": np.array(["NC", "NC", "AD"])[n // 2 % 3],
        "md_path": "/x.nii",
    })  # fmt: skip
    return Cohort(table, dataset)


def train_on(cohort, number):
    return FakeSource(cohort)


@pytest.mark.parametrize("count", [2, 5, 11])
def test_each_subject_is_tested_once_with_all_sessions(count):
    cohort = many(subjects=11)
    folds = list(GeneratorKFold(train_on, count).split(cohort))
    assert len(folds) == count
    tested = [key for fold in folds for key in fold.test.subject_keys]
    assert sorted(tested) == sorted(cohort.subject_keys)
    for train, test, _, optimistic in folds:
        assert not set(train.subject_keys) & set(test.subject_keys)
        assert len(train) + len(test) == len(cohort)
        assert not optimistic


def test_folds_and_their_strata_are_of_equal_size():
    folds = list(GeneratorKFold(train_on, 5).split(many()))
    sizes = [len(fold.test.subject_keys) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for stratum in [("F", "NC"), ("F", "AD"), ("M", "NC"), ("M", "AD")]:
        counts = [
            Counter(zip(f.test.table["sex"], f.test.table["diagnosis"], strict=True))[stratum]
            for f in folds
        ]
        assert max(counts) - min(counts) <= 2, "two sessions are one subject"


def test_the_source_is_fitted_on_the_training_part_alone_and_one_at_a_time():
    calls = []

    def fit(cohort, number):
        calls.append((number, cohort))
        return FakeSource(cohort)

    for number, fold in enumerate(GeneratorKFold(fit, 3).split(many())):
        assert [call[0] for call in calls] == list(range(number + 1))
        assert calls[-1][1] is fold.train
        with pytest.raises(LeakageError):
            fold.source.check_disjoint(fold.train)


def test_a_source_that_has_peeked_is_refused():
    cohort = many()
    with pytest.raises(LeakageError, match="7 of 7 held-out subjects"):
        next(GeneratorKFold(lambda train, number: FakeSource(cohort), 5).split(cohort))


def test_every_fold_of_a_shared_source_that_has_seen_someone_is_optimistic():
    cohort = many()
    one = FakeSource(cohort.where(subject_id="000"))
    folds = list(GeneratorKFold(shared=one).split(cohort))
    assert [fold.optimistic for fold in folds] == [True] * 5
    assert all(fold.source is one for fold in folds)


def test_a_shared_source_from_elsewhere_is_not():
    strangers = FakeSource(many(dataset="elsewhere"))
    folds = GeneratorKFold(shared=strangers).split(many())
    assert [fold.optimistic for fold in folds] == [False] * 5


def test_the_seed_decides():
    def tests(seed):
        return [f.test.subject_keys for f in GeneratorKFold(train_on, 3, seed=seed).split(many())]

    assert tests(0) == tests(0)
    assert tests(0) != tests(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fit": None}, "neither of fit and shared came"),
        ({"shared": FakeSource(many())}, "both of fit and shared came"),
        ({"n_splits": 1}, "1 folds of 33 subjects cannot be; give 2 to 33"),
        ({"n_splits": 34}, "34 folds of 33 subjects"),
        ({"stratify": ("smoker",)}, "no column 'smoker'"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(InputError, match=words):
        next(GeneratorKFold(**{"fit": train_on, **options}).split(many()))
