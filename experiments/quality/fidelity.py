"""The tiled MD sampler beside its baselines: do its samples look, vary and read like real subjects?

A cohort is parted into training, validation, held-out and judge subjects. Every generator is fitted
to the training subjects and asked for the labels of held-out ones, so that no difference is one of
labels; what it makes is compared with the held-out subjects by
:func:`neuromix.augment.metrics.fidelity.fidelity_table`. Classifiers and features come from the
judge subjects alone. Whatever is finished is kept in the run folder and not made again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from neuromix.augment import files
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.diffusion.pipeline import is_sampler
from neuromix.augment.errors import InputError
from neuromix.augment.phantom import make_phantom
from neuromix.augment.tiled.config import PRESETS, TiledMDConfig
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.classifiers.base import VolumeClassifier
from neuromix.experiments.frame.cohorts import contents, first_scans, load_cohort
from neuromix.experiments.frame.pace import (
    SECONDS,
    classifier_pace,
    few_subjects,
    map_sampler_pace,
    phantom_seconds,
)
from neuromix.experiments.frame.pages import rich_table
from neuromix.experiments.frame.run import Run, show_plan
from neuromix.experiments.quality import fidelity_report
from neuromix.experiments.quality.baselines import (
    Copies,
    Generator,
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
    SOLID,
    START,
    UNET,
    Fidelity,
)
from neuromix.experiments.quality.fidelity_judges import TARGETS, Bench
from neuromix.experiments.quality.monai_unet import VolumeUNet
from neuromix.experiments.quality.training_time import steps_done, training_cost

NAME = "fidelity"
SAMPLER = "tiled DiT"
SIMPLE: dict[str, Callable[[], Generator]] = {
    MEAN: MeanNoise,
    COPIES: Copies,
    GAUSSIAN: PCAGaussian,
}
VARIANTS: dict[str, dict[str, Any]] = {START: {}, SOLID: {"cell": (4, 4)}}
"""Other networks of the same code, by what differs in :class:`TiledMDConfig`; but for the first,
each is trained as long as the sampler."""

SWEPT = 100
"""Samples of each number of steps or guidance scale."""
KEPT = 6
"""Volumes that are kept of each generator, for the pictures."""
USUAL = 20
"""Steps of all rows but the sweep."""
FREE = ("sampling_seeds", "steps", "guidances", "baselines")
"""Settings that no row depends on."""

Draw = Callable[[Labels, Sequence[int]], np.ndarray]


def run(config: Fidelity, *, dry_run: bool = False) -> dict[str, Any]:
    """Fit, sample and compare what is not done yet; write ``results.json`` and ``report.html``."""
    console = Console()
    console.print(asdict(config))
    if dry_run:
        show_plan(plan(config), console)
        return {}
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    content = contents(config, ("md",))
    with Run.open(config.out, NAME, settings, console, content, FREE) as folder:
        cohort = _cohort(config)
        if cohort is None:
            place = folder.folder / "phantom"
            make_phantom(place, "md", subjects=config.people, seed=config.seed, progress=True)
            cohort = Cohort.from_bids(place)
        bench = Bench(divide(cohort, config), config.judge_steps, config.seed)
        generators = _Generators(config, bench, folder)
        rows = {
            f"{SAMPLER}, sampling seed {k + 1}": generators.row(SAMPLER, config.synthetic, k)
            for k in range(config.sampling_seeds)
        }
        for name in config.baselines:
            count = config.unet_samples if name == UNET else config.synthetic
            rows[name] = generators.row(name, count, 0)
        sweeps = {
            "steps": {str(n): generators.swept(n, config.guidance) for n in sorted(config.steps)},
            "guidance": {f"{g:g}": generators.swept(USUAL, g) for g in sorted(config.guidances)},
        }
        results = fidelity_report.summarise(
            rows,
            sweeps,
            sampler=SAMPLER,
            about=_about(config, cohort, bench),
            sizes={name: len(part) for name, part in bench.parts.items()},
        )
        results |= folder.about
        pictures = {name: folder.array({"row": name}) for name in rows}
        page = fidelity_report.page(results, pictures, bench.volumes("heldout"), generators.asked)
        folder.finish(results, page)
        console.print(rich_table(fidelity_report.overview(results)))
    return results


def divide(cohort: Cohort, config: Fidelity) -> dict[str, Cohort]:
    """Part a cohort of any size by subject, in the proportions of the configuration."""
    sampler = config.train + config.validation
    first = cohort.split(
        (sampler / config.people, config.heldout / config.people, config.judges / config.people),
        seed=config.seed,
    )
    second = first.train.split(
        (config.train / sampler, config.validation / sampler, 0.0), seed=config.seed
    )
    parts = {
        "train": second.train, "validation": second.val, "heldout": first_scans(first.val),
        "judges": first.test,
    }  # fmt: skip
    small = {name: len(part) for name, part in parts.items() if len(part) < FEWEST}
    small.pop("validation", None)
    if small:
        raise InputError(
            f"{len(cohort)} scans leave {small} for these parts, and each needs {FEWEST}; add "
            "subjects, or ask for other proportions"
        )
    return parts


class _Generators:
    """Fits each generator once, when it is first needed; a row is a cell of the run."""

    def __init__(self, config: Fidelity, bench: Bench, folder: Run) -> None:
        self.config, self.bench, self.folder = config, bench, folder
        heldout = bench.rows("heldout")
        order = np.random.default_rng(config.seed).permutation(len(heldout))
        most = max(config.synthetic, config.unet_samples, SWEPT)
        self.asked = [int(order[k % len(order)]) for k in range(most)]
        """Places of the held-out subjects whose labels are asked for, in this order."""
        self.labels = [heldout[k] for k in self.asked]
        self._samplers: dict[str, tuple[TiledMDSampler, dict[str, Any]]] = {}

    def row(self, name: str, count: int, turn: int) -> dict[str, Any]:
        """A generator's table of fidelity, and what it cost."""
        title = f"{name}, sampling seed {turn + 1}" if name == SAMPLER else name
        return self._kept(title, lambda: self._draw(name), count, turn)

    def swept(self, steps: int, guidance: float) -> dict[str, Any]:
        """The sampler at other numbers of steps and guidance scales, from equal noise."""
        title = f"{SAMPLER}, {steps} steps, guidance {guidance:g}"
        count = min(SWEPT, self.config.synthetic)
        return self._kept(
            title, lambda: self._sampler(SAMPLER, steps, guidance), count, 0, quick=True
        )

    def _kept(
        self,
        title: str,
        make: Callable[[], tuple[Draw, dict[str, Any]]],
        count: int,
        turn: int,
        quick: bool = False,
    ) -> dict[str, Any]:
        def compared() -> dict[str, Any]:
            self.folder.log(f"{title}: {count} volumes")
            draw, cost = make()
            begun = time.perf_counter()
            # Numbers of another sampling seed lie beyond those of the one before.
            seeds = [(1 + turn) * 1_000_000 + k for k in range(count)]
            volumes = draw(self.labels[:count], seeds)
            cost = cost | {"seconds a volume": (time.perf_counter() - begun) / count}
            self.folder.keep_array({"row": title}, volumes[:KEPT])
            return {"cost": cost, **self.bench.compare(volumes, self.labels[:count], quick=quick)}

        return self.folder.cell({"row": title}, compared)

    def _draw(self, name: str) -> tuple[Draw, dict[str, Any]]:
        """A fitted generator, and what it took to fit it."""
        if name == SAMPLER or name in VARIANTS:
            return self._sampler(name, USUAL, self.config.guidance)
        train = self.bench.volumes("train"), self.bench.rows("train")
        if name in SIMPLE:
            begun = time.perf_counter()
            simple = SIMPLE[name]().fit(*train)
            return simple.draw, {"training seconds": time.perf_counter() - begun}
        cost = self._fitted(SAMPLER)[1]
        preset = PRESETS[self.config.preset]
        folder = self._place(name)
        unet = VolumeUNet(
            replace(preset.training, batch_size=self.config.unet_batch, seed=self.config.seed),
            folder,
            weights=cost["parameters"],
            seconds=cost["training seconds"],
            validation=(self.bench.volumes("validation"), self.bench.rows("validation")),
            steps=USUAL,
        ).fit(*train)
        return unet.draw, unet.cost

    def _sampler(self, name: str, steps: int, guidance: float) -> tuple[Draw, dict[str, Any]]:
        sampler, cost = self._fitted(name)

        def draw(labels: Labels, seeds: Sequence[int]) -> np.ndarray:
            wanted = [inside_space(sampler.label_space, row) for row in labels]
            made = sampler(wanted, list(seeds), steps, guidance)
            return np.stack([subject["md"].numpy()[0] for subject in made])

        return draw, cost

    def _fitted(self, name: str) -> tuple[TiledMDSampler, dict[str, Any]]:
        """A trained sampler, on the device, and what its training took."""
        if name not in self._samplers:
            folder = self._place(name)
            work = folder / "work"
            if is_sampler(folder) and (work / "cost.json").is_file():
                cost = json.loads((work / "cost.json").read_text())
            else:
                done = steps_done(work)
                parts = self.bench.parts
                if name == START:  # its codec and latents are the sampler's
                    self._fitted(SAMPLER)
                    _take(self._place(SAMPLER) / "work", work)
                begun = time.perf_counter()
                fitted, trained = TiledMDSampler.fit(
                    parts["train"],
                    self._timed(name, folder),
                    folder,
                    validation=parts["validation"],
                    progress=True,
                )
                preparing = time.perf_counter() - begun - trained.seconds
                cost = training_cost(work, fitted.transformer, trained, done, preparing)
            sampler = TiledMDSampler.from_pretrained(folder)
            sampler.to("cuda" if torch.cuda.is_available() else "cpu")
            for part in ("heldout", "judges"):
                sampler.check_disjoint(self.bench.parts[part])
            self._samplers[name] = sampler, cost
        return self._samplers[name]

    def _place(self, name: str) -> Path:
        return self.folder.folder / "generators" / _slug(name)

    def _timed(self, name: str, folder: Path) -> TiledMDConfig:
        """The configuration of a network, a variant's with as many steps as the time allows."""
        base = PRESETS[self.config.preset]
        base = replace(base, training=replace(base.training, seed=self.config.seed))
        if name == SAMPLER:
            return base
        if name == START:  # the output of a fresh network is zero, and stays so
            return replace(base, training=replace(base.training, steps=1, learning_rate=0.0))
        config = replace(base, **VARIANTS[name])
        plan = folder / "plan.json"
        if not plan.is_file():
            train = self.bench.parts["train"]
            pace = [TiledMDSampler.estimate(train, each) for each in (base, config)]
            steps = max(1, round(base.training.steps * pace[0] / pace[1]))
            files.write_json(plan, {"steps": steps, "seconds_of_equal_steps": pace})
        steps = int(json.loads(plan.read_text())["steps"])
        return replace(config, training=replace(config.training, steps=steps))


