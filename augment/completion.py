"""Fill in what subjects of a BIDS dataset lack, as a derivative beside it.

Of a subject-session that has some of a completer's images, those that it lacks are made::

    OUT/dataset_description.json  participants.tsv  completion.json
    OUT/sub-01/func/sub-01_task-rest_space-..._desc-imputed_bold.nii.gz      the mean of K samples
                    sub-01_task-rest_space-..._desc-imputed_bold.json        source, seed, weights
                    sub-01_task-rest_space-..._desc-imputed_stdmap.nii.gz    their deviation

A sidecar says what error is to be expected, and ``Trusted`` is false where a source is unlike those
that the completer was trained on, with the reasons.

The dataset keeps its name, since these are its subjects; ``desc-imputed`` marks the images, and
:class:`~neuromix.augment.data.cohort.Cohort` reads them as ``synthetic``. Nothing is written into
DATA, and what is real is never made. An image lies on the grid of its source and is named after
that one's space. A subject's seed follows from its name, so that neither the order nor the others
matter; its sidecar is written last: where it is, the image is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from neuromix.augment import files
from neuromix.augment.bank.filling import PLACES, place_of, require_empty, require_same
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.digests import file_digests
from neuromix.augment.data.labels import LABELS
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.errors import InputError
from neuromix.augment.source import Completer

if TYPE_CHECKING:
    import torchio as tio

Task = tuple[dict[str, Any], list[str], str]
"""A row, the images that it has, and one that it lacks."""


class Posterior(NamedTuple):
    """What many samples of an image say together."""

    mean: tio.Image
    deviation: tio.Image
    """Standard deviation of the samples, voxel by voxel: how uncertain the mean is."""
    samples: np.ndarray
    """(K, N, X, Y, Z)."""
    error: float
    """Root mean square error to expect of the mean, in the image's unit."""
    doubts: list[str]
    """Why it should not be trusted, a sentence each."""


class UncertainCompleter(Completer, Protocol):
    """A completer that tells how sure it is."""

    @property
    def record(self) -> dict[str, Any]:
        """Who had a part in its making."""

    @property
    def config(self) -> Mapping[str, Any]:
        """With the ``images`` that it knows and the ``directions`` that it can fill in."""

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
    doubtful: list[str]
    """Those that were made and are not to be trusted, by their files."""


