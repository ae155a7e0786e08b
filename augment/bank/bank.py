"""SampleBank: synthetic subjects on disk, made once and drawn many times.

A bank is a BIDS derivative::

    bank.json                 format, space, sampler, settings, and who had a part in its making
    dataset_description.json  participants.tsv  participants.json  rejected.tsv
    sub-syn000001/dwi/sub-syn000001_..._desc-synthetic_param-md_dwimap.nii   and .json

Images are uncompressed float32, so that a draw is one read. A sample's sidecars are written after
its images: where they are, the sample is whole. ``participants.tsv`` comes last of all.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from neuromix.augment.bank.filling import FORMAT, Filling, location
from neuromix.augment.data import bids, leakage
from neuromix.augment.data.cohort import COLUMNS
from neuromix.augment.data.conditions import known
from neuromix.augment.data.grid import SPACE
from neuromix.augment.errors import InputError
from neuromix.augment.source import SAMPLERS, Sampler

if TYPE_CHECKING:
    import torch
    import torchio as tio

    from neuromix.augment.data.cohort import Cohort

HEADER = 352
"""Bytes before the voxels of a NIfTI-1 file without extensions."""

ANY = "0SAMPLE0"
"""Stands for a sample's name in the paths that are kept."""


class Layout(NamedTuple):
    """Where the voxels of a file begin, and how they lie."""

    offset: int
    shape: tuple[int, ...]
    affine: np.ndarray


