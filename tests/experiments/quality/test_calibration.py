import json
from dataclasses import replace

import numpy as np
import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.classifiers.predictions import Predictions
from neuromix.experiments.quality import calibration
from neuromix.experiments.quality.calibration import plan, run, summarise
from neuromix.experiments.quality.config import Calibration


@pytest.fixture
def phantom(md_phantom, monkeypatch):
    """Fourteen subjects, of whom half judge."""
    split = Cohort.split
    monkeypatch.setattr(calibration, "make_phantom", lambda *a, **k: md_phantom)
    monkeypatch.setattr(
        Cohort, "split", lambda self, _, seed: split(self, (0.5, 0, 0.5), seed=seed)
    )


def test_it_resumes_and_reports(phantom, tmp_path, monkeypatch):
    config = Calibration(tmp_path / "0001-calibration", ("sex",), (4, 6), 2, 84, 2)
    results = run(config)
    cells = sorted(path.stem for path in (config.out / "cells").iterdir())
    assert cells == [f"target-sex_size-{n}_seed-{k}_steps-2" for n in (4, 6) for k in (0, 1)]
    assert [row["training subjects"] for row in results["cells"]] == [4, 6]
    assert json.loads((config.out / "results.json").read_text())["cells"] == results["cells"]
    assert "Balanced accuracy on phantom site B" in (config.out / "report.html").read_text()

    def refuse(*args):
        raise AssertionError("a finished cell was run again")

    with monkeypatch.context() as patch:
        patch.setattr(calibration.VolumeClassifier, "fit", refuse)
        assert run(config)["cells"] == results["cells"]
    run(replace(config, sizes=(4,), seeds=1, steps=3))
    with monkeypatch.context() as patch:
        patch.setattr(calibration.VolumeClassifier, "fit", refuse)
        assert run(config)["cells"] == results["cells"]  # other settings took nothing away


def test_the_interval_holds_the_score_and_chance_is_known():
    truth = np.array(["F", "M"] * 20)
    is_male = (truth == "M").astype(float)
    is_male[:8] = 1
    said = Predictions(
        np.arange(40).astype(str), truth, np.stack([1 - is_male, is_male], axis=1), ("F", "M")
    )
    record = {"used": 4, "train_score": 1.0, "seconds": 1.0, "predictions": said.to_dict()}
    cells = [{"target": "sex", "size": 4, "seed": seed} for seed in (0, 1)]
    row = summarise([record | {"cell": cell} for cell in cells]).iloc[0]
    assert row["balanced accuracy"] == 0.9
    assert 0.75 < row["low"] < 0.9 < row["high"] < 1
    assert row["chance"] == 0.5


def test_the_plan_counts_fits(tmp_path):
    config = Calibration(tmp_path, ("sex",), (4, 8), 3, 140, 10)
    seconds = dict(plan(config))
    assert set(seconds) == {"phantom", "6 fits"}
    assert min(seconds.values()) > 0
