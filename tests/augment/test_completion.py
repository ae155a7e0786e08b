import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio

from neuromix.augment.completion import complete_dataset, with_completions
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.errors import InputError
from neuromix.augment.pds.config import PRESETS, ModalityConfig
from neuromix.experiments.cli.main import main


class Posterior:
    def __init__(self, samples, affine):
        self.mean, self.deviation = (
            tio.ScalarImage(tensor=v, affine=affine) for v in (samples.mean(0), samples.std(0))
        )
        self.error, self.doubts = 0.1, []


class Fake:
    """Samples that cost nothing: the source under noise; it notes what it is asked."""

    def __init__(self, directions=("fmri", "dmri"), weights="w", labelled=()):
        self.config = {"directions": list(directions), "images": ["fmri", "dmri"]}
        self.record = {"subjects": [], "voxels": [], "labelled": list(labelled)}
        self.weights, self.calls = weights, []

    def fingerprint(self):
        return self.weights

    def posterior(self, subject, want, seed, samples, labels=None):
        self.calls.append((subject["subject_id"], want, labels))
        have = {"fmri": "dmri", "dmri": "fmri"}[want]
        assert want not in subject
        data = subject[have].data
        noise = torch.randn((samples, *data.shape), generator=torch.Generator().manual_seed(seed))
        return Posterior(data + 0.1 * noise, subject[have].affine)


@pytest.fixture()
def gaps(tiny_pairs, tmp_path):
    """Two subjects without dMRI, one without fMRI, three with both."""
    data = tmp_path / "study"
    shutil.copytree(tiny_pairs, data)
    for name in ("B0001", "B0002"):
        shutil.rmtree(data / f"sub-{name}" / "dwi")
    shutil.rmtree(data / "sub-B0003" / "func")
    return data


