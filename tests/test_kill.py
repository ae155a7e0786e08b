"""``kill -9`` in the midst of long commands: what stands is whole, and the same command goes on.

A child process runs the command and kills itself at its n-th finished file. The result of going on
is compared with that of a process that nobody killed.
"""

import json
import signal

import nibabel as nib
import pytest
from killing import SAMPLES, kill_at
from safetensors import safe_open

from neuromix.augment.phantom import make_phantom
from neuromix.experiments.audit import completer
from neuromix.experiments.cli.main import main

PDS = ["--preset", "demo", "--steps", "1", "--refining-steps", "1", "--batch-size", "2",
       "--directions", "dmri"]  # fmt: skip
COMMANDS = {
    # Name: files that are finished before the process is killed, and the command.
    "phantom": (5, ["phantom", "OUT", "--kind", "paired", "--subjects", "3", "--spacing", "12"]),
    "prepare": (1, ["prepare", "RUNS", "OUT", "--what", "bold", "--spacing", "12"]),
    "train fmri": (2, ["train", "fmri", "RUNS", "OUT", "--preset", "demo"]),
    "train pds": (2, ["train", "pds", "PAIRS", "OUT", *PDS]),
    "complete": (2, ["complete", "--data", "GAPS", "--sampler", "COMPLETER", "--out", "OUT"]),
    "audit": (4, ["audit", "COMPLETER", "--train", "PAIRS", "--heldout", "OTHERS", "--out", "OUT"]),
    "experiment": (
        112,
        ["experiment", "transfer", "OUT", "--preset", "demo", "--arms", "real", "--ceiling", "0"],
    ),
}  # fmt: skip
VARYING = ("log.txt", "metrics.jsonl", ".lock")
"""Files that tell the time."""
RESULTS = ("verdict", "findings", "groups")
"""What experiments and audits find; the rest is where and how fast."""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    runs = make_phantom(folder / "runs", "task", subjects=2, seed=7, spacing=12.0)
    for path in runs.glob("sub-*/func/*"):
        if "task-motor" not in path.name:
            path.unlink()
    pairs = make_phantom(folder / "pairs", "paired", subjects=8, seed=7, spacing=12.0)
    gaps = make_phantom(folder / "gaps", "paired", subjects=2, seed=8, spacing=12.0)
    for path in gaps.glob("sub-*/dwi/*"):
        path.unlink()
    others = make_phantom(folder / "others", "paired", subjects=8, seed=9, spacing=12.0)
    completer = folder / "completer"
    assert main(["train", "pds", str(pairs), str(completer), *PDS]) == 0
    return {"RUNS": runs, "PAIRS": pairs, "GAPS": gaps, "OTHERS": others, "COMPLETER": completer}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on_to_the_same_result(name, places, tmp_path, monkeypatch):
    monkeypatch.setattr(completer, "SAMPLES", SAMPLES)
    finished, words = COMMANDS[name]

    def command(out):
        return [str(places.get(word, out if word == "OUT" else word)) for word in words]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert kill_at(finished, command(killed)) == -signal.SIGKILL
    for path in killed.rglob("*.nii*"):
        if not path.name.endswith(".tmp"):
            nib.load(path).get_fdata()  # whole, or not there
    for path in killed.rglob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            assert weights.keys()
    assert main(command(killed)) == 0
    assert main(command(whole)) == 0
    assert contents(killed) == contents(whole)


def contents(folder):
    """What a command has made: images and weights by their bytes, all else by its name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in VARYING and "work" not in path.parts:
            is_data = path.name.endswith((".nii", ".nii.gz", ".safetensors", ".tsv"))
            name = path.relative_to(folder).as_posix()
            found[name] = path.read_bytes() if is_data else None
            if path.name == "results.json":
                results = json.loads(path.read_text())
                found[name] = {key: results.get(key) for key in RESULTS}
    return found
