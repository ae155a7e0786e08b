import numpy as np
import pytest
from sklearn import metrics as known

from neuromix.classifiers.scores import SCORES, confusion


@pytest.fixture(params=[2, 3])
def drawn(request):
    rng = np.random.default_rng(request.param)
    truth = rng.integers(request.param, size=60)
    probabilities = rng.dirichlet(np.ones(request.param), 60)
    probabilities[: len(truth) // 2] = probabilities[:1]  # ties
    weights = rng.integers(0, 4, (5, 60)).astype(float)
    return truth, probabilities, weights


def repeated(truth, probabilities, weights):
    """What a row of weights stands for: each row so many times."""
    for row in weights:
        times = row.astype(int)
        yield np.repeat(truth, times), np.repeat(probabilities, times, axis=0)


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1", "auc", "brier"])
def test_weighted_scores_are_scikit_learns_of_repeated_rows(drawn, name):
    def expected(y, p):
        if name == "auc":
            score = p[:, 1] if p.shape[1] == 2 else p
            return known.roc_auc_score(y, score, multi_class="ovr")
        if name == "brier":
            return ((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean() / (2 if p.shape[1] == 2 else 1)
        if name == "f1":
            return known.f1_score(y, p.argmax(1), average="macro")
        return known.balanced_accuracy_score(y, p.argmax(1))

    found = SCORES[name](*drawn)
    np.testing.assert_allclose(found, [expected(*rows) for rows in repeated(*drawn)], atol=1e-12)


def test_confusion_counts(drawn):
    for table, (y, p) in zip(confusion(*drawn), repeated(*drawn), strict=True):
        np.testing.assert_array_equal(table, known.confusion_matrix(y, p.argmax(1)))


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.3, 0.7], [0.3, 0.7]])
    truth = np.array([0, 1, 1, 1])  # half right at 0.95, all right at 0.7
    found = SCORES["ece"](truth, probabilities, np.ones((1, 4)))
    assert found == pytest.approx([(2 * 0.45 + 2 * 0.3) / 4])
    sure = np.array([[1.0, 0.0]])
    assert SCORES["ece"](np.array([0]), sure, np.ones((1, 1))) == 0


def test_what_is_not_defined_is_nan():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    one_class = np.array([[1.0, 0.0]])
    assert np.isnan(SCORES["auc"](np.array([0, 1]), probabilities, one_class))
    assert SCORES["balanced_accuracy"](np.array([0, 1]), probabilities, one_class) == 1
