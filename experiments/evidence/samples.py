"""What ``transfer`` and ``settings`` add to real maps: samples of one sampler and of one Gaussian.

Both are fitted to the same subjects and asked for the same labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data import leakage, origin
from neuromix.augment.data.cohort import COLUMNS, Cohort, label_rows
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.split import natural
from neuromix.augment.tiled.config import PRESETS, TiledMDConfig
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.dementia import DementiaClassifier
from neuromix.classifiers.sex import SexClassifier
from neuromix.experiments.evidence.arms import ARMS, GAUSSIAN, SYNTHETIC, Arm
from neuromix.experiments.evidence.comparison import fill_bank, fit_sampler
from neuromix.experiments.evidence.configs import Mixing
from neuromix.experiments.frame.figures import label_text
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import CEILING, Roles
from neuromix.experiments.quality.baselines import PCAGaussian, inside_space

_OF_SAMPLER = tuple(name for name, arm in ARMS.items() if arm.source == SYNTHETIC)
AUGMENTATION = Roles(
    "real",
    ("real", "classical", "gaussian"),
    _OF_SAMPLER,
    tuple(name for name in _OF_SAMPLER if ARMS[name].real),
    CEILING,
)
"""Of the arms that add samples to real subjects."""
PICTURED = 4
"""Subjects of each kind that are kept for the pictures."""
SOLVER_STEPS = 20

Labels = dict[str, Any]
Requests = Callable[[LabelSpace, int], list[Labels]]
"""So many labels that a sampler of a label space is asked for."""


@dataclass(frozen=True)
class Material:
    """What all arms of a comparison share: real subjects, and samples by their source."""

    train: Sequence[tio.Subject]
    validation: Sequence[tio.Subject]
    test: Sequence[tio.Subject]
    samples: dict[str, list[tio.Subject]]

    def training_set(self, arm: Arm) -> list[tio.Subject]:
        """The subjects that an arm trains on."""
        count = round(arm.ratio * len(self.train))
        samples = self.samples[arm.source][:count] if count else []
        return [*(self.train if arm.real else ()), *samples]


def sampler_config(config: Mixing) -> TiledMDConfig:
    """The sampler's settings, by those of an experiment."""
    preset = PRESETS[config.sampler]
    training = replace(preset.training, seed=config.seed)
    if config.sampler_steps is not None:
        every = min(training.validate_every, config.sampler_steps)
        training = replace(
            training, steps=config.sampler_steps, validate_every=every, checkpoint_every=every
        )
    return replace(preset, training=training, labels=config.labels, image=config.image)


def make_material(
    run: Run,
    name: str,
    config: Mixing,
    train: Cohort,
    validation: Cohort,
    test: Sequence[tio.Subject],
    requests: Requests,
    tests: Sequence[Cohort],
    sampler_train: Cohort | None = None,
) -> Material:
    """Real subjects, and samples of each source that the arms need; some are kept as pictures.

    Sampler and Gaussian are fitted to ``sampler_train``, by default the training subjects; nobody
    in ``tests`` may have had a part in them.
    """
    counts = needs(config.arms, len(train))
    learnt = train if sampler_train is None else sampler_train
    samples = draw_samples(run, name, learnt, validation, config, requests, tests, counts)
    material = Material(train.subjects(), validation.subjects(), test, samples)
    keep_pictures(run, name, material, config.image)
    return material


def draw_samples(
    run: Run,
    name: str,
    cohort: Cohort,
    validation: Cohort,
    config: Mixing,
    requests: Requests,
    tests: Sequence[Cohort],
    counts: Mapping[str, int],
) -> dict[str, list[tio.Subject]]:
    """So many samples of each source, ``counts``; what was made before is only read.

    Labels of a smaller number of samples are the first ones of a larger number.
    """
    if not counts:
        return {}
    sampler = fit_sampler(
        run, name, TiledMDSampler, cohort, sampler_config(config), validation, tests
    )
    sampler.set_progress_bar_config(disable=True)
    sampler.to("cuda" if torch.cuda.is_available() else "cpu")
    wanted = requests(sampler.label_space, max(counts.values()))
    samples = {}
    if SYNTHETIC in counts:
        bank = fill_bank(
            run, name, lambda: (sampler, wanted[: counts[SYNTHETIC]]), config.seed,
            steps=SOLVER_STEPS, guidance=config.guidance,
        )  # fmt: skip
        samples[SYNTHETIC] = SampleBank(bank).subjects()
    if GAUSSIAN in counts:
        samples[GAUSSIAN] = gaussian_samples(
            cohort, wanted[: counts[GAUSSIAN]], sampler.grid.affine, config.seed, config.image
        )
    return samples


def gaussian_samples(
    cohort: Cohort, wanted: Sequence[Labels], affine: np.ndarray, seed: int, image: str = "md"
) -> list[tio.Subject]:
    """Samples of the cheap generator, :class:`PCAGaussian`."""
    fitted = PCAGaussian().fit(cohort.volumes(image), label_rows(cohort))
    made_by = origin.remember(leakage.provenance([cohort]))
    samples = []
    for k, labels in enumerate(wanted):
        volume = fitted.draw([labels], [(1 + seed) * 1_000_000 + k])[0]
        name = f"gauss{k + 1:06d}"
        keys: Labels = dict.fromkeys(COLUMNS, "") | {"age": float("nan")}
        keys |= {"dataset": "PCA-Gaussian", "subject_id": name, **labels}
        scan = tio.ScalarImage(tensor=torch.from_numpy(volume[None]), affine=affine)
        marks = {"synthetic": True, "synthetic_id": name, "origin": made_by}
        samples.append(tio.Subject({image: scan, **keys, **marks}))
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


def sex_or_dementia(target: str, **options: Any) -> VolumeClassifier:
    """A fresh classifier of the target."""
    return {"sex": SexClassifier, "dementia": DementiaClassifier}[target](**options)


def keep_pictures(run: Run, name: str, material: Material, image: str = "md") -> None:
    """Keep some real subjects, and samples of the same sex and diagnosis, for the report."""
    real = list(material.train[:PICTURED])
    content: dict[str, Any] = {"real": _volumes(real, image), "affine": real[0][image].affine}
    content["image"] = image
    content["titles"] = np.array([label_text(subject) for subject in real])
    for source, samples in material.samples.items():
        free = list(samples)
        chosen = []
        for subject in real[: len(free)]:
            names = ("sex", "diagnosis")
            best = max(free, key=lambda s: sum(s[n] == subject[n] for n in names))
            free = [s for s in free if s is not best]
            chosen.append(best)
        content[source] = _volumes(chosen, image)
        content[f"{source} titles"] = np.array([label_text(subject) for subject in chosen])
    path = run.folder / "pictures" / f"{name}.npz"
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **content)


def pictures_of(run: Run) -> list[Path]:
    """The files that :func:`keep_pictures` wrote."""
    return sorted((run.folder / "pictures").glob("*.npz"), key=lambda path: natural(path.stem))


def _volumes(subjects: Sequence[tio.Subject], image: str) -> np.ndarray:
    return np.stack([subject[image].data[0].float().numpy() for subject in subjects])
