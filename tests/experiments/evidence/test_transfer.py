import json
from dataclasses import replace

import pytest
from chromium import browse, needs_chromium

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.phantom import make_phantom
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.classifiers.evaluate import Predictions
from neuromix.experiments.cli.main import main
from neuromix.experiments.evidence import transfer
from neuromix.experiments.evidence.configs import PRESETS, Transfer
from neuromix.experiments.evidence.transfer import run

DEMO = PRESETS["transfer"]["demo"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The demo, interrupted in its first fits and in its transfer, and taken up each time."""
    out = tmp_path_factory.mktemp("runs")
    judge, seen = transfer.judge, []

    def stopping(classifier, *parts):
        seen.append(type(classifier).__name__)
        if len(seen) in (2, 12):
            raise KeyboardInterrupt
        return judge(classifier, *parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "judge", stopping)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(DEMO, out)
        results = run(DEMO, out)
    return out, results, seen


def test_an_interrupted_run_goes_on_and_does_no_cell_twice(finished, monkeypatch):
    out, results, seen = finished
    assert [folder.name for folder in out.iterdir()] == ["0001-transfer"]
    # 3 arms and a ceiling, 2 seeds; the same and no pretraining at B; and the two that were cut.
    assert len(seen) == 2 * (3 + 1) + 2 * (3 + 1 + 1) + 2

    def refuse(*args, **options):
        raise AssertionError("something finished was done again")

    monkeypatch.setattr(transfer, "judge", refuse)
    monkeypatch.setattr(TiledMDSampler, "fit", refuse)
    again = run(DEMO, out)
    assert again["groups"] == results["groups"]


def test_the_run_folder_holds_everything(finished):
    folder = finished[0] / "0001-transfer"
    config = json.loads((folder / "config.json").read_text())
    assert config["experiment"] == "transfer"
    assert config["config"]["sizes"] == [12]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    fits = [line for line in lines if "arm" in line]
    assert len(fits) == 18
    assert len(list((folder / "cells").iterdir())) == len(lines)
    results = json.loads((folder / "results.json").read_text())
    assert results["verdict"].startswith("Synthetic data ")
    assert 0 < results["time"]["loading share"] < 1
    assert "stopped by KeyboardInterrupt" in (folder / "log.txt").read_text()
    assert results["verdict"][:60] in (folder / "report.html").read_text()


def test_arms_share_subjects_and_steps_and_differ_in_samples(finished):
    folder = finished[0] / "0001-transfer"
    records = [json.loads(path.read_text()) for path in (folder / "cells").iterdir()]
    fits = {
        (r["cell"]["setting"], r["cell"]["arm"]): r for r in records if r["cell"].get("seed") == 0
    }
    counts = {key: (r["real"], r["synthetic"]) for key, r in fits.items()}
    assert counts["sex-a", "real"] == (12, 0)
    assert counts["sex-a", "synthetic-1"] == counts["sex-a", "gaussian"] == (12, 12)
    assert counts["sex-a", "ceiling"] == (24, 0)
    assert counts["dementia-b", "synthetic-1"] == counts["dementia-b", "scratch"] == (8, 0)
    for setting in ("sex-a", "dementia-b"):
        judged = [
            Predictions.from_dict(r["predictions"])
            for (where, _), r in fits.items() if where == setting
        ]  # fmt: skip
        assert all(list(p.subjects) == list(judged[0].subjects) for p in judged)
    # What was learnt at site A is what differs at B.
    start, none = (
        fits["dementia-b", arm]["predictions"]["probabilities"] for arm in ("real", "scratch")
    )
    assert start != none
    # Nobody is judged who was seen; the sampler knows the training subjects of A alone.
    sampler = TiledMDSampler.from_pretrained(folder / "samplers" / "A-12")
    assert len(sampler.record["subjects"]) == 12 + 8


def test_groups_and_their_gap_and_baselines(finished):
    groups = finished[1]["groups"]
    assert [g["key"]["setting"] for g in groups] == ["dementia-b", "sex-a"]
    assert list(groups[0]["scores"]) == ["real", "synthetic-1", "gaussian", "scratch", "ceiling"]
    assert set(groups[1]["gap_closed"]) == {"synthetic-1", "gaussian"}
    assert all("p_holm" in row for g in groups for row in g["comparisons"])


@needs_chromium
def test_its_page_is_whole_in_a_browser(finished, tmp_path):
    opened = browse(finished[0] / "0001-transfer" / "report.html", tmp_path)
    assert opened.complaints == []
    assert opened.found["requests"] == []
    assert min(opened.found["pictures"]) > 0
    assert min(opened.found["canvases"]) > 10


def command(*args):
    return main(["experiment", "transfer", *map(str, args)])


def test_another_config_in_the_same_folder_is_refused(finished, capsys):
    folder = finished[0] / "0001-transfer"
    assert command(folder, "--preset", "demo", "--seeds", 3) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("neuromix: ")
    assert "holds a run with seeds 2 and not 3" in line


def test_a_dry_run_tells_the_minutes_and_writes_nothing(tmp_path, capsys):
    assert command(tmp_path / "runs", "--preset", "demo", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "minutes on this machine" in out
    assert "8 fits of sex" in out
    assert "10 fits of dementia" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arms", "real", "magic"], "allowed are real, classical"),
        (["--sizes", 2], "each must be 4 or more"),
        (["--seeds", 0], "1 or more"),
        (["--endpoint", "nowhere.json"], "nowhere.json does not exist"),
        (["--data-a", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, words):
    assert command(tmp_path / "runs", "--preset", "demo", *options) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("neuromix: ")
    assert words in line


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A clinic of one's own, as a table."""
    folder = tmp_path_factory.mktemp("own")
    data = make_phantom(folder / "data", "md", subjects=60, seed=5, spacing=12.0)
    Cohort.from_bids(data).save(folder / "clinic.tsv")
    return folder / "clinic.tsv"


def test_own_cohorts_take_the_place_of_phantoms(own, tmp_path):
    clinic = Cohort.load(own)
    first = clinic.where([k < 30 for k in range(len(clinic))])
    first.save(tmp_path / "a.tsv")
    clinic.where([k >= 30 for k in range(len(clinic))]).save(tmp_path / "b.tsv")
    config = replace(
        DEMO, data_a=tmp_path / "a.tsv", data_b=tmp_path / "b.tsv", sizes_b=(6,),
        validation=4, seeds=1, arms=("real",),
    )  # fmt: skip
    results = run(config, tmp_path / "runs")
    assert "No arm with real and synthetic" in results["verdict"]
    assert not list((tmp_path / "runs").glob("*/phantom*"))
    group = results["groups"][1]
    assert group["cohort"] == "phantom-md-seed5"
    assert group["scores"]["real"]["auc"]["subjects"] == 30 - 12 - 4
    assert not group["gap_closed"]


def test_a_person_at_both_sites_is_named(own, tmp_path, capsys):
    options = ["--data-a", own, "--data-b", own, "--preset", "demo", "--arms", "real"]
    assert command(tmp_path / "runs", *options) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "held-out subjects had a part" in line
    assert "sub-B" in line


def test_one_class_only_is_refused(own, tmp_path, capsys):
    clinic = Cohort.load(own)
    clinic.where(sex="F").save(tmp_path / "women.tsv")
    assert command(tmp_path / "runs", "--preset", "demo", "--data-a", tmp_path / "women.tsv") == 2
    assert "only 'F'; a classifier needs two" in capsys.readouterr().err


def test_an_endpoint_of_another_phantom_is_refused(tmp_path):
    path = tmp_path / "endpoint.json"
    content = {
        "experiment": "transfer", "setting": "sex-a", "metric": "auc", "arm": "synthetic-1",
        "baseline": "real", "size": 12, "seeds": [1000],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"phantom seeds \[1000\], and seed 0 came"):
        run(replace(DEMO, endpoint=path), tmp_path / "runs")
    assert Transfer(endpoint=path).keys[0] == {"setting": "dementia-b", "size": 40, "size_b": 80}
