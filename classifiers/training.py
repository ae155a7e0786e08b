"""How a classifier is trained: skorch's loop, in chunks of steps between which it is judged."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch.nn import functional
from torch.utils.data import Sampler

from neuromix.augment.diffusion.precision import require_bf16
from neuromix.augment.errors import InputError, require_choice
from neuromix.classifiers.networks import ordinal

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
MONITORS = ("loss", "balanced_accuracy")


class VolumeNet(NeuralNet):
    """A network under skorch, in mixed precision, of which the features may be frozen.

    ``is_ordinal`` outputs are those of :func:`neuromix.classifiers.networks.ordinal`; of frozen
    features the running statistics stay, too.
    """

    def __init__(
        self,
        *args: Any,
        precision: str = "float32",
        is_ordinal: bool = False,
        is_frozen: bool = False,
        **kwargs: Any,
    ) -> None:
        self.precision = precision
        self.is_ordinal = is_ordinal
        self.is_frozen = is_frozen
        self.waiting = 0.0
        self.origins: set[str] = set()
        super().__init__(*args, **kwargs)

    def infer(self, x: Any, **fit_params: Any) -> torch.Tensor:
        """Logits in float32."""
        dtype = PRECISIONS[self.precision]
        kind = torch.device(self.device).type
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            outputs = super().infer(x, **fit_params)
        return ordinal(outputs) if self.is_ordinal else outputs.float()

    def logits(self, batch: Any) -> np.ndarray:
        """Logits of a batch, in float64."""
        self._set_training(False)
        with torch.inference_mode():
            logits: np.ndarray = self.infer(batch).cpu().numpy().astype(float)
        return logits

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Batches; in training, the time in which the network waits for them is added up."""
        batches = super().get_iterator(dataset, training=training)
        return TimedBatches(batches, self) if training else batches

    def _set_training(self, training: bool = True) -> None:
        super()._set_training(training)
        if self.is_frozen:
            for module in features_of(self.module_):
                module.eval()


@dataclass
class TimedBatches:
    """Batches of :class:`Batches`, of which the network gets inputs and classes.

    The seconds that each is waited for are added to ``net.waiting``, and where its synthetic
    subjects are from to ``net.origins``.
    """

    batches: Any
    net: VolumeNet

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.batches)
        while True:
            begun = time.perf_counter()
            batch = next(iterator, None)
            self.net.waiting += time.perf_counter() - begun
            if batch is None:
                return
            *pair, origins = batch
            self.net.origins |= origins
            yield pair


def features_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts of a network that a transfer takes over."""
    return [part for name, part in module.named_modules() if name.split(".")[-1] == "features"]


def device_for(device: str, precision: str) -> str:
    """The device to compute on; one that is absent, or can't do the precision, is refused."""
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not has_cuda):
        here = "cpu and cuda" if has_cuda else "cpu"
        raise InputError(f"device {device!r} came; auto, {here} are allowed on this machine")
    require_choice("precision", precision, PRECISIONS)
    if precision == "bfloat16":
        require_bf16(kind, [torch.nn.Conv3d(1, 1, 1)])
    return device


def class_weights(
    given: str | Mapping[str, float] | None, names: Sequence[str], codes: np.ndarray
) -> torch.Tensor | None:
    """Weight of each class in the loss: ``None``, ``balanced`` or as it is given for each."""
    if given is None:
        return None
    if given != "balanced" and (isinstance(given, str) or set(given) != set(names)):
        raise InputError(
            f"class_weight={given!r} came; allowed are None, 'balanced' and a weight for each of "
            f"{', '.join(names)}"
        )
    classes = np.array(names)
    weights = compute_class_weight(given, classes=classes, y=classes[codes])
    return torch.tensor(weights, dtype=torch.float32)


class Chunks(Sampler[int]):
    """Positions of the training, a chunk of ``every`` steps at a time."""

    def __init__(self, steps: int, every: int, batch_size: int) -> None:
        self.steps, self.every, self.batch_size = steps, every, batch_size
        self.done = 0

    def __iter__(self) -> Iterator[int]:
        begin = self.done
        self.done = min(begin + self.every, self.steps)
        return iter(range(begin * self.batch_size, self.done * self.batch_size))

    def __len__(self) -> int:
        return min(self.every, self.steps - self.done) * self.batch_size


class NoImprovement(Exception):
    """Validation got no better for long enough."""


@dataclass(eq=False)
class Monitor(Callback):
    """Judges the network after every chunk of steps, and keeps the best weights.

    ``logits`` are those of the validation subjects by the network at hand. Of equal accuracies, the
    lower loss wins. After ``patience`` chunks without a better one it stops.
    """

    logits: Callable[[], np.ndarray]
    codes: np.ndarray
    by: str
    patience: int | None
    chunks: Chunks
    history: list[dict[str, float]] = field(init=False, default_factory=list)
    best: int = field(init=False, default=0)
    state: dict[str, torch.Tensor] = field(init=False, default_factory=dict)
    best_logits: np.ndarray = field(init=False, default_factory=lambda: np.empty(0))

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Loss and balanced accuracy on the validation subjects; the best weights are kept."""
        logits = self.logits()
        tensor, codes = torch.from_numpy(logits), torch.from_numpy(self.codes)
        right = logits.argmax(1) == self.codes
        now = {
            "step": self.chunks.done,
            "loss": float(functional.cross_entropy(tensor, codes)),
            "balanced_accuracy": float(
                np.mean([right[self.codes == code].mean() for code in np.unique(self.codes)])
            ),
        }
        self.history.append(now)
        if len(self.history) == 1 or self._rank(now) > self._rank(self.history[self.best]):
            self.best = len(self.history) - 1
            self.state = copy.deepcopy(net.module_.state_dict())
            self.best_logits = logits
        if self.patience is not None and len(self.history) - 1 - self.best >= self.patience:
            raise NoImprovement

    def _rank(self, row: dict[str, float]) -> tuple[float, float]:
        loss = row["loss"] if math.isfinite(row["loss"]) else math.inf
        return (row["balanced_accuracy"] if self.by == "balanced_accuracy" else 0.0, -loss)


@dataclass(eq=False)
class Bar(Callback):
    """Moves a progress bar on by a step."""

    advance: Callable[[], None]

    def on_batch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Advance by the step that was done."""
        self.advance()


def temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    """What to divide logits by, so that they are as sure as they are right.

    It minimises the negative log likelihood (Guo et al., On calibration of modern neural networks,
    2017) of its logarithm, which is a standard normal deviate beforehand: a few subjects who are
    all told right do not make a classifier certain. No predicted class changes.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        said = log_softmax(logits / math.exp(log_temperature), axis=1)
        return log_temperature**2 / 2 - float(said[np.arange(len(codes)), codes].sum())

    return math.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
