"""Fill in what subjects of a BIDS dataset lack, as a derivative beside it.

Of a subject-session that has one of the two modalities, the other is made::

    OUT/dataset_description.json  participants.tsv  completion.json
    OUT/sub-01/func/sub-01_task-rest_space-..._desc-imputed_bold.nii.gz      the mean of K samples
                    sub-01_task-rest_space-..._desc-imputed_bold.json        source, seed, weights
                    sub-01_task-rest_space-..._desc-imputed_stdmap.nii.gz    their deviation

The dataset keeps its name, since these are its subjects; ``desc-imputed`` marks the images, and
:class:`~neuromix.augment.data.cohort.Cohort` reads them as ``synthetic``. Nothing is written into
DATA, and what is real is never made. An image lies on the grid of its source and is named after
that one's space. A subject's seed follows from its name, so that neither the order nor the others
matter; its sidecar is written last: where it is, the image is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from neuromix.augment import files
from neuromix.augment.bank.filling import PLACES, require_empty, require_same
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.digests import file_digests
from neuromix.augment.data.labels import LABELS
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.errors import InputError
from neuromix.augment.source import Completer

if TYPE_CHECKING:
    import torchio as tio

PAIR = ("fmri", "dmri")


class Posterior(NamedTuple):
    """What many samples of an image say together."""

    mean: tio.Image
    deviation: tio.Image
    """Standard deviation of the samples, voxel by voxel: how uncertain the mean is."""
    samples: np.ndarray
    """(K, N, X, Y, Z)."""


class UncertainCompleter(Completer, Protocol):
    """A completer that tells how sure it is."""

    @property
    def record(self) -> dict[str, Any]:
        """Who had a part in its making."""

    @property
    def config(self) -> Mapping[str, Any]:
        """With the ``directions`` that it was trained in."""

    def fingerprint(self) -> str:
        """A digest of all that decides its samples."""

    def posterior(
        self,
        subject: tio.Subject,
        want: str,
        seed: int,
        samples: int,
        labels: Mapping[str, Any] | None = None,
    ) -> Posterior:
        """Mean and deviation of samples of the image ``want``."""


class Completion(NamedTuple):
    """What a call came to."""

    made: int
    stood: int
    """Were there from an earlier call."""
    whole: int
    """Subject-sessions that lack nothing."""
    renewed: int
    """Of those that were made: there was one of another source or label."""


def complete_dataset(
    data: str | Path,
    completer: UncertainCompleter,
    out: str | Path,
    *,
    samples: int = 16,
    seed: int = 0,
    by_label: bool = False,
    progress: bool = False,
) -> Completion:
    """Fill in what is missing, or go on with that.

    Args:
        data: BIDS folder with fMRI and dMRI segments.
        completer: What makes the images.
        out: Folder for the derivative.
        samples: K, two or more.
        seed: Decides all samples.
        by_label: Fill those subjects that the completer was trained on after their diagnosis. The
            images then carry it, which those of other subjects can't: an experiment, no default.
        progress: Show a progress bar.
    """
    import torchio as tio
    from rich.progress import track

    from neuromix.augment.data.scans import WholeImage

    data, out = Path(data).resolve(), Path(out).resolve()
    cohort = _readable(data)
    if out == data or (data in out.parents and out.parent.name != "derivatives"):
        raise InputError(
            f"{out} lies in the dataset itself; name a folder outside of it, or in its derivatives"
        )
    tasks, whole = _tasks(cohort, completer.config["directions"])
    settings = {
        "seed": seed, "samples": samples, "by_label": by_label,
        "completer": type(completer).__name__, "weights": completer.fingerprint(),
    }  # fmt: skip
    _begin(out, settings, completer.record)
    _tables(out, cohort, tasks)
    labelled = set(completer.record.get("labelled", ())) if by_label else set()
    made = renewed = 0
    sources = list(file_digests(row[f"{have}_path"] for row, have, _ in tasks))
    listed = track(tasks, "Completing", disable=not progress)
    for (row, have, want), digest in zip(listed, sources, strict=True):
        source = row[f"{have}_path"]
        space = bids.space_of([source])
        path = out / _location(row, want, space)
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        deviation = path.with_name(path.name.replace(f"_{PLACES[want][1]}.nii", "_stdmap.nii"))
        is_trained = subject_hash(row["dataset"], row["subject_id"]) in labelled
        labels = {"diagnosis": row["diagnosis"]} if is_trained and row["diagnosis"] else None
        source_record = {"SourceHash": digest, "Labels": labels or {}}
        if sidecar.is_file() and path.is_file() and deviation.is_file():
            if source_record.items() <= bids.read_json(sidecar).items():
                continue
            renewed += 1
        subject = tio.Subject(
            {have: WholeImage(source, verify_path=False)},
            dataset=row["dataset"], subject_id=row["subject_id"],
        )  # fmt: skip
        number = seed_of(seed, row, want)
        posterior = completer.posterior(subject, want, number, samples, labels)
        for place, image in ((deviation, posterior.deviation), (path, posterior.mean)):
            files.write_nifti(place, np.moveaxis(image.numpy(), 0, -1), image.affine, space=space)
        content: dict[str, Any] = {
            "Description": f"mean of {samples} samples made from {have}; no scan",
            "Synthetic": True,
            "Sources": [os.path.relpath(source, out)],
            **source_record, "Seed": number, "Samples": samples,
            "Completer": settings["completer"], "WeightsHash": settings["weights"],
            "SpatialReference": space, "Units": bids.UNITS[want],
            "Uncertainty": deviation.name,
        }  # fmt: skip
        if want == "fmri":
            content["TaskName"] = row["task"] or "rest"
        files.write_json(sidecar, content)
        made += 1
    return Completion(made, len(tasks) - made, whole, renewed)


def with_completions(cohort: Cohort, derivative: str | Path) -> Cohort:
    """The cohort with the imputed images of a derivative where it lacks real ones."""
    imputed = Cohort.from_bids(derivative).table
    key = ["dataset", "subject_id", "session_id"]
    table = cohort.table.copy()
    for image in PAIR:
        column = f"{image}_path"
        if column not in imputed.columns:
            continue
        paths = {tuple(row[:3]): row[3] for row in imputed[[*key, column]].to_numpy() if row[3]}
        present = table[column] if column in table.columns else [""] * len(table)
        table[column] = [
            real or paths.get(tuple(name), "")
            for real, name in zip(present, table[key].to_numpy(), strict=True)
        ]
    return Cohort(table, cohort.name)


def _readable(data: Path) -> Cohort:
    """The cohort of a folder with one of the two modalities, or both."""
    present = {file.image for file in bids.index(data)} & set(PAIR)
    if not present:
        raise InputError(
            f"{data} has neither fmri nor dmri segments; make them with "
            "`neuromix prepare --what segments`"
        )
    return Cohort.from_bids(data, [name for name in PAIR if name in present])


def _tasks(
    cohort: Cohort, directions: list[str]
) -> tuple[list[tuple[dict[str, Any], str, str]], int]:
    """Rows with what they have and lack, and how many lack nothing."""
    tasks: list[tuple[dict[str, Any], str, str]] = []
    whole = 0
    for record in cohort.table.to_dict("records"):
        row = {str(key): value for key, value in record.items()}
        has = [name for name in PAIR if row.get(f"{name}_path")]
        if len(has) == 2:
            whole += 1
            continue
        have, want = has[0], PAIR[1 - PAIR.index(has[0])]
        if want not in directions:
            raise InputError(
                f"sub-{row['subject_id']} lacks {want}, and this completer was trained to fill in "
                f"{', '.join(directions)}; train one for {want}"
            )
        tasks.append((row, have, want))
    return tasks, whole


def _begin(out: Path, settings: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write ``completion.json``, or compare it with that of an earlier call."""
    path = out / "completion.json"
    if path.is_file():
        require_same(out, bids.read_json(path)["settings"], settings)
        return
    require_empty(out)
    files.write_json(path, {"settings": settings, "provenance": record})


