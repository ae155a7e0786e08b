"""The audit of a completer, see :mod:`neuromix.experiments.audit.audit`: can its images stand in?

It completes held-out people who have all images, each from the others, without a label, and what it
makes is compared with what they have. Beside it stand two that anybody could fit to the same
training subjects, the mean volume and a regression in every voxel, and the completer itself with
another person's sources in the outline of the own brain, which must cost what it knows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio
from rich.progress import track

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.completion import completion_table
from neuromix.augment.metrics.features import squared_distances
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.images import common_frame, read
from neuromix.experiments.audit import base
from neuromix.experiments.audit.base import Limit
from neuromix.experiments.audit.config import Audit
from neuromix.experiments.frame.cohorts import first_scans
from neuromix.experiments.frame.figures import Picture, slices
from neuromix.experiments.frame.findings import CARE, FAULT, FINE, Finding, interval_text
from neuromix.experiments.frame.run import Run
from neuromix.experiments.quality.completion import (
    complete_rows,
    exchanged,
    judged,
    stacked,
    typical,
    value_range,
    without,
)
from neuromix.experiments.quality.completion_baselines import VoxelwiseRegression

FEWEST = 8
"""People of each set: an interval is over them."""
SAMPLES = 8
"""Of each held-out person."""
SHOWN = 3
"""People in the picture."""
DRAWS = 2000
"""Of the bootstrap over people."""
SPREAD = Limit(0.1, 0.4, "coverage of the central interval of samples, off what is due")
DETAIL = Limit(0.05, 0.2, "mean |log10| of the power of samples over that of real images")
LEVEL = Limit(0.05, 0.5, "relative change of the median in the brain")
OTHERS = Limit(0.1, 0.5, "share of completions that are nearer to another person's real image")
COST = 0.5
"""Share of what a completer knows beyond the mean volume that another's source must cost."""


