from verdicts import group

from neuromix.experiments.evidence.diagnosis import diagnose
from neuromix.experiments.frame.verdict import weigh


def findings(accuracies):
    return [row["finding"] for row in diagnose(weigh([group(accuracies)], None)["groups"], [])]


def test_room_labels_ratio_and_what_is_had_for_less():
    sentences = findings({
        "real": 0.6, "classical": 0.75, "synthetic-1": 0.64, "synthetic-4": 0.7,
        "synthetic-only": 0.6, "gaussian": 0.6, "ceiling": 0.95,
    })  # fmt: skip
    assert sentences[0].startswith("room of 2")
    assert sentences[1].startswith("samples show their labels")
    assert sentences[2].startswith("the best ratio on test subjects is 4")
    assert sentences[3].startswith("the cheap generator makes no clear difference")
    assert sentences[4].startswith("classical augmentation helps")


def test_no_room_and_samples_that_mislead():
    sentences = findings({
        "real": 0.8, "classical": 0.6, "synthetic-1": 0.7, "synthetic-4": 0.65,
        "synthetic-only": 0.5, "ceiling": 0.81,
    })  # fmt: skip
    assert sentences[0].startswith("no clear room")
    assert sentences[1].startswith("samples look or mean something else")
    assert sentences[2].startswith("more samples do not help")
    assert sentences[3].startswith("classical augmentation harms")


def test_pretraining_that_harms():
    (sentences,) = findings({"real": 0.6, "scratch": 0.8})
    assert sentences.startswith("pretraining on real subjects harms: -")
    assert "points over a network without it" in sentences


def test_arms_that_were_not_run_say_nothing():
    assert findings({"real": 0.6, "synthetic-1": 0.7}) == []


def test_a_sampler_that_stayed_at_its_start_is_named():
    records = [
        {"cell": {"sampler": "A-40"}, "scans": 40, "best_step": 0},
        {"cell": {"sampler": "A-160"}, "scans": 160, "best_step": 150},
    ]
    (row,) = diagnose([], records)
    assert row["where"] == "sampler A-40"
    assert "40 scans" in row["finding"]