def content(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_what_is_missing_is_made_and_nothing_else(gaps, tmp_path):
    before, out = content(gaps), tmp_path / "imputed"
    done = complete_dataset(gaps, Fake(), out, samples=4)
    assert done == (3, 0, 3, 0, [])
    assert content(gaps) == before
    images = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.nii.gz"))
    space = "space-MNI152NLin2009aSym_desc-imputed"
    assert images == [
        f"sub-B0001/dwi/sub-B0001_{space}_dwi.nii.gz",
        f"sub-B0001/dwi/sub-B0001_{space}_stdmap.nii.gz",
        f"sub-B0002/dwi/sub-B0002_{space}_dwi.nii.gz",
        f"sub-B0002/dwi/sub-B0002_{space}_stdmap.nii.gz",
        f"sub-B0003/func/sub-B0003_task-rest_{space}_bold.nii.gz",
        f"sub-B0003/func/sub-B0003_task-rest_{space}_stdmap.nii.gz",
    ]
    told = json.loads((out / images[4].replace(".nii.gz", ".json")).read_text())
    assert told["Synthetic"] is True
    assert (told["Samples"], told["Labels"], told["WeightsHash"]) == (4, {}, "w")
    assert "sub-B0003_space-MNI152NLin2009aSym_desc-segments_dwi" in told["Sources"][0]
    assert isinstance(told["Seed"], int)
    assert nib.load(out / images[0]).get_fdata().std() > 0.05


def test_an_image_is_named_after_the_space_of_its_source(gaps, tmp_path):
    for path in [*(gaps / "sub-B0001").rglob("*.nii*"), *(gaps / "sub-B0002").rglob("*.nii*")]:
        space = "MNI152NLin6Asym" if "B0001" in path.name else ""
        name = path.name.replace("_space-MNI152NLin2009aSym", f"_space-{space}" if space else "")
        path.rename(path.with_name(name))
    complete_dataset(gaps, Fake(), tmp_path / "out", samples=2)
    for who, space in {"B0001": "MNI152NLin6Asym", "B0002": "custom"}.items():
        sidecar = tmp_path / f"out/sub-{who}/dwi/sub-{who}_space-{space}_desc-imputed_dwi.json"
        assert json.loads(sidecar.read_text())["SpatialReference"] == space


def test_the_derivative_is_a_cohort_of_the_same_people_marked_synthetic(gaps, tmp_path):
    out = tmp_path / "imputed"
    complete_dataset(gaps, Fake(), out, samples=4)
    cohort, imputed = Cohort.from_bids(gaps), Cohort.from_bids(out)
    assert set(imputed.subject_keys) < set(cohort.subject_keys)
    real = cohort.table.set_index("subject_id")
    for row in imputed.table.to_dict("records"):
        assert row["diagnosis"] == real.loc[row["subject_id"], "diagnosis"]
    for subject in imputed.subjects():
        assert subject["synthetic"] is True
        assert "desc-imputed" in subject["synthetic_id"]
    both = with_completions(cohort, out)
    assert len(both) == 6
    marks = {s["subject_id"]: (s["synthetic"], {"fmri", "dmri"} <= set(s)) for s in both.subjects()}
    assert marks == {f"B{k:04d}": (k <= 3, True) for k in range(1, 7)}
    for image in ("fmri", "dmri"):  # what is real stays
        column = f"{image}_path"
        kept = cohort.table[column] != ""
        assert (both.table[column][kept] == cohort.table[column][kept]).all()


def test_a_call_that_was_stopped_goes_on_to_the_same_files(gaps, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    complete_dataset(gaps, Fake(), whole, samples=3, seed=5)
    complete_dataset(gaps, Fake(), part, samples=3, seed=5)
    broken = next(part.rglob("sub-B0002*_dwi.json"))
    broken.unlink()  # as if it had been killed before its sidecar
    again = Fake()
    assert complete_dataset(gaps, again, part, samples=3, seed=5) == (1, 2, 3, 0, [])
    assert [call[0] for call in again.calls] == ["B0002"]
    assert content(part) == content(whole)
    # A subject's image depends on nobody else.
    shutil.rmtree(gaps / "sub-B0001")
    alone = tmp_path / "alone"
    complete_dataset(gaps, Fake(), alone, samples=3, seed=5)
    for path, file in content(alone).items():
        if path.endswith(".nii.gz"):
            assert file == content(whole)[path]


def test_an_image_of_another_source_is_made_anew(gaps, tmp_path):
    out = tmp_path / "imputed"
    complete_dataset(gaps, Fake(), out, samples=2)
    before = content(out)
    path = Cohort.from_bids(gaps).where(subject_id="B0001").table["fmri_path"].iloc[0]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(2 * image.get_fdata(dtype=np.float32), image.affine), path)
    again = Fake()
    assert complete_dataset(gaps, again, out, samples=2) == (1, 2, 3, 1, [])
    assert [name for name, *_ in again.calls] == ["B0001"]
    changed = {name for name, old in before.items() if content(out)[name] != old}
    assert changed
    assert all("B0001" in name for name in changed)


def test_no_label_is_used_and_by_label_only_those_of_the_training_split(gaps, tmp_path):
    plain = Fake()
    complete_dataset(gaps, plain, tmp_path / "plain", samples=2)
    assert all(labels is None for *_, labels in plain.calls)
    cohort = Cohort.from_bids(gaps)
    dataset = cohort.table["dataset"][0]
    completer = Fake(labelled=[subject_hash(dataset, "B0001")])
    complete_dataset(gaps, completer, tmp_path / "labelled", samples=2, by_label=True)
    asked = {name: labels for name, _, labels in completer.calls}
    diagnosis = cohort.table.set_index("subject_id").loc["B0001", "diagnosis"]
    assert asked == {"B0001": {"diagnosis": diagnosis}, "B0002": None, "B0003": None}


def test_bad_input_is_told_in_one_line(gaps, tmp_path, md_phantom):
    out = tmp_path / "imputed"
    complete_dataset(gaps, Fake(), out, samples=2)
    cases = [
        ((gaps, Fake(), out), {"samples": 3}, "was filled with samples 2, now 3"),
        ((gaps, Fake(weights="x"), out), {"samples": 2}, "was filled with weights w, now x"),
        ((gaps, Fake(), gaps), {}, "lies in the dataset itself"),
        ((gaps, Fake(), gaps / "new"), {}, "lies in the dataset itself"),
        ((gaps, Fake(("fmri",)), tmp_path / "o"), {}, "sub-B0001 lacks dmri, and .* fill in fmri"),
        ((md_phantom, Fake(), tmp_path / "o"), {}, "neither fmri nor dmri images"),
        ((gaps, Fake(), md_phantom), {}, "holds other files"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(InputError, match=message) as error:
            complete_dataset(*arguments, **options)
        assert "\n" not in str(error.value)


SHORT = TrainConfig(
    steps=2, batch_size=4, warmup=1, validate_every=2, checkpoint_every=2, log_every=1
)
CONFIG = ModalityConfig(
    width=8, blocks=1, layers=0, token=4, depth=4, folds=2, sampling_steps=2, training=SHORT,
)  # fmt: skip


def test_the_commands_train_and_complete(tiny_pairs, gaps, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "demo", CONFIG)
    Cohort.from_bids(tiny_pairs).split((0.6, 0.2, 0.2), stratify=(), seed=0).save(tmp_path)
    train, test = str(tmp_path / "train.tsv"), str(tmp_path / "test.tsv")
    sampler, out = str(tmp_path / "completer"), tmp_path / "imputed"
    command = ["train", "pds", train, sampler, "--preset", "demo", "--without", "diagnosis"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "completer").exists()
    assert main(command) == 0
    make = ["complete", "--data", str(gaps), "--sampler", sampler, "--out", str(out)]
    make += ["--samples", "2"]
    assert main([*make, "--held-out", train]) == 2
    assert "had a part" in capsys.readouterr().err
    assert main([*make, "--held-out", test]) == 0
    assert "3 images made and 0 were there" in capsys.readouterr().out
    image = nib.load(next(out.rglob("*_dwi.nii.gz")))
    real = nib.load(next(tiny_pairs.rglob("*_dwi.nii.gz")))
    np.testing.assert_allclose(image.affine, real.affine)
    assert image.shape == real.shape
    assert main(["complete", "--data", train, "--sampler", str(gaps), "--out", str(out)]) == 2
    assert "holds no completer" in capsys.readouterr().err
    assert main([*command, "--validation", train]) == 2
    assert "in training and in validation" in capsys.readouterr().err


@pytest.fixture(scope="module")
def completer(tiny_pairs, tmp_path_factory):
    """Fills in dMRI; its training subjects, B0001 among them, are all NC."""
    folder = tmp_path_factory.mktemp("completer")
    table = Cohort.from_bids(tiny_pairs).table.iloc[:4].assign(diagnosis="NC")
    table.to_csv(folder / "train.tsv", sep="\t", index=False)
    command = ["train", "pds", str(folder / "train.tsv"), str(folder / "completer")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "demo", CONFIG)
        assert main([*command, "--preset", "demo", "--directions", "dmri"]) == 0
    return folder / "completer"


def neither(data, phantoms):
    return [phantoms["md"]], "has neither fmri nor dmri images"


def other_grid(data, phantoms):
    for path in data.rglob("sub-B0001*.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(image.get_fdata()[1:], image.affine), path)
    shutil.rmtree(data / "sub-B0003")
    return [data], "bring it there with `neuromix prepare`"


def other_direction(data, phantoms):
    return [data], "sub-B0003 lacks fmri, and this completer was trained to fill in dmri"


def strange_label(data, phantoms):
    shutil.rmtree(data / "sub-B0003")
    people = data / "participants.tsv"
    lines = people.read_text().splitlines()
    lines = [line.replace("\tNC", "\tAD").replace("\tMCI", "\tAD") for line in lines]
    people.write_text("\n".join(lines) + "\n")
    return [data, "--by-label"], "diagnosis 'AD'"


def overlap(data, phantoms):
    return [data, "--held-out", str(data)], "had a part"


@pytest.mark.parametrize("case", [neither, other_grid, other_direction, strange_label, overlap])
def test_the_command_tells_bad_input_in_one_line(
    case, completer, gaps, md_phantom, tmp_path, capsys
):
    (data, *options), message = case(gaps, {"md": md_phantom})
    capsys.readouterr()
    command = ["complete", "--data", str(data), "--sampler", str(completer), *options]
    assert main([*command, "--out", str(tmp_path / "imputed"), "--samples", "2"]) == 2
    error = capsys.readouterr().err
    told = [line for line in error.splitlines() if line.startswith("neuromix: ")]
    assert len(told) == 1
    assert message in told[0], told
    assert "Traceback" not in error


def test_every_part_can_be_left_out():
    from neuromix.augment.pds.config import ABLATIONS, ablated

    published = PRESETS["paper"]
    for name, (design, _) in ABLATIONS.items():
        config = CONFIG if design == "prior" else published
        assert ablated(config, [name]) != config
    assert ablated(CONFIG, []) == CONFIG
    assert not ablated(CONFIG, ["network"]).training.steps
    without = ablated(published, ["refinement", "pattern"])
    assert without == replace(published, refinement=False, pattern=False)
    with pytest.raises(InputError, match="whose parts are diagnosis, network"):
        ablated(CONFIG, ["pattern"])


def test_sources_and_images_are_chosen_and_doubts_are_told(gaps, tmp_path, monkeypatch):
    fake = Fake()
    done = complete_dataset(gaps, fake, tmp_path / "a", want=["fmri"], samples=2)
    assert done == (1, 0, 3, 0, [])
    assert [call[:2] for call in fake.calls] == [("B0003", "fmri")]
    # Nobody who lacks dMRI has dMRI to make it from.
    assert complete_dataset(gaps, Fake(), tmp_path / "b", have=["dmri"], samples=2).made == 1
    for option in ({"have": ["t1"]}, {"want": ["t1"]}):
        with pytest.raises(InputError, match="t1 came; this completer knows fmri, dmri"):
            complete_dataset(gaps, Fake(), tmp_path / "c", samples=2, **option)
    truly = Fake.posterior

    def doubtful(self, subject, want, *args):
        made = truly(self, subject, want, *args)
        made.doubts = ["dmri: its grain is odd"] if want == "fmri" else []
        return made

    monkeypatch.setattr(Fake, "posterior", doubtful)
    done = complete_dataset(gaps, Fake(), tmp_path / "d", samples=2)
    assert len(done.doubtful) == 1 and "its grain is odd" in done.doubtful[0]
    told = {p.name: json.loads(p.read_text()) for p in (tmp_path / "d").rglob("sub-*_*.json")}
    marks = {name: (row["Trusted"], row["Doubts"]) for name, row in told.items()}
    assert sorted(trusted for trusted, _ in marks.values()) == [False, True, True]
    assert all(row["ExpectedError"] == 0.1 for row in told.values())
