"""What came out of :mod:`neuro`: a table, maps and matrices on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neuromix.augment.metrics import response_maps
from neuromix.experiments.frame.pages import Picture, report_page, to_png

if TYPE_CHECKING:
    from neuromix.augment.metrics.neuro import NeuroJudge

SHOWN = 8
"""Conditions that pictures show."""


def overview(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row a metric: real halves with their interval, each generator's value and its share."""
    first = next(iter(rows.values()))["metrics"]
    table = []
    for name, row in first.items():
        low, high = row["real_interval"]
        cells = {
            "metric": name.replace("_", " "),
            "kind": row["kind"],
            "real halves": f"{row['real']:.2f} ({low:.2f} to {high:.2f})",
        }
        for generator, content in rows.items():
            cells[generator] = _cell(content["metrics"].get(name))
        table.append(cells)
    return pd.DataFrame(table)


def page(results: Mapping[str, Any], shown: Mapping[str, np.ndarray], judge: NeuroJudge) -> str:
    """The report.

    Args:
        results: Of :func:`neuromix.experiments.quality.neuro.summarise`, with its ``config``.
        shown: Name to mean maps (C, V), drawn one below the other.
        judge: Who judged.
    """
    faults = pd.DataFrame(
        [
            {"generator": name, "metrics": ", ".join(found).replace("_", " ") or "none"}
            for name, found in results["failed"].items()
        ]
    )
    return report_page(
        title="Evaluation of task fMRI on real runs",
        verdict=results["verdict"],
        tables=[
            ("Real halves, and trivial generators with their share of them",
             overview(results["rows"])),
            ("Metrics in which a generator is surely below 0.9 of real", faults),
        ],
        figures=[
            glass_brains(shown, judge.conditions, judge.mask, judge.affine),
            matrices({name: response_maps.rdm(each) for name, each in shown.items()},
                     judge.conditions),
        ],
        methods=[
            "Each value compares as many subjects as half of the held-out ones with one half of "
            "them, over random splits; real is one half against the other. The interval holds 95 % "
            "of the splits. A share is the value over that of real halves (distances: of one less "
            "the value; levels: one less the relative difference).",
        ],
        config=results["config"],
        made_by=results["made by"],
    )  # fmt: skip


def glass_brains(
    shown: Mapping[str, np.ndarray],
    conditions: Sequence[str],
    mask: np.ndarray,
    affine: np.ndarray,
) -> Picture:
    """Mean effect maps seen through the brain from above, a row each and a column a condition.

    Args:
        shown: Name to maps (C, V) in per cent.
        conditions: Their names, of which the first are drawn.
        mask: Of the V voxels, (X, Y, Z).
        affine: Voxel to world in mm, (4, 4).
    """
    import nibabel as nib
    from matplotlib.figure import Figure
    from nilearn.plotting import plot_glass_brain

    names = list(conditions)[:SHOWN]
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


def matrices(shown: Mapping[str, np.ndarray], conditions: Sequence[str]) -> Picture:
    """Matrices of dissimilarity between conditions, side by side.

    Args:
        shown: Name to matrix (C, C).
        conditions: Names of its rows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(shown) + 1, 3.6), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    top = max(float(np.nanmax(each)) for each in shown.values())
    for axis, (title, each) in zip(axes, shown.items(), strict=True):
        picture = axis.imshow(each, vmin=0, vmax=top, cmap="viridis")
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_yticks(range(len(conditions)), conditions, fontsize=7)
    figure.colorbar(picture, ax=axes, label="1 - correlation")
    return to_png(figure), "Dissimilarity of conditions: one less the correlation of their maps."


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['value']:.2f}" + (f" ({row['share']:.2f})" if row["share"] is not None else "")
