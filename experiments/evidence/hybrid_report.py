"""The page of the experiment ``hybrid``: that of all arms, and what filled images are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.evidence.sites import Parts
from neuromix.experiments.frame.figures import Picture
from neuromix.experiments.frame.verdict import Group, title_of

FAR = 0.1
"""Balanced accuracy that images may tell more of among themselves than of real ones."""


def report(
    results: Mapping[str, Any], groups: Sequence[Group], parts: Parts, pictures: Sequence[Picture]
) -> str:
    """The report, with pictures of filled images."""
    config = results["config"]
    lacks = config["lacks"]
    rows = [
        {
            "arm": title_of(row["way"]),
            "% lack an image": str(row["missing"]),
            "among filled images": row["cross-validated"],
            "then of real test images": row["on real images"],
        }
        for row in results["shift"]
    ]
    table = pd.DataFrame(rows).astype(object)
    table = table.where(table.notna(), "too few")
    origin = "phantom paired" if config["data"] is None else "own data"
    methods = [
        f"The cohort is {parts.name} ({origin}, seed {config['seed']}), with {len(parts.pool)} "
        f"training, {len(parts.validation)} validation and {len(parts.test)} test scans, all of "
        f"which have fMRI and dMRI. {lacks} is taken from a share of the training subjects, at "
        "random in each diagnosis; who lacks it at one share lacks it at every larger one.",
        f"NC, MCI and AD are told apart by a network with a tower for each modality, trained for "
        f"{config['steps']} steps with class weights; subjects without an image train the other "
        "tower alone. The completer and the simple fillings are fitted to the training subjects "
        "that lack nothing, and validation subjects choose its best step. Filling uses samples of "
        "the completer and no diagnosis, but for the arm that is named after it.",
        f"'{title_of('drop')}' leaves out who lacks {lacks}; '{title_of('pds-by-label')}' tells "
        "the completer the diagnosis, as nobody can for a test subject.",
        f"Test subjects who lack {lacks} are completed without their diagnosis, by the completer "
        f"of the smallest share ({min(config['missing'])} %); of its {config['samples']} samples "
        "the classifiers' probabilities are averaged.",
        "The shift between training and test is looked at with a logistic regression of region "
        "means: how well filled images tell the diagnosis among themselves (cross-validated), and "
        "real test images to what was fitted to filled ones.",
    ]
    return page(
        "Hybrid: diagnosis where images are missing",
        results,
        groups,
        [],
        methods=methods,
        warnings=[seeds_warning(config["seeds"], "share"), *_watermarks(results["shift"])],
        config=config,
        more=[(f"What filled {lacks} tells of the diagnosis", table)] if rows else [],
        first=pictures,
    )


def _watermarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which images carry their label, or a look of their own."""
    warnings = []
    for row in rows:
        inside, outside = row["cross-validated"], row["on real images"]
        if inside is not None and inside - outside > FAR:
            warnings.append(
                f"'{title_of(row['way'])}' ({row['missing']} % missing): images tell the diagnosis "
                f"among themselves with {inside:.2f} and of real test images with {outside:.2f}: "
                "what is learnt from them does not hold for real images."
            )
    return warnings
