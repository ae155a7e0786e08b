"""Results as one standalone page: a verdict, findings, tables and pictures; nothing to download."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment import software
from neuromix.experiments.frame.findings import findings_table

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from neuromix.experiments.frame.figures import Picture

Viewer = tuple[str, str]
"""A standalone HTML page that shows a volume, and its caption."""

VIEWER_STYLE = (
    "html { color-scheme: dark } body { margin: 0; background: #000 } canvas { width: 100% } "
    "canvas + div { display: none !important }"  # its slider of opacity, of an overlay over nothing
)


def report_page(
    results: Mapping[str, Any],
    *,
    title: str,
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
    figures: Sequence[Picture] = (),
    viewers: Sequence[Viewer] = (),
    details: Sequence[tuple[str, pd.DataFrame]] = (),
    methods: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> str:
    """Render a page that is read on a phone, in the dark, on paper, and by a screen reader.

    Args:
        results: ``verdict``, what came out, in a sentence, comes first, and ``findings``, if there
            are any, are the first table. ``config`` and ``made by`` (software to version, that of
            today by default) come last.
        title: Of the page.
        tables: Headed tables; the first column names the rows.
        figures: Pictures with their captions, which screen readers speak as well.
        viewers: Of :func:`viewer`, for a reader who wants to look for herself.
        details: Headed tables to look things up in, after the pictures.
        methods: Paragraphs that say how it was done.
        warnings: What a reader must know before she believes the verdict.
    """
    import jinja2

    if results.get("findings"):
        tables = [("Findings", findings_table(results["findings"])), *tables]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title,
        verdict=results["verdict"],
        tables=[_cells(*each) for each in tables],
        details=[_cells(*each) for each in details],
        figures=[(base64.b64encode(f[0]).decode(), f[1], f[-1]) for f in figures],
        viewers=viewers,
        methods=methods,
        warnings=warnings,
        config=dict(results.get("config") or {}),
        versions=results.get("made by") or software.versions(),
    )


def viewer(volume: np.ndarray, affine: np.ndarray, caption: str, *, upper: float) -> Viewer:
    """An interactive view of a volume (X, Y, Z), white from ``upper`` on, made by nilearn."""
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
