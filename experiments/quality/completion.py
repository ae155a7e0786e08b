"""``neuromix experiment completion``: does a completer beat the regressions that it must beat?

Training, validation and held-out subjects of one split have all images. Each image in turn is
predicted from the others by the completer and every baseline, by the metrics of
:mod:`neuromix.augment.metrics.completion`, in the template's brain, or where most people have
signal. Trained baselines get as much processor time for all images together as the completer's fit
took. Beside them stand the completer with the sources of another subject, its samples in fewer and
more steps, and, on a phantom, the PSNR of its ideal regression. What is asked of a completer is a
list of criteria, each met or missed, in :mod:`neuromix.experiments.quality.completion_report`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torchio as tio
from rich.console import Console

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort, Split
from neuromix.augment.data.grid import Grid, template_on
from neuromix.augment.data.regions import region_maps
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.metrics.completion import completion_table
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import MODALITIES
from neuromix.augment.pds.images import common_frame, read, together
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.frame.cohorts import contents, first_scans, load_cohort
from neuromix.experiments.frame.figures import slices
from neuromix.experiments.frame.pace import few_subjects, phantom_seconds
from neuromix.experiments.frame.run import Run, show_plan
from neuromix.experiments.quality.completion_baselines import TRAINED, baselines
from neuromix.experiments.quality.completion_report import page, summarise
from neuromix.experiments.quality.config import FEW, Completion

RANGE = 1.6
"""Data range of PSNR and SSIM: of the phantom, and of segments in their usual units."""
HALF = 0.5
"""Where the template's brain begins."""
LOOKED = 6
"""Held-out subjects that numbers of steps are compared on."""
STEPS = (2, 5, 10, 20)
IDEAL = "prediction_from_the_other_modality"
"""What a phantom's truth says of its ideal regression."""


