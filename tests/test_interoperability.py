"""The peers that neuromix is used with, imported and run."""

import pickle

import monai.data
import monai.transforms
import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from imblearn.pipeline import make_pipeline
from mixtures import Doubler, make_bank
from monai.data import MetaTensor
from nilearn.image import load_img, mean_img
from sklearn.model_selection import cross_val_score

from neuromix.augment import (
    Cohort,
    CompleteModality,
    FillMissing,
    RandomSynthetic,
    SyntheticSampler,
    mix,
)
from neuromix.classifiers.base import VolumeClassifier


@pytest.fixture(scope="module")
def bank(md_phantom, tmp_path_factory):
    return make_bank(tmp_path_factory.mktemp("interoperability") / "bank", md_phantom)


@pytest.fixture(scope="module")
def cohort(md_phantom):
    return Cohort.from_bids(md_phantom)


@pytest.fixture(scope="module")
def rows(cohort):
    return [{"md": r["md_path"], "sex": r["sex"]} for r in cohort.table.to_dict("records")]


def monai_pipeline(bank):
    return monai.transforms.Compose([
        monai.transforms.LoadImaged("md"),
        monai.transforms.EnsureChannelFirstd("md"),
        RandomSynthetic(bank, match="sex", p=0.5, include=["md"]),
        monai.transforms.RandFlipd("md", prob=0.5),
    ])  # fmt: skip


def test_monai_cache_dataset(bank, rows):
    dataset = monai.data.CacheDataset(rows, monai_pipeline(bank), progress=False)
    loader = monai.data.DataLoader(dataset, batch_size=6)
    torch.manual_seed(0)
    epochs = []
    for _ in range(2):
        batches = list(loader)
        epochs.append([name for batch in batches for name in batch["synthetic_id"]])
        assert 0 < sum(map(bool, epochs[-1])) < 12
        assert [sex for batch in batches for sex in batch["sex"]] == [row["sex"] for row in rows]
        for batch in batches:
            assert isinstance(batch["md"], MetaTensor) and batch["md"].shape == (6, 1, 24, 24, 24)
            assert batch["synthetic"].tolist() == [bool(name) for name in batch["synthetic_id"]]
    assert epochs[0] != epochs[1]  # the cache holds the loaded images, and no draw


def test_monai_keeps_the_grid_and_not_the_name_of_the_real_file(bank, rows):
    load = monai.transforms.Compose([
        monai.transforms.LoadImaged("md"), monai.transforms.EnsureChannelFirstd("md"),
    ])  # fmt: skip
    data = load(rows[0])
    result = RandomSynthetic(bank, match="sex", p=1, include=["md"])(data)
    sample = bank.replay(result["synthetic_id"])["md"]
    assert torch.equal(result["md"].as_tensor(), sample.data)
    assert torch.allclose(result["md"].affine, data["md"].affine)
    assert result["md"].meta["filename_or_obj"] == result["synthetic_id"]
    assert data["md"].meta["filename_or_obj"] == rows[0]["md"]
    spaced = monai.transforms.Spacingd("md", pixdim=(12, 12, 12))(data)
    with pytest.warns(UserWarning, match="neuromix prepare"):
        moved = RandomSynthetic(bank, match="sex", p=1, include=["md"])(spaced)
    assert moved["md"].shape == spaced["md"].shape


def test_monai_dicts_of_two_modalities_are_completed(tmp_path):
    real = MetaTensor(torch.rand(2, 4, 4, 4), affine=torch.diag(torch.tensor([8.0, 8, 8, 1])))
    names = ["fmri", "dmri"]
    complete = CompleteModality(Doubler(tmp_path), have="fmri", want="dmri", include=names)
    fill = FillMissing(dict.fromkeys(names, (2, 4, 4, 4)), include=names)
    pipeline = monai.transforms.Compose([complete, fill])
    rows = [{"fmri": real}, {"dmri": real, "fmri": real}, {"dmri": real}]
    batch = monai.data.list_data_collate([pipeline(row) for row in rows])
    assert isinstance(batch["dmri"], MetaTensor) and batch["dmri"].shape == (3, 2, 4, 4, 4)
    assert torch.equal(batch["dmri"][1], real) and not batch["fmri"][2].any()
    assert batch["synthetic"].tolist() == [True, False, False]
    assert batch["present"]["fmri"].tolist() == [True, True, False]
    assert torch.equal(batch["dmri"].affine[0], real.affine)


def test_a_subject_saved_and_reloaded_replays(bank, cohort, tmp_path):
    subject = cohort.subjects()[0]
    result = tio.Compose([RandomSynthetic(bank, match="sex", p=1), tio.RandomNoise()])(subject)
    torch.save(result, tmp_path / "subject.pt")
    for loaded in (
        torch.load(tmp_path / "subject.pt", weights_only=False),
        pickle.loads(pickle.dumps(result)),
    ):
        assert loaded["synthetic_id"] == result["synthetic_id"] and loaded["synthetic"] is True
        replayed = loaded.get_composed_history()(subject)
        assert torch.equal(replayed["md"].data, result["md"].data)


def test_nilearn_opens_a_sample_and_averages_a_bank(bank):
    paths = [str(subject["md"].path) for subject in bank.subjects()]
    image = load_img(paths[0])
    drawn = bank.replay(bank.subjects()[0]["synthetic_id"])["md"]
    assert np.array_equal(image.get_fdata(dtype=np.float32), drawn.data[0].numpy())
    assert np.allclose(image.affine, drawn.affine)
    assert mean_img(paths).shape == drawn.spatial_shape
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")


def test_a_bank_is_a_cohort(bank):
    synthetic = Cohort.from_bids(bank.path)
    assert len(synthetic) == len(bank)
    assert synthetic.table["sex"].tolist() == bank.table["sex"].tolist()
    subject = synthetic.subjects()[0]
    assert torch.equal(subject["md"].data, bank.replay(subject["subject_id"])["md"].data)


def test_imblearn_pipeline_mixes_training_folds_only(bank, cohort):
    subjects = cohort.subjects()
    seen = []

    class Spy(VolumeClassifier):
        def fit(self, subjects, y=None):
            seen.append(("fit", len(subjects)))
            return super().fit(subjects, y)

        def predict_proba(self, subjects):
            seen.append(("predict", len(subjects), any(s["synthetic"] for s in subjects)))
            return super().predict_proba(subjects)

    pipeline = make_pipeline(SyntheticSampler(bank, ratio=1.0), Spy("sex", steps=3, batch_size=4))
    y = [subject["sex"] for subject in subjects]
    scores = cross_val_score(pipeline, subjects, y, cv=2)
    assert len(scores) == 2 and np.isfinite(scores).all()
    assert seen == [("fit", 12), ("predict", 6, False)] * 2


def test_the_plain_pytorch_loader_takes_a_mix(bank, cohort):
    loader = torch.utils.data.DataLoader(
        mix(cohort.subjects(), bank), batch_size=6, shuffle=True, collate_fn=list
    )
    assert sum(subject["synthetic"] for batch in loader for subject in batch) == 12
