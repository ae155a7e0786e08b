"""Settings of the experiments of this folder, which are also their options on the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS as RUN_SAMPLERS
from neuromix.augment.pds.config import ABLATIONS as PARTS
from neuromix.augment.pds.config import MODALITIES, ModalityConfig, ablated, shortened
from neuromix.augment.pds.config import PRESETS as COMPLETERS
from neuromix.augment.tiled.config import PRESETS as MD_SAMPLERS

TARGETS = ("sex", "dementia", "diagnosis")
MEAN, COPIES, GAUSSIAN, UNET = "mean + noise", "training copies", "PCA Gaussian", "MONAI U-Net"
BASELINES = (MEAN, COPIES, GAUSSIAN, UNET)
"""Of fidelity; a test holds what makes them to these names."""
PRIOR = "prior alone"
"""The sampler before the training of its network, whom denoisers are compared with."""
SAMPLERS: dict[str, tuple[float, dict[str, Any]]] = {
    PRIOR: (0.0, {}),
    "prior + network": (1.0, {}),
    "network alone": (1.0, {"prior": "none"}),
    "all convolutions": (1.0, {"kind": "conv"}),
    "plain DiT": (1.0, {"prior": "none", "kind": "transformer"}),
    "a tile a slice": (1.0, {"depth": 1}),
    "half trained": (0.25, {}),
}
"""Settings of the sampler that are compared: share of the time, and what differs from the preset.
"""
CONTENDERS = (*SAMPLERS, *BASELINES)
FEWEST = 12
"""Volumes that a set needs to be compared."""
UNITS = ("subject", "run")
PREDICTORS = (
    "mean volume", "nearest subject", "voxelwise regression", "PCA regression", "regression U-Net",
    "diffusion U-Net",
)  # fmt: skip
"""Baselines of completion; a test holds what makes them to these names."""
FEW = 4
"""Samples that suffice to compare an own source with a shuffled one, and one number of steps with
another."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "factorised time": {"time": "factorised"},
    "stacked frames": {"time": "stack"},
    "all CNN": {"stages": ("cnn", "cnn")},
    "all transformer": {"stages": ("transformer", "transformer")},
    "AdaLN only": {"cross_attention": False},
}
"""Changes to the published network, which has no prior."""


LEAST_SUBJECTS = 84


@dataclass(frozen=True)
class Calibration:
    """Learning curves of a compact CNN on the md phantom: is it as hard as real data?"""

    out: tyro.conf.Positional[Path]
    """Run folder."""
    targets: tuple[str, ...] = TARGETS
    """Labels to tell."""
    sizes: tuple[int, ...] = (100, 400, 2000)
    """Training subjects that have the label."""
    seeds: int = 3
    """Draws of the training subjects and of the network, for each size."""
    subjects: int = 3000
    """Size of the phantom; a seventh of it is the test set."""
    steps: int = 500
    """Optimiser steps of each fit."""

    def __post_init__(self) -> None:
        unknown = set(self.targets) - set(TARGETS)
        if unknown or not self.targets:
            raise InputError(f"targets {sorted(unknown)} came; allowed are {', '.join(TARGETS)}")
        if not self.sizes or min(self.seeds, self.steps, *self.sizes) < 1:
            raise InputError("sizes, seeds and steps must each be 1 or more")
        if self.subjects < LEAST_SUBJECTS:
            raise InputError(
                f"{self.subjects} subjects came, of whom a seventh judges; ask for "
                f"{LEAST_SUBJECTS} or more, that several of each class do"
            )


