import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.experiments.cli.main import main
from neuromix.experiments.evidence import samples, settings
from neuromix.experiments.evidence.configs import PRESETS
from neuromix.experiments.evidence.settings import Question, SettingsComparison, run
from neuromix.experiments.evidence.sites import Parts
from neuromix.experiments.frame.run import Run
from neuromix.experiments.frame.verdict import Endpoint

DEMO = PRESETS["settings"]["demo"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, run(DEMO, out)


def test_all_settings_have_the_same_arms_and_judges(finished):
    groups = finished[1]["groups"]
    assert [g["key"]["setting"] for g in groups] == [
        "few-labels", "imbalance", "confounded", "new-site",
    ]  # fmt: skip
    assert [g["key"]["size"] for g in groups] == [6, 22, 20, 26]
    assert [g["target"] for g in groups] == ["dementia"] * 3 + ["sex"]
    for group in groups:
        assert list(group["scores"]) == ["real", "synthetic-1", "gaussian", "ceiling"]
        assert group["cohort"] == "phantom site B"
    judged = {group["scores"]["real"]["auc"]["subjects"] for group in groups}
    assert len(judged) == 1


def test_samplers_see_whom_they_should_and_samples_are_what_is_asked(finished):
    folder = finished[0] / "0001-settings"
    cells = [json.loads(path.read_text()) for path in (folder / "cells").iterdir()]
    scans = {r["cell"]["sampler"]: r["scans"] for r in cells if "sampler" in r["cell"]}
    assert scans == {"few-labels": 46, "imbalance": 22, "confounded": 20, "new-site": 26}
    banks = {name: SampleBank(folder / "banks" / name).table for name in scans}
    assert {name: len(table) for name, table in banks.items()} == {
        "few-labels": 6, "imbalance": 22, "confounded": 20, "new-site": 26,
    }  # fmt: skip
    assert set(banks["few-labels"]["diagnosis"]) == {"NC", "AD"}
    assert list(banks["imbalance"]["diagnosis"][:18]) == ["AD"] * 18
    assert set(banks["new-site"]["site"]) == {"B"}
    ages = banks["confounded"].groupby("diagnosis")["age"].mean()
    assert ages["NC"] > ages["AD"]  # the other way round than in training


def test_the_report_says_how_each_was_made(finished):
    text = (finished[0] / "0001-settings" / "report.html").read_text()
    for words in (
        "Four settings where synthetic data ought to help", "keep their diagnosis",
        "Diagnosis and age, correlation ratio", "Only age is confounded",
        "All samples are asked for the site that judges",
    ):  # fmt: skip
        assert words in text, words


def test_every_label_that_chooses_is_counted(finished, tmp_path, capsys):
    out, results = finished
    titles = [group["title"].partition("; ")[2] for group in results["groups"]]
    assert titles[0] == "8 labels, 2 of which choose checkpoint and step"
    assert titles[1] == "30 labels, 8 of which choose checkpoint and step"
    text = (out / "0001-settings" / "report.html").read_text()
    assert all(title in text for title in titles)
    assert main(["experiment", "settings", str(tmp_path), "--preset", "demo", "--dry-run"]) == 0
    plan = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "few-labels 8, imbalance 30" in plan
    assert DEMO.labelled["few-labels"] == 8


def test_few_labels_choose_in_every_arm(finished, monkeypatch):
    """The same few labels choose, for classifiers and for the sampler."""
    config = replace(DEMO, settings=("few-labels",))
    with Run.open(finished[0] / "0001-settings", "settings", finished[1]["config"]) as frame:
        work = SettingsComparison(config, frame)
    question = work.questions["few-labels"]
    chooses = set(question.validation.subject_keys)
    assert len(chooses) == 2
    assert not chooses & set(question.sampler_train.subject_keys)
    given = []
    monkeypatch.setattr(samples, "draw_samples", lambda *parts: given.append(parts[3]) or {})
    monkeypatch.setattr(samples, "keep_pictures", lambda *_: None)
    material = work._material("few-labels")
    assert {(s["dataset"], s["subject_id"]) for s in material.validation} == chooses
    assert set(given[0].subject_keys) == chooses


def test_the_endpoint_of_the_old_counting_is_refused():
    path = Path(settings.__file__).parent / "endpoints" / "few-labels.json"
    tiny = PRESETS["settings"]["tiny"]
    with pytest.raises(InputError, match="fits 0 groups of this experiment"):
        Endpoint.read(path, "settings", 1000).require(tiny.keys, tiny.arms)


def test_a_finished_run_does_nothing_again(finished, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a finished cell was done again")

    monkeypatch.setattr(settings, "judge", refuse)
    assert run(DEMO, finished[0])["groups"] == finished[1]["groups"]


def test_a_confounded_test_set_warns(finished, tmp_path):
    old = {"subject_id": "x", "site": "B", "md_path": "none.nii"}
    work = object.__new__(SettingsComparison)
    rows = [old | {"subject_id": str(k), "age": 60.0 + k, "sex": "F",
                   "diagnosis": "NC" if k < 10 else "AD"} for k in range(20)]  # fmt: skip
    cohort = Cohort(pd.DataFrame(rows))
    work.b = Parts("clinic", cohort, cohort, cohort, None)
    work.questions = {"confounded": Question(cohort, cohort, lambda *_: [], "t", "a")}
    methods = []
    warnings = work.confounding(methods)
    assert "is not tested on unconfounded subjects" in warnings[0]
    assert "in the test set" in methods[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--settings", "miracle"], "allowed are few-labels, imbalance"),
        (["--many", "10"], "many at least twice"),
        (["--few", "7"], "few must be 8 or more"),
        (["--size", "10"], "20 or more"),
        (["--arms", "gaussian"], "real among them"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, words):
    assert main(["experiment", "settings", str(tmp_path), "--preset", "demo", *options]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("neuromix: ")
    assert words in line
    assert not list(tmp_path.iterdir())
