import json
import shutil
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from neuromix.augment import Cohort, InputError
from neuromix.augment.data.grid import Grid, template_on
from neuromix.augment.prepare import expand, mean, prepare, restore, space

GRID = Grid.mni(8.0)
MNI = "space-MNI152NLin6Asym"
TR = 2.0
FRAMES = 12
BVALS = np.r_[0.0, np.full(12, 1000.0)]
QUIET = {"jobs": 1, "progress": False, "spacing": 8.0}


def make_vectors():
    spread = np.random.default_rng(0).normal(size=(12, 3))
    return np.concatenate([np.zeros((1, 3)), spread / np.linalg.norm(spread, axis=1)[:, None]])


def save(path, data, affine=GRID.affine, tr=None, code=1):
    image = nib.Nifti1Image(data.astype(np.float32), affine)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    if tr is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
        image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def make_images():
    """MD in 1e-3 mm²/s, a diffusion scan and a BOLD run of the template's brain on the grid."""
    maps = template_on(GRID)
    brain = maps["brain"] > 0.5
    md = np.where(brain, np.clip(3 - 2.2 * maps["gm"] - 2.3 * maps["wm"], 0.7, 3), 0)
    dwi = 1000 * brain[..., None] * np.exp(-BVALS * md[..., None] / 1000)
    rng = np.random.default_rng(1)
    bold = 600 * (brain * np.exp(-md))[..., None] * (1 + 0.01 * rng.normal(size=FRAMES))
    return md, dwi, bold


def write_dwi(folder, stem, dwi, bvecs):
    save(folder / f"{stem}_dwi.nii.gz", dwi)
    np.savetxt(folder / f"{stem}_dwi.bval", BVALS[None], fmt="%g")
    np.savetxt(folder / f"{stem}_dwi.bvec", bvecs.T)


@pytest.fixture(scope="module")
def template_dataset(tmp_path_factory):
    """Three subjects in MNI space, of which the last is broken in every image."""
    root = tmp_path_factory.mktemp("bids") / "raw"
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "Toy study", "BIDSVersion": "1.10.0"}')
    (root / "participants.tsv").write_text(
        "participant_id\tage\tsex\nsub-01\t30\tF\nsub-02\t71\tM\nsub-03\t50\tF\n"
    )
    (root / "participants.json").write_text('{"age": {"Units": "year"}}')
    (root / "task-motor_bold.json").write_text(json.dumps({"RepetitionTime": TR}))
    (root / "task-motor_events.tsv").write_text(
        "onset\tduration\ttrial_type\n1\t3\tleft\n7\t4\tright\n14\t2\tleft\n"
    )
    _, dwi, bold = make_images()
    for subject in ("01", "02", "03"):
        folder = root / f"sub-{subject}" / "ses-a"
        stem = f"sub-{subject}_ses-a"
        (root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv").parent.mkdir()
        (root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv").write_text(
            "session_id\tdiagnosis\nses-a\tMCI\n"
        )
        write_dwi(folder / "dwi", f"{stem}_{MNI}", dwi, make_vectors())
        save(folder / "func" / f"{stem}_task-motor_{MNI}_bold.nii.gz", bold, tr=TR)
    for image in (root / "sub-03").rglob("*.nii.gz"):
        image.write_bytes(image.read_bytes()[:-2000])
    return root


@pytest.fixture
def dataset(template_dataset, tmp_path):
    """A copy of the dataset that a test may change."""
    return shutil.copytree(template_dataset, tmp_path / "raw")


def sidecar(image):
    return json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text())


def only(folder, pattern):
    (path,) = folder.rglob(pattern)
    return path


