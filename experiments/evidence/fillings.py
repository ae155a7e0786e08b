"""Ways to train on subjects of whom some lack an image: the arms of ``neuromix experiment hybrid``.

    arm            what becomes of a training subject that lacks an image
    drop           it is left out
    mask           it is kept as it is: the classifier is told what is there
    mean           it gets the mean image of the others
    regression     it gets what voxelwise ridge regressions predict from the other image
    pds            it gets a sample of the modality completer, which is told no diagnosis
    pds-extra      the same; and each subject comes once more, with another sample in that place
    pds-by-label   it gets a sample that was made after its diagnosis, which test images never are
    complete       nobody lacks anything: the ceiling

All models are fitted to those training subjects that lack nothing. Samples are made once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from neuromix.augment.pds.config import MODALITIES
from neuromix.augment.pds.pairs import read
from neuromix.experiments.evidence.hybrid_config import FILLINGS
from neuromix.experiments.frame.verdict import TITLES
from neuromix.experiments.quality.completion_baselines import (
    Baseline,
    MeanVolume,
    VoxelwiseRegression,
)

TITLES.update(FILLINGS)


@dataclass
class Filler:
    """Fills in one modality of some subjects, by all ways.

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

    def simple(self, way: str, subjects: Sequence[tio.Subject]) -> list[tio.Subject]:
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

    def drawn(
        self, name: str, subjects: Sequence[tio.Subject], samples: int, *, by_label: bool = False
    ) -> np.ndarray:
        """Samples (S, K, N, X, Y, Z), made where they are not kept yet.

        Args:
            name: Of the file.
            subjects: S of them.
            samples: K.
            by_label: Tell the completer the diagnosis.
        """
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            with files.replacing(path) as temporary:
                self._draw(temporary, name, subjects, samples, by_label)
        made: np.ndarray = np.load(path, mmap_mode="r")
        return made

    def filled(self, subjects: Sequence[tio.Subject], volumes: np.ndarray) -> list[tio.Subject]:
        """The subjects with volumes (S, N, X, Y, Z) in place of the modality."""
        made_by = origin.of_maker(self.completer)
        pairs = zip(subjects, volumes, strict=True)
        return [self._with(subject, volume[None], made_by) for subject, volume in pairs]

    def without(self, subjects: Sequence[tio.Subject]) -> list[tio.Subject]:
        """The subjects as those that lack the modality."""
        return [
            tio.Subject({key: value for key, value in subject.items() if key != self.want})
            for subject in subjects
        ]

    def _draw(
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


Ways = Mapping[str, Callable[[], list[tio.Subject]]]
"""By arm, what makes its training set."""


def training_sets(
    filler: Filler, whole: Sequence[tio.Subject], lacking: Sequence[tio.Subject], name: str
) -> Ways:
    """Training sets by arm, but for complete data.

    Args:
        filler: Of the image that is lacking.
        whole: Subjects that lack nothing.
        lacking: Those who lack it; if they have it all the same, it is not looked at.
        name: Of the files of the samples.
    """
    kept, bare = list(whole), filler.without(lacking)

    def pds() -> list[tio.Subject]:
        return [*kept, *filler.filled(bare, filler.drawn(name, bare, 2)[:, 0])] if bare else kept

    def extra() -> list[tio.Subject]:
        again = filler.filled(kept, filler.drawn(f"{name}-again", kept, 1)[:, 0])
        if bare:
            again += filler.filled(bare, filler.drawn(name, bare, 2)[:, 1])
        return [*pds(), *again]

    def by_label() -> list[tio.Subject]:
        made = filler.drawn(f"{name}-by-label", bare, 1, by_label=True)
        return [*kept, *filler.filled(bare, made[:, 0])]

    return {
        "drop": lambda: kept,
        "mask": lambda: [*kept, *bare],
        "mean": lambda: [*kept, *filler.simple("mean", bare)],
        "regression": lambda: [*kept, *filler.simple("regression", bare)],
        "pds": pds,
        "pds-extra": extra,
        "pds-by-label": by_label,
    }


def told_by(
    regions: np.ndarray, made: Sequence[tio.Subject], real: Sequence[tio.Subject], want: str
) -> dict[str, Any]:
    """How well filled images tell the diagnosis to a simple classifier, and real ones after it.

    Logistic regression of the regions' mean signals, in ten folds of the people with filled images,
    then fitted to all of them and asked of real test images. Images that carry their label as a
    watermark are told far better in the folds than in the test.

    Args:
        regions: (R, X, Y, Z).
        made: Filled training subjects.
        real: Test subjects.
        want: The image that was filled in.
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
    told = set(zip(y, whose, strict=True))
    fewest = min(sum(name == each for each, _ in told) for name in set(y))
    if fewest < 2 or len(set(y)) < 2:
        return {"told in folds": None, "told on real": None}
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedGroupKFold(min(10, fewest), shuffle=True, random_state=0)
    inside = cross_val_predict(model, x, y, cv=folds, groups=whose)
    outside = model.fit(x, y).predict(test)
    return {
        "told in folds": float(balanced_accuracy_score(y, inside)),
        "told on real": float(balanced_accuracy_score(truth, outside)),
    }
