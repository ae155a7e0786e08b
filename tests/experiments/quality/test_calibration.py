import json

from neuromix.experiments.quality.calibration import run, summarise
from neuromix.experiments.quality.config import Calibration


def test_it_resumes_and_reports(md_phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "neuromix.experiments.quality.calibration.make_phantom", lambda *a, **k: md_phantom
    )
    config = Calibration(tmp_path, ("sex",), (4, 8), 2, 14, 2)
    rows = run(config)
    assert [(row["used"], row["seed"]) for row in rows] == [(4, 0), (4, 1), (8, 0), (8, 1)]
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["cells"]) == 2
    assert "Balanced accuracy on phantom site B" in (tmp_path / "report.html").read_text()

    def refuse(*args):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr("neuromix.experiments.quality.calibration.VolumeClassifier.fit", refuse)
    assert run(config) == rows
    monkeypatch.undo()
    monkeypatch.setattr(
        "neuromix.experiments.quality.calibration.make_phantom", lambda *a, **k: md_phantom
    )
    run(Calibration(tmp_path, ("sex",), (4,), 1, 14, 3))
    assert run(config) == rows  # other settings took nothing away


def test_the_interval_holds_the_score_and_chance_is_known():
    truth = ["F", "M"] * 20
    wrong = ["M" if k < 8 else label for k, label in enumerate(truth)]
    cell = {
        "target": "sex", "size": 4, "used": 4, "steps": 1, "truth": truth, "predicted": wrong,
        "train_score": 1.0, "seconds": 1.0,
    }  # fmt: skip
    table = summarise([cell | {"seed": 0}, cell | {"seed": 1}])
    row = table.iloc[0]
    assert row["balanced accuracy"] == 0.9
    assert 0.75 < row["low"] < 0.9 < row["high"] < 1
    assert row["chance"] == 0.5