def test_md_from_dwi_with_one_broken_subject(dataset, tmp_path):
    out = tmp_path / "out"
    result = prepare(dataset, out, what="md", **QUIET)
    assert (result.written, result.kept) == (2, 0)
    assert list(result.failures) == [f"sub-03_ses-a_{MNI}_dwi.nii.gz"]
    assert "truncated" in str(result).splitlines()[1]
    cohort = Cohort.from_bids(out)
    assert cohort.images == ("md",)
    assert cohort.table["subject_id"].tolist() == ["01", "02"]
    assert cohort.table["sex"].tolist() == ["F", "M"]
    assert cohort.table["diagnosis"].tolist() == ["MCI", "MCI"]
    assert set(cohort.table["dataset"]) == {"Toy study"}  # still the subjects of that study
    path = out / f"sub-01/ses-a/dwi/sub-01_ses-a_{MNI}_param-md_dwimap.nii.gz"
    image = nib.load(path)
    data, expected = image.get_fdata(), make_images()[0]
    assert (data > 0).sum() > 0.8 * (expected > 0).sum()  # the median filter takes some of the rim
    np.testing.assert_allclose(data[data > 0], expected[data > 0], atol=1e-3)
    assert Grid(image.shape, image.affine) == GRID
    told = sidecar(path)
    assert told["Units"] == "1e-3 mm^2/s"
    assert f"space-{told['SpatialReference']}" == MNI  # the one that the scan came in
    assert told["SkullStripped"] is True
    assert f"sub-01/ses-a/dwi/sub-01_ses-a_{MNI}_dwi.bval" in told["Sources"]
    np.testing.assert_allclose(restore(data, told["Record"]["space"]), data, atol=1e-6)


