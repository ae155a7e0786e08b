"""What is asked of a classifier's settings before it is fitted."""

from __future__ import annotations

import warnings
from typing import Any

from torch.utils.data import DataLoader

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError, require_choice
from neuromix.classifiers import inputs, training
from neuromix.classifiers.networks import NETWORKS


def check_settings(classifier: Any, subjects: Any, validation: Any) -> None:
    """Refuse settings of a classifier that can't be meant, and warn of those that do nothing."""
    if isinstance(subjects, Cohort) or isinstance(validation, Cohort):
        raise InputError("a cohort came; a classifier takes subjects: pass cohort.subjects()")
    if isinstance(subjects, DataLoader) or isinstance(validation, DataLoader):
        raise InputError("a loader came; a classifier makes its own batches: pass loader.dataset")
    for name, allowed in (
        ("network", NETWORKS),
        ("frames", inputs.FRAMES),
        ("monitor", training.MONITORS),
    ):
        require_choice(name, getattr(classifier, name), allowed)
    if min(classifier.steps, classifier.batch_size, classifier.check_every) < 1:
        raise InputError(
            f"{classifier.steps} steps of {classifier.batch_size} volumes with a look every "
            f"{classifier.check_every} came; all must be 1 or more"
        )
    if (
        min(classifier.shift, classifier.workers, classifier.seed) < 0
        or (classifier.patience or 1) < 1
    ):
        raise InputError(
            f"shift {classifier.shift}, workers {classifier.workers}, seed {classifier.seed} and "
            f"patience {classifier.patience} came; 0 or more are allowed, of patience 1 or more"
        )
    if not classifier.image:
        raise InputError("image=() came; name one image or more")
    training.device_for(classifier.device, classifier.precision)
    for name, needs in (("patience", validation), ("freeze", classifier.pretrained)):
        if getattr(classifier, name) and needs is None:
            what = "validation=" if name == "patience" else "pretrained="
            warnings.warn(f"{name} changes nothing without {what}", stacklevel=3)