@dataclass(frozen=True)
class Fidelity:
    """Generators side by side at equal compute: are their samples told from people nobody saw?"""

    out: tyro.conf.Positional[Path]
    """Run folder."""
    data: Path | None = None
    """BIDS folder or table of any map in one space. Without it, an md phantom is made."""
    image: str = "md"
    """Which map: t1, fa, or what the table calls it."""
    minutes: float = 30.0
    """Processor time of each training."""
    preset: str = "tiny"
    """Of the sampler."""
    contenders: tuple[str, ...] = CONTENDERS
    """Who is compared."""
    heldout: float = 0.25
    """Share of the people whom samples are compared with."""
    samples: int = 60
    """Of each generator, for the labels of held-out people."""
    steps: int = 20
    """Of sampling."""
    guidance: float = 1.0
    """Of sampling."""
    batch: int = 4
    """Volumes in a step of MONAI's U-Net."""
    subjects: int = 400
    """Size of the phantom."""
    seed: int = 0
    """Decides the phantom, the parts, the first weights and the noise."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.contenders) - set(CONTENDERS))
        if unknown or not self.contenders:
            came = unknown[0] if unknown else "none"
            raise InputError(f"contender {came!r} came; allowed are {', '.join(CONTENDERS)}")
        if self.preset not in MD_SAMPLERS:
            raise InputError(f"preset {self.preset!r} came; allowed are {', '.join(MD_SAMPLERS)}")
        if self.data is None and self.image != "md":
            raise InputError(f"--image {self.image} came without --data; a phantom has md alone")
        if not (0 < self.heldout < 1 and self.minutes > 0):
            raise InputError(
                f"heldout {self.heldout:g} and minutes {self.minutes:g} came; give a share of the "
                "people between 0 and 1, and more than 0 minutes"
            )
        if self.samples < FEWEST or min(self.steps, self.batch) < 1:
            raise InputError(
                f"samples {self.samples}, steps {self.steps} and batch {self.batch} came; give "
                f"{FEWEST}, 1 and 1 or more"
            )


@dataclass(frozen=True)
class Ranking:
    """Two runs of fidelity: do both rank their common generators alike (phantom and people)?"""

    one: tyro.conf.Positional[Path]
    """Run folder of fidelity."""
    other: tyro.conf.Positional[Path]
    """Another, on other data."""


@dataclass(frozen=True)
class Neuro:
    """Real task fMRI against itself: do halves agree, and are trivial generators told from them?"""

    data: tyro.conf.Positional[Path]
    """Prepared cohort with bold and events: BIDS folder or table."""
    by: str = "subject"
    """Halves of subjects, or of runs, each taken as a subject (where there are few subjects)."""
    noise_model: Literal["ols", "ar1"] = "ols"
    """Of the GLM: ols, or ar1, which takes longer."""
    smoothing: float = 8.0
    """Of the effect maps, full width at half maximum in mm."""
    splits: int = 100
    """Into halves."""
    seed: int = 0
    """Decides the splits, and who is held out."""

    def __post_init__(self) -> None:
        if self.by not in UNITS:
            raise InputError(f"by {self.by!r} came; allowed are {', '.join(UNITS)}")
        if self.splits < 1:
            raise InputError(f"{self.splits} splits can't be; give 1 or more")


@dataclass(frozen=True)
class FMRI:
    """The task fMRI sampler beside trivial generators and MONAI's U-Net: is it as good as real?"""

    data: Path | None = None
    """BIDS folder or table with bold and events. Without it, a phantom is made."""
    preset: str = "tiny"
    """Whose sizes the networks have."""
    tasks: tuple[str, ...] = ("motor", "language", "wm")
    """Whose runs are used."""
    directions: tuple[str, ...] = ()
    """Phase encodings that are used; all where none is named."""
    train: int = 40
    """Training subjects."""
    validation: int = 8
    """Subjects that choose the best step."""
    heldout: int = 100
    """Subjects that judge; with fewer than about 100 the ceiling is low."""
    drawn: int = 12
    """Held-out subjects whose runs networks are asked for, which is slow."""
    seconds: float = 480.0
    """Training of each of the main networks; 0 leaves all networks out."""
    codec_seconds: float = 240.0
    """Training of the codec that they share."""
    cell_seconds: float = 90.0
    """Training of each network of scaling and ablation."""
    time: Literal["factorised", "stack"] = "factorised"
    """How networks of latents see frames: attention over space and over time in turn (factorised),
    or as channels, as published (stack)."""
    people: tuple[int, ...] = (5, 10, 20, 40)
    """Numbers of training subjects of the closed form. Give none to leave it out."""
    widths: tuple[int, ...] = (16, 32, 48, 64)
    """Of networks, multiples of 16."""
    ablations: tuple[str, ...] = tuple(ABLATIONS)
    """Changes to the network."""
    steps: tuple[int, ...] = (5, 10, 20, 50)
    """Numbers of steps to compare."""
    usual: int = 10
    """Steps of all other rows."""
    splits: int = 100
    """Into halves."""
    spacing: float = 6.0
    """Voxel side of the phantom in mm."""
    seed: int = 0
    """Decides the phantom, the parts, the first weights and the noise."""

    def __post_init__(self) -> None:
        from neuromix.augment.metrics.neuro import FEWEST

        if self.preset not in RUN_SAMPLERS:
            raise InputError(f"preset {self.preset!r} came; allowed are {', '.join(RUN_SAMPLERS)}")
        unknown = sorted(set(self.ablations) - set(ABLATIONS))
        if unknown:
            raise InputError(f"ablation {unknown[0]!r} came; allowed are {', '.join(ABLATIONS)}")
        if not FEWEST <= self.drawn <= self.heldout:
            raise InputError(
                f"drawn {self.drawn} came with heldout {self.heldout}; needed are {FEWEST} or more "
                "of each, and no more drawn than held out"
            )
        if self.train < 2 or self.validation < 1 or min(self.people, default=2) < 2:
            raise InputError(
                f"train {self.train}, validation {self.validation} and people {self.people} came; "
                "needed are 2, 1 and 2 or more"
            )
        if max(self.people, default=0) > self.train:
            raise InputError(f"people {max(self.people)} came, of {self.train} to train on")
        odd = [width for width in self.widths if width < 16 or width % 16]
        if odd:
            raise InputError(f"width {odd[0]} came; give multiples of 16")
        if min((self.usual, self.splits, *self.steps)) < 1:
            raise InputError("usual, splits and steps must each be 1 or more")


