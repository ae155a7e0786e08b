import nibabel as nib
import numpy as np
import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.experiments.evidence.configs import Transfer
from neuromix.experiments.evidence.sites import (
    labelled,
    load_site,
    part,
    require_classes,
    subsets,
    targets,
)


@pytest.fixture(scope="module")
def cohort(md_phantom):
    return Cohort.from_bids(md_phantom)


def relabel(cohort, **columns):
    return Cohort(cohort.table.assign(**columns), cohort.name)


def test_parts_share_nobody_and_have_the_sizes(cohort):
    even = relabel(cohort, sex=["F", "M"] * 6, diagnosis="")
    parts = part(even, "sex", 4, 2, 2, 0)
    sizes = [len(each) for each in (parts.pool, parts.validation, parts.test, parts.ceiling)]
    assert sum(sizes) == 12
    assert sizes[0] == 4
    assert sizes[3] == 2
    each = [set(p.subject_keys) for p in (parts.pool, parts.validation, parts.test, parts.ceiling)]
    assert len(set().union(*each)) == 12
    own = part(even, "sex", 6, 2, 0, 0)
    assert own.ceiling is None
    assert len(own.test) == 4  # all that are left


def test_only_subjects_with_the_target_take_part(cohort):
    kept = labelled(cohort, "dementia")
    assert set(kept.table["diagnosis"]) == {"NC", "AD"}
    assert set(targets(kept, "dementia")) == {"no", "yes"}
    with pytest.raises(InputError, match=r"no subject of .* has the label dementia"):
        labelled(relabel(cohort, diagnosis=""), "dementia")
    with pytest.raises(InputError, match="has no label 'smoker'"):
        targets(cohort, "smoker")


def test_one_class_and_lonely_classes_are_refused(cohort):
    with pytest.raises(InputError, match="only 'F'; a classifier needs two"):
        require_classes(relabel(cohort, sex="F"), "sex", "pool")
    with pytest.raises(InputError, match="class 'M' of sex has 1 subject in the pool"):
        require_classes(relabel(cohort, sex=["F"] * 11 + ["M"]), "sex", "pool")
    with pytest.raises(InputError, match="ask for fewer, or bring more"):
        part(cohort, "sex", 9, 2, 0, 0)


def test_images_of_unequal_shapes_are_refused(cohort, tmp_path):
    small = tmp_path / "small.nii"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), small)
    paths = [str(small), *cohort.table["md_path"][1:]]
    relabel(cohort, md_path=paths).save(tmp_path / "mixed.tsv")
    with pytest.raises(InputError, match="bring them to one grid"):
        load_site(Transfer(data_b=tmp_path / "mixed.tsv"), "B", "sex", 4, 0, tmp_path)


def test_a_map_that_a_phantom_has_not_needs_a_cohort(cohort, tmp_path):
    with pytest.raises(InputError, match="--image t1 came without --data-b"):
        load_site(Transfer(image="t1"), "B", "sex", 4, 0, tmp_path)
    table = cohort.table.rename(columns={"md_path": "t1_path"})
    Cohort(table, cohort.name).save(tmp_path / "t1.tsv")
    config = Transfer(image="t1", data_b=tmp_path / "t1.tsv", validation=3)
    assert load_site(config, "B", "sex", 4, 0, tmp_path).pool.images == ("t1",)


def test_training_sets_grow_by_adding(cohort):
    sexes = relabel(cohort, sex=["F", "M", "F"] * 4)
    sets = subsets(sexes, "sex", (6, 9), seed=1)
    small, large = (set(sets[size].subject_keys) for size in (6, 9))
    assert len(small) == 6
    assert small < large
    assert list(sets[6].table["sex"]).count("M") == 2  # a third, as in the whole


def test_own_data_are_found_by_folder_and_by_table(cohort, md_phantom, tmp_path):
    cohort.save(tmp_path / "cohort.tsv")
    for place in (md_phantom, tmp_path / "cohort.tsv"):
        config = Transfer(data_b=place, validation=3)
        parts = load_site(config, "B", "sex", 4, 0, tmp_path)
        assert len(parts.test) == 5
    with pytest.raises(InputError, match="does not exist"):
        load_site(Transfer(data_b=tmp_path / "no"), "B", "sex", 4, 0, tmp_path)
