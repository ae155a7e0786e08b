"""How long phantoms, the BIDS index and the imports take."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.bench.config import Foundation
from neuromix.experiments.bench.figures import Figure, report, seconds

PROCESSES = 5
"""Fresh ones that an import is timed in."""


def foundation(config: Foundation) -> list[Figure]:
    """Time the phantoms, the BIDS index and the imports."""
    times = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = seconds(make_phantom, folder / "first", "md", subjects=1)
        times["phantom md, the first subject, with reading the template"] = first
        for kind in ("md", "task", "paired"):
            many = max(2, config.subjects // 10 if kind == "task" else config.subjects)
            one = seconds(make_phantom, folder / f"{kind}1", kind, subjects=1)
            whole = seconds(make_phantom, folder / f"{kind}2", kind, subjects=many)
            times[f"phantom {kind}, a further subject"] = (whole - one) / (many - 1)
        tree = folder / "tree"
        for k in range(config.indexed):
            place = tree / f"sub-{k:06d}" / "dwi"
            place.mkdir(parents=True)
            (place / f"sub-{k:06d}_param-md_dwimap.nii").touch()
        times[f"Cohort.from_bids, {config.indexed} subjects"] = seconds(Cohort.from_bids, tree)
    for label, code in (
        ("import neuromix.augment", "import neuromix.augment"),
        ("neuromix --help", "from neuromix.experiments.cli.main import main; main(['--help'])"),
    ):
        command = [sys.executable, "-c", code]
        runs = [
            seconds(subprocess.run, command, check=False, capture_output=True)
            for _ in range(PROCESSES)
        ]
        times[label] = float(np.median(runs))
    return report(
        [Figure("foundation", what, time, "s") for what, time in times.items()], config.out
    )
