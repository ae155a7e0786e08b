"""Generators side by side at equal compute: are their samples told from people nobody saw?

A cohort is parted by subject: some fit every generator, the others are only compared with. Each
generator is asked for the labels of held-out people; what it makes, and they, are seen through one
:class:`~neuromix.augment.metrics.realism.Brain` and judged by
:mod:`~neuromix.augment.metrics.realism` and :mod:`~neuromix.augment.metrics.privacy`. A generator
that is a denoiser is judged by its error at each noise level as well. Any map on any common grid
will do, a slab too, with labels or without.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from neuromix.augment import files
from neuromix.augment.data.cohort import Cohort, label_rows
from neuromix.augment.data.conditions import known
from neuromix.augment.diffusion.label_embedding import encode_rows
from neuromix.augment.errors import InputError
from neuromix.augment.metrics import privacy, realism
from neuromix.augment.metrics.label_reading import labels_told
from neuromix.augment.phantom import make_phantom
from neuromix.augment.tiled.codec import HALF
from neuromix.augment.tiled.config import PRESETS, QUANTITATIVE, TiledMDConfig
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.experiments.frame.cohorts import contents, first_scans, load_cohort
from neuromix.experiments.frame.pace import SECONDS, phantom_seconds
from neuromix.experiments.frame.pages import rich_table
from neuromix.experiments.frame.run import Run, show_plan
from neuromix.experiments.quality import fidelity_report
from neuromix.experiments.quality.baselines import (
    Copies,
    Labels,
    MeanNoise,
    PCAGaussian,
    inside_space,
)
from neuromix.experiments.quality.config import (
    COPIES,
    FEWEST,
    GAUSSIAN,
    MEAN,
    SAMPLERS,
    UNET,
    Fidelity,
)
from neuromix.experiments.quality.monai_unet import VolumeUNet
from neuromix.experiments.quality.training_time import clock, lasting

NAME = "fidelity"
SIMPLE: dict[str, Callable[[], Any]] = {MEAN: MeanNoise, COPIES: Copies, GAUSSIAN: PCAGaussian}
TIMES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Noise levels t of x_t = (1 - t) x + t n at which denoisers are compared."""
GIVEN_AWAY = 0.3
"""Noise level at which what weights know of a person is looked for."""
LABELS = ("sex", "diagnosis")
KEPT = 4
"""Volumes that are kept of each generator, for the pictures."""
FREE = ("contenders",)
"""Settings that no row depends on."""


def run(config: Fidelity, *, dry_run: bool = False) -> dict[str, Any]:
    """Fit, sample and compare what is not done yet; write ``results.json`` and ``report.html``."""
    console = Console()
    console.print(asdict(config))
    if dry_run:
        show_plan(plan(config), console)
        return {}
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    content = contents(config, (config.image,))
    with Run.open(config.out, NAME, settings, console, content, FREE) as folder:
        cohort = _cohort(config, folder.folder)
        bench = Bench.of(cohort, config)
        rows = {}
        for name in config.contenders:

            def judged(name: str = name) -> dict[str, Any]:
                folder.log(f"{name}: fitted to {len(bench.train)} and asked for {config.samples}")
                row, first = bench.judge(*_fitted(name, bench, config, folder.folder))
                folder.keep_array({"row": name}, first)
                return row

            rows[name] = folder.cell({"row": name}, judged)
        about = f"{config.image} of {cohort.name}, {len(bench.train)} people to fit, "
        about += f"{len(bench.heldout)} held out, {config.minutes:g} minutes each"
        results = fidelity_report.summarise(rows, about) | folder.about
        pictures = {name: folder.array({"row": name}) for name in rows}
        shown = {"real": bench.heldout[bench.asked[:KEPT]]} | pictures
        folder.finish(results, fidelity_report.page(results, shown))
        console.print(rich_table(fidelity_report.overview(rows, intervals=False)))
    return results


