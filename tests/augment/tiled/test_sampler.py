import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from safetensors.torch import load_file

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort, label_rows
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.data.leakage import subject_hash, voxel_hash
from neuromix.augment.diffusion import fitting
from neuromix.augment.diffusion.loop import TrainConfig, checkpoints
from neuromix.augment.errors import InputError
from neuromix.augment.tiled import sampler as tiled_md
from neuromix.augment.tiled import stacks
from neuromix.augment.tiled.config import PRESETS, TiledMDConfig
from neuromix.augment.tiled.mosaic import Tiling
from neuromix.augment.tiled.published.latents import LatentSet, write_latents
from neuromix.augment.tiled.published.slice_autoencoder import SliceAutoencoder
from neuromix.augment.tiled.sampler import TiledMDSampler
from neuromix.augment.tiled.stacks import folds_of
from neuromix.experiments.cli.main import main

CONFIG = TiledMDConfig(
    width=16, blocks=1, layers=1, heads=2, head_dim=16, folds=2,
    training=TrainConfig(
        steps=4, batch_size=4, warmup=1, validate_every=2, checkpoint_every=2, log_every=1
    ),
)  # fmt: skip
PRIOR = "statistics/prior-0/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def parts(md_phantom):
    return Cohort.from_bids(md_phantom).split((0.6, 0.2, 0.2), seed=0)


@pytest.fixture(scope="module")
def fitted(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampler")
    sampler, _ = TiledMDSampler.fit(parts.train, CONFIG, folder, validation=parts.val)
    return folder, sampler


def test_a_sampler_that_holds_scans_stays_where_it_is(fitted, parts, tmp_path):
    config = replace(CONFIG, patches=True, training=replace(CONFIG.training, steps=0))
    sampler, _ = TiledMDSampler.fit(parts.train, config, tmp_path)
    assert sampler.record["scans"] == len(parts.train)
    again = TiledMDSampler.from_pretrained(tmp_path)
    images = [each([{}], [3], steps=6)[0]["md"].data for each in (sampler, again)]
    assert torch.equal(*images)
    with pytest.raises(InputError, match=f"holds the scans of {len(parts.train)} training people"):
        again.push_to_hub("somebody/sampler")
    sampler.transformer.people = sampler.transformer.people[:0]
    assert not torch.equal(sampler([{}], [3], steps=6)[0]["md"].data, images[0])
    assert fitted[1].scans == 0
    with pytest.raises(InputError, match="leave one of the two out"):
        replace(config, autoencoder="kl")


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
    assert '"seed":7' in subject["synthetic_id"]


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
    with pytest.raises(InputError, match=r"has no image 'md'; it has"):
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
    make = ["generate", sampler, str(out), "--count", "3", "--steps", "2"]
    make += ["--labels", "sex", "Female"]
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
    assert "in training and in validation" in capsys.readouterr().err


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small repository laid out as facebook/DiT-XL-2-256."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, out_channels=8,
        sample_size=8, num_embeds_ada_norm=10,
    )  # fmt: skip
    first, second = (block.norm1.emb for block in dit.transformer_blocks)
    second.load_state_dict(first.state_dict())
    dit.save_pretrained(folder / "transformer")
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "norm_num_groups": 4}
    levels |= {"up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": 4}
    AutoencoderKL(block_out_channels=(4, 4, 8, 8), **levels).save_pretrained(folder / "vae")
    return folder


AUTOENCODING = TrainConfig(
    steps=3, batch_size=8, warmup=1, validate_every=2, checkpoint_every=2, learning_rate=1e-2
)


def variant(name, published):
    """A config that differs from CONFIG in one way, or in all."""
    changes = {
        "kl": {"autoencoder": "kl", "widths": (4, 4, 4, 8), "autoencoding": AUTOENCODING},
        "depth": {"depth": 1, "token": 4},
        "alone": {"prior": "none", "kind": "conv"},
        "pretrained": {"pretrained": str(published), "autoencoder": str(published)},
    }
    changes["noise"] = changes["kl"] | {"objective": "noise"}
    changes["lora"] = changes["pretrained"] | {"lora_rank": 2}
    changes["published"] = changes["lora"] | {"objective": "noise"}
    return replace(CONFIG, **changes[name])


