"""Figures of what classifiers are worth: curves with intervals, ROC, confusion, reliability.

Each is a picture with its caption, and the numbers in words for those who hear the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from neuromix.experiments.frame.pages import Picture, to_png

STYLES = ("o-", "s--", "^-.", "D:", "v-", "P--", "X-.", "*:")
"""Markers and lines tell curves apart without colour."""
CROWD = 4
"""Curves beyond which the legend stands beside the axes."""
BINS = 10
"""Of predicted probability, in the reliability diagram."""


class Point(NamedTuple):
    """A score at some place of an axis, with its interval."""

    x: float
    y: float
    low: float
    high: float


class Scores(NamedTuple):
    """What runs said of subjects: pooled over the seeds."""

    is_case: np.ndarray
    """Whether each subject has the class, (n,)."""
    probability: np.ndarray
    """Of that class, (n,)."""


def curves(
    series: Mapping[str, Sequence[Point]],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
    log: bool = False,
    levels: Mapping[str, float] | None = None,
) -> Picture:
    """Scores against a number, with intervals.

    Args:
        series: Points of each curve.
        xlabel: Of the horizontal axis.
        ylabel: Of the vertical axis.
        caption: Of the picture.
        log: Whether the horizontal axis is logarithmic.
        levels: Horizontal lines to compare with, such as chance.
    """
    from matplotlib.figure import Figure

    is_crowded = len(series) > CROWD
    figure = Figure(figsize=(8.6 if is_crowded else 6.5, 4.2), layout="constrained")
    axis = figure.subplots()
    places = sorted({point.x for points in series.values() for point in points})
    reach = min(np.diff(places), default=1.0) if not log else 0.0
    told = []
    for k, (name, points) in enumerate(series.items()):
        x, y, low, high = np.array(sorted(points)).T
        # Beside each other, so that intervals are seen apart.
        offset = k - (len(series) - 1) / 2
        x = x * 1.02**offset if log else x + 0.03 * reach * offset
        errors = np.nan_to_num(np.maximum([y - low, high - y], 0))
        style = STYLES[k % len(STYLES)]
        axis.errorbar(x, y, yerr=errors, fmt=style, capsize=3, markersize=5, label=name)
        numbers = [f"{p.y:.3g} ({p.low:.3g} to {p.high:.3g}) at {p.x:g}" for p in sorted(points)]
        told.append(f"{name}: {', '.join(numbers)}")
    for k, (name, level) in enumerate((levels or {}).items()):
        axis.axhline(level, color="gray", linewidth=1, linestyle=":")
        side, place = ("right", 1) if k % 2 else ("left", 0)
        axis.annotate(name, (place, level), xycoords=("axes fraction", "data"), fontsize=8,
                      ha=side, va="bottom", color="#555")  # fmt: skip
        told.append(f"{name}: {level:.3g}")
    axis.margins(y=0.08)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        axis.set_xscale("log")
    axis.set_xticks(places, [f"{x:g}" for x in places])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    if is_crowded:
        figure.legend(fontsize=8, loc="outside right upper")
    else:
        axis.legend(fontsize=8)
    return to_png(figure), caption, f"{ylabel} by {xlabel}. {'; '.join(told)}."


def roc(arms: Mapping[str, Scores], *, case: str, caption: str) -> Picture:
    """ROC curves.

    Args:
        arms: Scores of each.
        case: The class that is to be found.
        caption: Of the picture.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_auc_score, roc_curve

    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    told = []
    for k, (name, scores) in enumerate(arms.items()):
        false, true, _ = roc_curve(scores.is_case, scores.probability)
        area = float(roc_auc_score(scores.is_case, scores.probability))
        line = STYLES[k % len(STYLES)].lstrip("os^DvPX*")
        axis.plot(false, true, line, label=f"{name}: area {area:.3f}")
        told.append(f"{name} {area:.3f}")
    axis.plot([0, 1], [0, 1], color="gray", linewidth=1)
    axis.set(xlabel=f"share of the others called {case}", ylabel=f"share of {case} found")
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return to_png(figure), caption, f"ROC curves for {case}. Area under them: {', '.join(told)}."


def confusion(arms: Mapping[str, np.ndarray], *, classes: Sequence[str], caption: str) -> Picture:
    """Confusion matrices, as shares of each true class.

    Args:
        arms: Counts of each, (truth, predicted).
        classes: Names, in the order of rows and columns.
        caption: Of the picture.
    """
    from matplotlib.figure import Figure

    wide = min(len(arms), 3)
    high = -(-len(arms) // wide)
    figure = Figure(figsize=(2.4 * wide + 0.4, 2.9 * high), layout="constrained")
    told = []
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    for axis in axes[len(arms) :]:
        axis.set_axis_off()
    for axis, (name, counts) in zip(axes, arms.items(), strict=False):
        table = np.asarray(counts, float)
        shares = table / np.maximum(table.sum(1, keepdims=True), 1)
        axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        for (row, column), share in np.ndenumerate(shares):
            ink = "white" if share > 0.5 else "black"
            axis.text(column, row, f"{100 * share:.0f} %", ha="center", va="center", color=ink)
        axis.set_xticks(range(len(classes)), classes)
        axis.set_yticks(range(len(classes)), classes)
        axis.set(xlabel="predicted", ylabel="true")
        axis.set_title(name, fontsize=9)
        right = [f"{100 * shares[k, k]:.0f} % of {c}" for k, c in enumerate(classes)]
        told.append(f"{name}: {', '.join(right)} are recognised")
    return to_png(figure), caption, f"Confusion matrices. {'; '.join(told)}."


def reliability(arms: Mapping[str, Scores], *, case: str, caption: str) -> Picture:
    """How often what was said with some probability is so.

    Args:
        arms: Scores of each.
        case: The class that the probability is of.
        caption: Of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    told = []
    for k, (name, scores) in enumerate(arms.items()):
        bins = np.minimum((scores.probability * BINS).astype(int), BINS - 1)
        used = np.unique(bins)
        said = [float(scores.probability[bins == b].mean()) for b in used]
        seen = [float(scores.is_case[bins == b].mean()) for b in used]
        axis.plot(said, seen, STYLES[k % len(STYLES)], markersize=5, label=name)
        share = [np.mean(bins == b) for b in used]
        off = float(np.dot(share, np.abs(np.subtract(said, seen))))
        told.append(f"{name} {off:.3f}")
    axis.plot([0, 1], [0, 1], color="gray", linewidth=1)
    axis.set(xlabel=f"probability of {case} that was said", ylabel=f"share of {case}")
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    text = f"Reliability for {case}. Mean distance from the diagonal: {', '.join(told)}."
    return to_png(figure), caption, text


def bars(rows: Sequence[tuple[str, Any]], *, xlabel: str, caption: str) -> Picture:
    """Differences with intervals, one below the other, about a line at zero.

    Args:
        rows: Name and :class:`Point` of each, of which ``x`` is left aside.
        xlabel: Of the horizontal axis.
        caption: Of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 0.8 + 0.36 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for k, (_, point) in enumerate(rows):
        errors = np.nan_to_num(np.maximum([[point.y - point.low], [point.high - point.y]], 0))
        axis.errorbar(point.y, k, xerr=errors, fmt="o", capsize=3, color="#1f5fa8")
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.invert_yaxis()
    axis.set_xlabel(xlabel)
    axis.grid(alpha=0.3, axis="x")
    told = [f"{name}: {p.y:.3g} ({p.low:.3g} to {p.high:.3g})" for name, p in rows]
    return to_png(figure), caption, f"{xlabel}. {'; '.join(told)}."
