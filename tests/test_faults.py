"""A disk that fills up in the midst of a command: one line, nothing half, and it goes on after."""

import errno
import os
from pathlib import Path

import pytest

from experiments.cli import main


@pytest.fixture(scope="module")
def split(md_phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("faults") / "split"
    assert main(["cohort", str(md_phantom), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def sampler(split, tmp_path_factory):
    out = tmp_path_factory.mktemp("faults") / "sampler"
    assert main(["train", "md", str(split / "train.tsv"), str(out), *TRAINING]) == 0
    return out


TRAINING = ["--preset", "demo", "--steps", "1", "--batch-size", "2"]
COMMANDS = {
    "phantom": ["phantom", "OUT", "--kind", "md", "--subjects", "3", "--spacing", "12"],
    "cohort": ["cohort", "PHANTOM", "--out", "OUT"],
    "generate": ["generate", "SAMPLER", "OUT", "--count", "3", "--steps", "2"],
}


@pytest.mark.parametrize("writes", [0, 2])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_up(
    name, writes, md_phantom, split, sampler, tmp_path, monkeypatch, capsys
):
    places = {"OUT": tmp_path / "out", "PHANTOM": md_phantom, "SPLIT": split, "SAMPLER": sampler}
    command = COMMANDS[name]
    for word, place in places.items():
        command = [part.replace(word, str(place)) for part in command]
    left = [writes]
    move = Path.replace

    def full(self, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return move(self, target)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", full)
        assert main(command) == 2
    error = capsys.readouterr().err.strip()
    assert "No space left on device" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.tmp"))
    assert main(command) == 0
    assert not list(tmp_path.rglob("*.tmp"))
