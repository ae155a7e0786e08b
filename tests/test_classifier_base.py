import pickle

import numpy as np
import pytest
import torch
import torchio as tio
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import StratifiedGroupKFold, cross_validate

from augment.errors import InputError
from classifiers.base import VolumeClassifier
from classifiers.networks import CompactNet


def subjects(count, *, shape=(16, 16, 16), seed=0, **labels):
    """Blobs on the left or on the right: the label is easy to see."""
    rng = np.random.default_rng(seed)
    result = []
    for k in range(count):
        sex = "FM"[k % 2]
        volume = rng.random((1, *shape), dtype=np.float32)
        half = slice(0, shape[0] // 2) if sex == "F" else slice(shape[0] // 2, None)
        volume[0, half] += 1
        keys = {"sex": sex, "diagnosis": ("NC", "AD", "MCI")[k % 3]} | labels
        result.append(tio.Subject(md=tio.ScalarImage(tensor=torch.from_numpy(volume)), **keys))
    return result


@pytest.fixture(scope="module")
def fitted():
    return VolumeClassifier("sex", steps=30, batch_size=8, shift=0).fit(subjects(16))


def test_it_learns_and_scores_unseen_subjects(fitted):
    fresh = subjects(20, seed=1)
    assert fitted.score(fresh) >= 0.9
    assert list(fitted.classes_) == ["F", "M"]
    np.testing.assert_allclose(fitted.predict_proba(fresh).sum(1), 1, atol=1e-5)


def test_clone_pickle_and_seed(fitted):
    fresh = subjects(6, seed=2)
    expected = fitted.predict_proba(fresh)
    reloaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(reloaded.predict_proba(fresh), expected)
    again = clone(fitted).fit(subjects(16))
    np.testing.assert_allclose(again.predict_proba(fresh), expected, atol=1e-5)


def test_subjects_without_the_label_are_left_out():
    some = subjects(12) + subjects(4, seed=3, sex="")
    classifier = VolumeClassifier("sex", steps=2, batch_size=4).fit(some)
    assert list(classifier.classes_) == ["F", "M"]
    assert classifier.score(some) == classifier.score(some[:12])


def test_dementia_is_ad_against_nc():
    labels = VolumeClassifier("dementia").labels(subjects(3))
    assert labels == ["no", "yes", None]


def test_one_class_is_refused():
    with pytest.raises(InputError, match="needs two"):
        VolumeClassifier("sex", steps=1).fit(subjects(4, sex="F"))


def test_mixed_shapes_are_refused():
    mixed = subjects(2) + subjects(2, shape=(16, 16, 24))
    with pytest.raises(InputError, match="neuromix prepare"):
        VolumeClassifier("sex", steps=1).fit(mixed)


def test_fitting_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    VolumeClassifier("sex", steps=1, batch_size=4).fit(subjects(4))
    assert torch.equal(torch.rand(3), expected)


def test_the_network_takes_any_volume_and_trains_every_weight():
    network = CompactNet(2, 3)
    logits = network(torch.randn(2, 2, 24, 32, 16))
    assert logits.shape == (2, 3)
    logits.logsumexp(1).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_what_cannot_be_classified_is_refused(fitted):
    few = subjects(4)
    for change, message in (
        ({"target": "smoker"}, "no 'smoker'; they have"),
        ({"image": "t1w"}, r"no image 't1w'; it has \['md'\]"),
        ({"network": "vgg"}, r"allowed are \['compact', 'sfcn'"),
        ({"steps": 0}, "1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            VolumeClassifier(**{"steps": 1} | change).fit(few)
    with pytest.raises(InputError, match="no subjects came"):
        fitted.predict([])
    with pytest.raises(InputError, match="was trained on"):
        fitted.predict(subjects(2, shape=(24, 24, 24)))
    with pytest.raises(InputError, match="age is a number"):
        VolumeClassifier("age", steps=1).fit(subjects(4, age=70.0))
    with pytest.raises(NotFittedError):
        VolumeClassifier().predict(few)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_with_nan_are_refused(value):
    broken = subjects(4)
    broken[1]["md"].data[0, 3, 3, 3] = value
    with pytest.raises(InputError, match="NaN or Inf"):
        VolumeClassifier("sex", steps=1, batch_size=4).fit(broken)


@pytest.mark.parametrize("factor", [1e-9, 1e6])
def test_the_unit_of_an_image_does_not_matter(factor):
    train, test = subjects(16), subjects(10, seed=1)
    for subject in train + test:
        subject["md"].set_data(subject["md"].data * factor)
    classifier = VolumeClassifier("sex", steps=30, batch_size=8, shift=0).fit(train)
    assert classifier.score(test) >= 0.9


def test_given_labels_replace_the_subjects_own():
    some = subjects(8)
    swapped = ["young" if s["sex"] == "F" else "old" for s in some[:-1]] + [None]
    classifier = VolumeClassifier("sex", steps=2, batch_size=4).fit(some, swapped)
    assert list(classifier.classes_) == ["old", "young"]


def test_cross_validation_by_person():
    some = subjects(12)
    groups = [k // 2 for k in range(12)]
    y = [s["sex"] for s in some]
    classifier = VolumeClassifier("sex", steps=20, batch_size=4, shift=0)
    scores = cross_validate(classifier, some, y, groups=groups, cv=StratifiedGroupKFold(2))
    assert len(scores["test_score"]) == 2
    assert np.isfinite(scores["test_score"]).all()
