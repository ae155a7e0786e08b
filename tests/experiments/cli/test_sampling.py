import nibabel as nib
import numpy as np
import pytest
from banking import GRID, FakeSampler

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.errors import LeakageError
from neuromix.experiments.cli.main import main


@pytest.fixture
def generate(tmp_path, monkeypatch):
    """``neuromix generate`` with a sampler that costs nothing."""
    sampler = FakeSampler()
    sampler.label_space = LabelSpace.from_labels([{"sex": "F"}, {"sex": "M"}], ("sex",))
    sampler.image = "md"
    monkeypatch.setattr("neuromix.augment.diffusion.pipeline.is_sampler", lambda folder: True)
    monkeypatch.setattr("neuromix.augment.opening.open_source", lambda folder: sampler)
    bank = tmp_path / "bank"
    return lambda *args: (main(["generate", "x", str(bank), "--count", "4", *args]), bank)


@pytest.fixture
def train(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["dataset\tsubject_id\tmd_path"]
    for k in range(4):
        image = nib.Nifti1Image(rng.standard_normal(GRID.shape).astype(np.float32), GRID.affine)
        nib.save(image, tmp_path / f"{k}.nii")
        lines.append(f"site\t{k}\t{k}.nii")
    path = tmp_path / "train.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_filters_are_named_by_option_and_kept_with_the_bank(generate, train):
    code, bank = generate("--filter", f"near-copy:{train}", "range:-20:20")
    assert code == 0
    copies, plausible = SampleBank(bank).about["settings"]["filters"]
    assert copies.startswith("NearCopy(")
    assert plausible == "IntensityRange(low=-20.0, high=20.0, share=0.01, image='md')"
    with pytest.raises(LeakageError, match="4 of 4"):
        SampleBank(bank).check_disjoint(Cohort.load(train))


def test_what_a_filter_rejects_is_not_in_the_bank(generate, capsys):
    # The fake sampler's mean is 5 for men.
    assert generate("--filter", "range:-4:4", "--labels", "sex", "M")[0] == 2
    assert "lies outside -4 to 4" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["sharp", "near-copy", "near-copy:", "range:1", "range:a:b"])
def test_a_filter_that_is_not_known_is_refused(generate, capsys, text):
    code, bank = generate("--filter", text)
    assert code == 2
    assert f"--filter {text} came; write near-copy:TRAIN.tsv or range:" in capsys.readouterr().err
    assert not bank.exists()
