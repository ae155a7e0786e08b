import json
import shutil

import numpy as np
import pytest
import torch
import torchio as tio

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.errors import InputError, LeakageError
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import PRESETS as COMPLETERS
from neuromix.augment.pds.config import ModalityConfig
from neuromix.classifiers.stage import StageClassifier
from neuromix.experiments.cli.main import main
from neuromix.experiments.evidence import fillings, hybrid
from neuromix.experiments.evidence.arms import FILLINGS
from neuromix.experiments.evidence.configs import Hybrid
from neuromix.experiments.evidence.hybrid import lacking, run

SHORT = TrainConfig(
    steps=1, batch_size=2, warmup=0, validate_every=1, checkpoint_every=1, log_every=1
)
CONFIG = ModalityConfig(
    width=8, blocks=1, layers=0, token=4, depth=4, folds=2, sampling_steps=1, training=SHORT,
)  # fmt: skip


def stop(*args, **settings):
    raise AssertionError("done twice")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """24 subjects, eight of each diagnosis."""
    from neuromix.augment.phantom import make_phantom

    folder = make_phantom(
        tmp_path_factory.mktemp("pairs") / "phantom", "paired", subjects=24, spacing=12.0
    )
    table = Cohort.from_bids(folder).table
    diagnosis = [("NC", "MCI", "AD")[k % 3] for k in range(len(table))]
    return Cohort(table.assign(diagnosis=diagnosis), "pairs")


@pytest.fixture(scope="module")
def done(cohort, tmp_path_factory):
    """A run from the command line, and its command."""
    folder = tmp_path_factory.mktemp("hybrid")
    cohort.table.to_csv(folder / "pairs.tsv", sep="\t", index=False)
    command = ["experiment", "hybrid", str(folder / "runs"), "--data", str(folder / "pairs.tsv")]
    command += ["--train", "12", "--validation", "6", "--seeds", "2", "--steps", "2"]
    command += ["--missing", "0", "50", "--completer", "demo", "--samples", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMPLETERS, "demo", CONFIG)
        assert main(command) == 0
    return folder / "runs" / "0001-hybrid", command


def test_every_arm_is_judged_at_every_share(done):
    folder, _ = done
    results = json.loads((folder / "results.json").read_text())
    half, none, test = results["groups"]
    assert set(half["scores"]) == set(FILLINGS)
    assert set(none["scores"]) == {"drop", "complete"}
    assert none["scores"]["drop"] == none["scores"]["complete"] == half["scores"]["complete"]
    assert set(test["scores"]) == {"mask", "mean", "regression", "pds", "complete"}
    pairs = {(row["arm"], row["baseline"]) for row in half["comparisons"]}
    assert {("pds", "drop"), ("pds", "regression"), ("pds-by-label", "pds")} <= pairs
    assert not any(arm == "complete" for arm, _ in pairs)
    assert {row["way"] for row in results["shift"]} == {*hybrid.FILLED}
    page = (folder / "report.html").read_text()
    for words in ("PDS-fill by label", "who lack dmri", "tells of the diagnosis"):
        assert words in page


def test_it_goes_on_where_it_stopped(done, monkeypatch):
    folder, command = done
    monkeypatch.setitem(COMPLETERS, "demo", CONFIG)
    before = json.loads((folder / "results.json").read_text())
    (folder / "cells" / "setting-hybrid_missing-50_arm-pds_seed-1.json").unlink()
    monkeypatch.setattr(ModalityCompleter, "fit", stop)
    monkeypatch.setattr(fillings.Filler, "_complete", stop)
    fits = []
    fit = StageClassifier.fit
    monkeypatch.setattr(
        StageClassifier, "fit", lambda self, *a, **k: fits.append(1) or fit(self, *a, **k)
    )
    assert main(command) == 0
    after = json.loads((folder / "results.json").read_text())
    assert len(fits) == 1
    assert after["groups"] == before["groups"]


def test_classifiers_see_what_their_arm_says(done, cohort, monkeypatch):
    folder, _ = done
    subjects = cohort.subjects()
    whole, rest = subjects[:12], subjects[12:18]
    filler = fillings.Filler("dmri", whole, None, folder / "none", 0)
    bare = filler.without(rest)
    assert all("dmri" not in subject and "fmri" in subject for subject in bare)

    def draw(name, some, samples, *, by_label=False):
        shape = (len(some), samples, *some[0]["fmri"].shape)
        return np.broadcast_to(np.arange(1.0, samples + 1)[:, None, None, None, None], shape)

    monkeypatch.setattr(filler, "draw", draw)
    ways = fillings.training_sets(filler, whole, rest, "x")
    sizes = {arm: len(make()) for arm, make in ways.items()}
    assert sizes == {
        "drop": 12, "mask": 18, "mean": 18, "regression": 18, "pds": 18,
        "pds-by-label": 18,
    }  # fmt: skip
    filled = ways["pds"]()[12]
    assert filled["synthetic"] and not ways["pds"]()[0]["synthetic"]
    assert filled["diagnosis"] == rest[0]["diagnosis"]
    brain = (filled["fmri"].data != 0).any(0)
    assert (filled["dmri"].data[:, brain] == 1).all() and (
        filled["dmri"].data[:, ~brain] == 0
    ).all()
    truth, mean, line = (
        np.concatenate([s["dmri"].data.numpy().ravel() for s in some])
        for some in (rest, ways["mean"]()[12:], ways["regression"]()[12:])
    )
    assert ((line - truth) ** 2).mean() < ((mean - truth) ** 2).mean()


