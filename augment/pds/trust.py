"""Is a source like those that a completer has learned from?

Of each image of the training people seven figures are looked at: how many voxels have signal, the
mean and the deviation of the values there, how grainy they are (power of differences of neighbours
over the variance), and where the middle of the signal lies. The range that is kept of each goes
beyond that of the training people by :data:`FAR` of its width, or as far as one new person in
:data:`ODD` would lie outside if the figures were normal (Student's t: few people say little). A
source outside a range gives rise to doubt, in words.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from neuromix.augment.pds.images import Images, support_of

FAR = 0.5
"""How far outside the range of training people, as a share of its width."""
ODD = 1000
"""Of so many people one lies outside by chance."""
NARROWEST = 0.02
"""Least width of a range, as a share of its larger end."""
FIGURES = {
    "size": "its brain has {value:.0f} voxels",
    "level": "the mean of its values is {value:.3g}",
    "contrast": "its values differ by {value:.3g}",
    "grain": "its grain is {value:.2g}",
    "x": "its middle lies at voxel {value:.1f} of the first axis",
    "y": "its middle lies at voxel {value:.1f} of the second axis",
    "z": "its middle lies at voxel {value:.1f} of the third axis",
}


def figures(volume: Tensor) -> dict[str, float]:
    """The figures of channels (N, X, Y, Z)."""
    inside = support_of(volume[None])[0, 0] > 0
    mean = volume.mean(0)
    values = mean[inside]
    if len(values) < 2:
        return dict.fromkeys(FIGURES, 0.0)
    steps = [
        (mean.diff(dim=axis) ** 2)[
            inside.narrow(axis, 1, mean.shape[axis] - 1)
            & inside.narrow(axis, 0, mean.shape[axis] - 1)
        ].mean()
        for axis in range(3) if mean.shape[axis] > 1
    ]  # fmt: skip
    grain = torch.stack(steps).nanmean() / values.var().clamp_min(1e-12)
    middle = inside.nonzero().float().mean(0)
    made = [len(values), values.mean(), values.std(), grain, *middle]
    return {name: float(value) for name, value in zip(FIGURES, made, strict=True)}


def ranges(images: Images, names: tuple[str, ...]) -> dict[str, dict[str, list[float]]]:
    """By image and figure the least and the largest that are expected of a new person."""
    result = {}
    for m, name in enumerate(names):
        rows = [figures(images.chosen([int(k)])[0, m]) for k in images.having([m])]
        result[name] = {figure: _range(np.array([r[figure] for r in rows])) for figure in FIGURES}
    return result


def _range(values: np.ndarray) -> list[float]:
    """Where a figure of a new person may lie."""
    low, high = values.min(), values.max()
    beyond = FAR * max(high - low, NARROWEST * max(abs(low), abs(high)))
    count = len(values)
    spread = values.std(ddof=1) * (1 + 1 / count) ** 0.5 if count > 1 else 0.0
    reach = stats.t.ppf(1 - 0.5 / ODD, max(count - 1, 1)) * spread
    mean = values.mean()
    return [float(min(low - beyond, mean - reach)), float(max(high + beyond, mean + reach))]


def doubts(name: str, volume: Tensor, known: Mapping[str, list[float]]) -> list[str]:
    """Why an image is not to be trusted as a source, a sentence each; none if it is."""
    result = []
    for figure, value in figures(volume).items():
        low, high = known[figure]
        if not low <= value <= high:
            text = FIGURES[figure].format(value=value)
            result.append(f"{name}: {text}, and is expected from {low:.3g} to {high:.3g}")
    return result
