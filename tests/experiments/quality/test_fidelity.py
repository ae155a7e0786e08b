import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from neuromix.augment import files
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.config import PRESETS
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.experiments.cli.main import main
from neuromix.experiments.quality import config as settings
from neuromix.experiments.quality import fidelity, fidelity_report
from neuromix.experiments.quality.baselines import MeanNoise
from neuromix.experiments.quality.config import Fidelity
from neuromix.experiments.quality.fidelity import divide, run
from neuromix.experiments.quality.fidelity_judges import Bench

CONFIG = {
    "preset": "demo", "train": 16, "validation": 4, "heldout": 16, "judges": 16, "synthetic": 12,
    "sampling_seeds": 2, "steps": (2, 4), "unet_samples": 12, "judge_steps": 3,
}  # fmt: skip


class Noise:
    """A planted bad generator: nothing but noise."""

    def fit(self, volumes, labels):
        self.shape = volumes.shape[1:]
        return self

    def draw(self, labels, seeds):
        noise = [np.random.default_rng(seed).random(self.shape) for seed in seeds]
        return 3 * np.stack(noise).astype(np.float32)


@pytest.fixture(scope="module")
def patched():
    """Two networks, two generators, and 2 against 4 steps instead of 20 against 250."""
    small = replace(
        PRESETS["demo"], layers=1, heads=1, head_dim=16,
        training=replace(PRESETS["demo"].training, steps=3, validate_every=3, checkpoint_every=3),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "demo", small)
        patch.setattr(fidelity, "SIMPLE", {"mean": MeanNoise, "planted": Noise})
        patch.setattr(fidelity, "VARIANTS", {"narrow": {"head_dim": 8}})
        patch.setattr(settings, "BASELINES", ("mean", "planted", "MONAI U-Net", "narrow"))
        patch.setattr(fidelity, "USUAL", 2)
        patch.setattr(fidelity_report, "FEW", 2)
        patch.setattr(fidelity_report, "MANY", 4)
        patch.setattr(fidelity_report, "GAUSSIAN", "planted")
        yield patch


@pytest.fixture(scope="module")
def data(md_phantom, tmp_path_factory):
    """52 subjects, each half of one phantom subject and half of another, with a little noise."""
    folder = tmp_path_factory.mktemp("fidelity")
    real = [subject["md"] for subject in Cohort.from_bids(md_phantom).subjects()]
    rng = np.random.default_rng(0)
    rows = []
    for k in range(52):
        one, two = (real[i].numpy()[0] for i in rng.choice(len(real), 2, replace=False))
        volume = (one + two) / 2 + 0.03 * rng.standard_normal(one.shape)
        path = folder / f"{k}.nii"
        files.write_nifti(path, (volume * (one > 0)).astype(np.float32), real[0].affine)
        labels = {"sex": "FM"[k % 2], "diagnosis": ("NC", "MCI", "AD")[k % 3], "age": 60 + k / 2}
        rows.append({"subject_id": str(k), **labels, "md_path": path.name})
    files.write_table(folder / "cohort.tsv", pd.DataFrame(rows))
    return folder / "cohort.tsv"


@pytest.fixture(scope="module")
def finished(data, patched, tmp_path_factory):
    config = Fidelity(
        out=tmp_path_factory.mktemp("run") / "0001-fidelity", data=data,
        **CONFIG | {"baselines": ("planted", "MONAI U-Net", "narrow")},
    )  # fmt: skip
    return config, run(config)


def test_every_generator_has_a_row_and_the_sampler_a_range(finished):
    config, results = finished
    written = json.loads((config.out / "results.json").read_text())
    assert list(written["rows"]) == [
        "tiled DiT, sampling seed 1", "tiled DiT, sampling seed 2", "planted", "MONAI U-Net",
        "narrow",
    ]  # fmt: skip
    for row in written["rows"].values():
        assert row["sizes"] == {"train": 16, "heldout": 16, "synthetic": 12, "split": 8}
        assert {"mmd2", "network_mmd2", "network_frechet", "label_sex"} <= set(row["metrics"])
    one, two = (
        fidelity_report.figures(results["rows"][name]) for name in list(written["rows"])[:2]
    )
    assert one != two
    for name, row in written["sampler"].items():
        assert row["low"] == min(one[name], two[name])
        assert row["mean"] == pytest.approx((one[name] + two[name]) / 2)
    assert list(written["sweeps"]["steps"]) == ["2", "4"]


def test_networks_are_trained_for_the_time_of_the_sampler(finished):
    config, results = finished
    ours, other = (
        results["rows"][name]["cost"] for name in ("tiled DiT, sampling seed 1", "narrow")
    )
    assert other["parameters"] < ours["parameters"]
    plan = json.loads((config.out / "generators" / "narrow" / "plan.json").read_text())
    ours, narrow = plan["seconds_of_equal_steps"]
    assert plan["steps"] == other["training steps"] == max(1, round(3 * ours / narrow))
    assert results["rows"]["MONAI U-Net"]["cost"]["training steps"] >= 2


def test_a_planted_bad_generator_is_listed_as_worse(finished):
    config, results = finished
    worse = results["beside"]["planted"]["worse"]
    assert {"MMD² / p95", "sharpness change", "graininess change", "tissue MD change"} <= set(worse)
    assert not results["beside"]["planted"]["better"].keys() & {"Fréchet / real", "recall / real"}
    assert "The planted is better than it in" in results["verdict"]
    page = (config.out / "report.html").read_text()
    assert results["verdict"][:40] in page
    assert page.count("<img") == 4  # pairs, generators, spectrum, steps