def _tables(out: Path, cohort: Cohort, tasks: list[tuple[dict[str, Any], str, str]]) -> None:
    """The dataset's name, and the labels of the subjects that are filled in."""
    names = cohort.table["dataset"].unique()
    bids.describe(out, name=str(names[0]), derivative=True)
    if not tasks:
        return
    table = pd.DataFrame([row for row, _, _ in tasks]).replace("", None)
    table["participant_id"] = "sub-" + table["subject_id"]
    columns = ["participant_id", *LABELS]
    if table["session_id"].notna().any():
        table["session_id"] = "ses-" + table["session_id"]
        columns.insert(1, "session_id")
    files.write_table(out / "participants.tsv", table[columns].drop_duplicates())


def _location(row: Mapping[str, Any], want: str, space: str) -> str:
    datatype, suffix, _ = PLACES[want]
    entities = {
        "sub": row["subject_id"], "ses": row["session_id"], "space": space, "desc": "imputed",
    }  # fmt: skip
    if datatype == "func":
        entities |= {key: row[key] for key in bids.RUN if row[key]}
        entities["task"] = row["task"] or "rest"
    return bids.path_of(datatype, entities, suffix, ".nii.gz")


def seed_of(seed: int, row: Mapping[str, Any], want: str) -> int:
    """The completer's seed for a subject: 53 bits, which JSON holds exactly."""
    name = "/".join([str(seed), *(str(row[k]) for k in ("dataset", "subject_id", "session_id"))])
    digest = hashlib.blake2b(f"{name}/{want}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 11
