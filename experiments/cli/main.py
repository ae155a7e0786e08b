"""The command ``neuromix``: a function for each subcommand; imports wait until they are needed.

The groups ``train``, ``experiment`` and ``benchmark`` are in files of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from neuromix.augment.errors import InputError, TrainingError
from neuromix.experiments.cli import benchmarks, quality
from neuromix.experiments.cli import train as cli_train


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
) -> None:
    """Make a labelled cohort whose truth is known, as a BIDS dataset.

    Args:
        out: Folder to make.
        kind: Mean diffusivity, task fMRI (14 runs a subject), or paired fMRI and dMRI segments.
        subjects: How many.
        seed: Decides who they are; cohorts of different seeds share nobody.
        spacing: Voxel side in mm. Default: 4 for md, 6 for the others.
        site: A is a community study (18-88 years), B a memory clinic (NC/MCI/AD), AB both in turn.
    """
    from neuromix.augment.phantom import make_phantom

    folder = make_phantom(
        out, kind, subjects=subjects, seed=seed, spacing=spacing, site=site, progress=True
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
    """Show and check a cohort; with --out, split it by subject into train, val and test.

    Every problem is listed; the exit code is then 2, and no split is written.

    Args:
        data: BIDS folder, or a CSV or TSV with a column NAME_path for each image.
        images: Names of the images, for example md bold. Default: all that are there.
        columns: Columns of the table with other names, as: --columns subject_id RID diagnosis DXGRP
        codings: What other codes mean, as: --codings sex:0=F sex:1=M
        dataset: Name of the study that a table is of, where it has no column dataset: the same for
            all of its tables, so that one person in two of them is known to be one.
        out: Folder for train.tsv, val.tsv and test.tsv.
        fractions: Shares of train, val and test.
        stratify: Labels that the parts have in equal shares.
        seed: Decides who goes where.
        separate_sites: Keep each site in one part.
        anyway: Write the split in spite of problems, with what they are about in it.
    """
    from rich.console import Console

    from neuromix.experiments.frame.cohorts import gaps, load_cohort, parse_codings
    from neuromix.experiments.frame.pages import rich_table

    console = Console()
    subjects = load_cohort(data, images, columns, parse_codings(codings), dataset)
    console.print(rich_table(subjects.summary(), title=f"{subjects!r}"))
    for line in gaps(subjects):
        console.print(line)
    problems = subjects.validate(progress=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    if out is not None and (anyway or not problems):
        parts = subjects.split(
            fractions, stratify=stratify, seed=seed, separate_sites=separate_sites
        )
        parts.save(out)
        counts = ", ".join(f"{name} {len(part)}" for name, part in parts._asdict().items())
        console.print(f"Rows by part: {counts}; written to {out}")
    if problems:
        told = f"{len(problems)} problem(s) in {data}, listed above: mend or drop them"
        if out is not None:
            told += "; the split was written with them in it" if anyway else (
                "; no split was written (--anyway writes one with them in it)"
            )  # fmt: skip
        raise InputError(told)
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
    what: Literal["md", "bold", "segments"],
    spacing: float = 4.0,
    window: float | None = None,
    overlap: float = 0.0,
    segments: int = 8,
    b_max: float = 1500.0,
    raw: Path | None = None,
) -> None:
    """Bring raw data to what the samplers eat: one grid in MNI space, known units.

    A scan that fails is named at the end and the others are kept; the exit code is then 2. Run it
    again to go on where it stopped.

    Args:
        data: BIDS folder, raw or derivative, or HCP's tree of task runs.
        out: Folder for the BIDS derivative.
        what: md fits DWI to mean diffusivity, bold resamples runs, segments makes PDS segments.
        spacing: Voxel side of the grid in mm.
        window: Seconds of a window that BOLD runs are cut into. Default: whole runs.
        overlap: Share of a window that the next one repeats, 0 to below 1.
        segments: Segments along the gradient or time axis.
        b_max: Largest b-value in s/mm² that enters the tensor fit.
        raw: Raw dataset behind a derivative, for its events and labels.
    """
    from neuromix.augment.prepare import prepare as run

    result = run(
        data,
        out,
        what=what,
        spacing=spacing,
        window=window,
        overlap=overlap,
        segments=segments,
        b_max=b_max,
        raw=raw,
    )
    print(result)
    if result.failures:
        raise InputError(f"{len(result.failures)} scan(s) failed, listed above; mend and run again")


def complete(
    data: Path,
    sampler: Path,
    out: Path,
    samples: int = 16,
    held_out: Path | None = None,
    by_label: tyro.conf.FlagCreatePairsOff[bool] = False,
    seed: int = 0,
) -> None:
    """Fill in the fMRI or dMRI segments that subjects lack. Run it again to go on.

    What is real is never made or overwritten. No label is used unless --by-label is given.

    Args:
        data: BIDS folder with segments.
        sampler: Folder that `neuromix train pds` has filled.
        out: Folder for the BIDS derivative with the means and their uncertainty.
        samples: How many are averaged.
        held_out: Subjects (a table or a BIDS folder) whom the completer must not have seen.
        by_label: Fill the completer's own training subjects after their diagnosis: an experiment.
        seed: Decides all samples.
    """
    from neuromix.experiments.cli.completing import complete as run

    run(data, sampler, out, samples, held_out, by_label, seed)


def generate(
    sampler: Path,
    out: Path,
    /,
    count: int | None = None,
    labels: dict[str, str] | None = None,
    quota: Literal["grid", "like", "balance", "deconfound"] = "grid",
    like: Path | None = None,
    target: str = "diagnosis",
    by: tuple[str, ...] = ("age", "sex", "site"),
    seed: int = 0,
    steps: int = 20,
    guidance: float = 1.0,
    events: Path | None = None,
    frames: int | None = None,
) -> None:
    """Make synthetic subjects as a BIDS derivative. Run it again to go on where it stopped.

    Args:
        sampler: Folder that `neuromix train` has filled.
        out: Folder for the dataset.
        count: How many subjects. balance and deconfound can do without: just enough.
        labels: What all of them shall be, as: --labels sex F diagnosis AD. For quota grid.
        quota: Where other labels come from. grid: categories in turn, ages evenly over the training
            range. The others read --like. like: the labels of random subjects. balance: what makes
            the classes of the target equal in real and synthetic together. deconfound: what makes
            the target independent of other labels in real and synthetic together.
        like: The real training subjects, a table or a BIDS folder.
        target: Label that is balanced or deconfounded.
        by: Labels that deconfound frees the target of.
        seed: Decides the draws; sample k is the same in a dataset of any size.
        steps: Of the sampler; 10 to 20 are enough.
        guidance: Above 1, labels show more than in nature; past about 3 it distorts.
        events: BIDS events.tsv that all runs follow. Default: timings like those of training runs.
        frames: Frames of a run, any number from a window on. Default: as many as training runs.
    """
    from neuromix.experiments.cli.sampling import generate as run

    run(
        sampler, out, count, labels or {}, quota, like, target, by, seed, steps, guidance, events,
        frames,
    )  # fmt: skip


def verify(bank: Path, /) -> None:
    """Compare every file of a bank with its checksum; what does not fit is listed (exit code 2).

    Args:
        bank: Folder that `neuromix generate` has filled.
    """
    from neuromix.augment.bank.bank import SampleBank

    samples = SampleBank(bank)
    problems = samples.verify(progress=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise InputError(f"{len(problems)} problem(s) in {bank}, listed above: fill it again")
    print(f"{samples!r}: every file is as it was written, digest {samples.digest()[:16]}")


def audit(
    bank: Path,
    /,
    train: Path,
    heldout: Path,
    out: Path = Path("runs"),
    seeds: int = 3,
    steps: int = 250,
    judge_steps: int = 500,
    most: int = 400,
    seed: int = 0,
) -> None:
    """The data card of a bank or a completer: is it fit for use? A page with a verdict and reasons.

    Looks at files, leaks, copies and privacy, fidelity and variety, anatomy and units, labels, and
    at what a classifier gains; of a completer, at what it makes of held-out people. Run it again to
    go on where it stopped.

    Args:
        bank: Folder that `neuromix generate` has filled, with md or with task fMRI runs, or that
            `neuromix train pds` has.
        train: BIDS folder or table of the subjects that the sampler was trained on.
        heldout: Of subjects of the same population that had no part in it; 100 or more are of use.
        out: Folder of the run folders, or one run folder.
        seeds: Of the classifiers that tell what samples are good for.
        steps: Optimiser steps of each of them.
        judge_steps: Optimiser steps of the classifiers that judge labels.
        most: Scans or samples of each set that are looked at, at random.
        seed: Decides halves, choices and draws.
    """
    from neuromix.experiments.audit.audit import Audit, run

    run(Audit(bank, train, heldout, seeds, steps, judge_steps, most, seed), out)


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "phantom": phantom,
    "cohort": cohort,
    "who": who,
    "prepare": prepare,
    "generate": generate,
    "complete": complete,
    "verify": verify,
    "audit": audit,
}
GROUPS: dict[str, dict[str, Callable[..., Any]]] = {
    "train": cli_train.SAMPLERS,
    "experiment": quality.EXPERIMENTS,
    "benchmark": benchmarks.BENCHMARKS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends with one line on standard error and exit code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if args and args[0] in GROUPS:
            group = GROUPS[args[0]]
            tyro.extras.subcommand_cli_from_dict(group, prog=f"neuromix {args[0]}", args=args[1:])
        else:
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS | {name: _group(name) for name in GROUPS},
                prog="neuromix",
                description="Diffusion-made brain MRI as augmentation, and whether it helped.",
                args=args,
            )
    except InputError as error:
        print(f"neuromix: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"neuromix: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        advice = "check the path, your rights to it and the room on the disk"
        print(f"neuromix: {error.strerror}: {error.filename}; {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("neuromix: stopped; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def _group(name: str) -> Callable[[], None]:
    """A stand-in, so that the help of ``neuromix`` lists the group; ``main`` handles the rest."""

    def show() -> None:
        main([name, "--help"])

    show.__doc__ = f"One of: {', '.join(GROUPS[name])} (see `neuromix {name} --help`)."
    return show


if __name__ == "__main__":
    raise SystemExit(main())
