import json

import numpy as np
import pytest
import torchio as tio
from sklearn.base import clone
from volumes import subjects

from neuromix.augment.errors import InputError
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.dementia import DementiaClassifier
from neuromix.classifiers.saving import SETTINGS, WEIGHTS
from neuromix.classifiers.sex import SexClassifier
from neuromix.classifiers.stage import StageClassifier

QUICK = {"steps": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def sex():
    return SexClassifier(**QUICK, check_every=2, class_weight={"F": 1.0, "M": 2.0}).fit(
        subjects(8), validation=subjects(6, seed=1)
    )


def test_what_is_loaded_says_the_very_same(sex, tmp_path):
    sex.save(tmp_path)
    loaded = SexClassifier.load(tmp_path)
    fresh = subjects(40, seed=2)
    np.testing.assert_array_equal(loaded.predict_proba(fresh), sex.predict_proba(fresh))
    assert loaded.get_params() == sex.get_params()
    assert loaded.record_ == sex.record_ and loaded.history_ == sex.history_
    assert sorted(path.name for path in tmp_path.iterdir()) == [SETTINGS, WEIGHTS]
    json.loads((tmp_path / SETTINGS).read_text())


def test_towers_stages_and_transfers_are_loaded_too(sex, tmp_path):
    pair = subjects(8, images=("fmri", "dmri"))
    towers = StageClassifier(**QUICK, image=("fmri", "dmri"), ordinal=True).fit(pair)
    towers.save(tmp_path / "towers")
    loaded = StageClassifier.load(tmp_path / "towers")
    np.testing.assert_array_equal(loaded.predict_proba(pair), towers.predict_proba(pair))
    transfer = DementiaClassifier.from_classifier(sex, freeze=True)
    transfer.fit(subjects(8)).save(tmp_path / "transfer")
    again = clone(DementiaClassifier.load(tmp_path / "transfer")).fit(subjects(8))
    fresh = subjects(6, seed=3)
    np.testing.assert_array_equal(again.predict_proba(fresh), transfer.predict_proba(fresh))


def test_augmentation_is_not_saved_and_says_so(tmp_path):
    classifier = VolumeClassifier("sex", **QUICK, augment=tio.RandomNoise()).fit(subjects(4))
    with pytest.warns(UserWarning, match="augment= is not saved"):
        classifier.save(tmp_path)
    assert VolumeClassifier.load(tmp_path).augment is None


def test_other_versions_other_kinds_and_damage_are_refused(sex, tmp_path):
    with pytest.raises(InputError, match=r"no classifier\.json"):
        SexClassifier.load(tmp_path)
    sex.save(tmp_path)
    with pytest.raises(InputError, match=r"holds a SexClassifier.*use SexClassifier\.load"):
        DementiaClassifier.load(tmp_path)
    content = json.loads((tmp_path / SETTINGS).read_text())
    for change, message in (
        ({"format": 99}, "saved in format 99"),
        ({"classes": ["F", "M", "X"]}, "is damaged"),
        ({"settings": content["settings"] | {"unheard": 1}}, "is damaged"),
    ):
        (tmp_path / SETTINGS).write_text(json.dumps(content | change))
        with pytest.raises(InputError, match=message):
            SexClassifier.load(tmp_path)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        SexClassifier.load(tmp_path)
    sex.save(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"pickle")
    with pytest.raises(InputError, match="is damaged"):
        SexClassifier.load(tmp_path)
