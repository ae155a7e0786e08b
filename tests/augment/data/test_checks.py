import gzip
import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuromix.augment.data.checks import Problem
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import Grid, template, template_on

GRID = Grid.mni(8)
BRAIN = template_on(GRID)["brain"] > 0.5
DIM, DATATYPE, SROW_X = 40, 70, 280  # offsets in the header


def md():
    noise = np.random.default_rng(0).normal(0, 0.1, GRID.shape)
    return (BRAIN * (0.8 + noise)).astype(np.float32)


def bold(frames=4):
    return np.stack([1000 * BRAIN * (1 + 0.01 * t) for t in range(frames)], -1).astype(np.float32)


def save(path, data, affine=GRID.affine, tr=2.0, code=4):
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=code)
    image.set_qform(None, code=code)
    if data.ndim > 3:
        image.header.set_zooms((*image.header.get_zooms()[:3], *[tr] * (data.ndim - 3)))
    image.to_filename(path)
    return path


def patch(path, offset, values):
    """Overwrite some bytes of a file, inside its compression."""
    zipped = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    content[offset : offset + values.nbytes] = values.tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)


def check(*paths, image="md"):
    rows = {"subject_id": map(str, range(len(paths))), f"{image}_path": map(str, paths)}
    return Cohort(pd.DataFrame({name: list(values) for name, values in rows.items()})).validate()


def found(problems):
    return [f"{problem.what}; {problem.advice}" for problem in problems]


def the_one(problems):
    assert len(problems) == 1, found(problems)
    return found(problems)[0]


@pytest.fixture()
def place(tmp_path):
    return tmp_path / "image.nii.gz"


def test_a_good_image_has_no_problem(tmp_path):
    assert check(save(tmp_path / "a.nii", md()), save(tmp_path / "b.nii.gz", md())) == []
    assert check(save(tmp_path / "c.nii.gz", bold()), image="bold") == []


def test_an_image_may_be_absent_where_the_row_has_another(tmp_path):
    path = str(save(tmp_path / "a.nii", md()))
    table = pd.DataFrame({"subject_id": ["1"], "md_path": [path], "t1w_path": [""]})
    assert Cohort(table).validate() == []


