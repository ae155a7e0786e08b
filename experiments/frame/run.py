"""The frame of an experiment: a numbered run folder whose finished cells are not computed again.

    runs/0007-transfer/
        config.json   what was asked for; another config in the same folder is refused
        provenance.json  digests of the data, versions and commits
        log.txt       what was said, with the time
        cells/        a JSON record for each finished cell, such as one arm, size and seed
        metrics.jsonl a line a cell, in the order in which they were finished
        results.json  what came out
        report.html   the same as a page

A record appears whole or not at all. A run that was interrupted goes on when it is started with the
same settings: in the folder that is named, or in the latest folder that has these settings. If its
data or the version of neuromix are not what they were, nothing of it is used: a new run begins.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
from rich.console import Console

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.digests import Content
from neuromix.augment.errors import InputError
from neuromix.experiments.frame.pages import rich_table
from neuromix.experiments.frame.provenance import FILE, Provenance, claim, lock

BEGUN = {"config.json", FILE, "log.txt", ".lock"}
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
    """A run folder that is being worked in, by this process alone; see :meth:`open`."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        console: Console,
        provenance: Provenance,
        now: Provenance,
        line: str,
    ) -> None:
        self.folder, self.config, self.console = folder, config, console
        self.provenance, self._now, self._line = provenance, now, line
        self._lock = lock(folder)
        ordered = sorted(self.records(), key=lambda record: str(record["finished"]))
        self._lines = [_line(record) for record in ordered]
        self._reused = len(ordered)

    @classmethod
    def open(
        cls,
        out: Path,
        name: str,
        config: Mapping[str, Any],
        console: Console | None = None,
        data: Mapping[str, Content] | None = None,
        free: Collection[str] = (),
    ) -> Run:
        """Begin a run, or go on with one.

        Args:
            out: A folder of run folders, in which the latest run of this name and config goes on
                and a new one is begun otherwise; or a run folder, old or new. What is in that
                of other data or another version is set aside.
            name: The experiment's.
            config: All that decides what comes out; kept in ``config.json``.
            console: Where messages go.
            data: By the names of the settings that tell their places: two places with the same
                content are the same.
            free: Settings that may differ when a run goes on, as no cell depends on them.
        """
        now = Provenance.now(data or {})
        config = dict(config) | {k: str(Path(config[k]).resolve()) for k in now.data if k in config}
        out = Path(out)
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; name a folder for the run")
        plain = json.loads(json.dumps(config, default=str))
        content = {"experiment": name, "config": plain}
        asked, line = _Request(content, now, free), ""
        if NUMBERED.fullmatch(out.name) or (out / "config.json").is_file():
            folder = out
        else:
            folder, line = asked.latest(out)
        path = folder / "config.json"
        begun = path.is_file()
        if begun:
            asked.check_same(folder)
        elif folder.is_dir() and any(
            not e.name.startswith(".") and e.name != FILE for e in folder.iterdir()
        ):
            raise InputError(f"{folder} holds other files; name an empty or new folder")
        provenance, claimed = claim(folder, begun, now, plain)
        if free or not path.is_file():
            files.write_json(path, content)
        kept = bids.read_json(path)["config"]
        return cls(folder, kept, console or Console(), provenance, now, line or claimed)

    def __enter__(self) -> Self:
        done = f", {len(self._lines)} cells are finished" if self._lines else ""
        self.log(f"{self.folder}{done}")
        if self._line:
            self.log(self._line)
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

        The key is such as ``{"arm": "real", "size": 40, "seed": 0}``; ``make`` computes what the
        record holds beside ``cell``, ``seconds`` and ``finished``.
        """
        path = self._place(key)
        if not path.is_file():
            begun = time.perf_counter()
            self.provenance.add(self._now, self.folder)
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

    def keep_array(self, key: Mapping[str, Any], values: np.ndarray) -> None:
        """Keep an array of a cell, such as some of its volumes; see :meth:`array`."""
        path = self._place(key, "arrays", "npy")
        path.parent.mkdir(exist_ok=True)
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, values)

    def array(self, key: Mapping[str, Any]) -> np.ndarray:
        """The array of a finished cell."""
        values: np.ndarray = np.load(self._place(key, "arrays", "npy"))
        return values

    def records(self) -> list[dict[str, Any]]:
        """The records of all finished cells."""
        return [bids.read_json(path) for path in sorted((self.folder / "cells").glob("*.json"))]

    @property
    def about(self) -> dict[str, Any]:
        """What results and their page tell of the run: ``config`` and ``made by``."""
        return {"config": self.config, "made by": self.provenance.summary()}

    def finish(self, results: Mapping[str, Any], page: str) -> None:
        """Write what came out, and say its first sentence and what was reused."""
        total = len(self._lines)
        files.write_json(self.folder / "results.json", results)
        files.write_bytes(self.folder / "report.html", page.encode())
        self.log(f"{results['verdict']}\nOpen {self.folder / 'report.html'}")
        if self._reused:
            rest = ", the rest made anew" if self._reused < total else ": all is as it was"
            self.log(f"{self.folder.name}: {self._reused} of {total} cells reused{rest}")

    def _place(self, key: Mapping[str, Any], kind: str = "cells", suffix: str = "json") -> Path:
        parts = [f"{name}-{re.sub(r'[^a-zA-Z0-9.]+', '-', str(key[name]))}" for name in key]
        return self.folder / kind / f"{'_'.join(parts)}.{suffix}"

    def _write(self, text: str) -> None:
        with (self.folder / "log.txt").open("a") as stream:
            stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")


def show_plan(steps: Sequence[tuple[str, float]], console: Console) -> None:
    """The dry run's table: what would be done, and for how many seconds."""
    table = pd.DataFrame(steps, columns=["what", "minutes"])
    total = math.ceil(table["minutes"].sum() / 60)
    table["minutes"] = (table["minutes"] / 60).round(1)
    console.print(rich_table(table, title=f"About {total} minutes on this machine"))


