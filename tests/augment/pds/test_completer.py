import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import torchio as tio
from accelerate import PartialState

from neuromix.augment import Cohort, CompleteModality, RandomSynthetic
from neuromix.augment.data.leakage import voxel_hashes
from neuromix.augment.diffusion import fitting as steps
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.errors import InputError, LeakageError
from neuromix.augment.opening import open_source
from neuromix.augment.pds import joint
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import MODALITIES, ModalityConfig, ablated
from neuromix.augment.pds.images import read
from neuromix.augment.phantom import make_phantom

SHORT = TrainConfig(
    steps=3, batch_size=4, warmup=1, validate_every=2, checkpoint_every=2, log_every=1
)
CONFIG = ModalityConfig(
    width=8, blocks=1, layers=1, heads=2, token=4, depth=4, folds=2, sampling_steps=3,
    training=SHORT,
)  # fmt: skip
ALONE = replace(ablated(CONFIG, ["network"]), directions=("dmri",))


@pytest.fixture(scope="module")
def parts(tiny_pairs):
    return Cohort.from_bids(tiny_pairs).split((0.6, 0.2, 0.2), stratify=(), seed=0)


@pytest.fixture(scope="module")
def fitted(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("completer")
    completer, _ = ModalityCompleter.fit(parts.train, CONFIG, folder, validation=parts.val)
    return folder, completer


def lacking(cohort, want):
    subject = cohort.subjects()[0]
    del subject[want]
    return subject


@pytest.mark.parametrize("want", ["fmri", "dmri"])
def test_it_fills_both_directions_on_the_grid_and_in_the_range(fitted, parts, want):
    _, completer = fitted
    real = parts.test.subjects()[0][want]
    image = completer.complete(lacking(parts.test, want), want, seed=1)
    assert image.shape == real.shape
    np.testing.assert_allclose(image.affine, real.affine)
    assert image.data.min() >= 0
    assert image.data.max() <= 1.6
    # Nothing where the source has no brain.
    assert not image.data[:, (real.data == 0).all(0)].any()
    assert image.data.std() > 0.1


def test_a_sample_depends_on_its_seed_alone(fitted, parts):
    _, completer = fitted
    subject = lacking(parts.test, "fmri")
    several = completer.posterior(subject, "fmri", seed=3, samples=6)
    fewer = completer.posterior(subject, "fmri", seed=3, samples=2)
    np.testing.assert_array_equal(several.samples[:2], fewer.samples)
    np.testing.assert_allclose(several.mean.numpy(), several.samples.mean(0), atol=1e-6)
    assert several.deviation.data.max() > 0.01
    one, other = (completer.complete(subject, "fmri", seed).data for seed in (3, 4))
    assert not torch.equal(one, other)


def test_uncertainty_is_calibrated_and_an_odd_source_gives_rise_to_doubt(fitted, parts):
    _, completer = fitted
    subject = lacking(parts.test, "fmri")
    plain = completer.posterior(subject, "fmri", 1, 4)
    factor = completer.record["calibration"]["fmri"]
    spread = plain.samples.std(0, ddof=1)
    np.testing.assert_allclose(plain.deviation.numpy(), factor * spread, atol=1e-6)
    inside = (plain.samples != 0).any(0)
    assert plain.error == pytest.approx(float(np.sqrt((factor * spread)[inside] ** 2).mean()), 0.3)
    assert plain.doubts == []
    subject["dmri"].set_data(10 * subject["dmri"].data)
    assert "dmri: the mean of its values" in completer.posterior(subject, "fmri", 1, 2).doubts[0]


def maps(tiny_pairs, folder):
    """Three maps of six people of whom two lack one: a mean of fMRI, of dMRI, and their sum."""
    rows = []
    for k, subject in enumerate(Cohort.from_bids(tiny_pairs).subjects()):
        one, two = (read(subject[name], name).mean(0, keepdim=True) for name in MODALITIES)
        row = {"subject_id": subject["subject_id"], "dataset": "maps"}
        for name, data in (("a", one), ("b", two), ("c", one + two)):
            path = folder / f"{k}-{name}.nii"
            tio.ScalarImage(tensor=data, affine=subject["fmri"].affine).save(path)
            row[f"{name}_path"] = "" if (name, k) in (("c", 0), ("a", 1)) else str(path)
        rows.append(row)
    return Cohort(pd.DataFrame(rows))


def test_any_maps_are_filled_in_from_any_others(tiny_pairs, tmp_path):
    cohort = maps(tiny_pairs, tmp_path)
    config = replace(CONFIG, images=("a", "b", "c"), directions=("a", "c"))
    completer, _ = ModalityCompleter.fit(cohort, config, tmp_path / "completer")
    names = set(completer.model.denoisers)
    assert names == {"a-from-b-c", "a-from-b", "a-from-c", "c-from-a-b", "c-from-a", "c-from-b"}
    whole = cohort.subjects()[3]
    real = whole["c"].numpy()
    errors = []
    for have in (("a", "b"), ("a",), ("b",)):
        subject = tio.Subject({k: v for k, v in whole.items() if k in have or k == "dataset"})
        made = completer.posterior(subject, "c", 0, 8).mean.numpy()
        errors.append(float(((made - real) ** 2).mean()))
    assert errors[0] < min(errors[1:])
    shown = CompleteModality(completer, have="a", want="c")
    lacks = tio.Subject({k: v for k, v in whole.items() if k != "c"})
    alone = tio.Subject({k: v for k, v in lacks.items() if k != "b"})
    made = shown(lacks)
    seed = int(made["synthetic_id"].partition("seed=")[2])
    assert torch.equal(made["c"].data, completer.complete(alone, "c", seed).data)
    with pytest.raises(InputError, match="trained to fill in a, c"):
        completer.complete(whole, "b", 0)


def test_images_that_nobody_has_and_people_who_are_one_are_refused(tiny_pairs, tmp_path):
    cohort = maps(tiny_pairs, tmp_path)
    config = replace(CONFIG, images=("a", "b", "c"), training=replace(SHORT, batch_size=1))
    for table in (cohort.table.drop(columns="c_path"), cohort.table.assign(c_path="")):
        with pytest.raises(InputError, match="no subject has c and another of a, b, c"):
            ModalityCompleter.fit(Cohort(table), config, tmp_path / "x")
    sessions = [str(k) for k in range(len(cohort))]
    same = cohort.table.assign(subject_id="one", session_id=sessions)
    with pytest.raises(InputError, match="fewer than 4 people have two of a, b, c"):
        ModalityCompleter.fit(Cohort(same), config, tmp_path / "y")


def test_the_sample_is_of_its_source(fitted, parts):
    _, completer = fitted
    a, b = (completer.posterior(lacking(p, "fmri"), "fmri", 1, 4) for p in (parts.test, parts.val))
    real = parts.test.subjects()[0]["fmri"].numpy()
    assert ((a.mean.numpy() - real) ** 2).mean() < 0.5 * ((b.mean.numpy() - real) ** 2).mean()


def test_it_reloads_and_completes_online(fitted, parts):
    folder, completer = fitted
    assert not list(folder.rglob("*.bin"))
    subject = lacking(parts.test, "dmri")
    result = CompleteModality(str(folder), have="fmri", want="dmri")(subject)
    assert result["synthetic"] is True
    seed = int(result["synthetic_id"].partition("seed=")[2])
    expected = completer.complete(subject, "dmri", seed)
    assert torch.equal(result["dmri"].data, expected.data)
    replayed = result.get_composed_history()(subject)
    assert torch.equal(replayed["dmri"].data, expected.data)
    assert type(open_source(folder)) is ModalityCompleter
    with pytest.raises(InputError, match="ModalityCompleter draws no samples"):
        RandomSynthetic(str(folder), match="sex")


def test_labels_may_fill_training_subjects_alone(fitted, parts):
    _, completer = fitted
    assert completer.model.label_space.names == ("diagnosis",)
    seen, held_out = lacking(parts.train, "fmri"), lacking(parts.test, "fmri")
    with torch.no_grad():  # make the network listen, which three steps did not
        network = completer.model.network
        network.labels.tables[0].weight[:-1].normal_(std=5)
        for part in (network.head, network.before[0].modulation, network.before[0].conv_2):
            torch.nn.init.normal_(part.weight, std=0.2)
    plain, labelled = (
        completer.complete(seen, "fmri", 1, labels).data for labels in (None, {"diagnosis": "NC"})
    )
    assert not torch.equal(plain, labelled)
    with pytest.raises(InputError, match="who is not in this completer's training split"):
        completer.complete(held_out, "fmri", 1, {"diagnosis": "NC"})
    renamed = lacking(parts.val, "fmri")
    with pytest.raises(InputError, match="not in this completer's training split"):
        completer.posterior(renamed, "fmri", 1, labels={"diagnosis": "NC"})
    # Whatever diagnosis a held-out subject carries, its image is the same.
    images = []
    for diagnosis in ("AD", "NC"):
        held_out["diagnosis"] = diagnosis
        images.append(completer.complete(held_out, "fmri", 1).data)
    assert torch.equal(*images)


def test_what_does_not_fit_is_told_in_one_line(fitted, parts):
    _, completer = fitted
    subject = parts.train.subjects()[0]
    other = tio.ScalarImage(tensor=torch.ones(8, 4, 4, 4))
    bare = {"subject_id": "07", "x": other}
    cases = [
        (tio.Subject(**bare), "fmri", None, "sub-07 has no dmri"),
        (tio.Subject(fmri=other), "fmri", None, "has no dmri"),
        (subject, "md", None, "trained to fill in fmri, dmri"),
        (tio.Subject(dmri=other), "fmri", None, "8 segments of 4 x 4 x 4 voxels .* prepare"),
        (subject, "fmri", {"diagnosis": "SMC"}, "'SMC' is not in the space"),
        (subject, "fmri", {"hand": "left"}, "'hand' is not in the space"),
    ]
    for given, want, labels, message in cases:
        with pytest.raises(InputError, match=message) as error:
            completer.complete(given, want, 0, labels)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="two or more"):
        completer.posterior(subject, "fmri", 0, samples=1)


