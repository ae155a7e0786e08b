"""The demo: a phantom cohort from nothing to one page, in about a minute on a laptop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torchio as tio
from rich.console import Console

from augment import files
from augment.cohort import Cohort
from augment.phantom import make_phantom
from augment.report import report_page, rich_table, slices
from experiments.run import new_run

SUBJECTS = {"md": 24, "task": 1, "paired": 4}


def run(out: Path) -> Path:
    """Make the three phantoms, split the first by subject and write ``report.html``."""
    console = Console()
    folder = new_run(out, "demo")
    cohorts = {}
    for kind, subjects in SUBJECTS.items():
        data = make_phantom(folder / f"phantom-{kind}", kind, subjects=subjects, progress=True)
        cohorts[kind] = Cohort.from_bids(data)
    problems = [problem for cohort in cohorts.values() for problem in cohort.validate()]
    md = cohorts["md"]
    parts = md.split(seed=0)
    parts.save(folder / "split")
    console.print(rich_table(md.summary(), title=f"{md!r}"))
    counts = {name: len(part) for name, part in parts._asdict().items()}

    subjects_md = md.subjects()[:4]
    task = cohorts["task"].subjects()[0]
    pair = cohorts["paired"].subjects()[0]
    figures = [
        (
            slices(
                [subject["md"].numpy()[0] for subject in subjects_md],
                [_caption(subject) for subject in subjects_md],
                upper=2.5,
            ),
            "Mean diffusivity, 0 to 2.5e-3 mm²/s: axial, coronal and sagittal slices of four "
            "phantom subjects with sex, age and diagnosis.",
        ),
        (
            slices(
                [_tsnr(task["bold"].numpy()), task["bold"].numpy()[0], pair["fmri"].numpy()[0],
                 pair["dmri"].numpy()[0]],
                ["task: tSNR", "task: first frame", "paired: fMRI", "paired: dMRI"],
            ),
            "The other two phantoms: a task fMRI run and its temporal signal to noise, and the "
            "first segments of a paired fMRI and dMRI. Each is scaled to its own maximum.",
        ),
    ]  # fmt: skip
    verdict = f"Three phantom cohorts were made and read back with {len(problems)} problems."
    page = report_page(
        title="neuromix demo",
        verdict=verdict,
        tables=[
            ("The md cohort", md.summary()),
            ("The split, by subject", _counts(counts)),
        ],
        figures=figures,
        config={"phantom subjects": SUBJECTS, "seed": 0, "problems": list(map(str, problems))},
    )
    files.write_bytes(folder / "report.html", page.encode())
    console.print(f"{verdict} Open {folder / 'report.html'}")
    return folder


def _caption(subject: tio.Subject) -> str:
    return f"{subject['sex']} {subject['age']:.0f} {subject['diagnosis']}"


def _tsnr(frames: np.ndarray) -> np.ndarray:
    """Mean over deviation in time, (X, Y, Z); zero outside the brain."""
    deviation = frames.std(0)
    return np.divide(frames.mean(0), deviation, out=np.zeros_like(deviation), where=deviation > 0)


def _counts(counts: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame({"part": list(counts), "subjects": list(counts.values())})