def _take(source: Path, work: Path) -> None:
    """Copy what a fit makes before its training."""
    if not (work / "settings.json").is_file():
        shutil.copytree(source / "codec", work / "codec", dirs_exist_ok=True)
        for name in ("train.npy", "validation.npy", "settings.json"):
            shutil.copy(source / name, work / name)


def plan(config: Fidelity) -> list[tuple[str, float]]:
    """What would be done, and seconds for each; steps are measured on this machine."""
    with few_subjects("md", _cohort(config), 4.0) as few:
        training, a_pass = map_sampler_pace(few, PRESETS[config.preset])
        step, _ = classifier_pace(VolumeClassifier(), few.subjects(), ("F", "M"))
    compared = SECONDS["volume compared"]
    row = compared * (config.heldout + config.synthetic)
    made = config.synthetic * USUAL * a_pass
    passes = config.unet_samples * USUAL * SECONDS["U-Net pass"]
    seconds = dict.fromkeys(SIMPLE, row) | dict.fromkeys(VARIANTS, training + made + row)
    seconds[UNET] = training + passes + compared * (config.heldout + config.unet_samples)
    swept = 3 * SWEPT * compared
    return [
        ("phantom", phantom_seconds("md", 4.0, config.people) * (config.data is None)),
        ("judges", len(TARGETS) * config.judge_steps * step),
        (f"{SAMPLER}: training", training),
        (f"{SAMPLER}: {config.sampling_seeds} sampling seeds",
         config.sampling_seeds * (made + row)),
        ("steps sweep", sum(config.steps) * SWEPT * a_pass + len(config.steps) * swept),
        ("guidance sweep", len(config.guidances) * (2 * USUAL * SWEPT * a_pass + swept)),
        *((name, seconds[name]) for name in config.baselines),
    ]  # fmt: skip


def _cohort(config: Fidelity) -> Cohort | None:
    """That which is named; else there will be a phantom."""
    if config.data is None:
        return None
    return load_cohort(config.data, ("md",) if config.data.is_dir() else ())


def _about(config: Fidelity, cohort: Cohort, bench: Bench) -> str:
    """The cohort and the fit in words."""
    spacing = bench.grid.spacing[0]
    name = f"phantom md, site B, seed {config.seed}" if config.data is None else cohort.name
    return (
        f"{name}, {spacing:g} mm, {len(bench.parts['train'])} training scans, preset "
        f"{config.preset}, one training seed, sampling seeds: {config.sampling_seeds}"
    )


def _slug(title: str) -> str:
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in title).lower().split())
