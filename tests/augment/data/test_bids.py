import json

import nibabel as nib
import pytest

from neuromix.augment.data import bids
from neuromix.augment.errors import InputError

NAME = "sub-01_ses-a_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_name_is_taken_apart_and_put_together():
    entities, suffix, extension = bids.parse_name(NAME)
    assert entities == {
        "sub": "01",
        "ses": "a",
        "task": "rest",
        "space": "MNI152NLin6Asym",
        "desc": "preproc",
    }
    assert (suffix, extension) == ("bold", ".nii.gz")
    shuffled = dict(reversed(entities.items()))
    assert bids.build_name(shuffled, suffix, extension) == NAME


def test_images_that_tell_no_space_or_several_are_in_a_custom_one():
    other = NAME.replace("NLin6Asym", "Lin")
    assert bids.space_of([NAME, f"/data_space-X_/{NAME}"]) == "MNI152NLin6Asym"
    for paths in ([NAME, other], [NAME, "sub-01_md.nii"], ["my_map.nii"], []):
        assert bids.space_of(paths) == "custom"


def test_empty_labels_are_left_out_of_a_name():
    assert bids.build_name({"sub": "01", "ses": ""}, "T1w", ".nii") == "sub-01_T1w.nii"


@pytest.mark.parametrize("name", ["sub-01_rest_bold.nii", "sub-_bold.nii", "a_b_c.nii"])
def test_a_name_that_is_not_bids_is_refused(name):
    with pytest.raises(InputError, match="not a BIDS name"):
        bids.parse_name(name)


@pytest.mark.parametrize(
    ("entities", "reason"),
    [({"sub": "a_b"}, "letters and digits"), ({"sub": "1", "spase": "x"}, "not a BIDS entity")],
)
def test_a_name_that_would_not_be_bids_is_refused(entities, reason):
    with pytest.raises(InputError, match=reason):
        bids.build_name(entities, "bold", ".nii")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("sub-1_model-tensor_param-md_dwimap.nii.gz", "md"),
        ("sub-1_param-MD_dwimap.nii.gz", "md"),
        ("sub-1_MD.nii", "md"),
        ("sub-1_desc-md_dwi.nii", "md"),
        ("sub-1_task-rest_desc-segments_bold.nii", "fmri"),
        ("sub-1_desc-segments_dwi.nii", "dmri"),
        ("sub-1_task-rest_bold.nii", "bold"),
        ("sub-1_dwi.nii", "dwi"),
        ("sub-1_T1w.nii", "t1w"),
        ("sub-1_param-fa_dwimap.nii", "fa"),
        ("sub-1_space-mean_param-t1_map.nii.gz", "t1"),
        ("sub-1_map.nii", None),
        ("sub-1_desc-md_mask.nii", None),
        ("sub-1_task-rest_boldref.nii", None),
        ("sub-1_T1w.json", None),
        ("unnamed.nii", None),
    ],
)
def test_the_name_says_which_image_it_is(tmp_path, name, image):
    touch(tmp_path, f"sub-1/any/{name}")
    assert [file.image for file in bids.index(tmp_path)] == ([image] if image else [])


def test_the_index_walks_subjects_only(tmp_path):
    touch(
        tmp_path,
        "sub-2/anat/sub-2_T1w.nii",
        "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz",
        "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz",
        "derivatives/other/sub-1/anat/sub-1_T1w.nii.gz",
        "sourcedata/sub-1/anat/sub-1_T1w.nii.gz",
        "code/sub-1/anat/sub-1_T1w.nii.gz",
    )
    places = [file.path for file in bids.index(tmp_path)]
    assert places == [
        str(tmp_path / "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz"),
        str(tmp_path / "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz"),
        str(tmp_path / "sub-2/anat/sub-2_T1w.nii"),
    ]


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        bids.index(tmp_path / "nothing")


def join(root, *names, images):
    touch(root, *(f"sub-1/any/{name}" for name in names))
    rows = bids.join_runs(bids.index(root), images)
    cut = len(str(root / "sub-1/any/"))
    return [[*row[2:6], *(path[cut + 1 :] for path in row[6:])] for row in rows]


def test_an_anatomical_image_joins_every_run(tmp_path):
    names = ["sub-1_MD.nii", "sub-1_task-a_dir-LR_bold.nii", "sub-1_task-a_dir-RL_bold.nii"]
    assert join(tmp_path, *names, images=["md", "bold"]) == [
        ["a", "LR", "", "", "sub-1_MD.nii", "sub-1_task-a_dir-LR_bold.nii"],
        ["a", "RL", "", "", "sub-1_MD.nii", "sub-1_task-a_dir-RL_bold.nii"],
    ]


