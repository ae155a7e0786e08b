"""Benchmarks: what neuromix claims about its speed, measured on the machine at hand."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from neuromix.augment import files
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.phantom import make_phantom
from neuromix.augment.software import commit, versions
from neuromix.experiments.frame.pages import rich_table


def foundation(subjects: int, indexed: int, out: Path | None) -> list[dict[str, Any]]:
    """Time the phantoms, the BIDS index and the imports.

    Args:
        subjects: Phantom subjects of each kind; a tenth of them for task, which has 14 runs each.
        indexed: Subjects of the BIDS tree of empty files.
        out: JSON file for the figures.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = _seconds(make_phantom, folder / "first", "md", subjects=1)
        rows.append(_row("phantom md, the first subject, with reading the template", first))
        for kind in ("md", "task", "paired"):
            many = max(2, subjects // 10 if kind == "task" else subjects)
            one = _seconds(make_phantom, folder / f"{kind}1", kind, subjects=1)
            whole = _seconds(make_phantom, folder / f"{kind}2", kind, subjects=many)
            rows.append(_row(f"phantom {kind}, a further subject", (whole - one) / (many - 1)))
        tree = folder / "tree"
        for k in range(indexed):
            place = tree / f"sub-{k:06d}" / "dwi"
            place.mkdir(parents=True)
            (place / f"sub-{k:06d}_param-md_dwimap.nii").touch()
        rows.append(_row(f"Cohort.from_bids, {indexed} subjects", _seconds(Cohort.from_bids, tree)))
    for label, code in (
        ("import neuromix.augment", "import neuromix.augment"),
        ("neuromix --help", "from neuromix.experiments.cli.main import main; main(['--help'])"),
    ):
        command = [sys.executable, "-c", code]
        times = [
            _seconds(subprocess.run, command, check=False, capture_output=True) for _ in range(5)
        ]
        rows.append(_row(label, float(np.median(times))))
    Console().print(rich_table(pd.DataFrame(rows), title=machine()))
    if out is not None:
        keep(out, {"rows": rows})
    return rows


def keep(out: Path, figures: Mapping[str, Any]) -> None:
    """Write figures, with what they were measured of and on."""
    software = {"versions": versions(), "commit": commit()}
    files.write_json(out, {"machine": machine(), **software, **figures})


def machine() -> str:
    """The machine in words."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _seconds(work: Callable[..., Any], *args: Any, **options: Any) -> float:
    begun = time.perf_counter()
    work(*args, **options)
    return time.perf_counter() - begun


def _row(what: str, seconds: float) -> dict[str, Any]:
    return {"what": what, "seconds": round(seconds, 3)}
