import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data import digests
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.digests import Content, file_digests
from neuromix.augment.errors import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, which trusts files that were written just now."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(digests.PLACE, str(folder))
    monkeypatch.setattr(digests, "_is_settled", lambda stamp: True)
    return folder


@pytest.fixture
def cohort(tmp_path):
    rows = []
    for k in range(3):
        place = tmp_path / "data" / f"sub-{k}" / "func" / f"sub-{k}_task-motor_bold.nii"
        place.parent.mkdir(parents=True)
        place.write_bytes(bytes([k] * 100))
        place.with_name(f"sub-{k}_task-motor_events.tsv").write_text(f"onset\n{k}\n")
        place.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0, "Note": k}))
        rows.append({"subject_id": str(k), "sex": "F", "age": 60.0 + k, "bold_path": str(place)})
    return Cohort(pd.DataFrame(rows), "study")


def as_in_a_new_process():
    digests._read.cache_clear()


def refuse(*args):
    raise AssertionError("a file was read again")


def test_a_second_look_reads_no_file(cache, cohort, monkeypatch):
    first = Content.of(cohort)
    as_in_a_new_process()
    monkeypatch.setattr(digests, "_bytes_of", refuse)
    assert Content.of(cohort) == first
    assert list(cache.glob("*.json"))


def test_a_changed_voxel_is_seen_though_size_and_time_are_set_back(cache, cohort):
    path = Path(cohort.table["bold_path"].iloc[1])
    first, stat = Content.of(cohort), path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    as_in_a_new_process()
    now = Content.of(cohort)
    assert now.digest != first.digest
    assert now.change(first, "test.tsv") == "1 of 3 images of test.tsv changed since"


def test_what_changes_while_the_clock_stands_still_is_not_kept(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv(digests.PLACE, str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "TICK", 10**12)
    monkeypatch.setattr(digests, "COARSE_TICK", 10**12)
    Content.of(cohort)
    assert not (tmp_path / "cache").exists()


def test_content_is_rows_and_bytes_and_no_name(cache, cohort, tmp_path):
    first = Content.of(cohort)
    moved = cohort.table.copy()
    for k, path in enumerate(moved["bold_path"]):
        folder = tmp_path / "elsewhere" / f"sub-{k}"
        folder.mkdir(parents=True)
        for ending in ("bold.nii", "bold.json", "events.tsv"):
            there = path.replace("bold.nii", ending)
            (folder / f"sub-{k}_task-other_{ending}").write_bytes(Path(there).read_bytes())
        moved.loc[k, "bold_path"] = str(folder / f"sub-{k}_task-other_bold.nii")
    assert Content.of(Cohort(moved, "another name")) == first
    for column, value in (("sex", "M"), ("age", 71.0), ("session_id", "2")):
        table = cohort.table.copy()
        table.loc[0, column] = value
        other = Content.of(Cohort(table))
        assert other.change(first, "t.tsv") == "1 of 3 rows of t.tsv changed since", column
    fewer = Content.of(cohort.where([True, True, False]))
    assert fewer.change(first, "t.tsv") == "1 of 3 images of t.tsv are gone"
    turned = Content.of(Cohort(cohort.table.iloc[::-1]))
    assert turned.change(first, "t.tsv") == "t.tsv changed since"
    assert replace(first, more="x").change(first, "bank") == "bank changed since"
    assert first.change(Content.from_dict(json.loads(json.dumps(first.to_dict()))), "t") == ""


@pytest.mark.parametrize(
    ("ending", "text", "counts"),
    [
        ("events.tsv", "onset\n9\n", True),
        ("bold.json", '{"RepetitionTime": 3.0, "Note": 0}', True),
        ("bold.json", '{"RepetitionTime": 2.0, "Note": "another"}', False),
    ],
)
def test_events_and_repetition_times_belong_to_a_run(cache, cohort, ending, text, counts):
    first = Content.of(cohort)
    Path(cohort.table["bold_path"].iloc[0].replace("bold.nii", ending)).write_text(text)
    assert (Content.of(cohort) != first) == counts


def test_the_name_of_a_synthetic_image_counts(cache, cohort):
    one = cohort.where([True, False, False])
    first, path = Content.of(one), one.table["bold_path"].iloc[0]
    made = Path(path.replace("_bold", "_desc-synthetic_bold"))
    Path(path).rename(made)
    assert Content.of(Cohort(one.table.replace(path, str(made)))).rows != first.rows


def test_voxels_in_a_file_of_their_own_count(cache, tmp_path):
    for ending in ("hdr", "img"):
        (tmp_path / f"a.{ending}").write_bytes(b"one")
    first = list(file_digests([tmp_path / "a.hdr"]))
    (tmp_path / "a.img").write_bytes(b"two")
    assert list(file_digests([tmp_path / "a.hdr"])) != first


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_only_time(cache, cohort, monkeypatch):
    first = Content.of(cohort)
    for content in (b"{", b"[1]", b'{"a": 1}', b'{"a": []}', b"\xff"):
        for piece in cache.glob("*.json"):
            piece.write_bytes(content)
        as_in_a_new_process()
        assert Content.of(cohort) == first
    cache.rename(cache.with_name("gone"))
    cache.write_text("a file where the folder should be")
    as_in_a_new_process()
    assert Content.of(cohort) == first


def test_pieces_of_many_processes_become_one_and_none_is_lost(cache, tmp_path, monkeypatch):
    paths = [tmp_path / f"{k}.nii" for k in range(2 * digests.PIECES + 3)]
    for k, path in enumerate(paths):
        path.write_text(str(k))
        as_in_a_new_process()  # each knows what was there when it began, and adds its own
        list(file_digests([path]))
    assert len(list(cache.glob("*.json"))) <= digests.PIECES
    as_in_a_new_process()
    monkeypatch.setattr(digests, "_bytes_of", refuse)
    assert len(set(file_digests(paths))) == len(paths)


def test_an_absent_image_is_told(cache, cohort):
    Path(cohort.table["bold_path"].iloc[2]).unlink()
    with pytest.raises(InputError, match=r"sub-2_task-motor_bold.nii is absent; Cohort.validate"):
        Content.of(cohort)


def test_missing_values_of_any_kind_are_equal(cache, cohort):
    table = cohort.table.drop(columns=["age", "site"])
    assert Content.of(Cohort(table)) == Content.of(Cohort(table.assign(age=np.nan, site=None)))
