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

from neuromix.classifiers.dementia import DementiaClassifier
from neuromix.classifiers.sex import SexClassifier
from neuromix.experiments.evidence.arms import ARMS
from neuromix.experiments.evidence.comparison import (
    Cell,
    Comparison,
    carry_out,
    cells_of,
    run_cells,
)
from neuromix.experiments.evidence.configs import DEMENTIA, SEX, Transfer
from neuromix.experiments.evidence.plan import plan_transfer
from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.evidence.samples import (
    AUGMENTATION,
    Material,
    labels_like,
    make_material,
    pictures_of,
)
from neuromix.experiments.evidence.sites import load_site, subsets
from neuromix.experiments.frame.arms import judge
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import CEILING, SCRATCH, Group


class TransferComparison(Comparison):
    """The two stages, cell by cell."""

    name = "transfer"
    plan = staticmethod(plan_transfer)
    config: Transfer

    def __init__(self, config: Transfer, frame: Run) -> None:
        super().__init__(config, frame)
        a = self.a = load_site(config, "A", "sex", max(config.sizes), config.fresh, frame.folder)
        b = self.b = load_site(config, "B", "dementia", max(config.sizes_b), 0, frame.folder)
        self.train_a = subsets(a.pool, "sex", config.sizes, config.seed)
        self.train_b = subsets(b.pool, "dementia", config.sizes_b, config.seed)
        self.trained = [a.pool, a.validation, b.pool, b.validation]
        self.tests, self.ceiling = [a.test, b.test], a.ceiling

    def fit(self) -> None:
        """Sex on site A in every arm at every size, and from it dementia on site B."""
        config = self.config
        for size in config.sizes:
            cells = cells_of({"setting": SEX, "size": size}, config.arms, config.seeds)
            what = f"sex on site A, {size} subjects"
            run_cells(self.frame, what, cells, partial(self._material, size), self._fit_sex)
        if self.ceiling is not None:
            cells = cells_of({"setting": SEX}, [CEILING], config.seeds)
            run_cells(self.frame, "the ceiling", cells, self.ceiling.subjects, self._fit_ceiling)
        cells = []
        for size_b in config.sizes_b:
            where = {"setting": DEMENTIA, "size_b": size_b}
            cells += cells_of(where, [SCRATCH], config.seeds)
            for size in config.sizes:
                where = {"setting": DEMENTIA, "size": size, "size_b": size_b}
                cells += cells_of(where, config.arms, config.seeds)
            if config.fresh:
                cells += cells_of({"setting": DEMENTIA, "size_b": size_b}, [CEILING], config.seeds)
        run_cells(self.frame, "dementia on site B", cells, lambda: None, self._fit_dementia)

    def groups(self) -> list[Group]:
        """The finished runs, the transfer first."""
        config, groups = self.config, []
        for key in config.keys:
            is_transfer = key["setting"] == DEMENTIA
            site, target = (self.b, "dementia") if is_transfer else (self.a, "sex")
            shared = {name: value for name, value in key.items() if name != "size"}
            extra = [SCRATCH] * is_transfer + [CEILING] * bool(config.fresh)
            arms = dict.fromkeys(config.arms, key) | dict.fromkeys(extra, shared)
            title = f"{target} on held-out subjects of {site.name}, {key['size']} real subjects"
            title += " at site A"
            if is_transfer:
                title += f" to pretrain and {key['size_b']} at site B"
            groups.append(self.group(key, title, site.name, target, AUGMENTATION, arms))
        return groups

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
            methods=[about],
            warnings=notes,
            pictures=pictures_of(self.frame),
        )

    @cached_property
    def held_out(self) -> dict[str, list[tio.Subject]]:
        """Validation, test and site B's training subjects, read once."""
        parts = {
            "validation A": self.a.validation, "test A": self.a.test,
            "validation B": self.b.validation, "test B": self.b.test,
        }  # fmt: skip
        parts |= {f"train B {size}": cohort for size, cohort in self.train_b.items()}
        return {name: cohort.subjects() for name, cohort in parts.items()}

    def _material(self, size: int) -> Material:
        config, train = self.config, self.train_a[size]
        return make_material(
            self.frame, f"A-{size}", config, train, self.a.validation, self.held_out["test A"],
            lambda space, count: labels_like(train, space, count, config.seed), self.tests,
        )  # fmt: skip

    def _fit_sex(self, cell: Cell, material: Material) -> Cell:
        arm = ARMS[cell["arm"]]
        return self._pretrain(cell, material.training_set(arm), arm.augmentation)

    def _fit_ceiling(self, cell: Cell, fresh: list[tio.Subject]) -> Cell:
        return self._pretrain(cell, fresh, ARMS["real"].augmentation)

    def _pretrain(self, cell: Cell, train: list[tio.Subject], augmentation: Cell) -> Cell:
        classifier = SexClassifier(
            image=self.config.image, steps=self.config.steps, seed=cell["seed"], **augmentation
        )
        held = self.held_out
        fitted, record = judge(classifier, train, held["validation A"], held["test A"])
        fitted.save(self._saved(cell))
        return record

    def _fit_dementia(self, cell: Cell, _: None) -> Cell:
        settings: Cell = {"image": self.config.image}
        settings |= {"steps": self.config.steps_b, "seed": cell["seed"]}
        settings |= ARMS["real"].augmentation
        if cell["arm"] == SCRATCH:
            classifier = DementiaClassifier(**settings)
        else:
            pretrained = SexClassifier.load(self._saved(cell))
            classifier = DementiaClassifier.from_classifier(pretrained, **settings)
        held = self.held_out
        train = held[f"train B {cell['size_b']}"]
        return judge(classifier, train, held["validation B"], held["test B"])[1]

    def _saved(self, cell: Cell) -> Path:
        size = f"{cell['size']}-" if "size" in cell else ""
        return self.frame.folder / "classifiers" / f"sex-{size}{cell['arm']}-{cell['seed']}"


run = partial(carry_out, TransferComparison)
