import numpy as np
import pytest
from chromium import browse, needs_chromium
from verdicts import group

from neuromix.experiments.evidence.diagnosis import diagnose
from neuromix.experiments.evidence.report import page, seeds_warning
from neuromix.experiments.frame.verdict import weigh

ARMS = {
    "real": 0.6, "classical": 0.7, "synthetic-0.5": 0.65, "synthetic-2": 0.8, "gaussian": 0.62,
    "synthetic-only": 0.55, "ceiling": 0.9, "scratch": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    volumes = np.random.default_rng(0).random((2, 8, 9, 10)).astype(np.float32)
    titles = np.array(["F 70 NC", "M 61 AD"])
    np.savez(
        folder / "site-A-40.npz", affine=np.diag([4.0, 4, 4, 1]), image="md",
        **dict.fromkeys(("real", "synthetic", "gaussian"), volumes),
        **dict.fromkeys(("titles", "synthetic titles", "gaussian titles"), titles),
    )  # fmt: skip
    groups = [group(ARMS), group(ARMS, size=160)]
    time = {"seconds": 120.0, "loading share": 0.07, "seconds by part": {"samplers": 60.0}}
    results = weigh(groups, None) | {"time": time, "made by": {"scikit-learn": "1.0"}}
    results["diagnosis"] = diagnose(results["groups"], [])
    path = folder / "report.html"
    path.write_text(
        page(
            "Transfer", results, groups, ["Site A is a phantom."], [seeds_warning(5, "size")],
            pictures=[folder / "site-A-40.npz"],
        )
    )  # fmt: skip
    return path, results


def test_the_page_holds_what_a_reviewer_asks_for(report):
    path, results = report
    text = path.read_text()
    assert text.index(results["verdict"][:40]) < text.index("how much another sampler")
    for words in (
        "real + synthetic, ratio 2 (chosen on validation)", "share of the gap closed",
        "p, Holm (exploratory)", "of it loading data and waiting for it", "7.0 %",
        "Learning curves, with 95 % intervals", "By the ratio of synthetic to real subjects",
        "ROC:", "Confusion:", "What explains it", "scikit-learn",
        "Site A is a phantom.",
        "A real training subject, F 70 NC", "A synthetic subject, F 70 NC",
    ):  # fmt: skip
        assert words in text, words
    # Hearing the ratio curve tells its numbers.
    score = results["groups"][0]["scores"]["synthetic-2"]["balanced_accuracy"]["value"]
    assert f"{score:.3g} (" in text
    assert "at 0.5" in text
    assert "at 160" in text
    # slices, differences, ratio and learning curves, ROC, confusion
    assert text.count("<img src=") == 6


@needs_chromium
def test_a_browser_shows_it_without_complaint(report, tmp_path):
    opened = browse(report[0], tmp_path)
    assert opened.complaints == []
    assert opened.found["requests"] == []
    assert len(opened.found["canvases"]) == 2
    assert min(opened.found["pictures"]) > 0
    assert opened.found["content"] <= opened.found["width"]


def test_where_validation_scores_are_equal_none_is_chosen_by_them():
    alike = group(ARMS, validation=dict.fromkeys(ARMS, 0.7))
    time = {"seconds": 1.0, "loading share": 0.1, "seconds by part": {"samplers": 1.0}}
    results = weigh([alike], None) | {"time": time, "diagnosis": [], "made by": {}}
    text = page("Test subjects", results, [alike], [], [])
    assert "real + synthetic, ratio 2" in text
    assert "chosen on validation" not in text
