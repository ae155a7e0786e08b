"""VolumeClassifier: a 3D network with the manners of a scikit-learn estimator.

``fit`` takes a list of subjects, or what :func:`neuromix.augment.mix` returns, and reads the label
``target`` off them; subjects without that label are left out. TorchIO subjects keep an image once
it was read, so a second fit on the same subjects reads nothing again; beside them, each training
volume is kept once in half precision.

Training is a number of steps, whatever the size of the training set: equal compute for all arms of
a comparison. Equal seeds give equal weights on a CPU with equal threads; a GPU adds up gradients in
any order.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torchio as tio
from rich.progress import Progress
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import GradientNormClipping, LRScheduler
from torch.utils.data import DataLoader

from neuromix.augment.data import leakage, origin
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import CATEGORIES, DEMENTIA
from neuromix.augment.errors import InputError, TrainingError, require_choice
from neuromix.augment.mixing import draw_order
from neuromix.classifiers import inputs, saving, training
from neuromix.classifiers.networks import NETWORKS, ImageTowers
from neuromix.classifiers.training_set import collect

FEWEST_VOXELS = 8
"""Voxels along an axis that each network can halve as often as it does."""
SMOOTHING = 0.1
"""Share of the target that is spread over all classes."""


@dataclass(eq=False, repr=False)
class VolumeClassifier(ClassifierMixin, BaseEstimator):
    """Tell a label from an image.

    Args:
        target: The label: ``sex``, ``diagnosis``, ``dementia`` (AD against NC, MCI left out) or any
            other key of the subjects.
        image: Which image of the subject to look at; or several, such as ``("fmri", "dmri")``, of
            which a subject may lack some.
        network: Name in :data:`neuromix.classifiers.networks.NETWORKS`.
        frames: What to see of 4D images: ``all`` frames as channels, or a ``summary`` (mean and
            deviation over time), for which the number of frames does not matter.
        steps: Optimiser steps, the same for every size of the training set.
        batch_size: Volumes a step.
        learning_rate: Peak of the one-cycle schedule (AdamW).
        weight_decay: Of AdamW.
        class_weight: Weights of classes in the loss by name, or ``balanced``.
        shift: Training volumes are moved by up to this many voxels along each axis.
        flip: Half of them are mirrored left to right, along the axis that their affine says; where
            none is known (the identity), along the first.
        augment: A TorchIO transform of training subjects, which keeps the shape of images. Where it
            brings a synthetic subject, that one's label counts.
        workers: Processes that prepare batches. The built-in shift and flip need none.
        check_every: Steps between looks at the validation subjects.
        monitor: What makes weights the best: validation ``loss`` or ``balanced_accuracy``.
        patience: Looks without improvement after which to stop; ``None`` trains to the end.
        pretrained: Features of another classifier to start from; see :meth:`from_classifier`.
        freeze: Keep those features as they are, and train the head alone.
        precision: ``float32`` or ``bfloat16`` (mixed).
        progress: Show a bar.
        seed: Decides the initial weights, the order of the volumes and what is done to them.
        device: ``auto`` takes CUDA where there is one.
    """

    target: str = "sex"
    image: str | Sequence[str] = "md"
    network: str = "compact"
    frames: str = "all"
    steps: int = 300
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    class_weight: str | Mapping[str, float] | None = None
    shift: int = 1
    flip: bool = False
    augment: Callable[[tio.Subject], tio.Subject] | None = None
    workers: int = 0
    check_every: int = 25
    monitor: str = "loss"
    patience: int | None = None
    pretrained: saving.Pretrained | None = None
    freeze: bool = False
    precision: str = "float32"
    progress: bool = False
    seed: int = 0
    device: str = "auto"

    @classmethod
    def from_classifier(
        cls, source: VolumeClassifier, *, freeze: bool = False, **options: Any
    ) -> Self:
        """A classifier that starts from the features of a fitted one, with a new head.

        The settings are those of ``source`` but for its target, the weights of its classes, and
        ``options``. Whoever had a part in the making of ``source`` has had one in this classifier,
        see :meth:`check_disjoint`.

        Args:
            source: Any fitted classifier of the same images.
            freeze: Keep the features as they are.
            **options: As in the constructor.
        """
        check_is_fitted(source, "net_")
        names = set(cls._get_param_names()) & set(source._get_param_names())
        settings = {name: getattr(source, name) for name in names - {"target", "class_weight"}}
        for name in ("image", "network", "frames"):
            if options.get(name, settings[name]) != settings[name]:
                raise InputError(
                    f"{name}={options[name]!r} came, and the classifier to start from has "
                    f"{settings[name]!r}; features fit the images and the network they are from"
                )
        taken = {"pretrained": saving.Pretrained.of(source), "freeze": freeze}
        return cls(**settings | options | taken)

    def fit(
        self,
        subjects: Sequence[tio.Subject],
        y: Sequence[str | None] | None = None,
        validation: Sequence[tio.Subject] | None = None,
    ) -> Self:
        """Train on subjects.

        Args:
            subjects: A list of them, or a dataset such as :func:`neuromix.augment.mix` returns.
            y: Replaces the labels that they carry.
            validation: Subjects by which the best weights are chosen and the probabilities
                calibrated; without them, the last weights are kept and nothing is calibrated.
        """
        _check_settings(self, subjects, validation)
        chosen = collect(self, subjects, y, "training")
        present = set(chosen.labels)
        order = CATEGORIES.get(self.target, ())
        classes = [c for c in order if c in present] if present <= set(order) else sorted(present)
        if len(classes) < 2:
            raise InputError(
                f"{len(chosen.labels)} of {len(subjects)} subjects have the label {self.target}, "
                f"with {len(classes)} class ({classes}); a classifier needs two: add subjects of "
                "another class or choose another target"
            )
        self.classes_ = np.array(classes)
        names = self._images()
        self.shapes_ = inputs.one_shape(chosen.rows, names)
        for name, shape in self.shapes_.items():
            if min(shape[1:]) < FEWEST_VOXELS:
                raise InputError(
                    f"images {name!r} have {' x '.join(map(str, shape[1:]))} voxels, and a network "
                    f"needs {FEWEST_VOXELS} along each axis; prepare them with a smaller spacing"
                )
        self.scale_ = inputs.scale_of(chosen.rows, names)
        self.temperature_ = 1.0
        self.record_ = chosen.record()
        if self.pretrained is not None:
            self.pretrained.check(self.shapes_)
            self.scale_ = self.pretrained.scale
            self.record_ = leakage.merge([self.record_, self.pretrained.record])
        codes = self._codes(chosen.labels)
        judged = None
        if validation is not None:
            held_out = collect(self, validation, None, "validation")
            self._check_shapes(held_out.rows)
            held_out.require_apart(chosen)
            judged = self._store(held_out.rows), self._codes(held_out.labels)
            self.record_ = leakage.merge([self.record_, held_out.record()])
        rng = np.random.default_rng([self.seed, len(codes)])
        batches = inputs.Batches(
            self._store(chosen.rows),
            codes,
            draw_order(len(codes), self.steps * self.batch_size, rng),
            seed=self.seed,
            shift=self.shift,
            flip=self.flip,
            augment=self.augment,
            kept=chosen.kept if self.flip or self.augment is not None else (),
            recode=self._recode if y is None else _same_code,
        )
        chosen.rows.clear()
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self._train(batches, judged)
        return self

    def predict_proba(self, subjects: Sequence[tio.Subject]) -> np.ndarray:
        """Probability of each of ``classes_``, (subjects, classes)."""
        check_is_fitted(self, "net_")
        if not len(subjects):
            raise InputError("no subjects came; a classifier needs some")
        logits = []
        for begin in range(0, len(subjects), 2 * self.batch_size):
            some = range(begin, min(begin + 2 * self.batch_size, len(subjects)))
            rows = [inputs.read(subjects[k], self._images(), self.frames) for k in some]
            self._check_shapes(rows)
            logits.append(self._logits(self._store(rows, torch.float32)))
        probabilities: np.ndarray = softmax(np.concatenate(logits) / self.temperature_, axis=1)
        return probabilities

    def predict(self, subjects: Sequence[tio.Subject]) -> np.ndarray:
        """The most probable class of each subject."""
        best = self.predict_proba(subjects).argmax(1)
        return self.classes_[best]

    def score(
        self, subjects: Sequence[tio.Subject], y: Sequence[str | None] | None = None
    ) -> float:
        """Balanced accuracy over the subjects that have the label."""
        labels = self.labels(subjects) if y is None else y
        pairs = [(s, label) for s, label in zip(subjects, labels, strict=True) if label]
        if not pairs:
            raise InputError(f"none of {len(subjects)} subjects has the label {self.target}")
        predicted = self.predict([subject for subject, _ in pairs])
        return float(balanced_accuracy_score([label for _, label in pairs], predicted))

    def labels(self, subjects: Iterable[Mapping[str, Any]]) -> list[str | None]:
        """The target of each subject; ``None`` where it has none."""
        key = "diagnosis" if self.target == "dementia" else self.target
        targets = []
        for subject in subjects:
            if key not in subject:
                raise InputError(f"subjects have no {key!r}; they have {sorted(subject)}")
            if isinstance(subject[key], float):
                raise InputError(f"{key} is a number; a classifier needs a label with classes")
            label = subject[key]
            targets.append(DEMENTIA.get(label) if self.target == "dementia" else label or None)
        return targets

    def check_disjoint(self, cohort: Cohort, *, voxels: bool = True) -> None:
        """Raise ``LeakageError`` if a subject of the cohort had a part in the training.

        Args:
            cohort: Subjects that shall judge the classifier.
            voxels: Compare images, too, which finds renamed subjects; each image is read.
        """
        check_is_fitted(self, "net_")
        leakage.check_disjoint(self.record_, cohort, voxels=voxels)

    def save(self, folder: str | Path) -> None:
        """Write settings as JSON and weights as safetensors."""
        check_is_fitted(self, "net_")
        saving.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote; it gives the very same probabilities."""
        return saving.load(cls, Path(folder))

    def _images(self) -> list[str]:
        return [self.image] if isinstance(self.image, str) else list(self.image)

    def _module(self) -> torch.nn.Module:
        """A network for ``classes_`` and ``shapes_``."""
        outputs = len(self.classes_) - self.is_ordinal
        channels = {name: shape[0] for name, shape in self.shapes_.items()}
        if len(channels) > 1:
            module: torch.nn.Module = ImageTowers(self.network, channels, outputs)
        else:
            (count,) = channels.values()
            module = NETWORKS[self.network](count, outputs)
        # A tenth faster on a CPU. The stub of Module.to lacks the argument.
        return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @property
    def is_ordinal(self) -> bool:
        """Whether the classes have an order that the network learns."""
        return False

    def _wrap(self, module: torch.nn.Module, **options: Any) -> training.VolumeNet:
        """The network under skorch."""
        net = training.VolumeNet(
            module,
            criterion=torch.nn.CrossEntropyLoss,
            train_split=None,
            precision=self.precision,
            is_ordinal=self.is_ordinal,
            is_frozen=self.freeze and self.pretrained is not None,
            device=training.device_for(self.device, self.precision),
            verbose=0,
            **options,
        )
        return net.initialize()

    def _train(
        self, batches: inputs.Batches, judged: tuple[inputs.Store, np.ndarray] | None
    ) -> None:
        module = self._module()
        if self.pretrained is not None:
            self.pretrained.give(module, freeze=self.freeze)
        every = self.check_every if judged else self.steps
        chunks = training.Chunks(self.steps, every, self.batch_size)
        callbacks: list[Any] = [
            GradientNormClipping(1.0),
            LRScheduler(
                torch.optim.lr_scheduler.OneCycleLR,
                max_lr=self.learning_rate,
                total_steps=self.steps + 1,
                step_every="batch",
            ),
        ]
        monitor = None
        if judged:
            store, codes = judged
            monitor = training.Monitor(
                lambda: self._logits(store), codes, self.monitor, self.patience, chunks
            )
            callbacks.append(monitor)
        with Progress(disable=not self.progress) as bars:
            bar = bars.add_task(f"Training on {self.target}", total=self.steps)
            callbacks.append(training.Bar(lambda: bars.update(bar, advance=1)))
            self.net_ = self._wrap(
                module,
                criterion__label_smoothing=SMOOTHING,
                criterion__weight=training.class_weights(
                    self.class_weight, self.classes_.tolist(), batches.codes
                ),
                optimizer=torch.optim.AdamW,
                optimizer__weight_decay=self.weight_decay,
                lr=self.learning_rate,
                batch_size=self.batch_size,
                iterator_train__sampler=chunks,
                iterator_train__collate_fn=_as_it_is,
                iterator_train__num_workers=self.workers,
                callbacks=callbacks,
                callbacks__print_log=None,
            )
            self.net_.notify("on_train_begin", X=batches, y=None)
            with contextlib.suppress(training.NoImprovement):
                # Not net.fit, which takes Ctrl-C for the end of the training.
                self.net_.fit_loop(batches, epochs=math.ceil(self.steps / every))
        module = self.net_.module_
        if not all(torch.isfinite(weight).all() for weight in module.parameters()):
            raise TrainingError(
                f"the weights became NaN within {chunks.done} steps; lower learning_rate="
                f"{self.learning_rate:g}, or look at the images with Cohort.validate"
            )
        self.waiting_ = self.net_.waiting
        self.record_ = leakage.merge([self.record_, *origin.records(self.net_.origins)])
        leakage.warn_untraced(self.record_)
        self.steps_, self.history_ = chunks.done, []
        if monitor is not None:
            module.load_state_dict(monitor.state)
            self.history_ = monitor.history
            self.steps_ = int(monitor.history[monitor.best]["step"])
            self.temperature_ = training.temperature(monitor.best_logits, monitor.codes)
        self.net_ = self._wrap(module)

    def _store(
        self, rows: list[dict[str, np.ndarray]], dtype: torch.dtype = torch.float16
    ) -> inputs.Store:
        return inputs.Store.of(rows, self.shapes_, self.scale_, dtype)

    def _logits(self, store: inputs.Store) -> np.ndarray:
        size = 2 * self.batch_size
        parts = [slice(begin, begin + size) for begin in range(0, len(store), size)]
        return np.concatenate([self.net_.logits(store.batch(part)) for part in parts])

    def _recode(self, subject: tio.Subject, code: int) -> int:
        """The class of a subject that an augmentation made."""
        label = self.labels([subject])[0]
        if label not in self.classes_:
            raise InputError(
                f"augment= made a subject with {self.target} {label!r}; the classes are "
                f"{', '.join(self.classes_)}: name the target in match=..."
            )
        return self.classes_.tolist().index(label)

    def _codes(self, labels: Sequence[str]) -> np.ndarray:
        """Numbers of classes."""
        numbers = {name: code for code, name in enumerate(self.classes_.tolist())}
        strange = sorted(set(labels) - set(numbers))
        if strange:
            raise InputError(
                f"validation subjects have {self.target} {strange[0]!r}, and training subjects "
                f"only {', '.join(numbers)}; leave those out, or train on that class"
            )
        return np.array([numbers[label] for label in labels], dtype=np.int64)

    def _check_shapes(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        for row in rows:
            for name, volume in row.items():
                if volume.shape != self.shapes_[name]:
                    raise InputError(
                        f"images {name!r} of shape {volume.shape} came, and the classifier was "
                        f"trained on {self.shapes_[name]}; bring them to one grid with `neuromix "
                        "prepare`"
                    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _same_code(subject: tio.Subject, code: int) -> int:
    return code


def _check_settings(classifier: Any, subjects: Any, validation: Any) -> None:
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