@pytest.mark.parametrize("name", ["depth", "alone", "noise", "kl", "published"])
def test_every_kind_fits_resumes_and_reloads(name, parts, published, tmp_path):
    config = variant(name, published)
    sampler, _ = TiledMDSampler.fit(parts.train, config, tmp_path, validation=parts.val)
    request = ([{"sex": "F"}], [3], 4, 2.0)
    sample = sampler(*request)[0]["md"].data
    assert sample.isfinite().all()
    assert tuple(sample.shape[1:]) == sampler.grid.shape
    again = TiledMDSampler.from_pretrained(tmp_path)
    assert torch.equal(again(*request)[0]["md"].data, sample)

    # As if it had been killed in its last steps.
    for folder in (tmp_path / "work", tmp_path / "work" / "autoencoder"):
        for last in checkpoints(folder)[-1:]:
            shutil.rmtree(last)
    shutil.rmtree(tmp_path / "transformer")
    resumed, _ = TiledMDSampler.fit(parts.train, config, tmp_path, validation=parts.val)
    assert torch.equal(resumed(*request)[0]["md"].data, sample)


def test_its_samples_are_named_after_the_space_of_the_training_images(parts, tmp_path):
    table = parts.train.table.copy()
    for row, path in enumerate(table["md_path"]):
        moved = tmp_path / Path(path).name.replace("MNI152NLin2009aSym", "MNI152NLin6Asym")
        moved.symlink_to(path)
        table.loc[row, "md_path"] = str(moved)
    TiledMDSampler.fit(Cohort(table), variant("noise", None), tmp_path / "sampler")
    sampler = TiledMDSampler.from_pretrained(tmp_path / "sampler")
    bank = SampleBank.fill(tmp_path / "bank", sampler, [{"sex": "F"}], 0, steps=1)
    assert bids.space_of(Cohort.from_bids(bank.path).table["md_path"]) == "MNI152NLin6Asym"


@pytest.fixture(scope="module")
def noisy(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    return TiledMDSampler.fit(parts.train, variant("noise", None), folder)[0]


def test_samples_of_noise_prediction_do_not_depend_on_their_chunk(noisy):
    together = noisy(REQUESTS, [1, 2, 3, 4, 5], steps=3)
    for k in (1, 4):  # of the first chunk and of the second
        alone = noisy([REQUESTS[k]], [k + 1], steps=3)[0]
        assert torch.equal(alone["md"].data, together[k]["md"].data)


@pytest.mark.parametrize(("steps", "margin"), [(10, 0.06), (20, 0.04)])
def test_true_noise_leads_to_the_true_distribution(noisy, monkeypatch, steps, margin):
    mean, spread, made = 0.5, 0.3, []
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)  # of the published DiT

    def true_noise(latents, time, labels):
        a = alphas[time.long()].reshape(-1, 1, 1, 1)
        return (1 - a).sqrt() * (latents - a.sqrt() * mean) / (a * spread**2 + 1 - a)

    def decode(latents):
        made.append(latents)
        return torch.zeros(len(latents), 1, *noisy.grid.shape)

    monkeypatch.setattr(noisy.transformer, "forward", true_noise)
    monkeypatch.setattr(noisy.codec, "decode", decode)
    noisy([{}] * 8, range(8), steps=steps)
    latents = torch.cat(made)
    latents = latents[noisy.codec.mask.expand_as(latents) > 0]
    assert latents.mean().item() == pytest.approx(mean, abs=margin * spread)
    assert latents.std().item() == pytest.approx(spread, rel=margin)


def test_whoever_made_the_weights_that_a_fit_begins_from_has_a_part(parts, published, tmp_path):
    base = shutil.copytree(published, tmp_path / "base")
    index = base / "model_index.json"
    about = json.loads(index.read_text()) if index.is_file() else {}
    made_by = {"subjects": ["somebody"], "voxels": ["an image"]}
    index.write_text(json.dumps(about | {"provenance": made_by}))
    sampler, _ = TiledMDSampler.fit(parts.train, variant("lora", base), tmp_path / "sampler")
    assert "somebody" in sampler.record["subjects"] and "an image" in sampler.record["voxels"]
    assert len(sampler.record["subjects"]) == len(parts.train.subject_keys) + 1


