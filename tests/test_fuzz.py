"""Broken files by the thousand: each is named or loads as it was; nothing crashes or hangs."""

import gzip
import os
import signal
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import Grid, template_on
from neuromix.augment.errors import InputError

GRID = Grid.mni(12)
FILES = int(os.environ.get("FUZZ_FILES", 250))  # of each of the two ways to store them
HEADER = 352
SECONDS = 60


@contextmanager
def in_time():
    """A file that makes the reader hang fails the test, and does not stop it."""

    def give_up(*_):
        raise TimeoutError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def image():
    brain = template_on(GRID)["brain"] > 0.5
    noise = np.random.default_rng(0).normal(0, 0.1, GRID.shape)
    md = nib.Nifti1Image((brain * (0.8 + noise)).astype(np.float32), GRID.affine)
    md.set_sform(GRID.affine, code=4)
    md.set_qform(GRID.affine, code=4)
    return md


def flip(content, rng, start=0, stop=None):
    """Flip some bits."""
    for _ in range(rng.integers(1, 5)):
        content[rng.integers(start, stop or len(content))] ^= 1 << rng.integers(8)
    return content


def overwrite(content, rng):
    """Write nonsense over a stretch, as a bad sector would."""
    start, length = rng.integers(len(content)), rng.integers(1, 200)
    content[start : start + length] = rng.bytes(min(length, len(content) - start))
    return content


def cut(content, rng):
    """Lose the end, or a piece in the middle."""
    start = rng.integers(len(content))
    stop = len(content) if rng.random() < 0.5 else start + rng.integers(1, 200)
    del content[start:stop]
    return content


def extreme(content, rng):
    """Put the largest, smallest or no number into a field of the header."""
    start, width = rng.integers(HEADER), rng.choice([1, 2, 4])
    content[start : start + width] = bytes([rng.choice([0x00, 0xFF, 0x7F, 0x80])]) * width
    return content


def header(content, rng):
    return flip(content, rng, stop=HEADER)


WAYS = (flip, header, overwrite, cut, extreme)


@pytest.fixture(scope="module", params=[".nii", ".nii.gz"])
def broken(request, tmp_path_factory):
    """Broken files, and what validate says of each."""
    folder = tmp_path_factory.mktemp("fuzz")
    plain = bytearray(image().to_bytes())
    rng = np.random.default_rng(0)
    paths = []
    for number in range(FILES):
        way = WAYS[number % len(WAYS)]
        inside = number % 2 or request.param == ".nii"  # else the compressed stream itself breaks
        content = bytearray(plain if inside else gzip.compress(plain, mtime=0))
        content = way(content, rng)
        if inside and request.param != ".nii":
            content = gzip.compress(content, mtime=0)
        path = folder / f"{number:04d}-{way.__name__}{request.param}"
        path.write_bytes(content)
        paths.append(path)
    table = pd.DataFrame({
        "subject_id": [str(n) for n in range(len(paths))],
        "md_path": [str(path) for path in paths],
    })  # fmt: skip
    cohort = Cohort(table)
    with in_time():
        problems = cohort.validate()
    return cohort, {problem.path: problem for problem in problems}


def test_a_broken_file_is_named_or_is_what_it_was(broken):
    cohort, problems = broken
    good = image()
    paths = list(cohort.table["md_path"])
    sealed = {path for path in paths[::2] if path.endswith(".gz")}
    for path, subject in zip(paths, cohort.subjects(), strict=True):
        if path in problems:
            continue
        md = subject["md"]
        assert md.shape == (1, *GRID.shape), path
        np.testing.assert_allclose(md.affine, GRID.affine, atol=0.02, err_msg=path)
        assert np.isfinite(md.numpy()).all(), path
        if path in sealed:  # by its checksum, which tells every change of a voxel
            np.testing.assert_array_equal(md.numpy()[0], good.get_fdata(), err_msg=path)


def test_what_lacks_a_piece_is_named_in_one_line(broken):
    cohort, problems = broken
    assert all(path in problems for path in cohort.table["md_path"] if "-cut" in path)
    assert all("\n" not in str(problem) and problem.advice for problem in problems.values())


def test_no_broken_file_ends_the_process(broken):
    """Files that are named need not load, but the reader has to come back from each."""
    cohort, _ = broken
    for path, subject in zip(cohort.table["md_path"], cohort.subjects(), strict=True):
        with in_time():
            try:
                subject["md"].load()
            except TimeoutError:
                raise
            except Exception as error:
                assert str(error) or error, path  # it is a Python error and no crash


TABLE = (
    "participant_id\tsession_id\tage\tsex\tdiagnosis\tmd_path\n"
    "sub-01\tses-1\t71.5\tF\tAD\ta.nii.gz\n"
    "sub-02\tn/a\t65\tM\tNC\tb.nii.gz\n"
    "sub-03\tses-2\t\tF\tMCI\tc.nii.gz\n"
)


def test_a_broken_table_is_read_or_refused_in_one_line(tmp_path):
    rng = np.random.default_rng(0)
    refused = 0
    path = tmp_path / "cohort.tsv"
    for number in range(FILES):
        way = (flip, overwrite, cut)[number % 3]
        path.write_bytes(way(bytearray(TABLE.encode()), rng))
        try:
            cohort = Cohort.from_table(path, {"md": "md_path"})
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert set(cohort.table["sex"]) <= {"F", "M", ""}
            assert set(cohort.table["diagnosis"]) <= {"NC", "SCD", "MCI", "AD", "FTD", "other", ""}
            ages = cohort.table["age"].dropna()
            assert ((ages >= 0) & (ages <= 130)).all()
    assert 0 < refused < FILES


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": NaN', b"null", b"[" * 100_000]
)
def test_a_broken_sidecar_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "sub-1_bold.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as told:
        bids.read_json(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "name",
    [
        "sub-01\n_dwimap.nii",
        "sub-..%2F_dwimap.nii",
        "sub-01;rm -rf_dwimap.nii",
        "sub-\u202e1_dwimap.nii",
        "sub-01_param-md_dwimap.nii\t",
        "-rf",
        "sub-01_param-md_param-md_dwimap.nii",
    ],
)
def test_a_hostile_file_name_is_no_image(tmp_path, name):
    folder = tmp_path / "sub-01" / "dwi"
    folder.mkdir(parents=True)
    (folder / name).touch()
    with pytest.raises(InputError):
        Cohort.from_bids(tmp_path)


@pytest.mark.parametrize("subject", ["../../etc", "a/b", "01\t02", "\u202e", "=1+1", "."])
def test_a_hostile_subject_name_leads_out_of_no_folder(subject):
    with pytest.raises(InputError):
        bids.build_name({"sub": subject}, "dwimap", ".nii")