def test_it_remembers_whom_it_saw(fitted, parts):
    _, completer = fitted
    completer.check_disjoint(parts.test)
    for seen in (parts.train, parts.val):
        with pytest.raises(LeakageError, match="had a part"):
            completer.check_disjoint(seen)
    names = [f"x{k}" for k in range(len(parts.train))]
    renamed = parts.train.table.assign(dataset="other", subject_id=names)
    with pytest.raises(LeakageError, match="by their images"):
        completer.check_disjoint(Cohort(renamed))


def test_a_direction_that_was_not_trained_is_refused(parts, tmp_path):
    completer, _ = ModalityCompleter.fit(parts.train, ALONE, tmp_path)
    assert completer.complete(lacking(parts.test, "dmri"), "dmri", 0).data.any()
    with pytest.raises(InputError, match="trained to fill in dmri"):
        completer.complete(lacking(parts.test, "fmri"), "fmri", 0)


PUBLISHED = replace(
    CONFIG, design="published", widths=(8, 16), patch=2, refiner_width=8, refiner_blocks=1,
    refining=SHORT,
)  # fmt: skip


@pytest.mark.parametrize("config", [CONFIG, PUBLISHED, replace(PUBLISHED, source_blind=True)])
def test_it_fits_resumes_and_reloads(parts, tmp_path, config):
    completer, _ = ModalityCompleter.fit(parts.train, config, tmp_path, validation=parts.val)
    subject = lacking(parts.test, "fmri")
    sample = completer.complete(subject, "fmri", 5).data
    assert sample.isfinite().all()
    # As if it had been killed before it was saved.
    (tmp_path / "model_index.json").unlink()
    again, _ = ModalityCompleter.fit(parts.train, config, tmp_path, validation=parts.val)
    assert torch.equal(again.complete(subject, "fmri", 5).data, sample)
    reloaded = ModalityCompleter.from_pretrained(tmp_path)
    assert torch.equal(reloaded.complete(subject, "fmri", 5).data, sample)