def test_lora_adds_low_ranks_to_an_unchanged_base(parts, published, tmp_path):
    sampler, _ = TiledMDSampler.fit(parts.train, variant("lora", published), tmp_path)
    base = load_file(published / "transformer/diffusion_pytorch_model.safetensors")
    trained = sampler.transformer.state_dict()
    for name in ("pos_embed.proj.weight", "transformer_blocks.1.attn1.to_q.bias"):
        assert torch.equal(trained[name], base[name])
    update = trained["transformer_blocks.1.ff.net.2.weight"]
    update = update - base["transformer_blocks.1.ff.net.2.weight"]
    assert torch.linalg.matrix_rank(update, atol=1e-7) == 2
    # A checkpoint holds what is trained, not the base.
    kept = load_file(checkpoints(tmp_path / "work")[-1] / "weights.safetensors")
    assert [name for name in kept if "lora_A" in name]
    assert not [name for name in kept if "base_layer.weight" in name or "pos_embed" in name]


def test_weights_other_than_loras_start_as_published(published, parts, tmp_path):
    still = replace(CONFIG.training, learning_rate=0.0, weight_decay=0.0)
    config = replace(variant("pretrained", published), training=still)
    sampler, _ = TiledMDSampler.fit(parts.train, config, tmp_path)
    base = load_file(published / "transformer/diffusion_pytorch_model.safetensors")
    for name, value in sampler.transformer.state_dict().items():
        if name in base and "proj_out_2" not in name:  # that of the variance is left out
            assert torch.equal(value, base[name]), name


def test_what_is_random_in_a_code_is_drawn_anew(parts, published, tmp_path):
    tiling = Tiling(parts.train.grid("md").shape)
    codec = SliceAutoencoder.from_kl(published, tiling, largest=3.2)
    path = write_latents(codec, parts.train, "md", tmp_path / "kl.npy")
    data = LatentSet(path, LabelSpace({"sex": ("F", "M")}), label_rows(parts.train))
    first, second, again = (
        data.batch([2], [torch.Generator().manual_seed(seed)])["latents"] for seed in (0, 1, 0)
    )
    assert torch.equal(first, again)
    random = torch.tensor(data.latents[2, 1]) > 0
    assert random.any()
    assert (first != second)[0, random].float().mean() > 0.99
    both = data.batch([5, 2], [torch.Generator().manual_seed(seed) for seed in (7, 0)])
    assert torch.equal(both["latents"][1:], first)


@pytest.fixture(scope="module")
def t1(parts, tmp_path_factory):
    """Training subjects whose map is called t1, in units of their own, dim and bright."""
    folder = tmp_path_factory.mktemp("t1")
    table = parts.train.table.drop(columns="md_path")
    table["t1_path"] = [str(folder / f"{k}.nii") for k in range(len(table))]
    for k, (path, old) in enumerate(
        zip(table["t1_path"], parts.train.table["md_path"], strict=True)
    ):
        scan = nib.load(old)
        nib.save(nib.Nifti1Image(scan.get_fdata() * 1000 * 1.1**k, scan.affine), path)
    return Cohort(table)


def test_any_map_is_made_in_its_own_unit_and_name(t1, tmp_path):
    sampler, _ = TiledMDSampler.fit(t1, replace(CONFIG, image="t1"), tmp_path)
    again = TiledMDSampler.from_pretrained(tmp_path)
    assert again.image == sampler.image == "t1"
    made = sampler([{}] * 16, range(16), steps=3)
    real = t1.volumes("t1")
    tissue = [np.quantile(s["t1"].numpy()[s["t1"].numpy() > 0], 0.9) for s in made]
    theirs = [np.quantile(volume[volume > 0], 0.9) for volume in real]
    assert np.std(np.log(tissue)) == pytest.approx(np.std(np.log(theirs)), rel=0.7)
    assert np.mean(tissue) == pytest.approx(np.mean(theirs), rel=0.4)
    bank = SampleBank.fill(tmp_path / "bank", again, [{"sex": "F"}], 0, steps=1)
    assert Cohort.from_bids(bank.path).images == ("t1",)


