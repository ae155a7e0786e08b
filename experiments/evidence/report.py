"""The page of an experiment with arms: tables, figures and slices of what :mod:`verdict` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuromix.classifiers.evaluate import Predictions, metrics
from neuromix.experiments.evidence.arms import ARMS, GAUSSIAN, RATIOS, SYNTHETIC
from neuromix.experiments.frame import figures
from neuromix.experiments.frame.figures import WHITE, Picture, Point, Scores
from neuromix.experiments.frame.findings import estimate_text, interval_text, pairs_table
from neuromix.experiments.frame.pages import Viewer, report_page, viewer
from neuromix.experiments.frame.verdict import METRIC, SCRATCH, Group, title_of

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
    methods: Sequence[str],
    warnings: Sequence[str],
    *,
    pictures: Sequence[Path] = (),
    more: Sequence[tuple[str, pd.DataFrame]] = (),
    first: Sequence[Picture] = (),
) -> str:
    """The report of results of :func:`weigh`, with ``diagnosis`` and ``time``, of these groups.

    An experiment brings methods and warnings, ``more`` tables and ``first`` pictures of its own,
    and files of volumes (real, synthetic, Gaussian), of which the last one is looked through.
    """
    members = results["groups"]
    tables = [("Primary endpoint", _primary(results["primary"]))] if results["primary"] else []
    tables += [(each["title"][:1].upper() + each["title"][1:], _scores(each)) for each in members]
    if results["diagnosis"]:
        tables.append(("What explains it", pd.DataFrame(results["diagnosis"])))
    return report_page(
        results,
        title=title,
        tables=[*tables, *more],
        figures=[*first, *map(_slices, pictures), *_figures(members, groups)],
        viewers=_viewers(pictures[-1]) if pictures else (),
        details=[("Every comparison", _comparisons(members)), ("Time", _time(results["time"]))],
        methods=[*methods, *_methods(results)],
        warnings=warnings,
    )


def seeds_warning(seeds: int, spread: str) -> str:
    """What no interval of these experiments holds."""
    return (
        f"Intervals are over test subjects and {seeds} seeds of the classifier. One sampler was "
        f"trained for each {spread}, on one draw of training subjects: how much another sampler or "
        "other training subjects would differ is not in any interval."
    )


def _scores(group: Mapping[str, Any]) -> pd.DataFrame:
    """An arm a row."""
    rows = []
    reference = group["reference"]
    differences = {r["arm"]: r for r in group["comparisons"] if r["baseline"] == reference}
    # Ways to complete test subjects are before the same classifiers: validation chooses none.
    chosen = group["chosen"] if len(set(group["validation"].values())) > 1 else None
    for arm, scores in group["scores"].items():
        row = {
            "arm": title_of(arm) + (" (chosen on validation)" if arm == chosen else ""),
            "balanced accuracy, 95 % CI": estimate_text(
                scores[METRIC]["value"], scores[METRIC]["interval"], ".3f"
            ),
            "AUC": f"{scores['auc']['value']:.3f}",
            "F1": f"{scores['f1']['value']:.3f}",
            "ECE": f"{scores['ece']['value']:.3f}",
            "on validation": f"{group['validation'][arm]:.3f}",
            f"points over {title_of(reference)}": "",
        }
        if arm in differences:
            row[f"points over {title_of(reference)}"] = _points(differences[arm])
        if group["gap_closed"]:
            row["share of the gap closed"] = _share(group["gap_closed"].get(arm))
        rows.append(row)
    return pd.DataFrame(rows)


def _share(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return ""
    if gap["value"] is None or np.isnan(gap["value"]):
        return "no gap"
    ends = [None if end is None or np.isnan(end) else f"{100 * end:.0f}" for end in gap["interval"]]
    if not any(ends):
        return "gap not clear of zero"
    low, high = (end or "no bound" for end in ends)
    return f"{100 * gap['value']:.0f} % ({low} to {high})"


def _points(row: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    return f"{100 * row['difference']:+.1f} ({interval_text(row['interval'], '.1f', 100)})"


def _comparisons(groups: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([
        {
            "where": group["title"],
            "arm": title_of(row["arm"]),
            "against": title_of(row["baseline"]),
            "points, 95 % CI": _points(row),
            "p": f"{row['p']:.2g}",
            "p, Holm (exploratory)": f"{row['p_holm']:.2g}" if "p_holm" in row else "primary",
        }
        for group in groups
        for row in group["comparisons"]
    ])  # fmt: skip


def _primary(row: Mapping[str, Any]) -> pd.DataFrame:
    return pairs_table({
        "endpoint": row["origin"],
        "arm": title_of(row["arm"]),
        "baseline": title_of(row["baseline"]),
        "where": row["group"],
        "metric": row["metric"].replace("_", " "),
        "difference, points, 95 % CI": _points(row),
        "p, not corrected": f"{row['p']:.2g}",
    })  # fmt: skip


def _time(time: Mapping[str, Any]) -> pd.DataFrame:
    minutes = {**time["seconds by part"], "all": time["seconds"]}
    rows = {name: f"{seconds / 60:.1f}" for name, seconds in minutes.items()}
    rows["of it loading data and waiting for it"] = f"{100 * time['loading share']:.1f} %"
    return pairs_table(rows, ("what", "minutes"))


def _figures(members: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> Iterator[Picture]:
    """Differences of the first group, curves of all, details of the first."""
    first, group = members[0], groups[0]
    reference = title_of(first["reference"])
    rows = [
        (title_of(row["arm"]), Point(0, *(100 * x for x in (row["difference"], *row["interval"]))))
        for row in first["comparisons"]
        if row["baseline"] == first["reference"]
    ]
    if rows:
        yield figures.bars(
            rows,
            xlabel=f"points of balanced accuracy over {reference}",
            caption=f"Difference to {reference}, with 95 % intervals: {first['title']}.",
        )
    for setting in dict.fromkeys(each["key"]["setting"] for each in members):
        alike = [each for each in members if each["key"]["setting"] == setting]
        yield from _ratio_curves(alike)
        yield from _learning_curves(alike)
    roles = group.roles
    arms = (roles.reference, group.baseline, group.chosen, "synthetic-only", roles.ceiling)
    shown = {title_of(arm): group.runs[arm] for arm in dict.fromkeys(arms) if arm in group.runs}
    case = first["classes"][-1]
    pooled = {name: _pooled(runs, case) for name, runs in shown.items()}
    tables = {
        name: np.sum([metrics(run)["confusion"] for run in runs], axis=0)
        for name, runs in shown.items()
    }
    where = f"{first['title']}; all seeds together"
    name = "dementia" if group.target == "dementia" else case
    yield figures.roc(pooled, case=name, caption=f"ROC: {where}.")
    yield figures.confusion(tables, classes=first["classes"], caption=f"Confusion: {where}.")


def _ratio_curves(members: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    """Score against the number of samples for each real subject; a curve for each group."""
    arms = {0.0: "real", **{ratio: f"{SYNTHETIC}-{ratio:g}" for ratio in RATIOS}}
    series = {}
    for group in members:
        points = [_point(x, group, arm) for x, arm in arms.items() if arm in group["scores"]]
        rest = (f"{SIZES[n]} {v}" for n, v in group["key"].items() if n != "setting")
        if len(points) > 1:
            series[", ".join(rest)] = points
    if series:
        yield figures.curves(
            series,
            xlabel="synthetic samples for each real subject",
            ylabel="balanced accuracy",
            caption="By the ratio of synthetic to real subjects, with 95 % intervals: "
            f"{_subject(members[0])}.",
            levels=_levels(members),
        )


def _learning_curves(members: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    """Score against what the groups of a setting differ in, a curve for each arm."""
    axis = next((name for name in AXES if name in members[0]["key"]), "")
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for group in members:
        others = {n: v for n, v in group["key"].items() if n not in (axis, "setting")}
        name = "".join(f", {SIZES[n]} {v}" for n, v in others.items())
        parts.setdefault(name, []).append(group)
    for beside, alike in parts.items():
        if len(alike) < 2:
            continue
        series: dict[str, list[Point]] = {}
        for group in alike:
            for arm in group["scores"]:
                if arm not in (group["ceiling"], SCRATCH):
                    point = _point(group["key"][axis], group, arm)
                    series.setdefault(title_of(arm), []).append(point)
        yield figures.curves(
            series,
            xlabel=SIZES[axis].rstrip(":"),
            ylabel="balanced accuracy",
            caption=f"{'Learning curves' if axis == 'size' else 'Curves'}, with 95 % intervals: "
            f"{_subject(alike[0])}{beside}.",
            log=axis == "size",
            levels=_levels(alike[:1]),
        )


def _point(x: float, group: Mapping[str, Any], arm: str) -> Point:
    score = group["scores"][arm][METRIC]
    return Point(x, score["value"], *score["interval"])


def _levels(members: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Chance, and the ceiling if all members share one."""
    levels = {"chance": 1 / len(members[0]["classes"])}
    ceilings = {
        group["scores"][group["ceiling"]][METRIC]["value"]
        for group in members
        if group["ceiling"] in group["scores"]
    }
    if len(ceilings) == 1:
        levels["ceiling"] = ceilings.pop()
    return levels


