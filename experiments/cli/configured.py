"""Commands whose options are a documented dataclass, which tyro reads where it stands.

A group is a table: where each config is, and what it is for. Here are the few options beside a
config. No config's module imports torch, and for help nothing else is imported.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, Positional

from neuromix.augment.errors import InputError

Config = TypeVar("Config")
Flat = Annotated[Config, tyro.conf.arg(name="")]
"""A config whose fields are options of the command itself."""
DryRun = FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Options(Generic[Config]):
    """A config, and what stands beside it."""

    config: Flat[Config]

    note: ClassVar[str] = "Run it again to go on where it stopped."

    def start(self, run: Callable[..., Any]) -> None:
        """Call what the command runs, with the folder and the dry run where it has them."""
        where, options = getattr(self, "where", None), {}
        if hasattr(self, "dry_run"):
            options["dry_run"] = self.dry_run
        run(self.config, *([where.out] if where else []), **options)


@dataclass(frozen=True)
class Where:
    """The folder of an experiment, apart, so that arguments of its config come before it."""

    out: Positional[Path] = Path("runs")
    """Folder of the run folders, or one run folder."""


@dataclass(frozen=True)
class Experiment(Options[Config]):
    """An experiment in a run folder."""

    where: Flat[Where] = field(default_factory=Where)


@dataclass(frozen=True)
class DryExperiment(Experiment[Config]):
    """One that can say how long it would take."""

    dry_run: DryRun = False
    """Say what would be done and how long it would take, and stop."""


@dataclass(frozen=True)
class WithPresets(DryExperiment[Config]):
    """One whose config has presets beside it."""

    preset: Literal["demo", "tiny"] = "tiny"
    """demo shows in a minute that all works, and says nothing; tiny takes an hour or more on two
    cores. What else is given changes it."""


@dataclass(frozen=True)
class FolderExperiment(Options[Config]):
    """One whose config says where it is."""

    dry_run: DryRun = False
    """Say what would be done and how long it would take, and stop."""


@dataclass(frozen=True)
class Benchmark(Options[Config]):
    """A benchmark."""

    note: ClassVar[str] = "Figures are those of this machine."


@dataclass(frozen=True)
class Training(Options[Config]):
    """A fit of a sampler."""

    data: Positional[Path]
    """Training subjects only: train.tsv of a split, or a BIDS folder."""
    out: Positional[Path]
    """Folder for what is fitted."""
    preset: Literal["demo", "tiny", "base", "paper"] = "tiny"
    """demo (minutes on two cores), tiny (an hour at most), base (a GPU, hours), or paper, the
    published size. What else is given changes it."""
    validation: Path | None = None
    """Subjects that choose the best step: val.tsv of the same split."""
    dry_run: DryRun = False
    """Say how long it would take, and stop."""

    note: ClassVar[str] = (
        f"{Options.note} --steps, --batch-size and --seed are those of --training."
    )

    def settings(self) -> Any:
        """The config that is fitted."""
        return self.config

    def start(self, sampler: Any) -> None:
        """Fit the sampler."""
        from neuromix.experiments.cli.sampling import train

        train(sampler, self.settings(), self.data, self.out, self.validation, self.dry_run)


@dataclass(frozen=True)
class CompleterTraining(Training[Config]):
    """A fit of the modality completer."""

    without: tuple[
        Literal["diagnosis", "network", "pattern", "refinement", "microstructure"], ...
    ] = ()
    """Parts to leave out, for ablations; the last three are of the preset paper."""

    note: ClassVar[str] = (
        f"{Training.note} --batch-size and --seed are those of --refining, too, and "
        "--refining-steps its steps."
    )

    def settings(self) -> Any:
        """The config without those parts; warmup and validation go by the numbers of steps."""
        from neuromix.augment.pds.config import ablated, shortened

        config: Any = self.config
        config = shortened(config, config.training.steps, config.refining.steps)
        return ablated(config, self.without)


@dataclass(frozen=True)
class Configured:
    """A command of a group.

    Args:
        config: Where its config is, under ``neuromix``; presets of it are ``PRESETS`` beside it.
        target: Where that is which it runs or fits.
        options: What there is beside the config, and how it starts.
        short: Short names, and the options that each stands for.
        presets: Under which name ``PRESETS`` holds its own, where they are of several configs.
    """

    config: str
    target: str
    options: Any
    short: Mapping[str, Sequence[str]] = field(default_factory=dict)
    presets: str = ""

    @property
    def about(self) -> str:
        """What it does, in the words of the config."""
        return str(inspect.getdoc(_load(self.config)))

    def __call__(self, prog: str, args: Sequence[str]) -> None:
        """Read the options and start."""
        args = _in_full(args, self.short)
        begin: dict[str, Any] = {}
        required = {f: tyro.MISSING for f in ("data", "out") if issubclass(self.options, Training)}
        if issubclass(self.options, WithPresets | Training):
            presets = _load(self.config.rpartition(".")[0] + ".PRESETS")
            presets = presets[self.presets] if self.presets else presets
            name = _preset(args, presets)
            begin["default"] = self.options(config=presets[name], preset=name, **required)
        given = tyro.cli(
            self.options[_load(self.config)],
            prog=prog,
            description=f"{self.about}\n\n{self.options.note}",
            args=args,
            **begin,
        )
        given.start(_load(self.target))


def _load(place: str) -> Any:
    """What stands at a place under ``neuromix``."""
    module, _, name = f"neuromix.{place}".rpartition(".")
    return getattr(importlib.import_module(module), name)


def _preset(args: Sequence[str], presets: Mapping[str, Any]) -> str:
    """The preset that is named, which all other options change."""
    name = "tiny"
    for option, after in zip(args, [*args[1:], ""], strict=True):
        if option.partition("=")[0] == "--preset":
            name = option.partition("=")[2] or after
    if name not in presets:
        raise InputError(f"preset {name!r} came; allowed are {', '.join(presets)}")
    return name


def _in_full(args: Sequence[str], short: Mapping[str, Sequence[str]]) -> list[str]:
    """The arguments with short names replaced by what they stand for."""
    full, rest = [], list(args)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        places = short.get(option.replace("_", "-"))
        if places is None or not (equals or rest):
            full.append(option + equals + value)
            continue
        value = value if equals else rest.pop(0)
        full += [f"{place}={value}" for place in places]
    return full
