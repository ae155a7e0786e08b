"""``neuromix demo | phantom | cohort | who | prepare``; imports wait until they are needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import tyro

from neuromix.augment.errors import InputError


def demo(out: Path = Path("runs"), quick: tyro.conf.FlagCreatePairsOff[bool] = False) -> None:
    """Three phantoms, three samplers, what they make, an audit, and one page that says how it went.

    Run it again to go on where it stopped.

    Args:
        out: Folder of the run folders; this run makes a new one in it, or goes on with the last.
        quick: Smaller still: about two minutes.
    """
    from neuromix.experiments.demo import run

    run(out, quick=quick)


def phantom(
    out: Path,
    /,
    kind: Literal["md", "task", "paired"],
    subjects: int,
    seed: int = 0,
    spacing: float | None = None,
    site: Literal["A", "B", "AB"] = "B",
    version: Literal[1, 2] = 1,
) -> None:
    """Make a labelled cohort whose truth is known, as a BIDS dataset.

    Args:
        out: Folder to make.
        kind: Mean diffusivity, task fMRI (14 runs a subject), or paired fMRI and dMRI segments.
        subjects: How many.
        seed: Decides who they are; cohorts of different seeds share nobody.
        spacing: Voxel side in mm. Default: 4 for md, 6 for the others.
        site: A is a community study (18-88 years), B a memory clinic (NC/MCI/AD), AB both in turn.
        version: 1 bends one cortex, 2 folds a new one for everybody; its responses adapt, and what
            modalities share is not linear.
    """
    from neuromix.augment.phantom import make_phantom

    folder = make_phantom(
        out,
        kind,
        subjects=subjects,
        seed=seed,
        spacing=spacing,
        site=site,
        version=version,
        progress=True,
    )
    print(f"{subjects} subjects in {folder}, the truth in {folder / 'truth.json'}")


def cohort(
    data: Path,
    /,
    images: tuple[str, ...] = (),
    columns: dict[str, str] | None = None,
    codings: tuple[str, ...] = (),
    dataset: str = "",
    out: Path | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    stratify: tuple[str, ...] = ("sex", "diagnosis"),
    seed: int = 0,
    separate_sites: tyro.conf.FlagCreatePairsOff[bool] = False,
    anyway: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Show and check a cohort, and what it can be used for; with --out, split it by subject.

    Every problem is listed; the exit code is then 2, and no split is written.

    Args:
        data: BIDS folder, or a CSV or TSV with a column NAME_path for each image.
        images: Names of the images, for example md bold t1. Default: all that are there.
        columns: Columns of the table with other names, as: --columns subject_id RID diagnosis DXGRP
        codings: What other codes mean, as: --codings sex:0=F sex:1=M
        dataset: Name of the study that a table is of, where it has no column dataset: the same for
            all of its tables, so that one person in two of them is known to be one.
        out: Folder for train.tsv, val.tsv and test.tsv, of which train and experiments take each.
        fractions: Shares of train, val and test.
        stratify: Labels that the parts have in equal shares.
        seed: Decides who goes where.
        separate_sites: Keep each site in one part.
        anyway: Write the split in spite of problems, with what they are about in it.
    """
    from rich.console import Console

    from neuromix.experiments.frame.cohorts import gaps, load_cohort, parse_codings, uses
    from neuromix.experiments.frame.pages import rich_table

    console = Console()
    subjects = load_cohort(data, images, columns, parse_codings(codings), dataset)
    console.print(rich_table(subjects.summary(), title=f"{subjects!r}"))
    for line in gaps(subjects):
        console.print(line)
    problems = subjects.validate(progress=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    for line in uses(subjects, problems):
        console.print(line)
    if out is not None and (anyway or not problems):
        parts = subjects.split(
            fractions, stratify=stratify, seed=seed, separate_sites=separate_sites
        )
        parts.save(out)
        counts = ", ".join(f"{name} {len(part)}" for name, part in parts._asdict().items())
        console.print(f"Rows by part: {counts}; written to {out}")
    if problems:
        line = f"{len(problems)} problem(s) in {data}, listed above: mend or drop them"
        if out is not None:
            line += "; the split was written with them in it" if anyway else (
                "; no split was written (--anyway writes one with them in it)"
            )  # fmt: skip
        raise InputError(line)
    console.print("Every image was read: no problem found.")


def who(root: Path, /, person: str, image: Path | None = None) -> None:
    """List what a person had a part in, and how each is made again without them.

    Looks through every bank, sampler, completer and classifier under a folder, by salted hashes.
    Figures in reports and results of experiments are not looked at: run those again, too.

    Args:
        root: Folder to look through.
        person: DATASET/ID, as in the table or the dataset_description.json of their dataset.
        image: One of the person's images, which finds them under other names, too.
    """
    from neuromix.augment.data.withdrawal import parts_of

    dataset, slash, subject_id = person.rpartition("/")
    if not slash or not subject_id:
        raise InputError(f"--person {person!r} came; write it as DATASET/ID, such as OASIS/sub-01")
    parts = parts_of(root, dataset, subject_id, image)
    for part in parts:
        print(f"{part.folder}: {part.what} ({part.how})\n    {part.remedy}")
    print(f"{person} had a part in {len(parts)} of what lies under {root}")


def prepare(
    data: Path,
    out: Path,
    /,
    what: Literal["md", "bold", "segments", "map"],
    image: str = "",
    to: Literal["template", "mean", "none"] = "template",
    spacing: float | None = None,
    pool: tuple[int, int, int] | None = None,
    window: float | None = None,
    overlap: float = 0.0,
    segments: int = 8,
    b_max: float = 1500.0,
    raw: Path | None = None,
    columns: dict[str, str] | None = None,
    codings: tuple[str, ...] = (),
    dataset: str = "",
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Bring raw data, or maps of one's own, to what the samplers eat: one grid, known units.

    A scan that fails is named at the end and the others are kept; the exit code is then 2. Run it
    again to go on where it stopped.

    Args:
        data: BIDS folder, raw or derivative, or HCP's tree of task runs; for maps a table, too.
        out: Folder for the BIDS derivative.
        what: md fits DWI to mean diffusivity, bold resamples runs, segments makes PDS segments, map
            takes skull-stripped maps of any contrast, whose unit and range stay.
        image: Which map: t1, fa, ... as the table's column t1_path says, or t1w of a BIDS folder.
        to: What maps are registered to, by mutual information: the MNI152 template, their own mean
            or none.
        spacing: Voxel side of the grid in mm. Default: 4; of maps registered to none, their own.
        pool: Voxels along each axis to average, of maps registered to none, as: --pool 2 2 3
        window: Seconds of a window that BOLD runs are cut into. Default: whole runs.
        overlap: Share of a window that the next one repeats, 0 to below 1.
        segments: Segments along the gradient or time axis.
        b_max: Largest b-value in s/mm² that enters the tensor fit.
        raw: Raw dataset behind a derivative, for its events and labels.
        columns: Of maps, as those of `neuromix cohort`.
        codings: Of maps, as those of `neuromix cohort`.
        dataset: Of a table of maps, as that of `neuromix cohort`.
        dry_run: Try one scan, say how long all would take, and stop.
    """
    options = locals()
    from neuromix.augment.prepare import prepare as run
    from neuromix.experiments.frame.cohorts import load_cohort, parse_codings

    told = [options.pop(name) for name in ("columns", "codings", "dataset")]
    if what == "map":
        told[1] = parse_codings(codings)
        options["data"] = load_cohort(data, (image,) if image else (), *told)
    elif any(told):
        raise InputError("--columns, --codings and --dataset came; they are for --what map alone")
    result = run(**options)
    print(result)
    if result.failures:
        raise InputError(f"{len(result.failures)} scan(s) failed, listed above; mend and run again")