def run(settings: Completion, out: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Fit and compare what is not done yet; write ``results.json`` and ``report.html``."""
    console = Console()
    console.print(asdict(settings))
    if dry_run:
        show_plan(plan(settings), console)
        return {}
    content = contents(settings, settings.images)
    with Run.open(out, "completion", asdict(settings), console, content) as stage:
        split, truth = _subjects(settings, stage)
        bench = Bench(settings, split, stage)
        seconds = settings.seconds
        for arm in settings.arms:
            record = stage.cell({"fit": arm}, partial(bench.fit, arm))
            seconds = seconds or record["processor"] / len(settings.images)
        for want in settings.images:
            for arm in settings.arms:
                stage.cell({"arm": arm, "want": want}, partial(bench.judge, arm, want))
            for steps in STEPS:
                stage.cell({"steps": steps, "want": want}, partial(bench.in_steps, steps, want))
            for name in settings.baselines:
                make = partial(bench.baseline, name, want, float(seconds or 0))
                stage.cell({"baseline": name, "want": want}, make)
        results = summarise(stage.records(), truth, settings.images, settings.arms[0], RANGE)
        results |= stage.about
        picture = bench.montage(settings.arms[0])
        stage.finish(results, page(results, picture, split))
    return results


@dataclass
class Bench:
    """Held-out subjects, and what predicts them."""

    settings: Completion
    split: Split
    stage: Run

    def __post_init__(self) -> None:
        self.images = self.settings.images
        self.grid, _ = common_frame(self.split.train, self.images)
        self.mask, self.regions = judged(self.split.train, self.images, self.grid)
        self.test = self.split.test.subjects()
        self.ranges = {name: value_range(self.split.train, name) for name in self.images}

    def folder(self, arm: str) -> Path:
        """Where an arm's completer lies."""
        return self.stage.folder / "completers" / arm

    def completer(self, arm: str) -> ModalityCompleter:
        """An arm's completer."""
        if not is_sampler(self.folder(arm)):
            raise InputError(
                f"{self.folder(arm)} holds no completer any more, and {self.stage.folder} needs "
                "it; begin in another folder"
            )
        return ModalityCompleter.from_pretrained(self.folder(arm))

    def others(self, want: str) -> list[str]:
        """What an image is made from."""
        return [name for name in self.images if name != want]

    def fit(self, arm: str) -> dict[str, Any]:
        """Fit an arm."""
        begun = time.process_time()
        config, folder = self.settings.config(arm), self.folder(arm)
        _, trained = ModalityCompleter.fit(
            self.split.train, config, folder, validation=self.split.val, progress=True
        )
        return {
            "processor": time.process_time() - begun,
            "best_step": trained.best_step,
            "validation": trained.validation,
        }

    def judge(self, arm: str, want: str) -> dict[str, Any]:
        """An arm's table, and what a shuffled source costs."""
        completer = self.completer(arm)
        completer.check_disjoint(self.split.test)
        people = self.split.train.subjects()
        usual = {m: typical(read(each[m], m).numpy() for each in people) for m in self.images}
        few: list[np.ndarray] = []

        def make(k: int, subject: tio.Subject) -> np.ndarray:
            posterior = completer.posterior(without(subject, want), want, k, self.settings.samples)
            few.append(posterior.samples[:FEW].mean(axis=0))
            return posterior.samples

        record = self._compared(make, self.test, want)
        errors = {"own": 0.0, "shuffled": 0.0, "mean": 0.0}
        for k, subject in enumerate(self.test):
            # The same noise for both, as many samples, and the same outline of the brain, which
            # alone tells a good deal of a volume.
            changed, outline = exchanged(subject, self.test[k - 1], self.others(want), usual)
            other = completer.posterior(changed, want, k, FEW).mean.numpy()
            images = {"own": few[k], "shuffled": other, "mean": usual[want] * outline}
            for name, image in images.items():
                error = (image - read(subject[want], want).numpy())[:, self.mask]
                errors[name] += float((error**2).mean()) / len(self.test)
        return record | {"errors": errors}

    def in_steps(self, steps: int, want: str) -> dict[str, Any]:
        """The first arm's table where the network is evaluated so many times for a sample."""
        completer = self.completer(self.settings.arms[0])
        completer.register_to_config(steps=steps)

        def make(k: int, subject: tio.Subject) -> np.ndarray:
            return completer.posterior(without(subject, want), want, k, FEW).samples

        return self._compared(make, self.test[:LOOKED], want)

    def baseline(self, name: str, want: str, seconds: float) -> dict[str, Any]:
        """A baseline's table."""
        have, train = self.others(want), self.split.train.subjects()
        source, target = (stacked(train, names) for names in (have, [want]))
        precision = self.settings.config(self.settings.arms[0]).training.precision
        begun = time.process_time()
        fitted = baselines(seconds, self.settings.seed, precision)[name].fit(source, target)
        processor = time.process_time() - begun
        seeds = range(self.settings.samples)

        def make(_: int, subject: tio.Subject) -> np.ndarray:
            return np.asarray(fitted.predict(stacked([subject], have), seeds)[0])

        record = self._compared(make, self.test, want) | {"processor": processor}
        return record | ({"steps": fitted.steps_} if hasattr(fitted, "steps_") else {})

    def _compared(
        self,
        make: Callable[[int, tio.Subject], np.ndarray],
        subjects: Sequence[tio.Subject],
        want: str,
    ) -> dict[str, Any]:
        """The table of what is made for subjects, and the processor time that each takes."""
        taken: list[float] = []

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for k, subject in enumerate(subjects):
                begun = time.process_time()
                made = make(k, subject)
                taken.append(time.process_time() - begun)
                yield made, read(subject[want], want).numpy()

        table = completion_table(
            pairs(), mask=self.mask, data_range=self.ranges[want], regions=self.regions,
            seed=self.settings.seed,
        )  # fmt: skip
        return {"table": table, "processor a subject": float(np.mean(taken))}

    def montage(self, arm: str) -> list[tuple[bytes, str]]:
        """Real, mean, sample and uncertainty of the first held-out subject, both directions."""
        completer = self.completer(arm)
        pictures = []
        for want in self.images:
            subject = self.test[0]
            real = read(subject[want], want).numpy()[0]
            posterior = completer.posterior(without(subject, want), want, 0, self.settings.samples)
            volumes = [real, posterior.mean.numpy()[0], posterior.samples[0, 0]]
            volumes.append(5 * posterior.deviation.numpy()[0])
            titles = ["real", "mean", "one sample", "5 x deviation"]
            picture = slices(volumes, titles, upper=float(np.percentile(real, 99.8)))
            files.write_bytes(self.stage.folder / f"montage-{want}.png", picture)
            text = f"The first channel of {want} of a held-out subject, made from the others."
            pictures.append((picture, text))
        return pictures


def _subjects(settings: Completion, stage: Run) -> tuple[Split, dict[str, Any] | None]:
    counts = (settings.train, settings.validation, settings.heldout)
    truth = None
    if settings.data is not None:
        cohort = complete_rows(load_cohort(settings.data), settings.images)
        if (settings.data / "truth.json").is_file():  # a phantom
            truth = bids.read_json(settings.data / "truth.json").get(IDEAL)
    else:
        folder = make_phantom(
            stage.folder / "phantom", "paired", subjects=sum(counts), seed=settings.seed,
            spacing=settings.spacing, progress=True,
        )  # fmt: skip
        cohort = Cohort.from_bids(folder)
        truth = bids.read_json(folder / "truth.json")[IDEAL]
    if len(cohort.subject_keys) < sum(counts):
        raise InputError(
            f"{len(cohort.subject_keys)} subjects have {' and '.join(settings.images)}, and "
            f"{sum(counts)} are asked for; lower train, validation or heldout"
        )
    whole = sum(counts)
    fractions = (counts[0] / whole, counts[1] / whole, counts[2] / whole)
    split = cohort.split(fractions, stratify=("diagnosis",), seed=settings.seed)
    return split._replace(test=first_scans(split.test)), truth


def without(subject: tio.Subject, want: str) -> tio.Subject:
    """The subject as one that lacks an image."""
    return tio.Subject({key: value for key, value in subject.items() if key != want})


def typical(images: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of images (N, X, Y, Z) over those that have brain at a voxel."""
    total: Any = 0.0
    covered: Any = 0
    for image in images:
        total, covered = total + image, covered + (image != 0).any(axis=0)
    return np.asarray(total / np.maximum(covered, 1))


def exchanged(
    subject: tio.Subject,
    other: tio.Subject,
    have: Sequence[str],
    usual: Mapping[str, np.ndarray],
) -> tuple[tio.Subject, np.ndarray]:
    """Another's sources in the outline of one's own brain, and the outline."""
    outline: Any = False
    images = {}
    for name in have:
        own, others = (read(each[name], name).numpy() for each in (subject, other))
        inside = (own != 0).any(axis=0)
        source = np.where((others != 0).any(axis=0), others, usual[name]) * inside
        affine = subject[name].affine
        images[name] = tio.ScalarImage(tensor=source.astype(np.float32), affine=affine)
        outline = outline | inside
    shown = subject.get_images_dict(intensity_only=False)
    keys = {key: value for key, value in subject.items() if key not in shown}
    return tio.Subject({**keys, **images}), outline


def stacked(subjects: Sequence[tio.Subject], names: Sequence[str]) -> np.ndarray:
    """Images of subjects, their channels one after the other: (S, C, X, Y, Z)."""
    return np.stack([np.concatenate([read(s[n], n).numpy() for n in names]) for s in subjects])


def judged(
    train: Cohort, images: Sequence[str], grid: Grid
) -> tuple[np.ndarray, np.ndarray | None]:
    """Where images are compared, and Dosenbach's regions if they lie in MNI space.

    That is the template's brain, or else where most training people have signal.
    """
    if train.is_in_mni(images[0]):
        return template_on(grid)["brain"] > HALF, region_maps(grid)
    people = train.subjects()
    there = np.mean([(read(each[images[0]], "") != 0).any(0).numpy() for each in people], axis=0)
    return there > HALF, None


def value_range(train: Cohort, image: str) -> float:
    """The data range of PSNR and SSIM: that of segments, or what training people's values span."""
    if image in MODALITIES:
        return RANGE
    values = np.stack([read(each[image], image).numpy() for each in train.subjects()])
    low, high = np.quantile(values, (0.001, 0.999))
    return float(high - low)


def complete_rows(cohort: Cohort, images: Sequence[str]) -> Cohort:
    """The rows that have all of some images."""
    rows = together(cohort, images)
    lacking = [name for name in images if name not in rows.images]
    if lacking:
        raise InputError(f"the cohort has no {', '.join(lacking)}; name images that it has")
    return rows.where(np.all([rows.table[f"{name}_path"] != "" for name in images], axis=0))


def plan(settings: Completion) -> list[tuple[str, float]]:
    """What would be done, and for how many seconds; the fit is measured on this machine."""
    count = settings.train + settings.validation + settings.heldout
    config = settings.config(settings.arms[0])
    data = settings.data
    cohort = complete_rows(load_cohort(data), settings.images) if data else None
    with few_subjects("paired", cohort, settings.spacing) as few:
        fit, sample = ModalityCompleter.estimate(few, config, settings.train)
    trained = sum(name in TRAINED for name in settings.baselines)
    count_images = len(settings.images)
    seconds = fit / count_images if settings.seconds is None else settings.seconds
    drawn = settings.heldout * (settings.samples + FEW) * len(settings.arms)
    drawn += round(LOOKED * FEW * sum(STEPS) / config.sampling_steps)
    return [
        ("phantom", phantom_seconds("paired", settings.spacing, count) * (cohort is None)),
        (f"{len(settings.arms)} fits", len(settings.arms) * fit),
        (f"{trained} trained baselines, {count_images} images", count_images * trained * seconds),
        (f"{count_images * drawn} samples", count_images * drawn * sample),
    ]