class CompleterAudit(base.BaseAudit):
    """Of a completer; each direction that it was trained in is a cell."""

    title = "Audit of a completer"
    limits = (SPREAD, DETAIL, LEVEL, OTHERS)

    def __init__(self, config: Audit, completer: ModalityCompleter, frame: Run) -> None:
        self.images = tuple(completer.config["images"])
        super().__init__(config, completer, frame)
        self.completer = completer
        self.train, self.tests = (
            self.some(first_scans(complete_rows(self.whole[name], self.images)))
            for name in ("train", "heldout")
        )
        for name, cohort in (("--train", self.train), ("--heldout", self.tests)):
            if len(cohort.subject_keys) < FEWEST:
                raise InputError(
                    f"{name} has {len(cohort.subject_keys)} people with "
                    f"{' and '.join(self.images)}; an audit of a completer needs {FEWEST} or more"
                )
            grid, segments = common_frame(cohort, self.images)
            if (grid, segments) != (completer.grid, completer.model.segments):
                raise InputError(
                    f"{name} has {segments} segments of {grid} and the completer makes "
                    f"{completer.model.segments} of {completer.grid}, or they lie elsewhere; bring "
                    "them there with `neuromix prepare`"
                )
        self.mask, self.regions = judged(self.train, self.images, completer.grid)

    def about(self) -> dict[str, Any]:
        """What made the images."""
        settings = self.completer.record.get("config", {})
        return super().about() | {
            "sampler": type(self.completer).__name__,
            "settings": {k: v for k, v in settings.items() if not isinstance(v, dict)},
        }

    def parts(self) -> dict[str, Any]:
        """The records of all parts, by name."""
        parts = super().parts()
        for want in self.completer.config["directions"]:
            parts[want] = self.frame.cell({"completed": want}, functools.partial(self._judge, want))
        return parts | {"sizes": {"train": len(self.train), "heldout": len(self.tests)}}

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """The findings of all parts."""
        yield from super().findings(parts)
        for want in self.images:
            if want in parts:
                yield from _direction_findings(want, parts[want])

    def page(self, results: Mapping[str, Any]) -> str:
        """The data card."""
        sizes, wanted = results["sizes"], [want for want in self.images if want in results]
        metrics = [
            {"image": want, "metric": name, "value": row["value"],
             "95 %": interval_text((row["low"], row["high"]))}
            for want in wanted for name, row in results[want]["table"].items()
        ]  # fmt: skip
        return self.card(
            results,
            figures=[self._picture(want) for want in wanted],
            details=[("All metrics", pd.DataFrame(metrics))],
            methods=[
                f"{sizes['heldout']} held-out people who have all images are completed from all "
                "but one of them, without a label, and compared with that one. The voxelwise "
                f"regression and the mean volume are of {sizes['train']} training people.",
                "Another source is that of another person, put into the outline of the own brain: "
                "the outline alone tells much of an image. What it costs is a share of what the "
                "completer gains over the mean volume in that outline. Intervals are over held-out "
                "people.",
                "Whether a classifier gains from completed images is asked by `neuromix "
                "experiment hybrid`.",
            ],
        )

    def _judge(self, want: str) -> dict[str, Any]:
        """Everything about the images of one modality, in one reading of the held-out people."""
        have = [name for name in self.images if name != want]
        people = self.train.subjects()
        source, target = (stacked(people, names) for names in (have, [want]))
        regression = VoxelwiseRegression().fit(source, target)
        mean = typical(target)
        usual = {name: typical(stacked(people, [name])) for name in have}
        tests = self.tests.subjects()
        errors: dict[str, list[float]] = {k: [] for k in ("own", "exchanged", "mean", "regression")}
        made, real = [], []

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for k, subject in enumerate(track(tests, f"Completing {want}")):
                truth = read(subject[want], want).numpy()
                samples = self._completed(subject, want, k)
                other, outline = exchanged(subject, tests[k - 1], have, usual)
                images = {
                    "own": samples.mean(axis=0),
                    # As many samples for both, since more of them lie closer.
                    "exchanged": self.completer.posterior(other, want, k, SAMPLES).mean.numpy(),
                    "mean": mean * outline,
                    "regression": regression.predict(stacked([subject], have))[0, 0],
                }
                for name, image in images.items():
                    errors[name].append(float(((image - truth)[:, self.mask] ** 2).mean()))
                made.append(images["own"])
                real.append(truth)
                yield samples, truth

        seed = self.config.seed
        table = completion_table(
            pairs(), mask=self.mask, data_range=value_range(self.train, want),
            regions=self.regions, seed=seed,
        )  # fmt: skip
        mine, theirs = np.stack(made), np.stack(real)
        return {
            "table": table,
            "errors": errors,
            "level": {
                name: float(np.median(volumes[:, :, self.mask]))
                for name, volumes in (("value", mine), ("real", theirs))
            },
            "left-right": base.laterality(mine.mean(axis=1), theirs.mean(axis=1), self.mask, seed),
            "nearest": self._nearest(mine, theirs, target),
        }

    def _completed(self, subject: tio.Subject, want: str, seed: int) -> np.ndarray:
        """Samples (K, N, X, Y, Z) of what a person has, made from the other images alone."""
        return self.completer.posterior(without(subject, want), want, seed, SAMPLES).samples

    def _nearest(self, made: np.ndarray, real: np.ndarray, train: np.ndarray) -> dict[str, Any]:
        """Whose real image is nearest to a completion: the own, a training person's, another's?"""
        images, *others = (
            volumes[:, :, self.mask].reshape(len(volumes), -1) for volumes in (made, real, train)
        )
        nearest = squared_distances(images, np.concatenate(others)).argmin(axis=1)
        return {
            "own": float((nearest == np.arange(len(made))).mean()),
            "train": float((nearest >= len(real)).mean()),
            "people": len(real) + len(train),
        }

    def _picture(self, want: str) -> Picture:
        volumes, titles = [], []
        first = self.tests.where(np.arange(len(self.tests)) < SHOWN)
        for k, subject in enumerate(first.subjects()):
            samples = self._completed(subject, want, k)
            real = read(subject[want], want).numpy()[0]
            volumes += [real, samples.mean(axis=0)[0], samples[0, 0]]
            titles += ["real", f"mean of {SAMPLES}", "one sample"]
        white = float(np.percentile(volumes[0], 99.8))
        text = f"The first channel of {want} of held-out people, real and made from the others."
        return slices(volumes, titles, upper=white), text


