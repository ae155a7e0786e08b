import numpy as np
import pandas as pd
import pytest

from neuromix.augment import InputError
from neuromix.augment.prepare.bold import (
    check_events,
    check_frames,
    cut,
    hcp_events,
    read_events,
    windows,
)


def make_events(*rows):
    return pd.DataFrame(rows, columns=["onset", "duration", "trial_type"])


def test_hcp_ev_files_become_events(tmp_path):
    (tmp_path / "lh.txt").write_text("71.35\t12\t1\n11.0\t12.0\t1.0\n")
    (tmp_path / "cue.txt").write_text("8.0 3.0 1\n\n")
    (tmp_path / "rh.txt").write_text("0 0 0\n")  # FSL's way to say that it did not occur
    (tmp_path / "t.txt").write_text("")
    (tmp_path / "Sync.txt").write_text("10.013\n")
    events = hcp_events(tmp_path)
    assert list(events.columns) == ["onset", "duration", "trial_type"]
    assert events.to_numpy().tolist() == [[8, 3, "cue"], [11, 12, "lh"], [71.35, 12, "lh"]]


def test_hcp_folder_that_is_not_one(tmp_path):
    with pytest.raises(InputError, match="no events"):
        hcp_events(tmp_path)
    (tmp_path / "lh.txt").write_text("11.0 12.0\n")
    with pytest.raises(InputError, match=r"lh.txt has the line '11.0 12.0'"):
        hcp_events(tmp_path)


@pytest.mark.parametrize(
    ("frames", "length", "overlap", "starts"),
    [
        (10, 10, 0.0, [0]),
        (12, 4, 0.0, [0, 4, 8]),
        (13, 4, 0.0, [0, 4, 8, 9]),
        (12, 4, 0.5, [0, 2, 4, 6, 8]),
        (5, 2, 0.99, [0, 1, 2, 3]),
    ],
)
def test_windows_cover_the_run_and_end_with_it(frames, length, overlap, starts):
    assert windows(frames, length, overlap) == starts


@pytest.mark.parametrize("bad", [(9, 10, 0.0), (9, 0, 0.0), (9, 3, 1.0), (9, 3, -0.1)])
def test_windows_that_cannot_be(bad):
    with pytest.raises(InputError):
        windows(*bad)


def test_cut_shifts_clips_and_drops_events():
    data = np.arange(10.0).reshape(1, 1, 1, 10)
    events = make_events(
        (0.0, 2.0, "before"),
        (3.0, 2.0, "reaches in"),
        (5.0, 1.0, "inside"),
        (7.0, 9.0, "reaches out"),
        (8.0, 0.0, "impulse after"),
        (4.0, 0.0, "impulse at the start"),
    )
    part, own = cut(data, events, tr=2.0, start=2, length=2)
    assert part.ravel().tolist() == [2, 3]
    assert own.to_numpy().tolist() == [
        [0, 1, "reaches in"],
        [1, 1, "inside"],
        [3, 1, "reaches out"],
        [0, 0, "impulse at the start"],
    ]


def test_windows_without_overlap_share_out_all_events():
    data, tr = np.zeros((1, 1, 1, 12)), 0.72
    events = make_events((0.1, 3.3, "a"), (4.0, 0.5, "b"), (5.0, 3.2, "a"), (8.3, 0.34, "b"))
    parts = [cut(data, events, tr, start, 4)[1] for start in windows(12, 4)]
    total = pd.concat(parts).groupby("trial_type")["duration"].sum()
    pd.testing.assert_series_equal(total, events.groupby("trial_type")["duration"].sum())


def test_a_window_outside_the_run_is_refused():
    with pytest.raises(InputError, match="frames 3 to 6 are not all in a run of 6"):
        cut(np.zeros((1, 1, 1, 6)), None, 1.0, start=3, length=4)


def test_frames_without_signal_are_refused():
    frames = np.ones((6, 2, 2, 2))
    frames[1, 0] = np.nan  # part of it
    check_frames(frames)
    frames[4] = np.nan
    frames[5] = 0
    with pytest.raises(InputError, match=r"2 of 6 frames hold nothing .* the first is frame 5;"):
        check_frames(frames)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((20.0, 1.0, "a"), "begins at 20 s, after the run's end at 20 s"),
        ((-1.0, 1.0, "a"), "event 1 has onset '-1.0'"),
        ((1.0, -1.0, "a"), "duration '-1.0'"),
        ((np.nan, 1.0, "a"), "onset 'nan'"),
        ((1.0, 1.0, ""), "trial_type ''"),
    ],
)
def test_events_that_cannot_belong_to_the_run(row, message):
    with pytest.raises(InputError, match=message):
        check_events(make_events(row), frames=10, tr=2.0)


def test_events_tsv(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_text("onset\tduration\ttrial_type\trt\n5\t1\tb\t0.3\n2\tn/a\ta\tn/a\n")
    events = read_events(path)
    assert list(events.columns) == ["onset", "duration", "trial_type"]
    assert events["trial_type"].tolist() == ["a", "b"]
    with pytest.raises(InputError, match="duration 'nan'"):
        check_events(events, frames=10, tr=2.0)
    path.write_text("onset\tduration\n5\t1\n")
    with pytest.raises(InputError, match="no column 'trial_type'; it has onset, duration"):
        read_events(path)
