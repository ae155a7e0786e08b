import json

import pytest
from rich.console import Console

from augment.errors import InputError
from experiments.run import Run, new_run, show_plan

CONFIG = {"sizes": (4, 8), "seed": 0}


def test_runs_are_numbered_in_order(tmp_path):
    assert new_run(tmp_path / "runs", "demo").name == "0001-demo"
    (tmp_path / "runs" / "notes").mkdir()
    assert new_run(tmp_path / "runs", "transfer").name == "0002-transfer"


def test_a_finished_cell_is_not_computed_again(tmp_path):
    made = []

    def make(value):
        def compute():
            made.append(value)
            return {"score": value, "truth": ["F", "M"], "undefined": float("nan")}

        return compute

    with Run.open(tmp_path, "toy", CONFIG) as run:
        first = run.cell({"arm": "real + x", "seed": 0}, make(1.5))
        assert not run.is_done({"arm": "real", "seed": 1})
    with Run.open(tmp_path, "toy", CONFIG) as run:
        assert run.cell({"arm": "real + x", "seed": 0}, make(9)) == first
        run.cell({"arm": "real", "seed": 1}, make(2))
        run.finish({"verdict": "It helped."}, "<html>")
    assert made == [1.5, 2]
    assert first["undefined"] is None
    folder = tmp_path / "0001-toy"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["arm"], line["score"]) for line in lines] == [("real + x", 1.5), ("real", 2)]
    assert json.loads((folder / "results.json").read_text())["verdict"] == "It helped."
    log = (folder / "log.txt").read_text()
    assert "1 cells are finished" in log
    assert "It helped." in log


def test_the_same_command_goes_on_and_another_begins_anew(tmp_path):
    for _ in range(2):
        with Run.open(tmp_path, "toy", CONFIG) as run:
            assert run.folder.name == "0001-toy"
    with Run.open(tmp_path, "toy", CONFIG | {"seed": 1}) as run:
        assert run.folder.name == "0002-toy"
    with Run.open(tmp_path, "other", CONFIG) as run:
        assert run.folder.name == "0003-other"
    with Run.open(tmp_path / "0001-toy", "toy", CONFIG) as run:
        assert run.config == {"sizes": [4, 8], "seed": 0}
    with Run.open(tmp_path / "0009-mine", "toy", CONFIG) as run:
        assert run.folder.is_dir()


def test_another_config_is_refused_in_a_line(tmp_path):
    with Run.open(tmp_path, "toy", CONFIG) as run:
        folder = run.folder
    with pytest.raises(InputError, match="holds a run with seed 0 and not 1"):
        Run.open(folder, "toy", CONFIG | {"seed": 1})
    with pytest.raises(InputError, match="holds a run of toy and not of other"):
        Run.open(folder, "other", CONFIG)
    (tmp_path / "0004-foreign").mkdir()
    (tmp_path / "0004-foreign" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        Run.open(tmp_path / "0004-foreign", "toy", CONFIG)


def test_two_processes_do_not_share_a_folder(tmp_path):
    # Locks of one process do not exclude it, so another one asks.
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from experiments.run import Run\n"
        "Run.open(Path(sys.argv[1]), 'toy', {'seed': 0})"
    )
    with Run.open(tmp_path, "toy", {"seed": 0}):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
        )
    assert "another process is at work" in done.stderr


def test_bad_input_leaves_no_folder_unless_something_was_done(tmp_path):
    for cells, left in ((0, []), (1, ["0001-toy"])):
        with pytest.raises(InputError), Run.open(tmp_path, "toy", CONFIG) as run:
            for k in range(cells):
                run.cell({"k": k}, dict)
            raise InputError("bad")
        assert [path.name for path in tmp_path.iterdir()] == left


def test_an_interrupted_run_says_so_in_its_log(tmp_path):
    with pytest.raises(KeyboardInterrupt), Run.open(tmp_path, "toy", CONFIG) as run:
        raise KeyboardInterrupt
    assert "stopped by KeyboardInterrupt" in (run.folder / "log.txt").read_text()


def test_the_plan_tells_the_minutes(capsys):
    show_plan([("sampler", 90.0), ("fits", 60.0)], Console())
    out = capsys.readouterr().out
    assert "About 3 minutes" in out
    assert "1.5" in out
