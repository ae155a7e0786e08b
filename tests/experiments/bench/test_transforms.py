import json

import numpy as np
import pytest

from neuromix.augment.data.grid import Grid
from neuromix.experiments.bench.transforms import FreeSampler
from neuromix.experiments.cli.main import main

TINY = ["--spacing", "16", "--samples", "4", "--rounds", "2", "--draws", "40"]


def test_draws_loaders_and_memory_are_measured(tmp_path):
    out = tmp_path / "figures.json"
    assert main(["benchmark", "transforms", *TINY, "--workers", "0", "1", "--out", str(out)]) == 0
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    draws = [row for row in rows.values() if row["unit"] == "ms"]
    assert len(draws) == 4
    assert rows["SampleBank.draw"]["ratio"] == 1
    assert all(row["value"] > 0 and row["ratio"] > 0 for row in draws)
    for workers in (0, 1):
        assert rows[f"loader, real files alone, {workers} workers"]["ratio"] == 1
        for name in ("RandomSynthetic, p=0.5", "mix, ratio 1, add", "mix, ratio 1, replace"):
            assert rows[f"loader, {name}, {workers} workers"]["value"] > 0
    assert rows["memory over draws grows by"]["value"] < 50


def test_images_are_noise_in_an_ellipsoid():
    sampler = FreeSampler(Grid.mni(8.0))
    first, second = (sampler.subject({"sex": "F"}, seed) for seed in (1, 2))
    data = first["md"].numpy()[0]
    assert first["sex"] == "F"
    assert not np.array_equal(data, second["md"].numpy()[0])
    assert (data != 0).sum() * 8.0**3 / 1e6 == pytest.approx(1.57, rel=0.05)  # litres
    assert data[tuple(side // 2 for side in data.shape)] != 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--draws", "0"], "0 draws measure nothing"),
        (["--workers", "-1"], "workers (-1,) came"),
    ],
)
def test_sizes_that_measure_nothing_are_refused(options, words, capsys):
    assert main(["benchmark", "transforms", *options]) == 2
    assert words in capsys.readouterr().err
