"""Find the cohort that a user names on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from augment.cohort import Cohort
from augment.errors import InputError


def load_cohort(data: Path, images: Sequence[str] = ()) -> Cohort:
    """A BIDS folder, or a table with a column ``NAME_path`` for each image.

    Args:
        data: Folder, CSV or TSV.
        images: Names of the images; those that are there by default.
    """
    if data.is_dir():
        return Cohort.from_bids(data, images=tuple(images) or None)
    if not data.exists():
        raise InputError(f"{data} does not exist; name a BIDS folder or a CSV or TSV table")
    if images:
        return Cohort.from_table(data, images={name: f"{name}_path" for name in images})
    return Cohort.load(data)
