"""The command ``neuromix``: the table of its commands and groups, their help, and exit codes.

Nothing heavy is imported before a command has read its options.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from neuromix.augment.errors import InputError, TrainingError
from neuromix.experiments.cli import data, sampling
from neuromix.experiments.cli.configured import (
    Benchmark,
    CompleterTraining,
    Configured,
    DryExperiment,
    Experiment,
    FolderExperiment,
    Options,
    Training,
    WithPresets,
)

ABOUT = "Diffusion-made brain MRI as augmentation, and whether it helped."
HELP = ("-h", "--help")
COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": data.demo,
    "phantom": data.phantom,
    "cohort": data.cohort,
    "who": data.who,
    "prepare": data.prepare,
    "generate": sampling.generate,
    "complete": sampling.complete,
    "verify": sampling.verify,
    "audit": sampling.audit,
}


TRAINING = {f"--{name}": [f"--training.{name}"] for name in ("steps", "batch-size", "seed")}
BOTH = {f"--{n}": [f"--training.{n}", f"--refining.{n}"] for n in ("batch-size", "seed")}
TILED = Configured(
    "augment.tiled.config.TiledMDConfig", "augment.tiled.sampler.TiledMDSampler", Training, TRAINING
)
GROUPS: dict[str, dict[str, Configured]] = {
    "train": {
        "tiled": TILED,
        "md": TILED,
        "fmri": Configured(
            "augment.fmri.config.TaskFMRIConfig", "augment.fmri.sampler.TaskFMRISampler", Training,
            TRAINING,
        ),
        "pds": Configured(
            "augment.pds.config.ModalityConfig", "augment.pds.completer.ModalityCompleter",
            CompleterTraining, TRAINING | BOTH | {"--refining-steps": ["--refining.steps"]},
        ),
    },
    "experiment": {
        name: Configured(
            f"experiments.{config}", f"experiments.{module}.run", options,
            presets=name if options is WithPresets else "",
        )
        for name, config, module, options in (
            ("calibration", "quality.config.Calibration", "quality.calibration", FolderExperiment),
            ("fidelity", "quality.config.Fidelity", "quality.fidelity", FolderExperiment),
            ("ranking", "quality.config.Ranking", "quality.ranking", Options),
            ("transfer", "evidence.configs.Transfer", "evidence.transfer", WithPresets),
            ("settings", "evidence.configs.Settings", "evidence.settings", WithPresets),
            ("neuro", "quality.config.Neuro", "quality.neuro", Experiment),
            ("fmri", "quality.config.FMRI", "quality.runs", DryExperiment),
            ("completion", "quality.config.Completion", "quality.completion", DryExperiment),
            ("hybrid", "evidence.configs.Hybrid", "evidence.hybrid", WithPresets),
            ("decoding", "evidence.configs.Decoding", "evidence.decoding", WithPresets),
        )
    },
    "benchmark": {
        name: Configured(
            f"experiments.bench.config.{config}", f"experiments.bench.{function}", Benchmark
        )
        for name, config, function in (
            ("all", "Everything", "everything.everything"),
            ("foundation", "Foundation", "foundation.foundation"),
            ("sampling", "Sampling", "maps.sampling"),
            ("training", "Training", "training.training"),
            ("transforms", "Transforms", "transforms.transforms"),
        )
    },
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends with one line on standard error and exit code 2."""
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        print(f"neuromix: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"neuromix: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        advice = "check the path, your rights to it and the room on the disk"
        print(f"neuromix: {error.strerror}: {error.filename}; {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("neuromix: stopped; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def _run(args: list[str]) -> None:
    """Find the command that is named, and let it read its options."""
    top = {name: _first_line(inspect.getdoc(command)) for name, command in COMMANDS.items()}
    top |= {group: f"One of {', '.join(commands)}." for group, commands in GROUPS.items()}
    name = _named(args, "neuromix", ABOUT, top)
    if name not in GROUPS:
        tyro.cli(COMMANDS[name], prog=f"neuromix {name}", args=args)
        return
    group, prog = GROUPS[name], f"neuromix {name}"
    asked = not args or args[0] in HELP
    lines = {name: _first_line(command.about) if asked else "" for name, command in group.items()}
    name = _named(args, prog, f"Each has --help: {prog} NAME --help.", lines)
    group[name](f"{prog} {name}", args)


def _named(args: list[str], prog: str, about: str, known: Mapping[str, str]) -> str:
    """Take the name from the arguments, or show those that there are."""
    if not args or args[0] in HELP:
        print(f"usage: {prog} NAME [-h] ...\n\n{about}\n")
        print(*(f"  {name:<12} {line}" for name, line in known.items()), sep="\n")
        raise SystemExit(0 if args else 2)
    name = args.pop(0)
    if name not in known:
        raise InputError(f"{prog} {name} came; allowed are {', '.join(known)}")
    return name


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


if __name__ == "__main__":
    raise SystemExit(main())