def test_native_scans_are_registered(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(space, "ITERATIONS", (10, 3))
    shift = np.eye(4)
    shift[:3, 3] = (7, -9, 5)
    bold = make_images()[2]
    (native := dataset / "sub-01" / "ses-a").rename(tmp_path / "away")
    (dataset / "sub-02").rename(tmp_path / "sub-02")
    (dataset / "sub-03").rename(tmp_path / "sub-03")
    save(native / "func" / "sub-01_ses-a_task-motor_bold.nii.gz", bold, shift @ GRID.affine, tr=TR)
    mask = native / "func" / "sub-01_ses-a_task-motor_desc-brain_mask.nii.gz"
    save(mask, bold[..., 0] > 0, shift @ GRID.affine)
    prepare(dataset, tmp_path / "out", what="bold", **QUIET)
    image = only(tmp_path / "out", "*_desc-prepared_bold.nii.gz")
    told = sidecar(image)
    assert "_space-MNI152NLin2009aSym_" in image.name  # the template's
    assert told["SkullStripped"] is True
    assert told["Overlap"] > 0.9
    found = np.array(told["Record"]["space"]["transform"])
    centre = [0, -17, 5, 1]
    assert np.linalg.norm(((found - shift) @ centre)[:3]) < 2


def test_bold_is_cut_into_windows_with_their_events(dataset, tmp_path):
    out = tmp_path / "out"
    prepare(dataset, out, what="bold", window=10.0, **QUIET)
    images = sorted((out / "sub-01").rglob("*_bold.nii.gz"))
    stem = f"sub-01_ses-a_task-motor_{MNI}"
    assert [i.name for i in images] == [
        f"{stem}_chunk-0{k}_desc-prepared_bold.nii.gz" for k in (1, 2, 3)
    ]
    assert [sidecar(i)["FirstFrame"] for i in images] == [0, 5, 7]
    second = nib.load(images[1])
    assert second.shape == (*GRID.shape, 5)
    assert second.header.get_zooms()[3] == TR == sidecar(images[1])["RepetitionTime"]
    np.testing.assert_allclose(second.get_fdata(), make_images()[2][..., 5:10], rtol=1e-5)
    events = only(out / "sub-01", "*_chunk-02_events.tsv").read_text()
    assert events == "onset\tduration\ttrial_type\n0.0\t1.0\tright\n4.0\t2.0\tleft\n"
    assert Cohort.from_bids(out).table["chunk"].tolist() == ["01", "02", "03"] * 2
    # Fewer windows leave none of the old ones behind.
    prepare(dataset, out, what="bold", **QUIET)
    assert [i.name for i in (out / "sub-01").rglob("*_bold.nii.gz")] == [
        f"{stem}_desc-prepared_bold.nii.gz"
    ]
    assert len(list((out / "sub-01").rglob("*_events.tsv"))) == 1


def test_segments_of_both_modalities(dataset, tmp_path):
    out = tmp_path / "out"
    result = prepare(dataset, out, what="segments", segments=4, **QUIET)
    assert (result.written, len(result.failures)) == (4, 2)
    cohort = Cohort.from_bids(out)
    assert cohort.images == ("fmri", "dmri")
    assert len(cohort) == 2
    _, dwi, bold = make_images()
    fmri, dmri = (nib.load(cohort.table[f"{m}_path"][0]) for m in ("fmri", "dmri"))
    assert fmri.shape == dmri.shape == (*GRID.shape, 4)
    told = sidecar(only(out / "sub-01", "*_bold.nii.gz"))
    assert told["RepetitionTime"] == TR * FRAMES / 4
    back = expand(fmri.get_fdata(), told["Record"]["segments"])
    expected = bold[..., :3].mean(-1)
    np.testing.assert_allclose(back[..., 0], expected, rtol=1e-4, atol=1e-3)
    told = sidecar(only(out / "sub-01", "*_dwi.nii.gz"))
    assert told["Record"]["segments"]["b0"] == [0]
    brain = dwi[..., 0] > 0
    attenuation = dwi[..., 1] / np.maximum(dwi[..., 0], 1)
    np.testing.assert_allclose(dmri.get_fdata()[brain][:, 2], attenuation[brain], rtol=1e-4)


def test_what_is_there_is_kept_until_settings_or_sources_change(dataset, tmp_path):
    out = tmp_path / "out"
    prepare(dataset, out, what="md", **QUIET)
    first = only(out / "sub-01", "*_dwimap.nii.gz")
    before = first.stat().st_mtime_ns
    result = prepare(dataset, out, what="md", **QUIET)
    assert (result.written, result.kept) == (0, 2)
    assert first.stat().st_mtime_ns == before
    only(out / "sub-02", "*_dwimap.json").unlink()  # as if it had been interrupted there
    assert prepare(dataset, out, what="md", **QUIET).written == 1
    bval = only(dataset / "sub-01", "*.bval")
    bval.write_text(bval.read_text().replace("1000", "500"))
    assert prepare(dataset, out, what="md", **QUIET).written == 1
    assert prepare(dataset, out, what="md", b_max=1200, **QUIET).written == 2


def test_images_of_another_space_do_not_stay_beside_the_new_ones(dataset, tmp_path):
    out = tmp_path / "out"
    for what in ("md", "segments"):
        prepare(dataset, out, what=what, **QUIET)
    before = sorted(p.name for p in out.rglob("*.nii.gz"))
    for path in [*out.rglob("*.nii.gz"), *out.rglob("sub-*.json")]:
        path.rename(path.with_name(path.name.replace(MNI, "space-MNI152NLin2009aSym")))
    for what in ("md", "segments"):
        prepare(dataset, out, what=what, **QUIET)
    assert sorted(p.name for p in out.rglob("*.nii.gz")) == before


def test_processes_give_the_same_as_one(dataset, tmp_path):
    one, two = (tmp_path / name for name in ("one", "two"))
    prepare(dataset, one, what="md", **QUIET)
    result = prepare(dataset, two, what="md", **{**QUIET, "jobs": 2})
    assert (result.written, len(result.failures)) == (2, 1)
    for path in one.rglob("*.nii.gz"):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "mm²/s"), (1e3, "µm²/s")])
def test_md_maps_in_other_units_are_converted_with_a_warning(tmp_path, factor, unit):
    md = make_images()[0]
    save(
        tmp_path / "raw/sub-1/dwi" / f"sub-1_{MNI}_model-tensor_param-md_dwimap.nii.gz", md * factor
    )
    with pytest.warns(UserWarning, match=f"converted from {unit}"):
        prepare(tmp_path / "raw", tmp_path / "out", what="md", **QUIET)
    np.testing.assert_allclose(
        nib.load(only(tmp_path / "out", "*.nii.gz")).get_fdata(), md, rtol=1e-5
    )


