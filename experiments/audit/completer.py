"""The audit of a completer, see :mod:`audit`: can its images stand in for scans?

It completes held-out people who have both modalities, without a label, and what it makes is
compared with what they have. Beside it stand two that anybody could fit to the same training
subjects, the mean volume and a regression in every voxel, and the completer itself with another
person's source in the outline of the own brain, which must cost what it knows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torchio as tio
from rich.progress import track

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import template_on
from neuromix.augment.data.regions import region_maps
from neuromix.augment.errors import InputError
from neuromix.augment.metrics.completion import completion_table
from neuromix.augment.metrics.features import squared_distances
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import MODALITIES
from neuromix.augment.pds.pairs import common_frame, paired, read
from neuromix.experiments.audit import completer_report
from neuromix.experiments.audit.config import Audit
from neuromix.experiments.audit.origin import Origin, left_right
from neuromix.experiments.audit.report import Finding
from neuromix.experiments.frame.cohorts import first_scans
from neuromix.experiments.frame.pages import Picture, slices
from neuromix.experiments.frame.run import Run
from neuromix.experiments.quality.completion import HALF, RANGE, exchanged, typical, without
from neuromix.experiments.quality.completion_baselines import VoxelwiseRegression

FEWEST = 8
"""People of each set: an interval is over them."""
SAMPLES = 8
"""Of each held-out person."""
SHOWN = 3
"""People in the picture."""


class CompleterAudit(Origin):
    """Of a completer; each direction that it was trained in is a cell.

    Args:
        config: What to audit.
        completer: The completer.
        frame: Keeps what is done.
    """

    def __init__(self, config: Audit, completer: ModalityCompleter, frame: Run) -> None:
        super().__init__(config, completer, frame, MODALITIES)
        self.completer = completer
        self.train, self.tests = (
            self.some(first_scans(paired(self.whole[name]))) for name in ("train", "heldout")
        )
        for name, cohort in (("--train", self.train), ("--heldout", self.tests)):
            if len(cohort.subject_keys) < FEWEST:
                raise InputError(
                    f"{name} has {len(cohort.subject_keys)} people with fmri and dmri; an audit of "
                    f"a completer needs {FEWEST} or more"
                )
            grid, segments = common_frame(cohort)
            if (grid, segments) != (completer.grid, completer.model.segments):
                raise InputError(
                    f"{name} has {segments} segments of {grid} and the completer makes "
                    f"{completer.model.segments} of {completer.grid}, or they lie elsewhere; bring "
                    "them there with `neuromix prepare --what segments`"
                )
        self.mask = template_on(completer.grid)["brain"] > HALF

    def about(self) -> dict[str, Any]:
        """What made the images."""
        settings = self.completer.record.get("config", {})
        return super().about() | {
            "sampler": type(self.completer).__name__,
            "settings": {k: v for k, v in settings.items() if not isinstance(v, dict)},
        }

    def parts(self) -> dict[str, Any]:
        """All that was looked at."""
        parts = self.origin()
        for want in self.completer.config["directions"]:
            parts[want] = self.frame.cell({"completed": want}, functools.partial(self._judge, want))
        return parts | {"sizes": {"train": len(self.train), "heldout": len(self.tests)}}

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """What that says."""
        return completer_report.findings(parts)

    def page(self, results: Mapping[str, Any]) -> str:
        """The data card."""
        pictures = [self._picture(want) for want in MODALITIES if want in results]
        return completer_report.page(results, pictures)

    def _judge(self, want: str) -> dict[str, Any]:
        """Everything about the images of one modality, in one reading of the held-out people."""
        have = MODALITIES[1 - MODALITIES.index(want)]
        people = self.train.subjects()
        source, target = (np.stack([read(s[m], m).numpy() for s in people]) for m in (have, want))
        regression = VoxelwiseRegression().fit(source, target)
        mean, usual = typical(target), typical(source)
        tests = self.tests.subjects()
        errors: dict[str, list[float]] = {k: [] for k in ("own", "exchanged", "mean", "regression")}
        made, real = [], []

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for k, subject in enumerate(track(tests, f"Completing {want}")):
                truth = read(subject[want], want).numpy()
                samples = self._completed(subject, want, k)
                other, outline = exchanged(subject, tests[k - 1], have, usual)
                seen = read(subject[have], have).numpy()[None]
                images = {
                    "own": samples.mean(axis=0),
                    # As many samples for both, since more of them lie closer.
                    "exchanged": self.completer.posterior(other, want, k, SAMPLES).mean.numpy(),
                    "mean": mean * outline,
                    "regression": regression.predict(seen)[0, 0],
                }
                for name, image in images.items():
                    errors[name].append(float(((image - truth)[:, self.mask] ** 2).mean()))
                made.append(images["own"])
                real.append(truth)
                yield samples, truth

        table = completion_table(
            pairs(), mask=self.mask, data_range=RANGE, regions=region_maps(self.completer.grid),
            seed=self.config.seed,
        )  # fmt: skip
        mine, theirs = np.stack(made), np.stack(real)
        return {
            "table": table,
            "errors": errors,
            "level": {
                name: float(np.median(volumes[:, :, self.mask]))
                for name, volumes in (("value", mine), ("real", theirs))
            },
            "left-right": left_right(
                mine.mean(axis=1), theirs.mean(axis=1), self.mask, self.config.seed
            ),
            "nearest": self._nearest(mine, theirs, target),
        }

    def _completed(self, subject: tio.Subject, want: str, seed: int) -> np.ndarray:
        """Samples (K, N, X, Y, Z) of what a person has, made from the other modality alone."""
        return self.completer.posterior(without(subject, want), want, seed, SAMPLES).samples

    def _nearest(self, made: np.ndarray, real: np.ndarray, train: np.ndarray) -> dict[str, Any]:
        """Whose real image is nearest to a completion: the own, a training person's, another's?"""
        flat = [volumes[:, :, self.mask].reshape(len(volumes), -1) for volumes in (real, train)]
        images = made[:, :, self.mask].reshape(len(made), -1)
        nearest = squared_distances(images, np.concatenate(flat)).argmin(axis=1)
        own = nearest == np.arange(len(made))
        return {
            "own": float(own.mean()),
            "train": float((nearest >= len(real)).mean()),
            "people": len(real) + len(train),
        }

    def _picture(self, want: str) -> Picture:
        volumes, titles = [], []
        for k, subject in enumerate(_some(self.tests)):
            real = read(subject[want], want).numpy()[0]
            samples = self._completed(subject, want, k)
            volumes += [real, samples.mean(axis=0)[0], samples[0, 0]]
            titles += ["real", f"mean of {SAMPLES}", "one sample"]
        white = float(np.percentile(volumes[0], 99.8))
        text = f"The first segment of {want} of held-out people, real and made from the other."
        return slices(volumes, titles, upper=white), text


def _some(cohort: Cohort) -> list[tio.Subject]:
    return cohort.where(np.arange(len(cohort)) < SHOWN).subjects()
