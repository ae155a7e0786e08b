"""From a raw or derivative dataset to what the samplers eat: ``prepare``.

A scan is read, brought into the form that was asked for (a map, BOLD, segments), registered,
resampled to the grid and written into a BIDS derivative. Each scan stands for itself: one that
fails is reported and the others are written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neuromix.augment import files
from neuromix.augment.data import bids, split
from neuromix.augment.data.cohort import COLUMNS, Cohort
from neuromix.augment.data.grid import Grid
from neuromix.augment.errors import InputError
from neuromix.augment.prepare import mean
from neuromix.augment.prepare.outputs import Output, Settings, make
from neuromix.augment.prepare.scans import Entities, Scan, bids_label, find_scans, map_scans
from neuromix.augment.prepare.space import Reference

DESCRIPTION = {
    "md": {"param": "md"},
    "bold": {"desc": "prepared"},
    "segments": {"desc": "segments"},
}
"""Entities of what is made; those of a map are its image's."""
SOURCE_ONLY = ("space", "res", "den", "model", "param", "desc")
"""Entities of a source that do not describe what is made of it."""

TRIED = 3
"""Scans that a dry run tries at most."""
FAILURES_NAMED = 3
"""Scans that an error names."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Prepared:
    """What became of a dataset: counts of scans, of which an earlier call had ``kept`` some.

    Of a dry run, the ``minutes`` that all would take.
    """

    folder: Path
    written: int = 0
    kept: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    minutes: float | None = None

    def __str__(self) -> str:
        """A summary, with a line per failure."""
        if self.minutes is not None:
            return f"{self.written} scans, about {self.minutes:.1f} minutes on this machine"
        failed = [f"{name}: {reason}" for name, reason in self.failures.items()]
        counts = f"{self.written} scans prepared, {self.kept} kept, {len(failed)} failed"
        return "\n".join([f"{self.folder}: {counts}", *failed])


def prepare(
    data: str | Path | Cohort,
    out: str | Path,
    *,
    raw: str | Path | None = None,
    entities: Entities | None = None,
    jobs: int = 2,
    progress: bool = True,
    dry_run: bool = False,
    **settings: Any,
) -> Prepared:
    """Prepare a dataset: common space, one grid, and the units of this project.

    Images named ``space-MNI152*`` (by fMRIPrep, QSIPrep or HCP) are taken as they are, resampled to
    the grid, and keep the name of their space. Others are skull-stripped and registered to the
    template, MNI152NLin2009aSym, by an affine. Nothing is corrected for motion or distortion: give
    data in which that is done. Run again, it goes on where it was interrupted, and redoes what had
    other settings or has changed since.

    Args:
        data: A BIDS dataset, raw or derivative, or HCP's tree of preprocessed task runs; for maps a
            cohort, of a table or a folder.
        out: Folder of the BIDS derivative to write; several ``what`` may share one.
        raw: The raw dataset behind a derivative: ``events.tsv`` and labels are looked for there,
            too. Found by itself if ``data`` lies in its ``derivatives``.
        entities: Only files with these, such as ``{"space": "MNI152NLin6Asym"}``.
        jobs: Processes at once; each holds a scan in memory.
        progress: Show a progress bar.
        dry_run: Make one scan, keep nothing, and say how long all would take.
        **settings: What to make, as ``what="md"``: the fields of
            :class:`~neuromix.augment.prepare.outputs.Settings`.

    Returns:
        Counts, and a line for each scan that failed. If all failed, that is an error.
    """
    import joblib
    from rich.progress import track

    out = Path(out).resolve()
    failures: dict[str, str] = {}
    if isinstance(data, Cohort) and not settings.get("image") and len(data.images) == 1:
        settings["image"] = data.images[0]
    chosen = Settings(**settings)
    if isinstance(data, Cohort) != (chosen.what == "map"):
        raise InputError("what='map' takes a Cohort, and all else takes the folder of a dataset")
    if isinstance(data, Cohort):
        scans = map_scans(data, chosen.image)
        root = source = Path(os.path.commonpath([scan.image.parent for scan in scans]))
    else:
        root = Path(data).resolve()
        source = Path(raw).resolve() if raw else bids.source_of(root)
    if root == out:
        raise InputError(f"{out} is the data itself; name another folder to write into")
    if not isinstance(data, Cohort):
        scans, failures = find_scans(root, chosen.what, source, entities or {})
    jobs = max(1, min(jobs, len(scans)))
    if dry_run:
        return Prepared(out, len(scans), minutes=_minutes(scans, chosen, jobs))
    reference = None
    try:
        if isinstance(data, Cohort):
            _describe_cohort(out, data)
        else:
            _describe(out, root, source, scans)
        if chosen.what == "map" and chosen.to == "mean":
            reference = mean.mean_of(scans, out / "mean", jobs)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror}); name a folder that you may write to"
        ) from None
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
    results = parallel(
        joblib.delayed(_attempt)(scan, chosen, reference, root, out) for scan in scans
    )
    counts = {"written": 0, "kept": 0}
    bar = track(results, f"Preparing {chosen.what}", total=len(scans), disable=not progress)
    for scan, (status, notes) in zip(scans, bar, strict=True):
        if status in counts:
            counts[status] += 1
        else:
            failures[scan.image.name] = status
        for note in notes:
            warnings.warn(f"{scan.image.name}: {note}", stacklevel=2)
    if not sum(counts.values()):
        listed = [f"{name}: {reason}" for name, reason in failures.items()]
        more = f"; and {len(listed) - FAILURES_NAMED} more" if len(listed) > FAILURES_NAMED else ""
        raise InputError(
            f"all {len(listed)} scans failed: {'; '.join(listed[:FAILURES_NAMED])}{more}"
        )
    return Prepared(out, **counts, failures=failures)


def _describe(out: Path, root: Path, source: Path, scans: list[Scan]) -> None:
    """Write what belongs to the dataset as a whole: its description, and copies of the labels."""
    # The name stays that of the source, for it tells whose subjects these are.
    bids.describe(out, name=bids.title_of(source) or bids.plain(source.name), derivative=True)
    home = root if (root / "participants.tsv").is_file() else source
    subjects = sorted({scan.entities["sub"] for scan in scans})
    sessions = [f"sub-{subject}/sub-{subject}_sessions.tsv" for subject in subjects]
    for table in ("participants.tsv", "participants.json", *sessions):
        if (home / table).is_file():
            files.write_bytes(out / table, (home / table).read_bytes())


def _describe_cohort(out: Path, cohort: Cohort) -> None:
    """Write a cohort's labels as those of the dataset that is made of it."""
    names = cohort.table["dataset"].unique()
    if len(names) != 1 or names[0].startswith(split.UNNAMED):
        has = "names no dataset" if len(names) == 1 else f"is of {len(names)} datasets"
        raise InputError(
            f"{cohort.name} {has}, and what is prepared is of one: give the study's name "
            "(dataset=, --dataset), or prepare each dataset alone"
        )
    bids.describe(out, name=names[0], derivative=True)
    table = cohort.table.drop(columns=["dataset", *bids.RUN])
    table = table.drop(columns=[f"{image}_path" for image in cohort.images])
    table["subject_id"] = "sub-" + table["subject_id"].map(bids_label)
    table["session_id"] = table["session_id"].map(bids_label)
    used = [c for c in table if c not in COLUMNS or not table[c].isin(["", np.nan]).all()]
    table = table[used].rename(columns={"subject_id": "participant_id"}).drop_duplicates()
    files.write_table(out / "participants.tsv", table.replace("", "n/a").fillna("n/a"))


