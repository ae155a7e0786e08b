"""Arms: ways to make a training set of the same real subjects, and the cells that judge each.

    arm                  real subjects   samples for each of them      mirrored and moved
    real                      yes
    classical                 yes                                                yes
    synthetic-R               yes        R of the diffusion sampler
    synthetic-only                       4 of the diffusion sampler
    synthetic-classical       yes        1 of the diffusion sampler              yes
    gaussian                  yes        1 of a Gaussian in PCA space

All arms of a comparison have the same real subjects, validation subjects, test subjects, number of
optimiser steps and seeds. Samples are nested: those of ratio 1 are the first of ratio 2. The
sampler and the Gaussian are fitted to the same subjects, and asked for the same labels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from rich.progress import track

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data import leakage, origin
from neuromix.augment.data.cohort import COLUMNS, Cohort, label_rows
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.split import natural
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.dementia import DementiaClassifier
from neuromix.classifiers.sex import SexClassifier
from neuromix.experiments.evidence.arm_table import ARMS, GAUSSIAN, SYNTHETIC, Arm, Sampling
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import CEILING, TITLES, Roles
from neuromix.experiments.quality.baselines import PCAGaussian, inside_space

SHOWN = 4
"""Subjects of each kind that are kept for the pictures."""

Labels = dict[str, Any]


TITLES.update({name: arm.title for name, arm in ARMS.items()})
BASELINES = ("real", "classical", "gaussian")
"""What synthetic data has to beat."""
SYNTHETICS = tuple(name for name, arm in ARMS.items() if arm.source == SYNTHETIC)
AUGMENTATION = Roles(
    "real", BASELINES, SYNTHETICS, tuple(n for n in SYNTHETICS if ARMS[n].real), CEILING
)
"""Of the arms that add samples to real subjects."""


@dataclass(frozen=True)
class Material:
    """What all arms of a comparison share.

    Args:
        train: Real subjects that have the label.
        validation: Real subjects that choose the checkpoint.
        test: Real subjects that judge.
        samples: By source, at least as many as the largest ratio asks for.
    """

    train: Sequence[tio.Subject]
    validation: Sequence[tio.Subject]
    test: Sequence[tio.Subject]
    samples: dict[str, list[tio.Subject]]


class Samples:
    """One sampler and one Gaussian of the same subjects, and what they make of the same labels.

    Args:
        run: The run folder that keeps the sampler and its bank.
        name: Of the pair, unique in the run.
        cohort: Subjects that both are fitted to.
        validation: Subjects that choose the sampler's best step.
        sampling: How.
        asked: The labels of so many samples, for a label space; more begin with the same.
        tests: Cohorts that the sampler must not have seen.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        cohort: Cohort,
        validation: Cohort,
        sampling: Sampling,
        asked: Callable[[LabelSpace, int], list[Labels]],
        tests: Iterable[Cohort],
    ) -> None:
        self.run, self.name, self.sampling, self.asked = run, name, sampling, asked
        self.cohort, self.validation, self.tests = cohort, validation, tuple(tests)
        self.folder = run.folder / "samplers" / name

    def draw(self, counts: Mapping[str, int]) -> dict[str, list[tio.Subject]]:
        """So many samples of each source; what was made before is only read."""
        if not counts:
            return {}
        sampler = self._sampler()
        for test in self.tests:
            sampler.check_disjoint(test)
        wanted = self.asked(sampler.label_space, max(counts.values()))
        made = {}
        if SYNTHETIC in counts:
            made[SYNTHETIC] = self._bank(sampler, wanted[: counts[SYNTHETIC]]).subjects()
        if GAUSSIAN in counts:
            made[GAUSSIAN] = gaussian_samples(
                self.cohort, wanted[: counts[GAUSSIAN]], sampler.grid.affine, self.sampling.seed
            )
        return made

    def _sampler(self) -> TiledMDSampler:
        config = self.sampling.config()

        def fit() -> dict[str, Any]:
            self.run.log(f"Sampler {self.name}: {len(self.cohort)} training scans")
            _, trained = TiledMDSampler.fit(
                self.cohort, config, self.folder, validation=self.validation, progress=True
            )
            return {
                "scans": len(self.cohort),
                "best_step": trained.best_step,
                "validation_loss": trained.validation,
                "waiting": trained.waiting * trained.seconds,
            }

        key = {"sampler": self.name}
        if self.run.is_done(key) and not is_sampler(self.folder):
            raise InputError(
                f"{self.folder} holds no sampler any more, and {self.run.folder} needs it; begin "
                "in another folder"
            )
        self.run.cell(key, fit)
        sampler = TiledMDSampler.from_pretrained(self.folder)
        sampler.set_progress_bar_config(disable=True)
        sampler.to("cuda" if torch.cuda.is_available() else "cpu")
        return sampler

    def _bank(self, sampler: TiledMDSampler, wanted: list[Labels]) -> SampleBank:
        folder = self.run.folder / "banks" / self.name
        how = self.sampling

        def fill() -> dict[str, Any]:
            self.run.log(f"Bank {self.name}: {len(wanted)} samples")
            SampleBank.fill(
                folder, sampler, wanted, how.seed, steps=how.steps, guidance=how.guidance,
                progress=True,
            )  # fmt: skip
            return {"samples": len(wanted)}

        self.run.cell({"bank": self.name}, fill)
        return SampleBank(folder)


