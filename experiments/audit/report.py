"""What an audit found, in words: findings, each with a level, a verdict, and a page.

A finding is ``fine``, asks for ``care``, or is a ``fault``. One fault is enough not to use a bank,
one care to use it with care. Limits are relative to what real volumes score against real volumes;
they are stated in :data:`LIMITS`, and what was found stands beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from neuromix.experiments.frame.figures import Point, bars
from neuromix.experiments.frame.pages import Picture, report_page, rich_table, slices

FINE, CARE, FAULT = "fine", "care", "fault"
VERDICTS = {FINE: "Fit for use", CARE: "Use with care", FAULT: "Do not use"}
WHITE = 2.5
"""Diffusivity that pictures show as white."""


@dataclass(frozen=True)
class Limit:
    """From where a size asks for care, and from where it is a fault."""

    care: float
    fault: float
    says: str

    def level(self, size: float) -> str:
        """Of a size; larger is worse."""
        return FAULT if size > self.fault else CARE if size > self.care else FINE


LIMITS = {
    "copies": Limit(0.05, 0.2, "share of near-copies, 0.01 among real subjects"),
    "membership": Limit(0.55, 0.7, "AUC of telling who was trained on, lower end of its interval"),
    "alike": Limit(0.03, 0.1, "MS-SSIM between samples less that between real subjects"),
    "variety": Limit(0.15, 0.5, "recall that is missing, as a share of real subjects'"),
    "quality": Limit(0.15, 0.5, "precision that is missing, as a share of real subjects'"),
    "distance": Limit(1.0, 10.0, "MMD² over the 95th percentile of real-real splits"),
    "detail": Limit(0.15, 0.5, "log power of fine detail, more or less than real"),
    "grain": Limit(0.15, 0.5, "relative change of noise where tissue is uniform"),
    "units": Limit(0.02, 0.1, "relative change of a tissue's mean diffusivity"),
    "slices": Limit(0.1, 0.3, "relative change of the difference between neighbouring slices"),
    "range": Limit(0.0, 0.01, "share of voxels that no tissue can have"),
    "labels": Limit(0.1, 0.3, "share of real subjects' label accuracy that is missing"),
    "use": Limit(0.0, 0.05, "balanced accuracy lost by adding samples, lower end of its interval"),
}
"""Chosen on phantoms, so that fresh real subjects in place of samples pass them all."""
LEAST = 0.2
"""Real halves must agree as well as this on left and right, or nothing is said of it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: str
    says: str


