"""What the experiment ``completion`` says: tables, goals that are met or missed, and the page.

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
from neuromix.augment.pds.config import MODALITIES
from neuromix.experiments.frame.pages import Picture, report_page
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
DIGITS = {"psnr": 2, "crps": 4}
USED = 0.8
COVERED = 0.1

Tables = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By arm and metric ``{"value", "low", "high"}``."""


def summarise(
    records: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Any] | None,
    first: str,
    data_range: float,
) -> dict[str, Any]:
    """Tables by direction, goals and the verdict, as plain content.

    Args:
        records: Of all cells.
        truth: By modality, the PSNR of a phantom's ideal regression.
        first: The arm that goals are set for.
        data_range: Of the PSNR.
    """
    told: dict[str, Any] = {
        name: {want: {} for want in MODALITIES} for name in ("tables", "steps", "source", "costs")
    }
    fits = {}
    for record in records:
        cell = record["cell"]
        if "fit" in cell:
            fits[cell["fit"]] = {k: record[k] for k in ("processor", "best_step")}
            continue
        want = cell["want"]
        if "steps" in cell:
            told["steps"][want][cell["steps"]] = record
            continue
        name = cell.get("arm") or cell["baseline"]
        told["tables"][want][name] = record["table"]
        told["costs"][want][name] = {
            k: record[k] for k in ("processor a subject", "processor", "steps") if k in record
        }
        if "errors" in record:
            told["source"][want][name] = dict(record["errors"])
            if truth:
                ideal = data_range**2 / 10 ** (truth[want]["psnr_ideal_regression"] / 10)
                told["source"][want][name]["use"] = source_use({**record["errors"], "ideal": ideal})
    goals = [
        {"direction": f"{want} from the other", **goal}
        for want in MODALITIES
        for goal in _goals(told["tables"][want], told["source"][want], truth, want, first)
    ]
    return {
        "verdict": _verdict(told["tables"], told["source"], truth, first, goals),
        "goals": goals, "truth": truth, "fits": fits, **told,
    }  # fmt: skip


def page(results: Mapping[str, Any], pictures: Sequence[Picture], split: Split) -> str:
    """The report."""
    tables = [("Goals", pd.DataFrame(results["goals"]).map(_met))]
    for want in MODALITIES:
        for what, names in (("the mean", MEANS), ("samples", SAMPLES)):
            table = _scores(results["tables"][want], names)
            tables.append((f"{want} from the other, {what}", table))
    steps = [(f"{want}, steps of PDM", _steps(results["steps"][want])) for want in MODALITIES]
    costs = [(f"{want}, costs", _costs(results["costs"][want])) for want in MODALITIES]
    counts = [len(part.subject_keys) for part in split]
    config = results["config"]
    return report_page(
        title="Completion: one modality from the other",
        verdict=results["verdict"],
        tables=tables,
        figures=pictures,
        details=[*steps, *costs, ("Fits", pd.DataFrame(results["fits"]).T.reset_index())],
        methods=[
            f"{counts[0]} training, {counts[1]} validation and {counts[2]} held-out subjects of "
            f"{split.train.name}, who share nobody. Figures are of the mean of {config['samples']} "
            "samples (PSNR, SSIM, pattern) or of the samples (the others), inside the template's "
            "brain; CRPS of a single prediction is its mean absolute error. Intervals are 95 % "
            "bootstrap intervals over held-out subjects.",
            "A trained baseline knows one direction and has half of the processor time of the "
            "first arm's fit, so that both directions together have the same.",
            "A shuffled source is another subject's, in the outline of the subject's own brain, "
            "which alone tells a good deal and is not what is asked about. The mean volume that "
            "its cost is measured by is in that outline, too.",
            "The ideal regression knows the anatomy and the pattern that a subject was made with; "
            "a model must read them off a noisy image, so it is a bound that none reaches.",
        ],
        warnings=["One fit an arm: how much another would differ is in no interval."],
        config=config,
        made_by=results["made by"],
    )


