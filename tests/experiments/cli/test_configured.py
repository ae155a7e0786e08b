from dataclasses import replace
from pathlib import Path

import pytest

from neuromix.augment.pds.config import PRESETS as COMPLETERS
from neuromix.augment.pds.config import shortened
from neuromix.augment.tiled.config import PRESETS as MD_SAMPLERS
from neuromix.experiments.bench import config as bench
from neuromix.experiments.cli import configured
from neuromix.experiments.cli.main import GROUPS, main
from neuromix.experiments.evidence.configs import PRESETS as EXPERIMENTS
from neuromix.experiments.quality.config import Neuro


@pytest.fixture
def started(monkeypatch):
    """What a command would start with."""
    calls = []
    load = configured._load

    def stopped(place):
        is_config = "config" in place.rpartition(".")[0]
        return load(place) if is_config else lambda *args, **options: calls.append((args, options))

    monkeypatch.setattr(configured, "_load", stopped)
    train = "neuromix.experiments.cli.sampling.train"
    monkeypatch.setattr(train, lambda *args: calls.append((args, {})))

    def run(*args):
        assert main([str(arg) for arg in args]) == 0
        return calls[-1]

    return run


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in GROUPS.items() for name in names]
)
def test_every_member_of_a_group_has_help_and_something_to_start(group, name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([group, name, "--help"])
    assert stop.value.code == 0
    member = GROUPS[group][name]
    assert member.about.split("\n")[0] in capsys.readouterr().out
    assert callable(configured._load(member.target))


def test_what_is_given_changes_the_preset(started):
    args = ("--preset", "demo", "--seeds", 7)
    given, options = started("experiment", "transfer", "here", *args)
    assert given == (replace(EXPERIMENTS["transfer"]["demo"], seeds=7), Path("here"))
    assert options == {"dry_run": False}
    given, options = started("experiment", "transfer", "--seeds", 7, "--dry-run")
    assert given == (replace(EXPERIMENTS["transfer"]["tiny"], seeds=7), Path("runs"))
    assert options == {"dry_run": True}


def test_the_data_of_an_experiment_come_before_its_folder(started):
    assert started("experiment", "neuro", "data", "here")[0] == (Neuro(Path("data")), Path("here"))
    assert started("experiment", "neuro", "data")[0] == (Neuro(Path("data")), Path("runs"))
    (config,), options = started("experiment", "fidelity", "here", "--dry-run")
    assert (config.out, options) == (Path("here"), {"dry_run": True})


@pytest.mark.parametrize("name", ["tiled", "md"])
def test_short_options_are_those_of_the_training(started, name):
    args = ("--preset=demo", "--steps", 5, "--batch_size=3", "--seed", 2, "--channels", 8)
    (_, config, *_), _ = started("train", name, "data", "out", *args)
    demo = MD_SAMPLERS["demo"]
    training = replace(demo.training, steps=5, batch_size=3, seed=2)
    assert config == replace(demo, training=training, channels=8)


def test_a_completer_has_two_trainings_and_parts_that_can_be_left_out(started):
    args = ("--steps", 6, "--refining-steps", 9, "--batch-size", 2, "--without", "diagnosis")
    (_, config, *_), _ = started("train", "pds", "data", "out", *args)
    short = shortened(COMPLETERS["tiny"], 6, 9)
    parts = (replace(part, batch_size=2) for part in (short.training, short.refining))
    training, refining = parts
    assert config == replace(short, training=training, refining=refining, labels=())
    assert config.training.validate_every == 6


def test_a_benchmark_gets_its_config(started):
    (config,), _ = started("benchmark", "foundation", "--subjects", 2)
    assert config == bench.Foundation(subjects=2)


def test_names_that_are_not_known(capsys):
    assert main(["tain"]) == 2
    assert "neuromix tain came; allowed are demo, phantom" in capsys.readouterr().err
    assert main(["train", "dwi"]) == 2
    assert "neuromix train dwi came; allowed are tiled, md, fmri, pds" in capsys.readouterr().err
    assert main(["train", "md", "data", "out", "--preset", "huge"]) == 2
    assert "preset 'huge' came; allowed are demo, tiny" in capsys.readouterr().err
