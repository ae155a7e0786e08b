"""From a raw or derivative dataset to what the samplers eat: ``prepare``.

A scan is read, brought into the form that was asked for (an MD map, BOLD, segments), registered,
resampled to the grid and written into a BIDS derivative. Each scan stands for itself: one that
fails is reported and the others are written.
"""

from __future__ import annotations

import errno
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.grid import Grid
from neuromix.augment.errors import InputError
from neuromix.augment.prepare.outputs import Output, Settings, make
from neuromix.augment.prepare.scans import Entities, Scan, find_scans

DESCRIPTION = {
    "md": {"param": "md"},
    "bold": {"desc": "prepared"},
    "segments": {"desc": "segments"},
}
SOURCE_ONLY = ("space", "res", "den", "model", "param", "desc")
"""Entities of a source that do not describe what is made of it."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Prepared:
    """What became of a dataset: counts of scans, of which an earlier call had ``kept`` some."""

    folder: Path
    written: int = 0
    kept: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """A summary, with a line per failure."""
        failed = [f"{name}: {reason}" for name, reason in self.failures.items()]
        counts = f"{self.written} scans prepared, {self.kept} kept, {len(failed)} failed"
        return "\n".join([f"{self.folder}: {counts}", *failed])


def prepare(
    data: str | Path,
    out: str | Path,
    *,
    what: str,
    spacing: float = 4.0,
    window: float | None = None,
    overlap: float = 0.0,
    segments: int = 8,
    b_max: float = 1500.0,
    raw: str | Path | None = None,
    entities: Entities | None = None,
    jobs: int = 2,
    progress: bool = True,
) -> Prepared:
    """Prepare a dataset: common space, standard grid, and the units of this project.

    Images named ``space-MNI152*`` (by fMRIPrep, QSIPrep or HCP) are taken as they are, resampled to
    the grid, and keep the name of their space. Others are skull-stripped and registered to the
    template, MNI152NLin2009aSym, by an affine. Nothing is corrected for motion or distortion: give
    data in which that is done. Run again, it goes on where it was interrupted, and redoes what had
    other settings or has changed since.

    Args:
        data: A BIDS dataset, raw or derivative, or HCP's tree of preprocessed task runs.
        out: Folder of the BIDS derivative to write; several ``what`` may share one.
        what: ``md`` (MD maps, from MD maps or DWI), ``bold`` (BOLD and its events) or ``segments``
            (segments of BOLD along time and of DWI along gradients).
        spacing: Of the grid, in mm.
        window: Cut BOLD into windows of this many seconds.
        overlap: Share of a window that the next one repeats, 0 to below 1.
        segments: Number of segments.
        b_max: Largest b-value for the tensor, in s/mm².
        raw: The raw dataset behind a derivative: ``events.tsv`` and labels are looked for there,
            too. Found by itself if ``data`` lies in its ``derivatives``.
        entities: Only files with these, such as ``{"space": "MNI152NLin6Asym"}``.
        jobs: Processes at once; each holds a scan in memory.
        progress: Show a progress bar.

    Returns:
        Counts, and a line for each scan that failed. If all failed, that is an error.
    """
    import joblib
    from rich.progress import track

    settings = Settings(what, spacing, window, overlap, segments, b_max)
    root, out = Path(data).resolve(), Path(out).resolve()
    if root == out:
        raise InputError(f"{out} is the data itself; name another folder to write into")
    source = Path(raw).resolve() if raw else bids.source_of(root)
    scans, failures = find_scans(root, what, source, entities or {})
    try:
        _describe(out, root, source, scans)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror}); name a folder that you may write to"
        ) from None
    parallel = joblib.Parallel(n_jobs=max(1, min(jobs, len(scans))), return_as="generator")
    results = parallel(joblib.delayed(_attempt)(scan, settings, root, out) for scan in scans)
    counts = {"written": 0, "kept": 0}
    bar = track(results, f"Preparing {what}", total=len(scans), disable=not progress)
    for scan, (status, notes) in zip(scans, bar, strict=True):
        if status in counts:
            counts[status] += 1
        else:
            failures[scan.image.name] = status
        for note in notes:
            warnings.warn(f"{scan.image.name}: {note}", stacklevel=2)
    if not sum(counts.values()):
        listed = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise InputError(f"all {len(failures)} scans failed: {listed}")
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


def _attempt(scan: Scan, settings: Settings, root: Path, out: Path) -> tuple[str, list[str]]:
    """Prepare one scan: ``written``, ``kept`` or the reason of the failure, and notes."""
    try:
        made_of = {
            "settings": settings.used,
            "inputs": _fingerprint(scan, root),
            "sidecar": {"RepetitionTime": scan.sidecar.get("RepetitionTime")},
        }
        if _is_done(scan, settings, made_of, out):
            return "kept", []
        outputs = make(scan, settings)
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
    full = {**own, "space": scan.prepared_space, **DESCRIPTION[settings.what]}
    suffix = "dwimap" if settings.what == "md" else "bold" if scan.kind == "bold" else "dwi"
    folder = out / f"sub-{own['sub']}" / (f"ses-{own['ses']}" if "ses" in own else "")
    folder /= "func" if scan.kind == "bold" else "dwi"
    return (
        folder / bids.build_name(full, suffix, ".nii.gz"),
        folder / bids.build_name(full, suffix, ".json"),
        folder / bids.build_name(own, "events", ".tsv"),
    )


def _write(
    outputs: list[Output], scan: Scan, settings: Settings, made_of: dict[str, Any], out: Path
) -> None:
    grid = Grid.mni(settings.spacing)
    _remove_stale(scan, settings, out)
    for chunk, output in enumerate(outputs, start=1):
        image, sidecar, events = _paths(scan, settings, out, chunk)
        files.write_nifti(image, output.image, grid.affine, tr=output.tr)
        if output.events is not None:
            files.write_table(events, output.events)
        content = {
            "Sources": list(made_of["inputs"]),
            "SpatialReference": scan.prepared_space,
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
        is_ours = suffix == own and DESCRIPTION[settings.what].items() <= entities.items()
        is_events = suffix == "events" and settings.what == "bold"
        bare = {key: label for key, label in entities.items() if key not in free}
        if bare == run and (is_ours or is_events):
            path.unlink()
