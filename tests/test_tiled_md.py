from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from augment import files
from augment.cohort import Cohort
from augment.errors import InputError
from augment.grid import Grid
from augment.samplers.base import subject_hash, voxel_hash
from augment.samplers.tiled_md import PRESETS, TiledMDConfig, TiledMDSampler
from augment.train import TrainConfig
from experiments.cli import main

CONFIG = TiledMDConfig(
    channels=8, layers=2, heads=2, head_dim=16,
    training=TrainConfig(
        steps=4, batch_size=4, warmup=1, validate_every=2, checkpoint_every=2, log_every=1
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def parts(md_phantom):
    return Cohort.from_bids(md_phantom).split((0.6, 0.2, 0.2), seed=0)


@pytest.fixture(scope="module")
def fitted(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampler")
    sampler, _ = TiledMDSampler.fit(parts.train, CONFIG, folder, validation=parts.val)
    return folder, sampler


REQUESTS = [{"sex": "F", "age": 70.0}, {"sex": "M"}, {"diagnosis": "AD"}, {}, {"sex": "F"}]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_sample_depends_on_its_label_and_seed_alone(fitted, guidance):
    _, sampler = fitted
    together = sampler(REQUESTS, [1, 2, 3, 4, 5], steps=3, guidance=guidance)
    for k in (1, 4):
        alone = sampler([REQUESTS[k]], [k + 1], steps=3, guidance=guidance)[0]
        assert torch.equal(alone["md"].data, together[k]["md"].data)
    other = sampler([REQUESTS[1]], [9], steps=3, guidance=guidance)[0]
    assert not torch.equal(other["md"].data, together[1]["md"].data)


def test_samples_have_units_grid_labels_and_provenance(fitted, parts):
    _, sampler = fitted
    subject = sampler([REQUESTS[0]], [7], steps=3)[0]
    real = parts.train.subjects()[0]
    assert set(real.keys()) == set(subject.keys())
    np.testing.assert_allclose(subject["md"].affine, real["md"].affine)
    assert subject["md"].shape == real["md"].shape
    md = subject["md"].numpy()
    assert md.min() == 0
    assert md.max() <= 3.2
    assert not ((md > 0) & (md < 0.15)).any()
    assert (subject["sex"], subject["age"], subject["diagnosis"]) == ("F", 70.0, "")
    assert subject["synthetic"] is True
    assert "seed=7" in subject["synthetic_id"]


def test_it_remembers_whom_it_saw_and_nobody_else(fitted, parts):
    _, sampler = fitted
    seen = set(sampler.config["provenance"]["subjects"])
    assert seen == {subject_hash(*key) for p in parts[:2] for key in p.subject_keys}
    assert not seen & {subject_hash(*key) for key in parts.test.subject_keys}
    voxels = set(sampler.config["provenance"]["voxels"])
    assert voxel_hash(parts.train.subjects()[0]["md"].numpy()) in voxels
    assert voxel_hash(parts.test.subjects()[0]["md"].numpy()) not in voxels


def test_it_reloads_and_makes_the_same(fitted):
    folder, sampler = fitted
    again = TiledMDSampler.from_pretrained(folder)
    one, two = (s([REQUESTS[0]], [3], steps=3)[0]["md"].data for s in (sampler, again))
    assert torch.equal(one, two)
    assert again.label_space == sampler.label_space
    assert again.grid == sampler.grid == Grid.mni(8.0)
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))


def test_guidance_strengthens_the_condition(fitted):
    _, sampler = fitted
    with torch.no_grad():  # make the network listen, which four steps did not
        sampler.transformer.label_embedder.tables[1].weight.mul_(5)
    weak, strong, free = (
        sampler([labels], [3], steps=3, guidance=g)[0]["md"].data
        for labels, g in (({"sex": "F"}, 1.0), ({"sex": "F"}, 4.0), ({}, 1.0))
    )
    assert (strong - free).abs().mean() > 1.5 * (weak - free).abs().mean()


@pytest.mark.parametrize("labels", [{"sex": "X"}, {"age": 5}, {"hand": "left"}])
def test_labels_outside_the_space_are_refused(fitted, labels):
    with pytest.raises(InputError, match="space"):
        fitted[1]([labels], [0], steps=2)


def test_requests_need_a_seed_each(fitted):
    with pytest.raises(InputError, match="one seed each"):
        fitted[1]([{}, {}], [0])


def test_cohorts_that_do_not_fit_are_refused(parts, tmp_path, paired_phantom):
    with pytest.raises(InputError, match=r"no md; make MD maps"):
        TiledMDSampler.fit(Cohort.from_bids(paired_phantom), CONFIG, tmp_path)
    with pytest.raises(InputError, match="fewer than a batch"):
        few = parts.train.where(np.arange(len(parts.train)) < 3)
        TiledMDSampler.fit(few, CONFIG, tmp_path / "few")
    table = parts.train.table.copy()
    odd = tmp_path / "odd.nii.gz"
    files.write_nifti(odd, np.ones((8, 8, 8), np.float32), np.eye(4))
    table.loc[table.index[-1], "md_path"] = str(odd)
    with pytest.raises(InputError, match=r"odd\.nii\.gz has 8 x 8 x 8 voxels"):
        TiledMDSampler.fit(Cohort(table), CONFIG, tmp_path / "mixed")


def test_the_command_trains_and_generates(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "demo", replace(CONFIG, labels=("sex", "age")))
    parts.save(tmp_path / "split")
    train, val = (str(tmp_path / "split" / f"{name}.tsv") for name in ("train", "val"))
    sampler, out = str(tmp_path / "sampler"), tmp_path / "synthetic"
    command = ["train", "md", train, sampler, "--validation", val, "--preset", "demo"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "sampler").exists()
    assert main(command) == 0
    make = ["generate", sampler, str(out), "--count", "3", "--steps", "2", "--labels", "sex", "F"]
    assert main(make) == 0
    cohort = Cohort.from_bids(out)
    assert list(cohort.table["sex"]) == ["F"] * 3
    assert cohort.table["age"].nunique() == 3
    images = sorted(out.rglob("*.nii"))
    assert [nib.load(path).shape for path in images] == [Grid.mni(8.0).shape] * 3
    before = [path.read_bytes() for path in images]
    images[1].with_suffix(".json").unlink()
    images[1].unlink()
    assert main(make) == 0
    assert [path.read_bytes() for path in images] == before
    participants = pd.read_csv(out / "participants.tsv", sep="\t")
    assert list(participants["participant_id"]) == [f"sub-syn{k:06d}" for k in (1, 2, 3)]
    assert main(["generate", str(out), str(tmp_path / "x"), "--count", "1"]) == 2
    assert "holds no sampler" in capsys.readouterr().err
    assert main(["train", "md", train, sampler, "--validation", train, "--preset", "demo"]) == 2
    assert "in both parts" in capsys.readouterr().err