def test_a_preprocessed_derivative_finds_its_events_labels_and_masks(dataset, tmp_path):
    derivative = dataset / "derivatives" / "fmriprep"
    _, _, bold = make_images()
    brain = bold[..., 0] > 0
    name = "sub-01_ses-a_task-motor_{}_desc-{}.nii.gz"
    func = derivative / "sub-01" / "ses-a" / "func"
    for where in (MNI, "space-T1w"):
        save(func / name.format(where, "preproc_bold"), bold + 50, tr=TR)
    save(func / name.format(MNI, "brain_mask"), brain)
    result = prepare(derivative, tmp_path / "out", what="bold", **QUIET)
    assert (result.written, result.failures) == (1, {})  # the one in MNI space
    image = only(tmp_path / "out", "*_bold.nii.gz")
    assert sidecar(image)["SkullStripped"] is True
    assert not nib.load(image).get_fdata()[~brain].any()
    assert len(only(tmp_path / "out", "*_events.tsv").read_text().splitlines()) == 4
    assert Cohort.from_bids(tmp_path / "out").table["sex"].tolist() == ["F"]


def test_an_hcp_tree(tmp_path):
    run = tmp_path / "hcp/100307/MNINonLinear/Results/tfMRI_MOTOR_LR"
    save(run / "tfMRI_MOTOR_LR.nii.gz", make_images()[2], tr=0.72)
    (run / "EVs").mkdir()
    (run / "EVs" / "lh.txt").write_text("1.5\t3\t1\n")
    (run / "EVs" / "Sync.txt").write_text("10.0\n")
    with pytest.raises(InputError, match="1 HCP runs, but none with"):
        prepare(tmp_path / "hcp", tmp_path / "out", what="bold", entities={"task": "WM"})
    prepare(tmp_path / "hcp", tmp_path / "out", what="bold", entities={"dir": "LR"}, **QUIET)
    stem = tmp_path / "out/sub-100307/func/sub-100307_task-MOTOR_dir-LR"
    image = nib.load(f"{stem}_{MNI}_desc-prepared_bold.nii.gz")
    assert image.header["pixdim"][4] == np.float32(0.72)
    lines = stem.with_name(stem.name + "_events.tsv").read_text().splitlines()
    assert lines == ["onset\tduration\ttrial_type", "1.5\t3.0\tlh"]


def break_scan(dataset, how):
    func = dataset / "sub-01/ses-a/func"
    image = only(func, "*_bold.nii.gz")
    bold = make_images()[2]
    if how == "no events":
        (dataset / "task-motor_events.tsv").unlink()
    elif how == "late event":
        (dataset / "task-motor_events.tsv").write_text("onset\tduration\ttrial_type\n90\t1\ta\n")
    elif how == "TR":
        save(image, bold, tr=1.0)
    elif how == "3D":
        save(image, bold[..., 0])
    elif how == "NaN":
        save(image, bold * np.nan, tr=TR)
    elif how == "NaN frame":
        bold[..., 7] = np.nan
        save(image, bold, tr=TR)
    elif how == "no orientation":
        save(image, bold, tr=TR, code=0)
    elif how == "two files":
        shutil.copy(image, func / image.name.replace(MNI, f"{MNI}_desc-other"))
    elif how == "mask":
        save(func / image.name.replace("_bold", "_desc-brain_mask"), bold[:-1, ..., 0])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no events", "no events.tsv"),
        ("late event", "begins at 90 s, after the run's end at 24 s"),
        ("TR", "1 s in the header and 2 s in the sidecar"),
        ("3D", "4 dimensions are needed"),
        ("NaN", "nothing but zeros or NaN"),
        ("NaN frame", "1 of 12 frames hold nothing but NaN or zeros, the first is frame 8"),
        ("no orientation", "left and right cannot be told"),
        ("two files", "choose with desc="),
        ("mask", "must lie on the image's own grid"),
    ],
)
def test_a_bad_scan_is_a_line_and_no_more(dataset, tmp_path, how, message):
    break_scan(dataset, how)
    everyone = how in ("no events", "late event")
    if everyone:
        with pytest.raises(InputError, match=message) as error:
            prepare(dataset, tmp_path / "out", what="bold", **QUIET)
        assert "\n" not in str(error.value)
    else:
        result = prepare(dataset, tmp_path / "out", what="bold", **QUIET)
        assert result.written == 1
        (reason,) = [line for name, line in result.failures.items() if "sub-01" in name]
        assert message in reason
        assert "\n" not in reason


