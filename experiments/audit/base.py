"""What every audit asks: who had a part in the making, and is a bank as it was written?

Findings carry numbers, with limits that are relative to what real subjects score against real
subjects. One fault is enough not to use what is audited, one care to use it with care.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.data.split import require_apart
from neuromix.augment.errors import LeakageError
from neuromix.augment.metrics import anatomy
from neuromix.augment.metrics.privacy import closest, membership
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.evaluate import compare, summarise
from neuromix.experiments.audit.config import Audit
from neuromix.experiments.frame.arms import judge, runs_of
from neuromix.experiments.frame.cohorts import load_cohort
from neuromix.experiments.frame.figures import Picture, Point, bars, slices
from neuromix.experiments.frame.findings import (
    CARE,
    FAULT,
    FINE,
    Finding,
    interval_text,
    pairs_table,
)
from neuromix.experiments.frame.pages import report_page
from neuromix.experiments.frame.run import Run

VERDICTS = {FAULT: "Do not use", CARE: "Use with care", FINE: "Fit for use"}
"""By the level of the worst finding, the worst first."""
ARMS = {"real": ("train",), "synthetic": ("samples",), "both": ("train", "samples")}
"""What the classifiers of utility are trained on."""
LEAST_AGREEMENT = 0.2
"""Real halves must agree as well as this on left and right, or nothing is said of it."""
SPLITS = 50
"""Halves of the real volumes that left and right are compared in."""
NEAREST = 4
"""Pairs of a sample and a real subject in each picture."""


@dataclass(frozen=True)
class Limit:
    """From where a size asks for care, and from where it is a fault; larger is worse."""

    care: float
    fault: float
    of: str

    def level(self, size: float) -> str:
        """The level of a finding with this size."""
        return FAULT if size > self.fault else CARE if size > self.care else FINE

    def finding(self, name: str, size: float, note: str, bad: str = "", more: str = "") -> Finding:
        """A finding, which says what is ``bad`` if it is not fine."""
        level = self.level(size)
        return Finding(name, level, note + (f": {bad}" if bad and level != FINE else "") + more)


MEMBERSHIP = Limit(0.55, 0.7, "AUC of telling who was trained on, lower end of its interval")
USE = Limit(0.0, 0.05, "balanced accuracy lost by adding samples, lower end of its interval")


class BaseAudit:
    """What is audited beside those who are said to be its training subjects, and others.

    A kind of audit says what it looks at (:meth:`parts`), what that means (:meth:`findings`), and
    shows it (:meth:`page`).
    """

    title: ClassVar[str]
    images: Sequence[str]
    limits: ClassVar[Sequence[Limit]] = ()

    def __init__(self, config: Audit, made: SampleBank | ModalityCompleter, frame: Run) -> None:
        self.config, self.audited, self.frame = config, made, frame
        train, heldout = (
            load_cohort(path, tuple(self.images) if path.is_dir() else ())
            for path in (config.train, config.heldout)
        )
        require_apart({"--train": train, "--heldout": heldout})
        self.whole: dict[str, Cohort] = {"train": train, "heldout": heldout}

    def parts(self) -> dict[str, Any]:
        """The records of all parts, by name; what is finished is only read."""
        return self.cells(self.overlap, self.provenance)

    def cells(self, *parts: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The records of parts, by their names."""
        return {part.__name__: self.frame.cell({"part": part.__name__}, part) for part in parts}

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """What the parts say: of a leak, and of the origin."""
        overlap, made = parts["overlap"], parts["provenance"]
        if overlap["subjects"]:
            yield Finding("leak", FAULT, overlap["says"])
        else:
            yield Finding("leak", FINE, "no held-out subject had a part in the making")
        if made["of these in its record"]:
            share = f"{made['of these in its record']} of {made['training subjects named']}"
            note = f"{share} named as training subjects had a part in the making"
            yield Finding("origin", FINE, note)
        else:
            yield Finding(
                "origin", CARE,
                "none of the subjects named as training ones had a part in the making, so that "
                "nothing is known of copies and privacy",
            )  # fmt: skip

        if made.get("scans in its weights"):
            note = f"its maker holds pieces of {made['scans in its weights']} scans (patches)"
            yield Finding("patches", CARE, f"{note}; do not share the maker, and look at copies")

    def card(
        self,
        results: Mapping[str, Any],
        figures: Sequence[Picture],
        methods: Sequence[str],
        tables: Sequence[tuple[str, pd.DataFrame]] = (),
        details: Sequence[tuple[str, pd.DataFrame]] = (),
    ) -> str:
        """The page, with what is said of every audit."""
        levels = "; ".join(
            f"{limit.of}: care above {limit.care:g}, fault above {limit.fault:g}"
            for limit in self.limits
        )
        return report_page(
            results,
            title=self.title,
            tables=tables,
            figures=figures,
            details=[*details, ("Where it comes from", pairs_table(results["provenance"]))],
            methods=[*methods, f"Levels: {levels}."],
        )

    def some(self, cohort: Cohort) -> Cohort:
        """At most so many rows, at random, as there shall be memory and time for."""
        order = np.random.default_rng(self.config.seed).permutation(len(cohort))
        return cohort.where(np.isin(np.arange(len(cohort)), order[: self.config.most]))

    def overlap(self) -> dict[str, Any]:
        """Did a held-out subject have a part in it?"""
        try:
            self.audited.check_disjoint(self.whole["heldout"])
        except LeakageError as error:
            return {"subjects": len(error.subjects), "says": str(error)}
        return {"subjects": 0, "says": ""}

    def provenance(self) -> dict[str, Any]:
        """Who and what made it."""
        known = set(self.audited.record["subjects"])
        named = {subject_hash(*key) for key in self.whole["train"].subject_keys}
        return self.about() | {
            "subjects in its record": len(known),
            "training subjects named": len(named),
            "of these in its record": len(named & known),
        }

    def about(self) -> dict[str, Any]:
        """What made it, for the page."""
        record = self.audited.record
        about = {"versions": record.get("versions", {})}
        return about | {"scans in its weights": scans} if (scans := record.get("scans")) else about


