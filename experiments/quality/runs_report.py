"""What came out of :mod:`runs`: criteria, tables, maps and courses on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neuromix.augment.metrics.neuro import failed
from neuromix.experiments.frame.figures import Line, Picture, Point, curves, glass_brains, panels
from neuromix.experiments.frame.findings import criterion, tally
from neuromix.experiments.frame.pages import report_page
from neuromix.experiments.quality.neuro_report import (
    Rows,
    faults_table,
    overview,
    share_text,
)

if TYPE_CHECKING:
    from neuromix.augment.metrics.neuro import NeuroJudge

CLOSED = "closed form"
HYBRID = "published hybrid, from noise"
MIXED = "closed form + network"
UNET = "MONAI U-Net"
NEAR = 0.9
"""Share of the ceiling that is aimed at."""
FOLLOWS = 0.8
"""Correlation of an active region with the design that is aimed at."""
STEADY = 0.9
"""Lowest over highest quarter of a long run in tSNR."""
SAME = 1.05
"""Memory of a process that makes a long run over that of a short one that passes as the same."""
AIMED = {"group_map": "map correlation", "rsa": "RSA", "group_top1": "specificity (top 1)"}
SHORT_LIST = ("group_map", "subject_map", "rsa", "group_top1", "roi_course", "connectivity",
              "autocorrelation")  # fmt: skip
CURVES = ("group_map", "subject_map", "group_top1", "roi_course")
VARIED = {
    "people": ("Scaling: closed form by training subjects", "training subjects"),
    "width": ("Scaling: the published hybrid by width, trained for equal time", "width"),
    "ablation": ("Ablation: published networks, trained for equal time", "network"),
    "steps": ("Steps of closed form + network", "steps"),
}
"""Groups of rows, their heading, and what varies."""


def summarise(rows: Mapping[str, Rows], extra: Mapping[str, Any], *, about: str) -> dict[str, Any]:
    """What came out, as plain content.

    Rows are in groups, ``main``, ``networks`` and those of :data:`VARIED`; ``extra`` holds
    ``timing`` and ``length`` by sampler.
    """
    criteria = list(_criteria(rows, extra))
    count, missed = tally(criteria)
    return {
        "verdict": f"On {about}, {count} are met{missed}.",
        "findings": criteria,
        "failed": {name: failed(row) for name, row in rows["main"].items()},
        "rows": {group: dict(each) for group, each in rows.items()},
        **extra,
    }


def _criteria(rows: Mapping[str, Rows], extra: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All are of the closed form."""
    own = rows["main"][CLOSED]["metrics"]
    for name, words in AIMED.items():
        share = own[name]["share"] if name in own else None
        note = "has no ceiling here" if share is None else f"{share:.2f} of the ceiling"
        yield criterion(
            words, share, f"at least {NEAR:g}", share is not None and share >= NEAR, note
        )
    if UNET in rows["networks"]:
        yield _ahead(*(rows["networks"][name]["metrics"] for name in (CLOSED, UNET)))
    lowest = min(each["r"] for each in extra["timing"][CLOSED]["conditions"].values())
    note = f"r of the mean course {lowest:.2f} or more"
    yield criterion("unseen timing:", lowest, f"at least {FOLLOWS:g}", lowest >= FOLLOWS, note)
    length = extra["length"][CLOSED]
    short, long = (length[key]["peak, MB"] for key in ("40", "300"))
    note = f"at a peak of {long:.0f} MB of the process, 40 at {short:.0f} MB"
    yield criterion("300 frames", long, f"at most {SAME:g} times that", long <= SAME * short, note)
    steady = min(length["tsnr"]) / max(length["tsnr"])
    note = f"steady to {steady:.2f}"
    yield criterion("tSNR along them", steady, f"at least {STEADY:g}", steady >= STEADY, note)