def complete_dataset(
    data: str | Path,
    completer: UncertainCompleter,
    out: str | Path,
    *,
    have: Sequence[str] = (),
    want: Sequence[str] = (),
    samples: int = 16,
    seed: int = 0,
    by_label: bool = False,
    progress: bool = False,
) -> Completion:
    """Fill in what is missing, or go on with that.

    Args:
        data: BIDS folder with images that the completer knows.
        completer: What makes the images.
        out: Folder for the derivative.
        have: Images that others are made from; all that there are by default.
        want: Images that are made; all that are lacking by default.
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
    known = list(completer.config["images"])
    for option, names in (("have", have), ("want", want)):
        for name in names:
            if name not in known:
                raise InputError(f"{option} {name} came; this completer knows {', '.join(known)}")
    cohort = _readable(data, known)
    if out == data or (data in out.parents and out.parent.name != "derivatives"):
        raise InputError(
            f"{out} lies in the dataset itself; name a folder outside of it, or in its derivatives"
        )
    tasks, whole = _tasks(cohort, completer.config, have or known, want)
    settings = {
        "seed": seed, "samples": samples, "by_label": by_label, "have": sorted(have),
        "completer": type(completer).__name__, "weights": completer.fingerprint(),
    }  # fmt: skip
    _begin(out, settings, completer.record)
    _tables(out, cohort, tasks)
    labelled = set(completer.record.get("labelled", ())) if by_label else set()
    made = renewed = 0
    doubtful = []
    digests = iter(file_digests(row[f"{name}_path"] for row, there, _ in tasks for name in there))
    sources = [[next(digests) for _ in there] for _, there, _ in tasks]
    listed = track(tasks, "Completing", disable=not progress)
    for (row, there, wanted), hashes in zip(listed, sources, strict=True):
        paths = [row[f"{name}_path"] for name in there]
        space = bids.space_of(paths)
        path = out / _location(row, wanted, space)
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        deviation = path.with_name(path.name.replace(f"_{place_of(wanted)[1]}.nii", "_stdmap.nii"))
        is_trained = subject_hash(row["dataset"], row["subject_id"]) in labelled
        labels = {"diagnosis": row["diagnosis"]} if is_trained and row["diagnosis"] else None
        source_record = {"SourceHashes": hashes, "Labels": labels or {}}
        if sidecar.is_file() and path.is_file() and deviation.is_file():
            if source_record.items() <= bids.read_json(sidecar).items():
                continue
            renewed += 1
        subject = tio.Subject(
            {
                name: WholeImage(source, verify_path=False)
                for name, source in zip(there, paths, strict=True)
            },
            dataset=row["dataset"], subject_id=row["subject_id"],
        )  # fmt: skip
        number = seed_of(seed, row, wanted)
        posterior = completer.posterior(subject, wanted, number, samples, labels)
        for place, image in ((deviation, posterior.deviation), (path, posterior.mean)):
            files.write_nifti(place, np.moveaxis(image.numpy(), 0, -1), image.affine, space=space)
        content: dict[str, Any] = {
            "Description": f"mean of {samples} samples made from {' and '.join(there)}; no scan",
            "Synthetic": True,
            "Sources": [os.path.relpath(source, out) for source in paths],
            **source_record, "Seed": number, "Samples": samples,
            "Completer": settings["completer"], "WeightsHash": settings["weights"],
            "SpatialReference": space, "Units": bids.UNITS.get(wanted, "arbitrary"),
            "Uncertainty": deviation.name, "ExpectedError": posterior.error,
            "Trusted": not posterior.doubts, "Doubts": posterior.doubts,
        }  # fmt: skip
        if wanted in ("fmri", "bold"):
            content["TaskName"] = row["task"] or "rest"
        files.write_json(sidecar, content)
        doubtful += [f"{path.name}: {'; '.join(posterior.doubts)}"] * bool(posterior.doubts)
        made += 1
    return Completion(made, len(tasks) - made, whole, renewed, doubtful)


def with_completions(cohort: Cohort, derivative: str | Path) -> Cohort:
    """The cohort with the imputed images of a derivative where it lacks real ones."""
    imputed = Cohort.from_bids(derivative).table
    key = ["dataset", "subject_id", "session_id"]
    table = cohort.table.copy()
    for column in (name for name in imputed.columns if name.endswith("_path")):
        paths = {tuple(row[:3]): row[3] for row in imputed[[*key, column]].to_numpy() if row[3]}
        present = table[column] if column in table.columns else [""] * len(table)
        table[column] = [
            real or paths.get(tuple(name), "")
            for real, name in zip(present, table[key].to_numpy(), strict=True)
        ]
    return Cohort(table, cohort.name)


def _readable(data: Path, known: Sequence[str]) -> Cohort:
    """The cohort of a folder with some of the images that a completer knows."""
    present = {file.image for file in bids.index(data)} & set(known)
    if not present:
        what = f"neither {' nor '.join(known)}"
        how = "segments" if set(known) <= set(PLACES) else "map"
        raise InputError(
            f"{data} has {what} images; make them with `neuromix prepare --what {how}`"
        )
    return Cohort.from_bids(data, [name for name in known if name in present])


def _tasks(
    cohort: Cohort, settings: Mapping[str, Any], have: Sequence[str], want: Sequence[str]
) -> tuple[list[Task], int]:
    """Rows with what they have and lack, and how many lack nothing."""
    tasks: list[Task] = []
    whole = 0
    for record in cohort.table.to_dict("records"):
        row = {str(key): value for key, value in record.items()}
        lacking = [name for name in settings["images"] if not row.get(f"{name}_path")]
        there = [name for name in settings["images"] if name in have and name not in lacking]
        whole += not lacking
        for name in [each for each in lacking if not want or each in want]:
            if name not in settings["directions"]:
                raise InputError(
                    f"sub-{row['subject_id']} lacks {name}, and this completer was trained to fill "
                    f"in {', '.join(settings['directions'])}; train one for {name}"
                )
            if there:
                tasks.append((row, there, name))
    return tasks, whole


def _begin(out: Path, settings: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write ``completion.json``, or compare it with that of an earlier call."""
    path = out / "completion.json"
    if path.is_file():
        require_same(out, bids.read_json(path)["settings"], settings)
        return
    require_empty(out)
    files.write_json(path, {"settings": settings, "provenance": record})


def _tables(out: Path, cohort: Cohort, tasks: list[Task]) -> None:
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
    datatype, suffix, own = place_of(want)
    entities = own | {
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
