import json

import numpy as np
import pytest

from neuromix.augment.data.grid import Grid
from neuromix.experiments.bench.transforms import FreeSampler, _is_partial
from neuromix.experiments.cli.main import main

TINY = ["--spacing", "16", "--samples", "4", "--rounds", "2", "--draws", "40", "--kills", "2"]


def test_draws_loaders_memory_and_fills_are_measured(tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert main(["benchmark", "transforms", *TINY, "--workers", "0", "1", "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    assert "cores" in kept["machine"]
    draw, *others = kept["draw"]
    assert draw["draw / it"] == 1
    assert len(others) == 3
    assert all(row["ms"] > 0 and row["draw / it"] > 0 for row in others)
    real = [row for row in kept["loader"] if row["what"] == "real files alone"]
    assert [(row["workers"], row["to real"]) for row in real] == [(0, 1), (1, 1)]
    assert {row["what"] for row in kept["loader"]} >= {"mix, ratio 1, add", "mix, ratio 1, replace"}
    assert all(row["items/s"] > 0 for row in kept["loader"])
    assert kept["memory"]["draws"] == 40
    assert kept["memory"]["own, MB"] > 50
    assert [(row["processes"], row["same digest"]) for row in kept["fill"]] == [
        (1, True),
        (2, True),
    ]
    kills = kept["kills"]
    assert (kills["same as unbroken"], kills["partial files"]) == (2, 0)
    assert len(kills["images at the kill"]) == 2
    assert "Fills killed" in capsys.readouterr().out


def test_images_are_noise_in_an_ellipsoid():
    sampler = FreeSampler(Grid.mni(8.0))
    first, second = (sampler.subject({"sex": "F"}, seed) for seed in (1, 2))
    data = first["md"].numpy()[0]
    assert first["sex"] == "F"
    assert not np.array_equal(data, second["md"].numpy()[0])
    assert (data != 0).sum() * 8.0**3 / 1e6 == pytest.approx(1.57, rel=0.05)  # litres
    assert data[tuple(side // 2 for side in data.shape)] != 0


@pytest.mark.parametrize(
    ("name", "content", "is_partial"),
    [
        ("bank.json", b'{"a": 1}', False),
        ("bank.json", b'{"a": 0}', False),  # before its last writing
        ("bank.json", b'{"a": ', True),
        ("x.nii", b"1", False),
        ("x.nii", b"", True),
        ("other.tsv", b"1", True),
    ],
)
def test_partial_files_are_told_from_whole_ones(name, content, is_partial):
    assert _is_partial(name, content, {"bank.json": b'{"a": 1}', "x.nii": b"1"}) is is_partial


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
