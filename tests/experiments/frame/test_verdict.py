import json

import pytest
from verdicts import group

from neuromix.augment.errors import InputError
from neuromix.experiments.frame.verdict import Endpoint, weigh

HELPS = {"real": 0.6, "gaussian": 0.62, "synthetic-1": 0.8, "synthetic-2": 0.9, "ceiling": 0.95}
ENDPOINT = {
    "experiment": "transfer", "setting": "dementia-b", "metric": "balanced_accuracy",
    "arm": "synthetic-1", "baseline": "real", "size": 40, "seeds": [1000, 1001],
}  # fmt: skip


def rows(results, number=0):
    return {(r["arm"], r["baseline"]): r for r in results["groups"][number]["comparisons"]}


def test_a_planted_gain_is_the_first_sentence():
    results = weigh([group(HELPS)], None)
    assert results["verdict"].startswith("Synthetic data raised balanced accuracy of dementia by ")
    first, second = results["verdict"].split(". Compared are: ")
    assert first.endswith(", on phantom site B")
    assert second.startswith("real + synthetic, ratio 2, against real + PCA-Gaussian; dementia on")
    row = rows(results)["synthetic-2", "gaussian"]
    assert 0.2 < row["difference"] < 0.36
    low, high = row["interval"]
    told = f"{100 * row['difference']:.1f} points, 95 % CI {100 * low:.1f} to {100 * high:.1f}"
    assert told in results["verdict"]
    gap = results["groups"][0]["gap_closed"]["synthetic-2"]
    assert gap["interval"][0] < gap["value"] < gap["interval"][1]
    assert "beats the best baseline in 1 of 1" in results["verdict"]


@pytest.mark.parametrize("accuracy", [0.6, 0.35])
def test_what_did_not_help_says_so_first(accuracy):
    results = weigh([group({"real": 0.6, "synthetic-1": accuracy})], None)
    assert results["verdict"].startswith("Synthetic data did not help: it ")
    assert ("lowered" in results["verdict"]) is (accuracy < 0.5)
    assert ("is beaten in 1" in results["verdict"]) is (accuracy < 0.5)


def test_arm_and_baseline_are_chosen_on_validation_not_on_the_test():
    unlucky = group(HELPS, validation={"synthetic-1": 0.99, "real": 0.9})
    assert (unlucky.chosen, unlucky.baseline) == ("synthetic-1", "real")
    lucky = group(HELPS)
    assert (lucky.chosen, lucky.baseline) == ("synthetic-2", "gaussian")


def test_every_comparison_is_in_one_family():
    results = weigh([group(HELPS), group(HELPS, size=160)], None)
    found = [row for told in results["groups"] for row in told["comparisons"]]
    assert len(found) == results["comparisons"] == 2 * 5  # 3 arms to real, 2 to the Gaussian
    assert all(row["p_holm"] >= row["p"] for row in found)
    alone = weigh([group(HELPS)], None)
    assert rows(alone)["gaussian", "real"]["p_holm"] <= rows(results)["gaussian", "real"]["p_holm"]
    best = rows(results)["synthetic-2", "real"]
    assert best["p_holm"] == pytest.approx(10 * best["p"])
    assert best["p_holm"] < 0.05  # enough draws to survive a correction


def read(folder, phantom_seed=1000, experiment="transfer", **changes):
    path = folder / "endpoint.json"
    path.write_text(json.dumps(ENDPOINT | changes))
    return Endpoint.read(path, experiment, phantom_seed)


def test_the_primary_endpoint_comes_first_and_is_not_corrected(tmp_path):
    results = weigh([group(HELPS, size=160), group(HELPS)], read(tmp_path), "stated in a.json")
    first = results["verdict"].split(" In all")[0]
    assert "Primary endpoint, stated in a.json." in first
    assert "ratio 1, against real only; dementia on held-out subjects, 40 real" in first
    assert "Holm" not in first
    assert results["comparisons"] == 9
    primary = rows(results, 1)["synthetic-1", "real"]
    assert "p_holm" not in primary
    assert primary["p"] == results["primary"]["p"]
    auc = weigh([group(HELPS)], read(tmp_path, metric="auc"))
    assert auc["primary"]["metric"] == "auc"
    assert auc["comparisons"] == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experiment": "settings"}, "is for the experiment settings, not transfer"),
        ({"phantom_seed": 3}, r"phantom seeds \[1000, 1001\], and seed 3"),
        ({"metric": "luck"}, "allowed are balanced_accuracy"),
        ({"arm": "magic"}, "'magic'; allowed are real"),
    ],
)
def test_an_endpoint_that_does_not_fit_is_refused(tmp_path, changes, words):
    seed = changes.pop("phantom_seed", 1000)
    path = tmp_path / "endpoint.json"
    path.write_text(json.dumps(ENDPOINT | changes))
    with pytest.raises(InputError, match=words):
        Endpoint.read(path, "transfer", seed)


def test_an_endpoint_must_be_one_comparison_of_the_experiment(tmp_path):
    keys = [{"setting": "dementia-b", "size": 40, "size_b": b} for b in (20, 80)]
    with pytest.raises(InputError, match="fits 2 groups"):
        read(tmp_path).require(keys, ["real", "synthetic-1"])
    exact = read(tmp_path, size_b=20)
    exact.require(keys, ["real", "synthetic-1"])
    with pytest.raises(InputError, match="needs the arm synthetic-1"):
        exact.require(keys, ["real"])
    (tmp_path / "endpoint.json").write_text("{}")
    with pytest.raises(InputError, match="lacks experiment, setting"):
        Endpoint.read(tmp_path / "endpoint.json", "transfer", 0)
