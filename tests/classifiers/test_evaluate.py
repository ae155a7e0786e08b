import json

import numpy as np
import pytest
import torch
import torchio as tio
from predictions import of_scores
from sklearn.base import BaseEstimator, ClassifierMixin

from neuromix.augment import Cohort
from neuromix.augment.data.leakage import check_disjoint, provenance
from neuromix.augment.errors import InputError, LeakageError
from neuromix.classifiers.evaluate import (
    cross_validate_subjects,
    learning_curve,
    metrics,
    nested_subsets,
    pool,
    predict,
)


class MeanIntensity(ClassifierMixin, BaseEstimator):
    """A classifier that costs nothing: which class mean is nearer?"""

    def __init__(self, target="sex", seed=0):
        self.target = target
        self.seed = seed

    def labels(self, subjects):
        return [subject[self.target] or None for subject in subjects]

    def fit(self, subjects, y=None, validation=None):
        labels = np.array(self.labels(subjects))
        self.classes_ = np.unique(labels)
        values = self._values(subjects)
        self.means_ = np.array([values[labels == c].mean() for c in self.classes_])
        self.people_ = {subject["subject_id"] for subject in subjects}
        self.validation_ = validation
        return self

    def predict_proba(self, subjects):
        self.judged_ = {subject["subject_id"] for subject in subjects}
        distance = np.abs(self._values(subjects)[:, None] - self.means_)
        odds = np.exp(-distance)
        return odds / odds.sum(1, keepdims=True)

    def _values(self, subjects):
        return np.array([float(s["md"].data.mean()) for s in subjects])


def subjects(count, *, sessions=1, sites=2, **labels):
    rows = []
    for k in range(count):
        for session in range(sessions):
            value = torch.full((1, 2, 2, 2), float(k % 2) + 0.1 * session)
            keys = {
                "dataset": "study", "subject_id": f"{k:02d}", "session_id": str(session),
                "site": "AB"[k // 2 % sites], "sex": "FM"[k % 2],
            }  # fmt: skip
            rows.append(tio.Subject(md=tio.ScalarImage(tensor=value), **keys | labels))
    return rows


def test_metrics_of_a_small_example():
    # Rows: right NC, wrong NC, right AD, right AD.
    result = metrics(of_scores(np.array([0, 0, 1, 1]), [-2.0, 1.0, 2.0, 3.0]))
    assert result["balanced_accuracy"] == 0.75
    assert result["confusion"] == [[1, 1], [0, 2]]
    assert result["auc"] == 1 and result["n"] == 4
    assert result["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    json.dumps(result)


def test_predict_names_subjects_and_leaves_out_the_unlabelled():
    fitted = MeanIntensity().fit(subjects(6))
    test = subjects(4) + subjects(2, sex="")
    with pytest.warns(UserWarning, match="2 of 6 test subjects have no label sex"):
        result = predict(fitted, test)
    assert result.subjects.tolist() == [f"study/{k:02d}" for k in range(4)]
    assert metrics(result)["balanced_accuracy"] == 1
    with pytest.raises(InputError, match="none of 2"):
        predict(fitted, subjects(2, sex=""))
    with pytest.raises(InputError, match="no subject_id"):
        predict(fitted, subjects(2, subject_id=""))


def test_a_source_that_has_seen_test_subjects_is_refused(md_phantom):
    class Seen:
        def __init__(self, cohort):
            self.record = provenance([cohort], [])

        def check_disjoint(self, cohort):
            check_disjoint(self.record, cohort)

    train, _, test = Cohort.from_bids(md_phantom).split((0.5, 0.0, 0.5), stratify=("sex",))
    fitted = MeanIntensity().fit(train.subjects())
    assert len(predict(fitted, test, sources=[Seen(train)]).truth) == len(test)
    for judged in (test, test.subjects()):
        with pytest.raises(LeakageError) as caught:
            predict(fitted, judged, sources=[Seen(train), Seen(test)])
        assert set(caught.value.subjects) == set(test.subject_keys)
        assert test.subject_keys[0][1] in str(caught.value)
    with pytest.raises(InputError, match="pass the cohort"):
        predict(fitted, subjects(2), sources=[Seen(train)])


def test_folds_share_no_subject_and_judge_each_once():
    everyone = subjects(12, sessions=2)
    folds = cross_validate_subjects(MeanIntensity(), everyone, folds=3, seed=1)
    assert len(folds) == 3
    whole = pool(folds)
    assert len(whole.truth) == 24 and len(set(whole.subjects)) == 12
    assert metrics(whole)["balanced_accuracy"] == 1
    for fold in folds:
        assert (fold.truth == "F").sum() == (fold.truth == "M").sum() == 4


def test_folds_that_cannot_be_are_refused():
    few = subjects(6)
    for folds in (1, 4):
        with pytest.raises(InputError, match="'F' has 3 subjects"):
            cross_validate_subjects(MeanIntensity(), few, folds=folds)
    with pytest.raises(InputError, match="all subjects are 'M'"):
        cross_validate_subjects(MeanIntensity(), subjects(6, sex="M"))


def test_subsets_are_nested_stratified_and_whole():
    names = np.repeat([f"s{k:02d}" for k in range(40)], 2)
    labels = np.repeat(["NC"] * 30 + ["AD"] * 10, 2)
    subsets = nested_subsets(names, labels, [4, 12, 40], seed=3)
    smallest, middle, whole = (set(rows) for rows in subsets.values())
    assert smallest < middle < whole == set(range(80))
    for size, rows in subsets.items():
        assert len(set(names[rows])) == size and len(rows) == 2 * size
        assert (labels[rows] == "AD").mean() == 0.25
    again = nested_subsets(names, labels, [12], seed=3)[12]
    np.testing.assert_array_equal(again, subsets[12])
    assert set(nested_subsets(names, labels, [12], seed=4)[12]) != middle
    with pytest.raises(InputError, match="1 to 40"):
        nested_subsets(names, labels, [41], seed=0)


def test_a_learning_curve_has_a_run_for_each_size_and_seed():
    pool_, test = subjects(12), subjects(8, dataset="other")
    curve = learning_curve(MeanIntensity(), pool_, test, [2, 8], [0, 1, 2])
    assert {size: len(runs) for size, runs in curve.items()} == {2: 3, 8: 3}
    assert all(len(run.truth) == 8 for runs in curve.values() for run in runs)
    with pytest.raises(LeakageError, match="12 subjects are in the training pool") as caught:
        learning_curve(MeanIntensity(), pool_, pool_, [2], [0])
    assert ("study", "03") in caught.value.subjects
