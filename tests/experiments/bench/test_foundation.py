import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from neuromix.augment.tiled.config import PRESETS
from neuromix.experiments.bench import foundation
from neuromix.experiments.bench.config import Benchmark, Foundation
from neuromix.experiments.bench.figures import Figure, beside, by_turns
from neuromix.experiments.bench.maps import autoencoder, dit
from neuromix.experiments.cli.main import main
from neuromix.experiments.quality.monai_unet import weights_of


@pytest.fixture
def small(monkeypatch):
    """A demo preset whose networks are small, though not so small that none has equal size."""
    demo = PRESETS["demo"]
    shape = replace(demo, layers=2, head_dim=24, training=replace(demo.training, batch_size=2))
    monkeypatch.setitem(PRESETS, "demo", shape)


def run(what, out, *options):
    sizes = ["--preset", "demo", "--spacing", "16", *options, "--out", str(out)]
    assert main(["benchmark", what, *sizes]) == 0
    kept = json.loads(out.read_text())
    assert "cores" in kept["machine"]
    return {row["what"]: row for row in kept["rows"]}


def test_figures_are_named_kept_and_positive(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        foundation, "make_phantom", lambda out, kind, *, subjects: made.append((kind, subjects))
    )
    figures = foundation.foundation(
        Foundation(subjects=20, indexed=5, out=tmp_path / "figures.json")
    )
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert kept["rows"] == [figure._asdict() for figure in figures]
    assert "cores" in kept["machine"]
    pairs = [("md", 1), ("md", 20), ("task", 1), ("task", 2), ("paired", 1), ("paired", 20)]
    assert made == [("md", 1), *pairs]
    seconds = {figure.what: figure.value for figure in figures}
    assert seconds["Cohort.from_bids, 5 subjects"] > 0
    assert seconds["import neuromix.augment"] > 0


def test_ratios_are_medians_within_a_round():
    values = {"a": np.array([1.0, 10.0, 1.0]), "b": np.array([2.0, 20.0, 5.0])}
    a, b = beside("part", values, "s", "a", {"b": 7})
    assert (a.value, a.ratio, b.value, b.ratio, b.weights) == (1.0, 1.0, 5.0, 2.0, 7)


def test_a_round_before_the_first_warms_up():
    turns = []
    assert len(by_turns({"a": turns.append}, 2)["a"]) == 2
    assert turns == [0, 1, 2]


def test_sampling_is_timed_beside_networks_of_equal_size(small, tmp_path, capsys):
    rows = run("sampling", tmp_path / "s.json", "--repeats", "1", "--measured", "1")
    ours = rows.pop("neuromix, 20 steps, 20 passes")
    rivals = {name: row for name, row in rows.items() if not name.startswith(("neuro", "PCA"))}
    assert set(rivals) == {
        "DiTPipeline, DDPM, 250 passes", "DiTPipeline, DDIM, 50 passes",
        "DiTPipeline, DDIM, 20 passes", "MONAI 3D U-Net, DDPM, 1000 passes",
        "MONAI 3D U-Net, DDIM, 50 passes", "MONAI 3D U-Net, DDIM, 20 passes",
        "MONAI 3D U-Net, DDIM, 10 passes",
    }  # fmt: skip
    for row in rivals.values():
        assert row["weights"] == pytest.approx(ours["weights"], rel=0.1)
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["value"] / ours["value"])
        assert row["value"] > 0
    assert "MONAI" in capsys.readouterr().out


def test_training_is_timed_and_its_memory_is_flat(small, tmp_path):
    options = ["--pairs", "1", "--cohorts", "10", "40000"]
    rows = run("training", tmp_path / "t.json", *options)
    loop, bare = (rows[name] for name in ("train, but checkpoints", "bare steps"))
    assert loop["weights"] == bare["weights"]
    assert bare["ratio"] == 1
    assert 0 < rows["waiting for data"]["value"] < 100
    few, many = (rows[f"own memory, {n} subjects"]["value"] for n in (10, 40000))
    assert few > 50
    assert many - few < 30  # of stacks of more than 60 MB


@pytest.mark.parametrize(
    "build", [autoencoder, lambda target: dit(target, layers=6, heads=4, side=38)]
)
@pytest.mark.parametrize("target", [3e6, 3e7])
def test_networks_of_a_wanted_size(build, target):
    assert weights_of(build(int(target))) == pytest.approx(target, rel=0.1)


def test_a_dit_makes_square_pictures_of_the_wanted_size():
    network = dit(400_000, layers=2, heads=4, side=6)
    picture = torch.zeros(1, 4, 6, 6)
    with torch.no_grad():
        result = network(picture, torch.tensor([3]), class_labels=torch.tensor([1000])).sample
    assert result.shape == (1, 8, 6, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["sampling", "--repeats", "0"], "measure nothing"),
        (["training", "--pairs", "0"], "measure nothing"),
        (["training", "--cohorts", "3"], "fewer than a batch"),
    ],
)
def test_sizes_that_measure_nothing_are_refused(options, words, capsys):
    assert main(["benchmark", *options]) == 2
    assert words in capsys.readouterr().err


class TestAll:
    @pytest.fixture
    def figures(self, monkeypatch):
        """The parts, which have tests of their own, made up."""
        from neuromix.experiments.bench import everything

        def part(name):
            return lambda _: [Figure(name, "a step", 2.0, "s", "a bare step", 1.5)]

        monkeypatch.setattr(everything, "PARTS", [(part(name), Benchmark()) for name in "ab"])

    def test_one_table_kept_and_compared(self, figures, tmp_path, capsys):
        old, new = tmp_path / "old.json", tmp_path / "new.json"
        assert main(["benchmark", "all", "--out", str(old)]) == 0
        told = json.loads(old.read_text())
        assert [row["part"] for row in told["rows"]] == ["a", "b"]
        told["rows"][1]["value"] = 1.0
        old.write_text(json.dumps(told))
        assert main(["benchmark", "all", "--out", str(new), "--against", str(old)]) == 0
        rows = json.loads(new.read_text())["rows"]
        assert [(row["earlier"], row["to earlier"]) for row in rows] == [(2.0, 1.0), (1.0, 2.0)]
        assert "to earlier" in capsys.readouterr().out

    @pytest.mark.parametrize("content", ["", "[]", '{"rows": [{}]}', '{"machine": 1}'])
    def test_what_is_no_earlier_run_is_refused(self, figures, tmp_path, capsys, content):
        path = tmp_path / "old.json"
        path.write_text(content)
        assert main(["benchmark", "all", "--against", str(path)]) == 2
        assert "neuromix benchmark all" in capsys.readouterr().err

    def test_a_quick_run_is_not_compared_with_a_whole_one(self, figures, tmp_path, capsys):
        path = tmp_path / "old.json"
        assert main(["benchmark", "all", "--quick", "--out", str(path)]) == 0
        assert main(["benchmark", "all", "--against", str(path)]) == 2
        assert "compare like with like" in capsys.readouterr().err