def test_a_finished_run_makes_only_what_is_new(finished, patched):
    config, results = finished

    def refuse(*_, **__):
        raise AssertionError("something finished was made again")

    compared = []

    def compare(self, made, labels, **options):
        compared.append(len(made))
        return compare_truly(self, made, labels, **options)

    compare_truly = Bench.compare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TiledMDSampler, "fit", refuse)
        patch.setattr(Bench, "compare", compare)
        new = {"baselines": ("mean",), "sampling_seeds": 1, "steps": (), "guidances": (2.0,)}
        more = run(replace(config, **new))
    assert len(compared) == 2
    name = "tiled DiT, sampling seed 1"
    assert list(more["rows"]) == [name, "mean"]
    assert more["rows"][name] == results["rows"][name]
    assert list(more["sweeps"]["guidance"]) == ["2"]
    assert not any("steps as good" in c["name"] for c in more["findings"])
    with pytest.raises(InputError, match="holds a run with synthetic 12 and not 13"):
        run(replace(config, synthetic=13))


def test_parts_share_nobody_and_keep_the_proportions(data):
    cohort = Cohort.load(data)
    parts = divide(cohort, Fidelity(out=data, baselines=(), **CONFIG))
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 16, "validation": 4, "heldout": 16, "judges": 16,
    }  # fmt: skip
    assert len({key for part in parts.values() for key in part.subject_keys}) == 52
    sessions = [cohort.table.assign(session_id=name) for name in "12"]
    twice = Cohort(pd.concat(sessions, ignore_index=True), cohort.name)
    parts = divide(twice, Fidelity(out=data, baselines=(), **CONFIG))
    assert (len(parts["train"]), len(parts["heldout"])) == (32, 16)  # halves of people
    with pytest.raises(InputError, match=r"52 scans leave .*judges.* and each needs 12"):
        divide(cohort, Fidelity(out=data, baselines=(), judges=20))


def metric(**values):
    return {"interval": [0.0, 1.0], "real": 1.0, "real_interval": [0.9, 1.1], **values}


def table(ratio=0.5, change=0.0, label=1.0, sure=0.8, value=1.0):
    names = ("ms_ssim", "sharpness", "graininess", "tissue_md_gm", "tissue_md_wm",
             "continuity_difference", "continuity_high_frequency")  # fmt: skip
    metrics = {name: metric(value=value, change=change) for name in names}
    metrics["tissue_md_wm"]["change"] = -change
    metrics |= {name: metric(value=1.0) for name in ("frechet", "recall", "nearest_ratio")}
    metrics["mmd2"] = metric(value=value, ratio=ratio)
    metrics["label_sex"] = metric(value=0.8, ratio=label) | {
        "real_interval": [sure, 0.95], "recall": {"F": 1, "M": 1},
    }  # fmt: skip
    return {"metrics": metrics, "cost": {}, "sizes": {"synthetic": 12, "heldout": 16}}


def summary(own, few=None, **others):
    sweep = {str(fidelity_report.FEW): few or table(), str(fidelity_report.MANY): table()}
    return fidelity_report.summarise(
        {"net, sampling seed 1": own, **others}, {"steps": sweep, "guidance": {}},
        sampler="net", about="a test", sizes={},
    )  # fmt: skip


def test_criteria_are_met_by_what_is_as_real_and_missed_by_each_fault():
    assert all(c["level"] == "met" for c in summary(table())["findings"])
    faults = {
        "MMD² / p95": {"own": table(ratio=1.1)},
        "MS-SSIM change": {"own": table(change=0.04)},
        "sex shown / real": {"own": table(label=0.85)},
        f"{fidelity_report.FEW} steps as good as {fidelity_report.MANY}": {
            "own": table(),
            "few": table(value=2.0),
        },
    }
    for name, given in faults.items():
        missed = [c["name"] for c in summary(**given)["findings"] if c["level"] == "missed"]
        assert name in missed
    blind = summary(table(sure=0.45))["findings"]  # the judge is at chance on real subjects
    assert [c["name"] for c in blind if c["level"] == "missed"] == ["sex shown / real"]
    assert "above chance" in next(c["aim"] for c in blind if c["level"] == "missed")


def test_the_verdict_says_numbers_and_whether_the_gaussian_is_better():
    name = fidelity_report.GAUSSIAN
    others = {name: table(change=0.01, ratio=1.2)}
    results = summary(table(change=0.05), **others)
    assert results["verdict"].startswith("The net meets 4 of 6 criteria (a test)")
    assert "tissue MD change 0.05 (within 0.02 wanted)" in results["verdict"]
    assert f"The {name} is better than it in 5 of 10 figures" in results["verdict"]
    assert "MS-SSIM change (0.01 against 0.05)" in results["verdict"]
    assert results["verdict"].endswith("worse in 1.")


def test_noise_below_what_real_sets_show_makes_nobody_better():
    own = {"MMD² / p95": [0.4], "sex shown / real": [1.0], "recall / real": [0.9, 0.95]}
    other = {"MMD² / p95": -0.2, "sex shown / real": 1.3, "recall / real": 0.92}
    assert set(fidelity_report.compare(other, own)["alike"]) == set(own)


def test_a_dry_run_tells_the_minutes_and_writes_nothing(data, tmp_path, capsys, patched):
    command = ["experiment", "fidelity", str(tmp_path / "run"), "--data", str(data)]
    assert main([*command, "--preset", "demo", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "minutes on this machine" in out
    assert "MONAI U-Net" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--baselines", "GAN"], "allowed are"),
        (["--synthetic", "5"], "12 or more"),
        (["--steps", "0"], "1 or more"),
        (["--train", "0"], "12 or more"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_it_begins(tmp_path, capsys, options, words):
    assert main(["experiment", "fidelity", str(tmp_path / "run"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
