"""Filling a bank: many processes at once, any of which may die, and always the same samples.

Slots are claimed in small groups by locks on the bytes of one file, which the system frees when a
process dies. A process that finds a group claimed takes the next one, and in the end waits for the
others and makes what they left. Sample k comes from a seed that is derived from (seed, k), so that
it does not matter who makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neuromix.augment import files
from neuromix.augment.data import bids, leakage
from neuromix.augment.data.cohort import COLUMNS
from neuromix.augment.data.conditions import known
from neuromix.augment.data.grid import SPACE
from neuromix.augment.errors import InputError
from neuromix.augment.source import Sampler

if TYPE_CHECKING:
    import torchio as tio

FORMAT = 1
"""Of a bank's files; grows when older versions could not read them."""
CLAIM = 8
"""Slots of a claim: whole chunks of the samplers, and few enough to be held in memory."""
ATTEMPTS = 32
"""Samples made for a slot before the filters are found too strict."""
BOOKKEEPING = ("participant_id", "synthetic_id", "seed")

PLACES: dict[str, tuple[str, str, dict[str, str]]] = {
    "md": ("dwi", "dwimap", {"desc": "synthetic", "param": "md"}),
    "bold": ("func", "bold", {"desc": "synthetic"}),
    "fmri": ("func", "bold", {"desc": "segments"}),
    "dmri": ("dwi", "dwi", {"desc": "segments"}),
    "t1w": ("anat", "T1w", {"desc": "synthetic"}),
    "dwi": ("dwi", "dwi", {"desc": "synthetic"}),
}
"""Datatype, suffix and entities of an image's name, by which :mod:`bids` knows it; see
:func:`place_of`."""

DESCRIPTIONS = {
    "participant_id": {"Description": "Name of the sample"},
    "age": {"Description": "Age in years that was asked for", "Units": "year"},
    "sex": {
        "Description": "Sex that was asked for",
        "Levels": {"F": "female", "M": "male"},
    },
    "synthetic_id": {"Description": "What replays the sample; real subjects have none"},
    "seed": {"Description": "Seed that the sampler was given"},
}


