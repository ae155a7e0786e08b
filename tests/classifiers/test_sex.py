import pytest
from sklearn.base import clone
from volumes import subjects

from neuromix.classifiers.sex import SexClassifier


def test_it_tells_sex_and_has_every_setting_but_the_target():
    classifier = SexClassifier(steps=20, batch_size=8, shift=0)
    assert clone(classifier).get_params() == classifier.get_params()
    assert "target" not in classifier.get_params() and "steps=20" in repr(classifier)
    assert classifier.set_params(seed=3).seed == 3
    assert classifier.fit(subjects(16)).score(subjects(10, seed=1)) >= 0.9
    with pytest.raises(TypeError, match="target"):
        SexClassifier(target="diagnosis")


def test_a_summary_of_frames_takes_any_number_of_them():
    classifier = SexClassifier(image="bold", frames="summary", steps=20, batch_size=8, shift=0)
    short, long = (subjects(8, images=("bold",), channels=c, seed=c) for c in (5, 9))
    assert classifier.fit(short + long).score(subjects(10, images=("bold",), channels=7)) >= 0.9
