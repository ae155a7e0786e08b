import shutil
from dataclasses import replace

import numpy as np
import pytest
from bold_runs import AFFINE, PEOPLE

from neuromix.augment import files
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.metrics.task_runs import grid_regions, read_runs, signal_mask, subjects_of

STEM = "sub-1_task-motor_dir-LR"


@pytest.fixture(scope="module")
def run():
    return PEOPLE.runs(1, 1, tasks=("motor",), repeats=("LR",))[0]


@pytest.fixture
def folder(run, tmp_path):
    """A prepared cohort of one run."""
    func = tmp_path / "data" / "sub-1" / "func"
    files.write_nifti(func / f"{STEM}_space-MNI152_bold.nii.gz", run.data, AFFINE, tr=run.tr)
    files.write_json(func / f"{STEM}_space-MNI152_bold.json", {"RepetitionTime": run.tr})
    files.write_table(func / f"{STEM}_events.tsv", run.events)
    return func


def read(func):
    return read_runs(Cohort.from_bids(func.parent.parent))


def test_runs_come_with_their_events_and_data_waits(folder, run):
    (found,) = read(folder)
    assert str(found) == "sub-1 task-motor LR"
    assert found.tr == run.tr
    assert found.condition("left") == "motor/left"
    assert not isinstance(found.data, np.ndarray)
    np.testing.assert_array_equal(found.series(PEOPLE.mask), run.series(PEOPLE.mask))
    assert found.events["trial_type"].tolist() == run.events["trial_type"].tolist()


def test_the_phantom_has_runs(task_phantom):
    runs = read_runs(Cohort.from_bids(task_phantom))
    assert len(runs) == 28
    assert len(subjects_of(runs)) == 2
    assert {run.repeat for run in runs} == {"LR", "RL"}


def test_a_run_without_events_is_named(folder):
    (folder / f"{STEM}_events.tsv").unlink()
    with pytest.raises(InputError, match=rf"{STEM}_space.*: there is no events.tsv for it; put"):
        read(folder)


def test_events_past_the_end_are_named(folder, run):
    late = run.events.assign(onset=run.events["onset"] + 200)
    files.write_table(folder / f"{STEM}_events.tsv", late)
    with pytest.raises(InputError, match=rf"{STEM}.*begins at .* after the run's end at 160 s"):
        read(folder)


def test_a_tr_that_disagrees_is_named(folder):
    files.write_json(folder / f"{STEM}_space-MNI152_bold.json", {"RepetitionTime": 0.72})
    with pytest.raises(InputError, match=rf"{STEM}.*2 s in the header and 0.72 s in the sidecar"):
        read(folder)


def test_rest_is_left_out(folder):
    source, target = folder / f"{STEM}_space-MNI152_bold.nii.gz", "sub-1_task-rest_bold.nii.gz"
    shutil.copy(source, folder / target)
    assert len(read(folder)) == 1
    source.unlink()
    with pytest.raises(InputError, match="no run of a task"):
        read(folder)


def test_a_cohort_without_bold_is_refused(md_phantom):
    with pytest.raises(InputError, match="has no bold; make it with `neuromix prepare"):
        read_runs(Cohort.from_bids(md_phantom))


@pytest.mark.parametrize("value", [np.nan, 0])
def test_an_empty_frame_is_named(run, value):
    data = run.data.copy()
    data[..., 37] = value
    with pytest.raises(InputError, match=r"motor LR: 1 of 80 frames hold nothing .* frame 38;"):
        replace(run, data=data).series(PEOPLE.mask)


def test_other_data_that_cannot_be_used(run):
    data = run.data.copy()
    data[3, 3, 3, 5] = np.inf
    with pytest.raises(InputError, match="1 of 16800 values in the brain are NaN or infinite"):
        replace(run, data=data).series(PEOPLE.mask)
    with pytest.raises(InputError, match="the grid of the mask: bring all runs to one grid"):
        replace(run, data=data[1:]).series(PEOPLE.mask)
    late = run.events.assign(onset=500.0)
    with pytest.raises(InputError, match="LR: an event begins at 500 s"):
        replace(run, events=late).series(PEOPLE.mask)


def test_the_mask_is_where_runs_have_signal(run):
    runs = [run] * 5
    assert (signal_mask(runs) == PEOPLE.mask).all()
    cut = run.data.copy()
    cut[1] = 0
    half = PEOPLE.mask.copy()
    half[1] = False
    assert (
        signal_mask([*runs, replace(run, data=cut)]) == PEOPLE.mask
    ).all()  # one in six lacks it
    assert (signal_mask([*runs, *[replace(run, data=cut)] * 2]) == half).all()
    with pytest.raises(InputError, match=r"is on a grid of \(7, 9, 7\)"):
        signal_mask([run, replace(run, data=run.data[1:])])


def test_regions_are_cubes_of_the_brain():
    regions = grid_regions(PEOPLE.mask, AFFINE, side=24.0)
    assert regions.shape == (PEOPLE.mask.sum(),)
    assert set(regions) - {-1} == set(range(regions.max() + 1))
    place = np.argwhere(PEOPLE.mask)
    for region in range(regions.max() + 1):
        assert np.ptp(place[regions == region], axis=0).max() <= 1
    finer = grid_regions(PEOPLE.mask, AFFINE / 2, side=24.0)
    assert finer.max() < regions.max()
    slab = np.ones((40, 19, 1), bool)  # 5 x 3 cubes of 8 x 6 voxels, and a row that is left out
    regions = grid_regions(slab, np.diag([3.1, 3.75, 3.75, 1]))
    assert regions.max() == 14
    assert (regions == -1).sum() == 40
