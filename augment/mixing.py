"""Real and synthetic subjects in one dataset.

Which samples a mix holds depends on its seed and the epoch, and what is drawn for an item on (seed,
epoch, index): any number of workers gives the same. Real images whose place a sample takes are
never read.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchio as tio
from sklearn.base import BaseEstimator
from torch.utils.data import Dataset

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data import origin
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import known
from neuromix.augment.errors import InputError
from neuromix.augment.opening import open_source
from neuromix.augment.replacement import (
    Frame,
    labels_of,
    replacement,
    with_marks,
    with_origin,
)
from neuromix.augment.source import Source

MODES = ("add", "replace")


def mix(
    subjects: Sequence[tio.Subject],
    bank: Source | str | Path,
    ratio: float | Sequence[float] = 1.0,
    *,
    mode: str = "add",
    balance: str | Sequence[str] = (),
    match: str | Sequence[str] | None = None,
    transform: Callable[[tio.Subject], tio.Subject] | None = None,
    seed: int = 0,
) -> MixedDataset:
    """Mix real subjects with synthetic ones.

    ``add`` puts ``ratio`` times as many samples beside the subjects, ``replace`` puts samples in
    the place of that share of them. Samples follow the joint distribution of the subjects' labels,
    and are drawn anew in every epoch, see :meth:`MixedDataset.set_epoch`. A subject one of whose
    ``match`` labels is missing stays, and no sample is modelled on it.

    Args:
        subjects: Real ones, for example ``cohort.subjects()``.
        bank: A :class:`~neuromix.augment.bank.bank.SampleBank`, another Source, or the path of one.
        ratio: Samples per real subject; or one ratio per epoch, of which the last goes on.
        mode: ``add`` or ``replace``.
        balance: Labels whose classes come out equal: ``add`` gives small classes more samples, and
            makes more samples than ``ratio`` says if equality needs them.
        match: Labels that a sample shares with the subject it is modelled on. By default all that
            the bank knows and that are text in the subjects (sex, diagnosis), not numbers (age), of
            which a bank may lack some. The target of a classifier must be among them.
        transform: Applied to real and synthetic subjects alike.
        seed: Another seed draws other samples.

    Returns:
        A PyTorch dataset, for ``tio.SubjectsLoader``.
    """
    if isinstance(subjects, Cohort):
        raise InputError("a cohort came; mix takes subjects: pass cohort.subjects()")
    source = open_source(bank) if isinstance(bank, str | Path) else bank
    ratios = tuple(float(r) for r in np.atleast_1d(np.asarray(ratio, dtype=float)))
    balance = (balance,) if isinstance(balance, str) else tuple(balance or ())
    if not len(subjects):
        raise InputError("no subjects came; a mix needs some")
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is not known; allowed are {', '.join(MODES)}")
    highest = 1 if mode == "replace" else float("inf")
    if not ratios or not all(0 <= r <= highest and np.isfinite(r) for r in ratios):
        allowed = "0 to 1" if mode == "replace" else "0 or more"
        raise InputError(f"ratio {ratio} came; in mode {mode!r} it must be {allowed}")
    if seed < 0:
        raise InputError(f"seed {seed} is negative; give 0 or more")
    if balance and mode == "replace":
        raise InputError("mode 'replace' keeps the classes as they are; balance with mode='add'")
    names = _match(subjects, source, match, balance)
    mixed = MixedDataset(list(subjects), source, ratios, mode, balance, names, transform, seed)
    if all(mixed.plan(epoch).is_real.all() for epoch in range(len(ratios))):
        warnings.warn(
            f"ratio={ratio} adds no sample to {len(subjects)} subjects: the mix changes nothing",
            stacklevel=2,
        )
    return mixed


class MixPlan(NamedTuple):
    """What a mix holds in one epoch, item by item."""

    subject: np.ndarray
    """Index of the real subject: the item itself, or the one whose labels a sample takes."""
    is_real: np.ndarray
    """False where a sample stands."""


@dataclass(eq=False, repr=False)
class MixedDataset(Dataset[tio.Subject]):
    """Real and synthetic subjects, made by :func:`mix`.

    It works with ``tio.SubjectsLoader`` and ``tio.Queue`` as ``tio.SubjectsDataset`` does. Fit a
    classifier on :meth:`subjects`.
    """

    real: list[tio.Subject]
    source: Source
    ratios: tuple[float, ...]
    mode: str
    balance: tuple[str, ...]
    match: tuple[str, ...]
    transform: Callable[[tio.Subject], tio.Subject] | None
    seed: int

    def __post_init__(self) -> None:
        self.origin = origin.of_maker(self.source)
        # Subjects that a sample can be modelled on: those whose labels are all known.
        self._models = np.flatnonzero(
            [len(labels_of(subject, self.match)) == len(self.match) for subject in self.real]
        )
        # In shared memory, so that workers that live on see the epoch change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._planned: tuple[int, MixPlan] | None = None
        self._frames: dict[str, Frame] = {}

    @property
    def epoch(self) -> int:
        """The epoch that items are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch: to its ratio, and to other samples. Running workers see it, too."""
        if epoch < 0:
            raise InputError(f"epoch {epoch} came; epochs are counted from 0")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._current().subject)

    def __getitem__(self, index: int) -> tio.Subject:
        plan = self._current()
        model = self.real[plan.subject[index]]
        index = int(index) % len(plan.subject)
        words = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(2)
        draw_seed, transform_seed = map(int, words)
        if plan.is_real[index]:
            subject = with_marks(copy.deepcopy(model))
            subject.load()
        else:
            drawn = self.source.draw(labels_of(model, self.match), draw_seed)
            sample = with_origin(drawn, self.origin)
            subject = replacement(sample, model, self._frames_of(model, plan))
        if self.transform is None:
            return subject
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(transform_seed)
            return self.transform(subject)

    def subjects(self) -> list[tio.Subject]:
        """All items of the epoch in memory, for example for ``SexClassifier().fit``."""
        return [self[index] for index in range(len(self))]

    def dry_iter(self) -> list[tio.Subject]:
        """The real subject behind each item, with nothing loaded or drawn; see :class:`MixPlan`."""
        return [self.real[index] for index in self._current().subject]

    def plan(self, epoch: int) -> MixPlan:
        """What the mix holds in an epoch."""
        count = len(self.real)
        everyone = np.arange(count)
        wanted = round(self.ratios[min(epoch, len(self.ratios) - 1)] * count)
        rng = np.random.default_rng([self.seed, epoch])
        if self.mode == "replace":
            is_real = np.ones(count, bool)
            is_real[rng.permutation(self._models)[:wanted]] = False
            return MixPlan(everyone, is_real)
        quotas = self._quotas(wanted)
        added = [members[draw_order(len(members), number, rng)] for members, number in quotas]
        models = np.concatenate([everyone[:0], *added])
        is_real = np.arange(count + len(models)) < count
        return MixPlan(np.concatenate([everyone, models]), is_real)

    def _quotas(self, wanted: int) -> list[tuple[np.ndarray, int]]:
        """How many samples are modelled on which subjects."""
        if not self.balance:
            return [(self._models, wanted)]
        classes: dict[tuple[Any, ...], list[int]] = {}
        for index in self._models:
            key = tuple(self.real[index][name] for name in self.balance)
            classes.setdefault(key, []).append(int(index))
        members = [np.array(classes[key]) for key in sorted(classes)]
        sizes = np.array([len(group) for group in members])
        total = max(sizes.max() * len(sizes), sizes.sum() + wanted)
        # What is left over by rounding goes to the first classes, one each.
        share, left = divmod(int(total), len(sizes))
        goals = share + (np.arange(len(sizes)) < left)
        return [(group, int(goal - len(group))) for group, goal in zip(members, goals, strict=True)]

    def _current(self) -> MixPlan:
        epoch = self.epoch
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self.plan(epoch)
        return self._planned[1]

    def _frames_of(self, model: tio.Subject, plan: MixPlan) -> dict[str, Frame]:
        """What images must look like to be stacked with those of the first real subject there is.

        Its header is read once. Where no real subject is left, samples stay as they are.
        """
        for name in model.get_images_names():
            if name not in self._frames:
                real = (self.real[k] for k in plan.subject[plan.is_real])
                first = next((subject for subject in real if name in subject), None)
                if first is not None:
                    self._frames[name] = Frame.of(first[name])
        return self._frames


def draw_order(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Which of ``count`` rows comes at each of ``size`` positions: equally often, or one more."""
    rounds = [rng.permutation(count) for _ in range(-(-size // count))]
    return np.concatenate([np.arange(0), *rounds])[:size]


class SyntheticSampler(BaseEstimator):
    """Adds synthetic subjects to a training set, in the manner of imbalanced-learn.

    In an ``imblearn`` pipeline it acts in ``fit`` alone, so that test subjects stay real.

    Args:
        bank: As in :func:`mix`.
        ratio: Samples per real subject.
        balance: As in :func:`mix`.
        match: As in :func:`mix`.
        seed: Another seed draws other samples.
    """

    def __init__(
        self,
        bank: Source | str | Path,
        ratio: float = 1.0,
        balance: str | Sequence[str] = (),
        match: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.bank = bank
        self.ratio = ratio
        self.balance = balance
        self.match = match
        self.seed = seed

    def fit_resample(
        self, subjects: Sequence[tio.Subject], y: Sequence[Any] | None = None
    ) -> tuple[list[tio.Subject], Any]:
        """The subjects with samples added, and ``y`` with theirs.

        A sample has the ``y`` of the subject it is modelled on, which ``match`` must determine.
        """
        mixed = mix(
            subjects, self.bank, self.ratio, balance=self.balance, match=self.match, seed=self.seed
        )
        behind = mixed.plan(0).subject
        resampled = [*subjects, *(mixed[k] for k in range(len(subjects), len(mixed)))]
        if y is None:
            return resampled, None
        y_of: dict[tuple[Any, ...], Any] = {}
        for k in np.unique(behind[len(subjects) :]):
            key = tuple(subjects[k][name] for name in mixed.match)
            if y_of.setdefault(key, y[k]) != y[k]:
                raise InputError(
                    f"subjects with equal {', '.join(mixed.match)} have y {y_of[key]!r} and "
                    f"{y[k]!r}; add the label that y is made from to match"
                )
        if isinstance(y, np.ndarray):
            return resampled, y[behind]
        return resampled, [y[k] for k in behind]


def _match(
    subjects: Sequence[tio.Subject],
    source: Source,
    match: str | Sequence[str] | None,
    balance: tuple[str, ...],
) -> tuple[str, ...]:
    """Labels that samples share with the subjects that they are modelled on."""
    first = subjects[0]
    if match is None:
        chosen = [n for n in source.labels if isinstance(first.get(n), str)]
        chosen = [n for n in chosen if any(known(subject.get(n)) for subject in subjects)]
    else:
        chosen = [match] if isinstance(match, str) else list(match)
    names = tuple(dict.fromkeys([*chosen, *balance]))
    if not names or not set(names) <= set(source.labels):
        raise InputError(
            f"samples are to share {', '.join(names) or 'no label'} with subjects; {source.uri} "
            f"knows {', '.join(source.labels)}: choose among them with match=..."
        )
    models = [labels_of(subject, names) for subject in subjects]
    models = [labels for labels in models if len(labels) == len(names)]
    if not models:
        raise InputError(f"no subject has all of {', '.join(names)}; choose others with match=...")
    if isinstance(source, SampleBank):
        # Better now than in the middle of an epoch.
        texts = [name for name in names if isinstance(models[0][name], str)]
        has = set(zip(*(source.table[name] for name in texts), strict=True))
        for labels in models:
            if texts and tuple(labels[name] for name in texts) not in has:
                source.draw(labels, 0)
    return names
