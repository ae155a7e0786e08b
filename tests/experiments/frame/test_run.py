import json

import pandas as pd
import pytest
from rich.console import Console

from neuromix.augment import software
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.digests import Content
from neuromix.augment.errors import InputError
from neuromix.experiments.frame.pages import report_page
from neuromix.experiments.frame.run import Run, new_run, show_plan

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


def test_a_run_goes_on_with_other_settings_that_no_cell_depends_on(tmp_path):
    for seed in (0, 1):
        with Run.open(tmp_path, "toy", CONFIG | {"seed": seed}, free=("seed",)) as run:
            assert run.folder.name == "0001-toy"
            assert run.config["seed"] == seed
    with Run.open(tmp_path, "toy", CONFIG | {"sizes": (1,)}, free=("seed",)) as run:
        assert run.folder.name == "0002-toy"
    with pytest.raises(InputError, match="with sizes"):
        Run.open(tmp_path / "0001-toy", "toy", CONFIG | {"sizes": (1,)}, free=("seed",))


@pytest.fixture
def table(tmp_path):
    """A table of four people."""
    rows = []
    for k in range(4):
        (tmp_path / f"{k}.nii").write_bytes(bytes([k] * 50))
        rows.append({"subject_id": f"{k}", "sex": "F", "md_path": f"{k}.nii", "dataset": "study"})
    path = tmp_path / "test.tsv"
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


def opened(out, table, cells=0, **settings):
    """A run on the data of a table, in which some cells are done; what it says, and its folder."""
    data = {"data": Content.of(Cohort.load(table))}
    with Run.open(out, "toy", {"data": table, **settings}, data=data) as run:
        for k in range(cells):
            run.cell({"k": k}, dict)
        results = {"verdict": "Done."} | run.about
        run.finish(results, report_page(results, title="T"))
    return run.folder, (run.folder / "log.txt").read_text().splitlines()


def test_changed_data_begin_a_run_and_equal_data_elsewhere_go_on(table, tmp_path):
    out = tmp_path / "runs"
    first, _ = opened(out, table, 2)
    other = table.with_name("other.tsv")
    other.write_bytes(table.read_bytes())
    again, log = opened(out, other, 3)
    assert again == first
    assert "0001-toy: 2 of 3 cells reused, the rest made anew" in log[-1]
    whole, stat = (tmp_path / "2.nii").read_bytes(), (tmp_path / "2.nii").stat()
    (tmp_path / "2.nii").write_bytes(b"x" + whole[1:])
    assert (tmp_path / "2.nii").stat().st_size == stat.st_size
    second, log = opened(out, table, 1)
    assert second.name == "0002-toy"
    told = "made anew, 1 of 4 images of test.tsv changed since (0001-toy stays as it is)"
    assert log[1].endswith(told)
    table.write_text(table.read_text().replace("F", "M", 1))
    third, log = opened(out, table)
    assert third.name == "0003-toy"
    assert "1 of 4 rows of test.tsv changed since" in log[1]
    (tmp_path / "2.nii").write_bytes(whole)
    table.write_text(table.read_text().replace("M", "F", 1))
    assert opened(out, table)[0] == first  # all is as it was then


def test_what_a_named_folder_holds_of_other_data_is_set_aside(table, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    opened(folder, table, 2)
    folder = folder / "0001-toy"
    table.write_text(table.read_text().replace("F", "M", 1))
    _, log = opened(folder, table, 1)
    assert "made anew, 1 of 4 rows of test.tsv changed since; what was there is in" in log[1]
    assert len(list((folder / "cells").iterdir())) == 1
    assert len(list((folder.with_name("0001-toy-before-1") / "cells").iterdir())) == 2
    with pytest.raises(InputError, match=r"holds a run with data .*test.tsv and not .*third.tsv"):
        third = table.rename(table.with_name("third.tsv"))
        third.write_text(third.read_text().replace("M", "F", 1))
        opened(folder, third)


def test_another_version_makes_anew_and_another_commit_is_told(table, tmp_path, monkeypatch):
    out = tmp_path / "runs"
    versions, commit = software.versions(), "aaaa"
    monkeypatch.setattr(software, "versions", lambda: versions)
    monkeypatch.setattr(software, "commit", lambda: commit)
    first, _ = opened(out, table, 1)
    commit, versions = "bbbb", versions | {"torch": "99.1"}
    page = (first / "report.html").read_text
    again, log = opened(out, table, 1)
    assert again == first
    assert any("torch" in line and "commit aaaa, now bbbb" in line for line in log)
    assert "99.1" not in page()  # nothing was made by it
    assert "aaaa" in page()
    opened(out, table, 2)
    results = json.loads((first / "results.json").read_text())
    assert results["made by"]["commit"] == "aaaa, then bbbb"
    assert results["made by"]["digest of data"] in page()
    assert ", then 99.1" in page()
    versions = versions | {"neuromix": "99.2"}
    second, log = opened(out, table, 1)
    assert second.name == "0002-toy"
    assert (
        f"made anew, neuromix {results['made by']['neuromix']} made it and this is 99.2" in log[1]
    )


def test_a_run_of_an_older_version_is_not_gone_on_with(table, tmp_path):
    for out in (tmp_path / "runs", tmp_path / "runs" / "0001-toy"):
        old = tmp_path / "runs" / "0001-toy"
        old.mkdir(parents=True, exist_ok=True)
        config = {"data": str(table.resolve())}
        (old / "config.json").write_text(json.dumps({"experiment": "toy", "config": config}))
        (old / "provenance.json").unlink(missing_ok=True)
        _, log = opened(out, table, 1)
        assert "made anew, an older neuromix began it" in log[1]


def test_two_processes_do_not_share_a_folder(tmp_path):
    # Locks of one process do not exclude it, so another one asks.
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from neuromix.experiments.frame.run import Run\n"
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
