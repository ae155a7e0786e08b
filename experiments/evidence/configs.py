"""Settings of the experiments ``transfer``, ``settings``, ``decoding`` and ``hybrid``, and presets.

Nothing here needs torch, so that the command reads its options from these classes at once. What a
sampler's or completer's own settings refuse is refused before anything is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import WindowShape
from neuromix.augment.pds.config import MODALITIES
from neuromix.experiments.evidence.arms import ARMS, DECODERS, FILLINGS, Arm, check_arms

if TYPE_CHECKING:
    from neuromix.augment.fmri.responses import Window

Preset = Literal["demo", "tiny", "base", "paper"]
SETTINGS = {
    "few-labels": "dementia",
    "imbalance": "dementia",
    "confounded": "dementia",
    "new-site": "sex",
}
"""Settings and what is told apart in each."""
UNITS: dict[str, Literal["percent", "signal"]] = {"condition": "percent", "sex": "signal"}
"""Targets, and the unit that they are looked at in: change of signal, or anatomy as well."""
SEX, DEMENTIA = "sex-a", "dementia-b"
"""Settings of the groups of ``transfer``: sex on site A, dementia on site B."""
CHOOSING = 0.25
"""Share of few labels that choose checkpoint and step, and train nothing."""


def check_names(setting: str, names: tuple[str, ...], allowed: Any) -> None:
    """Refuse none, and names that are not known."""
    unknown = sorted(set(names) - set(allowed))
    if unknown or not names:
        raise InputError(
            f"{setting} {', '.join(unknown) or 'none'} came; allowed are {', '.join(allowed)}"
        )


def check_sizes(setting: str, sizes: tuple[int, ...], fewest: int) -> None:
    """Refuse sizes of training sets that are too small, or come twice."""
    if not sizes or min(sizes) < fewest or len(set(sizes)) < len(sizes):
        raise InputError(
            f"{setting} {', '.join(map(str, sizes)) or 'none'} came; each must be {fewest} or "
            "more and once"
        )


def check_sampler(preset: str) -> None:
    """Refuse a preset that no sampler has."""
    check_names("preset", (preset,), get_args(Preset))


@dataclass(frozen=True)
class Comparing:
    """What the settings of all experiments with arms have in common."""

    known: ClassVar[dict[str, Arm]]
    """By name, the arms that there are."""

    arms: tuple[str, ...]
    """Ways to make a training set; the first one, which all are compared with, is needed."""
    seeds: int = 5
    """Of the classifiers, in each arm."""
    validation: int = 60
    """Subjects of each site that choose checkpoints, and the sampler's best step."""
    test: int = 300
    """Phantom subjects of each site that judge. Of own data, all that are left."""
    steps: int = 300
    """Optimiser steps of a classifier, in every arm."""
    spacing: float = 4.0
    """Voxel side of a phantom in mm."""
    seed: int = 0
    """Decides the phantoms, the parts, the sampler and who lacks what."""

    def __post_init__(self) -> None:
        check_arms(self.arms, self.known)
        if min(self.seeds, self.steps, self.validation, self.test) < 1:
            raise InputError("seeds, steps, validation and test must each be 1 or more")


@dataclass(frozen=True)
class Mixing(Comparing):
    """What the settings of experiments that add synthetic maps to real ones have in common."""

    known = ARMS
    labels: ClassVar[tuple[str, ...]] = ("sex", "diagnosis", "age")
    """That the sampler is conditioned on; those that no subject has are left out."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Ways to make a training set; real, which all are compared with, is needed."""
    image: str = "md"
    """The map that is looked at, such as t1 or fa; a phantom has md."""
    data_a: Path | None = None
    """BIDS folder or table of site A, with the map and sex. Default: a phantom of a community."""
    data_b: Path | None = None
    """BIDS folder or table of site B, with the map and diagnosis. Default: a phantom of a
    clinic."""
    ceiling: int = 2000
    """Fresh phantom subjects that the ceiling is trained on; 0 leaves it out."""
    sampler: Preset = "tiny"
    """Preset of the sampler."""
    sampler_steps: int | None = None
    """Training steps of the sampler, if not those of its preset."""
    guidance: float = 1.0
    """Above 1, labels show more in samples than in nature."""
    endpoint: Path | None = None
    """JSON file of the one comparison that is stated, and committed, before the run: experiment,
    setting, metric, arm, baseline, size and seeds (of the phantom)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sampler(self.sampler)
        if self.ceiling < 0:
            raise InputError(f"ceiling {self.ceiling} came; give 0 or more")
        if self.sampler_steps is not None and self.sampler_steps < 1:
            raise InputError(f"{self.sampler_steps} sampler steps came; give 1 or more")


@dataclass(frozen=True)
class Transfer(Mixing):
    """Does synthetic data help to learn sex at site A, and from it to find dementia at site B?"""

    sizes: tuple[int, ...] = (40, 160)
    """Real training subjects of site A."""
    sizes_b: tuple[int, ...] = (20, 80)
    """Real training subjects of site B."""
    steps_b: int = 100
    """Optimiser steps at site B."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes("sizes", self.sizes, 4)
        check_sizes("sizes_b", self.sizes_b, 4)
        if self.steps_b < 1:
            raise InputError(f"steps-b {self.steps_b} came; give 1 or more")

    @property
    def fresh(self) -> int:
        """Subjects of the ceiling, which only a phantom has."""
        return self.ceiling if self.data_a is None else 0

    @property
    def keys(self) -> list[dict[str, Any]]:
        """Of all groups; the verdict speaks of the first: fewest subjects of A, most of B."""
        transferred = [
            {"setting": DEMENTIA, "size": size, "size_b": size_b}
            for size in sorted(self.sizes)
            for size_b in sorted(self.sizes_b, reverse=True)
        ]
        return [*transferred, *({"setting": SEX, "size": size} for size in self.sizes)]