def weigh(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings, the worst first, and the verdict."""
    order = (FAULT, CARE, FINE)
    found = sorted(findings, key=lambda finding: order.index(finding.level))
    worst = found[0].level
    bad = [finding for finding in found if finding.level == worst]
    reasons = "; ".join(f"{finding.what}: {finding.says}" for finding in bad)
    if worst == FINE:
        reasons = f"{len(found)} things were looked at, and each is as in real subjects"
    return {
        "verdict": f"{VERDICTS[worst]}: {reasons}.",
        "level": worst,
        "findings": [asdict(finding) for finding in found],
    }


def overview(results: Mapping[str, Any]) -> Table:
    """The findings for the terminal."""
    return rich_table(pd.DataFrame(results["findings"]), title=results["verdict"])


def page(
    results: Mapping[str, Any],
    pairs: Sequence[tuple[np.ndarray, str]],
    near: Sequence[tuple[np.ndarray, str]],
) -> str:
    """The data card.

    Args:
        results: Of :func:`weigh`, with the parts that it was made from.
        pairs: Held-out subjects and samples, with titles.
        near: The samples nearest to a training subject, each beside that subject.
    """
    figures: list[Picture] = [
        _montage(pairs, "Held-out subjects and samples of the same sex and diagnosis."),
        _montage(near, "The samples nearest to a training subject, each beside that subject."),
    ]
    figures += gains(results["utility"])
    sizes, made = results["fidelity"]["sizes"], results["provenance"]
    methods = [
        f"{sizes['synthetic']} samples are compared with {sizes['heldout']} held-out and "
        f"{sizes['train']} training scans. Held-out subjects are parted in two: one half trains "
        "the classifiers that judge labels, the features and the choice of checkpoints, the other "
        "half is compared with and tested on.",
        "Levels: " + "; ".join(
            f"{limit.says}: care above {limit.care:g}, fault above {limit.fault:g}"
            for limit in LIMITS.values()
        ) + ".",
        "Utility is the balanced accuracy of a compact CNN on real held-out subjects, trained on "
        "the training subjects, on samples, or on both, for the same number of steps. Intervals "
        "are over subjects and seeds of the classifier; another sampler is in none.",
    ]  # fmt: skip
    return report_page(
        title="Audit of a bank of samples",
        verdict=results["verdict"],
        tables=[("Findings", pd.DataFrame(results["findings"])), *utility(results["utility"])],
        figures=figures,
        details=[
            ("All metrics of fidelity", _metrics(results["fidelity"]["metrics"])),
            ("Where it comes from", pd.DataFrame(flat(made), columns=["what", "value"])),
        ],
        methods=methods,
        config=results["config"],
        made_by=results["made by"],
    )


def origin(results: Mapping[str, Any]) -> Iterator[Finding]:
    """Of files, leaks and where a bank or a completer comes from."""
    files = results.get("files")
    if files and files["problems"]:
        yield Finding(
            "files", FAULT, f"{files['problems']} are not as written, such as {files['first'][0]}"
        )
    elif files:
        yield Finding("files", FINE, f"all {files['samples']} samples are as they were written")
    overlap = results["overlap"]
    if overlap["subjects"]:
        yield Finding("leak", FAULT, overlap["says"])
    else:
        yield Finding("leak", FINE, "no held-out subject had a part in the making")
    made = results["provenance"]
    if made["of these seen"]:
        share = f"{made['of these seen']} of {made['training subjects named']} named as training"
        yield Finding("origin", FINE, f"{share} subjects had a part in the making")
    else:
        yield Finding(
            "origin", CARE,
            "none of the subjects named as training ones had a part in the making, so that nothing "
            "is known of copies and privacy",
        )  # fmt: skip


def findings(results: Mapping[str, Any]) -> Iterator[Finding]:
    """All of a bank of mean diffusivity.

    Args:
        results: Parts of :class:`neuromix.experiments.audit.maps.MDAudit`.
    """
    yield from origin(results)
    yield from _looks(results["fidelity"]["metrics"], results["fidelity"])
    yield from _bodies(results["anatomy"])
    yield attacked(results["privacy"]["membership"])
    for name, row in results["labels"].items():
        yield _label(name, row)
    for name, use in results["utility"].items():
        yield used(name, use["gain"])


def _looks(metrics: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Finding]:
    def told(name: str) -> str:
        row = metrics[name]
        return f"{row['value']:.3g}, real {row['real']:.3g}"

    yield _sized(
        "copies", "copies", metrics["near_copies"]["interval"][0],
        f"{100 * metrics['near_copies']['value']:.0f} % of samples lie as near to a training "
        f"subject as 1 % of real ones ({ends(metrics['near_copies']['interval'], 100)} %)",
    )  # fmt: skip
    alike = metrics["ms_ssim"]
    yield _sized("likeness", "alike", alike["change"], f"MS-SSIM between samples {told('ms_ssim')}")
    for what, name, limit in (
        ("variety", "recall", "variety"), ("realism", "precision", "quality"),
    ):  # fmt: skip
        row = metrics[name]
        yield _sized(what, limit, 1 - row["value"] / max(row["real"], 1e-9), f"{name} {told(name)}")
    yield _sized(
        "distance", "distance", metrics["mmd2"]["ratio"],
        f"MMD² is {metrics['mmd2']['ratio']:.2g} times the 95th percentile of real splits",
        extra="" if table["same labels as held-out"] else
        " (labels are in other shares than among held-out subjects)",
    )  # fmt: skip
    blur = "blurred" if metrics["sharpness"]["change"] < 0 else "too rough"
    off = metrics["sharpness"]["change"]
    yield _sized("detail", "detail", abs(off), f"log power {off:+.2f} against real", bad=blur)
    off = metrics["graininess"]["change"]
    yield _sized("grain", "grain", abs(off), f"{100 * off:+.0f} % against real")
    name, row = max(
        ((n, m) for n, m in metrics.items() if n.startswith("tissue_md_")),
        key=lambda item: abs(item[1]["change"]),
    )
    yield _sized(
        "units", "units", abs(row["change"]),
        f"{name.removeprefix('tissue_md_')} has {row['value']:.4g}, real {row['real']:.4g}, in "
        "1e-3 mm²/s",
        bad=factor(row["value"] / max(row["real"], 1e-12)),
    )  # fmt: skip
    change = max((m["change"] for n, m in metrics.items() if n.startswith("continuity_")), key=abs)
    yield _sized("slices", "slices", abs(change), f"{100 * change:+.0f} % against real")


def _bodies(anatomy: Mapping[str, Any]) -> Iterator[Finding]:
    low, high = anatomy["range"]
    yield _sized(
        "range", "range", anatomy["outside the range"],
        f"{100 * anatomy['outside the range']:.2g} % of voxels in the brain have values that no "
        f"tissue has; all lie from {low:.3g} to {high:.3g}",
    )  # fmt: skip
    yield sided(anatomy["left-right"])


def attacked(attack: Mapping[str, Any]) -> Finding:
    """Of :func:`neuromix.augment.metrics.privacy.membership`."""
    return _sized(
        "membership", "membership", attack["interval"][0],
        f"an attacker tells who was trained on with an AUC of {attack['value']:.2f} "
        f"({ends(attack['interval'])})",
    )  # fmt: skip


def used(name: str, gain: Mapping[str, Any]) -> Finding:
    """Of a classifier trained with samples and without."""
    return _sized(
        f"use for {name}", "use", -gain["interval"][1],
        f"with samples {100 * gain['a']:.1f} % balanced accuracy, without "
        f"{100 * gain['b']:.1f} %, difference {ends(gain['interval'], 100)} points",
    )  # fmt: skip


def sided(sides: Mapping[str, Any]) -> Finding:
    """Of left and right."""
    told = f"asymmetry agrees with real subjects by r = {sides['value']:.2f}, real halves"
    told += f" with each other by {sides['real']:.2f}"
    if sides["real"] < LEAST:
        return Finding("left and right", FINE, f"{told}: too little to tell")
    if sides["interval"][1] < 0:
        return Finding("left and right", FAULT, f"{told}: left and right are exchanged")
    level = CARE if sides["value"] < sides["real"] / 2 else FINE
    return Finding("left and right", level, told)


def _label(name: str, row: Mapping[str, Any]) -> Finding:
    own, real = row["own"], row["real"]
    told = (
        f"shown in {100 * own['value']:.0f} % ({ends(own['interval'], 100)}), real subjects "
        f"{100 * real['value']:.0f} %, with labels shuffled {100 * row['shuffled']:.0f} %"
    )
    what = f"label {name}"
    if real["interval"][0] <= row["chance"]:
        return Finding(what, CARE, f"{told}: the judge does not tell it on real subjects either")
    if own["interval"][1] < row["chance"]:
        return Finding(what, FAULT, f"{told}: labels are wrong")
    if own["interval"][0] <= row["chance"]:
        return Finding(what, FAULT, f"{told}: labels have no effect that can be seen")
    return _sized(what, "labels", 1 - own["value"] / real["value"], told)


def _sized(
    what: str, limit: str, size: float, says: str, *, bad: str = "", extra: str = ""
) -> Finding:
    level = LIMITS[limit].level(size)
    return Finding(what, level, says + (f": {bad}" if bad and level != FINE else "") + extra)


def factor(ratio: float) -> str:
    """A wrong unit is a power of ten."""
    power = round(float(np.log10(max(ratio, 1e-12))))
    return f"values are 1e{power:+d} of what they should be" if power else "means are off"


def gains(utility: Mapping[str, Any]) -> list[Picture]:
    """What classifiers gain, if there are any."""
    rows = [
        (f"{target}, {title}", Point(0.0, 100 * row["difference"], *(100 * e for e in limits)))
        for target, use in utility.items()
        for title, row in (("real + samples", use["gain"]), ("samples only", use["swap"]))
        for limits in [row["interval"]]
    ]
    if not rows:
        return []
    return [bars(
        rows,
        xlabel="points of balanced accuracy over real subjects only",
        caption="What a classifier gains or loses, on real held-out subjects.",
    )]  # fmt: skip


def _montage(volumes: Sequence[tuple[np.ndarray, str]], caption: str) -> tuple[bytes, str]:
    return slices([v for v, _ in volumes], [title for _, title in volumes], upper=WHITE), caption


def _metrics(metrics: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([
        {"metric": name, "samples": m["value"], "95 %": ends(m["interval"]), "real": m["real"],
         "real, 95 %": ends(m["real_interval"])}
        for name, m in metrics.items()
    ])  # fmt: skip


def utility(utility: Mapping[str, Any]) -> list[tuple[str, pd.DataFrame]]:
    """Scores of classifiers, if there are any."""
    rows = [
        {"label": target, "trained on": arm, "balanced accuracy": score["value"],
         "95 %": ends(score["interval"])}
        for target, use in utility.items() for arm, score in use["scores"].items()
    ]  # fmt: skip
    return [("What it is good for", pd.DataFrame(rows))] if rows else []


def flat(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of nested content."""
    rows: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}, {key}", str(each)) for key, each in value.items()]
        else:
            rows.append((name, str(value)))
    return rows


def ends(interval: Sequence[float], times: float = 1.0) -> str:
    """An interval in words."""
    low, high = (times * end for end in interval)
    return f"{low:.3g} to {high:.3g}"
