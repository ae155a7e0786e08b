"""The frame of an experiment: a numbered run folder whose finished cells are not computed again.

    runs/0007-transfer/
        config.json   what was asked for; another config in the same folder is refused
        log.txt       what was said, with the time
        cells/        a JSON record for each finished cell, such as one arm, size and seed
        metrics.jsonl a line a cell, in the order in which they were finished
        results.json  what came out
        report.html   the same as a page

A record appears whole or not at all. A run that was interrupted goes on when it is started with the
same settings: in the folder that is named, or in the latest folder that has these settings.
"""

from __future__ import annotations

import fcntl
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
from rich.console import Console

from augment import bids, files
from augment.errors import InputError
from augment.report import rich_table

BEGUN = {"config.json", "log.txt", ".lock"}
"""What a run folder holds before anything is done."""
NUMBERED = re.compile(r"(\d{4,})-(.+)")


def new_run(out: Path, name: str) -> Path:
    """Make the next run folder; two processes never get the same one."""
    out.mkdir(parents=True, exist_ok=True)
    taken = [int(m[1]) for entry in out.iterdir() if (m := re.match(r"(\d{4,})-", entry.name))]
    number = max(taken, default=0) + 1
    while True:
        folder = out / f"{number:04d}-{name}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        return folder


class Run:
    """A run folder that is being worked in, by this process alone; see :meth:`open`.

    Attributes:
        folder: The run folder.
        config: What was asked for, as plain content.
    """

    def __init__(self, folder: Path, config: dict[str, Any], console: Console) -> None:
        self.folder, self.config, self.console = folder, config, console
        self._lock = (folder / ".lock").open("ab")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._lock.close()
            raise InputError(
                f"another process is at work in {folder}; wait for it, or name another folder"
            ) from None
        ordered = sorted(self.records(), key=lambda record: str(record["finished"]))
        self._lines = [_line(record) for record in ordered]

    @classmethod
    def open(
        cls, out: Path, name: str, config: Mapping[str, Any], console: Console | None = None
    ) -> Run:
        """Begin a run, or go on with one.

        Args:
            out: A folder of run folders, in which the latest run of this name and config goes on
                and a new one is begun otherwise; or a run folder, old or new.
            name: Of the experiment.
            config: Its settings, all that decides what comes out; kept in ``config.json``.
            console: Where messages go.
        """
        out = Path(out)
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; name a folder for the run")
        content = {"experiment": name, "config": json.loads(json.dumps(config, default=str))}
        if NUMBERED.fullmatch(out.name) or (out / "config.json").is_file():
            folder = out
        else:
            folder = _latest(out, content) or new_run(out, name)
        path = folder / "config.json"
        if path.is_file():
            _refuse_other(folder, bids.read_json(path), content)
        else:
            if folder.is_dir() and any(not e.name.startswith(".") for e in folder.iterdir()):
                raise InputError(f"{folder} holds other files; name an empty or new folder")
            files.write_json(path, content)
        return cls(folder, content["config"], console or Console())

    def __enter__(self) -> Self:
        done = f", {len(self._lines)} cells are finished" if self._lines else ""
        self.log(f"{self.folder}{done}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            self._write(f"stopped by {kind.__name__}: {error}")
        self._lock.close()
        begun = {entry.name for entry in self.folder.iterdir()} <= BEGUN
        if kind is not None and issubclass(kind, InputError) and begun:
            shutil.rmtree(self.folder)  # bad input leaves nothing behind

    def log(self, text: str) -> None:
        """Say something, and keep it in ``log.txt``."""
        self.console.print(text, markup=False, highlight=False)
        self._write(text)

    def is_done(self, key: Mapping[str, Any]) -> bool:
        """Whether a cell is finished."""
        return self._place(key).is_file()

    def cell(self, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The record of a cell: read if it is finished, computed and written otherwise.

        Args:
            key: What the cell is, such as ``{"arm": "real", "size": 40, "seed": 0}``.
            make: Computes what the record shall hold beside ``cell``, ``seconds`` and ``finished``.
        """
        path = self._place(key)
        if not path.is_file():
            begun = time.perf_counter()
            content = make()
            record = {
                "cell": dict(key),
                "seconds": time.perf_counter() - begun,
                "finished": datetime.now().isoformat(timespec="milliseconds"),
                **content,
            }
            files.write_json(path, record)
            self._lines.append(_line(json.loads(path.read_text())))
            lines = "".join(f"{line}\n" for line in self._lines)
            files.write_bytes(self.folder / "metrics.jsonl", lines.encode())
            self._write(f"{path.stem}: {record['seconds']:.1f} s")
        # Always as it was written, so that a resumed run sees what an unbroken one does.
        record = bids.read_json(path)
        if record["cell"] != json.loads(json.dumps(dict(key))):
            raise ValueError(f"{path} is the record of {record['cell']} and not of {dict(key)}")
        return record

    def records(self) -> list[dict[str, Any]]:
        """The records of all finished cells."""
        return [bids.read_json(path) for path in sorted((self.folder / "cells").glob("*.json"))]

    def finish(self, results: Mapping[str, Any], page: str) -> None:
        """Write what came out, and say its first sentence."""
        files.write_json(self.folder / "results.json", results)
        files.write_bytes(self.folder / "report.html", page.encode())
        self.log(f"{results['verdict']}\nOpen {self.folder / 'report.html'}")

    def _place(self, key: Mapping[str, Any]) -> Path:
        parts = [f"{name}-{re.sub(r'[^a-zA-Z0-9.]+', '-', str(key[name]))}" for name in key]
        return self.folder / "cells" / f"{'_'.join(parts)}.json"

    def _write(self, text: str) -> None:
        with (self.folder / "log.txt").open("a") as stream:
            stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")


def show_plan(steps: Sequence[tuple[str, float]], console: Console) -> None:
    """The dry run's table: what would be done, and for how many seconds."""
    table = pd.DataFrame(steps, columns=["what", "minutes"])
    total = math.ceil(table["minutes"].sum() / 60)
    table["minutes"] = (table["minutes"] / 60).round(1)
    console.print(rich_table(table, title=f"About {total} minutes on this machine"))


def _latest(out: Path, content: Mapping[str, Any]) -> Path | None:
    """The run folder of the highest number that has this content in its config."""
    found = []
    for path in out.glob("*/config.json"):
        number = NUMBERED.fullmatch(path.parent.name)
        if number and number[2] == content["experiment"] and bids.read_json(path) == content:
            found.append((int(number[1]), path.parent))
    return max(found)[1] if found else None


def _refuse_other(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before.get("experiment") != now["experiment"]:
        raise InputError(
            f"{folder} holds a run of {before.get('experiment') or 'another kind'} and not of "
            f"{now['experiment']}; name another folder"
        )
    old, new = before["config"], now["config"]
    for name in sorted(set(old) | set(new)):
        if old.get(name) != new.get(name):
            raise InputError(
                f"{folder} holds a run with {name} {old.get(name)} and not {new.get(name)}; name "
                "another folder, or give the same settings"
            )


def _line(record: Mapping[str, Any]) -> str:
    """A cell's numbers in one line; lists and tables stay in its record."""
    short = {k: v for k, v in record.items() if k != "cell" and isinstance(v, int | float | str)}
    return json.dumps({**record["cell"], **short})
