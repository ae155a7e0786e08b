"""What came out of :mod:`fidelity`: figures with their aims, who meets most of them, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from neuromix.augment.metrics.features import limits
from neuromix.augment.metrics.realism import resample
from neuromix.experiments.frame.figures import Line, Picture, panels, slices
from neuromix.experiments.frame.findings import criterion, estimate_text, tally
from neuromix.experiments.frame.pages import report_page
from neuromix.experiments.quality.config import PRIOR

AIMS: dict[str, tuple[float, float]] = {
    "structure": (0.0, 0.60),
    "texture": (0.0, 0.75),
    "mmd": (-np.inf, 0.5),
    "spread": (0.95, 1.05),
    "spectrum": (-1.0, 1.0),
    "nearest": (0.95, np.inf),
    "patch copies": (0.0, 0.015),
}
"""Between which values a figure is as good as people's own; ``... told`` as much as in people."""
NAMES = {
    "structure": "structure AUC", "texture": "texture AUC", "mmd": "MMD² / p95",
    "spread": "spread / real", "spectrum": "worst band, sd", "nearest": "nearest / real",
    "patch copies": "patch copies (real .01)", "membership": "membership AUC",
    "membership by weights": "membership by weights",
}  # fmt: skip

METHODS = (
    "Structure and texture: AUC of a logistic regression (C = 0.1), five folds dealt four "
    "times, on slices pooled 4 x 4 (20 components), and on spectrum, gradients, what "
    "pooling loses, Laplacian and steps between slices. 0.5 is perfect; two real sets of "
    "this size have 0.3 to 0.5. MMD²: of the pooled slices, over the 95th percentile of "
    "splits of real people. Worst band: log power less that of people, in deviations of "
    "people. Nearest: distance to the nearest training person. Patch copies: share of "
    "7 x 7 x 3 patches nearer to a training person's than 99 % of people's are.",
)
"""How figures are measured, for pages."""

Rows = Mapping[str, Mapping[str, Any]]
"""By generator: ``metrics``, ``errors`` by noise level, ``cost``."""


def criteria(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A finding for each figure that has an aim."""
    result = []
    for name, row in metrics.items():
        if name.endswith("told"):  # within what chance does to so many samples
            low, high = row["interval"][0] - row["value"] + row["real"], np.inf
        elif name in AIMS:
            low, high = AIMS[name]
        else:
            continue
        aim = f"{low:.2g} to {high:.2g}"
        note = estimate_text(row["value"], row["interval"], ".2f")
        result.append(criterion(name, row["value"], aim, low <= row["value"] <= high, note))
    return result


def summarise(rows: Rows, about: str) -> dict[str, Any]:
    """Everything that came out, as plain content."""
    aims = {name: criteria(row["metrics"]) for name, row in rows.items()}
    tallies = {name: tally(found)[0] for name, found in aims.items()}
    ordered = sorted(tallies, key=lambda name: -int(tallies[name].split()[0]))
    return {
        "verdict": f"Met ({about}): {', '.join(f'{name} {tallies[name]}' for name in ordered)}.",
        "aims": aims,
        "rows": dict(rows),
    }


def overview(rows: Rows, *, intervals: bool = True) -> pd.DataFrame:
    """A row a generator, a column a figure, with its interval beside people's own."""
    table = []
    for name, row in rows.items():
        cells = {"generator": name, "met": tally(criteria(row["metrics"]))[0]}
        for each, metric in row["metrics"].items():
            text = f"{metric['value']:.2f}"
            if intervals:
                text = estimate_text(metric["value"], metric["interval"], ".2f")
                text += f"; real {metric['real']:.2f}" if "real" in metric else ""
            cells[NAMES.get(each, each)] = text
        table.append(cells)
    return pd.DataFrame(table).fillna("")


def denoising(rows: Rows) -> pd.DataFrame:
    """Errors by noise level, and their ratio to the prior's with an interval over people."""
    prior = rows.get(PRIOR, {}).get("errors") or {}
    table = []
    for name, row in rows.items():
        if not row["errors"]:
            continue
        cells = {"denoiser": name}
        for t, errors in row["errors"].items():
            cells[f"t = {t}"] = f"{np.mean(errors):.4f}"
            if t in prior and name != PRIOR:
                shares = resample(np.arange(len(errors)), np.random.default_rng(0))
                draws = (shares @ np.array(errors)) / (shares @ np.array(prior[t]))
                ratio = float(np.mean(errors) / np.mean(prior[t]))
                cells[f"t = {t}"] += (
                    f"; {estimate_text(ratio, limits(draws, ratio), '.2f')} of the prior"
                )
        table.append(cells)
    return pd.DataFrame(table)


def page(results: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> str:
    """The report, with the first volumes of held-out people and of each generator."""
    rows = results["rows"]
    costs = [{"generator": name, **row["cost"]} for name, row in rows.items()]
    errors = denoising(rows)
    return report_page(
        results,
        title="Fidelity: are samples told from people nobody saw?",
        tables=[
            ("Beside held-out people", overview(rows)),
            *([("Denoising error on held-out people", errors)] if len(errors) else []),
            ("Cost", pd.DataFrame(costs).fillna("")),
        ],
        figures=[*_montages(pictures), _bands(rows)],
        methods=[
            "The cohort is parted by subject, stratified by sex and diagnosis. Every generator is "
            "fitted to the same people, in the same processor time where it is trained, and asked "
            "for the labels of held-out people, the same for all. All volumes, real and made, are "
            "set to 0 outside the training people's brain and below 6 % of the range; maps "
            "without a unit are divided by the 90 % quantile of their tissue.",
            *METHODS,
            "Membership: AUC of telling training from held-out people by their distance to the "
            "nearest sample; by weights, by how well noise of t = 0.3 is taken off them.",
            "Told: balanced accuracy of a classifier of training people on the labels asked for. "
            "Intervals: bootstrap over samples and held-out people (told: Jeffreys); another "
            "training seed is in none. Copies of training people are what real people score.",
            "Met: "
            + ", ".join(f"{NAMES[name]} {low:g} to {high:g}" for name, (low, high) in AIMS.items())
            + "; told as in people, within what chance does to so many samples.",
            "Denoising: E |x' - x|² in the brain at x_t = (1 - t) x + t n, in half ranges.",
        ],
    )


def _montages(pictures: Mapping[str, np.ndarray]) -> list[Picture]:
    real = pictures["real"]
    return [
        (slices([*real, *made], ["real"] * len(real) + ["made"] * len(made)),
         f"Held-out people, and samples of {name} for the same labels.")
        for name, made in pictures.items()
        if name != "real"
    ]  # fmt: skip


def _bands(rows: Rows) -> Picture:
    lines = {}
    for name, row in rows.items():
        bands = row["metrics"]["spectrum"]["bands"]
        lines[name] = Line([(k + 0.5) / (2 * len(bands)) for k in range(len(bands))], bands)
    return panels(
        {"": lines}, xlabel="cycles per voxel", ylabel="log power, deviations of people", level=0.0,
        caption="Spectrum in slices: 0 is that of people, below is blur, above is noise.",
    )  # fmt: skip
