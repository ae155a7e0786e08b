"""Digests of files and of what a cohort holds: equal content is reused, and no other.

The content of a cohort is what its rows say and the bytes of its image files, wherever these lie
and whatever they are called. Digests of files are kept in a cache of the user (``NEUROMIX_CACHE``,
by default ``~/.cache/neuromix``) with the size and the times of the file, so that a second look
reads none. Nothing but time depends on the cache: it may be absent, old, damaged or read-only.

The cache is a folder of small files. A process reads them all, and writes what is new to it as a
file of its own; when there are many, one takes the place of all. Processes need not wait for one
another: at worst a digest is computed twice.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.conditions import known
from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    from neuromix.augment.data.cohort import Cohort

PLACE = "NEUROMIX_CACHE"
"""Environment variable that names the folder of the cache."""
BYTES = "sha256"
"""Kind of the digests of whole files."""
MOST = 500_000
"""Digests that the cache holds; the oldest go first."""
PIECES = 16
"""Files of the cache that are merged into one."""
BATCH = 500
"""New digests that are written at once: so many are lost at most if a process is killed."""
TICK = 10**8
"""Nanoseconds in which two writes may leave the same times on a file..."""
COARSE_TICK = 2 * 10**9
"""... and where the times of a file system have no fractions of a second."""
DETACHED = (".hdr", ".img", ".mhd", ".nhdr")
"""Images whose voxels lie in another file of the same name."""

Entry = list[Any]
"""Size, times and digest."""


def digest_of(content: Any) -> str:
    """A digest of plain content."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def file_digests(paths: Iterable[str | Path]) -> Generator[str]:
    """A digest of the bytes of each file."""
    return cached_digests(paths, BYTES, _bytes_of)


def cached_digests(
    paths: Iterable[str | Path], kind: str, make: Callable[[Path], str]
) -> Generator[str]:
    """A digest of each file: from the cache where the file is as it was, computed otherwise.

    ``kind`` is another name for every way to compute one.
    """
    folder = _folder()
    cache = _read(folder) if folder else {}
    new: dict[str, Entry] = {}
    try:
        for path in map(Path, paths):
            key, stamp = f"{kind} {path.resolve()}", _stamp(path)
            entry = cache.get(key)
            if entry is None or entry[:-1] != stamp:
                entry = [*stamp, make(path)]
                # A write in the same tick of the clock, or while it was read, would go unseen.
                if _stamp(path) == stamp and _is_settled(stamp):
                    cache[key] = new[key] = entry
            yield entry[-1]
            if len(new) >= BATCH:
                _write(folder, new)
                new = {}
    finally:
        _write(folder, new)


