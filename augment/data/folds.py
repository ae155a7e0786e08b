"""GeneratorKFold: cross-validation in which every fold trains its own generator.

A generator that was fitted once on all subjects has seen the test subjects of every fold, and its
samples carry them into the training set. Here the outer loop holds the fitting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError, LeakageError
from neuromix.augment.source import Source


class Fold(NamedTuple):
    """One part of a cross-validation, as ``for train, test, source, optimistic in ...``."""

    train: Cohort
    """Real subjects to train on."""
    test: Cohort
    """Real subjects to judge by; no subject is in both."""
    source: Source
    """Makes the synthetic subjects to train on."""
    optimistic: bool
    """The source has seen subjects of the cohort: every result of the fold must say so."""


@dataclass
class GeneratorKFold:
    """Parts a cohort by subject, and fits a source of samples on the training part of each fold.

    Args:
        fit: Called with the training part and the number of the fold, from 0; returns a source,
            such as a sampler or a bank that one has filled.
        n_splits: How many folds.
        stratify: Labels that the folds have in equal shares, as in ``Cohort.split``.
        seed: Another seed gives other folds.
        shared: One source for all folds, in place of ``fit``. If it has seen any subject of the
            cohort, every fold is optimistic.
    """

    fit: Callable[[Cohort, int], Source] | None = None
    n_splits: int = 5
    _: KW_ONLY
    stratify: Sequence[str] = ("sex", "diagnosis")
    seed: int = 0
    shared: Source | None = None

    def split(self, cohort: Cohort) -> Iterator[Fold]:
        """Fit and give one fold after the other.

        Raises:
            LeakageError: What ``fit`` gave has seen test subjects.
        """
        if (self.fit is None) == (self.shared is None):
            came = "neither" if self.fit is None else "both"
            raise InputError(f"{came} of fit and shared came; give one of them")
        optimistic = False
        if self.shared is not None:
            try:
                self.shared.check_disjoint(cohort)
            except LeakageError:
                optimistic = True
        for number, test in enumerate(self._tests(cohort)):
            held_out = set(test.subject_keys)
            people = zip(cohort.table["dataset"], cohort.table["subject_id"], strict=True)
            train = cohort.where([key not in held_out for key in people])
            if self.fit is None:
                assert self.shared is not None
                source = self.shared
            else:
                source = self.fit(train, number)
                source.check_disjoint(test)
            yield Fold(train, test, source, optimistic)

    def _tests(self, cohort: Cohort) -> list[Cohort]:
        """The test part of each fold: a K-th of all, then a (K - 1)-th of the rest, and so on.

        Each cut rounds up or down, so that the sizes of parts and strata differ by one at most.
        """
        count = len(cohort.subject_keys)
        if not 2 <= self.n_splits <= count:
            raise InputError(
                f"{self.n_splits} folds of {count} subjects cannot be; give 2 to {count}"
            )
        tests = []
        for parts in range(self.n_splits, 1, -1):
            try:
                shares = (1 - 1 / parts, 0, 1 / parts)
                cohort, _, test = cohort.split(shares, stratify=self.stratify, seed=self.seed)
            except InputError as error:
                raise InputError(f"{self.n_splits} folds cannot be made: {error}") from None
            tests.append(test)
        return [*tests, cohort]
