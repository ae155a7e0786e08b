import json

import nibabel as nib
import numpy as np
import pytest
from banking import LABELS, FakeSampler

from neuromix.augment import SampleBank
from neuromix.augment.data.leakage import record_of, voxel_hash
from neuromix.augment.data.withdrawal import parts_of
from neuromix.augment.errors import InputError
from neuromix.experiments.cli.main import main

VOLUME = np.random.default_rng(0).random((8, 8, 8)).astype("f4")


@pytest.fixture
def root(tmp_path):
    """A sampler and a classifier of person 01, a bank of neither, completions of 02 for 03."""
    about = {
        "sampler/model_index.json": {
            "_class_name": "TiledMDSampler",
            "provenance": record_of([("Study", "01")], [voxel_hash(VOLUME[None])]),
        },
        "deep/er/classifier.json": {
            "kind": "SexClassifier",
            "record": record_of([("study", "01")]),
        },
        "completions/completion.json": {
            "settings": {"seed": 5, "samples": 16},
            "provenance": record_of([("study", "02")]),
        },
        "completions/dataset_description.json": {"Name": "study"},
    }
    for name, content in about.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (tmp_path / "root/completions/sub-03").mkdir()
    SampleBank.fill(tmp_path / "root/bank", FakeSampler(), LABELS[:2], seed=7)
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "scan.nii")
    return tmp_path / "root"


def folders(parts):
    return [part.folder.name for part in parts]


def test_whatever_a_person_had_a_part_in_is_listed_samplers_first(root):
    first, last = parts_of(root, "STUDY", "sub-01")[::2]
    assert folders(parts_of(root, "study", "01")) == ["sampler", "bank", "er"]
    assert "neuromix train md TRAIN.tsv NEW" in first.remedy and "fit it again" in last.remedy
    assert "--seed 7" in parts_of(root, "study", "01")[1].remedy
    assert folders(parts_of(root, "study", "02")) == ["completions"]
    assert parts_of(root, "other", "01") == []


def test_those_who_were_filled_in_are_known_too(root):
    (part,) = parts_of(root, "study", "03")
    assert part.how == "as one who is filled in" and "--samples 16" in part.remedy


def test_an_image_finds_them_under_another_name(root):
    (part,) = parts_of(root, "clinic", "p9", root.parent / "scan.nii")
    assert (part.folder.name, part.how) == ("sampler", "by an image")


def test_the_command(root, capsys):
    assert main(["who", str(root), "--person", "study/01"]) == 0
    printed = capsys.readouterr().out
    assert f"{root / 'sampler'}: TiledMDSampler (by name)" in printed
    assert "study/01 had a part in 3" in printed
    assert main(["who", str(root), "--person", "01"]) == 2
    assert "write it as DATASET/ID" in capsys.readouterr().err


def test_what_cannot_be_looked_for_is_refused(root):
    with pytest.raises(InputError, match="is no folder"):
        parts_of(root / "gone", "study", "01")
    with pytest.raises(InputError, match="does not exist; name an image"):
        parts_of(root, "study", "01", root / "gone.nii")
    (root / "bank/bank.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        parts_of(root, "study", "01")
