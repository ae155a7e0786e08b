"""What the audit of a completer found, in words, and its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from neuromix.augment.pds.config import MODALITIES
from neuromix.experiments.audit.report import (
    CARE,
    FAULT,
    FINE,
    Finding,
    Limit,
    ends,
    factor,
    flat,
    origin,
    sided,
)
from neuromix.experiments.frame.pages import Picture, report_page

DRAWS = 2000
"""Of the bootstrap over people."""
SPREAD = Limit(0.1, 0.4, "coverage of the central interval of samples, off what is due")
DETAIL = Limit(0.05, 0.2, "mean |log10| of the power of samples over that of real images")
LEVEL = Limit(0.05, 0.5, "relative change of the median in the brain")
OTHERS = Limit(0.1, 0.5, "share of completions that are nearer to another person's real image")
HALF = 0.5
"""Share of what a completer knows beyond the mean volume that another's source must cost."""


def findings(results: Mapping[str, Any]) -> Iterator[Finding]:
    """All of a completer.

    Args:
        results: Parts of :class:`neuromix.experiments.audit.completer.CompleterAudit`.
    """
    yield from origin(results)
    for want in MODALITIES:
        if want in results:
            yield from _direction(want, results[want])


def page(results: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """The data card.

    Args:
        results: Of :func:`neuromix.experiments.audit.report.weigh`, with the parts that it was made
            from.
        pictures: Completions beside real images.
    """
    sizes = results["sizes"]
    limits = (SPREAD, DETAIL, LEVEL, OTHERS)
    metrics = [
        {"image": want, "metric": name, "value": row["value"],
         "95 %": ends((row["low"], row["high"]))}
        for want in MODALITIES if want in results for name, row in results[want]["table"].items()
    ]  # fmt: skip
    return report_page(
        title="Audit of a completer",
        verdict=results["verdict"],
        tables=[("Findings", pd.DataFrame(results["findings"]))],
        figures=list(pictures),
        details=[
            ("All metrics", pd.DataFrame(metrics)),
            ("Where it comes from", pd.DataFrame(flat(results["provenance"]),
                                                 columns=["what", "value"])),
        ],
        methods=[
            f"{sizes['heldout']} held-out people who have both modalities are completed from one "
            "of them, without a label, and compared with the other. The voxelwise regression and "
            f"the mean volume are of {sizes['train']} training people.",
            "Another source is that of another person, put into the outline of the own brain: the "
            "outline alone tells much of an image. What it costs is a share of what the completer "
            "gains over the mean volume in that outline. Intervals are over held-out people.",
            "Levels: " + "; ".join(
                f"{limit.says}: care above {limit.care:g}, fault above {limit.fault:g}"
                for limit in limits
            ) + ".",
            "Whether a classifier gains from completed images is asked by `neuromix experiment "
            "hybrid`.",
        ],
        config=results["config"],
        made_by=results["made by"],
    )  # fmt: skip


def _direction(want: str, found: Mapping[str, Any]) -> Iterator[Finding]:
    errors = {name: np.array(values) for name, values in found["errors"].items()}
    yield _accurate(want, errors)
    yield _used(want, errors)
    table = found["table"]
    covered = table["coverage"]["value"]
    level = SPREAD.level(abs(1 - covered))
    told = f"intervals hold {covered:.2f} of the values that are due"
    if level != FINE:
        told += f": samples differ too {'little' if covered < 1 else 'much'}"
    yield Finding(f"uncertainty of {want}", level, told)
    off = table["spectrum"]["value"]
    yield Finding(f"detail of {want}", DETAIL.level(off), f"power is off by {off:.3f} in log10")
    value, real = found["level"]["value"], found["level"]["real"]
    ratio = value / max(real, 1e-12)
    level = LEVEL.level(abs(ratio - 1))
    told = f"median in the brain {value:.4g}, real {real:.4g}"
    told += f": {factor(ratio)}" if level != FINE else ""
    yield Finding(f"units of {want}", level, told)
    side = sided(found["left-right"])
    yield Finding(f"{side.what} of {want}", side.level, side.says)
    nearest = found["nearest"]
    level = OTHERS.level(1 - nearest["own"])
    told = (
        f"{100 * nearest['own']:.0f} % are nearest to the own real image, of "
        f"{nearest['people']} people's"
    )
    copied = nearest["train"] > (1 - nearest["own"]) / 2
    told += ": most others are nearest to a training person" if level != FINE and copied else ""
    yield Finding(f"whose {want}", level, told)


def _accurate(want: str, errors: Mapping[str, np.ndarray]) -> Finding:
    over = {
        name: _interval(lambda k, n=name: _decibels(errors[n][k], errors["own"][k]), errors)
        for name in ("mean", "regression")
    }
    told = (
        f"{_decibels(errors['regression'], errors['own']):+.2f} dB beside a voxelwise regression "
        f"({ends(over['regression'])}), {_decibels(errors['mean'], errors['own']):+.2f} beside the "
        f"mean volume ({ends(over['mean'])})"
    )
    if over["mean"][0] <= 0:
        return Finding(f"accuracy of {want}", FAULT, f"{told}: not surely better than the mean")
    level = CARE if over["regression"][1] < 0 else FINE
    worse = ": a regression is surely better" if level == CARE else ""
    return Finding(f"accuracy of {want}", level, told + worse)


def _used(want: str, errors: Mapping[str, np.ndarray]) -> Finding:
    what = f"source of {want}"
    lost = errors["exchanged"] - errors["own"]
    low, _ = _interval(lambda k: lost[k].mean(), errors)
    if low <= 0:
        told = "another person's source does as well as the own: the source is not used"
        return Finding(what, FAULT, told)
    gain = errors["mean"].mean() - errors["own"].mean()
    if gain <= 0:
        return Finding(what, CARE, "there is no gain over the mean volume that it could explain")
    share = float(lost.mean() / gain)
    told = (
        f"another person's source costs {100 * share:.0f} % of the gain over the mean volume "
        f"({100 * HALF:.0f} or more is right)"
    )
    return Finding(what, FINE if share >= HALF else CARE, told)


def _decibels(errors: np.ndarray, than: np.ndarray) -> float:
    """How far the second lies above the first."""
    return float(10 * np.log10(errors.mean() / max(than.mean(), 1e-12)))


def _interval(statistic: Any, errors: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """95 % over people."""
    people = len(errors["own"])
    draws = np.random.default_rng(0).integers(people, size=(DRAWS, people))
    low, high = np.quantile([statistic(draw) for draw in draws], (0.025, 0.975))
    return float(low), float(high)
