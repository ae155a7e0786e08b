"""Pictures of pages: each with its caption, and the numbers in words for those who hear the page.

Markers and lines tell curves apart without colour.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neuromix.augment.data.conditions import known
from neuromix.experiments.frame.findings import estimate_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = tuple[bytes, str] | tuple[bytes, str, str]
"""A PNG, its caption and, where that is not enough, in words what a sighted reader sees."""

WHITE = 2.5
"""Mean diffusivity that pictures show as white, in 1e-3 mm²/s."""
STYLES = ("o-", "s--", "^-.", "D:", "v-", "P--", "X-.", "*:")
CROWD = 4
"""Curves beyond which the legend stands beside the axes."""
CONDITIONS = 8
"""That glass brains show."""
FEW_POINTS = 20
"""Points of a line up to which each has a marker."""


class Point(NamedTuple):
    """A score at some place of an axis, with its interval."""

    x: float
    y: float
    low: float
    high: float

    @property
    def errors(self) -> list[list[float]]:
        """Lengths below and above, (2, 1), for matplotlib; none where a bound is not known."""
        off = [[self.y - self.low], [self.high - self.y]]
        return [[float(np.nan_to_num(max(each[0], 0)))] for each in off]


class Line(NamedTuple):
    """Values along an axis, with a band from ``low`` to ``high`` if there is one, (n,) each."""

    x: Any
    y: Any
    low: Any = None
    high: Any = None


class Scores(NamedTuple):
    """What runs said of subjects, pooled over the seeds."""

    is_case: np.ndarray
    """Whether each subject has the class, (n,)."""
    probability: np.ndarray
    """Of that class, (n,)."""


def label_text(row: Mapping[str, Any]) -> str:
    """Sex, age and diagnosis of a subject, as far as they are known."""
    age = f"{row['age']:.0f}" if known(row.get("age")) else ""
    return " ".join(filter(None, (row.get("sex"), age, row.get("diagnosis"))))


def to_png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def slices(
    volumes: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    upper: float | None = None,
    at: tuple[float, float, float] = (0.45, 0.5, 0.5),
) -> bytes:
    """A PNG with an axial, a coronal and a sagittal slice of each volume (X, Y, Z), RAS.

    They lie at shares of the axes; from ``upper`` on, or the own maximum, values are white.
    """
    figure, axes = _axes(1.9 * len(volumes), 6, 3, len(volumes), facecolor="black")
    for column, (volume, title) in enumerate(zip(volumes, titles, strict=True)):
        x, y, z = (int(share * side) for share, side in zip(at, volume.shape, strict=True))
        planes = (volume[:, :, z], volume[:, y], volume[x])
        top = upper or float(np.percentile(volume, 99.8)) or 1.0
        for axis, image in zip(axes[:, column], planes, strict=True):
            axis.imshow(image.T, origin="lower", cmap="gray", vmin=0, vmax=top)
            axis.set_axis_off()
        axes[0, column].set_title(title, color="white", fontsize=9)
    return to_png(figure)


def curves(
    series: Mapping[str, Sequence[Point]],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
    log: bool = False,
    levels: Mapping[str, float] | None = None,
) -> Picture:
    """Scores with intervals against a number, and levels to compare with, such as chance."""
    is_crowded = len(series) > CROWD
    figure, ((axis,),) = _axes(8.6 if is_crowded else 6.5, 4.2)
    places = sorted({point.x for points in series.values() for point in points})
    reach = min(np.diff(places), default=1.0) if not log else 0.0
    words = []
    for k, (name, points) in enumerate(series.items()):
        ordered = sorted(points)
        # Beside each other, so that intervals are seen apart.
        offset = k - (len(series) - 1) / 2
        x = [p.x * 1.02**offset if log else p.x + 0.03 * reach * offset for p in ordered]
        errors = np.concatenate([p.errors for p in ordered], axis=1)
        style = STYLES[k % len(STYLES)]
        axis.errorbar(x, [p.y for p in ordered], yerr=errors, fmt=style, capsize=3, markersize=5,
                      label=name)  # fmt: skip
        numbers = [f"{estimate_text(p.y, p[2:])} at {p.x:g}" for p in ordered]
        words.append(f"{name}: {', '.join(numbers)}")
    for k, (name, level) in enumerate((levels or {}).items()):
        axis.axhline(level, color="gray", linewidth=1, linestyle=":")
        side, place = ("right", 1) if k % 2 else ("left", 0)
        axis.annotate(name, (place, level), xycoords=("axes fraction", "data"), fontsize=8,
                      ha=side, va="bottom", color="#555")  # fmt: skip
        words.append(f"{name}: {level:.3g}")
    axis.margins(y=0.08)
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear")
    axis.set_xticks(places, [f"{x:g}" for x in places])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    if is_crowded:
        figure.legend(fontsize=8, loc="outside right upper")
    else:
        axis.legend(fontsize=8)
    return to_png(figure), caption, f"{ylabel} by {xlabel}. {'; '.join(words)}."


def panels(
    content: Mapping[str, Mapping[str, Line]],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
    log: bool = False,
    level: float | None = None,
) -> Picture:
    """Lines with their bands in small axes side by side, by title; a level to compare with."""
    wide = min(len(content), 3)
    high = -(-len(content) // wide)
    size = (6.5, 4.0) if len(content) == 1 else (3.6 * wide, 2.4 * high + 0.4)
    figure, axes = _axes(*size, high, wide, sharex=True)
    for axis in axes.ravel()[len(content) :]:
        axis.set_axis_off()
    for axis, (title, lines) in zip(axes.ravel(), content.items(), strict=False):
        for k, (name, line) in enumerate(lines.items()):
            style = STYLES[k % len(STYLES)]
            (drawn,) = axis.plot(
                line.x, line.y, style if len(line.x) <= FEW_POINTS else style[1:], lw=1.2,
                markersize=4, label=name,
            )  # fmt: skip
            if line.low is not None:
                axis.fill_between(
                    line.x, line.low, line.high, color=drawn.get_color(), alpha=0.2, lw=0
                )
        if level is not None:
            axis.axhline(level, color="black", linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_xscale("log" if log else "linear")
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    return to_png(figure), caption, " ".join([caption, "; ".join(filter(None, content))])


def roc(arms: Mapping[str, Scores], *, case: str, caption: str) -> Picture:
    """ROC curves; ``case`` is the class that is to be recognised."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axis = _square(f"share of the others called {case}", f"share of {case} found")
    words = []
    for k, (name, scores) in enumerate(arms.items()):
        false, true, _ = roc_curve(scores.is_case, scores.probability)
        area = float(roc_auc_score(scores.is_case, scores.probability))
        axis.plot(false, true, STYLES[k % len(STYLES)][1:], label=f"{name}: area {area:.3f}")
        words.append(f"{name} {area:.3f}")
    axis.legend(fontsize=8, loc="lower right")
    return to_png(figure), caption, f"ROC curves for {case}. Area under them: {', '.join(words)}."


