"""Does synthetic data help a classifier of sex, and what is learnt from it to find dementia?

    site A: real subjects (+ samples of a sampler trained on them)  ──►  sex, on held-out subjects
                         │ the network
                         ▼
    site B: few real subjects with a diagnosis                      ──►  dementia, on held-out ones

The arms of :mod:`neuromix.experiments.evidence.arms` differ in how sex is learnt on site A. Every
network is then fine-tuned on the same subjects of site B, for the same number of steps and without
augmentation, so that what differs there was learnt at A. Two more stand beside them: a network that
was not pretrained, and the ceiling, pretrained on many fresh phantom subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torchio as tio
from rich.progress import track

from neuromix.augment.data.cohort import Cohort
from neuromix.classifiers.dementia import DementiaClassifier
from neuromix.classifiers.sex import SexClassifier
from neuromix.experiments.evidence.arms import (
    ARMS,
    AUGMENTATION,
    SYNTHETIC,
    Arm,
    Material,
    Samples,
    keep_pictures,
    labels_like,
    name_of,
    needs,
    pictures_of,
    run_arms,
)
from neuromix.experiments.evidence.comparison import carry_out
from neuromix.experiments.evidence.costs import pace
from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.evidence.sites import Parts, Wanted, load_site, subsets
from neuromix.experiments.evidence.transfer_config import DEMENTIA, SEX, Transfer
from neuromix.experiments.frame.arms import check_disjoint, judge, runs_of
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import CEILING, SCRATCH, Group

NAME = "transfer"


def run(config: Transfer, out: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Do the cells that are not done yet; write ``results.json`` and ``report.html``."""
    return carry_out(NAME, config, out, _Transfer, _plan, ("md",), dry_run=dry_run)


