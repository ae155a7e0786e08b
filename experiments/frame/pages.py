"""Results as one standalone page: a verdict, tables and pictures, and nothing to download."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment import software

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

Picture = tuple[bytes, str] | tuple[bytes, str, str]
"""A PNG, its caption and, where that is not enough, in words what a sighted reader sees."""
Viewer = tuple[str, str]
"""A standalone HTML page that shows a volume, and its caption."""

VIEWER_STYLE = (
    "html { color-scheme: dark } body { margin: 0; background: #000 } canvas { width: 100% } "
    "canvas + div { display: none !important }"  # its slider of opacity, of an overlay over nothing
)


def report_page(
    *,
    title: str,
    verdict: str,
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
    figures: Sequence[Picture] = (),
    viewers: Sequence[Viewer] = (),
    details: Sequence[tuple[str, pd.DataFrame]] = (),
    methods: Sequence[str] = (),
    warnings: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    made_by: Mapping[str, str] | None = None,
) -> str:
    """Render a page that is read on a phone, in the dark, on paper, and by a screen reader.

    Args:
        title: Of the page.
        verdict: What came out, in a sentence; the first thing that a reader sees.
        tables: Headed tables; the first column names the rows.
        figures: Pictures with their captions, which screen readers speak as well.
        viewers: Of :func:`viewer`, for a reader who wants to look for herself.
        details: Headed tables to look things up in, after the pictures.
        methods: Paragraphs that say how it was done.
        warnings: What a reader must know before she believes the verdict.
        config: What the run was made with.
        made_by: Software to version, of the run; that of today by default.

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
        tables=[_cells(*each) for each in tables],
        details=[_cells(*each) for each in details],
        figures=[(base64.b64encode(f[0]).decode(), f[1], f[-1]) for f in figures],
        viewers=viewers,
        methods=methods,
        warnings=warnings,
        config=dict(config or {}),
        versions=made_by or software.versions(),
    )


def viewer(volume: np.ndarray, affine: np.ndarray, caption: str, *, upper: float) -> Viewer:
    """An interactive view of a volume, made by nilearn; it needs no network.

    Args:
        volume: (X, Y, Z).
        affine: Voxel to world in mm, (4, 4).
        caption: What it is.
        upper: Value shown as white.
    """
    import nibabel as nib
    from nilearn.plotting import view_img

    view = view_img(
        nib.Nifti1Image(np.minimum(volume, upper).astype(np.float32), affine),
        bg_img=None,
        threshold=None,
        black_bg=True,
        cmap="gray",
        symmetric_cmap=False,
        vmin=0,
        vmax=upper,
        cut_coords=(0, 0, 0),
        colorbar=True,
        annotate=False,
    )
    # The page that nilearn makes names an icon on the network.
    page = re.sub(r"<link[^>]*rel=\"icon\"[^>]*>", "", view.get_standalone())
    return page.replace("</head>", f"<style>{VIEWER_STYLE}</style></head>", 1), caption


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


def _cells(heading: str, table: pd.DataFrame) -> tuple[str, list[str], list[list[str]]]:
    return heading, list(table.columns), table.map(_show).to_numpy().tolist()


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
