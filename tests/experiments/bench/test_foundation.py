import json
from dataclasses import replace

import pytest
import torch

from neuromix.augment.tiled.config import PRESETS
from neuromix.experiments.bench import foundation
from neuromix.experiments.bench.maps import autoencoder, dit, parameters, unet
from neuromix.experiments.cli.main import main


@pytest.fixture
def small(monkeypatch):
    """A demo preset whose networks are small, though not so small that none has equal size."""
    demo = PRESETS["demo"]
    shape = replace(demo, layers=2, head_dim=24, training=replace(demo.training, batch_size=2))
    monkeypatch.setitem(PRESETS, "demo", shape)


def run(what, out, *options):
    sizes = ["--preset", "demo", "--spacing", "16", *options, "--out", str(out)]
    assert main(["benchmark", what, *sizes]) == 0
    return json.loads(out.read_text())


def test_figures_are_named_kept_and_positive(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        foundation, "make_phantom", lambda out, kind, *, subjects: made.append((kind, subjects))
    )
    rows = foundation.foundation(20, 5, tmp_path / "figures.json")
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert kept["rows"] == rows
    assert "cores" in kept["machine"]
    pairs = [("md", 1), ("md", 20), ("task", 1), ("task", 2), ("paired", 1), ("paired", 20)]
    assert made == [("md", 1), *pairs]
    seconds = {row["what"]: row["seconds"] for row in rows}
    assert seconds["Cohort.from_bids, 5 subjects"] > 0
    assert seconds["import neuromix.augment"] > 0


def test_sampling_is_timed_beside_networks_of_equal_size(small, tmp_path, capsys):
    kept = run("sampling", tmp_path / "s.json", "--repeats", "1", "--measured", "1")
    assert "cores" in kept["machine"]
    rows = {(row["what"], row["passes"]): row for row in kept["rows"]}
    ours = rows["neuromix, 20 steps", 20]
    rivals = {key: row for key, row in rows.items() if not key[0].startswith(("neuro", "PCA"))}
    assert {key: row["measured"] for key, row in rivals.items()} == {
        ("DiTPipeline, DDPM", 250): 1, ("DiTPipeline, DDIM", 50): 1, ("DiTPipeline, DDIM", 20): 1,
        ("MONAI 3D U-Net, DDPM", 1000): 1, ("MONAI 3D U-Net, DDIM", 50): 1,
        ("MONAI 3D U-Net, DDIM", 20): 1, ("MONAI 3D U-Net, DDIM", 10): 1,
    }  # fmt: skip
    assert (ours["measured"], rows["neuromix, 10 steps", 10]["measured"]) == (20, 10)
    for row in rivals.values():
        assert row["weights"] == pytest.approx(ours["weights"], rel=0.1)
    for (_, passes), row in rows.items():
        assert 0 < passes * row["s/pass"] <= row["s/volume"]
        assert row["ratio"] == pytest.approx(row["s/volume"] / ours["s/volume"])
    assert "MONAI" in capsys.readouterr().out


def test_training_is_timed_and_its_memory_is_flat(small, tmp_path, capsys):
    options = ["--pairs", "1", "--cohorts", "10", "40000"]
    kept = run("training", tmp_path / "t.json", *options)
    loop, bare, monai = kept["rows"]
    assert loop["weights"] == bare["weights"]
    assert monai["weights"] == pytest.approx(bare["weights"], rel=0.1)
    assert bare["ratio"] == 1
    assert all(row["steps/s"] == pytest.approx(1 / row["s/step"]) for row in kept["rows"])
    assert 0 < kept["waiting"] < 1
    few, many = kept["memory"]
    assert (few["subjects"], many["subjects"]) == (10, 40000)
    assert many["latents, MB"] > 60 + few["latents, MB"]
    assert 50 < few["own, MB"] < few["peak, MB"]
    assert many["own, MB"] - few["own, MB"] < 30
    assert "Waiting for data" in capsys.readouterr().out


def test_completions_are_timed_beside_their_rivals(tmp_path):
    options = ["--spacing", "12", "--samples", "2", "--rounds", "1"]
    rows = run("completing", tmp_path / "c.json", *options)["rows"]
    assert [row["what"] for row in rows] == [
        "neuromix", "MONAI's diffusion U-Net", "MONAI's U-Net, one prediction",
        "voxelwise regression, one prediction", "reading the two real files",
    ]  # fmt: skip
    assert rows[0]["ratio"] == 1
    assert all(row["s/subject"] > 0 for row in rows)
    assert rows[1]["weights"] > rows[2]["weights"] > rows[3]["weights"] == 0


def test_runs_are_timed_beside_their_rivals(tmp_path):
    options = ["--spacing", "12", "--frames", "40", "--rounds", "1"]
    rows = run("runs", tmp_path / "r.json", *options)["rows"]
    ours, *networks, real = rows
    assert (ours["ratio"], ours["weights"], real["weights"]) == (1, 0, 0)
    assert all(row["s/100 frames"] > 0 for row in rows)
    assert 0.5 < networks[-1]["weights"] / networks[-2]["weights"] < 2


@pytest.mark.parametrize(
    "build", [unet, autoencoder, lambda target: dit(target, layers=6, heads=4, side=38)]
)
@pytest.mark.parametrize("target", [3e6, 3e7])
def test_networks_of_a_wanted_size(build, target):
    assert parameters(build(int(target))) == pytest.approx(target, rel=0.1)


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
        (["completing", "--samples", "1"], "measure nothing"),
        (["runs", "--frames", "0"], "measure nothing"),
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
            def measure(quick):
                yield everything.Figure(name, "a step", 2.0, "s", "a bare step", 1.5)

            return measure

        monkeypatch.setattr(everything, "PARTS", {name: part(name) for name in "ab"})

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
