"""Cohort: labelled images by subject and session, read from a BIDS folder or a table.

A cohort is a table and opens no image. Its rows are subject-sessions (where a session holds several
BOLD runs, a row per run) with the columns

- ``dataset, subject_id, session_id`` and ``task, dir, run, chunk``, which together name a row,
- ``site, age, sex, diagnosis``, as :mod:`neuromix.augment.data.conditions` understands them,
- ``<image>_path`` for every image, absolute,
- and whatever else the participants file says, as text.

A value that is missing is ``""``, and NaN for age.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from neuromix.augment import files
from neuromix.augment.data import bids, labels, origin
from neuromix.augment.data import split as splitting
from neuromix.augment.data.conditions import CATEGORIES
from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    import torchio as tio

    from neuromix.augment.data.checks import Problem
    from neuromix.augment.data.grid import Grid

KEY = ("dataset", "subject_id", "session_id", *bids.RUN)
COLUMNS = (*KEY[:3], *labels.LABELS, *bids.RUN)


@dataclass(frozen=True, eq=False, repr=False)
class Cohort:
    """Labelled images of subjects; see the module for the columns.

    Args:
        table: At least ``subject_id`` and one ``<image>_path`` column; the rest may be absent.
        name: What reports call it; by default the names of its datasets.
    """

    table: pd.DataFrame
    name: str = ""

    def __post_init__(self) -> None:
        given = self.table
        paths = [column for column in given.columns if str(column).endswith("_path")]
        if "subject_id" not in given.columns or not paths:
            raise InputError(
                f"a cohort needs subject_id and an <image>_path column; got {list(given.columns)}"
            )
        others = [c for c in given.columns if c not in COLUMNS and c not in paths]
        table = given.reset_index(drop=True).reindex(columns=[*COLUMNS, *paths, *others])
        ages = table["age"].astype(float)
        table = table.astype(object).where(table.notna(), "").astype(str).replace("n/a", "")
        table["age"] = ages
        if "dataset" not in given.columns:
            table["dataset"] = self.name
        if (table["subject_id"] == "").any():
            row = int((table["subject_id"] == "").argmax()) + 1
            raise InputError(f"row {row} has no subject_id; every row needs one")
        for label, allowed in CATEGORIES.items():
            strange = set(table[label].unique()) - {"", *allowed}
            if strange:
                raise InputError(
                    f"{label} {min(strange)!r} is not allowed in a cohort; "
                    f"allowed are {', '.join(allowed)} and nothing"
                )
        object.__setattr__(self, "table", table)
        datasets = (name.removeprefix(splitting.UNNAMED) for name in table["dataset"].unique())
        object.__setattr__(self, "name", self.name or " + ".join(datasets))

    @classmethod
    def from_bids(
        cls,
        root: str | Path,
        images: Sequence[str] | None = None,
        codings: labels.Codings | None = None,
        columns: labels.Columns | None = None,
        **entities: str | Collection[str],
    ) -> Cohort:
        """Read a BIDS dataset, raw or derivative.

        Labels come from ``participants.tsv`` (with a ``session_id`` column if they differ by
        session) and, before that, from each subject's ``sessions.tsv``; what codes mean from the
        Levels in ``participants.json``. A derivative that lies in the ``derivatives`` folder of a
        raw dataset takes that dataset's name, and its label files where it has none.

        Args:
            root: The dataset's folder.
            images: Such as ``md, bold, t1w`` or any scalar map; by default ``md, bold, fmri, dmri``
                and prepared maps, as far as they occur. :mod:`neuromix.augment.data.bids` says
                which file is which.
            codings: Spellings of labels by label, such as ``{"sex": {"0": "F"}}``.
            columns: Where a label is, if not under a name in ``labels.ALIASES``, such as
                ``{"diagnosis": "group"}``.
            **entities: Only files with this entity, such as ``space="MNI152NLin6Asym"``; several
                labels are alternatives, and ``""`` means that the name lacks the entity.
        """
        root = Path(root).resolve()
        images = [images] if isinstance(images, str) else images
        chosen, names = bids.find(root, images, entities)
        rows = pd.DataFrame(
            bids.join_runs(chosen, names),
            columns=["subject_id", "session_id", *bids.RUN, *(f"{name}_path" for name in names)],
        )
        source = bids.source_of(root)
        home = root if (root / "participants.tsv").is_file() else source
        table = labels.attach(rows, home, codings or {}, columns or {})
        table["dataset"] = bids.title_of(source) or bids.plain(source.name)
        return cls(table)

    @classmethod
    def from_table(
        cls,
        path: str | Path,
        images: Mapping[str, str] | None = None,
        codings: labels.Codings | None = None,
        columns: labels.Columns | None = None,
        dataset: str = "",
    ) -> Cohort:
        """Read a CSV or TSV with a row per subject-session.

        Which dataset a person is of says the table's column ``dataset``, else the argument, else
        the ``Name`` in a ``dataset_description.json`` beside the table. The name of the file says
        nothing: two tables of one study often hold the same people. Where none of these tells it,
        the table can't be compared with another.

        Args:
            path: The table. Paths in it are relative to its folder.
            images: Image name to the column of its paths, such as ``{"t1": "t1_path"}``; by default
                every column ``NAME_path``.
            codings: As in :meth:`from_bids`.
            columns: As in :meth:`from_bids`; ``subject_id`` and ``session_id`` may be named, too.
            dataset: Name of the study, for rows that tell none.
        """
        path = Path(path).resolve()
        raw = bids.read_table(path)
        columns = columns or {}
        if images is None:
            paths = [column for column in raw.columns if column.endswith("_path")]
            images = {column.removesuffix("_path"): column for column in paths}
        if not images:
            raise InputError(
                f"{path} has no column of image paths; it has {', '.join(raw.columns)}; add one "
                "such as t1_path, or name it with Cohort.from_table(path, images={'t1': 'its "
                "column'})"
            )
        absent = [c for c in (*images.values(), *columns.values()) if c not in raw.columns]
        if absent:
            raise InputError(f"{path} has no column {absent[0]!r}; it has {', '.join(raw.columns)}")
        table = labels.canonical(raw, codings or {}, columns, {})
        if "subject_id" not in table.columns:
            raise InputError(
                f"{path} has no column {' or '.join(labels.ALIASES['subject_id'])}; "
                f"it has {', '.join(raw.columns)}; name it with columns={{'subject_id': ...}}"
            )
        taken = [c for c in table.columns if c.endswith("_path") or c in images.values()]
        table = table.drop(columns=taken)
        for image, column in images.items():
            table[f"{image}_path"] = [
                os.path.normpath(path.parent / place) if place else "" for place in raw[column]
            ]
        given = table["dataset"] if "dataset" in table.columns else pd.Series("", table.index)
        if dataset and (given != "").all():
            warnings.warn(f"dataset={dataset!r} changes nothing: {path} tells it", stacklevel=2)
        name = dataset or bids.title_of(path.parent) or f"{splitting.UNNAMED}{path.name}"
        return cls(table.assign(dataset=given.where(given != "", name)))

    @classmethod
    def load(cls, path: str | Path, dataset: str = "") -> Cohort:
        """Read what :meth:`save` wrote, or a table like it, as :meth:`from_table` does."""
        # What was saved has settled which column tells a label, others may stand beside it.
        is_saved = set(COLUMNS) <= set(bids.read_table(path).columns)
        columns = {name: name for name in labels.ALIASES} if is_saved else {}
        return cls.from_table(path, columns=columns, dataset=dataset)

    def save(self, path: str | Path) -> None:
        """Write a TSV in which image paths are relative to its folder."""
        folder = Path(path).resolve().parent
        table = self.table.copy()
        for image in self.images:
            column = f"{image}_path"
            table[column] = [os.path.relpath(p, folder) if p else "" for p in table[column]]
        files.write_table(Path(path), table.replace("", "n/a"))

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images, such as ``("md", "t1w")``."""
        paths = (c for c in self.table.columns if c.endswith("_path"))
        return tuple(column.removesuffix("_path") for column in paths)

    @property
    def subject_keys(self) -> list[tuple[str, str]]:
        """Every subject once, as (dataset, subject_id)."""
        people = self.table[["dataset", "subject_id"]].drop_duplicates()
        return list(people.itertuples(index=False, name=None))

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        sessions = len(self.table.drop_duplicates(list(KEY[:3])))
        return (
            f"Cohort {self.name!r}: {len(self.subject_keys)} subjects, {sessions} sessions, "
            f"{len(self)} rows, images {', '.join(self.images)}"
        )

    def where(self, mask: Any = None, **values: Any) -> Cohort:
        """Keep some rows: those of a mask, and those with the given values.

        ``cohort.where(cohort.table["age"] > 60, diagnosis=("NC", "AD"), site="A")``
        """
        keep = np.ones(len(self), bool) if mask is None else np.asarray(mask, bool)
        for column, value in values.items():
            self.require_columns([column])
            allowed = [value] if np.isscalar(value) else list(value)
            keep = keep & self.table[column].isin(allowed).to_numpy()
        return Cohort(self.table[keep], self.name)

    def summary(self) -> pd.DataFrame:
        """Count subjects and sessions, with the range of age, by dataset, site, diagnosis, sex."""
        sessions = self.table.drop_duplicates(list(KEY[:3]))
        groups = sessions.groupby(["dataset", "site", "diagnosis", "sex"])
        return groups.agg(
            subjects=("subject_id", "nunique"),
            sessions=("subject_id", "size"),
            age_min=("age", "min"),
            age_max=("age", "max"),
        ).reset_index()

    def grid(self, image: str) -> Grid:
        """The one grid of an image, which every row must have; headers alone are read."""
        import nibabel as nib

        from neuromix.augment.data.grid import Grid

        if image not in self.images:
            raise InputError(
                f"{self.name} has no image {image!r}; it has {', '.join(self.images)}: name one of "
                f"these, or a table with a column {image}_path"
            )
        first: tuple[str, Grid] | None = None
        for path in self.table[f"{image}_path"]:
            if not path:
                raise InputError(f"some subjects have no {image}; drop them with cohort.where(...)")
            scan = nib.load(path)
            x, y, z = scan.shape[:3]
            grid = Grid((x, y, z), scan.affine)
            first = first or (path, grid)
            if grid != first[1]:
                raise InputError(
                    f"{path} has {grid} and {first[0]} has {first[1]}, or they lie elsewhere; "
                    "bring them to one grid with `neuromix prepare`"
                )
        if first is None:
            raise InputError(f"{self.name or 'the cohort'} is empty; name one with subjects")
        return first[1]

    def is_in_mni(self, image: str) -> bool:
        """Whether names, or else the first header, claim MNI152, whose regions and tissues fit."""
        import nibabel as nib

        from neuromix.augment.data.examine import is_in_mni

        paths = [path for path in self.table[f"{image}_path"] if path]
        if bids.space_of(paths) != bids.CUSTOM or not paths:
            return bids.space_of(paths).startswith(bids.MNI)
        return is_in_mni(Path(paths[0]), nib.load(paths[0]).header)

    def volumes(self, image: str) -> np.ndarray:
        """The maps of all rows on their one grid, (N, X, Y, Z) in float32."""
        import nibabel as nib

        from neuromix.augment.data.scans import require_whole

        shape = self.grid(image).shape
        volumes = np.empty((len(self), *shape), np.float32)
        for volume, path in zip(volumes, self.table[f"{image}_path"], strict=True):
            require_whole(Path(path))
            # TorchIO's reader would turn NaN into 0.
            volume[:] = nib.load(path).get_fdata(dtype=np.float32).reshape(shape)
            if not np.isfinite(volume).all():
                raise InputError(f"{path} holds NaN or Inf; mend it or drop the subject")
            signal = volume[volume != 0]
            if not signal.size or signal.min() == signal.max():
                raise InputError(f"{path} is constant where it is not 0; drop the subject")
        return volumes

    def validate(self, *, progress: bool = False) -> list[Problem]:
        """Look into every image and report every problem at once; see :mod:`checks`."""
        from neuromix.augment.data.checks import validate

        return validate(self.table, self.images, progress=progress)

    def subjects(self) -> list[tio.Subject]:
        """A TorchIO subject per row; images are read when they are first used.

        An image that a row lacks has no key; rows with files of a bank, or imputed ones, are marked
        ``synthetic``. Labels that are missing are ``""`` (NaN for age), so that PyTorch can collate
        them.
        """
        import torchio as tio

        from neuromix.augment.data.scans import WholeImage

        self._refuse_duplicates()
        paths = [p for image in self.images for p in self.table[f"{image}_path"] if p]
        absent = [path for path in paths if not Path(path).is_file()]
        if absent:
            hint = f" ({bids.BACKSLASH})" if bids.has_backslash(absent[0]) else ""
            raise InputError(
                f"{len(absent)} of {len(paths)} image files are absent, the first is "
                f"{absent[0]}{hint}; Cohort.validate() lists them all"
            )
        subjects = []
        for row in self.table.to_dict("records"):
            given = {image: row[f"{image}_path"] for image in self.images if row[f"{image}_path"]}
            if not given:
                raise InputError(f"sub-{row['subject_id']} has no image; drop the row")
            scans = {image: WholeImage(path, verify_path=False) for image, path in given.items()}
            labels = {column: row[column] for column in COLUMNS}
            # A bank that is loaded as any other dataset stays known for what it is.
            names = [Path(path).name for path in given.values()]
            made = any(origin.SAMPLE in name for name in names)
            filled = [name for name in names if origin.IMPUTED in name]
            marks = {
                "synthetic": made or bool(filled),
                "synthetic_id": row["subject_id"] if made else ";".join(filled),
                "origin": origin.of_files(given.values()),
            }
            subjects.append(tio.Subject(**scans, **labels, **marks))
        return subjects

    def dataset(self, transform: Any = None) -> tio.SubjectsDataset:
        """The subjects as a PyTorch dataset; use it with ``tio.SubjectsLoader``."""
        import torchio as tio

        return tio.SubjectsDataset(self.subjects(), transform=transform)

    def split(
        self,
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        *,
        stratify: Sequence[str] = ("sex", "diagnosis"),
        seed: int = 0,
        separate_sites: bool = False,
    ) -> Split:
        """Part the subjects into train, val and test.

        A subject, (dataset, subject_id), stays in one part with all its sessions. The split
        does not depend on the order of rows.

        Args:
            fractions: Shares of the subjects in train, val and test, rounded by largest remainder;
                a share above zero gets at least one subject.
            stratify: Columns whose values, as they stand in a subject's last session, are spread
                evenly: no combination of values is a whole subject or more away from its share.
            seed: Another seed gives another split.
            separate_sites: Keep each site in one part, and sites that share a subject together; the
                fractions and strata are then met as well as whole sites allow.
        """
        self._refuse_duplicates()
        stratify = [stratify] if isinstance(stratify, str) else stratify
        self.require_columns(stratify)
        if seed < 0:
            raise InputError(f"seed {seed} is negative; give 0 or more")
        shares = np.asarray(fractions, float)
        if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
            raise InputError(
                f"fractions {fractions} do not fit; three numbers from 0 to 1 that sum to "
                "1 are needed, such as (0.7, 0.15, 0.15)"
            )
        table = self.table
        ranks = {
            s: i for i, s in enumerate(sorted(set(table["session_id"]), key=splitting.natural))
        }
        table = table.assign(session_id=table["session_id"].map(ranks)).sort_values(list(KEY))
        subjects = table.groupby(["dataset", "subject_id"]).ngroup()
        last = table[~subjects.duplicated(keep="last")]
        strata = np.zeros(len(last), int)
        if stratify:
            strata = last.groupby(list(stratify), dropna=False).ngroup().to_numpy()
        rng = np.random.default_rng(seed)
        if separate_sites:
            if (table["site"] == "").any():
                raise InputError("some rows have no site; fill it in or leave separate_sites out")
            sites = table.groupby(["dataset", "site"]).ngroup().to_numpy()
            groups = splitting.site_groups(subjects.to_numpy(), sites)
            parts = splitting.by_site(groups, strata, shares, rng)
        else:
            parts = splitting.by_subject(strata, shares, rng)
        part_of_row = parts[subjects.sort_index().to_numpy()]
        return Split(*(self.where(part_of_row == part) for part in range(3)))

    def require_columns(self, names: Collection[str]) -> None:
        """Refuse names of columns that the table lacks."""
        for name in names:
            if name not in self.table.columns:
                raise InputError(
                    f"the cohort has no column {name!r}; it has {', '.join(self.table.columns)}"
                )

    def _refuse_duplicates(self) -> None:
        repeated = self.table[self.table.duplicated(list(KEY))]
        if len(repeated):
            key = ", ".join(f"{k} {v!r}" for k, v in repeated.iloc[0][list(KEY)].items() if v)
            raise InputError(f"{len(repeated)} rows occur twice, such as {key}; keep one of each")


class Split(NamedTuple):
    """Three cohorts that share no subject."""

    train: Cohort
    val: Cohort
    test: Cohort

    def save(self, folder: str | Path) -> None:
        """Write ``train.tsv``, ``val.tsv`` and ``test.tsv``."""
        for name, part in self._asdict().items():
            part.save(Path(folder) / f"{name}.tsv")

    @classmethod
    def load(cls, folder: str | Path) -> Split:
        """Read what :meth:`save` wrote; a subject in two parts is refused."""
        split = cls(*(Cohort.load(Path(folder) / f"{part}.tsv") for part in cls._fields))
        # Parts that name no dataset are of one, whatever their files are called.
        one = f"{splitting.UNNAMED}{Path(folder).resolve().name}"
        for part in split:
            datasets = part.table["dataset"]
            part.table["dataset"] = datasets.mask(datasets.str.startswith(splitting.UNNAMED), one)
        splitting.require_apart({f"{name}.tsv": part for name, part in split._asdict().items()})
        return split


def label_rows(cohort: Cohort) -> list[dict[str, Any]]:
    """The labels of each row of a cohort."""
    return [{str(k): v for k, v in row.items()} for row in cohort.table.to_dict("records")]
