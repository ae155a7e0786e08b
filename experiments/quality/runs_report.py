"""What came out of :mod:`runs`: criteria, tables, maps and courses on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neuromix.augment.metrics import response_maps
from neuromix.augment.metrics.neuro import failed
from neuromix.experiments.frame.figures import Point, curves
from neuromix.experiments.frame.pages import Picture, report_page, to_png
from neuromix.experiments.quality.neuro_report import glass_brains, matrices, overview

if TYPE_CHECKING:
    from neuromix.augment.metrics.neuro import NeuroJudge

CLOSED = "closed form"
HYBRID = "hybrid from noise"
MIXED = "hybrid from closed form"
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

Rows = Mapping[str, Mapping[str, Any]]


def summarise(rows: Mapping[str, Rows], extra: Mapping[str, Any], *, about: str) -> dict[str, Any]:
    """What came out, as plain content.

    Args:
        rows: Group (``main``, ``networks``, ``people``, ``width``, ``ablation``, ``steps``) to name
            to table.
        extra: ``timing`` and ``length`` by sampler.
        about: The cohort in words.
    """
    criteria = _criteria(rows, extra)
    met = [text for text, good in criteria if good]
    missed = [text for text, good in criteria if not good]
    verdict = f"On {about}, {len(met)} of {len(criteria)} criteria are met"
    verdict += f": {'; '.join(met)}" if met else ""
    verdict += f". Missed: {'; '.join(missed)}." if missed else "."
    faults = {name: failed(row) for name, row in rows["main"].items()}
    return {
        "verdict": verdict,
        "criteria": [{"criterion": text, "met": good} for text, good in criteria],
        "failed": faults,
        "rows": {group: dict(each) for group, each in rows.items()},
        **extra,
    }


def _criteria(rows: Mapping[str, Rows], extra: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Each aim in words with its figures, and whether it is met; all are of the closed form."""
    found = []
    own = rows["main"][CLOSED]["metrics"]
    for name, words in AIMED.items():
        share = own[name]["share"] if name in own else None
        told = "has no ceiling here" if share is None else f"{share:.2f} of the ceiling"
        found.append((f"{words} {told} (aim {NEAR:g})", share is not None and share >= NEAR))
    if UNET in rows["networks"]:
        found.append(_ahead(*(rows["networks"][name]["metrics"] for name in (CLOSED, UNET))))
    lowest = min(each["r"] for each in extra["timing"][CLOSED]["conditions"].values())
    words = f"unseen timing: r of the mean course {lowest:.2f} or more (aim {FOLLOWS:g})"
    found.append((words, lowest >= FOLLOWS))
    length = extra["length"][CLOSED]
    short, long = (length[key]["peak, MB"] for key in ("40", "300"))
    words = f"300 frames at a peak of {long:.0f} MB of the process, 40 at {short:.0f} MB"
    found.append((words, long <= SAME * short))
    steady = min(length["tsnr"]) / max(length["tsnr"])
    words = f"tSNR along it steady to {steady:.2f} (aim {STEADY:g})"
    return [*found, (words, steady >= STEADY)]


def _ahead(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, bool]:
    """Whether no metric with a ceiling is nearer to it in the U-Net."""
    shared = [n for n in ours if ours[n]["share"] is not None and n in theirs]
    behind = [
        n.replace("_", " ") for n in shared
        if theirs[n]["share"] is not None and ours[n]["share"] < theirs[n]["share"]
    ]  # fmt: skip
    words = f"ahead of {UNET} in {len(shared) - len(behind)} of {len(shared)} metrics"
    return words + (f", not in {', '.join(behind)}" if behind else ""), not behind


def page(results: Mapping[str, Any], shown: Mapping[str, np.ndarray], judge: NeuroJudge) -> str:
    """The report.

    Args:
        results: Of :func:`summarise`, with its ``config``.
        shown: Name to mean maps (C, V), ``real`` first.
        judge: Who judged.
    """
    rows = results["rows"]
    tables: list[tuple[str, pd.DataFrame]] = [
        (
            "Closed form and trivial generators: value (share of the ceiling)",
            overview({CLOSED: rows["main"][CLOSED]} | dict(rows["main"])),
        ),
    ]
    if len(rows["networks"]) > 1:
        tables.append(
            (
                "Networks, fewer subjects and so other ceilings: value (share)",
                overview(rows["networks"]),
            )
        )
    tables.append(("What they took", _costs(rows)))  # fmt: skip
    headings = {
        "people": ("Scaling: closed form by training subjects", "training subjects"),
        "width": ("Scaling: hybrid from noise by width, trained for equal time", "width"),
        "ablation": ("Ablation: networks from noise, trained for equal time", "network"),
        "steps": ("Steps of the hybrid from noise", "steps"),
    }
    tables += [
        (heading, _short(rows[group], first))
        for group, (heading, first) in headings.items()
        if rows.get(group)
    ]
    tables += [
        ("A run of 300 frames beside one of 40", _lengths(results["length"])),
        (
            "Events that no training run has: correlation with the design",
            _timing(results["timing"]),
        ),
    ]
    figures = [
        glass_brains(shown, judge.conditions, judge.mask, judge.affine),
        matrices({name: response_maps.rdm(each) for name, each in shown.items()}, judge.conditions),
        *(_courses(name, each) for name, each in results["timing"].items()),
    ]
    figures += [
        _scaling(rows[group], xlabel)
        for group, xlabel in (("people", "training subjects"), ("width", "width"),
                              ("steps", "steps of the sampler"))
        if rows.get(group)
    ]  # fmt: skip
    faults = pd.DataFrame(
        [
            {"generator": name, "metrics": ", ".join(found).replace("_", " ") or "none"}
            for name, found in results["failed"].items()
        ]
    )
    return report_page(
        title="The task fMRI sampler",
        verdict=results["verdict"],
        tables=tables,
        figures=figures,
        details=[(f"Metrics that are surely below {NEAR:g} of real", faults)],
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
        config=results["config"],
        made_by=results["made by"],
    )