@dataclass(frozen=True)
class Completion:
    """The modality completer beside its baselines, on held-out subjects, each image in turn."""

    data: Path | None = None
    """BIDS folder or table with fMRI and dMRI segments, or maps. Without it, a phantom is made."""
    images: tuple[str, ...] = MODALITIES
    """Those that are made from one another."""
    preset: str = "tiny"
    """Of the completer."""
    train: int = 160
    """Training subjects."""
    validation: int = 20
    """Subjects that choose the best step."""
    heldout: int = 40
    """Subjects whose images are predicted."""
    samples: int = 16
    """How many are averaged."""
    spacing: float = 6.0
    """Voxel side of the phantom in mm."""
    arms: tuple[str, ...] = ("full",)
    """full, source-blind, and parts to leave out: network, diagnosis; of the preset paper pattern,
    refinement and microstructure, too."""
    baselines: tuple[str, ...] = PREDICTORS
    """What stands beside it."""
    seconds: float | None = None
    """Processor time of each trained baseline for each image. Without it, that of the first arm,
    which learns all, parted evenly."""
    steps: int | None = None
    """Of the network's training, if not those of the preset."""
    refining_steps: int | None = None
    """Of TR's, which the preset paper has."""
    seed: int = 0
    """Decides the phantom, the parts, the first weights and the noise."""

    def __post_init__(self) -> None:
        allowed = {
            "arms": ("full", "source-blind", *PARTS),
            "baselines": PREDICTORS,
            "preset": tuple(COMPLETERS),
        }
        given = {"arms": self.arms, "baselines": self.baselines, "preset": (self.preset,)}
        for option, names in given.items():
            for name in names:
                if name not in allowed[option]:
                    raise InputError(
                        f"{option} {name!r} is not known; allowed are {', '.join(allowed[option])}"
                    )
        if self.data is None and self.images != MODALITIES:
            raise InputError(
                f"images {', '.join(self.images)} came without data; the phantom has "
                f"{' and '.join(MODALITIES)}"
            )
        if not self.arms:
            raise InputError("no arm came; name at least one, such as full")
        if self.samples < FEW or self.heldout < 2:
            raise InputError(
                f"{self.samples} samples of {self.heldout} held-out subjects came; intervals need "
                f"{FEW} samples or more, and 2 subjects or more"
            )
        for arm in self.arms:
            self.config(arm)

    def config(self, arm: str) -> ModalityConfig:
        """The settings of an arm's completer."""
        config = shortened(COMPLETERS[self.preset], self.steps, self.refining_steps)
        config = replace(config, training=replace(config.training, seed=self.seed))
        config = replace(config, images=self.images)
        if arm == "full":
            return config
        if arm == "source-blind":
            return replace(config, source_blind=True)
        return ablated(config, [arm])