def test_who_lacks_at_one_share_lacks_at_larger_ones(cohort):
    few, many = (lacking(cohort, rate, 0) for rate in (25, 50))
    assert few < many
    assert (len(few), len(many)) == (6, 12)
    table = cohort.table
    of = [d for d, s in zip(table["diagnosis"], table["subject_id"], strict=True)
          if s in {name for _, name in few}]  # fmt: skip
    assert sorted(of) == ["AD", "AD", "MCI", "MCI", "NC", "NC"]
    assert lacking(cohort, 0, 0) == set()


def test_a_test_subject_that_trained_under_another_name_is_found(cohort, tmp_path):
    table = cohort.table.copy()
    for image in ("fmri", "dmri"):  # every subject has the first one's scans
        copy = tmp_path / f"{image}.nii.gz"
        shutil.copy(table[f"{image}_path"][0], copy)
        table.loc[1:, f"{image}_path"] = str(copy)
    table.to_csv(tmp_path / "pairs.tsv", sep="\t", index=False)
    config = Hybrid(data=tmp_path / "pairs.tsv", train=12, validation=6, missing=(50,))
    with pytest.raises(LeakageError):
        run(config, tmp_path / "runs")


def test_a_label_that_images_carry_is_told():
    rows = [
        {"way": "pds-by-label", "missing": 50, "cross-validated": 0.9, "on real images": 0.4},
        {"way": "pds", "missing": 50, "cross-validated": 0.5, "on real images": 0.45},
        {"way": "mean", "missing": 50, "cross-validated": None, "on real images": None},
    ]
    (warning,) = hybrid._watermarks(rows)
    assert "PDS-fill by label" in warning
    assert "0.90" in warning


def test_sessions_of_a_person_are_in_one_fold():
    """Images that only tell whose they are say nothing of the diagnosis of others."""
    rng = np.random.default_rng(0)
    people = [
        tio.Subject(dmri=tio.ScalarImage(tensor=torch.from_numpy(image)), dataset="d",
                    subject_id=str(k), diagnosis=("NC", "AD")[k % 2])
        for k, image in enumerate(rng.standard_normal((24, 1, 4, 4, 4)).astype("f4"))
        for session in range(4)
    ]  # fmt: skip
    regions = np.eye(64).reshape(64, 4, 4, 4)
    assert fillings.diagnosis_scores(regions, people, people, "dmri")["cross-validated"] < 0.75


def test_a_dry_run_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(COMPLETERS, "demo", CONFIG)
    out = tmp_path / "runs"
    assert main(["experiment", "hybrid", str(out), "--preset", "demo", "--dry-run"]) == 0
    assert "16 fits" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arms", "pds"], "drop among them"),
        (["--arms", "drop", "magic"], "arms magic came; allowed are drop, mask"),
        (["--missing", "95"], "missing 95 came; shares of the training subjects in percent"),
        (["--missing", "30", "30"], "each once"),
        (["--samples", "1"], "1 samples came"),
        (["--completer-steps", "0"], "0 training steps came"),
        (["--seeds", "0"], "must each be 1 or more"),
    ],
)
def test_bad_settings_are_told_in_a_line(options, message, tmp_path, capsys):
    assert main(["experiment", "hybrid", str(tmp_path / "runs"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_too_few_subjects_with_both_are_told(cohort, tmp_path):
    table = cohort.table.copy()
    table.loc[table["diagnosis"] == "AD", "dmri_path"] = ""
    table.to_csv(tmp_path / "pairs.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match=r"16 subjects of .* have the label diagnosis"):
        run(Hybrid(data=tmp_path / "pairs.tsv", train=12, validation=6), tmp_path / "runs")


def test_a_share_in_which_nobody_lacks_anything_is_told(cohort, tmp_path):
    cohort.table.to_csv(tmp_path / "pairs.tsv", sep="\t", index=False)
    config = Hybrid(data=tmp_path / "pairs.tsv", train=12, validation=6, missing=(1,))
    with pytest.raises(InputError, match="1 % of 12 training scans is nobody"):
        run(config, tmp_path / "runs")
