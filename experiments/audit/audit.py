"""The audit of a bank: is it fit for use, and if not, why?

    training subjects ──► bank ──► realism, anatomy               ┐
            │                      labels, and whether they matter │
            └── privacy ───────────┘                               ├─► findings ──► verdict
    held-out subjects ─┬─ judges: train the reader of labels       │
                       └─ tests: everything is compared with them ─┘

Held-out subjects had no part in the bank: that is the first thing that is checked. Half of them
train the classifier that reads labels and choose checkpoints, the other half are compared with and
tested on, so that no subject judges what it has shaped. Utility is measured there, too: a
classifier trained on real subjects, on samples, and on both. What is looked at depends on the
images: :mod:`neuromix.experiments.audit.maps` for a scalar map,
:mod:`neuromix.experiments.audit.runs` for task fMRI. A completer is audited itself, by what it
makes of held-out subjects (:mod:`neuromix.experiments.audit.completer`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.bids import SERIES
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.digests import Content, digest_of
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.opening import open_source
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.experiments.audit.base import weigh
from neuromix.experiments.audit.completer import CompleterAudit
from neuromix.experiments.audit.config import Audit
from neuromix.experiments.audit.maps import MapAudit
from neuromix.experiments.audit.runs import RunsAudit
from neuromix.experiments.frame.cohorts import contents
from neuromix.experiments.frame.findings import findings_table
from neuromix.experiments.frame.pages import rich_table
from neuromix.experiments.frame.run import Run

__all__ = ["Audit", "run"]

NAME = "audit"


def run(config: Audit, out: Path) -> dict[str, Any]:
    """Do what is not done yet; write ``results.json`` and ``report.html``."""
    console = Console()
    made, kind = _open(config.bank)
    if isinstance(made, SampleBank):
        images, more = made.images, digest_of([made.digest(), made.record])
        audited = Content.of(Cohort.from_bids(made.path, images), more=more)
    else:
        images = tuple(made.config["images"])
        more = digest_of([made.fingerprint(), made.record])
        audited = Content([], [], more)
    content = {"bank": audited, **contents(config, images)}
    with (
        Run.open(out, NAME, asdict(config), console, content) as frame,
        warnings.catch_warnings(),
    ):
        # MCI is no answer to the question of dementia; that is known, and not said for each fit.
        warnings.filterwarnings("ignore", message=".* have no label .* and are left out")
        work = kind(config, made, frame)
        parts = work.parts()
        results = weigh(work.findings(parts)) | parts | frame.about
        frame.finish(results, work.page(results))
    console.print(rich_table(findings_table(results["findings"]), title=results["verdict"]))
    return results


def _open(folder: Path) -> tuple[Any, Callable[..., Any]]:
    """The bank or the completer of a folder, and what audits it."""
    if is_sampler(folder):
        sampler = open_source(folder)
        if not isinstance(sampler, ModalityCompleter):
            raise InputError(
                f"{folder} is a {type(sampler).__name__}; an audit looks at its samples: make a "
                "bank with `neuromix generate`, and name that"
            )
        return sampler, CompleterAudit
    bank = SampleBank(folder)
    if bank.images == ("bold",):
        return bank, RunsAudit
    if len(bank.images) != 1 or bank.images[0] in SERIES:
        raise InputError(
            f"{bank.path} holds {', '.join(bank.images)}; an audit knows banks of a map and of "
            "bold, and completers"
        )
    return bank, MapAudit
