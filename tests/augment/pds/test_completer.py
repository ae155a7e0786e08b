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
from neuromix.augment.diffusion.fitting import Job
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.errors import InputError, LeakageError
from neuromix.augment.opening import open_source
from neuromix.augment.pds.completer import ModalityCompleter
from neuromix.augment.pds.config import ModalityConfig
from neuromix.augment.pds.fit import Fitting
from neuromix.augment.pds.pairs import Pairs, common_frame, read
from neuromix.augment.phantom import make_phantom

SHORT = TrainConfig(
    steps=3, batch_size=4, warmup=1, validate_every=2, checkpoint_every=2, log_every=1
)
CONFIG = ModalityConfig(
    widths=(8, 16), heads=2, refiner_width=8, refiner_blocks=1, box=6, sampling_steps=3,
    training=SHORT, refining=SHORT,
)  # fmt: skip


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
        completer.model.network.label_embedder.tables[0].weight[:-1].normal_(std=5)
        torch.nn.init.normal_(completer.model.network.head.weight, std=0.2)
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
        (tio.Subject(**bare), "fmri", None, "sub-07 has neither fmri nor dmri"),
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
    config = replace(CONFIG, directions=("dmri",), refine="none", pattern=False, labels=())
    completer, _ = ModalityCompleter.fit(parts.train, config, tmp_path)
    assert completer.complete(lacking(parts.test, "dmri"), "dmri", 0).data.any()
    with pytest.raises(InputError, match="trained to fill in dmri"):
        completer.complete(lacking(parts.test, "fmri"), "fmri", 0)


PUBLISHED = replace(CONFIG, start="noise", objective="noise", refine="sample", patch=2)


@pytest.mark.parametrize("blind", [False, True])
def test_the_published_system_fits_resumes_and_reloads(parts, tmp_path, blind):
    config = replace(PUBLISHED, source_blind=blind)
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


def test_a_blind_completer_makes_the_same_mean_for_everyone(parts, tmp_path):
    config = replace(CONFIG, source_blind=True, refine="none")
    completer, _ = ModalityCompleter.fit(parts.train, config, tmp_path)
    a, b = (
        completer.complete(lacking(part, "fmri"), "fmri", 2).data
        for part in (parts.test, parts.val)
    )
    both = ((a != 0) & (b != 0)).all(0)
    assert (a - b)[:, both].abs().mean() < 0.1 * a[:, both].std()


def test_a_fit_does_not_go_on_as_another_kind(parts, tmp_path):
    config = replace(CONFIG, refine="none")
    ModalityCompleter.fit(parts.train, config, tmp_path)
    with pytest.raises(InputError, match="holds a training with pattern True, and False came"):
        ModalityCompleter.fit(parts.train, replace(config, pattern=False), tmp_path)
    ModalityCompleter.fit(parts.train, replace(config, pattern=False), tmp_path, resume=False)


def test_only_the_main_process_removes_an_earlier_fit(parts, tmp_path, monkeypatch):
    config = replace(CONFIG, refine="none", pattern=False)
    ModalityCompleter.fit(parts.train, config, tmp_path)
    work = tmp_path / "work"
    written = {path: path.stat().st_mtime_ns for path in work.glob("*.*")}
    # Another process begins after the main one has written: it reads that, and removes nothing.
    monkeypatch.setattr(PartialState, "is_main_process", property(lambda state: False))
    ModalityCompleter.fit(parts.train, config, tmp_path, resume=False)
    assert {path: path.stat().st_mtime_ns for path in work.glob("*.*")} == written


def stop(*args):
    raise KeyboardInterrupt