@pytest.mark.parametrize("blind", [False, True])
def test_a_blind_completer_sees_the_outline_of_a_source_alone(parts, tmp_path, blind):
    config = replace(ALONE, source_blind=blind)
    completer, _ = ModalityCompleter.fit(parts.train, config, tmp_path)
    subject = lacking(parts.test, "dmri")
    made = completer.complete(subject, "dmri", 2).data
    subject["fmri"].set_data(1.5 * subject["fmri"].data)
    assert torch.equal(completer.complete(subject, "dmri", 2).data, made) == blind


def test_a_fit_does_not_go_on_as_another_kind(parts, tmp_path):
    ModalityCompleter.fit(parts.train, ALONE, tmp_path)
    other = replace(ALONE, source_blind=True)
    with pytest.raises(InputError, match="holds a training with source_blind False, and True came"):
        ModalityCompleter.fit(parts.train, other, tmp_path)
    ModalityCompleter.fit(parts.train, other, tmp_path, resume=False)


def test_only_the_main_process_removes_an_earlier_fit(parts, tmp_path, monkeypatch):
    ModalityCompleter.fit(parts.train, ALONE, tmp_path)
    work = tmp_path / "work"
    written = {path: path.stat().st_mtime_ns for path in work.glob("*.*")}
    # Another process begins after the main one has written: it reads that, and removes nothing.
    monkeypatch.setattr(PartialState, "is_main_process", property(lambda state: False))
    ModalityCompleter.fit(parts.train, ALONE, tmp_path, resume=False)
    assert {path: path.stat().st_mtime_ns for path in work.glob("*.*")} == written


