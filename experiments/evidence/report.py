"""The page of an experiment with arms: tables, figures and slices of what :mod:`verdict` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuromix.classifiers.evaluate import Predictions, metrics
from neuromix.experiments.evidence.arm_table import ARMS, GAUSSIAN, RATIOS, SYNTHETIC
from neuromix.experiments.frame.figures import (
    Point,
    Scores,
    bars,
    confusion,
    curves,
    reliability,
    roc,
)
from neuromix.experiments.frame.pages import Picture, Viewer, report_page, slices, viewer
from neuromix.experiments.frame.verdict import METRIC, SCRATCH, Group, title_of

WHITE = 2.5
"""Diffusivity that pictures show as white, in 1e-3 mm²/s."""

SIZES = {
    "size": "real training subjects",
    "size_b": "of site B",
    "missing": "% of the training subjects lack an image:",
}
"""What sets groups of one setting apart, in words."""
AXES = ("size", "missing")
"""What curves are drawn against."""


def page(
    title: str,
    results: Mapping[str, Any],
    groups: Sequence[Group],
    pictures: Sequence[Path],
    *,
    methods: Sequence[str],
    warnings: Sequence[str],
    config: Mapping[str, Any],
    more: Sequence[tuple[str, pd.DataFrame]] = (),
    first: Sequence[Picture] = (),
) -> str:
    """The report.

    Args:
        title: Of the page.
        results: Of :func:`neuromix.experiments.frame.verdict.weigh`, with ``diagnosis`` and
            ``time``.
        groups: What it was made of.
        pictures: Files of :func:`neuromix.experiments.evidence.arms.keep_pictures`; the last one is
            looked through.
        methods: What is special to the experiment.
        warnings: What a reader must know first.
        config: Settings.
        more: Tables of the experiment's own.
        first: Pictures of its own.
    """
    tables = [("Primary endpoint", _primary(results["primary"]))] if results["primary"] else []
    tables += [(_heading(told["title"]), _scores(told)) for told in results["groups"]]
    if results["diagnosis"]:
        tables.append(("What explains it", pd.DataFrame(results["diagnosis"])))
    return report_page(
        title=title,
        verdict=results["verdict"],
        tables=[*tables, *more],
        figures=[*first, *_slices(pictures), *_figures(results["groups"], groups)],
        viewers=_viewers(pictures[-1]) if pictures else (),
        details=[
            ("Every comparison", _comparisons(results["groups"])),
            ("Time", _time(results["time"])),
        ],
        methods=[*methods, *_methods(results)],
        warnings=warnings,
        config=config,
        made_by=results["made by"],
    )


def seeds_warning(seeds: int, spread: str) -> str:
    """What no interval of these experiments holds."""
    return (
        f"Intervals are over test subjects and {seeds} seeds of the classifier. One sampler was "
        f"trained for each {spread}, on one draw of training subjects: how much another sampler or "
        "other training subjects would differ is not in any interval."
    )


def _scores(told: Mapping[str, Any]) -> pd.DataFrame:
    """An arm a row."""
    rows = []
    beside_real = {r["arm"]: r for r in told["comparisons"] if r["baseline"] == told["reference"]}
    # Ways to complete test subjects are before the same classifiers: validation chooses none.
    chosen = told["chosen"] if len(set(told["validation"].values())) > 1 else None
    for arm, scores in told["scores"].items():
        row = {
            "arm": title_of(arm) + (" (chosen on validation)" if arm == chosen else ""),
            "balanced accuracy": f"{scores[METRIC]['value']:.3f}",
            "95 % CI": _ends(scores[METRIC]["interval"]),
            "AUC": f"{scores['auc']['value']:.3f}",
            "F1": f"{scores['f1']['value']:.3f}",
            "ECE": f"{scores['ece']['value']:.3f}",
            "on validation": f"{told['validation'][arm]:.3f}",
        }
        difference = beside_real.get(arm)
        row[f"points over {title_of(told['reference'])}"] = (
            f"{100 * difference['difference']:+.1f} ({_ends(difference['interval'], 100)})"
            if difference
            else ""
        )
        if told["gap_closed"]:
            row["share of the gap closed"] = _share(told["gap_closed"].get(arm))
        rows.append(row)
    return pd.DataFrame(rows)


def _share(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return ""
    if gap["value"] is None or np.isnan(gap["value"]):
        return "no gap"
    known = [end is not None and not np.isnan(end) for end in gap["interval"]]
    if not any(known):
        return "gap not clear of zero"
    ends = [
        f"{100 * end:.0f}" if is_known else "no bound"
        for end, is_known in zip(gap["interval"], known, strict=True)
    ]
    return f"{100 * gap['value']:.0f} % ({ends[0]} to {ends[1]})"


def _comparisons(groups: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([
        {
            "where": told["title"],
            "arm": title_of(row["arm"]),
            "against": title_of(row["baseline"]),
            "points": f"{100 * row['difference']:+.1f}",
            "95 % CI": _ends(row["interval"], 100),
            "p": f"{row['p']:.2g}",
            "p, Holm (exploratory)": f"{row['p_holm']:.2g}" if "p_holm" in row else "primary",
        }
        for told in groups
        for row in told["comparisons"]
    ])  # fmt: skip


def _primary(row: Mapping[str, Any]) -> pd.DataFrame:
    told = {
        "endpoint": row["origin"],
        "arm": title_of(row["arm"]),
        "baseline": title_of(row["baseline"]),
        "where": row["group"],
        "metric": row["metric"].replace("_", " "),
        "difference, points": f"{100 * row['difference']:+.1f}",
        "95 % CI": _ends(row["interval"], 100),
        "p, not corrected": f"{row['p']:.2g}",
    }
    return pd.DataFrame(told.items(), columns=["what", "value"])


def _time(time: Mapping[str, Any]) -> pd.DataFrame:
    rows = [(name, f"{seconds / 60:.1f}") for name, seconds in time["seconds by part"].items()]
    rows.append(("all", f"{time['seconds'] / 60:.1f}"))
    rows.append(("of it loading data and waiting for it", f"{100 * time['loading share']:.1f} %"))
    return pd.DataFrame(rows, columns=["what", "minutes"])


def _figures(told: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> list[Picture]:
    """Differences and details of the first group, then curves of all."""
    first, group = told[0], groups[0]
    rows = [
        (title_of(row["arm"]), _point(row["difference"], row["interval"], 100))
        for row in first["comparisons"]
        if row["baseline"] == first["reference"]
    ]
    found = []
    if rows:
        found.append(bars(
            rows,
            xlabel=f"points of balanced accuracy over {title_of(first['reference'])}",
            caption=f"Difference to {title_of(first['reference'])}, with 95 % intervals: "
            f"{first['title']}.",
        ))  # fmt: skip
    for setting in dict.fromkeys(group.key["setting"] for group in groups):
        members = [each for each in told if each["key"]["setting"] == setting]
        found += _ratio_curves(members)
        found += _learning_curves(members)
    roles = group.roles
    arms = (roles.reference, group.baseline, group.chosen, "synthetic-only", roles.ceiling)
    shown = {arm: group.runs[arm] for arm in dict.fromkeys(arms) if arm in group.runs}
    case = first["classes"][-1]
    pooled = {title_of(arm): _pooled(runs, case) for arm, runs in shown.items()}
    tables = {
        title_of(arm): np.sum([metrics(run)["confusion"] for run in runs], axis=0)
        for arm, runs in shown.items()
    }
    where = f"{first['title']}; all seeds together"
    found.append(roc(pooled, case=_case(group, case), caption=f"ROC: {where}."))
    found.append(confusion(tables, classes=first["classes"], caption=f"Confusion: {where}."))
    found.append(reliability(pooled, case=_case(group, case), caption=f"Reliability: {where}."))
    return found


def _ratio_curves(members: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Score against the number of samples for each real subject; a curve for each group."""
    series = {}
    for told in members:
        arms = {0.0: "real", **{ratio: f"synthetic-{ratio:g}" for ratio in RATIOS}}
        points = [
            _point(told["scores"][arm][METRIC]["value"], told["scores"][arm][METRIC]["interval"],
                   x=ratio)
            for ratio, arm in arms.items() if arm in told["scores"]
        ]  # fmt: skip
        if len(points) > 1:
            series[_short(told)] = points
    if not series:
        return []
    return [curves(
        series,
        xlabel="synthetic samples for each real subject",
        ylabel="balanced accuracy",
        caption=f"By the ratio of synthetic to real subjects, with 95 % intervals: "
        f"{_subject(members[0])}.",
        levels=_levels(members),
    )]  # fmt: skip