def _slices(path: Path) -> Picture:
    content = np.load(path)
    volumes: list[np.ndarray] = []
    titles: list[str] = []
    for k in range(len(content["real"])):
        for kind, short in (("real", "real"), (SYNTHETIC, "synthetic"), (GAUSSIAN, "Gaussian")):
            label = "titles" if kind == "real" else f"{kind} titles"
            if kind in content and k < len(content[kind]) and len(volumes) < 8:
                volumes.append(content[kind][k])
                titles.append(f"{short}: {content[label][k]}")
    upper, what = _white(content)
    return (
        figures.slices(volumes, titles, upper=upper),
        f"{path.stem}: real training subjects beside samples of the same sex and diagnosis; axial, "
        f"coronal and sagittal slices, {what} from 0 to {upper:.3g}, equally scaled.",
        f"Slices of {', '.join(titles)}, in columns.",
    )


def _white(content: Any) -> tuple[float, str]:
    """What is shown as white, and of what: of a map that is no MD, by the real subjects."""
    if content["image"] == "md":
        return WHITE, "mean diffusivity in 1e-3 mm²/s"
    return float(np.percentile(content["real"], 99.8)), str(content["image"])


def _viewers(path: Path) -> list[Viewer]:
    content = np.load(path)
    kinds = {"real": ("A real training subject", "titles"),
             SYNTHETIC: ("A synthetic subject", f"{SYNTHETIC} titles")}  # fmt: skip
    return [
        viewer(
            content[kind][0],
            content["affine"],
            f"{name}, {content[label][0]}",
            upper=_white(content)[0],
        )
        for kind, (name, label) in kinds.items()
        if kind in content
    ]