def _ahead(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Whether no metric with a ceiling is nearer to it in the U-Net."""
    shared = [n for n in ours if ours[n]["share"] is not None and n in theirs]
    behind = [
        n.replace("_", " ") for n in shared
        if theirs[n]["share"] is not None and ours[n]["share"] < theirs[n]["share"]
    ]  # fmt: skip
    count = len(shared) - len(behind)
    note = f"in {count} of {len(shared)} metrics"
    note += f", not in {', '.join(behind)}" if behind else ""
    return criterion(f"ahead of {UNET}", count, "all", not behind, note)


def page(results: Mapping[str, Any], shown: Mapping[str, np.ndarray], judge: NeuroJudge) -> str:
    """The report, with mean maps (C, V) by name."""
    rows = results["rows"]
    networks = "Networks, fewer subjects and so other ceilings: value (share)"
    varied = {group: texts for group, texts in VARIED.items() if rows.get(group)}
    return report_page(
        results,
        title="The task fMRI sampler",
        tables=[
            ("Closed form and trivial generators: value (share of the ceiling)",
             overview({CLOSED: rows["main"][CLOSED]} | dict(rows["main"]))),
            *([(networks, overview(rows["networks"]))] if len(rows["networks"]) > 1 else []),
            ("What they took", _costs(rows["networks"])),
            *((heading, _short(rows[group], first)) for group, (heading, first) in varied.items()),
            ("A run of 300 frames beside one of 40", _lengths(results["length"])),
            ("Events that no training run has: correlation with the design",
             _timing(results["timing"])),
        ],
        figures=[
            glass_brains(shown, judge.conditions, judge.mask, judge.affine),
            *(_courses(name, each) for name, each in results["timing"].items()),
            *(_scaling(rows[group], first) for group, (_, first) in varied.items()
              if group != "ablation"),
        ],
        details=[
            (f"Metrics that are surely below {NEAR:g} of real", faults_table(results["failed"]))
        ],
        methods=[
            "Each value compares as many subjects as half of those drawn with one half of the "
            "held-out ones, over random splits; the ceiling is the other half against it. A share "
            "is the value over the ceiling (distances: of one less the value; levels: one less the "
            "relative difference). Tables with fewer subjects have lower ceilings; shares compare.",
            "Networks share one codec and its latents, and are trained for equal time. Time of "
            "drawing is that of the processor.",
        ],
        warnings=[
            "One training of each sampler: how much another would differ is in no interval.",
        ],
    )  # fmt: skip


def _short(rows: Rows, first: str) -> pd.DataFrame:
    table = []
    for name, row in rows.items():
        cells: dict[str, Any] = {first: name}
        cells |= {n.replace("_", " "): share_text(row["metrics"].get(n)) for n in SHORT_LIST}
        loss = row["cost"].get("loss")
        if loss is not None and first != "steps":
            cells["validation loss"] = f"{loss:.3f}"
            cells["training steps"] = row["cost"]["training steps"]
        table.append(cells)
    return pd.DataFrame(table).fillna("")


def _costs(rows: Rows) -> pd.DataFrame:
    names = ("parameters", "training seconds", "training steps", "best step", "loss",
             "frames a second")  # fmt: skip
    table = []
    for name, row in rows.items():
        costs = {each: row["cost"].get(each, "") for each in names}
        shown = {n: f"{c:,.4g}" if isinstance(c, float) else c for n, c in costs.items()}
        table.append({"sampler": name, **shown})
    return pd.DataFrame(table)


def _lengths(lengths: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([
        {
            "sampler": name,
            "peak at 40 frames, MB": f"{each['40']['peak, MB']:.0f}",
            "peak at 300 frames, MB": f"{each['300']['peak, MB']:.0f}",
            "frames a second, 300": f"{each['300']['frames a second']:.1f}",
            "tSNR by quarter": ", ".join(f"{value:.0f}" for value in each["tsnr"]),
            "lag-one correlation by quarter": ", ".join(f"{v:.2f}" for v in each["lag one"]),
        }
        for name, each in lengths.items()
    ])  # fmt: skip


def _timing(timing: Mapping[str, Any]) -> pd.DataFrame:
    table = []
    for condition in next(iter(timing.values()))["conditions"]:
        cells = {"condition": condition}
        for name, each in timing.items():
            row = each["conditions"][condition]
            cells[f"{name}, mean of {row['people']}"] = f"{row['r']:.2f}"
            cells[f"{name}, each"] = f"{row['each']:.2f}"
        table.append(cells)
    return pd.DataFrame(table)


def _courses(title: str, timing: Mapping[str, Any]) -> Picture:
    """Courses of active regions with the band of people, and what the design predicts."""
    content = {}
    for name, each in timing["conditions"].items():
        times = timing["tr"] * np.arange(len(each["mean"]))
        content[f"{name}, r = {each['r']:.2f}"] = {
            "mean of people": Line(times, each["mean"], each["low"], each["high"]),
            "predicted": Line(times, each["predicted"]),
        }
    return panels(
        content,
        xlabel="seconds",
        ylabel="signal change, per cent",
        caption=f"{title}, events that no training run has: courses of each condition's active "
        "regions (mean and 95 % of synthetic people), and the response to that condition alone.",
    )


def _scaling(rows: Rows, varied: str) -> Picture:
    xlabel = "steps of the sampler" if varied == "steps" else varied
    series: dict[str, list[Point]] = {}
    for name in CURVES:
        for size, row in rows.items():
            cell = row["metrics"].get(name)
            if cell is not None and cell["share"] is not None:
                point = Point(float(size), cell["share"], *cell["share_interval"])
                series.setdefault(name.replace("_", " "), []).append(point)
    return curves(
        series, xlabel=xlabel, ylabel="share of the ceiling", log=True, levels={"ceiling": 1.0},
        caption=f"Shares of the ceiling by {xlabel}, with 95 % of the splits.",
    )  # fmt: skip
