import numpy as np
import pytest
import torch
from sklearn.base import clone
from volumes import subjects

from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.errors import InputError
from neuromix.classifiers.dementia import DementiaClassifier
from neuromix.classifiers.sex import SexClassifier

QUICK = {"steps": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def sex():
    weight = {"F": 1.0, "M": 1.0}
    return SexClassifier(steps=30, batch_size=8, shift=0, class_weight=weight).fit(subjects(16))


def test_dementia_is_ad_against_nc():
    some = subjects(3)
    some[2]["diagnosis"] = "MCI"
    assert DementiaClassifier().labels(some) == ["no", "yes", None]


def test_a_missing_modality_works():
    pair = subjects(16, images=("fmri", "dmri"))
    for k, subject in enumerate(pair[12:]):
        del subject["fmri" if k < 2 else "dmri"]
    classifier = DementiaClassifier(image=("fmri", "dmri"), steps=40, batch_size=8, shift=0).fit(
        pair
    )
    for images in (("fmri", "dmri"), ("fmri",), ("dmri",)):
        assert classifier.score(subjects(10, images=images, seed=1)) >= 0.9
    with pytest.raises(InputError, match="no image 'fmri' or 'dmri'"):
        classifier.predict(subjects(1, images=("md",)))


def test_a_transfer_starts_from_the_features_and_learns_a_new_head(sex):
    few, test = subjects(4, seed=1), subjects(20, seed=2)
    frozen = DementiaClassifier.from_classifier(sex, freeze=True, steps=15)
    assert (frozen.batch_size, frozen.steps, frozen.target) == (8, 15, "dementia")
    assert clone(frozen).fit(few).score(test) >= 0.9
    frozen.fit(few)
    assert list(frozen.classes_) == ["no", "yes"]
    head = frozen.net_.module_.head[-1].weight
    assert not torch.equal(head, sex.net_.module_.head[-1].weight)


def test_the_record_of_the_pretrained_travels_along(sex):
    taken = DementiaClassifier.from_classifier(sex).set_params(steps=2).fit(subjects(4, seed=1))
    assert subject_hash("study0", "015") in taken.record_["subjects"]
    assert subject_hash("study1", "003") in taken.record_["subjects"]
    assert len(taken.record_["subjects"]) == 20


def test_features_fit_their_images_and_network_only(sex):
    for change in ({"network": "sfcn"}, {"image": "t1w"}, {"frames": "summary"}):
        with pytest.raises(InputError, match="features fit the images and the network"):
            DementiaClassifier.from_classifier(sex, **change)
    taken = DementiaClassifier.from_classifier(sex, **QUICK)
    with pytest.raises(InputError, match=r"channels {'md': 2} came"):
        taken.fit(subjects(4, channels=2))
    with pytest.raises(InputError, match="another network"):
        taken.set_params(network="sfcn").fit(subjects(4))


def test_a_transfer_keeps_the_scale_that_its_features_know(sex):
    scaled = subjects(8, seed=1)
    for subject in scaled:
        subject["md"].set_data(3 * subject["md"].data)
    taken = DementiaClassifier.from_classifier(sex, **QUICK).fit(scaled)
    np.testing.assert_array_equal(taken.scale_["md"], sex.scale_["md"])
