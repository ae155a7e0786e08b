"""Was a file in git, as it is now, before something began?"""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

from neuromix.augment.software import git


def committed(path: Path, before: datetime) -> dict[str, str] | None:
    """The ``commit`` that made a file what it is, and its ``time``.

    ``None`` if the file is in no commit, was changed since or committed later than ``before``,
    which has a time zone, or where git can't tell.
    """
    path = path.resolve()
    try:
        changes = git(path.parent, "status", "--porcelain", "--ignored", "--", path.name)
        last = git(path.parent, "log", "-1", "--format=%H %cI", "--", path.name)
    except (OSError, subprocess.CalledProcessError):
        return None
    if changes or not last:
        return None
    commit, time = last.split()
    is_earlier = datetime.fromisoformat(time) <= before
    return {"commit": commit, "time": time} if is_earlier else None
