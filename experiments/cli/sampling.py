"""``neuromix generate | complete | verify | audit``, and what ``train`` does with its options.

Imports wait until they are needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from neuromix.augment.errors import InputError
from neuromix.experiments.audit.config import Audit
from neuromix.experiments.cli.configured import Flat

if TYPE_CHECKING:
    from neuromix.augment.data.cohort import Cohort
    from neuromix.augment.data.conditions import LabelSpace


def train(
    sampler: Any, config: Any, data: Path, out: Path, validation: Path | None, dry_run: bool
) -> None:
    """Fit a sampler or a completer, or say how long it would take."""
    from rich.console import Console

    from neuromix.augment.data.split import require_apart

    console = Console()
    # A sampler of maps is told which; a completer takes what there is.
    image = getattr(config, "image", None) or getattr(sampler, "image", None)
    images = getattr(config, "images", (image,) if image else ())
    cohort = _cohort(data, images)
    judges = None if validation is None else _cohort(validation, images)
    if judges is not None:
        require_apart({"training": cohort, "validation": judges})
    console.print(asdict(config))
    if dry_run:
        estimate = sampler.estimate(cohort, config)
        seconds = estimate[0] if isinstance(estimate, tuple) else estimate
        console.print(f"{len(cohort)} scans, about {seconds / 60:.1f} minutes on this machine")
        if needs := hasattr(sampler, "budget") and sampler.budget(cohort, config):
            console.print(needs)
        return
    _, result = sampler.fit(cohort, config, out, validation=judges, progress=True)
    console.print(
        f"{result.step} steps, {result.seconds:.0f} s in this call, {100 * result.waiting:.1f} % "
        f"of it waiting for data; step {result.best_step} is kept in {out}"
    )


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
    filter: tuple[str, ...] = (),
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
        filter: Samples to reject and make anew, as: --filter near-copy:TRAIN.tsv range:0.1:3.5.
            near-copy: far nearer to one of these training subjects than to all others. range: more
            than 1 % of the values that are not 0 lie outside LOW to HIGH.
        seed: Decides the draws; sample k is the same in a dataset of any size.
        steps: Of the sampler; 10 to 20 are enough.
        guidance: Above 1, labels show more than in nature; past about 3 it distorts.
        events: BIDS events.tsv that all runs follow. Default: timings like those of training runs.
        frames: Frames of a run, any number from a window on. Default: as many as training runs.
    """
    from neuromix.augment.bank import quotas
    from neuromix.augment.bank.bank import SampleBank
    from neuromix.augment.data.conditions import parse_label
    from neuromix.augment.diffusion.pipeline import is_sampler
    from neuromix.augment.opening import open_source
    from neuromix.augment.prepare.bold import read_events

    if not is_sampler(sampler):
        raise InputError(f"{sampler} holds no sampler; make one with `neuromix train`")
    source: Any = open_source(sampler)
    if events is not None or frames is not None:
        if not hasattr(source, "timed"):
            raise InputError(
                f"--events or --frames came, and {sampler} makes {source.image}, which has no "
                "time; leave them out"
            )
        source = source.timed(None if events is None else read_events(events), frames)
    space = source.label_space
    if quota == "grid":
        if count is None or like is not None:
            came = "no --count" if count is None else "--like"
            raise InputError(f"{came} came with --quota grid; it needs --count and no --like")
        fixed = {name: parse_label(name, value) or "" for name, value in (labels or {}).items()}
        wanted = quotas.grid(space, fixed, count, seed)
    else:
        if like is None or labels:
            came = "no --like" if like is None else "--labels"
            raise InputError(
                f"{came} came with --quota {quota}; it needs --like, the training subjects that "
                "all labels are drawn from, and no --labels"
            )
        wanted = _labels(_cohort(like, (source.image,)), space, quota, target, by, count, seed)
    filters = [_filter(text, source.image) for text in filter]
    bank = SampleBank.fill(
        out, source, wanted, seed, steps=steps, guidance=guidance, filters=filters, progress=True
    )
    print(bank)


