"""Was a file in git, as it is now, before something began?"""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path


def committed(path: Path, before: datetime) -> dict[str, str] | None:
    """The ``commit`` that made a file what it is, and its ``time``.

    ``None`` if the file is in no commit, was changed since or committed later than ``before``,
    which has a time zone, or where git can't tell.
    """
    changes = _git(path, "status", "--porcelain", "--ignored")
    last = _git(path, "log", "-1", "--format=%H %cI")
    if changes != "" or not last:
        return None
    commit, time = last.split()
    is_earlier = datetime.fromisoformat(time) <= before
    return {"commit": commit, "time": time} if is_earlier else None


def _git(path: Path, *what: str) -> str | None:
    """What git says of a file, or ``None`` if it is not there or says nothing of it."""
    path = path.resolve()
    command = ["git", "-C", str(path.parent), *what, "--", path.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
