import numpy as np
import pytest
from volumes import subjects

from neuromix.augment.data.leakage import subject_hash, voxel_hash
from neuromix.augment.errors import InputError
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.training_set import collect


def test_labelled_subjects_are_kept_with_who_they_are():
    some = subjects(6)
    some[2]["sex"] = ""
    some[4].update(synthetic=True, synthetic_id="004", origin="")
    with pytest.warns(UserWarning, match="1 of 6 test subjects"):
        chosen = collect(VolumeClassifier("sex"), some, None, "test")
    assert chosen.indices == [0, 1, 3, 4, 5] and chosen.labels == ["F", "M", "M", "F", "M"]
    assert chosen.kept[1][0]["subject_id"] == "001" and set(chosen.kept[1][1]) == {"md"}
    real = [some[k] for k in (0, 1, 3, 5)]
    record = chosen.record()
    hashes = sorted(subject_hash("study0", s["subject_id"]) for s in real)
    assert record["subjects"] == hashes and record["datasets"] == ["study0"]
    assert record["voxels"] == sorted(voxel_hash(s["md"].numpy()) for s in real)
    assert record["untraced"] == ["004"]


def test_weights_are_of_the_subjects_that_have_a_label():
    some = subjects(4)
    chosen = collect(VolumeClassifier("sex"), some, ["a", None, "b", "b"], "training")
    np.testing.assert_array_equal(chosen.weights([1, 5, 2, 3], 4), [1, 2, 3])
    assert chosen.weights(None, 4) is None
    with pytest.raises(InputError, match="0 for all subjects of a"):
        chosen.weights([0, 5, 2, 3], 4)
    with pytest.raises(InputError, match="for 4 subjects"):
        chosen.weights([1, 2, 3], 4)
