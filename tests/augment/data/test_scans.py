import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest
import torchio as tio

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.scans import WholeImage, require_whole
from neuromix.augment.errors import InputError
from neuromix.experiments.cli.main import main

VOLUME = np.random.default_rng(0).random((9, 8, 7)).astype(np.float32)


@pytest.fixture(params=[".nii", ".nii.gz"])
def image(request, tmp_path):
    path = tmp_path / f"sub-1_scan{request.param}"
    nib.save(nib.Nifti1Image(VOLUME, np.diag([2, 2, 3, 1])), path)
    return path


def test_a_whole_file_is_read_as_ever(image):
    own, usual = WholeImage(image), tio.ScalarImage(image)
    assert own.shape == usual.shape  # without its voxels
    assert not own._loaded
    assert (own.data == usual.data).all()
    assert isinstance(tio.Subject(md=WholeImage(image))["md"], WholeImage)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_file_that_lacks_a_piece_is_refused(image, share):
    content = image.read_bytes()
    image.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="truncated or damaged"):
        _ = WholeImage(image).data
    cohort_table = image.parent / "c.tsv"
    cohort_table.write_text(f"subject_id\tmd_path\n1\t{image.name}\n")
    (subject,) = Cohort.load(cohort_table).subjects()
    with pytest.raises(InputError, match=image.name):
        subject.load()


def test_several_members_and_surplus_are_no_fault(tmp_path):
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    members = gzip.compress(content[:1000]) + gzip.compress(content[1000:])
    for k, packed in enumerate((members, gzip.compress(content + b"more"))):
        path = tmp_path / f"{k}.nii.gz"
        path.write_bytes(packed)
        require_whole(path)


def test_headers_that_nibabel_refuses_are_left_to_the_reader(tmp_path):
    image = nib.Nifti1Image(VOLUME, np.eye(4))
    image.header["qform_code"] = 1
    for k, value in zip("bcd", (0.70711, 0.70711, 0.001), strict=True):
        image.header[f"quatern_{k}"] = value
    raw = image.header.binaryblock + bytes(4) + VOLUME.tobytes("F")
    for name, content in (
        ("odd.nii", raw),
        ("plain.nii.gz", raw),
        ("cruft.nii.gz", gzip.compress(raw) + b"x"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        require_whole(path)
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match="truncated"):
            require_whole(path)
    upper = tmp_path / "UPPER.NII.GZ"
    upper.write_bytes(gzip.compress(raw)[:300])
    with pytest.raises(InputError, match="truncated"):
        require_whole(upper)


def test_other_files_are_left_to_their_reader(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"no image at all"))
    require_whole(path)
    require_whole(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError):
        require_whole(tmp_path / "none.nii")


def test_a_training_does_not_take_it(md_phantom, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(md_phantom, data)
    assert main(["cohort", str(data), "--out", str(tmp_path / "split")]) == 0
    broken = next(data.rglob("*.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:3000])
    command = ["train", "md", str(data), str(tmp_path / "sampler"), "--preset", "demo"]
    assert main([*command, "--steps", "1", "--batch-size", "2"]) == 2
    assert "truncated or damaged" in capsys.readouterr().err
    assert main(["cohort", str(data), "--out", str(tmp_path / "again")]) == 2
    assert "no split was written" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert main(["cohort", str(data), "--out", str(tmp_path / "again"), "--anyway"]) == 2
    assert (tmp_path / "again" / "train.tsv").is_file()
