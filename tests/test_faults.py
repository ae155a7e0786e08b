"""A disk that fills up: one line, nothing half, and it goes on after. What is done is let go of."""

import errno
import gc
import os
import tempfile
from pathlib import Path

import pytest

from neuromix.augment.bank.bank import SampleBank
from neuromix.experiments.cli.main import main


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


DRY = {
    "train md": ["train", "md", "PHANTOM", "OUT", "--preset", "demo", "--dry-run"],
    "experiment transfer": ["experiment", "transfer", "OUT", "--preset", "demo", "--dry-run"],
    "experiment hybrid": ["experiment", "hybrid", "OUT", "--preset", "demo", "--dry-run"],
    "refused": ["experiment", "transfer", "OUT", "--data-a", "SPLIT/none", "--dry-run"],
}


@pytest.mark.parametrize("name", DRY)
def test_estimates_leave_no_temporary_file(name, md_phantom, split, tmp_path, monkeypatch):
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    places = {"OUT": tmp_path / "out", "PHANTOM": md_phantom, "SPLIT": split}
    command = DRY[name]
    for word, place in places.items():
        command = [part.replace(word, str(place)) for part in command]
    assert main(command) == (2 if name == "refused" else 0)
    assert not list(room.iterdir())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="it asks Linux what is open")
def test_what_was_drawn_is_released(sampler, tmp_path):
    folder = tmp_path / "bank"
    assert main(["generate", str(sampler), str(folder), "--count", "3", "--steps", "2"]) == 0
    bank = SampleBank(folder)
    held = [bank.draw({}, seed=0)]
    held[0]["md"].load()
    files = len(list(Path("/proc/self/fd").iterdir()))
    for seed in range(50):
        held = [bank.draw({}, seed=seed)]
        held[0]["md"].load()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files
    del held
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text()
