"""What came out of :mod:`fidelity`: figures, criteria, a verdict, and a page.

Figures are the headline numbers of a table of fidelity, each relative to real volumes:

- ``... / p95``: MMD² over the 95th percentile of real-real splits of the same size; at most 1,
- ``... change``: relative change of a mean (of MS-SSIM and sharpness: the difference); 0,
- ``... / real``: over the value of real volumes; 1, and more is no fault but of Fréchet distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from neuromix.experiments.frame.figures import WHITE, Line, Picture, panels, slices
from neuromix.experiments.frame.findings import (
    criterion,
    estimate_text,
    interval_text,
    metrics_table,
    tally,
)
from neuromix.experiments.frame.pages import report_page
from neuromix.experiments.quality.config import GAUSSIAN

LIMITS = {
    "MMD² / p95": 1.0,
    "MS-SSIM change": 0.03,
    "continuity change": 0.1,
    "tissue MD change": 0.02,
}
"""The largest size of a figure that meets its criterion."""
LABELS = 0.9
"""The least share of real subjects' label accuracy."""
FEW, MANY = 20, 250
"""Numbers of steps that should do equally well."""
SWEEP = ("mmd2", "sharpness", "continuity_difference", "continuity_high_frequency")
SHOWN = 4
"""Pairs in the picture."""

Table = Mapping[str, Any]
"""Of :func:`neuromix.augment.metrics.fidelity.fidelity_table`, with ``cost``."""


def figures(table: Table) -> dict[str, float]:
    """Headline figures of a table of fidelity; see the module."""
    metrics = table["metrics"]

    def worst(prefix: str) -> float:
        changes = [row["change"] for name, row in metrics.items() if name.startswith(prefix)]
        return float(max(changes, key=abs))

    def over_real(name: str) -> float:
        return float(metrics[name]["value"] / max(metrics[name]["real"], 1e-12))

    result = {
        "MMD² / p95": metrics["mmd2"]["ratio"],
        "Fréchet / real": over_real("frechet"),
        "MS-SSIM change": metrics["ms_ssim"]["change"],
        "continuity change": worst("continuity_"),
        "tissue MD change": worst("tissue_md_"),
        "sharpness change": metrics["sharpness"]["change"],
        "graininess change": metrics["graininess"]["change"],
        "recall / real": over_real("recall"),
        "nearest training subject / real": over_real("nearest_ratio"),
    }
    if "network_mmd2" in metrics:
        result["network MMD² / p95"] = metrics["network_mmd2"]["ratio"]
        result["network Fréchet / real"] = over_real("network_frechet")
    return result | {name: row["ratio"] for name, row in _labels(metrics).items()}


def shortfall(name: str, value: float) -> float:
    """How far a figure is from what real volumes have, 0 if it is as good."""
    if name.endswith("change"):
        return abs(value)
    if "MMD" in name or "Fréchet" in name:
        return max(value - 1, 0.0)
    return max(1 - value, 0.0)


