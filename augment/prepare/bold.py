"""BOLD runs: their events, and windows of equal length.

Events are tables with the columns ``onset`` and ``duration`` in seconds and ``trial_type``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuromix.augment.data import bids
from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

EVENT_COLUMNS = ("onset", "duration", "trial_type")


def hcp_events(folder: str | Path) -> pd.DataFrame:
    """Read the EV files of one HCP run: events sorted by onset.

    Each ``<condition>.txt`` has a line of onset, duration and weight per event. ``Sync.txt`` is no
    condition; empty files and lines of weight zero stand for a condition that did not occur.
    """
    import pandas as pd

    rows = []
    paths = sorted(Path(folder).glob("*.txt"))
    for path in paths:
        if path.name == "Sync.txt":
            continue
        for line in path.read_text().splitlines():
            if not line.strip():
                continue
            try:
                onset, duration, weight = map(float, line.split())
            except ValueError:
                raise InputError(
                    f"{path} has the line {line.strip()!r}; onset, duration and weight are needed"
                ) from None
            if weight:
                rows.append((onset, duration, path.stem))
    if not rows:
        raise InputError(f"{folder} holds no events; EV files <condition>.txt are needed there")
    table = pd.DataFrame(rows, columns=list(EVENT_COLUMNS))
    return table.sort_values(list(EVENT_COLUMNS), ignore_index=True)


def read_events(path: str | Path) -> pd.DataFrame:
    """Read a BIDS ``events.tsv``; columns other than the three are left out."""
    import pandas as pd

    table = bids.read_table(path)
    absent = [column for column in EVENT_COLUMNS if column not in table.columns]
    if absent:
        raise InputError(
            f"{path} has no column {absent[0]!r}; it has {', '.join(table.columns)}, and needs "
            f"{', '.join(EVENT_COLUMNS)}"
        )
    table = table[list(EVENT_COLUMNS)].copy()
    for column in ("onset", "duration"):
        table[column] = pd.to_numeric(table[column], errors="coerce")
    return table.sort_values(list(EVENT_COLUMNS), ignore_index=True)


def check_events(events: pd.DataFrame, frames: int, tr: float) -> None:
    """Refuse events that cannot belong to a run of ``frames`` volumes, ``tr`` seconds apart."""
    absent = [column for column in EVENT_COLUMNS if column not in events.columns]
    if absent:
        raise InputError(
            f"the events have no column {absent[0]!r}; needed are {', '.join(EVENT_COLUMNS)}"
        )
    times = events[["onset", "duration"]].to_numpy(dtype=float)
    wrong = ~(np.isfinite(times) & (times >= 0)).all(axis=1)
    wrong |= (events["trial_type"] == "").to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        cells = ", ".join(f"{c} {str(events[c].iloc[row])!r}" for c in EVENT_COLUMNS)
        raise InputError(
            f"event {row + 1} has {cells}; onset and duration must be seconds from 0 on (0 for the "
            "duration of an impulse), trial_type a name"
        )
    end = frames * tr
    if (times[:, 0] >= end).any():
        raise InputError(
            f"an event begins at {times[:, 0].max():g} s, after the run's end at {end:g} s; onsets "
            "must be in seconds from the first kept frame"
        )


def check_frames(frames: np.ndarray) -> None:
    """Refuse a run (T, ...) with an empty frame, which passes for a sudden loss of all signal."""
    empty = [k for k, frame in enumerate(frames) if not (np.isfinite(frame) & (frame != 0)).any()]
    if empty:
        raise InputError(
            f"{len(empty)} of {len(frames)} frames hold nothing but NaN or zeros, the first is "
            f"frame {empty[0] + 1}; fetch the run again, or cut it before that frame"
        )


def windows(frames: int, length: int, overlap: float = 0.0) -> list[int]:
    """The first frames, ascending, of windows of ``length`` frames that cover a whole run.

    ``overlap`` is the share of a window that the next one repeats, from 0 to below 1; the last one
    ends with the run, and so may repeat more.
    """
    if not 0 <= overlap < 1:
        raise InputError(f"an overlap of {overlap:g} cannot be; allowed is 0 to below 1")
    if not 1 <= length <= frames:
        raise InputError(
            f"a window of {length} frames does not fit into a run of {frames}; choose 1 to {frames}"
        )
    step = max(1, round(length * (1 - overlap)))
    starts = list(range(0, frames - length + 1, step))
    last = frames - length
    return starts if starts[-1] == last else [*starts, last]


def cut(
    data: np.ndarray, events: pd.DataFrame | None, tr: float, start: int, length: int
) -> tuple[np.ndarray, pd.DataFrame | None]:
    """Cut a window out of a run (X, Y, Z, T), with its events, whose onsets then start with it.

    Events that reach over a border are clipped there, those outside are dropped. The response to an
    event that ended before the window still decays in its first 20 s or so.
    """
    if not 0 <= start <= data.shape[3] - length:
        raise InputError(
            f"frames {start} to {start + length - 1} are not all in a run of {data.shape[3]}"
        )
    window = data[..., start : start + length]
    if events is None:
        return window, None
    begin, end = start * tr, (start + length) * tr
    onset = events["onset"].to_numpy(dtype=float)
    stop = onset + events["duration"].to_numpy(dtype=float)
    # An impulse (duration 0) at the border belongs to the window that begins there.
    inside = (onset < end) & ((stop > begin) | (onset >= begin))
    first = np.maximum(onset[inside], begin)
    kept = events[inside].assign(
        onset=np.round(first - begin, 6),
        duration=np.round(np.minimum(stop[inside], end) - first, 6),
    )
    return window, kept.reset_index(drop=True)