def _methods(results: Mapping[str, Any]) -> Iterator[str]:
    first = results["groups"][0]
    arms = list(dict.fromkeys(arm for group in results["groups"] for arm in group["scores"]))
    reference, ceiling = (title_of(first[name]) for name in ("reference", "ceiling"))
    yield (
        "All arms of a comparison have the same real training subjects, validation subjects, test "
        "subjects, seeds and number of optimiser steps; the checkpoint of each is the one with the "
        "best score on the same real validation subjects."
    )
    ratios = [
        f"{title_of(arm)}: {ARMS[arm].ratio:g} samples a real subject"
        for arm in arms
        if arm in ARMS and ARMS[arm].source
    ]
    if ratios:
        yield (
            f"Samples of a smaller ratio are among those of a larger one. {'; '.join(ratios)}. The "
            "ceiling is trained on many fresh real subjects, which only a phantom has."
        )
    if GAUSSIAN in arms:
        yield (
            "The PCA-Gaussian is the cheap generator: a linear regression of voxels on labels and "
            "a Gaussian in the space of the residuals' principal components, fitted to the "
            "subjects that the diffusion sampler is fitted to, and asked for the same labels."
        )
    yield (
        "Intervals are 95 % bootstrap intervals over test subjects, drawn within their class with "
        "all their sessions, and over seeds of the classifier; arms are paired by both. The share "
        "of the gap closed is (arm - a) / (b - a), where a is the score of "
        f"'{reference}' and b that of '{ceiling}'."
    )
    yield (
        f"Each arm is compared with '{reference}', and each arm with synthetic data also with the "
        f"best of the baselines on validation subjects: {results['comparisons']} comparisons, "
        "corrected by Holm's method as one family. They are exploratory. Leak guard: no test "
        "subject had a part in the training of a generator or a classifier, or in any choice."
    )


def _pooled(runs: Sequence[Predictions], case: str) -> Scores:
    column = runs[0].classes.index(case)
    return Scores(
        np.concatenate([run.truth == case for run in runs]),
        np.concatenate([run.probabilities[:, column] for run in runs]),
    )


def _subject(group: Mapping[str, Any]) -> str:
    return f"{group['target']} on {group['cohort']}, {group['key']['setting']}"