def summarise(
    rows: Mapping[str, Table],
    sweeps: Mapping[str, Mapping[str, Table]],
    *,
    sampler: str,
    about: str,
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """Everything that came out, as plain content.

    The sampler has a row for each sampling seed, whose names begin with its own; ``steps`` and
    ``guidance`` are swept, by value; sizes are scans of each part of the cohort.
    """
    seeds = [figures(row) for name, row in rows.items() if name.startswith(sampler)]
    own = {name: [seed[name] for seed in seeds] for name in seeds[0]}
    criteria = _criteria(own, _blind(rows))
    if {str(FEW), str(MANY)} <= set(sweeps["steps"]):
        criteria.append(_steps_criterion(*(sweeps["steps"][str(n)] for n in (FEW, MANY))))
    beside = {
        name: compare(figures(row), own)
        for name, row in rows.items()
        if not name.startswith(sampler)
    }
    ranges = {n: {"mean": float(np.mean(v)), "low": min(v), "high": max(v)} for n, v in own.items()}
    return {
        "verdict": verdict(sampler, about, criteria, beside),
        "findings": criteria,
        "sampler": ranges,
        "beside": beside,
        "sizes": dict(sizes),
        "rows": dict(rows),
        "sweeps": {name: dict(values) for name, values in sweeps.items()},
        "name": sampler,
        "about": about,
    }


def compare(other: Mapping[str, float], own: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Where another generator is nearer to real volumes than the sampler, and where farther.

    Nearer means nearer than every one of the sampler's sampling seeds; between them is alike.
    """
    result: dict[str, Any] = {"better": {}, "worse": {}, "alike": {}}
    for name, values in own.items():
        if name in other:
            here, there = [shortfall(name, v) for v in values], shortfall(name, other[name])
            side = "better" if there < min(here) else "worse" if there > max(here) else "alike"
            result[side][name] = [other[name], float(np.mean(values))]
    return result


def verdict(
    sampler: str,
    about: str,
    criteria: Sequence[Mapping[str, Any]],
    beside: Mapping[str, Mapping[str, Any]],
) -> str:
    """What came out, in words with numbers."""
    count, missed = tally(criteria)
    text = f"The {sampler} meets {count} ({about}){missed}."
    if GAUSSIAN in beside:
        sides = beside[GAUSSIAN]
        better = [f"{n} ({a:.3g} against {b:.3g})" for n, (a, b) in sides["better"].items()]
        total = sum(len(part) for part in sides.values())
        text += f" The {GAUSSIAN} is better than it in {len(better)} of {total} figures"
        text += f": {', '.join(better)}" if better else ""
        text += f"; worse in {len(sides['worse'])}."
    return text


def overview(results: Mapping[str, Any]) -> pd.DataFrame:
    """Figures of every generator; the sampler's are means with the range over sampling seeds."""
    others = {name: figures(results["rows"][name]) for name in results["beside"]}
    table = []
    for name, row in results["sampler"].items():
        low, high = row["low"], row["high"]
        own = estimate_text(row["mean"], (low, high)) if low < high else f"{row['mean']:.3g}"
        cells = {"figure": name, "real": "0" if name.endswith("change") else "1"}
        cells[results["name"]] = own
        cells |= {other: f"{each[name]:.3g}" for other, each in others.items() if name in each}
        table.append(cells)
    return pd.DataFrame(table).fillna("")


def page(
    results: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
    heldout: np.ndarray,
    asked: Sequence[int],
) -> str:
    """The report, with the first volumes of each row.

    ``asked`` are the places of the held-out volumes whose labels were asked for.
    """
    rows, sampler = results["rows"], results["name"]
    first = next(name for name in rows if name.startswith(sampler))
    nearer = [
        {"generator": name, **{side: ", ".join(names) or "-" for side, names in sides.items()}}
        for name, sides in results["beside"].items()
    ]
    sweeps = {kind: values for kind, values in results["sweeps"].items() if values}
    return report_page(
        results,
        title=f"Fidelity of the {sampler}",
        tables=[
            ("Beside the baselines, relative to real volumes", overview(results)),
            ("Who is nearer to real volumes than the sampler", pd.DataFrame(nearer)),
            (f"All metrics: {first}", metrics_table(rows[first]["metrics"])),
            ("Cost", _costs(rows)),
            *((f"Quality by {kind}", _sweep(kind, values)) for kind, values in sweeps.items()),
        ],
        figures=[
            *_montages(pictures, sampler, heldout, asked),
            _spectra(results),
            *(_curves(kind, values) for kind, values in sweeps.items() if len(values) > 1),
        ],
        methods=_methods(results),
    )


def _labels(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By the name of its figure, what is said of each label."""
    return {
        f"{name.removeprefix('label_')} shown / real": row
        for name, row in metrics.items()
        if name.startswith("label_")
    }


def _blind(rows: Mapping[str, Table]) -> set[str]:
    """Figures of labels that their judge does not tell from chance on real subjects."""
    return {
        name
        for row in rows.values()
        for name, metric in _labels(row["metrics"]).items()
        if metric["real_interval"][0] <= 1 / len(metric["recall"])
    }


def _criteria(own: Mapping[str, Sequence[float]], blind: set[str]) -> list[dict[str, Any]]:
    result = []
    for name, values in own.items():
        value = float(np.mean(values))
        if name.endswith("shown / real"):
            is_met, aim = name not in blind and value >= LABELS, f"at least {LABELS}"
            aim += ", by a judge above chance on real subjects" if name in blind else ""
        elif name in LIMITS:
            upper = "MMD" in name
            is_met = (value if upper else abs(value)) <= LIMITS[name]
            aim = f"{'at most' if upper else 'within'} {LIMITS[name]:g}"
        else:
            continue
        spread = f", {interval_text((min(values), max(values)))} over sampling seeds"
        note = f"{value:.3g}" + (spread if len(values) > 1 else "")
        result.append(criterion(name, value, aim, is_met, note))
    return result


def _steps_criterion(few: Table, many: Table) -> dict[str, Any]:
    """Does few steps do as well as many? Differences against the noise of two sets of this size."""
    off = {}
    for name in SWEEP:
        a, b = few["metrics"][name], many["metrics"][name]
        noise = np.hypot(*((row["interval"][1] - row["interval"][0]) / 2 for row in (a, b)))
        off[name] = abs(a["value"] - b["value"]) / max(float(noise), 1e-12)
    name, size = max(off.items(), key=lambda item: item[1])
    note = f"to {size:.2g} times the 95 % noise, in {name}"
    return criterion(f"{FEW} steps as good as {MANY}", size, "at most 1 time", size <= 1, note)


def _costs(rows: Mapping[str, Table]) -> pd.DataFrame:
    names = ("parameters", "training steps", "best step", "training seconds", "seconds a volume")
    return pd.DataFrame([
        {"generator": title, "volumes": row["sizes"]["synthetic"],
         **{name: row["cost"].get(name, "") for name in names}}
        for title, row in rows.items()
    ])  # fmt: skip


def _sweep(kind: str, values: Mapping[str, Table]) -> pd.DataFrame:
    return pd.DataFrame([
        {
            kind: value,
            "MMD² / p95": row["metrics"]["mmd2"]["ratio"],
            **{f"{n.replace('_', ' ')} change": row["metrics"][n]["change"] for n in SWEEP[1:]},
            **{name: label["ratio"] for name, label in _labels(row["metrics"]).items()},
            "seconds a volume": row["cost"]["seconds a volume"],
        }
        for value, row in values.items()
    ])  # fmt: skip


def _methods(results: Mapping[str, Any]) -> list[str]:
    parts = ", ".join(f"{name} {size}" for name, size in results["sizes"].items())
    sizes = {
        kind: next(iter(values.values()))["sizes"]
        for kind, values in results["sweeps"].items()
        if values
    }
    return [
        f"The cohort is parted by subject, stratified by sex and diagnosis: {parts}. Training "
        "subjects fit the generators, validation subjects choose the best step, judge subjects "
        "train the classifiers and features, held-out ones are only compared with. Every generator "
        "is asked for the labels of held-out subjects, the same for all.",
        f"One training seed and {results['config']['sampling_seeds']} sampling seeds of the "
        "sampler, shown as mean and range; one seed of each baseline. 'Better' and 'worse' mean "
        "outside the range over sampling seeds, which tells nothing of other training seeds.",
        "Real volumes are the held-out ones; metrics on sets compare random halves of them. p95 is "
        "the 95th percentile of MMD² between such halves. Features are up to 32 whitened principal "
        "components of judge subjects; 'network': of the inputs of the judge classifiers' last "
        "layers. Labels shown: balanced accuracy of a CNN trained on judge subjects, on labels "
        "asked for, over its accuracy on held-out subjects.",
        "Mean + noise: linear regression of voxels on labels, and white noise as strong as the "
        f"residuals. {GAUSSIAN}: the same regression, and a Gaussian in the space of the "
        "residuals' principal components (99 % of the variance), correlated by class; noise for "
        "the rest. Training copies: a training subject of the sex and diagnosis asked for. MONAI "
        "U-Net: DiffusionModelUNet on voxels, flow matching, about as many parameters, trained for "
        "the same time on the same machine, 20 Euler steps.",
        *(
            f"Quality by {kind}: {size['synthetic']} samples from equal labels and noise, beside "
            f"{size['heldout']} held-out subjects."
            for kind, size in sizes.items()
        ),
    ]


def _montages(
    pictures: Mapping[str, np.ndarray], sampler: str, heldout: np.ndarray, asked: Sequence[int]
) -> list[Picture]:
    first = next(name for name in pictures if name.startswith(sampler))
    pairs = [
        each
        for k, made in enumerate(pictures[first][:SHOWN])
        for each in ((heldout[asked[k]], f"real {k + 1}"), (made, f"synthetic {k + 1}"))
    ]
    beside = {"real": heldout[asked[0]], sampler: pictures[first][0]}
    beside |= {name: each[0] for name, each in pictures.items() if not name.startswith(sampler)}
    return [
        (slices(*zip(*pairs, strict=True), upper=WHITE),
         f"Held-out subjects and samples of {first} for the same labels, in pairs: axial, coronal "
         f"and sagittal slices, 0 to {WHITE} in 1e-3 mm²/s."),
        (slices(list(beside.values()), list(beside), upper=WHITE),
         "A held-out subject, and what each generator makes of the same labels."),
    ]  # fmt: skip


def _spectra(results: Mapping[str, Any]) -> Picture:
    lines = {
        name: Line(row["spectrum"]["frequency"], row["spectrum"]["log_ratio"])
        for name, row in results["rows"].items()
        if not name.startswith(results["name"]) or name.endswith(" 1")
    }
    return panels(
        {"": lines},
        xlabel="cycles per voxel",
        ylabel="log power, synthetic over real",
        caption="Power by spatial frequency: 0 is that of real volumes, below is blur, above is "
        "noise.",
        level=0.0,
    )


def _curves(kind: str, values: Mapping[str, Table]) -> Picture:
    x = [float(value) for value in values]
    content = {}
    for name in SWEEP[:3]:
        cells = [row["metrics"][name] for row in values.values()]
        low, high = np.array([cell["interval"] for cell in cells]).T
        bottom, top = cells[0]["real_interval"]
        content[name.replace("_", " ")] = {
            "samples": Line(x, [cell["value"] for cell in cells], low, high),
            "real": Line(x, [cells[0]["real"]] * len(x), [bottom] * len(x), [top] * len(x)),
        }
    return panels(
        content, xlabel=kind, ylabel="", log=kind == "steps",
        caption=f"Quality by {kind}, beside that of real volumes, with 95 % intervals.",
    )  # fmt: skip