class _Transfer:
    """The two stages, cell by cell."""

    def __init__(self, config: Transfer, frame: Run) -> None:
        self.config, self.frame = config, frame
        self.a = self._site(config.data_a, "A", "sex", max(config.sizes), config.fresh)
        self.b = self._site(config.data_b, "B", "dementia", max(config.sizes_b), 0)
        self.train_a = subsets(self.a.pool, "sex", config.sizes, config.seed)
        self.train_b = subsets(self.b.pool, "dementia", config.sizes_b, config.seed)

    def check(self) -> None:
        """Nobody judges who trained or chose anything, at either site."""

        def look() -> dict[str, Any]:
            trained = [self.a.pool, self.a.validation, self.b.pool, self.b.validation]
            check_disjoint(trained, self.tests, voxels=True)
            if self.a.ceiling is not None:
                check_disjoint([self.a.ceiling], self.tests, voxels=False)
            return {"subjects": sum(len(test.subject_keys) for test in self.tests)}

        self.frame.cell({"check": "disjoint"}, look)

    def fit(self) -> None:
        """Sex on site A, and from it dementia on site B."""
        self._pretrain()
        self._transfer()

    def groups(self) -> list[Group]:
        """The finished runs, the transfer first."""
        config, result = self.config, []
        for key in config.keys:
            setting, at_b = key["setting"], {k: v for k, v in key.items() if k == "size_b"}
            found = {arm: runs_of(self.frame, key, arm, config.seeds) for arm in config.arms}
            shared = {"setting": setting, **at_b}
            extra = [SCRATCH] if setting == DEMENTIA else []
            for arm in [*extra, *([CEILING] if config.fresh else [])]:
                found[arm] = runs_of(self.frame, shared, arm, config.seeds)
            site = self.b if setting == DEMENTIA else self.a
            target = "dementia" if setting == DEMENTIA else "sex"
            title = f"{target} on held-out subjects of {site.name}, {key['size']} real subjects"
            title += " at site A" if setting == SEX else (
                f" at site A to pretrain and {key['size_b']} at site B"
            )  # fmt: skip
            runs = {arm: predictions for arm, (predictions, _) in found.items()}
            validation = {arm: score for arm, (_, score) in found.items()}
            result.append(Group(key, title, site.name, target, runs, validation, AUGMENTATION))
        return result

    def page(self, results: dict[str, Any], groups: Sequence[Group]) -> str:
        """The report."""
        config = self.config
        origin = "phantom md" if config.data_a is None else "own data"
        about = (
            f"Site A is {self.a.name} ({origin}, seed {config.seed}), with "
            f"{len(self.a.validation)} validation and {len(self.a.test)} test scans; site B is "
            f"{self.b.name}, with {len(self.b.validation)} and {len(self.b.test)}. A classifier of "
            f"sex is trained at A for {config.steps} steps and fine-tuned to dementia (AD against "
            f"NC) at B for {config.steps_b} steps, all layers, without augmentation, on the same "
            "subjects in every arm. The sampler is trained on the real training subjects of A "
            "alone, one for each size; the validation subjects of A choose its best step. 'No "
            "pretraining' starts from fresh weights at site B."
        )
        notes = [seeds_warning(config.seeds, "size of site A")]
        if not config.fresh:
            notes.append("There is no ceiling: only a phantom has many fresh subjects.")
        return page(
            "Transfer: sex at site A, dementia at site B",
            results,
            groups,
            pictures_of(self.frame),
            methods=[about],
            warnings=notes,
            config=results["config"],
        )

    @cached_property
    def tests(self) -> list[Cohort]:
        """Everyone who judges."""
        return [self.a.test, self.b.test]

    @cached_property
    def held(self) -> dict[str, list[tio.Subject]]:
        """Validation and test subjects, read once."""
        parts = {
            "validation A": self.a.validation, "test A": self.a.test,
            "validation B": self.b.validation, "test B": self.b.test,
        }  # fmt: skip
        parts |= {f"train B {size}": cohort for size, cohort in self.train_b.items()}
        return {name: cohort.subjects() for name, cohort in parts.items()}

    def _pretrain(self) -> None:
        """Learn sex on site A in every arm, at every size."""
        config = self.config
        for size in config.sizes:
            run_arms(
                self.frame,
                {"setting": SEX, "size": size},
                config.arms,
                config.seeds,
                partial(self._material, size),
                partial(self._sex, size),
            )
        for seed in range(config.seeds if config.fresh else 0):
            self.frame.cell(_key(SEX, arm=CEILING, seed=seed), partial(self._ceiling, seed))

    def _transfer(self) -> None:
        """Fine-tune every network on site B, at every size; and one that was not pretrained."""
        config = self.config
        started: list[tuple[dict[str, int], str]] = [({}, SCRATCH)]
        started += [({"size": size}, arm) for size in config.sizes for arm in config.arms]
        started += [({}, CEILING)] if config.fresh else []
        cells = [
            _key(DEMENTIA, **where, size_b=size_b, arm=arm, seed=seed)
            for size_b in config.sizes_b
            for where, arm in started
            for seed in range(config.seeds)
        ]
        left = [cell for cell in cells if not self.frame.is_done(cell)]
        for cell in track(left, "Fits, dementia on site B", console=self.frame.console):
            self.frame.cell(cell, partial(self._dementia, cell))

    def _site(self, data: Path | None, name: str, target: str, pool: int, ceiling: int) -> Parts:
        config = self.config
        wanted = Wanted(pool, config.validation, config.test, ceiling)
        return load_site(
            data, name, target, wanted, self.frame.folder, spacing=config.spacing, seed=config.seed
        )

    def _material(self, size: int) -> Material:
        config, train = self.config, self.train_a[size]
        samples = Samples(
            self.frame,
            f"A-{size}",
            train,
            self.a.validation,
            config.sampling,
            lambda space, count: labels_like(train, space, count, config.seed),
            self.tests,
        ).draw(needs(config.arms, len(train)))
        material = Material(
            train.subjects(), self.held["validation A"], self.held["test A"], samples
        )
        keep_pictures(self.frame, f"site-A-{size}", material)
        return material

    def _sex(self, size: int, arm: Arm, seed: int, material: Material) -> dict[str, Any]:
        config = self.config
        classifier = SexClassifier(steps=config.steps, seed=seed, **arm.augmentation)
        fitted, record = judge(
            classifier, arm.training_set(material), material.validation, material.test
        )
        fitted.save(self._place(name_of(arm), seed, size))
        return record

    def _ceiling(self, seed: int) -> dict[str, Any]:
        if self._fresh is None:
            assert self.a.ceiling is not None
            self._fresh = self.a.ceiling.subjects()
        classifier = SexClassifier(steps=self.config.steps, seed=seed, **ARMS["real"].augmentation)
        fitted, record = judge(
            classifier, self._fresh, self.held["validation A"], self.held["test A"]
        )
        fitted.save(self._place(CEILING, seed))
        return record

    def _dementia(self, cell: dict[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {"steps": self.config.steps_b, "seed": cell["seed"]}
        settings |= ARMS["real"].augmentation
        if cell["arm"] == SCRATCH:
            classifier = DementiaClassifier(**settings)
        else:
            place = self._place(cell["arm"], cell["seed"], cell.get("size"))
            learnt = SexClassifier.load(place)
            classifier = DementiaClassifier.from_classifier(learnt, **settings)
        train = self.held[f"train B {cell['size_b']}"]
        return judge(classifier, train, self.held["validation B"], self.held["test B"])[1]

    def _place(self, arm: str, seed: int, size: int | None = None) -> Path:
        name = f"sex-{arm}" if size is None else f"sex-{size}-{arm}"
        return self.frame.folder / "classifiers" / f"{name}-{seed}"

    _fresh: list[tio.Subject] | None = None


def _key(setting: str, **rest: Any) -> dict[str, Any]:
    return {"setting": setting, **rest}


def _plan(config: Transfer) -> list[tuple[str, float]]:
    """What would be done, and for how many seconds on this machine."""
    speed = pace(config.data_a, config.spacing, config.sampling, config.seed)
    at_a, at_b = config.validation + config.test, config.validation + config.test
    people = (max(config.sizes) + at_a + config.fresh) * (config.data_a is None)
    people += round(1.6 * (max(config.sizes_b) + at_b)) * (config.data_b is None)
    ceilings = int(config.fresh > 0)
    fits_a = config.seeds * (len(config.sizes) * len(config.arms) + ceilings)
    fits_b = config.seeds * len(config.sizes_b) * (
        len(config.sizes) * len(config.arms) + 1 + ceilings
    )  # fmt: skip
    samples = sum(needs(config.arms, size).get(SYNTHETIC, 0) for size in config.sizes)
    samplers = len(config.sizes) if samples else 0
    return [
        ("phantom subjects", people * speed.subject),
        (f"{samplers} samplers", samplers * speed.sampler),
        (f"{samples} samples", samples * speed.sample),
        (f"{fits_a} fits of sex", fits_a * (config.steps * speed.step + at_a * speed.judged)),
        (f"{fits_b} fits of dementia",
         fits_b * (config.steps_b * speed.step + at_b * speed.judged)),
    ]  # fmt: skip
