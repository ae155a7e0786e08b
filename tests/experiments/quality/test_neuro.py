import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from bold_runs import AFFINE, PEOPLE

from neuromix.augment import files
from neuromix.augment.data import bids
from neuromix.augment.errors import InputError
from neuromix.experiments.cli.main import main
from neuromix.experiments.quality.config import Neuro
from neuromix.experiments.quality.neuro import as_units, divide, summarise
from neuromix.experiments.quality.runs_baselines import GENERATORS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten prepared subjects."""
    root = tmp_path_factory.mktemp("cohort") / "people"
    bids.describe(root, name="people", derivative=True)
    for run in PEOPLE.runs(10, 5, tasks=("motor",)):
        stem = f"sub-{run.subject}_task-{run.task}_dir-{run.repeat}"
        func = root / f"sub-{run.subject}" / "func"
        image = f"{stem}_space-MNI152NLin2009aSym_desc-prepared_bold.nii.gz"
        files.write_nifti(func / image, run.data, AFFINE, tr=run.tr)
        files.write_table(func / f"{stem}_events.tsv", run.events)
    return root


def run(*args):
    return main(["experiment", "neuro", *map(str, args)])


def test_real_halves_agree_and_generators_are_told(data, tmp_path, monkeypatch, capsys):
    assert run(data, tmp_path, "--splits", 20) == 0
    (folder,) = tmp_path.iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert set(results["rows"]) == set(GENERATORS)
    assert all(results["failed"].values())
    assert "Halves of real subjects of people (5 held out, 2 conditions" in results["verdict"]
    assert "4 of 4 trivial generators are told from real runs" in results["verdict"]
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") >= 1
    assert "phase-randomised run" in page

    def refuse(*_):
        raise AssertionError("a finished generator was judged again")

    monkeypatch.setattr("neuromix.experiments.quality.neuro.NeuroJudge.table", refuse)
    assert run(data, tmp_path, "--splits", 20) == 0
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]


def test_runs_are_units_of_their_own():
    runs = PEOPLE.runs(2, 5)
    assert as_units(runs, "subject") == runs
    units = as_units(runs, "run")
    assert len({unit.subject for unit in units}) == len(runs)
    assert {unit.repeat for unit in units} == {""}


def test_nobody_is_on_both_sides():
    runs = PEOPLE.runs(9, 5, tasks=("motor",), repeats=("LR",))
    train, heldout = divide(runs, "subject", 0)
    assert (len(train), len(heldout)) == (4, 5)
    assert not {r.subject for r in train} & {r.subject for r in heldout}
    other = divide(runs, "subject", 1)[0]
    assert {r.subject for r in other} != {r.subject for r in train}
    with pytest.raises(InputError, match=r"2 subjects can't be parted .* with --by run"):
        divide(PEOPLE.runs(2, 5), "subject", 0)


def test_the_verdict_names_what_is_not_told():
    row = {"real": 0.8, "real_interval": [0.7, 0.9], "share": 1.0, "share_interval": [0.95, 1.1]}
    found = summarise({"good one": {"metrics": {"group_map": row}}}, about="people")
    assert "group map 0.80 (0.70 to 0.90)" in found["verdict"]
    assert (
        "0 of 1 trivial generators are told from real runs; not told: good one."
        in (found["verdict"])
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda func: next(func.glob("*events.tsv")).unlink(), "there is no events.tsv for it"),
        (lambda func: empty_a_frame(func), "1 of 80 frames hold nothing but NaN or zeros"),
    ],
)
def test_bad_input_is_one_line(data, tmp_path, capsys, damage, words):
    shutil.copytree(data, tmp_path / "data")
    damage(next((tmp_path / "data").glob("sub-*/func")))
    assert run(tmp_path / "data", tmp_path / "runs", "--splits", 2) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("neuromix: ")
    assert words in line


def empty_a_frame(func):
    path = next(func.glob("*.nii.gz"))
    image = nib.load(path)
    broken = np.asarray(image.dataobj).copy()
    broken[..., 11] = np.nan
    files.write_nifti(path, broken, image.affine, tr=2.0)


def test_settings_that_cannot_be():
    with pytest.raises(InputError, match="by 'site' came; allowed are subject, run"):
        Neuro("x", by="site")
    with pytest.raises(InputError, match="0 splits can't be"):
        Neuro("x", splits=0)
