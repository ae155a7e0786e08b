import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from bold_runs import AFFINE, PEOPLE

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.config import PRESETS
from neuromix.experiments.cli.main import main
from neuromix.experiments.quality.config import FMRI
from neuromix.experiments.quality.runs import divide, plan
from neuromix.experiments.quality.runs_baselines import GENERATORS
from neuromix.experiments.quality.runs_probes import TRIAL, unseen_events
from neuromix.experiments.quality.runs_report import CLOSED, HYBRID, MIXED, UNET, summarise

SMALL = ["--preset", "demo", "--tasks", "motor", "--directions", "LR", "--train", "2",
         "--validation", "1", "--heldout", "4", "--drawn", "4", "--seconds", "0.1",
         "--codec-seconds", "0.1", "--cell-seconds", "0.1", "--people", "2", "--widths",
         "--ablations", "AdaLN only", "--time", "stack", "--steps", "1", "--usual", "1",
         "--splits", "3"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven subjects with one run of each of two tasks, and one of whom there is another."""
    root = tmp_path_factory.mktemp("cohort") / "people"
    bids.describe(root, name="people", derivative=True)
    for run in [*PEOPLE.runs(7, 5, repeats=("LR",)), *PEOPLE.runs(1, 5, repeats=("RL",))]:
        stem = f"sub-{run.subject}_task-{run.task}_dir-{run.repeat}"
        func = root / f"sub-{run.subject}" / "func"
        image = f"{stem}_space-MNI152NLin2009aSym_desc-prepared_bold.nii.gz"
        # Networks halve the sides several times.
        whole = np.pad(run.data, [(4, 4), (4, 3), (4, 5), (0, 0)])
        files.write_nifti(func / image, whole, AFFINE, tr=run.tr)
        files.write_table(func / f"{stem}_events.tsv", run.events)
    return root


def test_everything_is_judged_once_and_shown(data, tmp_path, monkeypatch):
    small = replace(
        PRESETS["demo"], widths=(16, 16), codes=16, autoencoder_widths=(4, 8),
        training=replace(PRESETS["demo"].training, batch_size=2),
    )  # fmt: skip
    monkeypatch.setitem(PRESETS, "demo", small)
    command = ["experiment", "fmri", str(tmp_path), "--data", str(data), *SMALL]
    assert main([*command, "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    assert main(command) == 0
    (folder,) = tmp_path.iterdir()
    results = json.loads((folder / "results.json").read_text())
    rows = results["rows"]
    assert set(rows["main"]) == {*GENERATORS, CLOSED}
    assert set(rows["networks"]) == {CLOSED, HYBRID, MIXED, UNET}
    assert rows["networks"][UNET]["cost"]["training steps"] >= 2
    assert rows["networks"][UNET]["cost"]["parameters"] == pytest.approx(
        rows["networks"][HYBRID]["cost"]["parameters"], rel=0.6
    )
    assert [set(rows[group]) for group in ("people", "ablation", "steps")] == [
        {"2"}, {"AdaLN only"}, {"1"},
    ]  # fmt: skip
    assert len(results["length"][CLOSED]["tsnr"]) == 4
    assert set(results["timing"][MIXED]["conditions"]) == {"motor/left", "motor/right"}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") >= 5
    assert "Ablation" in page

    def refuse(*_):
        raise AssertionError("a finished row was judged again")

    monkeypatch.setattr("neuromix.experiments.quality.runs.NeuroJudge.table", refuse)
    monkeypatch.setattr("neuromix.experiments.quality.runs.runs_report.page", lambda *_: "")
    assert main(command) == 0


def test_without_networks_there_is_less_to_do():
    whole, few = (dict(plan(FMRI(seconds=seconds))) for seconds in (480.0, 0.0))
    assert {"codec and latents", "steps"} <= set(whole) - set(few)
    assert all(whole[name] == seconds for name, seconds in few.items())


def test_unseen_events_have_every_condition_and_end_in_time():
    events = unseen_events(("a", "b"), 60, 2.0, 0)
    assert set(events["trial_type"]) == {"a", "b"}
    assert set(events["duration"]) == {TRIAL}
    assert (events["onset"].diff().dropna() > TRIAL).all()
    assert (events["onset"] + events["duration"]).max() < 120
    assert not events.equals(unseen_events(("a", "b"), 60, 2.0, 1))


def row(share, name="group_map"):
    limits = [share - 0.05, share + 0.05]
    found = {"share": share, "share_interval": limits, "value": share, "real": 1.0}
    return {"metrics": {name: found}}


def extra(r=0.9, peak=100.0, tsnr=(80.0, 80.0)):
    length = {"40": {"peak, MB": 100.0}, "300": {"peak, MB": peak}, "tsnr": tsnr}
    return {
        "timing": {CLOSED: {"conditions": {"motor/left": {"r": r}}}},
        "length": {CLOSED: length},
    }


def criteria(rows, more):
    found = summarise(rows, more, about="people")
    return [each["level"] == "met" for each in found["findings"]], found["verdict"]


def test_the_verdict_says_what_is_met_and_what_is_missed():
    good = {"main": {CLOSED: row(0.95)}, "networks": {CLOSED: row(0.95), UNET: row(0.5)}}
    met, verdict = criteria(good, extra())
    assert met == [True, False, False, True, True, True, True]  # no RSA and no top 1 are there
    assert "RSA has no ceiling here" in verdict.partition("missed are")[2]
    alone = {"main": {CLOSED: row(0.95)}, "networks": {CLOSED: row(0.95)}}
    assert criteria(alone, extra())[0] == [True, False, False, True, True, True]
    bad = {"main": {CLOSED: row(0.5)}, "networks": {CLOSED: row(0.4), UNET: row(0.5)}}
    met, verdict = criteria(bad, extra(r=0.3, peak=150.0, tsnr=(80.0, 60.0)))
    assert not any(met)
    assert "not in group map" in verdict


def test_parts_share_nobody(data):
    config = FMRI(tasks=("motor",), train=2, validation=1, heldout=4, drawn=4, people=(2,))
    parts = divide(Cohort.from_bids(data), config)
    names = [set(part.table["subject_id"]) for part in parts.values()]
    assert [len(each) for each in names] == [2, 1, 4]
    assert len(set.union(*names)) == 7
    assert set(np.concatenate([part.table["task"] for part in parts.values()])) == {"motor"}
    with pytest.raises(InputError, match="7 subjects have runs of motor"):
        divide(Cohort.from_bids(data), replace(config, train=3, people=()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "huge"}, "preset 'huge' came; allowed are demo"),
        ({"ablations": ("none",)}, "ablation 'none' came; allowed are factorised time, stacked"),
        ({"drawn": 3}, "drawn 3 came with heldout 100; needed are 4"),
        ({"train": 1}, "train 1, validation 8 .* came"),
        ({"people": (80,)}, "people 80 came, of 40 to train on"),
        ({"widths": (24,)}, "width 24 came; give multiples of 16"),
        ({"usual": 0}, "must each be 1 or more"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        FMRI(**changes)


def test_bad_runs_are_one_line(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data").glob("sub-*/func/*task-motor_dir-LR_events.tsv"):
        path.unlink()
    command = ["experiment", "fmri", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
    assert main([*command, *SMALL]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("neuromix: ")
    assert "there is no events.tsv for it" in line
    assert main([*command, *SMALL, "--tasks", "chess"]) == 2
    assert "0 subjects have runs of chess" in capsys.readouterr().err
