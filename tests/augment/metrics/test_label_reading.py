import json

import numpy as np
import pytest

from neuromix.augment.metrics.label_reading import label_accuracy, labels_told


def people(n, seed):
    """Points of F and M, who differ along the first feature, and their labels."""
    rng = np.random.default_rng(seed)
    sex = np.where(rng.random(n) < 0.5, "M", "F")
    points = rng.standard_normal((n, 6))
    points[:, 0] += 4 * (sex == "M")
    return points, sex.tolist()


def told(sets):
    return labels_told(*zip(*sets, strict=True))


FITTED, HELDOUT = people(80, 0), people(60, 1)


def test_labels_are_told_as_in_people_and_not_when_dealt_anew():
    row = told([FITTED, people(50, 2), HELDOUT])
    assert json.loads(json.dumps(row)) == row
    assert row["interval"][0] > row["chance"] == 0.5
    assert row["ratio"] == pytest.approx(1, abs=0.1)
    assert row["shuffled"] == pytest.approx(0.5, abs=0.1)


def test_exchanged_and_random_labels_are_seen():
    points, sex = people(50, 2)
    other = [{"F": "M", "M": "F"}[each] for each in sex]
    assert told([FITTED, (points, other), HELDOUT])["interval"][1] < 0.5
    random = np.random.default_rng(3).permutation(sex).tolist()
    low, high = told([FITTED, (points, random), HELDOUT])["interval"]
    assert low < 0.5 < high


def test_a_class_that_a_set_hardly_has_is_left_out():
    points, sex = people(50, 2)
    rare = ["M"] * 2 + ["F"] * 48
    assert told([FITTED, (points, rare), HELDOUT]) is None
    third = [*FITTED[1][:-5], *["X"] * 5]
    row = told([(FITTED[0], third), (points, sex), HELDOUT])
    assert set(row["recall"]) == {"F", "M"}


def test_accuracy_is_balanced_and_leaves_missing_labels_out():
    labels = ["F"] * 8 + ["M", "M", None, None]
    read = ["M" if k % 3 == 0 else "F" for k in range(12)]
    row = label_accuracy(read, labels)
    assert row["recall"] == {"F": 5 / 8, "M": 1 / 2}  # 0, 3, 6 and 9 are called M
    assert row["value"] == (5 / 8 + 1 / 2) / 2
    assert 0.2 < row["interval"][0] < 0.4 and 0.7 < row["interval"][1] < 0.9


def test_a_perfect_judgement_keeps_its_doubt():
    labels = ["F", "M"] * 10
    row = label_accuracy(labels, labels)
    assert row["value"] == 1 and row["interval"][1] == 1
    assert 0.8 < row["interval"][0] < 0.95
