"""What the audit of a bank of runs found, in words, and its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neuromix.experiments.audit.report import (
    CARE,
    FAULT,
    FINE,
    Finding,
    Limit,
    attacked,
    ends,
    factor,
    flat,
    gains,
    origin,
    sided,
    used,
    utility,
)
from neuromix.experiments.frame.pages import Picture, report_page, slices
from neuromix.experiments.quality.neuro_report import glass_brains, overview

if TYPE_CHECKING:
    from neuromix.augment.metrics.neuro import NeuroJudge

SHARES = {
    "group_map": "response maps",
    "roi_course": "time course",
    "response_size": "strength",
    "spread": "variety of responses",
    "tsnr_level": "noise level",
    "tsnr_map": "noise map",
    "autocorrelation_lag1": "memory",
    "spectrum": "rhythm",
    "connectivity": "networks",
    "steady_tsnr": "steadiness",
}
"""Metrics of :mod:`neuromix.augment.metrics.neuro`, and what a finding calls them."""
COPIES = {"nearest_course": "copies of courses", "nearest_anatomy": "copies of anatomies"}
SHARE = Limit(0.1, 0.5, "share of what real halves have that is surely missing")
SIGNAL = Limit(0.1, 0.5, "relative change of the median brain signal")
SPECIFIC = 0.1
"""Share of the responses that may be another condition's."""


def findings(results: Mapping[str, Any]) -> Iterator[Finding]:
    """All of a bank of runs.

    Args:
        results: Parts of :class:`neuromix.experiments.audit.runs.RunsAudit`.
    """
    yield from origin(results)
    metrics = results["neuro"]["metrics"]
    for name, what in SHARES.items():
        if name in metrics:
            yield _shared(what, metrics[name])
    for name, what in COPIES.items():
        if name in metrics:
            yield _copied(what, metrics[name])
    yield _specific(results["labels"], metrics["group_top1"])
    yield sided(results["anatomy"]["left-right"])
    yield from _units(results["anatomy"])
    yield attacked(results["privacy"]["membership"])
    for name, use in results["utility"].items():
        yield used(name, use["gain"])


def page(
    results: Mapping[str, Any],
    judge: NeuroJudge,
    shown: Mapping[str, np.ndarray],
    near: Sequence[tuple[np.ndarray, str]],
) -> str:
    """The data card.

    Args:
        results: Of :func:`neuromix.experiments.audit.report.weigh`, with the parts that it was made
            from.
        judge: Who judged.
        shown: Name to mean maps (C, V).
        near: The samples nearest to a training run, each beside that run: volumes with titles.
    """
    figures: list[Picture] = [
        glass_brains(shown, judge.conditions, judge.mask, judge.affine),
        (
            slices([volume for volume, _ in near], [title for _, title in near], upper=1.6),
            "Mean images of the samples nearest to a training run, each beside that run.",
        ),
        *gains(results["utility"]),
    ]
    sizes = results["neuro"]["sizes"]
    return report_page(
        title="Audit of a bank of task fMRI runs",
        verdict=results["verdict"],
        tables=[
            ("Findings", pd.DataFrame(results["findings"])),
            *utility(results["utility"]),
            ("Every metric beside real halves", overview({"samples": results["neuro"]})),
        ],
        figures=figures,
        details=[
            ("Where it comes from", pd.DataFrame(flat(results["provenance"]),
                                                 columns=["what", "value"])),
        ],
        methods=[
            f"{sizes['synthetic']} samples are compared with {sizes['real']} held-out people, in "
            f"random halves of {sizes['split']}, as halves of these are with each other. The other "
            "half of the held-out people chooses checkpoints of decoders.",
            f"A metric asks for care if it surely lacks {SHARE.care:g} of what real halves have, "
            f"and is a fault if it surely lacks {SHARE.fault:g}; where real halves do not agree, "
            "nothing is said. Brightness may differ by as much, the time between frames not at "
            "all.",
            "Specificity is the share of conditions whose mean map is nearest to that condition's "
            "real one. With names exchanged, each condition is called by the next one's name.",
            "Privacy is looked at in mean images, whose brightness is divided by its mean.",
            "Utility is the balanced accuracy of a compact CNN that tells the condition from the "
            "mean response of a run of real held-out people, trained on the responses of training "
            "people, of samples, or of both, for the same number of steps.",
        ],
        config=results["config"],
        made_by=results["made by"],
    )  # fmt: skip


def _shared(what: str, row: Mapping[str, Any]) -> Finding:
    told = f"{row['value']:.3g}, real halves {row['real']:.3g}"
    if row["share"] is None:
        return Finding(what, FINE, f"{told}: real halves do not agree, too little to tell")
    level = SHARE.level(1 - row["share_interval"][1])
    limits = ends(row["share_interval"])
    return Finding(what, level, f"{told}: {row['share']:.2f} of real ({limits})")


def _copied(what: str, row: Mapping[str, Any]) -> Finding:
    """Only nearer than real people is bad."""
    low = row["interval"][0]
    told = f"r = {row['value']:.2f} with the nearest training run, real {row['real']:.2f}"
    high = row["real_interval"][1]
    # Half of the way from what is usual to a perfect copy.
    level = FINE if low <= high else FAULT if low > (1 + high) / 2 else CARE
    return Finding(what, level, told)


def _specific(labels: Mapping[str, Any], row: Mapping[str, Any]) -> Finding:
    told = (
        f"{100 * labels['own']:.0f} % of mean responses are their condition's, real halves "
        f"{100 * row['real']:.0f} %, with names exchanged {100 * labels['exchanged']:.0f} %"
    )
    if row["real_interval"][0] <= labels["chance"]:
        return Finding("label condition", CARE, f"{told}: real halves do not tell them either")
    if labels["exchanged"] > labels["own"]:
        return Finding("label condition", FAULT, f"{told}: labels are wrong")
    if row["interval"][1] <= labels["chance"]:
        return Finding("label condition", FAULT, f"{told}: labels have no effect that can be seen")
    level = FINE if row["interval"][1] >= (1 - SPECIFIC) * row["real"] else CARE
    return Finding("label condition", level, told)


def _units(anatomy: Mapping[str, Any]) -> Iterator[Finding]:
    value, real = (anatomy["signal"][name] for name in ("value", "real"))
    off = value / max(real, 1e-12) - 1
    level = SIGNAL.level(abs(off))
    told = f"median brain signal {value:.4g}, real {real:.4g}"
    yield Finding("units", level, told + (f": {factor(1 + off)}" if level != FINE else ""))
    own, other = (anatomy["tr"][name] for name in ("value", "real"))
    is_same = abs(own - other) < 1e-3
    told = f"{own:g} s between frames, real {other:g} s"
    yield Finding("repetition time", FINE if is_same else FAULT, told)
