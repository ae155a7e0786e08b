import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.experiments.frame.cohorts import uses


@pytest.fixture
def maps(tmp_path):
    """A cohort of slabs in a space of their own, of which some can be spoilt."""

    def make(count=6, moved=(), code=2, **columns):
        paths = []
        for k in range(count):
            volume = np.random.default_rng(k).random((8, 8, 4), np.float32) * 200
            affine = np.diag([3.0, 3, 3, 1])
            affine[0, 3] = k if k in moved else 0
            image = nib.Nifti1Image(volume, affine)
            image.set_sform(affine, code=code)
            image.to_filename(tmp_path / f"{k}.nii")
            paths.append(str(tmp_path / f"{k}.nii"))
        ids = [str(k) for k in range(count)]
        return Cohort(pd.DataFrame({"subject_id": ids, "t1_path": paths, **columns}), "slabs")

    return make


def line(cohort):
    (told,) = uses(cohort, cohort.validate())
    return told


def test_a_map_on_one_grid_trains_samplers_and_classifiers(maps):
    told = line(maps(diagnosis=["NC", "AD", "MCI"] * 2))
    assert told.startswith(
        "t1: 6 people on one grid of 8 x 8 x 4 voxels of 3 x 3 x 3 mm, space unk"
    )
    assert "fits train tiled --image t1, audit, classifiers and experiments of dementia" in told
    assert told.endswith("not checks of tissues and regions, which need MNI152")
    assert "not classifiers: neither sex nor dementia" in line(maps())


def test_maps_on_grids_of_their_own_are_to_be_prepared(maps):
    told = line(maps(moved=range(6)))
    assert "6 people on several grids" in told
    assert "fits prepare --what map --image t1; not samplers" in told


def test_those_with_a_problem_are_left_out(maps):
    assert line(maps(moved=[3])).startswith("t1: 5 people on one grid")
    assert line(maps(count=2)) == "t1: 2 people without a problem; 3 or more are needed"


def test_series_have_uses_of_their_own(md_phantom, paired_phantom):
    told = uses(Cohort.from_bids(md_phantom), [])
    assert len(told) == 1
    assert "space MNI152NLin2009aSym; fits train tiled, audit, classifiers" in told[0]
    fmri, dmri = uses(Cohort.from_bids(paired_phantom), [])
    assert "fits train pds" in fmri
    assert "fits train pds" in dmri
