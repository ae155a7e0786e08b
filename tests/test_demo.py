from experiments import demo


def test_the_demo_ends_with_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SUBJECTS", {"md": 4, "task": 1, "paired": 1})
    folder = demo.run(tmp_path / "runs")
    page = (folder / "report.html").read_text()
    assert "with 0 problems" in page
    assert page.count("<img ") == 2
    assert (folder / "split" / "test.tsv").exists()