class BankAudit(BaseAudit):
    """Of a bank, whose files have checksums and whose samples train classifiers."""

    def __init__(self, config: Audit, bank: SampleBank, frame: Run) -> None:
        super().__init__(config, bank, frame)
        self.bank = bank
        self._kept: dict[tuple[str, str], Any] = {}

    def keep(self, kind: str, part: str, make: Callable[[], Any]) -> Any:
        """What is read or made once, of a part of the subjects."""
        if (kind, part) not in self._kept:
            self._kept[kind, part] = make()
        return self._kept[kind, part]

    def parts(self) -> dict[str, Any]:
        """As in :class:`BaseAudit`, and of the files."""
        return self.cells(self.files) | super().parts()

    def findings(self, parts: Mapping[str, Any]) -> Iterator[Finding]:
        """Of the files as well."""
        files = parts["files"]
        if files["problems"]:
            note = f"{files['problems']} are not as written, such as {files['first'][0]}"
            yield Finding("files", FAULT, note)
        else:
            note = f"all {files['samples']} samples are as they were written"
            yield Finding("files", FINE, note)
        yield from super().findings(parts)

    def files(self) -> dict[str, Any]:
        """Is every file as it was written?"""
        problems = self.bank.verify()
        return {"samples": len(self.bank), "problems": len(problems), "first": problems[:3]}

    def about(self) -> dict[str, Any]:
        """The sampler, its settings, and how many samples filters rejected."""
        about, rejected = self.bank.about, self.bank.path / "rejected.tsv"
        lines = rejected.read_text().splitlines() if rejected.is_file() else []
        return super().about() | {
            "sampler": about["sampler"],
            "settings": about["settings"],
            "rejected": max(0, len(lines) - 1),
        }

    def membership(
        self, images: Callable[[str], np.ndarray], people: Callable[[str], Any]
    ) -> dict[str, Any]:
        """Do images (N, V) of ``samples`` give away which ``people`` were trained on?"""
        made, train, heldout = map(images, ("samples", "train", "heldout"))
        who = [people(part) for part in ("train", "heldout")]
        return {
            "membership": membership(made, train, heldout, seed=self.config.seed, people=who),
            "closest": closest(made, train, NEAREST),
        }

    def worth(
        self,
        targets: Iterable[str],
        make: Callable[..., VolumeClassifier],
        subjects: Callable[[str], list[tio.Subject]],
    ) -> dict[str, Any]:
        """What classifiers of the :data:`ARMS` are worth, and what samples gain or lose."""
        if self.cells(self.overlap)["overlap"]["subjects"]:
            return {}  # nobody tests what he has shaped

        def fit(target: str, arm: str, seed: int) -> dict[str, Any]:
            train = [subject for part in ARMS[arm] for subject in subjects(part)]
            classifier = make(target, steps=self.config.steps, seed=seed, class_weight="balanced")
            # The judges had no part in the bank, and only choose the checkpoint.
            return judge(classifier, train, subjects("judges"), subjects("heldout"))[1]

        result = {}
        for target in targets:
            runs = {}
            for arm in ARMS:
                for seed in range(self.config.seeds):
                    key = {"target": target, "arm": arm, "seed": seed}
                    self.frame.cell(key, functools.partial(fit, target, arm, seed))
                runs[arm], _ = runs_of(self.frame, {"target": target}, arm, self.config.seeds)
            result[target] = {
                "scores": {arm: summarise(each) for arm, each in runs.items()},
                "gain": compare(runs["both"], runs["real"]),
                "swap": compare(runs["synthetic"], runs["real"]),
            }
        return result