def _direction_findings(want: str, part: Mapping[str, Any]) -> Iterator[Finding]:
    errors = {name: np.array(values) for name, values in part["errors"].items()}
    yield _accuracy_finding(want, errors)
    yield _source_finding(want, errors)
    covered = part["table"]["coverage"]["value"]
    yield SPREAD.finding(
        f"uncertainty of {want}", abs(1 - covered),
        f"intervals hold {covered:.2f} of the values that are due",
        f"samples differ too {'little' if covered < 1 else 'much'}",
    )  # fmt: skip
    off = part["table"]["spectrum"]["value"]
    yield DETAIL.finding(f"detail of {want}", off, f"power is off by {off:.3f} in log10")
    value, real = part["level"]["value"], part["level"]["real"]
    ratio = value / max(real, 1e-12)
    note = f"median in the brain {value:.4g}, real {real:.4g}"
    yield LEVEL.finding(f"units of {want}", abs(ratio - 1), note, base.unit_error(ratio))
    side = base.laterality_finding(part["left-right"])
    yield Finding(f"{side.name} of {want}", side.level, side.note)
    nearest = part["nearest"]
    others = 1 - nearest["own"]
    is_copied = nearest["train"] > others / 2
    yield OTHERS.finding(
        f"whose {want}", others,
        f"{100 * nearest['own']:.0f} % are nearest to the own real image, of "
        f"{nearest['people']} people's",
        "most others are nearest to a training person" if is_copied else "",
    )  # fmt: skip


def _accuracy_finding(want: str, errors: Mapping[str, np.ndarray]) -> Finding:
    def gain(name: str) -> tuple[float, tuple[float, float]]:
        other, own = errors[name], errors["own"]
        over = _bootstrap(lambda k: _decibels(other[k], own[k]), len(own))
        return _decibels(other, own), over

    (regression, sure), (mean, over) = gain("regression"), gain("mean")
    note = (
        f"{regression:+.2f} dB beside a voxelwise regression ({interval_text(sure)}), {mean:+.2f} "
        f"beside the mean volume ({interval_text(over)})"
    )
    if over[0] <= 0:
        return Finding(f"accuracy of {want}", FAULT, f"{note}: not surely better than the mean")
    if sure[1] < 0:
        return Finding(f"accuracy of {want}", CARE, f"{note}: a regression is surely better")
    return Finding(f"accuracy of {want}", FINE, note)


def _source_finding(want: str, errors: Mapping[str, np.ndarray]) -> Finding:
    what = f"source of {want}"
    lost = errors["exchanged"] - errors["own"]
    if _bootstrap(lambda k: float(lost[k].mean()), len(lost))[0] <= 0:
        note = "another person's source does as well as the own: the source is not used"
        return Finding(what, FAULT, note)
    gain = errors["mean"].mean() - errors["own"].mean()
    if gain <= 0:
        return Finding(what, CARE, "there is no gain over the mean volume that it could explain")
    share = float(lost.mean() / gain)
    note = (
        f"another person's source costs {100 * share:.0f} % of the gain over the mean volume "
        f"({100 * COST:.0f} or more is right)"
    )
    return Finding(what, FINE if share >= COST else CARE, note)


def _decibels(errors: np.ndarray, than: np.ndarray) -> float:
    """How far the second lies above the first."""
    return float(10 * np.log10(errors.mean() / max(than.mean(), 1e-12)))


def _bootstrap(statistic: Callable[[np.ndarray], float], people: int) -> tuple[float, float]:
    """The 95 % interval of a statistic of the people who are drawn."""
    draws = np.random.default_rng(0).integers(people, size=(DRAWS, people))
    low, high = np.quantile([statistic(draw) for draw in draws], (0.025, 0.975))
    return float(low), float(high)
