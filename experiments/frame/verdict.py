"""Did it help? Scores, comparisons and a verdict of the arms of an experiment.

A group is one question: a target on a test cohort, at one size of the training set. In each group
every arm is compared with one reference (real subjects only), and arms with synthetic data also
with the best of the baselines, the one with the highest score on validation subjects; which arms
are what, :class:`Roles` says. All those comparisons are one family, corrected by Holm and called
exploratory. One comparison that a file states, at best one that was committed before the run, is
the primary endpoint instead: it comes first, and is not corrected.

Without an endpoint the verdict speaks of the first group, and there of the arm with real and
synthetic subjects that validation subjects favour, against the best baseline.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from neuromix.augment.data import bids
from neuromix.augment.errors import InputError
from neuromix.classifiers.evaluate import Predictions, compare, gap_closed, holm, summarise
from neuromix.classifiers.scores import SCORES
from neuromix.experiments.frame.findings import interval_text

METRIC = "balanced_accuracy"
REPORTED = (METRIC, "auc", "f1", "ece")
DRAWS = 10_000
"""Of the bootstrap: enough for p-values that survive a correction for a hundred comparisons."""
CEILING, SCRATCH = "ceiling", "scratch"
"""Arms of any experiment: many real subjects, and no pretraining."""
TITLES = {CEILING: "ceiling: many real subjects", SCRATCH: "no pretraining"}
"""What reports call arms; whoever defines some adds them."""


@dataclass(frozen=True)
class Roles:
    """What arms are to one another."""

    reference: str
    """What all are compared with."""
    baselines: tuple[str, ...]
    """What is to be beaten, the reference among it."""
    tested: tuple[str, ...]
    """What is to beat it."""
    candidates: tuple[str, ...]
    """Those of the tested that verdicts may choose."""
    ceiling: str
    """What is compared with nothing."""
    also: tuple[tuple[str, str], ...] = ()
    """Further comparisons, of an arm with another."""


@dataclass(frozen=True)
class Group:
    """The runs that answer one question: a target on a test cohort."""

    key: dict[str, Any]
    """``setting``, ``size`` and what else sets it apart."""
    title: str
    cohort: str
    target: str
    runs: dict[str, list[Predictions]]
    """By arm, predictions of each seed."""
    validation: dict[str, float]
    """By arm, the mean balanced accuracy on validation subjects."""
    roles: Roles

    @property
    def baseline(self) -> str:
        """The best baseline on validation subjects."""
        there = (arm for arm in self.roles.baselines if arm in self.runs)
        return max(there, key=self.validation.__getitem__)

    @property
    def chosen(self) -> str | None:
        """Of the candidates, the best on validation subjects."""
        arms = [arm for arm in self.runs if arm in self.roles.candidates]
        return max(arms, key=self.validation.__getitem__) if arms else None

    @property
    def synthetic(self) -> list[str]:
        """Arms with samples of a diffusion model."""
        return [arm for arm in self.runs if arm in self.roles.tested]


@dataclass(frozen=True)
class Endpoint:
    """The one comparison that is not exploratory, because it was stated before the run."""

    experiment: str
    setting: str
    metric: str
    arm: str
    baseline: str
    size: int
    seeds: tuple[int, ...]
    """Of the phantoms that may confirm it."""
    other: dict[str, Any] = field(default_factory=dict)
    """What else sets the group apart, such as ``{"size_b": 20}``."""

    @classmethod
    def read(cls, path: Path, experiment: str, phantom_seed: int) -> Endpoint:
        """Read the file, and refuse one that is not for this run."""
        if not path.is_file():
            raise InputError(f"{path} does not exist; name the JSON file of the primary endpoint")
        content = bids.read_json(path)
        names = [each.name for each in fields(cls) if each.name != "other"]
        absent = [name for name in names if name not in content]
        if absent:
            raise InputError(f"{path} lacks {', '.join(absent)}; it needs {', '.join(names)}")
        other = {name: value for name, value in content.items() if name not in names}
        given = {name: content[name] for name in names if name != "seeds"}
        stated = cls(**given, seeds=tuple(content["seeds"]), other=other)
        if stated.experiment != experiment:
            raise InputError(f"{path} is for the experiment {stated.experiment}, not {experiment}")
        if phantom_seed not in stated.seeds:
            raise InputError(
                f"{path} is for the phantom seeds {list(stated.seeds)}, and seed {phantom_seed} "
                "came; run it with one of those"
            )
        arms = [name for name in TITLES if name not in (CEILING, SCRATCH)]
        allowed = {"metric": SCORES, "arm": arms, "baseline": arms}
        for kind, options in allowed.items():
            if (name := getattr(stated, kind)) not in options:
                raise InputError(
                    f"{path} has the {kind} {name!r}; allowed are {', '.join(options)}"
                )
        return stated

    @classmethod
    def of(cls, config: Any, experiment: str) -> Endpoint | None:
        """That of an experiment's settings, if they name a file; it must fit them."""
        if getattr(config, "endpoint", None) is None:
            return None
        stated = cls.read(config.endpoint, experiment, config.seed)
        stated.require(config.keys, config.arms)
        return stated

    def require(self, keys: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> None:
        """Refuse an experiment that does not have the comparison."""
        fitting = [key for key in keys if self.fits(key)]
        if len(fitting) != 1:
            offer = "; ".join(json.dumps(key) for key in (fitting or keys))
            raise InputError(
                f"the primary endpoint fits {len(fitting)} groups of this experiment, and must fit "
                f"one of: {offer}"
            )
        absent = [arm for arm in (self.arm, self.baseline) if arm not in arms]
        if absent:
            raise InputError(f"the primary endpoint needs the arm {absent[0]}; add it to --arms")

    def fits(self, key: Mapping[str, Any]) -> bool:
        """Whether a group is the one that is meant."""
        asked = {"setting": self.setting, "size": self.size, **self.other}
        return all(key.get(name) == value for name, value in asked.items())


def weigh(
    groups: Sequence[Group],
    endpoint: Endpoint | None,
    origin: str = "not known to be committed before the run",
) -> dict[str, Any]:
    """All that can be said of the groups, as plain content; the verdict speaks of the first.

    ``origin`` says when the endpoint was stated.
    """
    primary = None
    content = [_scores(group) for group in groups]
    family: dict[str, dict[str, Any]] = {}
    for number, group in enumerate(groups):
        for arm, baseline in _pairs(group):
            is_primary = (
                endpoint is not None
                and endpoint.fits(group.key)
                and (arm, baseline) == (endpoint.arm, endpoint.baseline)
                and endpoint.metric == METRIC
            )
            row = {"arm": arm, "baseline": baseline} | _compared(group, arm, baseline, METRIC)
            content[number]["comparisons"].append(row)
            if not is_primary:
                family[f"{number} {arm} {baseline}"] = row
    for name, p in holm({name: row["p"] for name, row in family.items()}).items():
        family[name]["p_holm"] = p
    if endpoint is not None:
        group = next(group for group in groups if endpoint.fits(group.key))
        primary = {"arm": endpoint.arm, "baseline": endpoint.baseline, "group": group.title}
        primary["origin"] = origin
        primary |= _compared(group, endpoint.arm, endpoint.baseline, endpoint.metric)
    return {
        "verdict": _verdict(groups, content, primary, len(family)),
        "primary": primary,
        "comparisons": len(family),
        "groups": content,
    }


def title_of(arm: str) -> str:
    """What reports call an arm."""
    return TITLES[arm]


def _pairs(group: Group) -> list[tuple[str, str]]:
    """Comparisons of a group: all with the reference, tested arms with the best baseline, too."""
    roles = group.roles
    others = [arm for arm in group.runs if arm not in (roles.reference, roles.ceiling)]
    pairs = [(arm, roles.reference) for arm in others]
    pairs += [(arm, group.baseline) for arm in group.synthetic]
    pairs += [pair for pair in roles.also if set(pair) <= set(group.runs)]
    return list(dict.fromkeys(pairs))


def _compared(group: Group, arm: str, baseline: str, metric: str) -> dict[str, Any]:
    return compare(group.runs[arm], group.runs[baseline], metric=metric, draws=DRAWS)


def _scores(group: Group) -> dict[str, Any]:
    arms = {
        arm: {metric: summarise(runs, metric=metric) for metric in REPORTED}
        for arm, runs in group.runs.items()
    }
    reference, ceiling = group.roles.reference, group.roles.ceiling
    gaps = {}
    if ceiling in group.runs:
        gaps = {
            arm: gap_closed(group.runs[reference], runs, group.runs[ceiling])
            for arm, runs in group.runs.items()
            if arm not in (reference, ceiling)
        }
    return {
        "key": group.key,
        "title": group.title,
        "cohort": group.cohort,
        "target": group.target,
        "classes": list(group.runs[reference][0].classes),
        "reference": reference,
        "ceiling": ceiling,
        "baseline": group.baseline,
        "chosen": group.chosen,
        "validation": group.validation,
        "scores": arms,
        "gap_closed": gaps,
        "comparisons": [],
    }


def _verdict(
    groups: Sequence[Group],
    content: Sequence[Mapping[str, Any]],
    primary: Mapping[str, Any] | None,
    count: int,
) -> str:
    """What came out, the most important first."""
    if primary is not None:
        where = next(each for each in content if each["title"] == primary["group"])
        sentence = _sentence(primary, primary["arm"], primary["baseline"], where)
        first = f"{sentence}. Primary endpoint, {primary['origin']}."
    else:
        group, results = groups[0], content[0]
        if group.chosen is None:
            return "No arm with real and synthetic subjects was run, so nothing is said of them."
        row = _row(results, group.chosen, group.baseline)
        sentence = _sentence(row, group.chosen, group.baseline, results)
        first = (
            f"{sentence}. Exploratory: p is {row['p']:.2g}, and {row['p_holm']:.2g} after Holm's "
            f"correction for {count} comparisons."
        )
    gained, lost = 0, 0
    for group, results in zip(groups, content, strict=True):
        if group.chosen is not None:
            low, high = _row(results, group.chosen, group.baseline)["interval"]
            gained, lost = gained + (low > 0), lost + (high < 0)
    return (
        f"{first} In all, the arm that validation subjects favour beats the best baseline in "
        f"{gained} of {len(groups)} settings and is beaten in {lost}, by intervals that exclude "
        "zero and are not corrected."
    )


def _row(results: Mapping[str, Any], arm: str, baseline: str) -> dict[str, Any]:
    rows = results["comparisons"]
    return next(r for r in rows if (r["arm"], r["baseline"]) == (arm, baseline))


def _sentence(row: Mapping[str, Any], arm: str, baseline: str, group: Mapping[str, Any]) -> str:
    """A sentence on whether it helped, by how much and on whom; then what was compared."""
    low, high = row["interval"]
    metric = row["metric"].replace("_", " ")
    is_error = row["metric"] in ("ece", "brier")
    helped = (high < 0) if is_error else (low > 0)
    what = f"{metric} of {group['target']}"
    if low > 0 or high < 0:
        verb = "raised" if low > 0 else "lowered"
        start = "Synthetic data" if helped else "Synthetic data did not help: it"
        text = f"{start} {verb} {what} by {_points(row)}"
    else:
        text = (
            f"Synthetic data did not help: it changed {what} by {100 * row['difference']:+.1f} "
            f"points, 95 % CI {interval_text(row['interval'], '.1f', 100)}"
        )
    against = f"{title_of(arm)}, against {title_of(baseline)}; {group['title']}"
    return f"{text}, on {group['cohort']}. Compared are: {against}"


def _points(row: Mapping[str, Any]) -> str:
    """The size of a difference in points, without its sign, with its interval."""
    sign = math.copysign(1, row["difference"])
    interval = interval_text(sorted(sign * end for end in row["interval"]), ".1f", 100)
    return f"{100 * abs(row['difference']):.1f} points, 95 % CI {interval}"