def _short(rows: Rows, first: str) -> pd.DataFrame:
    table = []
    for name, row in rows.items():
        cells: dict[str, Any] = {first: name}
        for metric in SHORT_LIST:
            found = row["metrics"].get(metric)
            if found is None:
                cells[metric.replace("_", " ")] = ""
                continue
            share = "" if found["share"] is None else f" ({found['share']:.2f})"
            cells[metric.replace("_", " ")] = f"{found['value']:.2f}{share}"
        loss = row["cost"].get("loss")
        if loss is not None and first != "steps":
            cells["validation loss"] = f"{loss:.3f}"
            cells["training steps"] = row["cost"]["training steps"]
        table.append(cells)
    return pd.DataFrame(table).fillna("")


def _costs(rows: Mapping[str, Rows]) -> pd.DataFrame:
    names = ("parameters", "training seconds", "training steps", "best step", "loss",
             "frames a second")  # fmt: skip
    table = []
    for name, row in rows["networks"].items():
        cost = row["cost"]
        table.append({"sampler": name} | {
            each: f"{cost[each]:,.4g}" if isinstance(cost.get(each), float) else cost.get(each, "")
            for each in names
        })  # fmt: skip
    return pd.DataFrame(table)


def _lengths(found: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([
        {
            "sampler": name,
            "peak at 40 frames, MB": f"{each['40']['peak, MB']:.0f}",
            "peak at 300 frames, MB": f"{each['300']['peak, MB']:.0f}",
            "frames a second, 300": f"{each['300']['frames a second']:.1f}",
            "tSNR by quarter": ", ".join(f"{value:.0f}" for value in each["tsnr"]),
            "lag-one correlation by quarter": ", ".join(f"{v:.2f}" for v in each["lag one"]),
        }
        for name, each in found.items()
    ])  # fmt: skip


def _timing(found: Mapping[str, Any]) -> pd.DataFrame:
    first = next(iter(found.values()))["conditions"]
    table = []
    for condition in first:
        cells = {"condition": condition}
        for name, each in found.items():
            row = each["conditions"][condition]
            cells[f"{name}, mean of {row['people']}"] = f"{row['r']:.2f}"
            cells[f"{name}, each"] = f"{row['each']:.2f}"
        table.append(cells)
    return pd.DataFrame(table)


def _courses(title: str, found: Mapping[str, Any]) -> Picture:
    """Courses of active regions with the band of people, and what the design predicts."""
    from matplotlib.figure import Figure

    conditions = found["conditions"]
    wide = min(len(conditions), 3)
    high = -(-len(conditions) // wide)
    figure = Figure(figsize=(3.6 * wide, 2.1 * high + 0.4), layout="constrained")
    axes = figure.subplots(high, wide, squeeze=False, sharex=True).ravel()
    for axis in axes[len(conditions) :]:
        axis.set_axis_off()
    told = []
    for axis, (name, each) in zip(axes, conditions.items(), strict=False):
        times = found["tr"] * np.arange(len(each["mean"]))
        axis.fill_between(times, each["low"], each["high"], color="#1f5fa8", alpha=0.2, lw=0)
        axis.plot(times, each["mean"], color="#1f5fa8", lw=1.2, label="mean of people")
        axis.plot(times, each["predicted"], color="black", lw=1, ls="--", label="predicted")
        axis.set_title(f"{name}, r = {each['r']:.2f}", fontsize=9)
        axis.tick_params(labelsize=7)
        told.append(f"{name}: r {each['r']:.2f}")
    axes[0].legend(fontsize=7)
    figure.supxlabel("seconds", fontsize=9)
    figure.supylabel("signal change, per cent", fontsize=9)
    caption = (
        f"{title}, events that no training run has: courses of each condition's active regions "
        "(mean and 95 % of synthetic people), and the response to that condition alone."
    )
    return to_png(figure), caption, f"{caption} {'; '.join(told)}."


def _scaling(rows: Rows, xlabel: str) -> Picture:
    names: Sequence[str] = ("group_map", "subject_map", "group_top1", "roi_course")
    series: dict[str, list[Point]] = {}
    for name in names:
        points = []
        for size, row in rows.items():
            found = row["metrics"].get(name)
            if found is not None and found["share"] is not None:
                points.append(Point(float(size), found["share"], *found["share_interval"]))
        if points:
            series[name.replace("_", " ")] = points
    return curves(
        series, xlabel=xlabel, ylabel="share of the ceiling", log=True, levels={"ceiling": 1.0},
        caption=f"Shares of the ceiling by {xlabel}, with 95 % of the splits.",
    )  # fmt: skip