def test_no_step_leaves_the_prior_alone(parts, tmp_path):
    still = replace(CONFIG, training=replace(CONFIG.training, steps=0))
    sampler, trained = TiledMDSampler.fit(parts.train, still, tmp_path)
    assert trained.step == 0 and sampler.transformer.network is None
    made = sampler(REQUESTS[:1], [0], steps=3)[0]["md"].data
    again = TiledMDSampler.from_pretrained(tmp_path)
    assert torch.equal(again(REQUESTS[:1], [0], steps=3)[0]["md"].data, made)


def test_an_early_network_is_kept_to_guide_by(parts, tmp_path):
    config = replace(CONFIG, early=0.5, guide=1.5)
    sampler, _ = TiledMDSampler.fit(parts.train, config, tmp_path)
    early, late = (dict(sampler.transformer.get_submodule(name).named_parameters())
                   for name in ("early", "network"))  # fmt: skip
    assert any(not torch.equal(early[name], late[name]) for name in late)
    again = TiledMDSampler.from_pretrained(tmp_path)
    made, same = (each(REQUESTS[:1], [0], steps=3)[0]["md"].data for each in (sampler, again))
    assert torch.equal(made, same)


@pytest.mark.parametrize(("plane", "order", "mirrored"), [
    ("axial", (0, 1, 2), -2), ("axial", (1, 0, 2), -1), ("sagittal", (0, 1, 2), None),
    ("coronal", (0, 1, 2), -2), ("sagittal", (1, 0, 2), -2),
])  # fmt: skip
def test_what_the_network_sees_is_mirrored_from_left_to_right(parts, plane, order, mirrored):
    config = replace(CONFIG, plane=plane, prior="none")
    first = parts.train.grid("md")
    grid = Grid(first.shape, first.affine[:, [*order, 3]])
    space = LabelSpace({})
    codec, priors = stacks.make_statistics(parts.train, config, space, first)
    assert stacks.begin_denoiser(config, space, codec, priors, grid)[1].mirrored == mirrored


