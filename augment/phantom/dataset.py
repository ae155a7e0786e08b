"""Write a phantom cohort as a BIDS derivative, the known truth beside it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.grid import SPACE, Grid
from neuromix.augment.data.labels import LABELS
from neuromix.augment.errors import InputError, require_choice
from neuromix.augment.phantom import adapting, coupled, md, paired, task
from neuromix.augment.phantom.anatomy import anatomy_at
from neuromix.augment.phantom.folding import FoldedAnatomy
from neuromix.augment.phantom.population import SITES, person

KINDS = {"md": 4.0, "task": 6.0, "paired": 6.0}
"""Kinds of phantom, and the voxel side in mm that each has by default."""

VERSIONS = (1, 2)
"""1 bends one cortex, 2 folds a new one for everybody, and is not linear."""

IMAGES = {"md": 1, "task": 2 * len(task.TASKS), "paired": 2}
"""Images of a subject."""

LABEL_DESCRIPTIONS = {
    "age": {"Description": "Age in years", "Units": "year"},
    "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
    "site": {"Description": "Where the subject was scanned", "Levels": {
        "A": "lifespan study of the community, 18 to 88 years, no diagnosis",
        "B": "memory clinic, 55 to 90 years",
    }},
    "diagnosis": {"Description": "Clinical stage", "Levels": {
        "NC": "normal cognition", "MCI": "mild cognitive impairment", "AD": "dementia",
    }},
}  # fmt: skip


@dataclass(frozen=True)
class PhantomConfig:
    """What decides every byte of a phantom cohort."""

    kind: str
    subjects: int
    seed: int
    spacing: float
    site: str
    version: int = 1
    """Of the population and the scanners: equal arguments of one version give equal images."""

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, KINDS)
        require_choice("version", self.version, VERSIONS)
        if self.subjects < 1:
            raise InputError(f"{self.subjects} subjects can't be made; ask for 1 or more")
        if not 1 <= self.spacing <= 12:
            raise InputError(f"spacing {self.spacing:g} mm is not possible; allowed is 1 to 12 mm")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed {self.seed} is not possible; allowed is 0 to {2**32 - 1}")
        if not self.site or set(self.site) - set(SITES) or len(set(self.site)) < len(self.site):
            raise InputError(
                f"site {self.site!r} is not known; allowed are {', '.join(SITES)} or both, as AB"
            )

    def people(self) -> Iterator[tuple[str, int]]:
        """Site and index of each subject; sites take turns."""
        for k in range(self.subjects):
            yield self.site[k % len(self.site)], k // len(self.site)


def make_phantom(
    out: str | Path,
    kind: str,
    *,
    subjects: int,
    seed: int = 0,
    spacing: float | None = None,
    site: str = "B",
    version: int = 1,
    progress: bool = False,
) -> Path:
    """Make a labelled cohort whose truth is known, as a BIDS derivative.

    The same arguments give the same bytes, and subject k is the same in a cohort of any size. A
    finished cohort is left as it is; an unfinished one is made again from the start. Its labels are
    written first, so that what was finished can be used.

    Args:
        out: Folder to make.
        kind: ``md`` (mean diffusivity), ``task`` (seven tasks, 14 runs a subject) or ``paired``
            (fMRI and dMRI segments).
        subjects: How many.
        seed: Decides who they are. Cohorts of different seeds share no subject.
        spacing: Voxel side in mm; 4 for ``md`` and 6 for the others by default.
        site: ``A`` (community, 18 to 88 years, no diagnosis), ``B`` (memory clinic, 55 to 90
            years, NC/MCI/AD, another scanner) or ``AB`` for both in turn.
        version: 1 bends the template's cortex, 2 folds a new one for everybody, and responses and
            what modalities share are not linear.
        progress: Show a progress bar.

    Returns:
        The folder.
    """
    from rich.progress import track
    from threadpoolctl import threadpool_limits

    config = PhantomConfig(
        kind, subjects, seed, KINDS.get(kind, 0) if spacing is None else spacing, site, version
    )
    folder = Path(out)
    if _is_complete(folder, config):
        return folder
    files.write_json(folder / "truth.json", {"config": asdict(config), "complete": False})
    bids.describe(folder, name=f"phantom-{kind}-seed{seed}", derivative=True)
    _write_tables(folder, config)
    if progress:
        print("Reading the template ...", flush=True)
    anatomy = anatomy_at(config.spacing)
    folded = _folded_anatomy(config.spacing) if version == 2 else None
    scanner = None
    if kind == "paired":
        scanner = (coupled.CoupledScanner if version == 2 else paired.PairedScanner)(anatomy)

    def make(site: str, index: int) -> tuple[dict[str, Any], Any]:
        who, rng = person(seed, site, index, version)
        maps = anatomy.draw(who.shape, rng) if folded is None else folded.draw(who, rng)
        truth, images = who.truth() | anatomy.volumes(maps), None
        if scanner is not None:
            images = scanner.draw(who, maps, rng)
            paired.write_subject(folder, images[0], anatomy, who)
        elif kind == "task":
            truth |= task.write_subject(
                folder, anatomy, who, maps, rng, adapting if version == 2 else task
            )
        else:
            volume = md.mean_diffusivity(anatomy, who, maps, rng)
            entities = {"sub": who.subject_id, "space": SPACE, "param": "md"}
            place = folder / bids.path_of("dwi", entities, "dwimap", ".nii.gz")
            files.write_nifti(place, volume, anatomy.grid.affine)
        return truth, images

    # The work is NumPy's and zlib's, which let threads run side by side; BLAS must not add its own.
    # What is stopped has no thread left that writes: joblib's would go on for a while.
    truths = []
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            results = pool.map(lambda who: make(*who), config.people())
            for truth, images in track(results, f"Phantom {kind}", subjects, disable=not progress):
                truths.append(truth)
                if scanner is not None:
                    scanner.score.add(*images)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    content: dict[str, Any] = {"config": asdict(config), "complete": True}
    if scanner is not None:
        content["prediction_from_the_other_modality"] = scanner.score.result()
    content["subjects"] = {truth.pop("subject_id"): truth for truth in truths}
    files.write_json(folder / "truth.json", content)
    return folder


@functools.lru_cache(maxsize=2)
def _folded_anatomy(spacing: float) -> FoldedAnatomy:
    return FoldedAnatomy(Grid.mni(spacing))


def _is_complete(folder: Path, config: PhantomConfig) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the phantom")
    record = folder / "truth.json"
    if not record.exists():
        # Temporary files of a write that was cut short are no reason to refuse.
        if any(not entry.name.endswith(".tmp") for entry in folder.iterdir()):
            raise InputError(
                f"{folder} holds other files; name an empty or new folder for the phantom"
            )
        return False
    truth = bids.read_json(record)
    if truth.get("config") != asdict(config):
        raise InputError(
            f"{folder} holds a phantom made with {truth.get('config')}; "
            "name another folder, or delete that one first"
        )
    images = sum(1 for _ in folder.glob("sub-*/*/*.nii.gz"))
    return bool(truth["complete"]) and images == config.subjects * IMAGES[config.kind]


def _write_tables(folder: Path, config: PhantomConfig) -> None:
    """Write the labels, and the metadata that all images share."""
    import pandas as pd

    people = [person(config.seed, *who)[0] for who in config.people()]
    table = pd.DataFrame({name: [getattr(who, name) for who in people] for name in LABELS})
    table.insert(0, "participant_id", [f"sub-{who.subject_id}" for who in people])
    files.write_table(folder / "participants.tsv", table)
    files.write_json(folder / "participants.json", LABEL_DESCRIPTIONS)
    common = {"SkullStripped": True, "SpatialReference": SPACE}
    if config.kind == "md":
        name = f"space-{SPACE}_param-md_dwimap.json"
        files.write_json(folder / name, {"Units": bids.UNITS["md"], **common})
    elif config.kind == "task":
        for name in task.TASKS:
            files.write_json(
                folder / f"task-{name}_space-{SPACE}_desc-preproc_bold.json",
                {"RepetitionTime": task.TR, "TaskName": name, **common},
            )
    else:
        segments = {"Segments": paired.SEGMENTS, "Range": [0, paired.RANGE], **common}
        files.write_json(folder / f"task-rest_space-{SPACE}_desc-segments_bold.json", segments)
        files.write_json(folder / f"space-{SPACE}_desc-segments_dwi.json", segments)
