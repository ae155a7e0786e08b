"""What a classifier is worth on held-out subjects: predictions, scores and learning curves.

The statistics of several runs are in :mod:`neuromix.classifiers.statistics`; all are at hand here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold

from neuromix.augment.data import leakage, origin
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError, LeakageError
from neuromix.classifiers.predictions import Predictions, people, pool
from neuromix.classifiers.scores import SCORES, confusion
from neuromix.classifiers.statistics import compare, gap_closed, holm, summarise
from neuromix.classifiers.training_set import subjects_with_label

__all__ = [
    "Predictions",
    "compare",
    "cross_validate_subjects",
    "gap_closed",
    "holm",
    "learning_curve",
    "metrics",
    "nested_subsets",
    "pool",
    "predict",
    "summarise",
]


def predict(
    classifier: Any,
    cohort_or_subjects: Cohort | Sequence[tio.Subject],
    *,
    sources: Iterable[Any] = (),
) -> Predictions:
    """What a fitted classifier says of held-out subjects that have its label.

    Args:
        classifier: A fitted :class:`~neuromix.classifiers.base.VolumeClassifier`.
        cohort_or_subjects: Real subjects that had no part in the training. Their names and images
            are compared with those that the classifier was trained on, and their names with those
            that had a part in whatever filled in images of theirs.
        sources: Banks, samplers and whatever else has ``check_disjoint(cohort)`` and had a part in
            the training. Subjects that are not a cohort need images with a path for that. Each
            check reads all images: of many runs on the same subjects, the first is enough.

    Raises:
        LeakageError: A source, or the classifier, has seen subjects; it names them.
    """
    subjects = _subjects(cohort_or_subjects)
    judged = cohort_or_subjects
    cohort = judged if isinstance(judged, Cohort) else _cohort(subjects)
    if made := sum(map(origin.is_made, subjects)):
        raise InputError(
            f"{made} of {len(subjects)} test subjects are synthetic; real people judge a classifier"
        )
    if hasattr(classifier, "record_"):
        leakage.check_subjects(classifier.record_, subjects, classifier._images())
    filled = {line for subject in subjects for line in origin.of_subject(subject)}
    for record in origin.records(filled):
        leakage.check_subjects(leakage.merge([record]), subjects, ())
    sources = list(sources)
    if sources and not all(i.path for s in subjects for i in s.get_images(intensity_only=False)):
        raise InputError("sources are checked against files; pass the cohort, not its subjects")
    for source in sources:
        source.check_disjoint(cohort)
    chosen, labels = subjects_with_label(classifier, subjects, "test")
    return Predictions(
        np.array(_names(chosen)),
        np.array(labels),
        np.asarray(classifier.predict_proba(chosen), float),
        tuple(str(name) for name in classifier.classes_),
    )


def metrics(p: Predictions) -> dict[str, Any]:
    """Scores of one run.

    Returns:
        ``balanced_accuracy``; ``auc`` (macro, one against the rest, for more than two classes);
        ``f1`` (macro); ``ece``; ``brier``; ``confusion``, a list of rows of true classes; ``n``.
    """
    once = np.ones((1, len(p.truth)))
    codes = p.codes
    values = {name: float(f(codes, p.probabilities, once)[0]) for name, f in SCORES.items()}
    table = confusion(codes, p.probabilities, once)[0].astype(int)
    return {**values, "confusion": table.tolist(), "n": len(p.truth)}


def cross_validate_subjects(
    classifier: Any,
    cohort: Cohort | Sequence[tio.Subject],
    *,
    folds: int = 5,
    seed: int = 0,
) -> list[Predictions]:
    """Cross-validation in which a subject is in one fold with all its sessions.

    Args:
        classifier: Cloned for each fold.
        cohort: Real subjects.
        folds: How many, of about equal shares of the classes.
        seed: Another seed gives other folds.

    Returns:
        Predictions of each fold; :func:`pool` makes one run of them.
    """
    subjects, labels = subjects_with_label(classifier, _subjects(cohort), "cohort")
    names = _names(subjects)
    _check_folds(folds, names, labels)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    results = []
    for train, test in splitter.split(labels, labels, people(names)[2]):
        fitted = clone(classifier).fit([subjects[k] for k in train])
        results.append(predict(fitted, [subjects[k] for k in test]))
    return results


def learning_curve(
    classifier: Any,
    train: Cohort | Sequence[tio.Subject],
    test: Cohort | Sequence[tio.Subject],
    sizes: Sequence[int],
    seeds: Sequence[int],
    *,
    sources: Iterable[Any] = (),
    **fit: Any,
) -> dict[int, list[Predictions]]:
    """Predictions by the number of training subjects, a run for each seed.

    Args:
        classifier: Cloned for each fit, with its ``seed`` set.
        train: Pool from which :func:`nested_subsets` takes subjects.
        test: Real subjects that judge every fit.
        sizes: Numbers of training subjects, each with all its sessions.
        seeds: Each decides who is in the subsets, and the network.
        sources: As in :func:`predict`; checked once.
        **fit: For the classifier's ``fit``, such as ``validation=``.
    """
    pool_subjects, labels = subjects_with_label(classifier, _subjects(train), "training")
    names = np.array(_names(pool_subjects))
    test_subjects = _subjects(test)
    shared = sorted(set(names) & set(_names(test_subjects)))
    if shared:
        raise LeakageError(
            f"{len(shared)} subjects are in the training pool and in the test set, the first is "
            f"{shared[0]}; split by subject with Cohort.split",
            [(name.rpartition("/")[0], name.rpartition("/")[2]) for name in shared],
        )
    once = list(sources)
    runs: dict[int, list[Predictions]] = {size: [] for size in sizes}
    for seed in seeds:
        for size, chosen in nested_subsets(names, labels, sizes, seed).items():
            model = clone(classifier).set_params(seed=seed)
            model.fit([pool_subjects[k] for k in chosen], **fit)
            runs[size].append(predict(model, test_subjects, sources=once))
            once = []
    return runs


def nested_subsets(
    subjects: Sequence[str] | np.ndarray, labels: Sequence[str], sizes: Sequence[int], seed: int
) -> dict[int, np.ndarray]:
    """Rows of the first so many subjects of a random order: each subset holds the smaller ones.

    Every subset has the classes in the shares of the whole, as well as whole subjects allow; a
    subject counts for the class of its last row.
    """
    names, last, person = people(subjects)
    if not sizes or min(sizes) < 1 or max(sizes) > len(names):
        raise InputError(f"sizes {list(sizes)} came; there are 1 to {len(names)} subjects to take")
    rng = np.random.default_rng(seed)
    classes = np.asarray(labels)[last]
    place = np.empty(len(names))
    for name in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == name))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((rng.random(len(names)), place))
    rank = np.empty(len(names), int)
    rank[order] = np.arange(len(names))
    return {size: np.flatnonzero(rank[person] < size) for size in sizes}


def _subjects(judged: Cohort | Sequence[tio.Subject]) -> list[tio.Subject]:
    return judged.subjects() if isinstance(judged, Cohort) else list(judged)


def _names(subjects: Sequence[tio.Subject]) -> list[str]:
    """``dataset/subject_id`` of each."""
    for subject in subjects:
        if not subject.get("subject_id"):
            raise InputError(
                "a subject has no subject_id; scores are by subject: give it one, and a dataset"
            )
    return [f"{subject.get('dataset', '')}/{subject['subject_id']}" for subject in subjects]


def _check_folds(folds: int, names: Sequence[str], labels: Sequence[str]) -> None:
    """Every class needs a subject in each fold."""
    counts = pd.DataFrame({"name": names, "label": labels}).groupby("label")["name"].nunique()
    if len(counts) < 2:
        raise InputError(f"all subjects are {counts.index[0]!r}; a classifier needs two classes")
    if not 2 <= folds <= counts.min():
        raise InputError(
            f"{folds} folds came, and {counts.idxmin()!r} has {counts.min()} subjects; give 2 folds"
            " or more, and no more than each class has subjects"
        )


def _cohort(subjects: Sequence[tio.Subject]) -> Cohort:
    """The cohort that subjects are from; images that are in memory alone have no path."""
    rows = []
    for subject, name in zip(subjects, _names(subjects), strict=True):
        images = subject.get_images_dict(intensity_only=False)
        paths = {f"{key}_path": str(image.path or "") for key, image in images.items()}
        dataset = name.removesuffix(f"/{subject['subject_id']}")
        rows.append({"dataset": dataset, "subject_id": subject["subject_id"], **paths})
    return Cohort(pd.DataFrame(rows))
