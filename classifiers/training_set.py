"""The subjects that a classifier is trained on: read once, with who they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torchio as tio

from neuromix.augment.data import leakage, origin
from neuromix.augment.errors import InputError
from neuromix.classifiers import inputs


@dataclass
class LabelledSubjects:
    """Labelled subjects, row by row."""

    rows: list[dict[str, np.ndarray]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    kept: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = field(default_factory=list)
    people: set[origin.Person] = field(default_factory=set)
    voxels: set[str] = field(default_factory=set)
    origins: set[str] = field(default_factory=set)

    def add(self, subject: tio.Subject, label: str, row: dict[str, np.ndarray]) -> None:
        """Keep a subject, of which ``row`` are the images."""
        self.labels.append(label)
        self.rows.append(row)
        images = subject.get_images_dict(intensity_only=False)
        labels = {key: value for key, value in subject.items() if key not in images}
        self.kept.append((labels, {name: subject[name].affine for name in row}))
        self.origins |= origin.of_subject(subject)
        if person := origin.person_of(subject):
            self.people.add(person)
        if not origin.is_made(subject):
            self.voxels |= leakage.voxels_of(subject, row)

    def require_apart(self, trained_on: LabelledSubjects) -> None:
        """Refuse to judge a training by people, or images, that are trained on."""
        both = self.people & trained_on.people
        copies = self.voxels & trained_on.voxels
        if both or copies:
            such = f"such as {min(both)[1]}" if both else "under other names, by their images"
            raise InputError(
                f"{max(len(both), len(copies))} validation subjects are trained on, {such}; part "
                "them by subject with Cohort.split"
            )

    def record(self) -> dict[str, Any]:
        """Who had a part in what is trained on them, as :func:`provenance`."""
        own = leakage.record_of(self.people, self.voxels)
        return leakage.merge([own, *origin.records(self.origins)])


def subjects_with_label(
    classifier: Any,
    subjects: Sequence[tio.Subject],
    what: str,
    y: Sequence[str | None] | None = None,
) -> tuple[list[tio.Subject], list[str]]:
    """The subjects that have a label, and their labels; ``y`` replaces those that they carry."""
    if not len(subjects):
        raise InputError(f"no {what} subjects came; a classifier needs some")
    if y is not None and len(y) != len(subjects):
        raise InputError(f"{len(y)} labels came for {len(subjects)} subjects; give one each")
    everyone = [subjects[k] for k in range(len(subjects))]  # of a mix, each is drawn anew
    labels = classifier.labels(everyone) if y is None else y
    kept = [k for k, label in enumerate(labels) if isinstance(label, str) and label]
    if not kept:
        raise InputError(
            f"none of {len(everyone)} {what} subjects has the label {classifier.target}"
        )
    if left_out := len(everyone) - len(kept):
        warnings.warn(
            f"{left_out} of {len(everyone)} {what} subjects have no label {classifier.target} and "
            "are left out",
            stacklevel=3,
        )
    return [everyone[k] for k in kept], [str(labels[k]) for k in kept]


def collect(
    classifier: Any,
    subjects: Sequence[tio.Subject],
    y: Sequence[str | None] | None,
    what: str,
) -> LabelledSubjects:
    """Read the subjects that have a label, each once; ``y`` replaces the labels they carry."""
    images = [classifier.image] if isinstance(classifier.image, str) else list(classifier.image)
    chosen = LabelledSubjects()
    for subject, label in zip(*subjects_with_label(classifier, subjects, what, y), strict=True):
        chosen.add(subject, label, inputs.read(subject, images, classifier.frames))
    return chosen
