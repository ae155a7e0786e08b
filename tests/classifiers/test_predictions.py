import json

import numpy as np
import pytest
from predictions import of_scores, simulate

from neuromix.augment.errors import InputError
from neuromix.classifiers.predictions import Predictions, people, pool


def test_predictions_survive_json_and_are_checked():
    first = simulate(np.random.default_rng(0), 10, 1)[0]
    again = Predictions.from_dict(json.loads(json.dumps(first.to_dict())))
    for name in ("subjects", "truth", "probabilities"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert again.classes == first.classes
    plain = first.to_dict()
    for change, message in (
        ({"truth": plain["truth"][:-1]}, "shapes"),
        ({"truth": ["MCI"] * 10}, "the truth is 'MCI'"),
        ({"probabilities": [[0.2, 0.2]] * 10}, "sum to one"),
    ):
        with pytest.raises(InputError, match=message):
            Predictions.from_dict(plain | change)


def test_the_order_of_classes_is_that_of_the_columns():
    run = of_scores(np.array([1, 0]), [3.0, -3.0])
    assert run.codes.tolist() == [1, 0]
    assert [run.classes[k] for k in run.probabilities.argmax(1)] == run.truth.tolist()


def test_parts_of_other_subjects_make_one_run():
    whole = simulate(np.random.default_rng(0), 10, 1)[0]
    rows = whole.subjects, whole.truth, whole.probabilities
    parts = [Predictions(*(row[k::2] for row in rows), whole.classes) for k in range(2)]
    joined = pool(parts)
    assert sorted(joined.subjects) == sorted(whole.subjects)
    for broken, message in (([], "there must be some"), ([parts[0], parts[0]], "share subjects")):
        with pytest.raises(InputError, match=message):
            pool(broken)


def test_people_are_named_once_with_their_last_row():
    names, last, person = people(["b", "a", "b", "c"])
    assert names.tolist() == ["a", "b", "c"]
    assert last.tolist() == [1, 2, 3] and person.tolist() == [1, 0, 1, 2]
