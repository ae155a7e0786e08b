import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuromix.augment import Cohort, files
from neuromix.experiments.cli.main import GROUPS, main

MD = "space-MNI152NLin2009aSym_param-md_dwimap"


def run(*args):
    return main([str(arg) for arg in args])


@pytest.mark.parametrize("command", ["demo", "phantom", "cohort", "prepare", "experiment"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert command in capsys.readouterr().out


def test_groups_name_their_members(capsys):
    for group, members in GROUPS.items():
        with pytest.raises(SystemExit):
            main([group, "--help"])
        shown = capsys.readouterr().out
        assert all(name in shown for name in members)


@pytest.mark.parametrize(
    "args",
    ["", "experiment", "train pds", "experiment settings", "experiment fmri", "audit", "generate"],
)
def test_nothing_heavy_is_imported_for_help(args):
    code = (
        "import sys; from neuromix.experiments.cli.main import main\n"
        "import neuromix.augment; neuromix.augment.InputError\n"
        "try: main([*sys.argv[1:], '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchio', 'nilearn', 'scipy', 'sklearn', 'pandas', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args.split()], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_phantom_then_cohort_then_split(md_phantom, tmp_path, capsys):
    assert run("cohort", md_phantom, "--out", tmp_path / "split") == 0
    out = capsys.readouterr().out
    assert "no problem found" in out
    assert {p.name for p in (tmp_path / "split").iterdir()} == {"train.tsv", "val.tsv", "test.tsv"}
    assert run("cohort", tmp_path / "split" / "train.tsv") == 0


def one_line(capsys, *words):
    """The last line on standard error says what is wrong."""
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("neuromix: ")
    assert "Traceback" not in line
    assert all(word in line for word in words), line


def make_bids(root: Path, image: np.ndarray | bytes, affine=None, subjects=("01", "02", "03")):
    for subject in subjects:
        path = root / f"sub-{subject}" / "dwi" / f"sub-{subject}_{MD}.nii.gz"
        if isinstance(image, bytes):
            files.write_bytes(path, image)
        else:
            path.parent.mkdir(parents=True)
            nib.save(nib.Nifti1Image(image, np.eye(4) if affine is None else affine), path)
    return root


def whole_image(md_phantom) -> bytes:
    return next(md_phantom.rglob("*.nii.gz")).read_bytes()


def test_a_truncated_image_is_named(md_phantom, tmp_path, capsys):
    make_bids(tmp_path / "data", whole_image(md_phantom))
    broken = next((tmp_path / "data").rglob("sub-02*.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:2000])
    assert run("cohort", tmp_path / "data") == 2
    err = capsys.readouterr().err
    assert "02" in err
    assert "truncated" in err or "damaged" in err


@pytest.mark.parametrize(
    ("image", "affine", "words"),
    [
        (np.ones((8, 8), np.float32), None, "2D"),
        (np.full((8, 8, 8), np.nan, np.float32), None, "NaN"),
        (
            np.random.default_rng(0).random((8, 8, 8), dtype=np.float32),
            np.array([[2, 1, 0, 0], [-1, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]),
            "oblique",
        ),
    ],
)
def test_images_that_do_not_fit_are_reported(tmp_path, capsys, image, affine, words):
    assert run("cohort", make_bids(tmp_path / "data", image, affine)) == 2
    assert words in capsys.readouterr().err


def test_an_empty_folder(tmp_path, capsys):
    assert run("cohort", tmp_path) == 2
    one_line(capsys, str(tmp_path))


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert run("cohort", tmp_path / "nowhere") == 2
    one_line(capsys, "does not exist")


def test_a_table_with_a_missing_column(tmp_path, capsys):
    table = tmp_path / "cohort.csv"
    table.write_text("subject_id,age\n1,20\n")
    assert run("cohort", table, "--images", "md") == 2
    one_line(capsys, "md_path", "age")


def test_other_columns_and_codes_are_said_on_the_command_line(md_phantom, tmp_path, capsys):
    image = next(md_phantom.rglob("*.nii.gz"))
    table = tmp_path / "cohort.csv"
    table.write_text(f"RID,sex,md_path\n1,0,{image}\n")
    assert run("cohort", table, "--columns", "subject_id", "RID", "--codings", "sex:0=F") == 0
    assert run("cohort", table, "--columns", "subject_id", "RID", "--codings", "sex 0 F") == 2
    one_line(capsys, "write it as sex:0=F")


def test_problems_are_listed_even_if_the_split_fails(md_phantom, tmp_path, capsys):
    image = next(md_phantom.rglob("*.nii.gz"))
    (tmp_path / "bad.nii.gz").write_bytes(b"no")
    table = tmp_path / "cohort.csv"
    table.write_text(f"subject_id,md_path\n1,{image}\n1,{image}\n2,bad.nii.gz\n")
    assert run("cohort", table, "--out", tmp_path / "split", "--anyway") == 2
    err = capsys.readouterr().err
    assert "bad.nii.gz" in err
    assert "twice" in err


@pytest.mark.parametrize(
    "options", [["--seeds", 0], ["--steps", 0], ["--targets", "smoker"], ["--subjects", 3]]
)
def test_a_calibration_that_cannot_be_is_refused_before_it_begins(tmp_path, capsys, options):
    assert run("experiment", "calibration", tmp_path / "run", *options) == 2
    one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_duplicate_subject(md_phantom, tmp_path, capsys):
    image = next(md_phantom.rglob("*.nii.gz"))
    table = tmp_path / "cohort.csv"
    table.write_text(f"subject_id,md_path\n1,{image}\n1,{image}\n2,{image}\n")
    assert run("cohort", table, "--images", "md") == 2
    assert "duplicate" in capsys.readouterr().err.lower()


def test_an_output_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "phantom"
    assert run("phantom", out, "--kind", "md", "--subjects", 1, "--spacing", 8) == 2
    one_line(capsys, "file")


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert run("experiment", "calibration", tmp_path / "run", "--dry-run") == 0
    assert "27 fits" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_ctrl_c_is_no_traceback(tmp_path, capsys, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuromix.augment.phantom.make_phantom", stop)
    assert run("phantom", tmp_path / "p", "--kind", "md", "--subjects", 1) == 130
    one_line(capsys, "stopped")


def test_whose_labels_are_missing_is_said(md_phantom, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(md_phantom, data)
    table = data / "participants.tsv"
    first, gone, *rest = table.read_text().splitlines()
    table.write_text("\n".join([first, *rest]) + "\n")
    assert run("cohort", data) == 0
    name = gone.split("\t")[0]
    assert f"sex is missing: {name}" in capsys.readouterr().out


def test_a_table_of_maps_becomes_a_split_in_two_lines(tmp_path, capsys):
    rows = ["participant_id,t1_path,Geschlecht"]
    for k in range(8):
        volume = np.random.default_rng(k).random((16, 16, 4), np.float32) * 255
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2, 5, 1])), tmp_path / f"{k}.nii")
        rows.append(f"{k},{k}.nii,{'wm'[k % 2]}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    sexes = ["--columns", "sex", "Geschlecht", "--codings", "sex:w=F", "sex:m=M"]
    line = ["prepare", tmp_path / "table.csv", tmp_path / "maps", "--what", "map", "--to", "none"]
    pooling = ["--pool", 2, 2, 1, *sexes]
    assert run(*line, *pooling) == 2
    assert "names no dataset" in capsys.readouterr().err
    assert run(*line, *pooling, "--dataset", "Study") == 0
    fractions = ["--fractions", 0.5, 0, 0.5]
    assert run("cohort", tmp_path / "maps", "--out", tmp_path / "split", *fractions) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "t1: 8 people on one grid of 8 x 8 x 4 voxels of 4 x 4 x 5 mm" in said
    assert "classifiers and experiments of sex" in said
    train = Cohort.load(tmp_path / "split" / "train.tsv")
    assert train.table["sex"].tolist().count("F") == 2
    assert run(*line[:3], "--what", "md", "--dataset", "Study") == 2
    assert "--what map alone" in capsys.readouterr().err