def _learning_curves(members: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Score against what the groups of a setting differ in, a curve for each arm."""
    found = []
    axis = next((name for name in AXES if name in members[0]["key"]), "")
    others = dict.fromkeys(tuple(_rest(told, axis).items()) for told in members)
    for other in others:
        alike = [told for told in members if tuple(_rest(told, axis).items()) == other]
        if len(alike) < 2:
            continue
        series: dict[str, list[Point]] = {}
        for told in alike:
            for arm, scores in told["scores"].items():
                if arm not in (told["ceiling"], SCRATCH):
                    point = _point(
                        scores[METRIC]["value"], scores[METRIC]["interval"], x=told["key"][axis]
                    )
                    series.setdefault(title_of(arm), []).append(point)
        beside = "".join(f", {SIZES[n]} {v}" for n, v in other if n != "setting")
        found.append(curves(
            series,
            xlabel=SIZES[axis].rstrip(":"),
            ylabel="balanced accuracy",
            caption=f"{'Learning curves' if axis == 'size' else 'Curves'}, with 95 % intervals: "
            f"{_subject(alike[0])}{beside}.",
            log=axis == "size",
            levels=_levels(alike[:1]),
        ))  # fmt: skip
    return found


def _levels(members: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Chance, and the ceiling if all members share one."""
    levels = {"chance": 1 / len(members[0]["classes"])}
    ceilings = {
        told["scores"][told["ceiling"]][METRIC]["value"]
        for told in members
        if told["ceiling"] in told["scores"]
    }
    if len(ceilings) == 1:
        levels["ceiling"] = ceilings.pop()
    return levels


def _slices(pictures: Sequence[Path]) -> list[Picture]:
    found: list[Picture] = []
    for path in pictures:
        content = np.load(path)
        volumes: list[np.ndarray] = []
        titles: list[str] = []
        for k in range(len(content["real"])):
            for kind, short in (("real", "real"), (SYNTHETIC, "synthetic"), (GAUSSIAN, "Gaussian")):
                label = "titles" if kind == "real" else f"{kind} titles"
                if kind in content and k < len(content[kind]) and len(volumes) < 8:
                    volumes.append(content[kind][k])
                    titles.append(f"{short}: {content[label][k]}")
        found.append((
            slices(volumes, titles, upper=WHITE),
            f"{path.stem}: real training subjects beside samples of the same sex and diagnosis; "
            f"axial, coronal and sagittal slices, mean diffusivity from 0 to {WHITE} in 1e-3 "
            "mm²/s, equally scaled.",
            f"Slices of {', '.join(titles)}, in columns.",
        ))  # fmt: skip
    return found


def _viewers(path: Path) -> list[Viewer]:
    content = np.load(path)
    found = [viewer(
        content["real"][0], content["affine"], f"A real training subject, {content['titles'][0]}",
        upper=WHITE,
    )]  # fmt: skip
    if SYNTHETIC in content:
        told = f"A synthetic subject, {content[f'{SYNTHETIC} titles'][0]}"
        found.append(viewer(content[SYNTHETIC][0], content["affine"], told, upper=WHITE))
    return found


def _methods(results: Mapping[str, Any]) -> list[str]:
    arms = list(dict.fromkeys(arm for told in results["groups"] for arm in told["scores"]))
    titles = [title_of(results["groups"][0][name]) for name in ("reference", "ceiling")]
    found = [
        "All arms of a comparison have the same real training subjects, validation subjects, test "
        "subjects, seeds and number of optimiser steps; the checkpoint of each is the one with the "
        "best score on the same real validation subjects."
    ]
    if ratios := [
        f"{title_of(arm)}: {ARMS[arm].ratio:g} samples a real subject"
        for arm in arms
        if arm in ARMS and ARMS[arm].source
    ]:
        found.append(
            "Samples of a smaller ratio are among those of a larger one. "
            f"{'; '.join(ratios)}. The ceiling is trained on many fresh real subjects, which only "
            "a phantom has."
        )
    if GAUSSIAN in arms:
        found.append(
            "The PCA-Gaussian is the cheap generator: a linear regression of voxels on labels and "
            "a Gaussian in the space of the residuals' principal components, fitted to the "
            "subjects that the diffusion sampler is fitted to, and asked for the same labels."
        )
    return [
        *found,
        "Intervals are 95 % bootstrap intervals over test subjects, drawn within their class with "
        "all their sessions, and over seeds of the classifier; arms are paired by both. The share "
        "of the gap closed is (arm - a) / (b - a), where a is the score of "
        f"'{titles[0]}' and b that of '{titles[1]}'.",
        f"Each arm is compared with '{titles[0]}', and each arm with synthetic data also with the "
        f"best of the baselines on validation subjects: {results['comparisons']} comparisons, "
        "corrected by Holm's method as one family. They are exploratory. Leak guard: no test "
        "subject had a part in the training of a generator or a classifier, or in any choice.",
    ]


def _pooled(runs: Sequence[Predictions], case: str) -> Scores:
    column = runs[0].classes.index(case)
    return Scores(
        np.concatenate([run.truth == case for run in runs]),
        np.concatenate([run.probabilities[:, column] for run in runs]),
    )


def _case(group: Group, case: str) -> str:
    return "dementia" if group.target == "dementia" else case


def _rest(told: Mapping[str, Any], axis: str) -> dict[str, Any]:
    return {name: value for name, value in told["key"].items() if name != axis}


def _short(told: Mapping[str, Any]) -> str:
    """What sets a group apart inside its setting."""
    values = {k: v for k, v in told["key"].items() if k != "setting"}
    return ", ".join(f"{SIZES[name]} {value}" for name, value in values.items())


def _subject(told: Mapping[str, Any]) -> str:
    return f"{told['target']} on {told['cohort']}, {told['key']['setting']}"


def _heading(text: str) -> str:
    return text[:1].upper() + text[1:]


def _point(value: float, interval: Sequence[float], scale: float = 1.0, x: float = 0.0) -> Point:
    return Point(x, scale * value, scale * interval[0], scale * interval[1])


def _ends(interval: Sequence[float], scale: float = 1.0) -> str:
    low, high = (scale * end for end in interval)
    return f"{low:.1f} to {high:.1f}" if scale > 1 else f"{low:.3f} to {high:.3f}"