@dataclass(frozen=True, eq=False)
class Bench:
    """What generators are fitted to and compared with, seen through one brain."""

    parts: tuple[Cohort, Cohort]
    """Training and held-out people."""
    brain: realism.Brain
    train: np.ndarray
    """(T, X, Y, Z)."""
    heldout: np.ndarray
    """(H, X, Y, Z)."""
    rows: Labels
    """Labels of training people."""
    others: Labels
    """Labels of held-out people."""
    asked: list[int]
    """Places of the held-out people whose labels are asked for."""
    seed: int

    @classmethod
    def of(cls, cohort: Cohort, config: Fidelity) -> Bench:
        """Part a cohort by subject, stratified by sex and diagnosis."""
        if config.image not in cohort.images:
            raise InputError(
                f"the cohort has {', '.join(cohort.images) or 'no images'} but no {config.image}; "
                "name one of them with --image"
            )
        there = (cohort.table[f"{config.image}_path"] != "").to_numpy()
        cohort = first_scans(cohort.where(there))
        split = cohort.split((1 - config.heldout, 0.0, config.heldout), seed=config.seed)
        train, heldout = split.train, split.test
        if min(len(train), len(heldout)) < FEWEST:
            raise InputError(
                f"{len(train)} people to fit and {len(heldout)} held out are too few; each part "
                f"needs {FEWEST}: add people, or change --heldout"
            )
        maps = cohort.volumes(config.image)
        place = {key: k for k, key in enumerate(cohort.subject_keys)}
        raw = [maps[[place[key] for key in part.subject_keys]] for part in (train, heldout)]
        brain = realism.Brain.of(raw[0], is_levelled=config.image not in QUANTITATIVE)
        order = np.random.default_rng(config.seed).permutation(len(heldout))
        asked = [int(order[k % len(order)]) for k in range(config.samples)]
        return cls(
            (train, heldout), brain, brain(raw[0]), brain(raw[1]), label_rows(train),
            label_rows(heldout), asked, config.seed,
        )  # fmt: skip

    def judge(self, fitted: Any, cost: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        """A generator's row, and its first volumes."""
        labels = [self.others[k] for k in self.asked]
        begun = time.perf_counter()
        made = self.brain(fitted.draw(labels, [1_000_000 + k for k in range(len(labels))]))
        pace = (time.perf_counter() - begun) / len(made)
        mask, seed = self.brain.mask, self.seed
        sets = [each[:, mask] for each in (made, self.train, self.heldout)]
        metrics = realism.realism(self.train, self.heldout, made, self.brain, seed=seed) | {
            "nearest": privacy.nearest(*sets, seed=seed),
            "patch copies": privacy.patch_copies(
                made, self.train, self.heldout, mask, seed=seed
            ),
            "membership": privacy.membership(*sets, seed=seed),
            **self._labels(made, labels),
        }  # fmt: skip
        if hasattr(fitted, "denoise"):
            metrics["membership by weights"] = self._membership_by_weights(fitted)
        return {
            "metrics": metrics,
            "errors": self._errors(fitted) if hasattr(fitted, "denoise") else {},
            "cost": {**cost, "seconds a volume": pace},
        }, made[:KEPT]

    def _labels(self, made: np.ndarray, asked: Labels) -> dict[str, Any]:
        """Are labels told in samples as in held-out people, by who has read training people?"""
        result = {}
        points = [realism.structure(v, self.brain.mask) for v in (self.train, made, self.heldout)]
        for name in LABELS:
            labels = [_values(name, rows) for rows in (self.rows, asked, self.others)]
            row = labels_told(points, labels, seed=self.seed)
            if row is not None:
                result[f"{name} told"] = row
        return result

    def _errors(self, denoiser: Any) -> dict[str, list[float]]:
        """By t the mean squared error of each held-out person, in half ranges."""
        return {
            f"{t:g}": self._error(denoiser, t, self.heldout, self.others).tolist() for t in TIMES
        }

    def _error(self, denoiser: Any, t: float, volumes: np.ndarray, rows: Labels) -> np.ndarray:
        """The mean squared error of denoising each volume, in half ranges."""
        scale = self.brain.top / 2
        sigma = scale * t / (1 - t)
        rng = np.random.default_rng([self.seed, int(100 * t)])
        noise = (sigma * rng.standard_normal(volumes.shape)).astype(np.float32)
        clean = denoiser.denoise(volumes, noise, sigma, rows)
        off = (clean - volumes)[:, self.brain.mask] / scale
        error: np.ndarray = (off**2).mean(axis=1)
        return error

    def _membership_by_weights(self, denoiser: Any) -> dict[str, Any]:
        """AUC of telling training from held-out people by how well their noise is taken off."""
        rng = np.random.default_rng(self.seed)
        chosen = rng.permutation(len(self.train))[: len(self.heldout)]
        member = self._error(
            denoiser, GIVEN_AWAY, self.train[chosen], [self.rows[k] for k in chosen]
        )
        other = self._error(denoiser, GIVEN_AWAY, self.heldout, self.others)
        wins = realism.compare(-member, -other)
        return realism.auc(wins, np.ones(wins.shape), seed=self.seed)


def _values(name: str, rows: Labels) -> list[str | None]:
    return [str(row[name]) if known(row.get(name)) else None for row in rows]


def _fitted(name: str, bench: Bench, config: Fidelity, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A fitted generator, and what it took."""
    place = folder / "generators" / "-".join(name.replace(",", "").split())
    begun = clock()
    if name in SAMPLERS:
        fitted: Any = _Sampler(name, bench, config, place)
    elif name in SIMPLE:
        fitted = SIMPLE[name]().fit(bench.train, bench.rows)
    else:
        training = replace(
            PRESETS[config.preset].training, batch_size=config.batch, seed=config.seed
        )
        fitted = VolumeUNet(
            training, place, seconds=60 * config.minutes, steps=config.steps
        ).fit(bench.train, bench.rows)  # fmt: skip
    return fitted, {"minutes": (clock() - begun) / 60}


class _Sampler:
    """The sampler with the settings of a row of :data:`SAMPLERS`, as a generator."""

    def __init__(self, name: str, bench: Bench, config: Fidelity, folder: Path) -> None:
        share, changes = SAMPLERS[name]
        self.config, self.bench = config, bench
        base = replace(PRESETS[config.preset], image=config.image, **changes)
        base = replace(base, training=replace(base.training, seed=config.seed))
        steps = self._steps(base, 60 * config.minutes * share, folder) if share else 0
        training = lasting(base.training, steps) if steps else replace(base.training, steps=0)
        TiledMDSampler.fit(bench.parts[0], replace(base, training=training), folder, progress=True)
        self.sampler = TiledMDSampler.from_pretrained(folder)
        self.sampler.check_disjoint(bench.parts[1])
        self.sampler.to("cuda" if torch.cuda.is_available() else "cpu")

    def draw(self, labels: Labels, seeds: Sequence[int]) -> np.ndarray:
        """See :class:`neuromix.experiments.quality.baselines.Generator`."""
        wanted = [inside_space(self.sampler.label_space, row) for row in labels]
        made = self.sampler(wanted, list(seeds), self.config.steps, self.config.guidance)
        return np.stack([subject[self.config.image].numpy()[0] for subject in made])

    @torch.no_grad()
    def denoise(
        self, volumes: np.ndarray, noise: np.ndarray, sigma: float, labels: Labels
    ) -> np.ndarray:
        """E[x | x + n] of volumes, whose outlines, if the sampler looks at them, are as noisy."""
        codec, denoiser = self.sampler.codec, self.sampler.transformer
        unit = HALF * (1.0 if codec.config["levelled"] else float(codec.brightness))
        t = sigma / (sigma + unit)
        wanted = [inside_space(self.sampler.label_space, row) for row in labels]
        codes = encode_rows(self.sampler.label_space, wanted)
        cleaned = []
        rng = np.random.default_rng(self.config.seed)
        for k in range(len(volumes)):
            clean, added = (
                torch.from_numpy(each[k : k + 1, None]).float() for each in (volumes, noise)
            )
            added = codec.stack(added) / unit
            if codec.config["outlined"]:
                edges = sigma / unit * rng.standard_normal(added.shape).astype(np.float32)
                stack = codec.encode(clean) + torch.cat([added, torch.from_numpy(edges)], 1)
            else:
                stack = codec.stack(clean) / unit - 1 + added
            moment = torch.tensor([1000 * t])
            code = {name: values[k : k + 1] for name, values in codes.items()}
            velocity = denoiser((1 - t) * stack, moment, code)
            clean = (1 - t) * stack - t * velocity
            values = (clean[:, : codec.room[0]] + 1) * unit
            kept = codec.inside[: codec.room[0]]
            if codec.config["outlined"]:
                kept = kept & (clean[:, codec.room[0] :] > 0)
            cleaned.append(codec.unstack(torch.where(kept, values, 0.0))[0, 0].numpy())
        return np.stack(cleaned)

    def _steps(self, config: TiledMDConfig, seconds: float, folder: Path) -> int:
        """As many as fit into the time with all that comes before them; decided once."""
        path = folder / "plan.json"
        if not path.is_file():
            begun, own = time.perf_counter(), clock()
            length = TiledMDSampler.estimate(self.bench.parts[0], config)
            length *= (clock() - own) / (time.perf_counter() - begun)  # of the processors
            folder.mkdir(parents=True, exist_ok=True)
            files.write_json(
                path, {"steps": max(2, round(config.training.steps * seconds / length))}
            )
        return int(json.loads(path.read_text())["steps"])


def plan(config: Fidelity) -> list[tuple[str, float]]:
    """What would be done, and about how many seconds of the clock for each."""
    cores = 1 if torch.cuda.is_available() else torch.get_num_threads()
    shares = {UNET: 1.0} | {name: share for name, (share, _) in SAMPLERS.items()}
    each = {name: 60 * config.minutes * share / cores for name, share in shares.items()}
    drawn = config.samples * config.steps * SECONDS["U-Net pass"]
    rows = [(name, each[name] + drawn if name in each else 1.0) for name in config.contenders]
    phantom = phantom_seconds("md", 4.0, config.subjects)
    return [("phantom", phantom), *rows] if config.data is None else rows


def _cohort(config: Fidelity, folder: Path) -> Cohort:
    """That which is named, or a phantom."""
    if config.data is not None:
        return load_cohort(config.data, (config.image,) if config.data.is_dir() else ())
    place = folder / "phantom"
    make_phantom(place, "md", subjects=config.subjects, seed=config.seed, progress=True)
    return Cohort.from_bids(place)