def weigh(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings, the worst first, and the verdict."""
    order = list(VERDICTS)
    ordered = sorted(findings, key=lambda finding: order.index(finding.level))
    worst = ordered[0].level
    reasons = "; ".join(f"{each.name}: {each.note}" for each in ordered if each.level == worst)
    if worst == FINE:
        reasons = f"{len(ordered)} things were looked at, and each is as in real subjects"
    return {
        "verdict": f"{VERDICTS[worst]}: {reasons}.",
        "level": worst,
        "findings": [asdict(finding) for finding in ordered],
    }


def membership_finding(attack: Mapping[str, Any]) -> Finding:
    """Of :func:`neuromix.augment.metrics.privacy.membership`."""
    return MEMBERSHIP.finding(
        "membership", attack["interval"][0],
        f"an attacker tells who was trained on with an AUC of {attack['value']:.2f} "
        f"({interval_text(attack['interval'])})",
    )  # fmt: skip


def use_finding(target: str, gain: Mapping[str, Any]) -> Finding:
    """Of a classifier trained with samples and without."""
    return USE.finding(
        f"use for {target}", -gain["interval"][1],
        f"with samples {100 * gain['a']:.1f} % balanced accuracy, without {100 * gain['b']:.1f} %, "
        f"difference {interval_text(gain['interval'], times=100)} points",
    )  # fmt: skip


def laterality(made: np.ndarray, real: np.ndarray, mask: np.ndarray, seed: int) -> dict[str, Any]:
    """Does the asymmetry of samples agree with that of real volumes, (N, X, Y, Z) each?

    A half of the real volumes beside as many samples, and beside the other half.
    """
    rng = np.random.default_rng(seed)
    real, made = (anatomy.asymmetry(volumes, mask) for volumes in (real, made))
    size, values, references = min(len(real) // 2, len(made)), [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(real))
        half, other = real[order[:size]], real[order[size : 2 * size]]
        drawn = made[rng.permutation(len(made))[:size]]
        values.append(anatomy.correlation_of_means(half, drawn))
        references.append(anatomy.correlation_of_means(half, other))
    return {
        "value": float(np.mean(values)), "real": float(np.mean(references)),
        "interval": np.quantile(values, (0.025, 0.975)).tolist(),
        "real_interval": np.quantile(references, (0.025, 0.975)).tolist(),
    }  # fmt: skip


def laterality_finding(sides: Mapping[str, Any]) -> Finding:
    """Of :func:`laterality`."""
    note = (
        f"asymmetry agrees with real subjects by r = {sides['value']:.2f}, real halves with each "
        f"other by {sides['real']:.2f}"
    )
    if sides["real"] < LEAST_AGREEMENT:
        return Finding("left and right", FINE, f"{note}: too little to tell")
    if sides["interval"][1] < 0:
        return Finding("left and right", FAULT, f"{note}: left and right are exchanged")
    level = CARE if sides["value"] < sides["real"] / 2 else FINE
    return Finding("left and right", level, note)


def unit_error(ratio: float) -> str:
    """What is wrong with values that are so much too large; a wrong unit is a power of ten."""
    power = round(float(np.log10(max(ratio, 1e-12))))
    return f"values are 1e{power:+d} of what they should be" if power else "means are off"


def nearest_picture(
    pairs: Sequence[tuple[int, int, float]],
    samples: np.ndarray,
    train: np.ndarray,
    upper: float,
    what: str,
) -> Picture:
    """The samples (N, X, Y, Z) that are nearest to training subjects, each beside that one."""
    volumes, titles = [], []
    for sample, subject, apart in pairs:
        volumes += [samples[sample], train[subject]]
        titles += [f"sample, {apart:.3f} off", f"training {what}"]
    caption = f"The samples nearest to a training {what}, each beside that {what}."
    return slices(volumes, titles, upper=upper), caption


def use_pictures(utility: Mapping[str, Any]) -> list[Picture]:
    """What classifiers gain, if there are any."""
    rows = [
        (f"{target}, {title}", Point(0.0, 100 * row["difference"], *(100 * e for e in limits)))
        for target, use in utility.items()
        for title, row in (("real + samples", use["gain"]), ("samples only", use["swap"]))
        for limits in [row["interval"]]
    ]
    label = "points of balanced accuracy over real subjects only"
    caption = "What a classifier gains or loses, on real held-out subjects."
    return [bars(rows, xlabel=label, caption=caption)] if rows else []


def use_tables(utility: Mapping[str, Any]) -> list[tuple[str, pd.DataFrame]]:
    """Scores of classifiers, if there are any."""
    rows = [
        {"label": target, "trained on": arm, "balanced accuracy": score["value"],
         "95 %": interval_text(score["interval"])}
        for target, use in utility.items() for arm, score in use["scores"].items()
    ]  # fmt: skip
    return [("What it is good for", pd.DataFrame(rows))] if rows else []
