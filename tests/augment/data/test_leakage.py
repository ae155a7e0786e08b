import pickle

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import (
    check_disjoint,
    merge,
    provenance,
    subject_hash,
    voxel_hash,
    voxel_hashes,
)
from neuromix.augment.errors import InputError, LeakageError


@pytest.fixture(scope="module")
def parts(md_phantom):
    return Cohort.from_bids(md_phantom).split((0.6, 0.2, 0.2), seed=0)


@pytest.fixture(scope="module")
def record(parts):
    return provenance(parts[:2], [d for part in parts[:2] for d in voxel_hashes(part)])


def as_cohort(rows, dataset="clinic"):
    return Cohort(pd.DataFrame(rows, columns=["subject_id", "md_path"]).assign(dataset=dataset))


def test_spelling_does_not_matter_but_the_dataset_does():
    assert subject_hash("ADNI ", "sub-01A") == subject_hash("adni", "01a")
    assert subject_hash("ADNI", "01") != subject_hash("OASIS", "01")


def test_a_held_out_part_passes_and_the_training_part_is_named(record, parts):
    check_disjoint(record, parts.test)
    with pytest.raises(LeakageError, match="held-out subjects had a part") as caught:
        check_disjoint(record, parts.val)
    assert set(caught.value.subjects) == set(parts.val.subject_keys)
    assert f"sub-{parts.val.subject_keys[0][1]}" in str(caught.value)
    assert isinstance(caught.value, InputError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_renamed_copy_is_found_by_its_voxels(record, parts, tmp_path):
    source = nib.load(parts.train.table["md_path"][0])
    copy = tmp_path / "copy.nii"  # another name, not compressed, another type
    nib.save(nib.Nifti1Image(source.get_fdata(dtype=np.float64), source.affine), copy)
    other = as_cohort([("p9", str(copy)), ("p8", parts.test.table["md_path"][0])])
    with pytest.raises(LeakageError, match="under other names") as caught:
        check_disjoint(record, other)
    assert caught.value.subjects == (("clinic", "p9"),)
    check_disjoint(record, other, voxels=False)


def test_equal_names_in_two_datasets_are_two_people(record, parts):
    name = parts.train.subject_keys[0][1]
    check_disjoint(record, as_cohort([(name, parts.test.table["md_path"][0])]))


def test_a_mix_of_names_and_copies_is_told_at_once(record, parts):
    known = parts.train.table
    rows = [("new", known["md_path"][0]), (known["subject_id"][1], known["md_path"][1])]
    table = as_cohort(rows).table
    table.loc[1, "dataset"] = known["dataset"][1]
    with pytest.raises(LeakageError, match=r"2 of 2 .*1 of them by their images") as caught:
        check_disjoint(record, Cohort(table))
    assert len(caught.value.subjects) == 2


def test_records_are_merged(record):
    other = {"datasets": ["x"], "subjects": ["s"], "voxels": []}
    both = merge([record, other])
    assert set(both["subjects"]) == {*record["subjects"], "s"}
    assert both["versions"] == record["versions"]
    assert both["datasets"] == sorted([*record["datasets"], "x"])


def test_voxel_hashes_see_values_and_not_memory_order():
    volume = np.random.default_rng(0).random((1, 4, 5, 6), dtype=np.float32)
    assert voxel_hash(volume) == voxel_hash(np.asfortranarray(volume))
    assert voxel_hash(volume) == voxel_hash(volume + 1e-7)
    changed = volume.copy()
    changed[0, 1, 1, 1] += 0.01
    assert voxel_hash(volume) != voxel_hash(changed)


def test_an_absent_image_is_named(record, parts, tmp_path):
    with pytest.raises(InputError, match=r"gone\.nii is absent"):
        check_disjoint(record, as_cohort([("p1", str(tmp_path / "gone.nii"))]))
