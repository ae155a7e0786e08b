"""How every sampler is fitted: who and what it is fitted with, and what is kept of that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from accelerate import PartialState

from neuromix.augment import files
from neuromix.augment.data import leakage
from neuromix.augment.data.digests import Content, digest_of
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.data.split import require_apart
from neuromix.augment.diffusion.loop import TrainConfig, Trained, TrainingSet, train
from neuromix.augment.diffusion.objectives import Objective
from neuromix.augment.diffusion.pipeline import Saved
from neuromix.augment.diffusion.precision import precision_of
from neuromix.augment.errors import InputError
from neuromix.augment.software import commit

if TYPE_CHECKING:
    from neuromix.augment.data.cohort import Cohort

NAMES = ("train", "validation")


class ImageSet:
    """Images on disk, (N, 1, ...), to train an autoencoder with."""

    def __init__(self, path: Path) -> None:
        self.images = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.images)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """Images (B, 1, ...)."""
        return {"images": torch.from_numpy(np.stack([self.images[k] for k in indices])).float()}


@dataclass
class Job:
    """One call of ``fit``, for whatever of it a sampler does in its own way."""

    cohorts: list[Cohort]
    """Training subjects and, if any, those that choose the best step."""
    config: Any
    work: Path
    """For what is fitted, encoded and trained; a fit that was killed goes on from it."""
    resume: bool = True
    progress: bool = False
    made_from: dict[str, Any] = field(default_factory=dict)
    """What data and code :meth:`keep` has found."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the cohorts, for files."""
        return NAMES[: len(self.cohorts)]

    def keep(
        self,
        settings: Mapping[str, Any],
        images: Sequence[str],
        cohorts: Sequence[Cohort] | None = None,
    ) -> None:
        """See :func:`keep_settings`; in the main process first."""
        self.made_from = keep_settings(
            settings, cohorts or self.cohorts, images, self.work, self.resume, self.progress
        )

    def arrays(self, write: Callable[[int, Path], Any], stem: str = "") -> list[Path]:
        """An array on disk for each cohort, which ``write`` makes by its number where it lacks."""
        paths = [self.work / f"{stem}{name}.npy" for name in self.names]
        with PartialState().main_process_first():  # the others find what it has written
            for k, path in enumerate(paths):
                if not path.is_file():
                    write(k, path)
        return paths

    def train(
        self, objective: Objective, sets: Sequence[TrainingSet], config: TrainConfig,
        part: str = "", early: int = 0,
    ) -> Trained:  # fmt: skip
        """Train on the first set, and by the second, if there is one, choose the best step."""
        return train(
            objective,
            sets[0],
            config,
            self.work / part,
            validation=sets[1] if len(sets) > 1 else None,
            resume=self.resume,
            progress=self.progress,
            early=early,
        )

    def record(
        self, voxels: Iterable[str], begun_from: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """Who had a part: the cohorts, digests of their images, and makers of earlier weights."""
        own = leakage.provenance(self.cohorts, [*voxels])
        return leakage.merge([own, *begun_from]) | self.made_from


class Trainable(Saved):
    """A pipeline with ``fit``; mixed into a ``DiffusionPipeline``, before its other parts."""

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        config: Any,
        folder: str | Path,
        *,
        validation: Cohort | None = None,
        resume: bool = True,
        progress: bool = False,
    ) -> tuple[Self, Trained]:
        """Fit on the training subjects of a split, and save the result in a folder.

        Args:
            cohort: Training subjects; no other subject's image is looked at.
            config: One of ``PRESETS`` in the ``config`` beside the class, or one's own.
            folder: For the pipeline and, in ``work``, its latents and checkpoints.
            validation: Subjects that choose the best step.
            resume: Go on where an earlier call was stopped.
            progress: Show progress bars.

        Returns:
            The pipeline and what the training came to.
        """
        # What the machine can't do is refused before minutes go into statistics.
        precision_of(config.training.precision, PartialState().device.type)
        job = Job(apart(cohort, validation), config, Path(folder) / "work", resume, progress)
        fitted, trained, record = cls._fit(job)
        record["config"] = asdict(config)
        record["trained"] = {
            "best_step": trained.best_step,
            "validation": trained.validation,
            "precision": trained.precision,
        }
        pipeline: Any = fitted
        pipeline.register_to_config(provenance=record)
        pipeline.save_pretrained(folder)
        pipeline.register_to_config(_name_or_path=str(Path(folder).resolve()))
        return fitted, trained

    @classmethod
    def _fit(cls, job: Job) -> tuple[Self, Trained, dict[str, Any]]:
        """The pipeline, what the training came to, and the record of the fit."""
        raise NotImplementedError


def apart(train: Cohort, validation: Cohort | None) -> list[Cohort]:
    """The training subjects and the validation subjects, if there are any; nobody may be both."""
    if validation is None:
        return [train]
    require_apart({"training": train, "validation": validation})
    return [train, validation]


def keep_settings(
    settings: Mapping[str, Any],
    cohorts: Sequence[Cohort],
    images: Sequence[str],
    work: Path,
    resume: bool,
    progress: bool = False,
) -> dict[str, Any]:
    """See to it that a fit goes on with what was made of the same data, settings and version.

    Other settings and other people are refused: they are another fit. If the images, the labels or
    the version are not what they were, everything is made anew.

    ``settings`` are all that decides a fit of the cohorts' ``images``; ``progress`` says in a line
    what is reused, or made anew and why. Returns digests of the cohorts as ``data``, and the
    ``commit``, for the record of the fit.
    """
    looked = [Content.of(cohort, images) for cohort in cohorts]
    contents = dict(zip(("train", "validation"), looked, strict=False))
    made_from = {"data": {k: each.digest for k, each in contents.items()}, "commit": commit()}
    if not PartialState().is_main_process:  # the others find what it has left
        return made_from
    people = sorted({subject_hash(*key) for cohort in cohorts for key in cohort.subject_keys})
    settings = dict(settings) | {"people": f"{len(people)} ({digest_of(people)[:8]})"}
    now = json.loads(json.dumps(settings))
    now |= {"neuromix": version("neuromix")}
    now |= {"data": {name: content.to_dict() for name, content in contents.items()}}
    path = work / "settings.json"
    there = [part for part in work.iterdir() if part != path] if work.is_dir() else []
    before = json.loads(path.read_text()) if path.is_file() else {}
    if resume and there and before:
        odd = [name for name in settings if name in before and now[name] != before[name]]
        if odd:
            raise InputError(
                f"{work} holds a training with {odd[0]} {before[odd[0]]!r}, and "
                f"{now[odd[0]]!r} came; name another folder, or train without resuming"
            )
    why = _change(before, now, contents) if resume else "it is not to be resumed"
    if there and progress:
        done = f"made anew, {why}" if why else "goes on: data, settings and version are the same"
        print(f"{work}: {done}", flush=True)
    if why:
        for part in there:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink()
        files.write_json(path, now)
    return made_from


def _change(
    before: Mapping[str, Any], now: Mapping[str, Any], contents: Mapping[str, Content]
) -> str:
    """Why nothing of a fit can be reused, or ``""``."""
    if before.get("data", {}).keys() != contents.keys():
        return "it was made by an older neuromix, or of other parts of the data"
    if before["neuromix"] != now["neuromix"]:
        return f"neuromix {before['neuromix']} made it and this is {now['neuromix']}"
    for name, content in contents.items():
        if why := content.change(Content.from_dict(before["data"][name]), f"the {name} subjects"):
            return why
    return "" if before == now else "its settings changed"
