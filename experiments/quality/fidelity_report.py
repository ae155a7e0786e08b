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

from neuromix.experiments.frame.pages import Picture, report_page, slices, to_png
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
WHITE = 2.5
"""Diffusivity that pictures show as white."""


def figures(table: Mapping[str, Any]) -> dict[str, float]:
    """Headline figures of a table of fidelity; see the module."""
    metrics = table["metrics"]

    def worst(prefix: str) -> float:
        found = [row["change"] for name, row in metrics.items() if name.startswith(prefix)]
        return float(max(found, key=abs))

    result = {
        "MMD² / p95": metrics["mmd2"]["ratio"],
        "Fréchet / real": _over_real(metrics["frechet"]),
        "MS-SSIM change": metrics["ms_ssim"]["change"],
        "continuity change": worst("continuity_"),
        "tissue MD change": worst("tissue_md_"),
        "sharpness change": metrics["sharpness"]["change"],
        "graininess change": metrics["graininess"]["change"],
        "recall / real": _over_real(metrics["recall"]),
        "nearest training subject / real": _over_real(metrics["nearest_ratio"]),
    }
    if "network_mmd2" in metrics:
        result["network MMD² / p95"] = metrics["network_mmd2"]["ratio"]
        result["network Fréchet / real"] = _over_real(metrics["network_frechet"])
    for name, row in metrics.items():
        if name.startswith("label_"):
            result[f"{name.removeprefix('label_')} shown / real"] = row["ratio"]
    return result


def shortfall(name: str, value: float) -> float:
    """How far a figure is from what real volumes have, 0 if it is as good."""
    if name.endswith("change"):
        return abs(value)
    if "MMD" in name or "Fréchet" in name:
        return max(value - 1, 0.0)
    return max(1 - value, 0.0)