def confusion(arms: Mapping[str, np.ndarray], *, classes: Sequence[str], caption: str) -> Picture:
    """Counts (truth, predicted) of each arm, in the order of classes, as shares of each truth."""
    wide = min(len(arms), 3)
    high = -(-len(arms) // wide)
    figure, axes = _axes(2.4 * wide + 0.4, 2.9 * high, high, wide)
    words = []
    for axis in axes.ravel()[len(arms) :]:
        axis.set_axis_off()
    for axis, (name, counts) in zip(axes.ravel(), arms.items(), strict=False):
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
        words.append(f"{name}: {', '.join(right)} are recognised")
    return to_png(figure), caption, f"Confusion matrices. {'; '.join(words)}."


def bars(rows: Sequence[tuple[str, Point]], *, xlabel: str, caption: str) -> Picture:
    """Named differences with intervals, one below the other, about a line at zero."""
    figure, ((axis,),) = _axes(6.5, 0.8 + 0.36 * len(rows))
    for k, (_, point) in enumerate(rows):
        axis.errorbar(point.y, k, xerr=point.errors, fmt="o", capsize=3, color="#1f5fa8")
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.invert_yaxis()
    axis.set_xlabel(xlabel)
    axis.grid(alpha=0.3, axis="x")
    words = [f"{name}: {estimate_text(p.y, p[2:])}" for name, p in rows]
    return to_png(figure), caption, f"{xlabel}. {'; '.join(words)}."


def glass_brains(
    shown: Mapping[str, np.ndarray],
    conditions: Sequence[str],
    mask: np.ndarray,
    affine: np.ndarray,
) -> Picture:
    """Mean effect maps seen through the brain from above, a row each and a column a condition.

    Maps (C, V) are in per cent, of the V voxels of a mask (X, Y, Z); the first C are drawn.
    """
    import nibabel as nib
    from matplotlib.figure import Figure
    from nilearn.plotting import plot_glass_brain

    names = list(conditions)[:CONDITIONS]
    top = max(float(np.nanquantile(np.abs(each), 0.998)) for each in shown.values())
    wide, high = 1.7 * len(names) + 0.4, 2.0 * len(shown) + 0.3
    figure = Figure(figsize=(wide, high))
    room = {"left": 0.4 / wide, "right": 1, "top": 1 - 0.3 / high, "bottom": 0, "wspace": 0,
            "hspace": 0}  # fmt: skip
    axes = figure.subplots(len(shown), len(names), squeeze=False, gridspec_kw=room)
    for k, (row, (title, each)) in enumerate(zip(axes, shown.items(), strict=True)):
        for axis, name, effect in zip(row, names, each, strict=False):
            volume = np.zeros(mask.shape, dtype=np.float32)
            volume[mask] = np.nan_to_num(effect)
            plot_glass_brain(
                nib.Nifti1Image(volume, affine), axes=axis, display_mode="z", colorbar=False,
                plot_abs=False, vmin=-top, vmax=top, annotate=False, threshold=0.2 * top,
                symmetric_cbar=True,
            )  # fmt: skip
            if k == 0:  # nilearn hides the axis and its title
                axis.text(0.5, 1, name, transform=axis.transAxes, fontsize=8, ha="center")
        row[0].text(0, 0.5, title, transform=row[0].transAxes, rotation=90, fontsize=8,
                    va="center", ha="right")  # fmt: skip
    caption = (
        f"Mean effects of conditions, {', '.join(shown)}: the strongest voxel along each line from "
        f"above, {-top:.2g} to {top:.2g} per cent, weaker ones than {0.2 * top:.2g} left out."
    )
    return to_png(figure), caption


def _axes(
    width: float, height: float, rows: int = 1, columns: int = 1, facecolor: str = "white",
    **options: Any,
) -> tuple[Figure, Any]:  # fmt: skip
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=facecolor)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _square(xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    """Axes with a diagonal."""
    figure, ((axis,),) = _axes(5, 5)
    axis.plot([0, 1], [0, 1], color="gray", linewidth=1)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    return figure, axis
