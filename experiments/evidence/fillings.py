"""What takes the place of an image that is lacking: a mean, a regression, a completer's samples.

All models are fitted to those training subjects that lack nothing. Samples are made once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from rich.progress import track

from neuromix.augment import files
from neuromix.augment.completion import seed_of
from neuromix.augment.data import leakage, origin
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import MODALITIES, PRESETS, ModalityConfig, shortened
from neuromix.augment.pds.images import read
from neuromix.experiments.evidence.configs import Hybrid
from neuromix.experiments.quality.completion import without
from neuromix.experiments.quality.completion_baselines import (
    Baseline,
    MeanVolume,
    VoxelwiseRegression,
)

TrainingSets = Mapping[str, Callable[[], list[tio.Subject]]]
"""By arm, what makes its training set."""


def completer_config(config: Hybrid, scans: int) -> ModalityConfig:
    """The completer's settings for so many training scans; a batch holds no more than those."""
    own = shortened(PRESETS[config.completer], config.completer_steps, config.refining_steps)
    training, refining = (
        replace(part, batch_size=min(part.batch_size, scans), seed=config.seed)
        for part in (own.training, own.refining)
    )
    return replace(own, training=training, refining=refining, directions=(config.lacks,))


@dataclass
class Filler:
    """Fills in one modality of some subjects.

    Args:
        want: The modality.
        train: Training subjects that lack nothing.
        completer: Was trained on them.
        folder: Where samples are kept.
        seed: Decides the samples.
    """

    want: str
    train: Sequence[tio.Subject]
    completer: ModalityCompleter
    folder: Path
    seed: int

    @property
    def have(self) -> str:
        """The other modality."""
        return MODALITIES[1 - MODALITIES.index(self.want)]

    def fill_simply(self, way: str, subjects: Sequence[tio.Subject]) -> list[tio.Subject]:
        """The subjects, filled by ``mean`` or ``regression``."""
        pairs = [
            np.stack([read(subject[name], name).numpy() for subject in self.train])
            for name in (self.have, self.want)
        ]
        model: Baseline = MeanVolume() if way == "mean" else VoxelwiseRegression()
        model.fit(*pairs)
        people = filter(None, map(origin.person_of, self.train))
        made_by = origin.remember(leakage.record_of(people))
        sources = (read(subject[self.have], self.have).numpy()[None] for subject in subjects)
        return [
            self._with(subject, model.predict(source)[0], made_by)
            for subject, source in zip(subjects, sources, strict=True)
        ]

    def draw(
        self, name: str, subjects: Sequence[tio.Subject], samples: int, *, by_label: bool = False
    ) -> np.ndarray:
        """K samples (S, K, N, X, Y, Z) of S subjects, made where file ``name`` is not kept yet."""
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            with files.replacing(path) as temporary:
                self._complete(temporary, name, subjects, samples, by_label)
        made: np.ndarray = np.load(path, mmap_mode="r")
        return made

    def fill_with(self, subjects: Sequence[tio.Subject], volumes: np.ndarray) -> list[tio.Subject]:
        """The subjects with volumes (S, N, X, Y, Z) in place of the modality."""
        made_by = origin.of_maker(self.completer)
        pairs = zip(subjects, volumes, strict=True)
        return [self._with(subject, volume[None], made_by) for subject, volume in pairs]

    def without(self, subjects: Sequence[tio.Subject]) -> list[tio.Subject]:
        """The subjects as those that lack the modality."""
        return [without(subject, self.want) for subject in subjects]

    def _complete(
        self, path: Path, name: str, subjects: Sequence[tio.Subject], samples: int, by_label: bool
    ) -> None:
        grid, segments = self.completer.grid, self.completer.model.segments
        shape = (len(subjects), samples, segments, *grid.shape)
        # Half precision is a thousandth of a value, far below the noise of a scan.
        writer = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        bare = self.without(subjects)
        for k, subject in enumerate(track(bare, f"Completing, {name}")):
            labels = {"diagnosis": subject["diagnosis"]} if by_label else None
            number = seed_of(self.seed, subject, self.want)
            # An uncertainty needs two samples; what is not asked for is not kept.
            made = self.completer.posterior(subject, self.want, number, max(samples, 2), labels)
            writer[k] = made.samples[:samples]
        writer.flush()

    def _with(self, subject: tio.Subject, volumes: np.ndarray, made_by: str) -> tio.Subject:
        """The subject with the first of some volumes in place of the modality."""
        volume = torch.from_numpy(np.array(volumes[0], np.float32))
        # Nothing is where the other image has nothing: no brain.
        brain = (read(subject[self.have], self.have) != 0).any(0)
        image = tio.ScalarImage(tensor=volume * brain, affine=subject[self.have].affine)
        marks = {
            "synthetic": True,
            "synthetic_id": f"{subject['subject_id']}:{self.want}",
            "origin": made_by,
        }
        return tio.Subject({**subject, self.want: image, **marks})


def training_sets(
    filler: Filler, whole: Sequence[tio.Subject], lacking: Sequence[tio.Subject], name: str
) -> TrainingSets:
    """Training sets by arm, but for complete data.

    Args:
        filler: Of the image that is lacking.
        whole: Subjects that lack nothing.
        lacking: Those who lack it; if they have it all the same, it is not looked at.
        name: Of the files of the samples.
    """
    kept, bare = list(whole), filler.without(lacking)

    def draw(name: str, *, by_label: bool = False) -> list[tio.Subject]:
        if not bare:
            return kept
        made = filler.draw(name, bare, 1, by_label=by_label)
        return [*kept, *filler.fill_with(bare, made[:, 0])]

    return {
        "drop": lambda: kept,
        "mask": lambda: [*kept, *bare],
        "mean": lambda: [*kept, *filler.fill_simply("mean", bare)],
        "regression": lambda: [*kept, *filler.fill_simply("regression", bare)],
        "pds": lambda: draw(name),
        "pds-by-label": lambda: draw(f"{name}-by-label", by_label=True),
    }


def diagnosis_scores(
    regions: np.ndarray, made: Sequence[tio.Subject], real: Sequence[tio.Subject], want: str
) -> dict[str, Any]:
    """How well a simple classifier finds the diagnosis in filled images, and then in real ones.

    Logistic regression of the regions' mean signals, in ten folds of the people with filled images,
    then fitted to all of them and asked of real test images. Where images carry their label as a
    watermark, the folds score far better than the test. ``regions`` are (R, X, Y, Z).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    size = regions.sum((1, 2, 3))

    def signals(subjects: Sequence[tio.Subject]) -> np.ndarray:
        volumes = np.stack([read(subject[want], want).numpy().mean(0) for subject in subjects])
        return np.einsum("sxyz,rxyz->sr", volumes, regions) / size

    x, test = signals(made), signals(real)
    y, truth = ([str(subject["diagnosis"]) for subject in some] for some in (made, real))
    whose = [f"{subject['dataset']}/{subject['subject_id']}" for subject in made]
    people = set(zip(y, whose, strict=True))
    fewest = min(sum(name == each for each, _ in people) for name in set(y))
    if fewest < 2 or len(set(y)) < 2:
        return {"cross-validated": None, "on real images": None}
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedGroupKFold(min(10, fewest), shuffle=True, random_state=0)
    inside = cross_val_predict(model, x, y, cv=folds, groups=whose)
    outside = model.fit(x, y).predict(test)
    return {
        "cross-validated": float(balanced_accuracy_score(y, inside)),
        "on real images": float(balanced_accuracy_score(truth, outside)),
    }