def test_bad_calls_are_refused_at_once(dataset, tmp_path):
    with pytest.raises(InputError, match="allowed are md, bold, segments, map"):
        prepare(dataset, tmp_path / "out", what="fa")
    with pytest.raises(InputError, match="is the data itself"):
        prepare(dataset, dataset, what="md")
    with pytest.raises(InputError, match="an overlap of 1 cannot be"):
        prepare(dataset, tmp_path / "out", what="bold", window=10, overlap=1)
    shutil.rmtree(dataset / "sub-01" / "ses-a" / "dwi")
    bold_only = dataset / "bold"
    shutil.move(dataset / "sub-01", bold_only / "sub-01")
    with pytest.raises(InputError, match="has no md or dwi image to make md of; it has 1 bold"):
        prepare(bold_only, tmp_path / "out", what="md")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no dwi image"):
        prepare(tmp_path / "empty", tmp_path / "out", what="md")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        prepare(dataset, tmp_path / "file" / "out", what="md", **QUIET)
    assert not (tmp_path / "out").exists()


def test_a_setting_that_changes_nothing_warns(dataset, tmp_path):
    with pytest.warns(UserWarning, match="window changes nothing for md"):
        prepare(dataset, tmp_path / "out", what="md", window=10, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(dataset, tmp_path / "out", what="md", **QUIET)


@pytest.fixture
def slabs(tmp_path):
    """Maps of the template's grey matter in a unit of their own, in a table of two sessions."""
    maps = template_on(GRID)
    rows, values = ["participant_id,session_id,sex,t1_path"], 200 * maps["t1"] * maps["brain"]
    for k in range(4):
        save(
            tmp_path / "raw" / f"scan {k}.nii.gz", values[..., 6:15] * (1 + k), GRID.affine, code=2
        )
        rows.append(f"OAS_{k // 2},{k % 2},{'FM'[k // 2]},raw/scan {k}.nii.gz")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return Cohort.from_table(tmp_path / "table.csv", dataset="Study"), values[..., 6:15]


def test_maps_are_pooled_where_they_lie(slabs, tmp_path):
    cohort, values = slabs
    out = tmp_path / "out"
    call = {**QUIET, "spacing": None}
    assert prepare(cohort, out, what="map", to="none", pool=(2, 2, 3), **call).written == 4
    made = Cohort.from_bids(out)
    labels = ["dataset", "session_id", "sex"]
    assert made.images == ("t1",)
    assert made.table["subject_id"].tolist() == ["OAS0", "OAS0", "OAS1", "OAS1"]
    assert made.table[labels].equals(cohort.table[labels])
    assert made.grid("t1") == Grid(values.shape, GRID.affine).pooled((2, 2, 3))
    blocks = values.reshape(12, 2, 12, 2, 3, 3).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(made.volumes("t1")[3], 4 * blocks, rtol=1e-4, atol=1e-3)
    assert not made.is_in_mni("t1")
    assert prepare(cohort, out, what="map", to="none", pool=(2, 2, 3), **call).kept == 4
    assert prepare(cohort, out, what="map", to="none", **call).written == 4  # as they are
    assert Cohort.from_bids(out).grid("t1").shape == values.shape


def test_maps_go_to_the_template_or_to_their_own_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "ITERATIONS", (10, 3))
    monkeypatch.setattr(mean, "ROUNDS", 1)
    maps, rows = template_on(GRID), {}
    for k in range(3):
        affine = 0.9 * GRID.affine  # of a smaller head, which its own mean keeps
        affine[3, 3], affine[0, 3] = 1, affine[0, 3] + 3 * k
        save(tmp_path / f"{k}.nii.gz", 100 * (k + 1) * maps["t1"] * maps["brain"], affine, code=2)
        rows[str(k)] = str(tmp_path / f"{k}.nii.gz")
    table = pd.DataFrame({"subject_id": list(rows), "dataset": "D", "pet_path": rows.values()})
    sizes = {}
    for to, where in (("template", "MNI152NLin2009aSym"), ("mean", "mean")):
        out = tmp_path / to
        assert prepare(Cohort(table), out, what="map", to=to, **QUIET).failures == {}
        made = Cohort.from_bids(out)
        assert f"_space-{where}_param-pet_map" in made.table["pet_path"][0]
        assert made.is_in_mni("pet") == (to == "template")
        volumes = made.volumes("pet")
        centres = [ndimage.center_of_mass(volume) for volume in volumes]
        assert np.ptp(centres, axis=0).max() < 0.3  # voxels of 8 mm
        np.testing.assert_allclose(volumes[2].max() / volumes[0].max(), 3, rtol=0.1)
        sizes[to] = (volumes[1] > 20).sum()
    assert sizes["mean"] < 0.85 * sizes["template"]
    standing = (tmp_path / "mean" / "mean" / "mean-1.nii.gz").stat().st_mtime_ns
    assert prepare(Cohort(table), tmp_path / "mean", what="map", to="mean", **QUIET).kept == 3
    assert (tmp_path / "mean" / "mean" / "mean-1.nii.gz").stat().st_mtime_ns == standing
    with pytest.raises(InputError, match=r"2 of 2 scans .* a mean needs 3"):
        prepare(Cohort(table[:2]), tmp_path / "few", what="map", to="mean", **QUIET)