class TestFiles:
    def test_absent(self, place):
        assert "the file is absent" in the_one(check(place))

    def test_a_backslash_is_no_separator(self):
        assert "a backslash is no separator here" in the_one(check("maps\\a.nii"))

    def test_empty(self, place):
        place.touch()
        assert "the file is empty" in the_one(check(place))

    def test_another_format(self, tmp_path):
        (tmp_path / "image.mgz").write_text("hello")
        assert "not a NIfTI file" in the_one(check(tmp_path / "image.mgz"))

    @pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
    def test_no_image_at_all(self, tmp_path, name):
        (tmp_path / name).write_text("hello" * 200)
        assert "cannot be read" in the_one(check(tmp_path / name))

    @pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
    @pytest.mark.parametrize("keep", [0.05, 0.5, 0.999])
    def test_truncated(self, tmp_path, name, keep):
        path = save(tmp_path / name, md())
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
        assert "truncated" in the_one(check(path))

    def test_a_flipped_bit_inside_the_compression(self, place):
        save(place, md())
        content = bytearray(place.read_bytes())
        content[len(content) // 2] ^= 1
        place.write_bytes(content)
        assert "truncated or damaged" in the_one(check(place))

    @pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
    @pytest.mark.parametrize("sides", [(32000, 32000, 32000), (300, 300, 300), (-24, 24, 24)])
    def test_a_header_that_claims_more_than_the_file_can_hold(self, tmp_path, name, sides):
        path = save(tmp_path / name, md())
        patch(path, DIM, np.array([3, *sides], "<i2"))
        assert "the header is wrong" in the_one(check(path))

    def test_an_unknown_data_type(self, place):
        patch(save(place, md()), DATATYPE, np.array([9999], "<i2"))
        assert "cannot be read" in the_one(check(place))

    def test_complex_numbers(self, place):
        save(place, md().astype(np.complex64))
        assert "complex64" in the_one(check(place))


class TestValues:
    def test_some_nan_and_infinite(self, place):
        data = md()
        data[BRAIN & (np.indices(GRID.shape)[0] == 10)] = np.nan
        data[0, 0, 0] = np.inf
        save(place, data)
        count = (~np.isfinite(data)).sum()
        assert f"{count} of {data.size}" in the_one(check(place))

    @pytest.mark.parametrize(
        ("value", "words"), [(np.nan, "every voxel is NaN"), (0, "voxel is 0"), (3, "voxel is 3")]
    )
    def test_nothing_in_it(self, place, value, words):
        save(place, np.full(GRID.shape, value, np.float32))
        assert words in the_one(check(place))

    def test_nan_in_a_late_frame(self, place):
        data = bold()
        data[5, 5, 5, 3] = np.nan
        save(place, data)
        assert "1 of" in the_one(check(place, image="bold"))

    @pytest.mark.parametrize("value", [np.nan, 0])
    def test_an_empty_frame(self, place, value):
        data = bold(100)  # more than a block
        data[..., 89] = value
        data[3, 3, 3] = np.nan
        save(place, data)
        frame, voxel = found(check(place, image="bold"))
        assert frame.startswith(
            "1 of 100 frames hold nothing but NaN or zeros, the first is frame 90"
        )
        assert voxel.startswith("99 of")

    @pytest.mark.parametrize(
        ("factor", "words"),
        [
            (1e-3, "looks like mm²/s .*multiply it by 1000$"),
            (1e3, "looks like µm²/s .*multiply it by 0.001$"),
            (30, "fits no unit"),
        ],
    )
    def test_another_unit(self, place, factor, words):
        save(place, md() * np.float32(factor))
        assert re.search(words, the_one(check(place)))

    def test_a_scaled_integer_is_read_in_its_unit(self, place):
        image = nib.Nifti1Image((md() * 1000).astype(np.int16), GRID.affine)
        image.set_sform(GRID.affine, code=4)
        image.header.set_slope_inter(0.001, 0)
        content = bytearray(image.to_bytes())
        content[112:116] = np.array([0.001], "<f4").tobytes()  # nibabel resets the slope on saving
        place.write_bytes(gzip.compress(content))
        assert check(place) == []

    def test_negative_md(self, place):
        data = md()
        data[::5] *= -1
        save(place, data)
        assert "MD is negative in" in the_one(check(place))

    def test_few_negative_voxels_are_noise(self, place):
        data = md()
        data[tuple(np.argwhere(BRAIN)[::200].T)] *= -1
        save(place, data)
        assert check(place) == []


class TestDimensions:
    def test_a_slice(self, place):
        save(place, md()[:, :, 10])
        assert "a 2D image (24 x 24)" in the_one(check(place))

    def test_a_volume_of_one_slice(self, place):
        save(place, bold()[:, :, 10:11])
        assert "a 2D image" in the_one(check(place, image="bold"))

    def test_a_series_is_no_md(self, place):
        save(place, bold())
        assert "4 dimensions (24 x 24 x 24 x 4), md has 3" in the_one(check(place))

    def test_a_volume_is_no_bold(self, place):
        save(place, md())
        assert "3 dimensions (24 x 24 x 24), bold has 4" in the_one(check(place, image="bold"))

    def test_a_trailing_axis_of_one_is_tolerated(self, place):
        save(place, md()[..., None])
        assert check(place) == []

    def test_five_dimensions(self, place):
        save(place, bold()[:, :, :, None])
        assert "5 dimensions" in the_one(check(place, image="bold"))


class TestSpace:
    def test_no_affine(self, place):
        save(place, md(), code=0)
        assert "no affine" in the_one(check(place))

    def test_a_singular_affine(self, place):
        patch(save(place, md()), SROW_X, np.zeros(4, "<f4"))
        assert "singular affine" in the_one(check(place))

    def test_two_affines(self, place):
        image = nib.Nifti1Image(md(), GRID.affine)
        moved = GRID.affine.copy()
        moved[0, 3] += 3
        image.set_sform(GRID.affine, code=4)
        image.set_qform(moved, code=1)
        image.to_filename(place)
        assert "sform and qform disagree by 3 mm" in the_one(check(place))

    def test_oblique_axes(self, place):
        angle = np.deg2rad(5)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        save(place, md(), turn @ GRID.affine)
        assert "tilted by 5.0 degrees; run neuromix prepare" in the_one(check(place))

    @pytest.mark.parametrize("axis", range(3))
    def test_moved_by_20_mm(self, place, axis):
        affine = GRID.affine.copy()
        affine[axis, 3] += 20
        save(place, md(), affine)
        assert "not in MNI space" in the_one(check(place))

    def test_a_head_with_its_skull(self, place):
        maps, grid = template()
        brain = maps["brain"][::4, ::4, ::4] > 0.5
        affine = grid.affine @ np.diag([4, 4, 4, 1])
        head = np.pad(brain, 6).astype(np.float32)
        affine[:3, 3] -= 6 * np.diag(affine)[:3]
        shell = nib.Nifti1Image(head, affine)  # the brain and 16 mm around it
        for _ in range(4):
            near = [np.roll(head, step, axis) for axis in range(3) for step in (-1, 1)]
            head = np.maximum.reduce([head, *near])
        save(place, head + 0.1 * np.asanyarray(shell.dataobj), affine)
        assert "not skull-stripped" in the_one(check(place, image="t1w"))

    @pytest.mark.parametrize("scale", [0.95, 1.05])
    def test_a_brain_of_another_size_is_in_place(self, place, scale):
        save(place, md(), np.diag([scale, scale, scale, 1]) @ GRID.affine)
        assert check(place) == []

    def test_a_noisy_background_is_not_stripped(self, place):
        noise = np.abs(np.random.default_rng(0).normal(0, 0.2, GRID.shape))
        save(place, md() + noise.astype(np.float32))
        assert "not skull-stripped or not in MNI space" in the_one(check(place))


class TestMaps:
    """Of maps that claim no MNI152 space, any unit, place and coverage will do."""

    def slab(self, path, affine=GRID.affine, factor=150):
        return save(path, md()[:, :, 10:14] * np.float32(factor), affine, code=2)

    def test_a_slab_in_any_place_and_unit_has_no_problem(self, tmp_path):
        turn = np.diag([1.0, 1, 1, 1])
        turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
        turn[0, 3] = 90
        paths = [self.slab(tmp_path / f"{k}.nii", turn @ GRID.affine) for k in range(3)]
        assert check(*paths, image="t1") == []
        assert "fits no unit" in the_one(check(paths[0], image="md"))

    def test_who_claims_mni_by_name_is_looked_at(self, tmp_path):
        path = self.slab(tmp_path / "sub-1_space-MNI152NLin6Asym_fa.nii")
        assert "not in MNI space, which it claims" in the_one(check(path, image="fa"))

    def test_images_of_their_own_grids_are_one_problem(self, tmp_path):
        moved = [np.array(GRID.affine) for _ in range(4)]
        for k, affine in enumerate(moved):
            affine[:3, 3] += k
        paths = [self.slab(tmp_path / f"{k}.nii", affine) for k, affine in enumerate(moved)]
        (problem,) = check(*paths, image="t1")
        assert str(problem).startswith("t1 files lie on different grids, most on one of their own")

    def test_a_map_has_three_dimensions(self, place):
        save(place, bold())
        assert "fa has 3" in the_one(check(place, image="fa"))


class TestMixed:
    def test_the_few_are_reported(self, tmp_path):
        paths = [save(tmp_path / f"{i}.nii", md()) for i in range(3)]
        other = Grid.mni(10)
        brain = (template_on(other)["brain"] > 0.5) * (0.8 + 0.1 * template_on(other)["gm"])
        paths.append(save(tmp_path / "coarse.nii", brain.astype(np.float32), other.affine))
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = GRID.shape[0] - 1
        paths.append(save(tmp_path / "flipped.nii", md()[::-1].copy(), GRID.affine @ flip))
        moved = GRID.affine.copy()
        moved[0, 3] += 4
        paths.append(save(tmp_path / "moved.nii", md(), moved))
        coarse, flipped, moved = check(*paths)
        assert "spacing 10 x 10 x 10 instead of 8 x 8 x 8" in coarse.what
        assert "shape 16 x 24 x 16 instead of 24 x 24 x 24" in coarse.what
        assert coarse.path == str(paths[3])
        assert flipped.what.endswith("md files: orientation LAS instead of RAS")
        assert moved.what.count("instead of") == 1
        assert "position" in moved.what

    def test_runs_may_differ_in_length_and_segments_may_not(self, tmp_path):
        paths = [save(tmp_path / f"{i}.nii", bold(3 if i == 2 else 4)) for i in range(3)]
        assert check(*paths, image="bold") == []
        assert "24 x 3 instead of 24 x 24 x 24 x 4" in the_one(check(*paths, image="fmri"))


class TestRepetitionTime:
    def test_none(self, place):
        save(place, bold(), tr=0)
        assert "neither in the header nor in the sidecar" in the_one(check(place, image="bold"))

    def test_the_sidecar_disagrees(self, tmp_path):
        func = tmp_path / "sub-1" / "func"
        func.mkdir(parents=True)
        path = save(func / "sub-1_task-rest_bold.nii.gz", bold(), tr=1.0)
        sidecar = tmp_path / "task-rest_bold.json"
        sidecar.write_text(json.dumps({"RepetitionTime": 2.0}))
        problem = the_one(check(path, image="bold"))
        assert "the repetition time is 1 s in the header and 2 s in the sidecar" in problem
        sidecar.write_text(json.dumps({"RepetitionTime": 1.0}))
        assert check(path, image="bold") == []
        sidecar.write_text("{")
        assert "cannot be read as JSON" in the_one(check(path, image="bold"))

    def test_milliseconds_are_understood(self, place):
        image = nib.Nifti1Image(bold(), GRID.affine)
        image.set_sform(GRID.affine, code=4)
        image.header.set_xyzt_units("mm", "msec")
        image.header.set_zooms((8, 8, 8, 2000))
        image.to_filename(place)
        place.with_name("image.json").write_text(json.dumps({"RepetitionTime": 2}))
        assert check(place, image="bold") == []


class TestRows:
    def test_no_image(self):
        assert the_one(check("")) == "no image; name one or drop the row"

    def test_no_rows(self):
        assert str(check()[0]).startswith("the cohort has no rows; ")

    def test_contradictory_sex(self, tmp_path):
        path = str(save(tmp_path / "a.nii", md()))
        sexes = {"sex": ["F", "", "M"], "session_id": ["a", "b", "c"]}
        table = pd.DataFrame({"subject_id": "1", "md_path": path, **sexes})
        assert "sex is F in one row and M in another" in the_one(Cohort(table).validate())

    def test_a_repeated_session(self, tmp_path):
        path = str(save(tmp_path / "a.nii", md()))
        table = pd.DataFrame(
            {"subject_id": "1", "session_id": ["a", "b", "a", "a"], "md_path": path}
        )
        problem = the_one(Cohort(table).validate())
        assert problem.startswith("3 rows for this session")

    def test_one_file_for_two_subjects(self, tmp_path):
        path = save(tmp_path / "a.nii", md())
        assert "stands for 2 subjects (sub-0, sub-1)" in the_one(check(path, path))


def test_everything_is_reported_at_once(tmp_path, capfd):
    cut = save(tmp_path / "cut.nii.gz", md())
    cut.write_bytes(cut.read_bytes()[:-200])
    wrong = md() * 1000
    wrong[0] = np.nan
    affine = GRID.affine.copy()
    affine[2, 3] += 40
    strange = save(tmp_path / "strange.nii", md())
    patch(strange, DATATYPE, np.array([9999], "<i2"))
    paths = [save(tmp_path / "wrong.nii", wrong, affine), cut, tmp_path / "gone.nii", strange]
    table = pd.DataFrame({"subject_id": list("abcd"), "md_path": list(map(str, paths))})
    problems = Cohort(pd.concat([table, table[:1]])).validate()
    assert [problem.subject for problem in problems] == ["a", "a", "a", "a", "b", "c", "d"]
    words = ["2 rows", "NaN", "MNI", "µm²/s", "truncated", "absent", "cannot be read"]
    assert all(word in problem.what for word, problem in zip(words, problems, strict=True))
    assert all("\n" not in str(problem) for problem in problems)
    assert capfd.readouterr() == ("", "")


def test_a_problem_reads_as_a_line():
    problem = Problem("01", "a", "md", "/d/x.nii", "the file is empty", "copy it again")
    assert str(problem) == "sub-01 ses-a md (/d/x.nii): the file is empty; copy it again"
    assert str(Problem("01", "", "", "", "2 rows", "keep one")) == "sub-01: 2 rows; keep one"
