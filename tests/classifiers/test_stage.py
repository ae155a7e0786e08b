import numpy as np
import pytest
import torch
import torchio as tio
from sklearn.base import clone

from neuromix.classifiers.stage import StageClassifier


def graded(count, seed=0):
    """The further a disease, the brighter the left half."""
    rng = np.random.default_rng(seed)
    result = []
    for k in range(count):
        volume = rng.random((1, 16, 16, 16), dtype=np.float32)
        volume[:, :8] += 0.6 * (k % 3)
        md = tio.ScalarImage(tensor=torch.from_numpy(volume))
        result.append(tio.Subject(md=md, diagnosis=("NC", "MCI", "AD")[k % 3]))
    return result


@pytest.mark.parametrize("ordinal", [False, True])
def test_stages_are_told_apart(ordinal):
    classifier = StageClassifier(ordinal=ordinal, steps=60, batch_size=12, shift=0)
    assert clone(classifier).ordinal == ordinal and classifier.target == "diagnosis"
    classifier.fit(graded(30))
    assert list(classifier.classes_) == ["NC", "MCI", "AD"]
    probabilities = classifier.predict_proba(graded(15, seed=1))
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert classifier.score(graded(15, seed=1)) >= 0.8


def test_an_ordinal_classifier_has_one_output_fewer():
    fitted = StageClassifier(ordinal=True, steps=2, batch_size=6).fit(graded(6))
    assert fitted.net_.module_.head[-1].out_features == 2
    assert fitted.predict_proba(graded(3)).shape == (3, 3)
