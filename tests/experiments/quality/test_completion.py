import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.errors import InputError
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import MODALITIES, PRESETS, ModalityConfig
from neuromix.experiments.cli.main import main
from neuromix.experiments.quality import completion
from neuromix.experiments.quality.completion import _subjects, run
from neuromix.experiments.quality.completion_baselines import baselines
from neuromix.experiments.quality.completion_report import summarise
from neuromix.experiments.quality.config import PREDICTORS, Completion

SHORT = TrainConfig(
    steps=2, batch_size=4, warmup=1, validate_every=2, checkpoint_every=2, log_every=1
)
CONFIG = ModalityConfig(
    width=8, blocks=1, layers=0, token=4, depth=4, folds=2, sampling_steps=2, training=SHORT,
)  # fmt: skip
ARMS = ["full", "source-blind"]


def stop(*args, **settings):
    raise AssertionError("done twice")


def test_the_command_compares_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "demo", CONFIG)
    monkeypatch.setattr(completion, "STEPS", (1, 3))
    command = ["experiment", "completion", str(tmp_path / "runs"), "--preset", "demo"]
    command += ["--train", "6", "--validation", "2", "--heldout", "3", "--samples", "4"]
    command += ["--spacing", "12", "--arms", *ARMS, "--baselines", "mean volume", "PCA regression"]
    assert main(command) == 0
    folder = tmp_path / "runs" / "0001-completion"
    results = json.loads((folder / "results.json").read_text())
    for want in MODALITIES:
        table = results["tables"][want]
        assert set(table) == {*ARMS, "mean volume", "PCA regression"}
        assert {"psnr", "ssim", "crps", "coverage", "spectrum", "pattern"} <= set(table["full"])
        assert "coverage" not in table["mean volume"]
        assert table["full"]["psnr"]["value"] > table["mean volume"]["psnr"]["value"]
        told = results["source"][want]["full"]
        assert told["use"] > 0.3
        assert (folder / f"montage-{want}.png").stat().st_size > 1000
    assert "dB of the ideal regression" in results["verdict"]
    with monkeypatch.context() as patch:  # finished cells are only read
        patch.setattr(ModalityCompleter, "fit", stop)
        patch.setattr(completion, "completion_table", stop)
        assert main(command) == 0
    assert json.loads((folder / "results.json").read_text()) == results


def test_any_maps_in_a_space_of_their_own_are_compared(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "demo", CONFIG)
    monkeypatch.setattr(completion, "STEPS", (2,))
    rng = np.random.default_rng(0)
    rows = []
    for k in range(12):
        maps = {"t1": rng.random((16, 16, 7)) + 0.5, "fa": rng.random((16, 16, 7)) + 0.5}
        maps["md"] = 0.5 * (maps["t1"] + maps["fa"])
        row = {"subject_id": str(k), "dataset": "maps"}
        for name, values in maps.items():
            values[:2] = 0
            row[f"{name}_path"] = str(tmp_path / f"{k}-{name}.nii")
            image = nib.Nifti1Image(values.astype(np.float32), np.diag([9.0, 9, 9, 1]))
            nib.save(image, row[f"{name}_path"])
        rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "maps.csv", index=False)
    settings = Completion(
        data=tmp_path / "maps.csv", images=("t1", "md"), preset="demo", train=8, validation=1,
        heldout=3, samples=4, baselines=("mean volume", "voxelwise regression", "regression U-Net"),
        seconds=0.1,
    )  # fmt: skip
    results = run(settings, tmp_path / "runs")
    assert set(results["tables"]) == {"t1", "md"}
    for table in results["tables"].values():
        assert "pattern" not in table["full"]  # whose regions lie in MNI space
        assert table["full"]["psnr"]["value"] > table["mean volume"]["psnr"]["value"] - 1
    assert "shuffled" in results["source"]["md"]["full"]
    assert "t1 from the others" in (tmp_path / "runs/0001-completion/report.html").read_text()
    with pytest.raises(InputError, match="came without data; the phantom has fmri and dmri"):
        Completion(images=("t1", "fa"))


