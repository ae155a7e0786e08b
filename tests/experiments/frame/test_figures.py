import struct

import numpy as np
import pytest

from neuromix.experiments.frame.figures import (
    Line,
    Point,
    Scores,
    bars,
    confusion,
    curves,
    panels,
    roc,
)

RNG = np.random.default_rng(0)
TRUTH = RNG.random(400) < 0.5
SHARP = Scores(TRUTH, np.where(TRUTH, 0.9, 0.1))
BLIND = Scores(TRUTH, np.full(400, 0.5))


def size(png):
    return struct.unpack(">II", png[16:24])


def test_curves_tell_their_numbers_and_levels():
    series = {"real": [Point(40, 0.7, 0.65, 0.75), Point(160, 0.8, 0.77, 0.83)]}
    png, caption, words = curves(
        series, xlabel="subjects", ylabel="accuracy", caption="C", log=True, levels={"chance": 0.5}
    )
    assert caption == "C"
    assert "real: 0.7 (0.65 to 0.75) at 40, 0.8 (0.77 to 0.83) at 160" in words
    assert "chance: 0.5" in words
    lower = {"real": [Point(40, 0.6, 0.55, 0.65), Point(160, 0.8, 0.77, 0.83)]}
    other = curves(lower, xlabel="subjects", ylabel="accuracy", caption="C", log=True)
    assert other[0] != png
    assert min(size(png)) > 300


def test_the_area_of_a_sharp_and_a_blind_one():
    arms = {"sharp": SHARP, "blind": BLIND}
    assert "sharp 1.000, blind 0.500" in roc(arms, case="AD", caption="C")[2]


def test_confusion_is_by_true_class():
    table = np.array([[30, 10], [5, 15]])
    one, _, words = confusion({"real": table}, classes=("F", "M"), caption="C")
    many, _, _ = confusion(dict.fromkeys("abcd", table), classes=("F", "M"), caption="C")
    assert size(many)[1] > 1.5 * size(one)[1]  # a second row, so that a phone shows them
    assert "real: 75 % of F, 75 % of M are recognised" in words


@pytest.mark.parametrize("count", [1, 9])
def test_bars_grow_with_their_number(count):
    rows = [(f"arm {k}", Point(0, 3.1, 1.2, 5.0)) for k in range(count)]
    png, _, words = bars(rows, xlabel="points", caption="C")
    assert "arm 0: 3.1 (1.2 to 5)" in words
    assert size(png)[1] > 90 + 30 * count


def test_panels_show_bands_and_levels():
    lines = {"people": Line([0, 1, 2], [0.0, 1.0, 0.5], [-1, 0, 0], [1, 2, 1])}
    options = {"xlabel": "seconds", "ylabel": "per cent", "caption": "C"}
    bare = {"people": lines["people"]._replace(low=None, high=None)}
    png, caption, words = panels({"left": lines, "right": lines}, **options)
    assert (caption, words) == ("C", "C left; right")
    assert panels({"left": bare, "right": bare}, **options)[0] != png
    assert panels({"left": lines, "right": lines}, level=1.0, **options)[0] != png
    assert size(panels(dict.fromkeys("abcd", lines), **options)[0])[1] > 1.5 * size(png)[1]