@dataclass(frozen=True)
class Content:
    """What a cohort holds."""

    rows: list[str]
    """A digest of what each row says."""
    images: list[str]
    """A digest of each image."""
    more: str = ""
    """A digest of what else belongs to it."""

    @classmethod
    def of(cls, cohort: Cohort, images: Sequence[str] = (), more: str = "") -> Content:
        """Look at a cohort, of which neither its name nor the places of its files count.

        ``images`` are those that count, if it has them, by default all; ``more`` a digest of what
        else does.
        """
        names = [name for name in cohort.images if not images or name in images]
        rows: list[dict[str, Any]] = []
        places: list[tuple[str, str]] = []
        for row in cohort.table.to_dict("records"):
            paths = {name: row[f"{name}_path"] for name in names if row[f"{name}_path"]}
            says = {k: v for k, v in row.items() if not str(k).endswith("_path")}
            says = {k: v for k, v in says.items() if known(v)}
            # The name of a file tells a synthetic image, and nothing else.
            marks = {
                name: [mark for mark in ("synthetic", "imputed") if f"_desc-{mark}" in Path(p).name]
                for name, p in paths.items()
            }
            rows.append({"says": says, "images": marks})
            places += paths.items()
        # To a run belong its events, and the times between frames that sidecars tell.
        groups: list[list[str | Path]] = []
        times: list[list[Any]] = []
        for name, path in places:
            image, is_run = Path(path), name == "bold"
            groups.append([path, *(bids.files_about(image, "events.tsv") if is_run else ())])
            sidecars = bids.files_about(image, "bold.json") if is_run else ()
            times.append([bids.read_json(each).get("RepetitionTime") for each in sidecars])
        digests = file_digests(itertools.chain(*groups))
        image_digests = [
            digest_of([*itertools.islice(digests, len(group)), told])
            for group, told in zip(groups, times, strict=True)
        ]
        digests.close()  # keeps the new ones
        return cls([digest_of(row) for row in rows], image_digests, more)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Content:
        """Inverse of :meth:`to_dict`."""
        return cls(content["rows"], content["images"], content["more"])

    def to_dict(self) -> dict[str, Any]:
        """As plain content, with the digest of all."""
        return {"digest": self.digest} | asdict(self)

    @property
    def digest(self) -> str:
        """One for all of it."""
        return digest_of([self.rows, self.images, self.more])

    def change(self, before: Content, name: str) -> str:
        """What is not as before of a cohort of that name, in words, or ``""``."""
        for what, now, then in (
            ("images", self.images, before.images), ("rows", self.rows, before.rows)
        ):  # fmt: skip
            if new := (Counter(now) - Counter(then)).total():
                return f"{new} of {len(now)} {what} of {name} changed since"
            if gone := (Counter(then) - Counter(now)).total():
                return f"{gone} of {len(then)} {what} of {name} are gone"
        return "" if self == before else f"{name} changed since"


def _bytes_of(path: Path) -> str:
    digest = hashlib.sha256()
    group = [path]
    if path.suffix.lower() in DETACHED:
        group = sorted(path.parent.glob(f"{path.stem}.*"))
    for each in group:
        with each.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:24]


def _stamp(path: Path) -> list[int]:
    try:
        stats = [path.stat()]
        if path.suffix.lower() in DETACHED:
            stats += [each.stat() for each in sorted(path.parent.glob(f"{path.stem}.*"))]
    except FileNotFoundError:
        raise InputError(f"{path} is absent; Cohort.validate() lists all that are") from None
    # The time of change can't be set back by hand, as that of modification can.
    return [value for s in stats for value in (s.st_size, s.st_mtime_ns, s.st_ctime_ns)]


def _is_settled(stamp: Sequence[int]) -> bool:
    """Whether a later write would have left other times."""
    times = [value for k, value in enumerate(stamp) if k % 3]
    tick = COARSE_TICK if all(value % 10**6 == 0 for value in times) else TICK
    return time.time_ns() - max(times) > tick


def _folder() -> Path | None:
    """Of the cache, if there is a place for one."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = os.environ.get(PLACE) or f"{base}/neuromix"
    try:
        return Path(place).expanduser().absolute()
    except RuntimeError:  # nobody's home
        return None


@functools.cache
def _read(folder: Path) -> dict[str, Entry]:
    """All that the cache holds, the oldest first; read once in a process."""
    entries: dict[str, Entry] = {}
    with contextlib.suppress(OSError):
        for piece in sorted(folder.glob("*.json")):
            entries |= _piece(piece)
    return entries


def _piece(path: Path) -> dict[str, Entry]:
    try:
        content = json.loads(path.read_bytes())
        return {str(k): list(v) for k, v in content.items() if isinstance(v[-1], str)}
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return {}


def _write(folder: Path | None, new: dict[str, Entry]) -> None:
    """Add to the cache."""
    if folder is None or not new:
        return
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pieces = sorted(folder.glob("*.json"))
        merged: dict[str, Entry] = {}
        if len(pieces) >= PIECES:
            for piece in pieces:
                merged |= _piece(piece)
        entries = list((merged | new).items())[-MOST:]
        path = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.json"
        files.write_bytes(path, json.dumps(dict(entries)).encode())
        for piece in pieces if merged else ():
            piece.unlink(missing_ok=True)
