import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.grid import Grid, template_on
from neuromix.augment.errors import InputError
from neuromix.augment.phantom import dataset, make_phantom
from neuromix.augment.phantom.md import dwi, gradients, mean_diffusivity
from neuromix.augment.phantom.population import person


def digest(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def test_equal_arguments_give_equal_bytes_and_larger_cohorts_begin_alike(md_phantom, tmp_path):
    again = make_phantom(tmp_path / "again", "md", subjects=12, seed=3, spacing=8.0)
    assert digest(again) == digest(md_phantom)
    fewer = make_phantom(tmp_path / "fewer", "md", subjects=5, seed=3, spacing=8.0)
    images = {name: sha for name, sha in digest(fewer).items() if name.endswith(".nii.gz")}
    assert images.items() <= digest(md_phantom).items()


def test_md_has_the_units_and_tissues_of_real_maps(md_phantom):
    cohort = Cohort.from_bids(md_phantom)
    assert cohort.validate() == []
    maps = template_on(Grid.mni(8.0))
    for subject in cohort.subjects()[:4]:
        md = subject["md"].numpy()[0]
        # Voxels of 8 mm mix the cortex with CSF; at 4 mm its median is 0.96.
        assert np.median(md[maps["wm"] > 0.9]) == pytest.approx(0.75, abs=0.1)
        assert 0.8 < np.median(md[maps["gm"] > 0.75]) < 1.4
        assert 1.5 < md.max() <= 3.2


def test_version_2_folds_other_brains_for_the_same_people(md_phantom, tmp_path):
    folded = make_phantom(tmp_path / "two", "md", subjects=3, seed=3, spacing=8.0, version=2)
    first = make_phantom(tmp_path / "one", "md", subjects=1, seed=3, spacing=8.0, version=2)
    images = {name: sha for name, sha in digest(first).items() if name.endswith(".nii.gz")}
    assert images.items() <= digest(folded).items()
    assert not images.items() & digest(md_phantom).items()
    assert Cohort.from_bids(folded).validate() == []
    old, new = (json.loads((data / "truth.json").read_text()) for data in (md_phantom, folded))
    assert (old["config"]["version"], new["config"]["version"]) == (1, 2)
    for name, latent in new["subjects"].items():
        assert latent["severity"] == old["subjects"][name]["severity"]
        assert 0 < latent["lesions_ml"] < latent["cortex_ml"] < latent["brain_ml"]
    with pytest.raises(InputError, match="holds a phantom made with"):
        make_phantom(md_phantom, "md", subjects=12, seed=3, spacing=8.0, version=2)


def test_the_truth_is_beside_the_data(md_phantom):
    truth = json.loads((md_phantom / "truth.json").read_text())
    cohort = Cohort.from_bids(md_phantom)
    assert set(truth["subjects"]) == set(cohort.table["subject_id"])
    row = cohort.table.iloc[0]
    latent = truth["subjects"][row["subject_id"]]
    assert (latent["sex"], latent["age"]) == (row["sex"], row["age"])
    assert latent["ventricles_ml"] > 0


def test_a_broken_off_cohort_has_its_labels_and_can_be_finished(md_phantom, tmp_path, monkeypatch):
    out = tmp_path / "md"
    whole = dataset.md.mean_diffusivity

    def stop(anatomy, who, maps, rng):
        if who.subject_id == "B0005":
            raise KeyboardInterrupt
        return whole(anatomy, who, maps, rng)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset.md, "mean_diffusivity", stop)
        make_phantom(out, "md", subjects=12, seed=3, spacing=8.0)
    assert not list(out.rglob("*.tmp"))
    begun = Cohort.from_bids(out)
    assert set(begun.table["sex"]) <= {"F", "M"}
    make_phantom(out, "md", subjects=12, seed=3, spacing=8.0)
    assert digest(out) == digest(md_phantom)


def test_a_finished_cohort_is_left_alone_unless_an_image_is_gone(md_phantom, tmp_path):
    out = make_phantom(tmp_path / "md", "md", subjects=2, seed=3, spacing=8.0)
    image = next(out.rglob("*.nii.gz"))
    made = image.stat().st_mtime_ns
    make_phantom(out, "md", subjects=2, seed=3, spacing=8.0)
    assert image.stat().st_mtime_ns == made
    image.unlink()
    make_phantom(out, "md", subjects=2, seed=3, spacing=8.0)
    assert image.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "pet"}, "kind 'pet' is not known; allowed are md, task, paired"),
        ({"subjects": 0}, "0 subjects"),
        ({"spacing": 0.1}, "allowed is 1 to 12 mm"),
        ({"site": "AC"}, "site 'AC' is not known"),
        ({"seed": -1}, "seed -1"),
        ({"version": 3}, "version 3 is not known; allowed are 1, 2"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    given = {"kind": "md", "subjects": 1, "spacing": 8.0} | arguments
    with pytest.raises(InputError, match=message):
        make_phantom(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_left_alone(md_phantom, tmp_path):
    with pytest.raises(InputError, match="holds a phantom made with"):
        make_phantom(md_phantom, "md", subjects=2, seed=4, spacing=8.0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        make_phantom(tmp_path, "md", subjects=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "truth.json").write_text("{}")
    with pytest.raises(InputError, match="holds a phantom made with None"):
        make_phantom(tmp_path / "other", "md", subjects=2)
    with pytest.raises(InputError, match="is a file"):
        make_phantom(tmp_path / "notes.txt", "md", subjects=2)


def test_the_fast_fit_is_the_tensor_fit(anatomy):
    who, rng = person(0, "B", 0)
    maps = anatomy.draw(who.shape, rng)
    state = rng.bit_generator.state
    md = mean_diffusivity(anatomy, who, maps, rng)
    rng.bit_generator.state = state
    signal, b_values, directions, mask = dwi(anatomy, who, maps, rng)
    # Log-linear least squares for the six tensor elements and the unweighted signal.
    x, y, z = directions.T
    design = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1)
    design = np.hstack([-b_values[:, None] / 1000 * design, np.ones((len(x), 1))])
    tensor = np.linalg.lstsq(design, np.log(np.maximum(signal[mask], 1e-3)).T, rcond=None)[0]
    np.testing.assert_allclose(md[mask], np.clip(tensor[:3].mean(0), 0, 3.2), atol=2e-3)


def test_gradient_directions_weigh_every_axis_alike():
    moment = gradients().T @ gradients() / len(gradients())
    np.testing.assert_allclose(moment, np.eye(3) / 3, atol=1e-12)


def test_one_pair_has_no_mean_to_be_compared_with(tmp_path):
    out = make_phantom(tmp_path / "one", "paired", subjects=1, spacing=12.0)
    assert (
        json.loads((out / "truth.json").read_text())["prediction_from_the_other_modality"] is None
    )


def test_paired_modalities_share_something_but_not_all(paired_phantom):
    truth = json.loads((paired_phantom / "truth.json").read_text())
    for score in truth["prediction_from_the_other_modality"].values():
        gain = score["psnr_ideal_regression"] - score["psnr_mean_volume"]
        assert gain > 3
        assert score["psnr_ideal_regression"] < 36
    cohort = Cohort.from_bids(paired_phantom)
    assert cohort.images == ("fmri", "dmri")
    assert cohort.validate() == []
    subject = cohort.subjects()[0]
    assert subject["fmri"].shape[0] == subject["dmri"].shape[0] == 8
    grids = [nib.load(subject[name].path).affine for name in ("fmri", "dmri")]
    np.testing.assert_array_equal(*grids)
