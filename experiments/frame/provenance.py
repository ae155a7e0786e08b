"""What a folder of results was made of and by: its data, the versions and the commit.

A folder goes on with what it holds if the content of its data and the version of neuromix are what
they were. If not, all of it is set aside under another name, and made anew. Another commit of the
same version is named and kept, for it may be a word in a comment.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from neuromix.augment import files, software
from neuromix.augment.data import bids
from neuromix.augment.data.digests import Content
from neuromix.augment.errors import InputError

FILE = "provenance.json"


@dataclass
class Provenance:
    """Of a folder."""

    data: dict[str, dict[str, Any]]
    """By the setting that names it, as :meth:`Content.to_dict` gives it."""
    made_by: list[dict[str, Any]]
    """Versions and commit, once for each that made something."""

    @classmethod
    def now(cls, data: Mapping[str, Content]) -> Provenance:
        """Of what is made of these data today."""
        made_by = {"versions": software.versions(), "commit": software.commit()}
        return cls({name: content.to_dict() for name, content in data.items()}, [made_by])

    @classmethod
    def of(cls, folder: Path) -> Provenance | None:
        """Of a folder, if it is told there."""
        path = folder / FILE
        return cls(**bids.read_json(path)) if path.is_file() else None

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        files.write_json(folder / FILE, {"data": self.data, "made_by": self.made_by})

    def add(self, other: Provenance, folder: Path) -> None:
        """Others make something in the folder, too."""
        new = [each for each in other.made_by if each not in self.made_by]
        if new:
            self.made_by += new
            self.save(folder)

    def same(self, other: Provenance | None) -> set[str]:
        """Names of the data that have the same content."""
        if other is None:
            return set()
        data = other.data
        return {n for n in self.data if n in data and self.data[n]["digest"] == data[n]["digest"]}

    def change(self, before: Provenance | None, config: Mapping[str, Any]) -> str:
        """Why nothing from before can be reused, in words, or ``""``.

        The settings tell the places of the data.
        """
        if before is None:
            return "an older neuromix began it, which kept no digest of its data"
        for name in self.data:
            if name not in self.same(before):
                was = before.data.get(name)
                place = Path(str(config.get(name, name))).name
                if was is None:
                    return f"it had no {place}"
                content, other = (Content.from_dict(each) for each in (self.data[name], was))
                return content.change(other, place)
        old, new = (each.made_by[0]["versions"]["neuromix"] for each in (before, self))
        return f"neuromix {old} made it and this is {new}" if old != new else ""

    def next_to(self, before: Provenance) -> str:
        """A line on other software than before, which makes nothing anew; or ``""``."""
        old, new = (
            each.made_by[-1]["versions"] | {"commit": each.made_by[-1]["commit"] or "unknown"}
            for each in (before, self)
        )
        odd = [
            f"{name} {old.get(name)}, now {new[name]}" for name in new if old.get(name) != new[name]
        ]
        return f"it was begun with {'; '.join(odd)}: what is finished is reused" if odd else ""

    def summary(self) -> dict[str, str]:
        """For the results and their page: software to version, the commit, digests of the data."""
        rows: dict[str, list[str]] = {}
        for each in self.made_by:
            for name, version in (each["versions"] | {"commit": each["commit"]}).items():
                if version and version not in rows.setdefault(name, []):
                    rows[name].append(version)
        data = {f"digest of {name}": content["digest"] for name, content in self.data.items()}
        return {name: ", then ".join(values) for name, values in rows.items() if values} | data


def claim(
    folder: Path, begun: bool, now: Provenance, config: Mapping[str, Any]
) -> tuple[Provenance, str]:
    """Take a folder that a user has named; if it has begun and can't be reused, set that aside.

    Returns:
        What the folder is made of and by, and a line for the user.
    """
    before = Provenance.of(folder)
    if begun and not (why := now.change(before, config)):
        assert before is not None
        return before, now.next_to(before)
    line = ""
    if begun:
        aside = set_aside(folder)
        line = f"{folder}: made anew, {why}; what was there is in {aside.name}"
    folder.mkdir(parents=True, exist_ok=True)
    now.save(folder)
    return now, line


def set_aside(folder: Path) -> Path:
    """Give a folder that nobody works in another name; which."""
    with lock(folder):
        number = 1
        while (aside := folder.with_name(f"{folder.name}-before-{number}")).exists():
            number += 1
        folder.rename(aside)
    return aside


def lock(folder: Path) -> IO[bytes]:
    """Work in a folder alone, until what is returned is closed."""
    stream = (folder / ".lock").open("ab")
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        stream.close()
        raise InputError(
            f"another process is at work in {folder}; wait for it, or name another folder"
        ) from None
    return stream