def test_segments_of_a_run_join_its_windows(tmp_path):
    segments = "sub-1_task-a_desc-segments_bold.nii"
    windows = ["sub-1_task-a_chunk-1_bold.nii", "sub-1_task-a_chunk-2_bold.nii"]
    other = "sub-1_task-b_bold.nii"
    assert join(tmp_path, segments, *windows, other, images=["fmri", "bold"]) == [
        ["a", "", "", "1", segments, windows[0]],
        ["a", "", "", "2", segments, windows[1]],
        ["b", "", "", "", "", other],
    ]


def test_a_whole_run_stays_a_row_beside_its_windows(tmp_path):
    names = ["sub-1_task-a_bold.nii", "sub-1_task-a_chunk-1_bold.nii"]
    rows = join(tmp_path, *names, images=["bold"])
    assert sorted(row[3:] for row in rows) == [["", names[0]], ["1", names[1]]]


def test_a_sidecar_is_inherited_and_the_nearest_wins(tmp_path):
    touch(tmp_path, "sub-1/func/sub-1_task-rest_run-1_bold.nii.gz")
    sidecars = {
        "task-rest_bold.json": {"RepetitionTime": 2.0, "EchoTime": 0.03},
        "task-other_bold.json": {"RepetitionTime": 9.0},
        "sub-1/func/sub-1_task-rest_bold.json": {"RepetitionTime": 1.5},
    }
    for name, content in sidecars.items():
        (tmp_path / name).write_text(json.dumps(content))
    path = tmp_path / "sub-1/func/sub-1_task-rest_run-1_bold.nii.gz"
    assert bids.metadata(path) == {"RepetitionTime": 1.5, "EchoTime": 0.03}


def make_header(tr, unit="sec"):
    header = nib.Nifti1Header()
    header.set_data_shape((2, 2, 2, 5))
    header.set_zooms((2, 2, 2, tr))
    header.set_xyzt_units("mm", unit)
    return header


def test_repetition_time_of_header_and_sidecar():
    assert bids.repetition_time(make_header(0.72), {}) == 0.72
    assert bids.repetition_time(make_header(720, "msec"), {"RepetitionTime": 0.72}) == 0.72
    assert bids.repetition_time(make_header(0), {"RepetitionTime": 2.5}) == 2.5
    with pytest.raises(InputError, match=r"1 s in the header and 2 s in the sidecar"):
        bids.repetition_time(make_header(1), {"RepetitionTime": 2})
    with pytest.raises(InputError, match="neither in the header nor in the sidecar"):
        bids.repetition_time(make_header(0), {})
    with pytest.raises(InputError, match="'2 s' in the sidecar; write a number"):
        bids.repetition_time(make_header(2), {"RepetitionTime": "2 s"})
    with pytest.raises(InputError, match="720 s cannot be"):
        bids.repetition_time(make_header(720), {})


def test_ids_stay_text_and_missing_values_are_empty(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffid,x,y\n001,n/a,NA\n002,,1.50\n")
    table = bids.read_table(tmp_path / "t.csv")
    assert table.to_dict("list") == {"id": ["001", "002"], "x": ["", ""], "y": ["NA", "1.50"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.xlsx", b"a"), ("t.csv", b""), ("t.csv", b"a,b\n1,2,3\n4,5,6,7\n"), ("t.tsv", b"\xff\xfe")],
)
def test_a_table_that_cannot_be_read_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        bids.read_table(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n3,4,5\n", r"t\.csv, line 3: 3 fields, but the header has 2"),
        ("a;b\n1;2\n", r"t\.csv is separated by ;: save it with commas"),
        ("sex,age,sex\nF,1,M\n", "2 columns named 'sex'"),
    ],
)
def test_a_table_of_another_shape_is_refused(tmp_path, recwarn, content, words):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=words):
        bids.read_table(tmp_path / "t.csv")
    assert not recwarn


def test_blanks_empty_rows_and_unnamed_columns_of_a_spreadsheet_are_dropped(tmp_path):
    (tmp_path / "t.csv").write_text(",id , path,,\n0, 001, a b.nii ,,\n,,,,\n\n1,2\n,,\n")
    table = bids.read_table(tmp_path / "t.csv")
    assert table.to_dict("list") == {"id": ["001", "2"], "path": ["a b.nii", ""]}


def test_a_description_makes_a_dataset(tmp_path):
    bids.describe(tmp_path, name="phantom", derivative=True)
    content = json.loads((tmp_path / "dataset_description.json").read_text())
    assert content["Name"] == "phantom"
    assert content["BIDSVersion"] == "1.10.0"
    assert content["DatasetType"] == "derivative"
    assert content["GeneratedBy"][0]["Name"] == "neuromix"