def _minutes(scans: list[Scan], settings: Settings, jobs: int) -> float:
    """How long all scans would take, by that which is made the soonest of them."""
    failure = ""
    for scan in scans[:TRIED]:
        begun = time.perf_counter()
        try:
            make(scan, settings)
        except InputError as error:
            failure = f"{scan.image.name}: {error}"
            continue
        passes = len(scans) + mean.passes(len(scans)) * (settings.to == "mean")
        return (time.perf_counter() - begun) * passes / jobs / 60
    raise InputError(f"none of the first {TRIED} scans can be made; the last is {failure}")


def _attempt(
    scan: Scan, settings: Settings, reference: Reference | None, root: Path, out: Path
) -> tuple[str, list[str]]:
    """Prepare one scan: ``written``, ``kept`` or the reason of the failure, and notes."""
    try:
        made_of: dict[str, Any] = {
            "settings": settings.used,
            "inputs": _fingerprint(scan, root),
            "sidecar": {"RepetitionTime": scan.sidecar.get("RepetitionTime")},
        }
        if reference is not None:
            made_of["reference"] = hashlib.sha256(reference.image.tobytes()).hexdigest()[:24]
        if _is_done(scan, settings, made_of, out):
            return "kept", []
        outputs = make(scan, settings, reference)
        _write(outputs, scan, settings, made_of, out)
        return "written", [o.sidecar["Note"] for o in outputs if "Note" in o.sidecar]
    except InputError as error:
        return str(error), []
    except Exception as error:  # a broken file may fail anywhere, and must not end the others
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise InputError(
                f"{out} cannot be written ({error.strerror}); make room and run the same again"
            ) from None
        return f"{type(error).__name__}: {' '.join(str(error).split())}", []


