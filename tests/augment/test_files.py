import json
import math
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromix.augment import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_array_is_written_in_pieces_whole_or_not_at_all(tmp_path):
    rows, path = np.arange(30.0).reshape(5, 6), tmp_path / "a.npy"
    with pytest.raises(AssertionError):
        files.write_array(path, 5, (rows[:2],), np.float32)
    assert not list(tmp_path.iterdir())
    files.write_array(path, 5, (rows[:2], rows[2:]), np.float16)
    written = np.load(path)
    assert written.dtype == np.float16
    np.testing.assert_array_equal(written, rows)


def test_a_folder_takes_the_place_of_the_old_one_whole_or_not_at_all(tmp_path):
    path = tmp_path / "kept"
    with files.replacing_folder(path) as temporary:
        (temporary / "a.txt").write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(path) as temporary:
        (temporary / "b.txt").write_text("ne")
        raise KeyboardInterrupt
    assert [each.read_text() for each in path.iterdir()] == ["old"]
    with files.replacing_folder(path) as temporary:
        (temporary / "b.txt").write_text("new")
    assert [each.name for each in path.iterdir()] == ["b.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.bin'"):
        files.write_bytes(tmp_path / "a.bin", b"x" * 100)
    assert not any(tmp_path.iterdir())


def test_json_takes_arrays_and_numbers_of_numpy(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": np.arange(2), "b": np.float32(0.5)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [0, 1], "b": 0.5}


def test_json_has_null_for_what_is_no_number(tmp_path):
    content = {"a": [math.inf, {"b": (math.nan, 1.5)}], "c": np.array([np.nan, 2]), "d": "NaN"}
    files.write_json(tmp_path / "a.json", {**content, "e": np.float32("nan")})
    read = json.loads((tmp_path / "a.json").read_text())
    assert read == {"a": [None, {"b": [None, 1.5]}], "c": [None, 2], "d": "NaN", "e": None}


def test_tables_write_missing_values_as_bids_does(tmp_path):
    files.write_table(tmp_path / "a.tsv", pd.DataFrame({"a": ["x", None]}))
    assert (tmp_path / "a.tsv").read_text() == "a\nx\nn/a\n"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_keeps_data_affine_space_and_tr(tmp_path, suffix):
    data = np.random.default_rng(0).random((4, 5, 6, 3), dtype=np.float32)
    affine = np.array([[2, 0.1, 0, -5], [-0.1, 2, 0, 7], [0, 0, 3, 1], [0, 0, 0, 1.0]])
    path = tmp_path / f"a{suffix}"
    files.write_nifti(path, data, affine, tr=0.72)
    image = nib.load(path)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), data)
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert image.header["sform_code"] == 4
    assert image.header.get_zooms()[3] == pytest.approx(0.72)
    first = path.read_bytes()
    files.write_nifti(path, data, affine, tr=0.72)
    assert path.read_bytes() == first


def test_what_a_dead_process_left_of_a_file_goes_when_it_is_written_again(tmp_path):
    child = (
        "import os, signal, sys; from pathlib import Path; from neuromix.augment import files\n"
        "begun = [files.replacing(Path(sys.argv[1]) / name) for name in ('a [1].txt', 'b.txt')]\n"
        "[each.__enter__().write_text('half') for each in begun]\n"
        "begun.append(files.replacing_folder(Path(sys.argv[1]) / 'kept'))\n"
        "begun[-1].__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", child, str(tmp_path)], check=False)
    dead = {path.name.split(".")[1] for path in tmp_path.iterdir()}
    assert dead == {"a [1]", "b", "kept"}
    with files.replacing(tmp_path / "b.txt") as mine:
        mine.write_text("mine")
        files.write_bytes(tmp_path / "a [1].txt", b"whole")
        with files.replacing(tmp_path / "b.txt") as other:  # of a process that lives
            other.write_text("other")
        assert mine.read_text() == "mine"
    with files.replacing_folder(tmp_path / "kept"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"a [1].txt", "b.txt", "kept"}
