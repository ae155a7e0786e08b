"""Trees and tables that look like four well-known datasets are read as the docs say."""

import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import Grid, template_on
from neuromix.augment.errors import InputError
from neuromix.experiments.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
GRID = Grid.mni(8)


def md(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    brain = template_on(GRID)["brain"] > 0.5
    rng = np.random.default_rng(len(str(path)))
    image = nib.Nifti1Image((brain * rng.uniform(0.7, 0.9, GRID.shape)).astype(np.float32), None)
    image.set_sform(GRID.affine, code=4)
    image.to_filename(path)


def command(name):
    """The options that the page gives for a dataset."""
    (row,) = re.findall(rf"^\| {name} .*`neuromix cohort ([^`]*)`", PAGE, re.M)
    return shlex.split(row)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(name, place):
    """Run the line of the page, and read what it wrote."""
    assert main(["cohort", *command(name), "--out", "split", "--fractions", "0", "0", "1"]) == 0
    return Cohort.from_table(place / "split" / "test.tsv", {"md": "md_path"}).table


def test_camcan(place):
    for subject in ("CC110033", "CC110037"):
        md(place / f"camcan-md/sub-{subject}/dwi/sub-{subject}_param-md_dwimap.nii.gz")
    (place / "camcan-md" / "participants.tsv").write_text(
        "participant_id\tage\thand\tgender_code\tgender_text\n"
        "sub-CC110033\t24\t100\t1\tMALE\nsub-CC110037\t18.4\t95\t2\tFEMALE\n"
    )
    table = read("Cam-CAN", place)
    assert dict(zip(table["subject_id"], table["sex"], strict=True)) == {
        "CC110033": "M", "CC110037": "F",
    }  # fmt: skip
    assert sorted(table["age"]) == [18.4, 24]


def test_adni_as_bids(place):
    for session in ("M000", "M012"):
        name = f"sub-ADNI002S0295_ses-{session}_param-md_dwimap.nii.gz"
        md(place / f"adni-md/sub-ADNI002S0295/ses-{session}/dwi/{name}")
    (place / "adni-md" / "participants.tsv").write_text(
        "participant_id\talternative_id_1\tsex\teducation_level\tage_bl\tdiagnosis_sc\n"
        "sub-ADNI002S0295\t002_S_0295\tM\t18\t84.8\tCN\n"
    )
    (place / "adni-md/sub-ADNI002S0295/sub-ADNI002S0295_sessions.tsv").write_text(
        "session_id\tage\tdiagnosis\tMMS\nses-M000\t84.9\tCN\t28\nses-M012\t85.9\tLMCI\t26\n"
    )
    table = read("ADNI", place)
    assert table["diagnosis"].to_list() == ["NC", "MCI"]
    assert table["age"].to_list() == [84.9, 85.9]
    assert set(table["sex"]) == {"M"}


def test_oasis_as_a_table(place):
    for subject in ("OAS30001", "OAS30003", "OAS30004"):
        md(place / f"md/{subject}.nii.gz")
    (place / "oasis3.csv").write_text(
        "OASISID,age at visit,GENDER,dx1,md_path\n"
        "OAS30001,65.2,2,Cognitively normal,md/OAS30001.nii.gz\n"
        "OAS30003,58.8,1,AD Dementia,md/OAS30003.nii.gz\n"
        "OAS30004,61.0,2,uncertain dementia,md/OAS30004.nii.gz\n"
    )
    table = read("OASIS-3", place).set_index("subject_id")
    assert table["diagnosis"].fillna("").to_dict() == {
        "OAS30001": "NC", "OAS30003": "AD", "OAS30004": "",
    }  # fmt: skip
    assert table.loc["OAS30003", ["sex", "age"]].to_list() == ["M", 58.8]


def test_hcp_as_a_table(place):
    for subject in ("100307", "100408"):
        md(place / f"md/{subject}.nii.gz")
    (place / "hcp.csv").write_text(
        "Subject,Gender,Age,Age_in_Yrs,md_path\n"
        "100307,F,26-30,27,md/100307.nii.gz\n100408,M,31-35,33,md/100408.nii.gz\n"
    )
    table = read("HCP", place)
    assert table["age"].to_list() == [27, 33]
    assert table["sex"].to_list() == ["F", "M"]
    with pytest.raises(InputError, match="26-30"):  # a range is no age
        Cohort.from_table("hcp.csv", {"md": "md_path"})
