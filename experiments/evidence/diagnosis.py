"""Why samples help or do not: what the arms of an experiment say of it, in sentences.

Five things must hold for samples to help a classifier: there is something left to learn (room),
what is learnt before is of use after (pretraining), the samples show their labels (alone they teach
about what real subjects do), they hold more than the subjects that they were made from (more of
them help more), and what they add is not had for less (the cheap generator, mirrored and moved
images). Each is a comparison that the arms hold already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neuromix.experiments.evidence.arms import GAUSSIAN, MEAN_RESPONSE, RATIOS, SYNTHETIC
from neuromix.experiments.frame.findings import interval_text
from neuromix.experiments.frame.verdict import METRIC, SCRATCH, title_of

NEAR = 0.03
"""Balanced accuracy that samples alone may be below real subjects and still be called faithful."""


def diagnose(
    groups: Sequence[Mapping[str, Any]], samplers: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """What explains the scores.

    Args:
        groups: Those of :func:`neuromix.experiments.frame.verdict.weigh`.
        samplers: Records of samplers: their name, ``scans`` and ``best_step``.

    Returns:
        Rows of ``where`` and ``finding``.
    """
    rows = [
        {"where": group["title"], "finding": finding}
        for group in groups
        for explain in (_room, _pretraining, _labels, _ratio, _cheaper)
        for finding in explain(group)
    ]
    rows += [
        {
            "where": f"sampler {record['cell']['sampler']}",
            "finding": f"the network learned nothing from {record['scans']} scans that "
            "validation subjects confirm: samples are those of its start in closed form",
        }
        for record in samplers
        if record["best_step"] == 0
    ]
    return rows


def _room(group: Mapping[str, Any]) -> Iterator[str]:
    """Is anything left to learn beyond the best baseline?"""
    if group["ceiling"] not in group["scores"]:
        return
    top, base = (group["scores"][arm][METRIC] for arm in (group["ceiling"], group["baseline"]))
    values = (
        f"the ceiling has {top['value']:.3f}, {title_of(group['baseline'])} {base['value']:.3f}"
    )
    if top["interval"][0] <= base["interval"][1]:
        yield f"no clear room: {values}, and their intervals overlap"
    else:
        yield f"room of {100 * (top['value'] - base['value']):.1f} points: {values}"


def _pretraining(group: Mapping[str, Any]) -> Iterator[str]:
    """Does what was learnt at site A help at all?"""
    for row in _beside_real(group, SCRATCH):
        gain, interval = -row["difference"], [-end for end in reversed(row["interval"])]
        yield _effect("pretraining on real subjects", gain, interval, "a network without it")


def _labels(group: Mapping[str, Any]) -> Iterator[str]:
    """Do samples alone teach what real subjects do?"""
    for row in _beside_real(group, "synthetic-only", "runs-only"):
        is_far = row["interval"][1] < -NEAR
        what = "look or mean something else than real subjects" if is_far else "show their labels"
        yield f"samples {what}: {row['a']:.3f} from samples alone, {row['b']:.3f} from real ones"


def _ratio(group: Mapping[str, Any]) -> Iterator[str]:
    """Do more samples help more?"""
    arms = {r: f"{SYNTHETIC}-{r:g}" for r in RATIOS}
    scores = {
        r: group["scores"][arm][METRIC]["value"]
        for r, arm in arms.items()
        if arm in group["scores"]
    }
    if len(scores) > 1:
        best = max(scores, key=scores.__getitem__)
        is_first = best == min(scores)
        what = (
            "more samples do not help"
            if is_first
            else f"the best ratio on test subjects is {best:g}"
        )
        yield f"{what}: {', '.join(f'{score:.3f} at {r:g}' for r, score in scores.items())}"


def _cheaper(group: Mapping[str, Any]) -> Iterator[str]:
    """Is the same had for less?"""
    for row in _beside_real(group, GAUSSIAN, MEAN_RESPONSE):
        yield _effect("the cheap generator", row["difference"], row["interval"])
    for row in _beside_real(group, "classical"):
        yield _effect("classical augmentation", row["difference"], row["interval"])


def _effect(
    what: str, difference: float, interval: Sequence[float], over: str = "real only"
) -> str:
    low, high = interval
    verb = "helps" if low > 0 else "harms" if high < 0 else "makes no clear difference"
    points = f"{100 * difference:+.1f} points over {over}"
    return f"{what} {verb}: {points} ({interval_text(interval, '.1f', 100)})"


def _beside_real(group: Mapping[str, Any], *arms: str) -> Iterator[Mapping[str, Any]]:
    """Comparisons of those of the arms that were run with real subjects alone."""
    pairs = [(arm, "real") for arm in arms]
    yield from (r for r in group["comparisons"] if (r["arm"], r["baseline"]) in pairs)
