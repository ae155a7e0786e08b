"""Run folders: ``runs/0007-name``, numbered in the order in which they were begun."""

from __future__ import annotations

import re
from pathlib import Path


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
