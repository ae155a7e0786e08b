import json

from experiments import benchmark


def test_figures_are_named_kept_and_positive(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        benchmark, "make_phantom", lambda out, kind, *, subjects: made.append((kind, subjects))
    )
    rows = benchmark.foundation(20, 5, tmp_path / "figures.json")
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert kept["rows"] == rows
    assert "cores" in kept["machine"]
    pairs = [("md", 1), ("md", 20), ("task", 1), ("task", 2), ("paired", 1), ("paired", 20)]
    assert made == [("md", 1), *pairs]
    seconds = {row["what"]: row["seconds"] for row in rows}
    assert seconds["Cohort.from_bids, 5 subjects"] > 0
    assert seconds["import augment"] > 0
