"""Results as one standalone page: a verdict, tables and pictures, and nothing to download."""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

Picture = tuple[bytes, str]
"""A PNG and what it shows, in words."""


def report_page(
    *,
    title: str,
    verdict: str,
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
    figures: Sequence[Picture] = (),
    config: Mapping[str, Any] | None = None,
) -> str:
    """Render a page.

    Args:
        title: Of the page.
        verdict: What came out, in a sentence; the first thing that a reader sees.
        tables: Headed tables.
        figures: Pictures with their captions, which screen readers speak as well.
        config: What the run was made with.

    Returns:
        HTML that needs no other file and no network.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title,
        verdict=verdict,
        tables=[
            (heading, list(table.columns), table.map(_show).to_numpy().tolist())
            for heading, table in tables
        ],
        figures=[(base64.b64encode(png).decode(), caption) for png, caption in figures],
        config=dict(config or {}),
        versions={
            "Python": platform.python_version(),
            **{name: version(name) for name in ("neuromix", "torch", "torchio", "nilearn")},
        },
    )


def slices(
    volumes: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    upper: float | None = None,
    at: tuple[float, float, float] = (0.45, 0.5, 0.5),
) -> bytes:
    """A PNG with a sagittal, a coronal and an axial slice of each volume.

    Args:
        volumes: Arrays (X, Y, Z) along right, anterior, superior.
        titles: One a volume.
        upper: Value shown as white; each volume's own maximum by default.
        at: Where the slices lie, as shares of the axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 * len(volumes), 6), layout="constrained", facecolor="black")
    axes = figure.subplots(3, len(volumes), squeeze=False)
    for column, (volume, title) in enumerate(zip(volumes, titles, strict=True)):
        x, y, z = (int(share * side) for share, side in zip(at, volume.shape, strict=True))
        top = upper or float(np.percentile(volume, 99.8)) or 1.0
        for row, image in enumerate((volume[:, :, z], volume[:, y], volume[x])):
            axis = axes[row, column]
            axis.imshow(image.T, origin="lower", cmap="gray", vmin=0, vmax=top)
            axis.set_axis_off()
        axes[0, column].set_title(title, color="white", fontsize=9)
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def rich_table(table: pd.DataFrame, *, title: str = "") -> Table:
    """A pandas table for the terminal."""
    from rich.table import Table

    result = Table(title=title, title_justify="left")
    for column in table.columns:
        result.add_column(str(column), overflow="fold")
    for row in table.map(_show).itertuples(index=False):
        result.add_row(*row)
    return result


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
