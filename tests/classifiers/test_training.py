import numpy as np
import pytest
import torch
from volumes import subjects

from neuromix.augment.errors import InputError
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.training import Chunks, class_weights, device_for, temperature


def test_chunks_cover_every_position_once():
    chunks = Chunks(steps=7, every=3, batch_size=2)
    parts = [list(chunks) for _ in range(3)]
    assert [len(part) for part in parts] == [6, 6, 2]
    assert [k for part in parts for k in part] == list(range(14))


def test_class_weights():
    codes = np.array([0, 0, 0, 1])
    assert class_weights(None, ["a", "b"], codes) is None
    torch.testing.assert_close(
        class_weights("balanced", ["a", "b"], codes), torch.tensor([4 / 6, 2.0])
    )
    assert class_weights({"b": 1, "a": 3}, ["a", "b"], codes).tolist() == [3, 1]
    with pytest.raises(InputError, match="a weight for each of a, b"):
        class_weights("even", ["a", "b"], codes)


def test_class_weights_move_the_decision():
    blank = subjects(16, shape=(8, 8, 8))
    for subject in blank:  # nothing to see, so that the shares of the classes decide
        subject["md"].set_data(torch.rand(1, 8, 8, 8))
    labels = ["rare"] * 4 + ["common"] * 12
    options = {"steps": 20, "batch_size": 8, "network": "sfcn"}
    shares = [
        VolumeClassifier("sex", **options, class_weight=weight)
        .fit(blank, labels)
        .predict_proba(blank)[:, 1]
        .mean()
        for weight in (None, {"rare": 20, "common": 1})
    ]
    assert shares[0] < 0.5 < shares[1]


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_temperature_undoes_a_factor_of_the_logits(factor):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 3))
    odds = np.exp(logits)
    chosen = (rng.random((20000, 1)) > (odds / odds.sum(1, keepdims=True)).cumsum(1)).sum(1)
    assert temperature(factor * logits, chosen) == pytest.approx(factor, rel=0.05)


def test_a_few_right_answers_do_not_make_it_certain():
    logits, codes = np.array([[2.0, -2.0]] * 5), np.zeros(5, int)
    few = temperature(logits, codes)
    assert 0.4 < few < 1
    assert temperature(np.tile(logits, (100, 1)), np.zeros(500, int)) < 0.7 * few


def test_the_device_is_found_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for("auto", "float32") == "cpu"
    with pytest.raises(InputError, match="auto, cpu are allowed"):
        device_for("cuda", "float32")
    with pytest.raises(InputError, match="allowed are float32, bfloat16"):
        device_for("cpu", "int8")


def test_frozen_features_stay_as_they_are():
    source = VolumeClassifier("sex", steps=3, batch_size=4).fit(subjects(8))
    for freeze in (True, False):
        taken = VolumeClassifier.from_classifier(source, freeze=freeze, target="diagnosis", seed=7)
        state = taken.fit(subjects(8, seed=1)).net_.module_.state_dict()
        same = [
            torch.equal(state[name], tensor)
            for name, tensor in source.net_.module_.state_dict().items()
            if name.startswith("features") and "num_batches" not in name
        ]
        assert all(same) if freeze else not any(same)
