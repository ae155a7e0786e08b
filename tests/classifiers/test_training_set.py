import pytest
from volumes import subjects

from neuromix.augment.data.leakage import subject_hash, voxel_hash
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.training_set import collect


def test_labelled_subjects_are_kept_with_who_they_are():
    some = subjects(6)
    some[2]["sex"] = ""
    some[4].update(synthetic=True, synthetic_id="004", origin="")
    with pytest.warns(UserWarning, match="1 of 6 test subjects"):
        chosen = collect(VolumeClassifier("sex"), some, None, "test")
    assert chosen.labels == ["F", "M", "M", "F", "M"]
    assert chosen.kept[1][0]["subject_id"] == "001" and set(chosen.kept[1][1]) == {"md"}
    real = [some[k] for k in (0, 1, 3, 5)]
    record = chosen.record()
    hashes = sorted(subject_hash("study0", s["subject_id"]) for s in real)
    assert record["subjects"] == hashes and record["datasets"] == ["study0"]
    assert record["voxels"] == sorted(voxel_hash(s["md"].numpy()) for s in real)
    assert record["untraced"] == ["004"]