def test_bf16_is_refused_before_anything_is_fitted(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    config = replace(CONFIG, training=replace(CONFIG.training, precision="bf16"))
    with pytest.raises(InputError, match="this cpu does not train in it"):
        TiledMDSampler.fit(parts.train, config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_fit_needs_is_told_beforehand(parts, tmp_path):
    line = TiledMDSampler.budget(parts.train, CONFIG)
    memory, saved = (float(number) for number in re.findall(r"([\d.]+) (?:GiB|MB)", line))
    still = replace(CONFIG, training=replace(CONFIG.training, steps=0))
    TiledMDSampler.fit(parts.train, still, tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size / 1e6 == pytest.approx(saved, rel=0.2, abs=1)
    assert 0 < memory < 4
    assert TiledMDSampler.budget(parts.train, replace(CONFIG, autoencoder="kl")) == ""


def test_training_people_have_folds_and_scans_of_one_person_the_same(parts):
    table = pd.concat([parts.train.table] * 2).sort_values(
        ["dataset", "subject_id"], ignore_index=True
    )
    table["session_id"] = [str(k % 2) for k in range(len(table))]
    folds = folds_of(Cohort(table), 3, seed=0)
    assert set(folds) == {0, 1, 2}
    assert (folds[::2] == folds[1::2]).all()


BAD = [
    ({"objective": "both"}, "objective 'both' is not known; allowed are flow, noise"),
    ({"lora_rank": 4}, "lora_rank 4 came without a pretrained network"),
    ({"lora_rank": -1, "pretrained": "x"}, "lora_rank -1 came"),
    ({"pretrained": "PUBLISHED"}, "came without an autoencoder; name the one"),
    ({"objective": "noise"}, "came without an autoencoder; name the one"),
    ({"kind": "mlp"}, "kind 'mlp' is not known; allowed are hybrid, conv, transformer"),
    ({"plane": "top"}, "plane 'top' is not known; allowed are axial"),
    ({"width": 20}, "width 20 and 2 heads came; allowed are multiples of 8"),
    ({"early": 1.0}, "early 1 and interval .* came; allowed are shares"),
    ({"interval": (0.8, 0.2)}, "interval \\(0.8, 0.2\\) came"),
    ({"folds": 1}, "folds 1, depth 8 and token 8 came; allowed are at least 2 folds"),
    (
        {"pretrained": "PUBLISHED", "autoencoder": "kl", "channels": 8},
        "takes 4 latent channels of 8 x 8 pixels, .* makes 8 of 8 x 8",
    ),
    ({"pretrained": "absent/dit", "autoencoder": "kl"}, "absent/dit is no folder"),
    ({"autoencoder": "absent/vae@main"}, "absent/vae gave no AutoencoderKL"),
    ({"autoencoder": "DIT"}, "is not laid out as an AutoencoderKL"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_does_not_go_together_is_told(
    changes, message, parts, published, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {"PUBLISHED": published, "DIT": published / "transformer"}
    changes = {name: str(places[v]) if v in places else v for name, v in changes.items()}
    with pytest.raises(InputError, match=message) as error:
        TiledMDSampler.fit(parts.train, replace(CONFIG, **changes), tmp_path)
    assert "\n" not in str(error.value)


def stop(*args, **settings):
    raise KeyboardInterrupt


def test_a_fit_that_was_stopped_goes_on_from_its_statistics(fitted, parts, tmp_path, monkeypatch):
    for module, step in ((tiled_md, "write_stacks"), (fitting, "train")):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, stop)
            with pytest.raises(KeyboardInterrupt):
                TiledMDSampler.fit(parts.train, CONFIG, tmp_path, validation=parts.val)
    latents = tmp_path / "work" / "train.npy"
    assert latents.is_file()
    assert not checkpoints(tmp_path / "work")
    with monkeypatch.context() as patch:  # nothing is learned or encoded twice
        patch.setattr(stacks, "make_statistics", stop)
        patch.setattr(tiled_md, "write_stacks", stop)
        sampler, _ = TiledMDSampler.fit(parts.train, CONFIG, tmp_path, validation=parts.val)
    expected = TiledMDSampler.from_pretrained(fitted[0])(REQUESTS[:2], [1, 2], steps=3)
    for one, other in zip(sampler(REQUESTS[:2], [1, 2], steps=3), expected, strict=True):
        assert torch.equal(one["md"].data, other["md"].data)


def test_a_training_does_not_go_on_as_another_kind(parts, tmp_path):
    TiledMDSampler.fit(parts.train, CONFIG, tmp_path)
    with pytest.raises(InputError, match="holds a training with autoencoder '', and 'kl'"):
        TiledMDSampler.fit(parts.train, variant("noise", None), tmp_path)
    fewer = parts.train.where(np.arange(len(parts.train)) < 6)
    with pytest.raises(InputError, match="holds a training with people '"):
        TiledMDSampler.fit(fewer, CONFIG, tmp_path)
    # Without resuming nothing of the old one is left that a later call could go on from.
    work = tmp_path / "work"
    before = {name: (work / name).read_bytes() for name in ("train.npy", PRIOR)}
    short = replace(CONFIG, augment=False, training=replace(CONFIG.training, steps=2))
    TiledMDSampler.fit(fewer, short, tmp_path, resume=False)
    assert [path.name for path in checkpoints(work)] == ["checkpoint-00000002"]
    for name, content in before.items():
        assert (work / name).read_bytes() != content


def test_the_command_fine_tunes_a_published_network(
    parts, published, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(PRESETS, "demo", CONFIG)
    parts.save(tmp_path / "split")
    command = ["train", "md", str(tmp_path / "split/train.tsv"), str(tmp_path / "sampler")]
    command += ["--preset", "demo", "--pretrained", str(published), "--objective", "noise"]
    assert main(command) == 2
    assert "came without an autoencoder" in capsys.readouterr().err
    command += ["--autoencoder", str(published), "--lora-rank", "2"]
    assert main([*command, "--dry-run"]) == 0
    assert main(command) == 0
    sampler = TiledMDSampler.from_pretrained(tmp_path / "sampler")
    assert type(sampler.codec) is SliceAutoencoder
    assert type(sampler.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert sampler.config["provenance"]["config"]["lora_rank"] == 2
