import json

import pandas as pd
import pytest

from augment.bank import SampleBank
from augment.cohort import Cohort
from experiments import settings
from experiments.cli import main
from experiments.settings import PRESETS, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, run(PRESETS["demo"], out)


def test_all_settings_have_the_same_arms_and_judges(finished):
    groups = finished[1]["groups"]
    assert [g["key"]["setting"] for g in groups] == [
        "few-labels", "imbalance", "confounded", "new-site",
    ]  # fmt: skip
    assert [g["key"]["size"] for g in groups] == [8, 22, 20, 26]
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
    assert scans == {"few-labels": 48, "imbalance": 22, "confounded": 20, "new-site": 26}
    banks = {name: SampleBank(folder / "banks" / name).table for name in scans}
    assert {name: len(table) for name, table in banks.items()} == {
        "few-labels": 8, "imbalance": 22, "confounded": 20, "new-site": 26,
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


def test_a_finished_run_does_nothing_again(finished, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a finished cell was done again")

    monkeypatch.setattr(settings, "judge", refuse)
    assert run(PRESETS["demo"], finished[0])["groups"] == finished[1]["groups"]


def test_a_tangled_test_set_is_told(finished, tmp_path):
    old = {"subject_id": "x", "site": "B", "md_path": "none.nii"}
    work = object.__new__(settings._Settings)
    rows = [old | {"subject_id": str(k), "age": 60.0 + k, "sex": "F",
                   "diagnosis": "NC" if k < 10 else "AD"} for k in range(20)]  # fmt: skip
    cohort = Cohort(pd.DataFrame(rows))
    work.b = settings.Parts("clinic", cohort, cohort, cohort, None)
    work.questions = {"confounded": settings.Question(cohort, cohort, lambda *_: [], "t", "a")}
    methods = []
    warnings = work._tangled(methods)
    assert "is not tested on unconfounded subjects" in warnings[0]
    assert "in the test set" in methods[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--settings", "miracle"], "allowed are few-labels, imbalance"),
        (["--many", "10"], "many at least twice"),
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
