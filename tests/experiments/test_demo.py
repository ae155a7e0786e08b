import json

from neuromix.experiments import demo

SIZES = demo.Sizes(
    md=62, task=4, paired=16, samples=24, md_steps=1, pds_steps=1, judge_steps=1, seeds=1
)


def test_three_phantoms_three_samplers_an_audit_and_a_page(tmp_path):
    folder = demo.run(tmp_path / "runs", sizes=SIZES)
    page = (folder / "report.html").read_text()
    results = json.loads((folder / "results.json").read_text())
    assert results["phantoms"]["problems"] == []
    assert results["MD maps"]["samples"] == 24
    assert results["task fMRI"]["runs"] == 2
    assert -1 <= results["task fMRI"]["agreement"] <= 1
    assert results["completion"]["images"] == 6
    assert results["completion"]["error to the mean"] < 1
    assert set(results["audit"]["utility"]) == {"sex", "dementia"}
    assert results["verdict"].startswith("Samples beside real subjects changed sex by")
    assert page.count("<img ") == 3
    assert "hidden fMRI" in page
    assert (folder / "split" / "test.tsv").exists()
    assert (folder / demo.AUDIT / "report.html").exists()

    written = (folder / "bank-md" / "bank.json").stat().st_mtime_ns
    assert demo.run(tmp_path / "runs", sizes=SIZES) == folder  # it goes on where it was
    assert (folder / "bank-md" / "bank.json").stat().st_mtime_ns == written