def _labels(
    cohort: Cohort,
    space: LabelSpace,
    quota: str,
    target: str,
    by: tuple[str, ...],
    count: int | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Labels after a cohort, with a table of what they mend."""
    from rich.console import Console

    from neuromix.augment.bank import quotas
    from neuromix.experiments.frame.pages import rich_table

    if quota == "like":
        if count is None:
            raise InputError("no --count came with --quota like; say how many subjects to make")
        return quotas.like(cohort, space, count, seed)
    if quota == "balance":
        wanted = quotas.balance(cohort, space, (target,), count, seed)
    else:
        wanted = quotas.deconfound(cohort, space, target, by, count, seed)
        table = quotas.associations(cohort, wanted, target, by)
        title = f"{target} in {len(cohort)} real and {len(wanted)} synthetic"
        Console().print(rich_table(table, title=title))
    if not wanted:
        raise InputError(f"{cohort.name} needs no sample to {quota} {target}; name a --count")
    return wanted


def _filter(text: str, image: str) -> Callable[[Any], str | None]:
    """The filter that an option names."""
    from neuromix.augment.bank.filters import IntensityRange, NearCopy

    name, _, rest = text.partition(":")
    if name == "near-copy" and rest:
        return NearCopy(_cohort(Path(rest), (image,)), image)
    try:
        low, high = map(float, rest.split(":"))
    except ValueError:
        name = ""
    if name != "range":
        raise InputError(f"--filter {text} came; write near-copy:TRAIN.tsv or range:LOW:HIGH")
    return IntensityRange(low, high, image=image)


def _cohort(data: Path, images: Sequence[str]) -> Cohort:
    """A cohort that a user names; of a folder, the scans of some images."""
    from neuromix.experiments.frame.cohorts import load_cohort

    return load_cohort(data, images if data.is_dir() else ())


def complete(
    data: Path,
    sampler: Path,
    out: Path,
    have: tuple[str, ...] = (),
    want: tuple[str, ...] = (),
    samples: int = 16,
    held_out: Path | None = None,
    by_label: tyro.conf.FlagCreatePairsOff[bool] = False,
    seed: int = 0,
) -> None:
    """Fill in images that subjects lack from those that they have. Run it again to go on.

    What is real is never made or overwritten. No label is used unless --by-label is given.

    Args:
        data: BIDS folder with segments or maps.
        sampler: Folder that `neuromix train pds` has filled.
        out: Folder for the BIDS derivative with the means and their uncertainty.
        have: Images that others are made from. Default: all that there are.
        want: Images that are made. Default: all that are lacking.
        samples: How many are averaged.
        held_out: Subjects (a table or a BIDS folder) whom the completer must not have seen.
        by_label: Fill the completer's own training subjects after their diagnosis: an experiment.
        seed: Decides all samples.
    """
    from neuromix.augment.completion import complete_dataset
    from neuromix.augment.diffusion.pipeline import is_sampler
    from neuromix.augment.pds.completer import ModalityCompleter

    if not is_sampler(sampler):
        raise InputError(f"{sampler} holds no completer; make one with `neuromix train pds`")
    completer = ModalityCompleter.from_pretrained(sampler)
    if held_out is not None:
        completer.check_disjoint(_cohort(held_out, ()))
    done = complete_dataset(
        data, completer, out, have=have, want=want, samples=samples, seed=seed,
        by_label=by_label, progress=True,
    )  # fmt: skip
    why = f" ({done.renewed} anew: source or label changed since)" if done.renewed else ""
    for line in done.doubtful:
        print(f"not to be trusted: {line}", file=sys.stderr)
    print(
        f"{done.made} images made{why} and {done.stood} were there in {out}; {done.whole} "
        "subject-sessions lack nothing"
    )


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


def audit(config: Flat[Audit], out: Path = Path("runs")) -> None:
    """The data card of a bank or a completer: is it fit for use? A page with a verdict and reasons.

    Looks at files, leaks, copies and privacy, fidelity and variety, anatomy and units, labels, and
    at what a classifier gains; of a completer, at what it makes of held-out people. Run it again to
    go on where it stopped.

    Args:
        config: What to audit.
        out: Folder of the run folders, or one run folder.
    """
    from neuromix.experiments.audit.audit import run

    run(config, out)
