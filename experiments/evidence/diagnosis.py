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
    scores = (
        f"the ceiling has {top['value']:.3f}, {title_of(group['baseline'])} {base['value']:.3f}"
    )
    if top["interval"][0] <= base["interval"][1]:
        yield f"no clear room: {scores}, and their intervals overlap"
    else:
        yield f"room of {100 * (top['value'] - base['value']):.1f} points: {scores}"


def _pretraining(group: Mapping[str, Any]) -> Iterator[str]:
    """Does what was learnt at site A help at all?"""
    row = _against(group, SCRATCH, "real")
    if row is not None:
        low, high = (-100 * end for end in reversed(row["interval"]))
        yield (
            f"pretraining on real subjects {_verb(low, high)}: {-100 * row['difference']:+.1f} "
            f"points over a network that was not pretrained ({low:.1f} to {high:.1f})"
        )


def _labels(group: Mapping[str, Any]) -> Iterator[str]:
    """Do samples alone teach what real subjects do?"""
    alone = (_against(group, arm, "real") for arm in ("synthetic-only", "runs-only"))
    row = next(filter(None, alone), None)
    if row is None:
        return
    scores = f"{row['a']:.3f} from samples alone, {row['b']:.3f} from the real subjects"
    if row["interval"][1] < -NEAR:
        yield f"samples look or mean something else than real subjects: {scores}"
    else:
        yield f"samples show their labels: {scores}"


def _ratio(group: Mapping[str, Any]) -> Iterator[str]:
    """Do more samples help more?"""
    ratios = [r for r in RATIOS if f"{SYNTHETIC}-{r:g}" in group["scores"]]
    if len(ratios) < 2:
        return
    scores = {r: group["scores"][f"{SYNTHETIC}-{r:g}"][METRIC]["value"] for r in ratios}
    best = max(scores, key=scores.__getitem__)
    listed = ", ".join(f"{score:.3f} at {r:g}" for r, score in scores.items())
    if best == ratios[0]:
        yield f"more samples do not help: {listed}"
    else:
        yield f"the best ratio on test subjects is {best:g}: {listed}"


def _cheaper(group: Mapping[str, Any]) -> Iterator[str]:
    """Is the same had for less?"""
    cheap = "the cheap generator"
    arms = {GAUSSIAN: cheap, MEAN_RESPONSE: cheap, "classical": "classical augmentation"}
    for arm, what in arms.items():
        row = _against(group, arm, "real")
        if row is not None:
            low, high = (100 * end for end in row["interval"])
            yield (
                f"{what} {_verb(low, high)}: {100 * row['difference']:+.1f} points over real only "
                f"({low:.1f} to {high:.1f})"
            )


def _verb(low: float, high: float) -> str:
    return "helps" if low > 0 else "harms" if high < 0 else "makes no clear difference"


def _against(group: Mapping[str, Any], arm: str, baseline: str) -> Mapping[str, Any] | None:
    rows = group["comparisons"]
    return next((r for r in rows if (r["arm"], r["baseline"]) == (arm, baseline)), None)
