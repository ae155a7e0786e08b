"""What the experiment ``completion`` says: tables, criteria that are met or missed, and the page.

========================  ==========================================================================
near the ideal            PSNR of the mean within 0.5 dB of the phantom's ideal regression
over source-blind         1.5 dB and 4 % of SSIM (fMRI), 1 dB and 2 % (dMRI) over the completer that
                          does not see its source, as in the published code
samples                   CRPS and spectrum better than every regression's, coverage within a tenth
                          of what is due
pattern                   region pattern correlated over subjects at least as well as a regression's
source                    another's source, in the outline of one's own brain, costs 80 % of what
                          the ideal gains over the mean volume in that outline
uncertainty               deviation and error correlate, with an interval above zero
========================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from neuromix.augment.data.cohort import Split
from neuromix.augment.metrics.completion import source_use
from neuromix.experiments.frame.figures import Picture
from neuromix.experiments.frame.findings import criterion, estimate_text, tally
from neuromix.experiments.frame.pages import report_page
from neuromix.experiments.quality.completion_baselines import REGRESSIONS

NEAR = 0.5
"""Decibels."""
MARGINS = {"fmri": (1.5, 0.04), "dmri": (1.0, 0.02)}
"""Decibels and share of SSIM that were published as gains over source-blind diffusion."""
MEANS = {"psnr": "PSNR, dB", "ssim": "SSIM", "pattern": "pattern correlation"}
"""Metrics of the mean of the samples, in words."""
SAMPLES = {
    "crps": "CRPS",
    "coverage": "coverage (1 is right)",
    "spectrum": "spectrum (0 is right)",
    "uncertainty": "uncertainty with error",
}
"""Metrics of the samples."""
DIGITS = {"psnr": ".2f", "crps": ".4f"}
COSTS = {
    "processor": "seconds to fit",
    "steps": "steps of training",
    "processor a subject": "seconds a completed subject",
}
USED = 0.8
COVERED = 0.1

Tables = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By arm and metric ``{"value", "low", "high"}``."""


def summarise(
    records: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Any] | None,
    images: Sequence[str],
    first: str,
    data_range: float,
) -> dict[str, Any]:
    """Tables of all cells by image, criteria of the first arm and the verdict.

    The truth is, by modality, the PSNR of a phantom's ideal regression.
    """
    names = ("tables", "steps", "source", "costs")
    parts: dict[str, Any] = {name: {want: {} for want in images} for name in names}
    tables, steps, source, costs = parts.values()
    fits = {}
    for record in records:
        cell = record["cell"]
        if "fit" in cell:
            fits[cell["fit"]] = {k: record[k] for k in ("processor", "best_step")}
            continue
        want = cell["want"]
        if "steps" in cell:
            steps[want][cell["steps"]] = record
            continue
        name = cell.get("arm") or cell["baseline"]
        tables[want][name] = record["table"]
        costs[want][name] = {k: record[k] for k in COSTS if k in record}
        if "errors" in record:
            source[want][name] = dict(record["errors"])
            if truth:
                ideal = data_range**2 / 10 ** (truth[want]["psnr_ideal_regression"] / 10)
                source[want][name]["use"] = source_use({**record["errors"], "ideal": ideal})
    criteria = [
        row | {"name": f"{want}: {row['name']}"}
        for want in images
        for row in _criteria(tables[want], source[want], truth, want, first)
    ]
    return {
        "verdict": _verdict(tables, source, truth, first, criteria), "findings": criteria,
        "truth": truth, "fits": fits, **parts,
    }  # fmt: skip


def page(results: Mapping[str, Any], pictures: Sequence[Picture], split: Split) -> str:
    """The report."""
    counts = [len(part.subject_keys) for part in split]
    images = list(results["tables"])
    return report_page(
        results,
        title="Completion: one image from the others",
        tables=[
            (f"{want} from the others, {what}", _scores(results["tables"][want], names))
            for want in images
            for what, names in (("the mean", MEANS), ("samples", SAMPLES))
        ],
        figures=pictures,
        details=[
            *((f"{want}, sampling steps", _steps(results["steps"][want])) for want in images),
            *((f"{want}, costs", _costs(results["costs"][want])) for want in images),
            ("Fits", pd.DataFrame(results["fits"]).T.reset_index()),
        ],
        methods=[
            f"{counts[0]} training, {counts[1]} validation and {counts[2]} held-out subjects of "
            f"{split.train.name}, who share nobody. Figures are of the mean of "
            f"{results['config']['samples']} samples (PSNR, SSIM, pattern) or of the samples (the "
            "others), inside the template's brain, or where most people have signal; CRPS of a "
            "single prediction is its mean absolute error. Intervals are 95 % bootstrap intervals "
            "over held-out subjects.",
            "A trained baseline knows one image and has its part of the processor time of the "
            "first arm's fit, so that all images together have the same.",
            "A shuffled source is another subject's, in the outline of the subject's own brain, "
            "which alone tells a good deal and is not what is asked about. The mean volume that "
            "its cost is measured by is in that outline, too.",
            "The ideal regression knows the anatomy and the pattern that a subject was made with; "
            "a model must read them off a noisy image, so it is a bound that none reaches.",
        ],
        warnings=["One fit an arm: how much another would differ is in no interval."],
    )