def _fingerprint(scan: Scan, root: Path) -> dict[str, list[int]]:
    """Size and time of every file that a scan is made of; to read them all would take hours."""
    places = [scan.image, *scan.companions.values()]
    inputs = [file for p in places for file in (sorted(p.iterdir()) if p.is_dir() else [p])]
    stats = {os.path.relpath(path, root): path.stat() for path in inputs}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _is_done(scan: Scan, settings: Settings, made_of: dict[str, Any], out: Path) -> bool:
    windows = chunk = 1
    while chunk <= windows:
        image, sidecar, _ = _paths(scan, settings, out, chunk)
        # The sidecar is written last, so what it speaks of is complete.
        content = bids.read_json(sidecar) if sidecar.is_file() else {}
        if content.get("Prepared") != made_of or not image.is_file():
            return False
        windows, chunk = content.get("Windows", 1), chunk + 1
    return True


def _paths(scan: Scan, settings: Settings, out: Path, chunk: int) -> tuple[Path, Path, Path]:
    """Where the image, the sidecar and the events of a scan (or its window) are written."""
    own = {key: label for key, label in scan.entities.items() if key not in SOURCE_ONLY}
    if settings.has_windows:
        own["chunk"] = f"{chunk:02d}"
    full = {**own, "space": scan.prepared_space(settings.to), **_description(settings)}
    suffix = {"md": "dwimap", "map": bids.MAP}.get(settings.what, scan.kind)
    datatype = {"bold": "func", "map": "anat"}.get(scan.kind, "dwi")
    return (
        out / bids.path_of(datatype, full, suffix, ".nii.gz"),
        out / bids.path_of(datatype, full, suffix, ".json"),
        out / bids.path_of(datatype, own, "events", ".tsv"),
    )


def _description(settings: Settings) -> dict[str, str]:
    return DESCRIPTION.get(settings.what, {"param": settings.image})


def _write(
    outputs: list[Output], scan: Scan, settings: Settings, made_of: dict[str, Any], out: Path
) -> None:
    where = scan.prepared_space(settings.to)
    _remove_stale(scan, settings, out)
    for chunk, output in enumerate(outputs, start=1):
        image, sidecar, events = _paths(scan, settings, out, chunk)
        grid = Grid.from_dict(output.sidecar["Record"]["space"]["target"])
        files.write_nifti(image, output.image, grid.affine, tr=output.tr, space=where)
        if output.events is not None:
            files.write_table(events, output.events)
        content = {
            "Sources": list(made_of["inputs"]),
            "SpatialReference": where or bids.CUSTOM,
            **output.sidecar,
            "Prepared": made_of,
        }
        files.write_json(sidecar, content)


def _remove_stale(scan: Scan, settings: Settings, out: Path) -> None:
    """Remove an earlier call's files of a scan: in another space, or cut into more windows."""
    # A scan that is a window itself has neighbours, which are other scans.
    free = SOURCE_ONLY if "chunk" in scan.entities else (*SOURCE_ONLY, "chunk")
    run = {key: label for key, label in scan.entities.items() if key not in free}
    image = _paths(scan, settings, out, 1)[0]
    own = bids.parse_name(image.name)[1]
    for path in image.parent.glob("sub-*"):
        entities, suffix, _ = bids.parse_name(path.name)
        is_ours = suffix == own and _description(settings).items() <= entities.items()
        is_events = suffix == "events" and settings.what == "bold"
        bare = {key: label for key, label in entities.items() if key not in free}
        if bare == run and (is_ours or is_events):
            path.unlink()