def gaussian_samples(
    cohort: Cohort, wanted: Sequence[Labels], affine: np.ndarray, seed: int
) -> list[tio.Subject]:
    """Samples of the cheap generator, :class:`PCAGaussian`."""
    volumes = np.stack([subject["md"].data[0].float().numpy() for subject in cohort.subjects()])
    fitted = PCAGaussian().fit(volumes, label_rows(cohort))
    made_by = origin.remember(leakage.provenance([cohort]))
    samples = []
    for k, labels in enumerate(wanted):
        volume = fitted.draw([labels], [(1 + seed) * 1_000_000 + k])[0]
        name = f"gauss{k + 1:06d}"
        keys: Labels = dict.fromkeys(COLUMNS, "") | {"age": float("nan")}
        keys |= {"dataset": "PCA-Gaussian", "subject_id": name, **labels}
        image = tio.ScalarImage(tensor=torch.from_numpy(volume[None]), affine=affine)
        marks = {"synthetic": True, "synthetic_id": name, "origin": made_by}
        samples.append(tio.Subject(md=image, **keys, **marks))
    return samples


def labels_like(cohort: Cohort, space: LabelSpace, count: int, seed: int) -> list[Labels]:
    """The labels of real subjects, each as often as any other give or take one, in random order."""
    rows = [inside_space(space, row) for row in label_rows(cohort)]
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(rows))
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(rounds)])[:count]
    return [rows[k] for k in order]


def needs(arms: Sequence[str], real: int) -> dict[str, int]:
    """By source, how many samples the arms take at most beside so many real subjects."""
    counts: dict[str, int] = {}
    for arm in (ARMS[name] for name in arms if ARMS[name].source):
        counts[arm.source] = max(counts.get(arm.source, 0), round(arm.ratio * real))
    return counts


def run_arms(
    run: Run,
    where: dict[str, Any],
    arms: Sequence[str],
    seeds: int,
    material: Callable[[], Material],
    fit: Callable[[Arm, int, Material], dict[str, Any]],
) -> None:
    """Do the cells of all arms and seeds that are not done yet.

    Args:
        run: The run folder.
        where: What the cells have in common, such as setting and size.
        arms: Names in :data:`ARMS`.
        seeds: Seeds of the classifier.
        material: Makes or reads what the arms share; called once, and only if a cell is to be done.
        fit: Does a cell.
    """
    cells = [{**where, "arm": arm, "seed": seed} for arm in arms for seed in range(seeds)]
    left = [cell for cell in cells if not run.is_done(cell)]
    if not left:
        return
    shared = material()
    what = " ".join(str(value) for value in where.values())
    for cell in track(left, f"Fits, {what}", console=run.console):
        run.cell(cell, functools.partial(fit, ARMS[cell["arm"]], cell["seed"], shared))


def keep_pictures(run: Run, name: str, material: Material) -> None:
    """Keep some real subjects, and samples of the same sex and diagnosis, for the report."""
    real = list(material.train[:SHOWN])
    content: dict[str, Any] = {"real": _volumes(real), "affine": real[0]["md"].affine}
    content["titles"] = np.array([_title(subject) for subject in real])
    for source, samples in material.samples.items():
        free = list(samples)
        chosen = []
        for subject in real[: len(free)]:
            names = ("sex", "diagnosis")
            best = max(free, key=lambda s: sum(s[n] == subject[n] for n in names))
            free = [s for s in free if s is not best]
            chosen.append(best)
        content[source] = _volumes(chosen)
        content[f"{source} titles"] = np.array([_title(subject) for subject in chosen])
    path = run.folder / "pictures" / f"{name}.npz"
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **content)


def pictures_of(run: Run) -> list[Path]:
    """The files that :func:`keep_pictures` wrote."""
    return sorted((run.folder / "pictures").glob("*.npz"), key=lambda path: natural(path.stem))


def name_of(arm: Arm) -> str:
    """Its name in :data:`ARMS`."""
    return next(name for name, each in ARMS.items() if each == arm)


def sex_or_dementia(target: str, **options: Any) -> VolumeClassifier:
    """A fresh classifier of the target."""
    return {"sex": SexClassifier, "dementia": DementiaClassifier}[target](**options)


def _volumes(subjects: Sequence[tio.Subject]) -> np.ndarray:
    return np.stack([subject["md"].data[0].float().numpy() for subject in subjects])


def _title(subject: tio.Subject) -> str:
    age = "" if np.isnan(subject["age"]) else f"{subject['age']:.0f}"
    return " ".join(filter(None, (subject["sex"], age, subject["diagnosis"])))