@dataclass(frozen=True)
class _Request:
    """What a run is asked for: its name and settings, its data, and which settings are free."""

    content: Mapping[str, Any]
    now: Provenance
    free: Collection[str]

    def latest(self, out: Path) -> tuple[Path, str]:
        """The latest run folder that can go on; or a new one, and why the last one can't."""
        numbered = [(NUMBERED.fullmatch(p.parent.name), p) for p in out.glob("*/config.json")]
        name = self.content["experiment"]
        runs = [(int(n[1]), path.parent) for n, path in numbered if n and n[2] == name]
        line = ""
        for _, folder in sorted(runs, reverse=True):
            if self._difference(folder):
                continue
            if not (why := self.now.change(Provenance.of(folder), self.content["config"])):
                return folder, ""
            line = line or f"made anew, {why} ({folder.name} stays as it is)"
        return new_run(out, name), line

    def check_same(self, folder: Path) -> None:
        """Refuse a folder of another experiment or of other settings."""
        before, name = bids.read_json(folder / "config.json"), self.content["experiment"]
        if before.get("experiment") != name:
            raise InputError(
                f"{folder} holds a run of {before.get('experiment') or 'another kind'} and not of "
                f"{name}; name another folder"
            )
        if odd := self._difference(folder):
            old, new = (each["config"].get(odd) for each in (before, self.content))
            raise InputError(
                f"{folder} holds a run with {odd} {old} and not {new}; name "
                "another folder, or give the same settings"
            )

    def _difference(self, folder: Path) -> str:
        """The first setting that is another one, or ``""``; equal data may lie elsewhere."""
        old, new = bids.read_json(folder / "config.json")["config"], self.content["config"]
        names = {*old, *new} - self.now.same(Provenance.of(folder)) - {*self.free}
        return next((name for name in sorted(names) if old.get(name) != new.get(name)), "")


def _line(record: Mapping[str, Any]) -> str:
    """A cell's numbers in one line; lists and tables stay in its record."""
    short = {k: v for k, v in record.items() if k != "cell" and isinstance(v, int | float | str)}
    return json.dumps({**record["cell"], **short})