@dataclass(frozen=True)
class Settings(Mixing):
    """Does synthetic data help with few labels, imbalance, confounding, at a new site?"""

    labels = ("sex", "diagnosis", "age", "site")

    ceiling: int = 1000
    """Fresh phantom subjects that the ceiling is trained on; 0 leaves it out."""
    steps: int = 250
    """Optimiser steps of a classifier, in every arm."""
    settings: tuple[str, ...] = tuple(SETTINGS)
    """Some of: few-labels, imbalance, confounded, new-site."""
    few: int = 40
    """Labelled subjects in few-labels, a quarter of which choose checkpoint and step, and train
    nothing."""
    many: int = 400
    """Pool of site B, which the sampler of few-labels is trained on."""
    size: int = 80
    """Training subjects in confounded, the larger class in imbalance, and subjects of site A in
    new-site."""
    new: int = 20
    """Subjects of site B in new-site."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("settings", self.settings, SETTINGS)
        is_small = self.few < 8 or self.new < 4
        if is_small or self.many < 2 * max(self.few, self.new, self.size):
            raise InputError(
                f"few {self.few}, new {self.new}, size {self.size} and many {self.many} came; few "
                "must be 8 or more, new 4 or more, and many at least twice few, new and size: it "
                "is the pool that they are taken from"
            )
        if self.size < 20:
            raise InputError(f"size {self.size} came; 20 or more leave two subjects in ten to one")

    @property
    def fresh(self) -> int:
        """Subjects of the ceiling, which only a phantom has."""
        return self.ceiling if self.data_b is None else 0

    @property
    def real(self) -> dict[str, int]:
        """Real training subjects of each setting."""
        return {
            "few-labels": self.few - round(CHOOSING * self.few),
            "imbalance": self.size + self.size // 10,
            "confounded": self.size,
            "new-site": self.size + self.new,
        }

    @property
    def labelled(self) -> dict[str, int]:
        """Labelled subjects of each setting, those that choose checkpoint and step among them."""
        counts = {name: count + self.validation for name, count in self.real.items()}
        return counts | {"few-labels": self.few}

    @property
    def keys(self) -> list[dict[str, Any]]:
        """Of all groups; the verdict speaks of the first."""
        return [{"setting": name, "size": self.real[name]} for name in self.settings]


@dataclass(frozen=True)
class Decoding(Comparing):
    """Do synthetic task fMRI runs help a decoder of condition, or of sex, that few people train?"""

    known = DECODERS

    arms: tuple[str, ...] = tuple(DECODERS)
    """Ways to train the decoder; real, which all are compared with, is needed."""
    validation: int = 20
    """People who choose checkpoints."""
    test: int = 100
    """Phantom people who judge. Of own data, all that are left."""
    spacing: float = 6.0
    """Voxel side of the phantom in mm."""
    data: Path | None = None
    """BIDS folder or table with bold and events. Default: a phantom is made."""
    targets: tuple[str, ...] = tuple(UNITS)
    """What is told apart: condition, sex."""
    tasks: tuple[str, ...] = ("motor", "language")
    """Whose runs are used."""
    directions: tuple[str, ...] = ()
    """Phase encodings that are used. Default: all."""
    sizes: tuple[int, ...] = (10, 20, 40)
    """People that decoder and sampler are trained on."""
    ceiling: int | None = None
    """Other people that the ceiling is trained on; 0 leaves it out. Default: as many as judge, of
    own data nobody."""
    ratio: int = 4
    """Responses of synthetic runs for each real one."""
    frames: int = 4
    """Of a response."""
    step: float = 6.0
    """Seconds of a frame."""
    shrink: int = 2
    """Voxels along a side of the cubes that a decoder sees as one."""
    sampler: Preset = "tiny"
    """Preset of the sampler. Tiny is the closed form."""
    sampling_steps: int = 10
    """Of a sampler with a network."""
    endpoint: Path | None = None
    """JSON file of the one comparison that is stated, and committed, before the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("targets", self.targets, UNITS)
        check_sizes("sizes", self.sizes, 2)
        check_sampler(self.sampler)
        if min(self.ratio, self.sampling_steps) < 1 or self.test < 2 or self.fresh < 0:
            raise InputError(
                "ratio and sampling-steps must each be 1 or more, test 2 or more and ceiling 0 or "
                "more"
            )
        WindowShape(self.frames, self.step, shrink=self.shrink)

    def window(self, target: str) -> Window:
        """What is looked at of a response."""
        from neuromix.augment.fmri.responses import Window

        return Window(self.frames, self.step, UNITS[target], self.shrink)

    @property
    def keys(self) -> list[dict[str, Any]]:
        """Of all groups: the fewest people of the first target first."""
        sizes = sorted(self.sizes)
        return [{"setting": name, "size": size} for name in self.targets for size in sizes]

    @property
    def fresh(self) -> int:
        """People of the ceiling: by default as many as judge, and of one's own data nobody."""
        if self.ceiling is None:
            return self.test if self.data is None else 0
        return self.ceiling