def test_too_few_subjects_are_told(tiny_pairs, tmp_path):
    with pytest.raises(InputError, match="6 subjects have fmri and dmri, and 220 are asked for"):
        run(Completion(data=tiny_pairs), tmp_path)


def test_held_out_people_have_one_scan_each(tiny_pairs, tmp_path):
    once = Cohort.from_bids(tiny_pairs).table
    sessions = [once.assign(session_id=name) for name in "12"]
    Cohort(pd.concat(sessions, ignore_index=True), "twice").save(tmp_path / "twice.tsv")
    settings = Completion(data=tmp_path / "twice.tsv", train=2, validation=2, heldout=2)
    split, _ = _subjects(settings, None)
    assert [len(part) for part in split] == [4, 4, 2]
    assert len(split.test.subject_keys) == 2


def test_criteria_are_met_or_missed():
    def table(psnr, crps=0.1, **more):
        values = {"psnr": psnr, "ssim": 0.8, "crps": crps, "spectrum": 0.1, "pattern": 0.5, **more}
        return {name: {"value": v, "low": v - 0.1, "high": v + 0.1} for name, v in values.items()}

    own = table(21.0, 0.05, coverage=1.05, uncertainty=0.05)
    errors = {"own": 1.0, "shuffled": 3.9, "mean": 4.0}
    records = []
    for want in MODALITIES:
        records += [
            {"cell": {"arm": "full", "want": want}, "table": own, "errors": errors},
            {"cell": {"arm": "source-blind", "want": want}, "table": table(19.8), "errors": errors},
            {"cell": {"baseline": "PCA regression", "want": want}, "table": table(20.0)},
            {"cell": {"baseline": "mean volume", "want": want}, "table": table(18.0)},
        ]
    truth = {want: {"psnr_ideal_regression": 21.4} for want in MODALITIES}
    # The ideal's error is one.
    results = summarise(records, truth, MODALITIES, "full", (10**2.14) ** 0.5)
    met = {tuple(f["name"].split(": ")): f["level"] == "met" for f in results["findings"]}
    assert met["fmri", "PSNR below the ideal regression, dB"]
    assert met["fmri", "a shuffled source costs"]
    assert met["dmri", "PSNR over source-blind, dB"]
    assert not met["fmri", "PSNR over source-blind, dB"]  # more is asked for in this direction
    assert met["fmri", "crps"]
    assert not met["fmri", "pattern"]
    assert met["fmri", "coverage"]
    assert not met["fmri", "uncertainty with error"]  # its interval holds zero
    assert results["verdict"].startswith(
        "fmri 21.00 dB against 20.00 dB of PCA regression, the best baseline, and 21.40 dB of the "
    )
    assert "fmri: pattern 0.5 (above" in results["verdict"]


def test_arms_differ_from_the_full_system_in_what_they_are_named_for(tiny_pairs, tmp_path):
    settings = Completion(data=tiny_pairs, preset="demo", train=3, validation=1, heldout=2)
    full = settings.config("full")
    assert settings.config("source-blind") == replace(full, source_blind=True)
    assert settings.config("diagnosis") == replace(full, labels=())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("nothing",)}, "arms 'nothing' is not known; allowed are full, source-blind"),
        ({"baselines": ("best",)}, "baselines 'best' is not known; allowed are mean volume"),
        ({"preset": "huge"}, "preset 'huge' is not known; allowed are demo"),
        ({"arms": ()}, "no arm came"),
    ],
)
def test_names_that_are_not_known_are_told_before_anything_is_made(changes, message):
    with pytest.raises(InputError, match=message):
        Completion(**changes)


def test_the_baselines_have_the_names_that_are_asked_for():
    assert tuple(baselines(0)) == PREDICTORS