class Filling:
    """One call of ``SampleBank.fill``, which says what the arguments mean."""

    def __init__(
        self,
        root: Path,
        sampler: Sampler,
        labels: Sequence[Mapping[str, Any]],
        seed: int,
        steps: int,
        guidance: float,
        filters: Sequence[Callable[[tio.Subject], str | None]],
    ) -> None:
        self.root, self.sampler, self.filters = root, sampler, filters
        makers = [sampler, labels, *filters]
        self.makers = [record for maker in makers if (record := getattr(maker, "record", None))]
        self.space = str(sampler.record.get("space", bids.CUSTOM))
        # Labels that are known, as JSON gives them back.
        self.wanted = [{k: _scalar(v) for k, v in row.items() if known(v)} for row in labels]
        if not self.wanted:
            raise InputError("a bank needs samples; give the labels of at least one")
        if seed < 0:
            raise InputError(f"seed {seed} is negative; give 0 or more")
        for name in {name for row in self.wanted for name in row}:
            if name in BOOKKEEPING or name.endswith(("_sha256", "_path")):
                raise InputError(f"a label cannot be called {name!r}, which is a bank's own column")
        self.settings: dict[str, Any] = {
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            # As they show themselves; addresses differ between processes.
            "filters": [re.sub(r" at 0x[0-9a-f]+", "", repr(f)) for f in filters],
        }
        self.made_by = {
            "class": type(sampler).__name__,
            "version": sampler.version,
            "weights": sampler.fingerprint(),
        }
        self.records: dict[int, dict[str, Any]] = {}
        self.failures: dict[int, str] = {}
        """Slots whose samples were all rejected, and the last reason."""

    def run(self, progress: bool) -> None:
        """Make what is absent, wait for the others, and write the tables."""
        from rich.progress import Progress

        self.root.mkdir(parents=True, exist_ok=True)
        groups = [
            list(range(start, min(start + CLAIM, len(self.wanted))))
            for start in range(0, len(self.wanted), CLAIM)
        ]
        with (self.root / ".lock").open("ab") as lock, Progress(disable=not progress) as bar:
            with _claim(lock, 0, wait=True):
                self._begin()
            task = bar.add_task("Filling", total=len(self.wanted))
            for wait in (False, True):
                for number, slots in enumerate(groups, start=1):
                    if self._look(slots):
                        with _claim(lock, number, wait=wait) as is_mine:
                            if is_mine:
                                self._make(self._look(slots))
                    bar.update(task, completed=len(self.records))
            with _claim(lock, 0, wait=True):
                self._finish()

    def _begin(self) -> None:
        """Write ``bank.json``, or compare it with that of an earlier call."""
        path = self.root / "bank.json"
        if not path.is_file():
            require_empty(self.root)
            content = {
                "format": FORMAT,
                "samples": len(self.wanted),
                "space": self.space,
                "sampler": self.made_by,
                "settings": self.settings,
                "provenance": leakage.merge(self.makers),
            }
            files.write_json(path, content)
            return
        stands = bids.read_json(path)
        self.space = stands.get("space", SPACE)  # which older banks did not tell
        fresh = {"format": FORMAT, **self.made_by, **self.settings}
        before = {"format": stands.get("format"), **stands["sampler"], **stands["settings"]}
        require_same(self.root, before, fresh)
        if len(self.wanted) < stands["samples"]:
            raise InputError(
                f"{self.root} was begun for {stands['samples']} samples, now {len(self.wanted)} "
                "are asked for; ask for as many or more, or name another folder"
            )
        grown = stands | {
            "samples": len(self.wanted),
            "provenance": leakage.merge([stands["provenance"], *self.makers]),
        }
        if grown != stands:
            files.write_json(path, grown)

    def _look(self, slots: Sequence[int]) -> list[int]:
        """Take in the records of finished samples, and return the slots that are to be made."""
        for k in slots:
            if k not in self.records and (record := self._finished(k)) is not None:
                self.records[k] = record
        return [k for k in slots if k not in self.records and k not in self.failures]

    def _finished(self, k: int) -> dict[str, Any] | None:
        """What the sidecar says, if all images and sidecars of a sample are there."""
        for sidecar in (self.root / f"sub-{sample_name(k)}").glob("*/*.json"):
            record = bids.read_json(sidecar)
            if record["Labels"] != self.wanted[k]:
                raise InputError(
                    f"sample {sample_name(k)} of {self.root} was made with {record['Labels']}, now "
                    f"{self.wanted[k]} is asked for; name another folder"
                )
            paths = [self.root / image["Path"] for image in record["Images"].values()]
            if all(path.is_file() and path.with_suffix(".json").is_file() for path in paths):
                return record
        return None

    def _make(self, slots: Sequence[int]) -> None:
        """Make and write samples; a slot whose samples are all rejected stays without record."""
        rejected: dict[int, list[dict[str, Any]]] = {k: [] for k in slots}
        steps, guidance = self.settings["steps"], self.settings["guidance"]
        for attempt in range(ATTEMPTS):
            pending = [k for k in slots if k not in self.records]
            if not pending:
                return
            seeds = [derive(self.settings["seed"], k, attempt) for k in pending]
            asked = [self.wanted[k] for k in pending]
            subjects = self.sampler(asked, seeds, steps, guidance)
            for k, number, subject in zip(pending, seeds, subjects, strict=True):
                reason = next((r for f in self.filters if (r := f(subject))), None)
                if reason:
                    rejected[k].append({"Seed": number, "Reason": reason})
                else:
                    self.records[k] = self._write(k, number, subject, rejected[k])
        left = [k for k in slots if k not in self.records]
        self.failures.update({k: rejected[k][-1]["Reason"] for k in left})

    def _write(
        self, k: int, seed: int, subject: tio.Subject, rejected: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Write the images of a sample, then their sidecars."""
        name = sample_name(k)
        for left_over in (self.root / f"sub-{name}").glob("*/.*.tmp"):
            left_over.unlink()  # of a process that was killed, on any machine; the slot is ours
        images = subject.get_images_dict(intensity_only=False)
        keys = {c: _scalar(subject[c]) for c in COLUMNS[3:] if known(subject.get(c))}
        if any(place_of(image)[0] == "func" for image in images):
            keys.setdefault("task", "rest")  # BIDS asks for a task
        record: dict[str, Any] = {
            "SpatialReference": self.space,
            "Synthetic": True,
            "Labels": self.wanted[k],
            "Subject": keys,
            "Seed": seed,
            "Steps": self.settings["steps"],
            "Guidance": self.settings["guidance"],
            "Sampler": self.made_by["class"],
            "WeightsHash": self.made_by["weights"],
            "Images": {},
            "Rejected": rejected,
        }
        for image, scan in images.items():
            path = self.root / location(name, image, self.space, keys)
            data = scan.numpy().astype(np.float32)
            data = data[0] if len(data) == 1 else np.moveaxis(data, 0, -1)
            tr = scan.get("RepetitionTime") if data.ndim == 4 else None
            if image == "bold" and data.ndim == 4 and tr is None:
                raise InputError("the sampler's bold tells no RepetitionTime; BIDS asks for it")
            files.write_nifti(path, data, scan.affine, tr=tr, space=self.space)
            if "events" in scan:
                columns = ["onset", "duration", "trial_type"]
                events = pd.DataFrame(json.loads(scan["events"]), columns=columns)
                run = {key: keys[key] for key in bids.RUN if key in keys}
                place = bids.path_of("func", {"sub": name, **run}, "events", ".tsv")
                files.write_table(self.root / place, events)
            checksum = hashlib.sha256(path.read_bytes()).hexdigest()
            record["Images"][image] = {
                "Path": path.relative_to(self.root).as_posix(), "Sha256": checksum,
            }  # fmt: skip
        for image, scan in images.items():
            own: dict[str, Any] = {"Units": bids.UNITS.get(image, "arbitrary")}
            if place_of(image)[0] == "func":
                own["TaskName"] = keys["task"]
            if "RepetitionTime" in scan:
                own["RepetitionTime"] = scan["RepetitionTime"]
            sidecar = self.root / record["Images"][image]["Path"]
            files.write_json(sidecar.with_suffix(".json"), own | record)
        return record

    def _finish(self) -> None:
        """Write the tables; every process writes the same."""
        for left_over in self.root.glob(".*.tmp"):
            left_over.unlink()  # of a process that was killed; the others wait for the lock
        if self.failures:
            k, reason = next(iter(self.failures.items()))
            raise InputError(
                f"{len(self.failures)} of {len(self.wanted)} samples were rejected {ATTEMPTS} "
                f"times each, such as {sample_name(k)} ({self.wanted[k]}), the last time for: "
                f"{reason}; loosen the filters and fill another folder"
            )
        about = bids.read_json(self.root / "bank.json")
        if about["samples"] > len(self.wanted):
            return  # another process extends the bank, and writes the tables when it is done
        records = [self.records[k] for k in range(len(self.wanted))]
        labels_of_all = [record["Subject"] | record["Labels"] for record in records]
        names = list(dict.fromkeys(name for row in labels_of_all for name in row))
        names.sort(key=lambda name: COLUMNS.index(name) if name in COLUMNS else len(COLUMNS))
        kinds = {}
        for name in names:
            values = [row[name] for row in labels_of_all if name in row]
            is_number = all(isinstance(v, Real) and not isinstance(v, bool) for v in values)
            # Of a cohort's own columns, only age is a number; a run called 1 is a name.
            is_number = name == "age" or (is_number and name not in COLUMNS)
            kinds[name] = "number" if is_number else "category"
        there = {image for r in records for image in r["Images"]}
        images = [*(name for name in PLACES if name in there), *sorted(there - set(PLACES))]
        samples = [sample_name(k) for k in range(len(records))]
        table = pd.DataFrame(labels_of_all, range(len(records)), names)
        table.insert(0, "participant_id", [f"sub-{name}" for name in samples])
        table["synthetic_id"], table["seed"] = samples, [record["Seed"] for record in records]
        for i in images:
            made = [record["Images"].get(i, {}) for record in records]
            table[f"{i}_sha256"] = [image.get("Sha256") for image in made]
        rejected = [
            {"sample": name, "seed": r["Seed"], "reason": r["Reason"]}
            for name, record in zip(samples, records, strict=True)
            for r in record["Rejected"]
        ]
        if rejected:
            files.write_table(self.root / "rejected.tsv", pd.DataFrame(rejected))
        described: dict[str, Any] = {
            n: DESCRIPTIONS.get(n, {"Description": f"{n}, as asked for"}) for n in map(str, table)
        }
        described |= {
            f"{i}_sha256": {"Description": f"SHA-256 of the {i} image's file"} for i in images
        }
        files.write_json(self.root / "participants.json", described)
        bids.describe(self.root, name=f"neuromix-{self.root.resolve().name}", derivative=True)
        description = bids.read_json(self.root / "dataset_description.json")
        sources = [{"Name": name} for name in about["provenance"].get("datasets", ())]
        files.write_json(
            self.root / "dataset_description.json", description | {"SourceDatasets": sources}
        )
        files.write_table(self.root / "participants.tsv", table)
        files.write_json(self.root / "bank.json", about | {"images": images, "labels": kinds})


def require_empty(folder: Path) -> None:
    """Refuse a folder that holds what somebody else has put there."""
    if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise InputError(f"{folder} holds other files; name an empty or new folder")


def require_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder with other settings than it was filled with."""
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(
                f"{folder} was filled with {name} {before.get(name)}, now {value} is asked for; "
                "name another folder, or delete that one first"
            )


def sample_name(k: int) -> str:
    """Sample ``k``, counted from 0, as banks name it."""
    return f"syn{k + 1:06d}"


def place_of(image: str) -> tuple[str, str, dict[str, str]]:
    """Datatype, suffix and entities of an image; one that has no place of its own is a map."""
    return PLACES.get(image, ("anat", bids.MAP, {"desc": "synthetic", "param": image}))


def location(name: str, image: str, space: str, run: Mapping[str, Any]) -> str:
    """The path of a sample's image inside its bank.

    ``run`` has ``task, dir, run`` and ``chunk``, as far as there are any.
    """
    datatype, suffix, own = place_of(image)
    entities = {"sub": name, "space": space, **own}
    if datatype == "func":
        entities |= {key: str(run[key]) for key in bids.RUN if run.get(key)}
    return bids.path_of(datatype, entities, suffix, ".nii")


def derive(seed: int, k: int, attempt: int) -> int:
    """The sampler's seed for a slot: 53 bits, which JSON holds exactly and few samples share."""
    state = np.random.SeedSequence([seed, k, attempt]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(11))


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


@contextlib.contextmanager
def _claim(lock: IO[bytes], number: int, *, wait: bool) -> Iterator[bool]:
    """Lock byte ``number`` of a file; yields whether it was got, which it is if one waits."""
    import fcntl

    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
    except (BlockingIOError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, number)