def stop(*args):
    raise KeyboardInterrupt


def test_data_that_were_prepared_anew_are_learned_anew(tiny_pairs, tmp_path, monkeypatch, capsys):
    data, out = tmp_path / "data", tmp_path / "completer"
    shutil.copytree(tiny_pairs, data)

    def fit():
        completer, _ = ModalityCompleter.fit(Cohort.from_bids(data), ALONE, out, progress=True)
        return completer.record, np.load(out / "work" / "images-train.npy"), capsys.readouterr().out

    first, pairs, _ = fit()
    again, _, told = fit()
    assert again == first
    assert "work: goes on: data, settings and version are the same" in told
    path = Cohort.from_bids(data).table["fmri_path"].iloc[0]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(2 * image.get_fdata(dtype=np.float32), image.affine), path)
    second, doubled, told = fit()
    assert "work: made anew, 1 of 12 images of the train subjects changed since" in told
    assert np.array_equal(doubled[0, 0], 2 * pairs[0, 0])
    assert second["voxels"] == sorted(voxel_hashes(Cohort.from_bids(data))) != first["voxels"]
    assert second["data"] != first["data"]
    monkeypatch.setattr(steps, "version", lambda name: "99.1")
    monkeypatch.setattr(joint, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        fit()
    assert "work: made anew, neuromix" in capsys.readouterr().out
    assert not (out / "work" / "start").exists()


BAD = [
    ({"directions": ("md",)}, "images that can be filled in are fmri, dmri"),
    ({"images": ("t1",)}, "name 2 to 4 different ones"),
    ({"design": "published", "images": ("t1", "fa", "md")}, "knows two, one from the other"),
    ({"design": "zero"}, "allowed are prior, published"),
    ({"folds": 1}, "at least 2 folds"),
    ({"design": "published", "training": replace(SHORT, steps=0)}, "no prior to stand on"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_settings_that_do_not_go_together_are_told(changes, message):
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


def test_cohorts_that_do_not_fit_are_refused(parts, md_phantom, tmp_path):
    with pytest.raises(InputError, match="none of fmri and dmri"):
        ModalityCompleter.fit(Cohort.from_bids(md_phantom), CONFIG, tmp_path)
    table = parts.train.table.assign(dmri_path="")
    with pytest.raises(InputError, match="no subject of the cohort has both"):
        ModalityCompleter.fit(Cohort(table), CONFIG, tmp_path)
    with pytest.raises(InputError, match="fewer than a batch"):
        ModalityCompleter.fit(parts.train.where(parts.train.table.index < 1), CONFIG, tmp_path)


def test_subjects_without_a_pair_count_as_seen(parts, tmp_path):
    table = pd.concat([parts.train.table, parts.val.table], ignore_index=True)
    table.loc[0, "dmri_path"] = ""
    completer, _ = ModalityCompleter.fit(Cohort(table), ALONE, tmp_path)
    with pytest.raises(LeakageError):
        completer.check_disjoint(parts.train.where(parts.train.table.index < 1), voxels=False)


@pytest.mark.parametrize("config", [CONFIG, PUBLISHED])
def test_an_estimate_keeps_nothing(parts, config):
    fit, sample = ModalityCompleter.estimate(parts.train, config)
    assert fit > sample > 0
    assert ModalityCompleter.estimate(parts.train, config, 10_000)[0] > fit


def test_samples_are_spread_as_new_people_are(tmp_path):
    """Nine in ten values lie in their interval; another's source does much worse."""
    cohort = Cohort.from_bids(
        make_phantom(tmp_path / "pairs", "paired", subjects=40, seed=5, spacing=12.0)
    ).split((0.7, 0.0, 0.3), stratify=(), seed=0)
    config = replace(ALONE, sampling_steps=10, directions=MODALITIES)
    completer, _ = ModalityCompleter.fit(cohort.train, config, tmp_path / "completer")
    people = cohort.test.subjects()
    for want in MODALITIES:
        usual = torch.stack([read(each[want], want) for each in cohort.train.subjects()])
        usual = (usual.sum(0) / (usual != 0).any(1).sum(0).clamp_min(1)).numpy()
        covered, errors, others, means = [], [], [], []
        for k, subject in enumerate(people):
            real = read(subject[want], want).numpy()
            made = completer.posterior(subject, want, k)
            off = np.abs(made.mean.numpy() - real)
            covered.append((off <= 1.645 * made.deviation.numpy())[real != 0].mean())
            errors.append((off**2)[real != 0].mean())
            theirs = completer.posterior(people[k - 1], want, k, 4).mean.numpy()
            both = (real != 0) & (theirs != 0)
            others.append(((theirs - real) ** 2)[both].mean())
            means.append(((usual - real) ** 2)[real != 0].mean())
        assert 0.85 < np.mean(covered) < 0.95
        gain, cost = (np.mean(each) - np.mean(errors) for each in (means, others))
        assert gain > 0.2 * np.mean(means)
        assert cost > 0.8 * gain


def test_a_second_session_does_not_tell_of_the_first(tiny_pairs, tmp_path):
    """All sessions of a person are served by what other people say."""
    once = Cohort.from_bids(tiny_pairs)
    sessions = [once.table.assign(session_id=name) for name in "12"]
    twice = Cohort(pd.concat(sessions, ignore_index=True), once.name)
    told = []
    for name, cohort in (("once", once), ("twice", twice)):
        completer, _ = ModalityCompleter.fit(cohort, ALONE, tmp_path / name)
        told.append(
            float(
                completer.model.denoisers["dmri-from-fmri"].prior.spread(torch.tensor([0.9])).mean()
            )
        )
    assert told[1] == pytest.approx(told[0], rel=0.05)