def test_data_that_were_prepared_anew_are_learned_anew(tiny_pairs, tmp_path, monkeypatch, capsys):
    config = replace(CONFIG, refine="none", training=replace(CONFIG.training, steps=2))
    data, out = tmp_path / "data", tmp_path / "completer"
    shutil.copytree(tiny_pairs, data)

    def fit():
        completer, _ = ModalityCompleter.fit(Cohort.from_bids(data), config, out, progress=True)
        return completer.record, np.load(out / "work" / "pairs-train.npy"), capsys.readouterr().out

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
    monkeypatch.setattr(Fitting, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        fit()
    assert "work: made anew, neuromix" in capsys.readouterr().out
    assert not (out / "work" / "start").exists()


BAD = [
    ({"directions": ("md",)}, "modalities to fill in, one or both of fmri, dmri"),
    ({"start": "zero"}, "allowed are gaussian, noise"),
    ({"objective": "noise"}, "came with start gaussian"),
    ({"start": "noise"}, "refine mean came with start noise"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_settings_that_do_not_go_together_are_told(changes, message):
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


def test_cohorts_that_do_not_fit_are_refused(parts, md_phantom, tmp_path):
    with pytest.raises(InputError, match="neither fmri nor dmri"):
        ModalityCompleter.fit(Cohort.from_bids(md_phantom), CONFIG, tmp_path)
    table = parts.train.table.assign(dmri_path="")
    with pytest.raises(InputError, match="no subject of the cohort has both"):
        ModalityCompleter.fit(Cohort(table), CONFIG, tmp_path)
    with pytest.raises(InputError, match="fewer than a batch"):
        ModalityCompleter.fit(parts.train.where(parts.train.table.index < 1), CONFIG, tmp_path)


def test_subjects_without_a_pair_count_as_seen(parts, tmp_path):
    table = parts.train.table.copy()
    table.loc[table.index[0], "dmri_path"] = ""
    config = replace(CONFIG, refine="none", pattern=False)
    completer, _ = ModalityCompleter.fit(Cohort(table), config, tmp_path)
    with pytest.raises(LeakageError):
        completer.check_disjoint(parts.train.where(parts.train.table.index < 1), voxels=False)


def test_an_estimate_keeps_nothing(parts):
    fit, sample = ModalityCompleter.estimate(parts.train, CONFIG)
    assert fit > sample > 0
    assert ModalityCompleter.estimate(parts.train, CONFIG, 1000)[0] > fit


@torch.no_grad()
def test_without_validation_subjects_the_spread_is_that_of_new_subjects(tmp_path):
    cohort = Cohort.from_bids(
        make_phantom(tmp_path / "pairs", "paired", subjects=40, seed=5, spacing=12.0)
    ).split((0.6, 0.2, 0.2), stratify=(), seed=0)
    completer, _ = ModalityCompleter.fit(cohort.train, CONFIG, tmp_path / "completer")
    model, new = completer.model, Pairs(tmp_path / "new.npy", cohort.test)
    for d in range(2):
        squares = count = 0.0
        for source, target, support in new.batches(model, d)():
            error = (target - model.mean(source, support, d)) / model.residual.deviation[d]
            squares += float((support * error.square()).sum())
            count += float(support.sum()) * error.shape[1]
        assert 0.85 < (squares / count) ** 0.5 < 1.15


def test_a_second_session_does_not_tell_of_the_first(tiny_pairs, tmp_path):
    """All sessions of a person are regressed by what other people say."""
    once = Cohort.from_bids(tiny_pairs)
    sessions = [once.table.assign(session_id=name) for name in "12"]
    twice = Cohort(pd.concat(sessions, ignore_index=True), once.name)
    errors = []
    for name, cohort in (("once", once), ("twice", twice)):
        pairs = Pairs(tmp_path / f"{name}.npy", cohort)
        (tmp_path / name).mkdir()
        fitting = Fitting(Job([cohort], CONFIG, tmp_path / name), [pairs], common_frame(cohort)[0])
        fitting.model = fitting.build()
        fitting.closed_form()
        means = fitting._arrays("regression", fitting._regress)
        error, support = next(iter(fitting._errors(pairs, means[0], 0, fitting.directions[0])()))
        errors.append(float((error[:6].square() * support[:6]).mean()))
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_what_a_transform_did_to_a_source_is_seen(parts):
    image = lacking(parts.test, "dmri")["fmri"]
    once = read(image, "fmri")
    assert not image._loaded  # a subject does not keep what it did not hold
    image.set_data(1.5 * once)
    assert torch.equal(read(image, "fmri"), 1.5 * once)