def _goals(
    tables: Tables,
    source: Mapping[str, Mapping[str, float]],
    truth: Mapping[str, Any] | None,
    want: str,
    first: str,
) -> Iterator[dict[str, Any]]:
    own = tables[first]
    others = [name for name in REGRESSIONS if name in tables]
    if truth:
        ideal = truth[want]["psnr_ideal_regression"]
        gap = ideal - own["psnr"]["value"]
        yield _goal("PSNR below the ideal regression, dB", gap, f"at most {NEAR}", gap <= NEAR)
        used = source[first]["use"]
        yield _goal("a shuffled source costs", used, f"{USED:g} of the ideal's gain", used >= USED)
    if "source-blind" in tables:
        blind = tables["source-blind"]
        decibels, share = MARGINS[want]
        gain = own["psnr"]["value"] - blind["psnr"]["value"]
        yield _goal("PSNR over source-blind, dB", gain, f"{decibels:g}", gain >= decibels)
        more = own["ssim"]["value"] / blind["ssim"]["value"] - 1
        yield _goal("SSIM over source-blind, share", more, f"{share:g}", more >= share)
    for metric, sign in (("crps", -1), ("spectrum", -1), ("pattern", 1)):
        if others:
            best = max(others, key=lambda n, m=metric, s=sign: s * tables[n][m]["value"])  # type: ignore[misc]
            value, rival = own[metric]["value"], tables[best][metric]["value"]
            aim = f"{'below' if sign < 0 else 'above'} {rival:.3g} of {best}"
            yield _goal(metric, value, aim, sign * (value - rival) > 0)
    covered = own["coverage"]["value"]
    yield _goal("coverage", covered, f"1 within {COVERED}", abs(covered - 1) <= COVERED)
    told = own["uncertainty"]
    yield _goal("uncertainty with error", told["value"], "interval above 0", told["low"] > 0)


def _goal(name: str, value: float, aim: str, is_met: bool) -> dict[str, Any]:
    return {"goal": name, "value": float(value), "aim": aim, "met": bool(is_met)}


def _verdict(
    tables: Mapping[str, Tables],
    arms: Mapping[str, Mapping[str, Any]],
    truth: Mapping[str, Any] | None,
    first: str,
    goals: Sequence[Mapping[str, Any]],
) -> str:
    said = []
    for want, table in tables.items():
        text = f"{want} {table[first]['psnr']['value']:.2f} dB"
        others = [name for name in table if name not in arms[want]]
        if others:
            best = max(others, key=lambda n: table[n]["psnr"]["value"])
            text += f" against {table[best]['psnr']['value']:.2f} dB of {best}, the best baseline"
        if truth:
            text += f", and {truth[want]['psnr_ideal_regression']:.2f} dB of the ideal regression"
        said.append(text)
    missed = [f"{goal['goal']} ({goal['direction'][:4]})" for goal in goals if not goal["met"]]
    kept = f"{len(goals) - len(missed)} of {len(goals)} goals are met"
    return f"{'; '.join(said)}. {kept}{'; missed: ' + ', '.join(missed) if missed else ''}."


def _met(value: Any) -> Any:
    return {True: "met", False: "missed"}[value] if isinstance(value, bool) else value


def _scores(tables: Tables, names: Mapping[str, str]) -> pd.DataFrame:
    """Values with intervals, an arm a row."""
    rows = []
    for arm, table in tables.items():
        row = {"arm": arm}
        for name, text in names.items():
            if told := table.get(name):
                value, low, high = (
                    f"{told[end]:.{DIGITS.get(name, 3)}f}" for end in ("value", "low", "high")
                )
                row[text] = f"{value} ({low} to {high})"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _steps(records: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """Values without intervals, which are wide: few subjects are looked at."""
    rows = []
    for steps in sorted(records):
        row: dict[str, Any] = {"steps": str(steps)}
        for name, text in (MEANS | SAMPLES).items():
            row[text] = f"{records[steps]['table'][name]['value']:.{DIGITS.get(name, 3)}f}"
        row["seconds a subject"] = f"{records[steps]['processor a subject']:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _costs(costs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    names = {
        "processor": "seconds to fit", "steps": "steps of training",
        "processor a subject": "seconds a completed subject",
    }  # fmt: skip
    rows = [
        {"arm": name, **{text: cost.get(key) for key, text in names.items()}}
        for name, cost in costs.items()
    ]
    return pd.DataFrame(rows).astype(object).where(lambda t: t.notna(), "")
