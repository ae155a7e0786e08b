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
from neuromix.experiments.quality import fidelity, fidelity_report
from neuromix.experiments.quality.config import (
    BASELINES,
    COPIES,
    GAUSSIAN,
    MEAN,
    PRIOR,
    SAMPLERS,
    UNET,
    Fidelity,
)
from neuromix.experiments.quality.fidelity import Bench, run

OWN = "prior + network"
SLAB = (20, 24, 4)


@pytest.fixture(scope="module")
def patched():
    """A sampler of a few steps."""
    small = replace(
        PRESETS["demo"], width=16, blocks=1, layers=0, folds=2,
        training=replace(PRESETS["demo"].training, steps=3),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "demo", small)
        patch.setattr(fidelity, "TIMES", (0.2, 0.7))
        yield patch


def write(folder, image, volumes, affine, labels=None):
    rows = []
    for k, volume in enumerate(volumes):
        files.write_nifti(folder / f"{k}.nii", volume.astype(np.float32), affine)
        rows.append({"subject_id": str(k), f"{image}_path": f"{k}.nii"})
        rows[-1] |= labels(k) if labels else {}
    files.write_table(folder / "cohort.tsv", pd.DataFrame(rows))
    return folder / "cohort.tsv"


@pytest.fixture(scope="module")
def maps(md_phantom, tmp_path_factory):
    """52 subjects, each half of one phantom subject and half of another, with a little noise."""
    real = [subject["md"] for subject in Cohort.from_bids(md_phantom).subjects()]
    rng = np.random.default_rng(0)
    volumes = []
    for _ in range(52):
        one, two = (real[i].numpy()[0] for i in rng.choice(len(real), 2, replace=False))
        noise = 0.03 * rng.standard_normal(one.shape)
        volumes.append(((one + two) / 2 + noise) * (one > 0))
    return write(
        tmp_path_factory.mktemp("maps"), "md", volumes, real[0].affine,
        lambda k: {"sex": "FM"[k % 2], "diagnosis": ("NC", "MCI", "AD")[k % 3], "age": 60 + k / 2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def slabs(tmp_path_factory):
    """48 people without labels, in a slab of a contrast whose scale differs from scan to scan."""
    rng = np.random.default_rng(1)
    x, y, _ = np.indices(SLAB) - np.array(SLAB)[:, None, None, None] / 2
    volumes = 100 + 8 * rng.standard_normal((48, *SLAB))
    volumes += 3 * rng.standard_normal((48, 1, 1, 1)) * np.sin(x / 4)
    volumes *= (x**2 + y**2 < 80) * np.exp(0.5 * rng.standard_normal((48, 1, 1, 1)))
    return write(tmp_path_factory.mktemp("slabs"), "t1", volumes, np.diag([8, 8, 8, 1.0]))


@pytest.fixture(scope="module")
def finished(maps, patched, tmp_path_factory):
    config = Fidelity(
        out=tmp_path_factory.mktemp("run") / "0001-fidelity", data=maps, preset="demo",
        minutes=1e-4, contenders=(PRIOR, OWN, COPIES, GAUSSIAN, UNET), samples=12, steps=2,
        heldout=0.3,
    )  # fmt: skip
    return config, run(config)


def test_every_name_has_something_that_makes_it():
    assert {*fidelity.SIMPLE, UNET} == set(BASELINES)
    fields = set(vars(PRESETS["tiny"]))
    assert all(set(changes) <= fields for _, changes in SAMPLERS.values())


WEIGHTS = {"membership by weights"}


def test_every_generator_has_a_row_with_intervals(finished):
    config, results = finished
    written = json.loads((config.out / "results.json").read_text())
    assert list(written["rows"]) == [PRIOR, OWN, COPIES, GAUSSIAN, UNET]
    for row in written["rows"].values():
        assert {
            "structure",
            "texture",
            "mmd",
            "spread",
            "spectrum",
            "nearest",
            "patch copies",
            "membership",
            "sex told",
            "diagnosis told",
        } == set(row["metrics"]) - WEIGHTS
        assert (set(row["metrics"]) >= WEIGHTS) is bool(row["errors"])  # fmt: skip
        for metric in row["metrics"].values():
            assert metric["interval"][0] <= metric["value"] <= metric["interval"][1]
        assert row["cost"]["minutes"] >= 0
    sampler, other = (results["rows"][name]["metrics"] for name in (OWN, COPIES))
    assert other["patch copies"]["value"] == 1 and other["nearest"]["value"] < 0.01
    assert sampler["nearest"]["value"] > 0.5
    page = (config.out / "report.html").read_text()
    assert "Denoising error" in page and page.count("<img") == 6  # a montage each, and the spectrum


def test_networks_have_their_time_and_the_prior_none(finished):
    config, results = finished
    plans = config.out / "generators"
    assert json.loads((plans / "prior-+-network" / "plan.json").read_text())["steps"] == 2
    assert json.loads((plans / "MONAI-U-Net" / "plan.json").read_text())["steps"] == 2
    assert not (plans / "prior-alone" / "plan.json").exists()
    assert set(results["rows"][UNET]["errors"]) == {f"{t:g}" for t in fidelity.TIMES}
    assert len(results["rows"][GAUSSIAN]["errors"]["0.2"]) == 16


def test_a_finished_run_makes_only_what_is_new(finished, patched):
    config, results = finished

    def refuse(*_, **__):
        raise AssertionError("something finished was made again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TiledMDSampler, "fit", refuse)
        more = run(replace(config, contenders=(OWN, MEAN)))
    assert list(more["rows"]) == [OWN, MEAN]
    assert more["rows"][OWN] == results["rows"][OWN]
    assert more["rows"][MEAN]["metrics"]["texture"]["value"] > 0.9  # a planted bad one
    with pytest.raises(InputError, match="holds a run with samples 12 and not 13"):
        run(replace(config, samples=13))


def test_a_slab_of_another_contrast_without_labels_will_do(slabs, patched, tmp_path):
    config = Fidelity(out=tmp_path, data=slabs, image="t1", samples=12, preset="demo")
    results = run(replace(config, contenders=(PRIOR, COPIES, GAUSSIAN)))
    assert results["rows"][PRIOR]["metrics"]["nearest"]["value"] > 0.3
    row = results["rows"][COPIES]["metrics"]
    assert not any(name.endswith("told") for name in row)
    assert row["spread"]["value"] == pytest.approx(1, abs=0.2)  # whatever the scale of a scan


def test_parts_share_nobody_and_take_a_scan_each(maps, tmp_path):
    cohort = Cohort.load(maps)
    sessions = [cohort.table.assign(session_id=name) for name in "12"]
    twice = Cohort(pd.concat(sessions, ignore_index=True), cohort.name)
    bench = Bench.of(twice, Fidelity(out=tmp_path, samples=30))
    train, heldout = (set(part.subject_keys) for part in bench.parts)
    assert (len(bench.train), len(bench.heldout)) == (39, 13)
    assert not train & heldout
    assert sorted(set(bench.asked)) == list(range(13))


def spoilt(folder, volumes, affines):
    for k, (volume, affine) in enumerate(zip(volumes, affines, strict=True)):
        files.write_nifti(folder / f"{k}.nii", volume.astype(np.float32), affine)
    rows = [{"subject_id": str(k), "t1_path": f"{k}.nii"} for k in range(len(volumes))]
    files.write_table(folder / "cohort.tsv", pd.DataFrame(rows))
    return Cohort.load(folder / "cohort.tsv")


def test_bad_cohorts_are_refused_in_a_line(tmp_path):
    config = Fidelity(out=tmp_path, data=tmp_path, image="t1")
    rng, eyes = np.random.default_rng(0), [np.eye(4)] * 60
    volumes = list(1 + rng.random((60, 4, 4, 2)))
    with pytest.raises(InputError, match="has t1 but no fa"):
        Bench.of(spoilt(tmp_path, volumes, eyes), replace(config, image="fa"))
    with pytest.raises(InputError, match="9 people to fit and 3 held out are too few"):
        Bench.of(spoilt(tmp_path, volumes[:12], eyes[:12]), config)
    with pytest.raises(InputError, match="one grid"):
        Bench.of(spoilt(tmp_path, volumes, [*eyes[1:], 2 * np.eye(4)]), config)
    hole = np.where(np.eye(4)[..., None] * [1, 1], np.nan, 1)
    for broken, what in ((np.ones((4, 4, 2)), "is constant"), (hole, "holds NaN or Inf")):
        with pytest.raises(InputError, match=rf"59\.nii {what}"):
            Bench.of(spoilt(tmp_path, [*volumes[1:], broken], eyes), config)


def row(**values):
    base = {"structure": 0.4, "texture": 0.6, "mmd": 0.1, "spread": 1.0, "spectrum": 0.5,
            "nearest": 1.0, "patch copies": 0.01}  # fmt: skip
    metrics = {
        name: {"value": value, "interval": [value - 0.1, value + 0.1], "bands": [0.0]}
        for name, value in (base | values).items()
    }
    metrics["sex told"] = metrics["structure"] | {"value": 0.8, "real": 0.8}
    metrics["sex told"] |= {"interval": [0.7, 0.9], "real_interval": [0.7, 0.9]}
    return {"metrics": metrics, "errors": {}, "cost": {}}


@pytest.mark.parametrize(
    ("figure", "value"),
    [("structure", 0.7), ("texture", 1.0), ("mmd", 1.0), ("spread", 0.8), ("spread", 1.2),
     ("spectrum", -3.0), ("nearest", 0.2), ("patch copies", 0.5)],
)  # fmt: skip
def test_what_is_as_real_meets_all_aims_and_each_fault_misses_one(figure, value):
    found = fidelity_report.criteria(row()["metrics"])
    assert len(found) == 8 and all(each["level"] == "met" for each in found)
    found = fidelity_report.criteria(row(**{figure: value})["metrics"])
    assert [each["name"] for each in found if each["level"] == "missed"] == [figure]


def test_the_verdict_begins_with_the_best():
    results = fidelity_report.summarise({"bad": row(texture=1.0), "good": row()}, "a test")
    assert results["verdict"] == "Met (a test): good 8 of 8 criteria, bad 7 of 8 criteria."


def test_denoisers_are_compared_with_the_prior_person_by_person():
    errors = np.random.default_rng(0).uniform(0.01, 0.1, 20)
    rows = {
        PRIOR: row() | {"errors": {"0.5": errors.tolist()}},
        "better": row() | {"errors": {"0.5": (0.8 * errors).tolist()}},
        "copies": row(),
    }
    table = fidelity_report.denoising(rows)
    assert table["denoiser"].tolist() == [PRIOR, "better"]
    assert table["t = 0.5"][1].endswith("0.80 (0.80 to 0.80) of the prior")


def test_a_dry_run_tells_the_minutes_and_writes_nothing(maps, tmp_path, capsys):
    command = ["experiment", "fidelity", str(tmp_path / "run"), "--data", str(maps)]
    assert main([*command, "--preset", "demo", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "minutes on this machine" in " ".join(out.split()) and "MONAI U-Net" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--contenders", "GAN"], "allowed are"),
        (["--samples", "5"], "12, 1 and 1 or more"),
        (["--heldout", "1.5"], "between 0 and 1"),
        (["--image", "t1"], "without --data"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_it_begins(tmp_path, capsys, options, words):
    assert main(["experiment", "fidelity", str(tmp_path / "run"), *options]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