def _criteria(
    tables: Tables,
    source: Mapping[str, Mapping[str, float]],
    truth: Mapping[str, Any] | None,
    want: str,
    first: str,
) -> Iterator[dict[str, Any]]:
    own = tables[first]
    value = {name: row["value"] for name, row in own.items()}
    if truth:
        gap = truth[want]["psnr_ideal_regression"] - value["psnr"]
        yield criterion("PSNR below the ideal regression, dB", gap, f"at most {NEAR}", gap <= NEAR)
        use = source[first]["use"]
        aim = f"at least {USED:g} of the ideal's gain"
        yield criterion("a shuffled source costs", use, aim, use >= USED)
    if "source-blind" in tables and want in MARGINS:
        blind = tables["source-blind"]
        decibels, share = MARGINS[want]
        gain = value["psnr"] - blind["psnr"]["value"]
        aim = f"at least {decibels:g}"
        yield criterion("PSNR over source-blind, dB", gain, aim, gain >= decibels)
        more = value["ssim"] / blind["ssim"]["value"] - 1
        aim = f"at least {share:g}"
        yield criterion("SSIM over source-blind, share", more, aim, more >= share)
    others = [name for name in REGRESSIONS if name in tables]
    for metric, sign in (("crps", -1), ("spectrum", -1), ("pattern", 1)):
        rivals = {
            sign * tables[name][metric]["value"]: name
            for name in reversed(others) if metric in own
        }  # fmt: skip
        if rivals:
            best = max(rivals)
            aim = f"{'below' if sign < 0 else 'above'} {sign * best:.3g} of {rivals[best]}"
            yield criterion(metric, value[metric], aim, sign * value[metric] > best)
    off = abs(value["coverage"] - 1)
    yield criterion("coverage", value["coverage"], f"1 within {COVERED}", off <= COVERED)
    low = own["uncertainty"]["low"]
    yield criterion("uncertainty with error", value["uncertainty"], "interval above 0", low > 0)


def _verdict(
    tables: Mapping[str, Tables],
    arms: Mapping[str, Mapping[str, Any]],
    truth: Mapping[str, Any] | None,
    first: str,
    criteria: Sequence[Mapping[str, Any]],
) -> str:
    sentences = []
    for want, table in tables.items():
        text = f"{want} {table[first]['psnr']['value']:.2f} dB"
        others = [name for name in table if name not in arms[want]]
        if others:
            best = max(others, key=lambda n: table[n]["psnr"]["value"])
            text += f" against {table[best]['psnr']['value']:.2f} dB of {best}, the best baseline"
        if truth:
            text += f", and {truth[want]['psnr_ideal_regression']:.2f} dB of the ideal regression"
        sentences.append(text)
    count, missed = tally(criteria)
    return f"{'; '.join(sentences)}. {count} are met{missed}."


def _scores(tables: Tables, names: Mapping[str, str]) -> pd.DataFrame:
    """Values with intervals, an arm a row."""
    return pd.DataFrame([
        {"arm": arm}
        | {
            text: estimate_text(row["value"], (row["low"], row["high"]), DIGITS.get(name, ".3f"))
            for name, text in names.items()
            for row in [table.get(name)]
            if row
        }
        for arm, table in tables.items()
    ]).fillna("")  # fmt: skip


def _steps(records: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """Values without intervals, which are wide: few subjects are looked at."""
    return pd.DataFrame([
        {
            "steps": str(steps),
            **{
                text: f"{record['table'][name]['value']:{DIGITS.get(name, '.3f')}}"
                for name, text in (MEANS | SAMPLES).items()
                if name in record["table"]
            },
            "seconds a subject": f"{record['processor a subject']:.1f}",
        }
        for steps, record in sorted(records.items())
    ])  # fmt: skip


def _costs(costs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([
        {"arm": name, **{text: cost.get(key, "") for key, text in COSTS.items()}}
        for name, cost in costs.items()
    ])  # fmt: skip
