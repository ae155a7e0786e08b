"""How a modality completer is fitted: closed forms, then TR and PDM in the one training loop.

Training subjects are regressed by what other people say (:data:`FOLDS`): what is learned of their
errors holds for new subjects, whose errors are larger than those that a regression was fitted to.
Where TR refines means (the default) it comes before PDM, since samples spread around what it makes;
where it refines samples, as published, it comes after. Every part is kept in the folder of the fit,
and is not made again: a fit that was killed goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.diffusion.fitting import Job
from neuromix.augment.diffusion.loop import Trained, estimate
from neuromix.augment.pds.config import MODALITIES, ModalityConfig
from neuromix.augment.pds.dual_modal import DualModalDiffusion
from neuromix.augment.pds.local_regression import LocalRegression
from neuromix.augment.pds.pairs import BATCH, BoxSet, DenoisingSet, Pairs, support_of
from neuromix.augment.pds.smooth_residual import Residuals
from neuromix.augment.pds.two_stage import Refinement, SemanticConsistency

FILLING_SEED = 11
"""Decides the fields that go on outside the brains of training subjects."""

FOLDS = 4
"""Parts of the training people, of which each is regressed by what the others say."""


@dataclass(frozen=True)
class SubjectBatch:
    """Some subjects of one set, in one direction."""

    source: Tensor
    target: Tensor
    support: Tensor
    direction: int
    numbers: list[int]
    """Of the subjects, in their set."""
    trained_on: bool
    """Whether they are training subjects."""
    given: Tensor | None = None
    """What was made for them before."""


Maker = Callable[[SubjectBatch], Tensor]
"""Makes volumes (B, N, X, Y, Z)."""


@dataclass
class Fitting:
    """One fit on training pairs and, if any, validation pairs."""

    job: Job
    sets: list[Pairs]
    grid: Grid
    model: DualModalDiffusion = field(init=False)
    _folds: dict[int, LocalRegression] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.config: ModalityConfig = self.job.config
        self.directions = [MODALITIES.index(name) for name in self.config.directions]
        numbers: dict[tuple[str, str], int] = {}
        self.people = [
            numbers.setdefault((row["dataset"], row["subject_id"]), len(numbers))
            for row in self.sets[0].rows
        ]
        """Whose each training pair is: sessions of a person are in one fold."""

    def run(self, alphas: Tensor | None, draw: Maker) -> Trained:
        """Fit everything; :attr:`model` is the result.

        ``alphas`` are those of the noise schedule, if PDM predicts noise; ``draw`` makes the
        samples of PDM, which TR refines in the published order.
        """
        kept = self.job.work / "start"
        state = PartialState()
        fresh = not kept.is_dir()  # asked before the main process can have written it
        with state.main_process_first():
            if fresh:
                self.model = self.build()
                self.closed_form()
        if fresh:
            self.model.to(state.device)
            if self.config.start == "gaussian":
                self._around_means()
            if state.is_main_process:
                with files.replacing_folder(kept) as folder:
                    self.model.save_pretrained(folder)
            state.wait_for_everyone()
        self.model = DualModalDiffusion.from_pretrained(kept).to(state.device)
        trained = self._denoise(alphas)
        self.model.eval()
        if self.config.refine == "sample":
            self._refine(self._arrays("sample", draw), ("detail",))
        return trained

    def build(self) -> DualModalDiffusion:
        """The model before anything is learned but the scales of the modalities."""
        config, pairs = self.config, self.sets[0]
        space = LabelSpace.from_known(pairs.rows, config.labels)
        covered = torch.zeros(self.grid.shape, dtype=torch.bool)
        sums = torch.zeros(2, 3, dtype=torch.float64)
        limits = torch.tensor([[torch.inf, -torch.inf]] * 2)
        for pair in pairs.array:
            volumes = torch.from_numpy(np.array(pair))
            support = support_of(volumes)[:, 0] > 0
            covered |= support.any(0)
            for m, (volume, inside) in enumerate(zip(volumes, support, strict=True)):
                values = volume[:, inside].double()
                moments = (values.numel(), float(values.sum()), float(values.square().sum()))
                sums[m] += torch.tensor(moments)
                limits[m, 0] = torch.minimum(limits[m, 0], volume.min())
                limits[m, 1] = torch.maximum(limits[m, 1], volume.max())
        average = sums[:, 1] / sums[:, 0]
        spread = (sums[:, 2] / sums[:, 0] - average**2).sqrt()
        with torch.random.fork_rng():
            torch.manual_seed(config.training.seed)
            model = DualModalDiffusion(
                label_space=space.to_dict(), grid=self.grid.to_dict(), modalities=list(MODALITIES),
                segments=pairs.array.shape[2], voxels=int(covered.sum()), start=config.start,
                refine=config.refine, pattern=config.pattern, source_blind=config.source_blind,
                widths=list(config.widths), patch=config.patch, heads=config.heads,
                refiner_width=config.refiner_width, refiner_blocks=config.refiner_blocks,
            )  # fmt: skip
        model.scale.copy_(spread)
        model.limits.copy_(limits)
        model.regression.cover(covered)
        if config.start == "noise":  # one mean for all voxels; the deviation is one already
            model.regression.centre.copy_((average / spread)[:, None, None])
        return model

    def closed_form(self) -> None:
        """Regressions and weights of regions, from the training subjects alone."""
        model, pairs = self.model, self.sets[0]
        if self.config.start == "gaussian":
            for d in self.directions:
                model.regression.fit(d, pairs.batches(model, d), self.config.source_blind)
        if model.atlas is not None:
            signals = [
                torch.cat([model.atlas.signals(t, s) for _, t, s in pairs.batches(model, d)()])
                for d in range(2)
            ]
            diagnoses = [str(row.get("diagnosis") or "") for row in pairs.rows]
            model.atlas.learn(torch.stack(signals), diagnoses)

    def _around_means(self) -> None:
        """TR, and the Gaussian around what it makes."""
        estimates = self._arrays("regression", self._regress)
        self._folds.clear()
        self._spread(estimates)
        if self.config.refine == "mean":
            self._refine(estimates, ("semantic", "detail"))
            self._spread(self._means())

    def _spread(self, means: list[np.ndarray]) -> None:
        """Fit the residual field; validation subjects, if any, say how much larger it is."""
        for which, d in enumerate(self.directions):
            size = []
            for pairs, array in zip(self.sets, means, strict=True):
                total = voxels = 0.0
                for error, support in self._errors(pairs, array, which, d)():
                    total += float((error.square() * support).sum())
                    voxels += float(support.sum())
                size.append((total / voxels) ** 0.5)
            # Subjects that the mean was fitted to lie nearer to it than new ones.
            inflation = max(size[-1] / size[0], 1.0)
            errors = self._errors(self.sets[0], means[0], which, d)
            self.model.residual.fit(d, errors, inflation)

    def _errors(self, pairs: Pairs, means: np.ndarray, which: int, d: int) -> Residuals:
        def run() -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, len(pairs), BATCH):
                subjects = range(start, min(start + BATCH, len(pairs)))
                _, target, support = self._units(pairs, d, subjects)
                mean = torch.from_numpy(np.array(means[start : subjects.stop, which], np.float32))
                yield (target - mean.to(target)) * support, support

        return run

    def _denoise(self, alphas: Tensor | None) -> Trained:
        """Train PDM."""
        means = self._means()
        residuals = self._arrays("residual", self._standardised, means)
        data = [
            DenoisingSet(pairs, self.model, self.directions, m, r)
            for pairs, m, r in zip(self.sets, means, residuals, strict=True)
        ]
        objective = SemanticConsistency(self.model, self.config.label_dropout, alphas)
        return self.job.train(objective, data, self.config.training, "pdm")

    def _refine(self, estimates: list[np.ndarray], stages: Sequence[str]) -> None:
        """Train TR on estimates, one stage after the other."""
        data = [
            BoxSet(pairs, self.model, self.directions, each, self.config.box)
            for pairs, each in zip(self.sets, estimates, strict=True)
        ]
        first = self.config.refining.within(self.config.training)
        second = replace(
            first, steps=max(first.steps // 3, 1), learning_rate=first.learning_rate / 3
        )
        for stage in stages:
            objective = Refinement(self.model, stage == "detail", self.config.microstructure)
            config = second if stage == "detail" and len(stages) > 1 else first
            self.job.train(objective, data, config, stage)
        assert self.model.refiner is not None
        self.model.refiner.eval()

    def pace_refining(self, config: ModalityConfig) -> float:
        """Seconds that TR's training with these settings would take."""
        nothing = np.zeros((len(self.sets[0]), len(self.directions), *self.sets[0].array.shape[2:]))
        data = BoxSet(self.sets[0], self.model, self.directions, nothing, config.box)
        stages = 4 / 3 if config.refine == "mean" else 1
        objective = Refinement(self.model, True, config.microstructure)
        return stages * estimate(objective, data, config.refining)

    def _means(self) -> list[np.ndarray]:
        """What samples spread around."""
        estimates = self._arrays("regression", self._regress)
        if self.config.refine != "mean":
            return estimates
        return self._arrays("mean", self._sharpen, estimates)

    def _regress(self, part: SubjectBatch) -> Tensor:
        """Means in closed form, as far off in training subjects as in new ones."""
        model, d = self.model, part.direction
        alone = self.config.start == "noise" or len(set(self.people)) == 1
        if alone or not part.trained_on:
            return model.regression(part.source, part.support, d)
        return torch.cat([
            self._fold(self.people[number] % FOLDS)(source[None], support[None], d)
            for source, support, number in zip(
                part.source, part.support, part.numbers, strict=True
            )
        ])  # fmt: skip

    def _fold(self, fold: int) -> LocalRegression:
        """The regressions that know all training people but those of a fold."""
        if fold not in self._folds:
            regression = copy.deepcopy(self.model.regression).cpu()
            others = [k for k, person in enumerate(self.people) if person % FOLDS != fold]
            for d in self.directions:
                batches = self.sets[0].batches(self.model, d, others)
                regression.fit(d, batches, self.config.source_blind)
            self._folds[fold] = regression.to(self.model.device)
        return self._folds[fold]

    def _sharpen(self, part: SubjectBatch) -> Tensor:
        assert part.given is not None
        return self.model.refined(part.source, part.given, part.support, part.direction)

    def _standardised(self, part: SubjectBatch) -> Tensor:
        """Z of some subjects, going on outside their brains."""
        field, d = self.model.residual, part.direction
        assert part.given is not None
        z = part.support * (part.target - part.given) / field.deviation[d]
        if self.config.start == "noise":
            return z
        white = torch.stack([
            torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(FILLING_SEED + k))
            for k in part.numbers
        ])  # fmt: skip
        chosen = torch.full((len(z),), d, device=z.device)
        return field.fill(z, part.support, white.to(z), chosen)

    def _arrays(
        self, name: str, maker: Maker, given: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Arrays (subjects, directions, N, X, Y, Z) of what a maker makes, kept on disk.

        ``given`` are those of what was made before, which it gets too.
        """
        paths = self.job.arrays(
            lambda k, path: self._write(path, k, maker, None if given is None else given[k]),
            f"{name}-",
        )
        return [np.load(path, mmap_mode="r") for path in paths]

    @torch.no_grad()
    def _write(self, path: Path, which: int, maker: Maker, given: np.ndarray | None) -> None:
        from rich.progress import track

        pairs = self.sets[which]
        count = len(pairs)

        def made(start: int) -> np.ndarray:
            numbers = list(range(start, min(start + BATCH, count)))
            columns = []
            for column, d in enumerate(self.directions):
                units = self._units(pairs, d, numbers)
                before = None
                if given is not None:
                    before = torch.from_numpy(np.array(given[numbers, column], np.float32))
                    before = before.to(units[0])
                part = maker(SubjectBatch(*units, d, numbers, which == 0, before))
                columns.append(part.cpu().numpy())
            return np.stack(columns, axis=1)

        title = f"Writing {path.stem}"
        starts = track(range(0, count, BATCH), title, disable=not self.job.progress)
        # Half precision is a thousandth of a value, far below the noise of a scan.
        files.write_array(path, count, map(made, starts), np.float16)

    def _units(
        self, pairs: Pairs, d: int, subjects: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Source, target and support on the model's device."""
        source, target, support = pairs.chosen(self.model, d, subjects)
        device = self.model.device
        return source.to(device), target.to(device), support.to(device)