def test_maps_in_mni_space_are_taken_as_they_are(tmp_path):
    fa = make_images()[0] / 4
    save(tmp_path / "raw/sub-1/dwi" / f"sub-1_{MNI}_model-tensor_param-FA_dwimap.nii.gz", fa)
    cohort = Cohort.from_bids(tmp_path / "raw", "FA")
    assert prepare(cohort, tmp_path / "out", what="map", **QUIET).failures == {}
    made = Cohort.from_bids(tmp_path / "out")
    assert made.images == ("FA",)
    assert f"_{MNI}_param-FA_map" in made.table["FA_path"][0]
    np.testing.assert_allclose(made.volumes("FA")[0], fa, atol=1e-5)


def test_a_dry_run_tells_minutes_and_keeps_nothing(slabs, tmp_path):
    planned = prepare(slabs[0], tmp_path / "out", what="map", to="none", dry_run=True, jobs=1)
    assert planned.minutes > 0
    assert str(planned).startswith("4 scans, about 0.")
    assert not (tmp_path / "out").exists()


def test_maps_that_cannot_be_prepared_are_told_in_a_line(slabs, tmp_path):
    cohort, values = slabs
    for given, reason in (
        ({"image": "fa"}, "has no image 'fa'; it has t1"),
        ({"to": "moon"}, "allowed are template, mean, none"),
        ({"to": "none", "pool": (0, 1, 1)}, "give whole numbers from 1 on"),
        ({"to": "none", "pool": (50, 1, 1)}, "do not fit into"),
    ):
        with pytest.raises(InputError, match=reason):
            prepare(cohort, tmp_path / "out", what="map", **{**QUIET, "spacing": None, **given})
    with pytest.raises(InputError, match="takes a Cohort"):
        prepare(tmp_path, tmp_path / "out", what="map")
    nameless = Cohort.from_table(tmp_path / "table.csv")
    with pytest.raises(InputError, match="names no dataset, and"):
        prepare(nameless, tmp_path / "out", what="map", to="none")
    save(tmp_path / "raw" / "scan 0.nii.gz", np.full(values.shape, 7), code=2)
    save(tmp_path / "raw" / "scan 1.nii.gz", values + 50, code=2)
    reasons = prepare(cohort, tmp_path / "out", what="map", to="none", **QUIET).failures
    assert reasons == {"scan 0.nii.gz": "every voxel is 7; leave it out or make it anew"}
    with pytest.raises(InputError, match="the map is not skull-stripped"):
        prepare(cohort.where(session_id="1", sex="F"), tmp_path / "out", what="map", **QUIET)