@dataclass(frozen=True)
class Hybrid(Comparing):
    """NC, MCI or AD where training or test subjects lack a modality: drop them, or fill it in?"""

    known = FILLINGS

    arms: tuple[str, ...] = tuple(FILLINGS)
    """Ways to train; drop, which all are compared with, is needed. Where mask and complete are
    there, test subjects that lack the image are judged, too."""
    validation: int = 40
    """Subjects that choose the completer's best step, and checkpoints."""
    test: int = 200
    """Phantom subjects that judge. Of own data, all that are left."""
    spacing: float = 6.0
    """Voxel side of the phantom in mm."""
    data: Path | None = None
    """BIDS folder or table with fmri, dmri and diagnosis. Default: a phantom is made."""
    lacks: Literal["fmri", "dmri"] = "dmri"
    """The modality that subjects lack."""
    missing: tuple[int, ...] = (0, 30, 50, 70)
    """Shares of the training subjects that lack it, in percent."""
    train: int = 160
    """Training subjects."""
    completer: Preset = "tiny"
    """Preset of the completer."""
    completer_steps: int | None = None
    """Training steps of its network, if not those of the preset."""
    refining_steps: int | None = None
    """Training steps of TR, if not those of the preset."""
    samples: int = 4
    """Of each test subject that lacks the modality."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("lacks", (self.lacks,), MODALITIES)
        check_sampler(self.completer)
        odd = [rate for rate in self.missing if not 0 <= rate <= 90]
        if odd or not self.missing or len(set(self.missing)) < len(self.missing):
            raise InputError(
                f"missing {', '.join(map(str, self.missing)) or 'none'} came; shares of the "
                "training subjects in percent are needed, 0 to 90, each once"
            )
        if self.train < 1:
            raise InputError(f"train {self.train} came; give 1 or more")
        if self.samples < 2:
            raise InputError(f"{self.samples} samples came; 2 or more of a test subject are needed")


PRESETS: dict[str, dict[str, Any]] = {
    "transfer": {
        "demo": Transfer(
            sizes=(12,), sizes_b=(8,), arms=("real", "synthetic-1", "gaussian"), seeds=2,
            validation=8, test=16, ceiling=24, steps=4, steps_b=2, sampler="demo", sampler_steps=2,
            spacing=12.0,
        ),
        "tiny": Transfer(),
    },
    "settings": {
        "demo": Settings(
            arms=("real", "synthetic-1", "gaussian"), seeds=2, few=8, many=48, size=20, new=6,
            validation=8, test=16, ceiling=16, steps=2, sampler="demo", sampler_steps=2,
            spacing=12.0,
        ),
        "tiny": Settings(),
    },
    "decoding": {
        "demo": Decoding(
            tasks=("motor",), directions=("LR",), sizes=(4,), seeds=2, validation=2, test=4,
            ratio=1, steps=2, shrink=1, spacing=12.0,
            arms=("real", "classical", "runs", "mean-response"),
        ),
        "tiny": Decoding(),
    },
    "hybrid": {
        "demo": Hybrid(
            missing=(0, 50), seeds=2, train=24, validation=8, test=12, steps=2, completer="demo",
            completer_steps=2, refining_steps=2, spacing=12.0,
        ),
        "tiny": Hybrid(),
    },
}  # fmt: skip
"""By experiment. A demo says nothing; it shows in seconds, or in a minute, that all works."""