class SampleBank:
    """Synthetic subjects on disk, a Source.

    Args:
        path: Folder that :meth:`fill` has filled.
        tolerance: Labels that are numbers match if they differ by no more than this; years for age.

    Attributes:
        table: A row per sample: ``participant_id``, the labels, ``synthetic_id``, ``seed`` and the
            checksum of each image.
        images: Names of the images, such as ``("md",)``.
        labels: Names of the labels that can be asked for.
    """

    def __init__(self, path: str | Path, *, tolerance: float = 5.0) -> None:
        self.path = Path(path).resolve()
        self.tolerance = tolerance
        self.about = _about(self.path)
        self.images = tuple(self.about["images"])
        self.labels = tuple(self.about["labels"])
        self.table = self._read_table()
        self.name = str(bids.read_json(self.path / "dataset_description.json")["Name"])
        ids = self.table["synthetic_id"]
        self._row_of = dict(zip(ids, range(len(ids)), strict=True))
        # A draw takes from plain lists, since a row of a table costs as much as reading an image.
        self._columns: dict[str, Any] = {c: self.table[c].to_list() for c in self.table.columns}
        numbers = [name for name, kind in self.about["labels"].items() if kind == "number"]
        self._numbers = {name: self.table[name].to_numpy(float) for name in numbers}
        self._matches: dict[tuple[tuple[str, str], ...], np.ndarray] = {}
        self._layouts: dict[bytes, Layout] = {}

    @classmethod
    def fill(
        cls,
        path: str | Path,
        sampler: Sampler,
        labels: Sequence[Mapping[str, Any]],
        seed: int,
        *,
        steps: int = 20,
        guidance: float = 1.0,
        filters: Sequence[Callable[[tio.Subject], str | None]] = (),
        progress: bool = False,
    ) -> SampleBank:
        """Make a sample for each of the labels, or go on with a bank that was begun.

        Any number of processes may fill one bank with the same call, and any may be killed. The
        samples are the same for any number of processes, and a finished one is not made again.
        Sample k depends on the sampler, label k and (seed, k) alone, so that a longer list of
        labels that begins the same extends the bank.

        Args:
            path: Folder to fill.
            sampler: What makes the samples.
            labels: One a sample, for example ``[{"sex": "F", "age": 70}]``.
            seed: Decides all samples.
            steps: Of the sampler.
            guidance: Of the sampler.
            filters: Each takes a subject and gives the reason to reject it, or ``None``. What they
                rejected stands in ``rejected.tsv``; another is made in its place, at most 32 times.
                Whom the ``record`` of a filter names, or that of ``labels`` of a quota
                (``leakage.provenance``), has a part in the bank.
            progress: Show a progress bar.
        """
        Filling(Path(path), sampler, labels, seed, steps, guidance, filters).run(progress)
        return cls(path)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"SampleBank {self.name!r}: {len(self)} samples, {self._offer()}"

    def __reduce__(self) -> tuple[Any, ...]:
        # To another process goes the path, not the table.
        return functools.partial(SampleBank, tolerance=self.tolerance), (str(self.path),)

    @property
    def uri(self) -> str:
        """The folder."""
        return str(self.path)

    @property
    def record(self) -> dict[str, Any]:
        """Who had a part in its making."""
        return dict(self.about["provenance"])

    def check_disjoint(self, cohort: Cohort, *, voxels: bool = True) -> None:
        """Raise ``LeakageError`` if a subject of the cohort had a part in its making.

        ``voxels`` compares images too, which finds subjects under new names; each image is read.
        """
        leakage.check_disjoint(self.record, cohort, voxels=voxels)

    def draw(self, labels: Mapping[str, Any], seed: int) -> tio.Subject:
        """Draw one of the samples that have all the given labels; equal seeds draw the same.

        Labels with a missing value (``None``, ``""``, NaN) are not asked for.
        """
        candidates = self._candidates(labels)
        # Far quicker than a random generator, and the same in all versions of all libraries.
        number = hashlib.blake2b(str(int(seed)).encode(), digest_size=8).digest()
        return self._subject(int(candidates[int.from_bytes(number, "big") % len(candidates)]))

    def replay(self, synthetic_id: str) -> tio.Subject:
        """The sample of this ``synthetic_id``, such as ``syn000001``."""
        return self._subject(self._row(synthetic_id))

    def subjects(self) -> list[tio.Subject]:
        """All samples; images are read when they are first used."""
        import torchio as tio

        subjects = []
        for row, name in enumerate(self._columns["synthetic_id"]):
            paths = self._paths(row)
            if absent := [path for path in paths.values() if not Path(path).is_file()]:
                raise InputError(_broken(name, absent[0], "absent"))
            scans = {i: tio.ScalarImage(path, verify_path=False) for i, path in paths.items()}
            subjects.append(tio.Subject(**scans, **self._keys(row)))
        return subjects

    def verify(self, *, progress: bool = False) -> list[str]:
        """Compare every image and sidecar with the table, and list what does not fit."""
        from rich.progress import track

        problems = []
        for row in track(range(len(self)), "Verifying", disable=not progress):
            name = self._columns["synthetic_id"][row]
            for image, path in self._paths(row).items():
                try:
                    content = Path(path).read_bytes()
                    sidecar = bids.read_json(Path(path).with_suffix(".json"))
                except OSError as error:
                    problems.append(_broken(name, path, str(error.strerror).lower()))
                except InputError as error:
                    problems.append(f"sample {name}: {error}")
                else:
                    checksum = self._columns[f"{image}_sha256"][row]
                    if hashlib.sha256(content).hexdigest() != checksum:
                        problems.append(_broken(name, path, "not what was written"))
                    if sidecar.get("Seed") != self._columns["seed"][row]:
                        problems.append(f"sample {name}: its sidecar tells another seed")
        named = {f"sub-{name}" for name in self._row_of}
        strange = sorted({p.name for p in self.path.glob("sub-*")} - named)
        return problems + [f"{self.path / name} is not in participants.tsv" for name in strange]

    def digest(self) -> str:
        """One hash over the sampler, the settings and all samples; equal for equal banks."""
        made = {key: self.about[key] for key in ("format", "sampler", "settings")}
        digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
        for name in ("participants.tsv", "rejected.tsv"):
            path = self.path / name
            digest.update(path.read_bytes() if path.is_file() else b"")
        return digest.hexdigest()

    def _read_table(self) -> pd.DataFrame:
        path = self.path / "participants.tsv"
        try:
            table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
            table = table.replace("n/a", "")
            table["seed"] = table["seed"].astype(np.int64)
            for name, kind in self.about["labels"].items():
                if kind == "number":
                    table[name] = pd.to_numeric(table[name])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} cannot be read ({error}); fill the bank again") from None
        if table.empty:
            raise InputError(f"{self.path} is an empty bank; fill it with `neuromix generate`")
        return table

    def _candidates(self, labels: Mapping[str, Any]) -> np.ndarray:
        """Rows of the samples that have these labels."""
        asked = {name: value for name, value in labels.items() if known(value)}
        for name in asked:
            if name not in self.labels:
                raise InputError(f"the bank has no label {name!r}; it has {self._offer()}")
        kinds = self.about["labels"]
        exact = tuple((k, str(v)) for k, v in asked.items() if kinds[k] != "number")
        if exact not in self._matches:
            fits = np.ones(len(self), bool)
            for name, value in exact:
                fits &= (self.table[name] == value).to_numpy()
            self._matches[exact] = np.flatnonzero(fits)
        rows = self._matches[exact]
        for name in asked:
            if kinds[name] == "number":
                try:
                    distance = np.abs(self._numbers[name][rows] - float(asked[name]))
                except (TypeError, ValueError):
                    raise InputError(f"{name} {asked[name]!r} is no number; give one") from None
                rows = rows[distance <= self.tolerance]
        if not len(rows):
            raise InputError(f"no sample has {asked}; the bank has {self._offer()}")
        return rows

    def _offer(self) -> str:
        """The labels and their values, for messages."""
        texts = []
        for name, kind in self.about["labels"].items():
            values = self.table[name]
            if kind == "number":
                texts.append(f"{name} {values.min():g} to {values.max():g}")
            else:
                counts = values[values != ""].value_counts().sort_index().head(10)
                texts.append(f"{name} " + ", ".join(f"{v} ({n})" for v, n in counts.items()))
        return "; ".join(texts) or "no labels"

    def _row(self, synthetic_id: str) -> int:
        try:
            return self._row_of[synthetic_id]
        except KeyError:
            raise InputError(
                f"{self.path} has no sample {synthetic_id!r}; it has {self.table.synthetic_id[0]} "
                f"to {self.table.synthetic_id.iloc[-1]}"
            ) from None

    def _keys(self, row: int) -> dict[str, Any]:
        """The keys of a subject: those of a cohort's subjects, and the labels of the bank."""
        name = self._columns["synthetic_id"][row]
        keys: dict[str, Any] = {
            column: self._columns[column][row] if column in self.labels else ""
            for column in dict.fromkeys((*COLUMNS, *self.labels))
        }
        keys |= {"dataset": self.name, "subject_id": name}
        if "age" not in self.labels:
            keys["age"] = math.nan
        return {**keys, "synthetic": True, "synthetic_id": name, "origin": self.uri}

    def _paths(self, row: int) -> dict[str, str]:
        """The image files of a sample."""
        name = self._columns["synthetic_id"][row]
        space = self.about.get("space", SPACE)  # which older banks did not tell
        run = tuple([self._columns[key][row] if key in self.labels else "" for key in bids.RUN])
        return {
            image: f"{self.path}/{_place(image, space, run).replace(ANY, name)}"
            for image in self.images
            if self._columns[f"{image}_sha256"][row]
        }

    def _subject(self, row: int) -> tio.Subject:
        import torchio as tio

        scans = {}
        for image, path in self._paths(row).items():
            try:
                tensor, affine = self._read(path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                name = self._columns["synthetic_id"][row]
                raise InputError(_broken(name, path, reason.lower())) from None
            scans[image] = tio.ScalarImage(tensor=tensor, affine=affine)
        return tio.Subject(**scans, **self._keys(row))

    def _read(self, path: str) -> tuple[torch.Tensor, np.ndarray]:
        """Voxels (C, X, Y, Z) and affine of an image.

        The voxels stay in the order of the file, x fastest, as TorchIO leaves them too.
        """
        import torch

        raw = np.fromfile(path, dtype="<f4")
        header = raw[: HEADER // 4].tobytes()
        layout = self._layouts.get(header)
        if layout is None:  # all images of a sampler have one header
            layout = self._layouts[header] = _layout(header)
        voxels = raw[layout.offset // 4 :]
        if voxels.size != math.prod(layout.shape):
            raise ValueError(f"truncated to {raw.nbytes} bytes")
        volume = torch.from_numpy(voxels).view(layout.shape[::-1])
        if len(layout.shape) == 3:
            return volume.permute(2, 1, 0)[None], layout.affine
        return volume.permute(0, 3, 2, 1), layout.affine


def _about(folder: Path) -> dict[str, Any]:
    """The content of ``bank.json``, if this version can read the bank."""
    path = folder / "bank.json"
    if not path.is_file():
        raise InputError(f"{folder} is no bank of samples; fill one with `neuromix generate`")
    about = bids.read_json(path)
    if about.get("format") != FORMAT:
        raise InputError(
            f"{folder} is a bank of format {about.get('format')}, this version reads {FORMAT}; "
            "fill a new one, or install the neuromix that made it"
        )
    made_by = about["sampler"]
    kind = SAMPLERS.get(made_by["class"])
    if kind is not None and kind.version != made_by["version"]:
        raise InputError(
            f"{folder} was filled by version {made_by['version']} of {made_by['class']}, here is "
            f"{kind.version}; fill a new one, or install the neuromix that made it"
        )
    if "images" not in about:
        raise InputError(f"{folder} is not finished; run the same fill again to go on")
    return about


@functools.lru_cache(maxsize=1024)
def _place(image: str, space: str, run: tuple[str, ...]) -> str:
    return location(ANY, image, space, dict(zip(bids.RUN, run, strict=True)))


def _layout(header: bytes) -> Layout:
    """Read a NIfTI header; whatever is not ours is a ``ValueError``."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        read = Nifti1Header.from_fileobj(io.BytesIO(header), check=False)
        if read["sizeof_hdr"] != 348 or read.get_data_dtype() != np.dtype("<f4"):
            raise ValueError("not float32")
        offset, shape = int(read.get_data_offset()), tuple(map(int, read.get_data_shape()))
    except (HeaderDataError, WrapStructError) as error:
        raise ValueError(f"no NIfTI image, {error}") from None
    return Layout(offset, shape, read.get_best_affine())


def _broken(name: str, path: str, reason: str) -> str:
    return f"sample {name} is broken ({reason}): {path}; delete its folder and fill the bank again"