def summarise(
    rows: Mapping[str, Mapping[str, Any]],
    sweeps: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    sampler: str,
    about: str,
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """Everything that was found, as plain content.

    Args:
        rows: Table of fidelity and cost of each generator; the sampler has one for each sampling
            seed, and their names begin with its own.
        sweeps: ``steps`` and ``guidance``: value to table.
        sampler: Its name.
        about: The cohort and the fit in words.
        sizes: Scans of each part.
    """
    seeds = [figures(row) for name, row in rows.items() if name.startswith(sampler)]
    own = {name: [seed[name] for seed in seeds] for name in seeds[0]}
    criteria = _criteria(own, _blind(rows))
    if str(FEW) in sweeps["steps"] and str(MANY) in sweeps["steps"]:
        criteria.append(_same(sweeps["steps"][str(FEW)], sweeps["steps"][str(MANY)]))
    beside = {}
    for name, row in rows.items():
        if not name.startswith(sampler):
            beside[name] = compare(figures(row), own)
    return {
        "verdict": verdict(sampler, about, criteria, beside),
        "criteria": criteria,
        "sampler": {n: {"mean": _mean(v), "low": min(v), "high": max(v)} for n, v in own.items()},
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

    Args:
        other: Figures of the other generator.
        own: Figures of the sampler, one for each sampling seed.
    """
    result: dict[str, Any] = {"better": {}, "worse": {}, "alike": {}}
    for name, values in own.items():
        if name not in other:
            continue
        here, there = [shortfall(name, v) for v in values], shortfall(name, other[name])
        side = "better" if there < min(here) else "worse" if there > max(here) else "alike"
        result[side][name] = [other[name], _mean(values)]
    return result


def verdict(
    sampler: str,
    about: str,
    criteria: Sequence[Mapping[str, Any]],
    beside: Mapping[str, Mapping[str, Any]],
) -> str:
    """What came out, in words with numbers."""
    met = [c["says"] for c in criteria if c["met"]]
    missed = [c["says"] for c in criteria if not c["met"]]
    text = f"The {sampler} meets {len(met)} of {len(criteria)} criteria ({about})"
    text += f": missed are {'; '.join(missed)}" if missed else ""
    text += f"{'; ' if missed else ': '}met are {'; '.join(met)}." if met else "."
    for name, found in beside.items():
        if name != GAUSSIAN:
            continue
        better = [f"{n} ({a:.3g} against {b:.3g})" for n, (a, b) in found["better"].items()]
        total = sum(len(part) for part in found.values())
        text += f" The {name} is better than it in {len(better)} of {total} figures"
        text += f": {', '.join(better)}" if better else ""
        text += f"; worse in {len(found['worse'])}."
    return text


def overview(results: Mapping[str, Any]) -> pd.DataFrame:
    """Figures of every generator; the sampler's are means with the range over sampling seeds."""
    own = results["sampler"]
    table: dict[str, dict[str, str]] = {}
    for name, row in own.items():
        spread = f" ({row['low']:.3g} to {row['high']:.3g})" if row["low"] < row["high"] else ""
        table[name] = {
            "real": "0" if name.endswith("change") else "1",
            "criterion": f"± {LIMITS[name]}" if name in LIMITS else
            f"≥ {LABELS}" if name.endswith("shown / real") else "",
            results["name"]: f"{row['mean']:.3g}{spread}",
        }  # fmt: skip
        if name == "MMD² / p95":
            table[name]["criterion"] = "≤ 1"
    for generator in results["beside"]:
        for name, value in figures(results["rows"][generator]).items():
            if name in table:
                table[name][generator] = f"{value:.3g}"
    frame = pd.DataFrame(table.values()).fillna("")
    frame.insert(0, "figure", list(table))
    return frame


def page(
    results: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
    heldout: np.ndarray,
    asked: Sequence[int],
) -> str:
    """The report.

    Args:
        results: Of :func:`summarise`, with its ``config``.
        pictures: The first volumes of each row.
        heldout: Held-out volumes.
        asked: Places of those whose labels were asked for.
    """
    rows, sampler = results["rows"], results["name"]
    first = next(name for name in rows if name.startswith(sampler))
    tables = [
        ("Beside the baselines, relative to real volumes", overview(results)),
        ("Criteria", pd.DataFrame([
            {"criterion": c["name"], "wanted": c["wanted"], "found": c["found"],
             "met": "yes" if c["met"] else "no"} for c in results["criteria"]
        ])),
        ("Who is nearer to real volumes than the sampler", pd.DataFrame([
            {"generator": name, **{side: ", ".join(found[side]) or "-" for side in found}}
            for name, found in results["beside"].items()
        ])),
        (f"All metrics: {first}", _metrics(rows[first])),
        ("Cost", _costs(rows)),
    ]  # fmt: skip
    for kind, values in results["sweeps"].items():
        if values:
            tables.append((f"Quality by {kind}", _sweep(kind, values)))
    tables.append(("Methods", _methods(results)))
    return report_page(
        title=f"Fidelity of the {sampler}",
        verdict=results["verdict"],
        tables=tables,
        figures=[*_montages(pictures, sampler, heldout, asked), *_plots(results)],
        config=results["config"],
        made_by=results["made by"],
    )


def _blind(rows: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Figures of labels that their judge does not tell from chance on real subjects."""
    return {
        f"{name.removeprefix('label_')} shown / real"
        for row in rows.values()
        for name, metric in row["metrics"].items()
        if name.startswith("label_") and metric["real_interval"][0] <= 1 / len(metric["recall"])
    }


def _criteria(own: Mapping[str, Sequence[float]], blind: set[str]) -> list[dict[str, Any]]:
    result = []
    for name, values in own.items():
        value = _mean(values)
        if name in blind:
            met, wanted = False, f"at least {LABELS}, by a judge above chance on real subjects"
        elif name.endswith("shown / real"):
            met, wanted = value >= LABELS, f"at least {LABELS}"
        elif name in LIMITS:
            upper = "MMD" in name
            met = (value if upper else abs(value)) <= LIMITS[name]
            wanted = f"{'at most' if upper else 'within'} {LIMITS[name]:g}"
        else:
            continue
        found = f"{value:.3g}"
        if len(values) > 1:
            found += f", {min(values):.3g} to {max(values):.3g} over sampling seeds"
        says = f"{name} {value:.3g} ({wanted} wanted)"
        result.append({"name": name, "wanted": wanted, "found": found, "met": met, "says": says})
    return result


def _same(few: Mapping[str, Any], many: Mapping[str, Any]) -> dict[str, Any]:
    """Does few steps do as well as many? Differences against the noise of two sets of this size."""
    off = {}
    for name in SWEEP:
        a, b = few["metrics"][name], many["metrics"][name]
        noise = np.hypot(*((row["interval"][1] - row["interval"][0]) / 2 for row in (a, b)))
        off[name] = abs(a["value"] - b["value"]) / max(float(noise), 1e-12)
    name, size = max(off.items(), key=lambda item: item[1])
    found = f"{size:.2g} times the 95 % noise, in {name}"
    return {
        "name": f"{FEW} steps as good as {MANY}", "wanted": "at most 1 times the noise",
        "found": found, "met": size <= 1,
        "says": f"{FEW} against {MANY} steps differ by at most {found} (at most 1 wanted)",
    }  # fmt: skip


def _metrics(row: Mapping[str, Any]) -> pd.DataFrame:
    """Every metric with its 95 % interval, beside real volumes."""
    return pd.DataFrame([
        {
            "metric": name,
            "value": m["value"],
            "95 %": _interval(m["interval"]),
            "real": m["real"],
            "real, 95 %": _interval(m["real_interval"]),
            "change": f"{m['change']:.3g}" if "change" in m else "",
        }
        for name, m in row["metrics"].items()
    ])  # fmt: skip


def _costs(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    names = ("parameters", "training steps", "best step", "training seconds", "seconds a volume")
    return pd.DataFrame([
        {"generator": title, "volumes": row["sizes"]["synthetic"],
         **{name: row["cost"].get(name, "") for name in names}}
        for title, row in rows.items()
    ])  # fmt: skip


def _sweep(kind: str, values: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    result = []
    for value, row in values.items():
        metrics = row["metrics"]
        cells = {kind: value, "MMD² / p95": metrics["mmd2"]["ratio"]}
        for name in SWEEP[1:]:
            cells[f"{name.replace('_', ' ')} change"] = metrics[name]["change"]
        for name in metrics:
            if name.startswith("label_"):
                cells[f"{name.removeprefix('label_')} shown / real"] = metrics[name]["ratio"]
        result.append(cells | {"seconds a volume": row["cost"]["seconds a volume"]})
    return pd.DataFrame(result)


def _methods(results: Mapping[str, Any]) -> pd.DataFrame:
    sizes, config = results["sizes"], results["config"]
    parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    told = {
        "parts": f"The cohort is parted by subject, stratified by sex and diagnosis: {parts}. "
        "Training subjects fit the generators, validation subjects choose the best step, judge "
        "subjects train the classifiers and features, held-out ones are only compared with.",
        "labels": "Every generator is asked for the labels of held-out subjects, the same for all.",
        "seeds": f"One training seed and {config['sampling_seeds']} sampling seeds of the sampler, "
        "shown as mean and range; one seed of each baseline. 'Better' and 'worse' mean outside the "
        "range over sampling seeds, which tells nothing of other training seeds.",
        "reference": "Real volumes are the held-out ones; metrics on sets compare random halves of "
        "them. p95 is the 95th percentile of MMD² between such halves.",
        "features": "Up to 32 whitened principal components of judge subjects; 'network': of the "
        "inputs of the judge classifiers' last layers.",
        "labels shown": "Balanced accuracy of a CNN trained on judge subjects, on labels asked "
        "for, over its accuracy on held-out subjects.",
        "mean + noise": "Linear regression of voxels on labels, and white noise as strong as the "
        "residuals.",
        "training copies": "A training subject of the sex and diagnosis asked for.",
        GAUSSIAN: "The same regression, and a Gaussian in the space of the residuals' "
        "principal components (99 % of the variance), correlated by class; noise for the rest.",
        "MONAI U-Net": "DiffusionModelUNet on voxels, flow matching, about as many parameters, "
        "trained for the same time on the same machine, 20 Euler steps.",
    }
    for kind, values in results["sweeps"].items():
        for row in list(values.values())[:1]:
            told[f"quality by {kind}"] = (
                f"{row['sizes']['synthetic']} samples from equal labels and noise, beside "
                f"{row['sizes']['heldout']} held-out subjects."
            )
    return pd.DataFrame(told.items(), columns=["what", "how"])


def _montages(
    pictures: Mapping[str, np.ndarray], sampler: str, heldout: np.ndarray, asked: Sequence[int]
) -> list[Picture]:
    first = next(name for name in pictures if name.startswith(sampler))
    made = pictures[first]
    count = min(4, len(made))
    volumes, titles = [], []
    for k in range(count):
        volumes += [heldout[asked[k]], made[k]]
        titles += [f"real {k + 1}", f"synthetic {k + 1}"]
    others = {name: each[0] for name, each in pictures.items() if not name.startswith(sampler)}
    beside = {"real": heldout[asked[0]], first: made[0], **others}
    return [
        (slices(volumes, titles, upper=WHITE),
         f"Held-out subjects and samples of {first} for the same labels, in pairs: axial, coronal "
         f"and sagittal slices, 0 to {WHITE} in 1e-3 mm²/s."),
        (slices(list(beside.values()), [name.split(",")[0] for name in beside], upper=WHITE),
         "A held-out subject, and what each generator makes of the same labels."),
    ]  # fmt: skip


def _plots(results: Mapping[str, Any]) -> list[Picture]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for name, row in results["rows"].items():
        if name.startswith(results["name"]) and not name.endswith(" 1"):
            continue
        axis.plot(row["spectrum"]["frequency"], row["spectrum"]["log_ratio"], label=name)
    axis.axhline(0, color="black", linewidth=1)
    axis.set(xlabel="cycles per voxel", ylabel="log power, synthetic over real")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    spectrum = (
        "Power by spatial frequency: 0 is that of real volumes, below is blur, above is noise."
    )
    found: list[Picture] = [(to_png(figure), spectrum)]
    for kind, values in results["sweeps"].items():
        if len(values) > 1:
            found.append((_curves(kind, values), f"Quality by {kind}, with 95 % intervals; the "
                          "shaded band is that of real volumes."))  # fmt: skip
    return found


def _curves(kind: str, values: Mapping[str, Mapping[str, Any]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    x = [float(value) for value in values]
    for axis, name in zip(figure.subplots(1, 3), SWEEP[:3], strict=True):
        cells = [row["metrics"][name] for row in values.values()]
        y = np.array([cell["value"] for cell in cells])
        low, high = np.array([cell["interval"] for cell in cells]).T
        axis.axhspan(*cells[0]["real_interval"], alpha=0.15, color="gray")
        axis.errorbar(x, y, yerr=np.maximum([y - low, high - y], 0), marker="o", capsize=3)
        axis.set(xlabel=kind, title=name.replace("_", " "))
        if kind == "steps":
            axis.set(xscale="log")
        axis.grid(alpha=0.3)
    return to_png(figure)


def _over_real(row: Mapping[str, Any]) -> float:
    return float(row["value"] / max(row["real"], 1e-12))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _interval(limits: Sequence[float]) -> str:
    return f"{limits[0]:.3g} to {limits[1]:.3g}"
