import json
import re
import shutil
import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import torchio as tio

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.diffusion.loop import TrainConfig, checkpoints
from neuromix.augment.errors import InputError, LeakageError
from neuromix.augment.fmri.config import PRESETS, TaskFMRIConfig
from neuromix.augment.fmri.runs import Runs, design_of, draw_events
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.augment.opening import open_source
from neuromix.augment.phantom import make_phantom
from neuromix.augment.phantom.task import TASKS
from neuromix.augment.prepare.bold import read_events
from neuromix.augment.transforms import RandomSynthetic, TimeConsistent
from neuromix.classifiers.base import VolumeClassifier
from neuromix.experiments.cli.main import main

TRAINING = TrainConfig(
    steps=2, batch_size=2, warmup=1, validate_every=2, checkpoint_every=1, log_every=1
)
AUTOENCODING = replace(TRAINING, steps=40, learning_rate=2e-2, ema_decay=0.5, validate_every=20)
CONFIG = TaskFMRIConfig(
    window=8, overlap=3, patterns=4, folds=2, width=8, blocks=1, layers=1, heads=2, sampled=2,
    training=TRAINING, widths=(8, 16), depths=(1, 1), head_dim=8, codes=16,
    autoencoder_widths=(4, 8), autoencoding=AUTOENCODING,
)  # fmt: skip
CLOSED = replace(CONFIG, patterns=8, training=replace(TRAINING, steps=0))
MOTOR = {"task": "motor", "dir": "LR"}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Four subjects at 12 mm, of whom the runs of two tasks are kept."""
    folder = tmp_path_factory.mktemp("phantoms") / "task"
    make_phantom(folder, "task", subjects=4, seed=4, spacing=12.0)
    for path in folder.glob("sub-*/func/*"):
        if "task-motor" not in path.name and "task-wm" not in path.name:
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def parts(phantom):
    return Cohort.from_bids(phantom).split((0.5, 0.25, 0.25), seed=0)


@pytest.fixture(scope="module")
def fitted(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampler")
    sampler, _ = TaskFMRISampler.fit(parts.train, CONFIG, folder, validation=parts.val)
    return folder, sampler


def frames(sampler, labels=MOTOR, seed=3, **options):
    return sampler([labels], [seed], steps=2, **options)[0]["bold"].data


def test_runs_have_shape_units_grid_timing_and_labels(fitted, parts):
    sampler = fitted[1]
    sex = sampler.label_space.categories["sex"][0]
    subject = sampler([MOTOR | {"sex": sex}], [7], steps=2)[0]
    real = parts.train.subjects()[0]
    assert set(subject.keys()) == set(real.keys())
    bold = subject["bold"]
    assert bold.shape == real["bold"].shape
    np.testing.assert_allclose(bold.affine, real["bold"].affine)
    assert bold["RepetitionTime"] == 2.0
    assert (subject["task"], subject["dir"], subject["sex"]) == ("motor", "LR", sex)
    assert subject["synthetic"] is True
    names = {row[2] for row in json.loads(bold["events"])}
    assert names == set(TASKS["motor"])
    assert bold.data.min() == 0
    assert not bold.data[:, ~sampler.linear.mask].any()
    assert sampler.about["signal"] == pytest.approx(
        float(real["bold"].data[real["bold"].data > 250].float().mean()), rel=0.1
    )


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_run_depends_on_its_label_and_seed_alone(fitted, guidance):
    sampler = fitted[1].timed(None, 13)
    both = sampler([{"task": "wm"}, MOTOR], [1, 3], steps=2, guidance=guidance)
    assert torch.equal(both[1]["bold"].data, frames(sampler, guidance=guidance))
    assert not torch.equal(both[1]["bold"].data, frames(sampler, seed=4, guidance=guidance))


def test_it_reloads_replays_and_makes_the_same(fitted):
    folder, sampler = fitted
    drawn = sampler([MOTOR], [5], 2, 1.5)[0]
    again = open_source(folder)
    assert isinstance(again, TaskFMRISampler)
    assert again.fingerprint() == sampler.fingerprint()
    assert torch.equal(again.replay(drawn["synthetic_id"])["bold"].data, drawn["bold"].data)


def test_it_remembers_whom_it_saw_and_nobody_else(fitted, parts):
    sampler = fitted[1]
    seen = set(sampler.config["provenance"]["subjects"])
    assert seen == {subject_hash(*key) for p in parts[:2] for key in p.subject_keys}
    sampler.check_disjoint(parts.test)
    with pytest.raises(LeakageError):
        sampler.check_disjoint(parts.val)
    renamed = Cohort(parts.train.table.assign(subject_id="new"))
    with pytest.raises(LeakageError, match="by their images"):
        sampler.check_disjoint(renamed)


def test_given_events_and_lengths_are_followed(fitted):
    events = pd.DataFrame({"onset": [1.5, 9.0], "duration": 3.0, "trial_type": "lefthand"})
    sampler = fitted[1].timed(events, 13)
    assert sampler.fingerprint() != fitted[1].fingerprint()
    subject = sampler([{}], [0], steps=2)[0]
    assert subject["task"] == "motor"
    assert len(subject["bold"].data) == 13
    assert json.loads(subject["bold"]["events"]) == events.to_numpy().tolist()
    assert fitted[1].about.get("frames") is None


def test_pieces_make_the_run_in_the_memory_of_a_window(fitted):
    sampler = fitted[1]
    peaks = {}
    for count in (16, 64):
        timed = sampler.timed(None, count)
        tracemalloc.start()
        pieces = [piece.shape[0] for piece in timed.stream(MOTOR, 0, steps=1)]
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(pieces) == count
        assert max(pieces) <= CONFIG.window
    assert peaks[64] < 1.2 * peaks[16]
    whole = torch.cat([torch.from_numpy(p) for p in timed.stream(MOTOR, 0, steps=1)])
    assert torch.equal(whole, timed([MOTOR], [0], steps=1)[0]["bold"].data)


def test_a_window_of_latents_goes_on_from_the_one_before(parts, tmp_path, monkeypatch):
    """A network that repeats its known frames makes a run without a seam."""
    config = replace(CONFIG, autoencoder="vq")
    sampler = TaskFMRISampler.fit(parts.train, config, tmp_path)[0].timed(None, 28)

    def repeat(latents, time, labels):
        t = (time / 1000).reshape(-1, 1, 1, 1, 1, 1)
        count = labels["known"].sum(1).clamp_min(1).reshape(-1, 1, 1, 1, 1)
        held = (labels["given"].sum(1) / count)[:, None]
        return (latents - held) / t

    monkeypatch.setattr(sampler.transformer, "forward", repeat)
    decoded = []
    decode = sampler.codec.decode
    monkeypatch.setattr(sampler.codec, "decode", lambda z: decoded.append(z) or decode(z))
    list(sampler.stream(MOTOR, 0, steps=3))
    run = torch.cat(decoded)
    assert len(run) == 28
    torch.testing.assert_close(run, torch.zeros_like(run), atol=1e-3, rtol=0)


def test_the_bank_is_bids_that_nilearn_models(fitted, tmp_path):
    from nilearn.glm.first_level import FirstLevelModel

    sampler = fitted[1]
    bank = SampleBank.fill(tmp_path, sampler, [MOTOR, {"task": "wm", "dir": "RL"}], 0, steps=1)
    assert bank.verify() == []
    cohort = Cohort.from_bids(tmp_path)
    assert sorted(cohort.table["task"]) == ["motor", "wm"]
    path = next(tmp_path.glob("sub-*/func/*task-motor*_bold.nii"))
    assert "_space-MNI152NLin2009aSym_" in path.name  # that of the training runs
    image = nib.load(path)
    assert image.shape[3] == 100
    assert image.header.get_zooms()[3] == pytest.approx(2.0)
    told = json.loads(path.with_suffix("").with_suffix(".json").read_text())
    assert told["RepetitionTime"] == 2.0
    assert told["TaskName"] == "motor"
    table = path.parent / "sub-syn000001_task-motor_dir-LR_events.tsv"
    assert set(read_events(table)["trial_type"]) == set(TASKS["motor"])
    mask = nib.Nifti1Image(sampler.linear.mask.numpy().astype(np.uint8), image.affine)
    model = FirstLevelModel(t_r=2.0, mask_img=mask).fit(path, events=pd.read_csv(table, sep="\t"))
    assert model.compute_contrast("lefthand").shape == image.shape[:3]
    again = SampleBank.fill(tmp_path, sampler, [MOTOR, {"task": "wm", "dir": "RL"}], 0, steps=1)
    assert again.digest() == bank.digest()


VARIANTS = {
    "published": {"autoencoder": "vq", "objective": "noise", "time": "stack"},
    "kl": {"autoencoder": "kl"},
    "frames": {},
    "closed": {"training": replace(TRAINING, steps=0)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_fits_resumes_and_reloads(name, parts, tmp_path):
    config = replace(CONFIG, **VARIANTS[name])
    sampler, _ = TaskFMRISampler.fit(parts.train, config, tmp_path)
    sample = frames(sampler.timed(None, 13))
    assert sample.isfinite().all()
    for folder in (tmp_path / "work", tmp_path / "work" / "autoencoder"):
        for last in checkpoints(folder)[-1:]:  # as if it had been killed in its last step
            shutil.rmtree(last)
    (tmp_path / "work" / "train.npy").unlink(missing_ok=True)
    resumed, _ = TaskFMRISampler.fit(parts.train, config, tmp_path)
    assert torch.equal(frames(resumed.timed(None, 13)), sample)
    again = TaskFMRISampler.from_pretrained(tmp_path).timed(None, 13)
    assert torch.equal(frames(again), sample)


@pytest.fixture(scope="module")
def closed(parts, tmp_path_factory):
    everyone = Cohort(pd.concat([parts.train.table, parts.val.table]))
    folder = tmp_path_factory.mktemp("closed")
    return TaskFMRISampler.fit(everyone, CLOSED, folder)[0]


def test_the_closed_form_answers_events_that_it_never_saw(closed):
    onsets = np.array([3.0, 20.0, 61.0, 77.0, 130.0])
    events = pd.DataFrame({"onset": onsets, "duration": 9.0, "trial_type": "lefthand"})
    sampler = closed.timed(events, 90)
    drawn = sampler([MOTOR] * 3, [1, 2, 3])
    run = np.mean([each["bold"].data.numpy() for each in drawn], 0)[:, closed.linear.mask.numpy()]
    design = design_of(events, "motor", closed.about["conditions"], 90, 2.0)
    column = 2 * closed.about["conditions"].index("motor/lefthand")
    active = closed.linear.maps[0, column].numpy()
    active = active > np.quantile(active, 0.97)
    answer = run[:, active].mean(1)
    assert (
        np.corrcoef(answer, design[:, column])[0, 1] > 0.65
    )  # three people, of three training subjects
    assert np.corrcoef(answer, design[::-1, column])[0, 1] < 0.4


def test_the_closed_form_keeps_its_noise_along_a_long_run(closed):
    run = closed.timed(None, 300)([MOTOR], [2])[0]["bold"].data.numpy()
    run = run[:, closed.linear.mask.numpy()]
    first, last = (run[part].std(0).mean() for part in (slice(0, 100), slice(200, 300)))
    assert last == pytest.approx(first, rel=0.3)
    steps = np.abs(np.diff(run, axis=0)).mean(1)
    seams = steps[CONFIG.window - 1 :: CONFIG.window]
    assert seams.mean() == pytest.approx(steps.mean(), rel=0.1)


def test_a_bank_of_runs_augments_a_classifier(closed, parts, tmp_path):
    bank = SampleBank.fill(tmp_path / "bank", closed, [MOTOR, {"task": "wm", "dir": "LR"}] * 2, 0)
    real = parts.train.where(dir="LR").subjects()
    replaced = tio.Compose([
        RandomSynthetic(bank, match=("task",), p=1.0), TimeConsistent(tio.RandomGamma()),
    ])  # fmt: skip
    seen = [replaced(subject) for subject in real]
    assert [one["task"] for one in seen] == [one["task"] for one in real]
    assert all(one["synthetic"] for one in seen)
    options = {"image": "bold", "frames": "all", "steps": 2, "batch_size": 2, "shift": 0}
    model = VolumeClassifier("task", augment=replaced, **options).fit(real)
    assert set(model.predict(parts.test.where(dir="LR").subjects())) <= {"motor", "wm"}


@pytest.fixture(scope="module")
def untrained(parts, tmp_path_factory):
    """A network that has learned nothing: what is made follows the prior of windows."""
    folder = tmp_path_factory.mktemp("untrained")
    everyone = Cohort(pd.concat([parts.train.table, parts.val.table]))
    sampler, _ = TaskFMRISampler.fit(everyone, replace(CONFIG, patterns=8), folder)
    torch.nn.init.zeros_(sampler.transformer.network.head.weight)
    torch.nn.init.zeros_(sampler.transformer.network.head.bias)
    return sampler


def test_windows_of_the_prior_are_runs_like_those_of_the_closed_form(closed, untrained):
    """The same people, as much noise with as much memory, and no seam between windows."""
    inside = closed.linear.mask.numpy()
    runs = [
        one.timed(None, 203)([MOTOR], [2], steps=12)[0]["bold"].data.numpy()[:, inside]
        for one in (closed, untrained)
    ]
    assert np.corrcoef(*(run.mean(0) for run in runs))[0, 1] > 0.999
    spreads = [run.std(0).mean() for run in runs]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.2)
    steps = [np.abs(np.diff(run, axis=0)).mean(1) for run in runs]
    assert steps[1].mean() == pytest.approx(steps[0].mean(), rel=0.1)
    seams = steps[1][CONFIG.window - 1 :: CONFIG.window - CONFIG.overlap]
    assert seams.mean() == pytest.approx(steps[1].mean(), rel=0.1)


def test_windows_answer_events_in_the_persons_own_map(untrained):
    onsets = np.arange(5.0, 290.0, 24.0)
    events = pd.DataFrame({"onset": onsets, "duration": 10.0, "trial_type": "lefthand"})
    sampler = untrained.timed(events, 150)
    pieces = [*sampler.stream(MOTOR, 1, 8, person=5)]
    run = np.concatenate(pieces)[:, untrained.linear.mask.numpy()]
    design = design_of(events, "motor", untrained.about["conditions"], 150, 2.0)
    column = 2 * untrained.about["conditions"].index("motor/lefthand")
    active = untrained.linear.maps[0, column].numpy()
    answer = run[:, active > np.quantile(active, 0.97)].mean(1)
    assert np.corrcoef(answer, design[:, column])[0, 1] > 0.5
    other = np.concatenate([*sampler.stream(MOTOR, 2, 8, person=5)])
    stranger = np.concatenate([*sampler.stream(MOTOR, 1, 8, person=6)])
    means = [each.mean(0).ravel() for each in (np.concatenate(pieces), other, stranger)]
    assert np.corrcoef(means[0], means[1])[0, 1] > 0.999
    assert np.corrcoef(means[0], means[2])[0, 1] < 0.999


def test_a_training_does_not_go_on_as_another(fitted, parts, tmp_path):
    shutil.copytree(fitted[0], tmp_path / "copy")
    with pytest.raises(InputError, match="holds a training with window 8, and 9 came"):
        TaskFMRISampler.fit(
            parts.train, replace(CONFIG, window=9), tmp_path / "copy", validation=parts.val
        )


def test_timings_are_drawn_like_those_of_training_runs():
    table = [[3.0, 16.0, "a"], [29.0, 16.0, "b"], [52.0, 16.0, "a"]]
    rng = np.random.default_rng(0)
    drawn = draw_events([table], 300, 2.0, rng)
    assert drawn["onset"].is_monotonic_increasing
    assert drawn["onset"].max() < 600
    assert set(drawn["duration"]) == {16.0}
    pauses = drawn["onset"].to_numpy()[1:] - drawn["onset"].to_numpy()[:-1] - 16
    assert set(np.round(pauses, 3)) == {3.0, 7.0, 10.0}
    share = (drawn["trial_type"] == "a").mean()
    assert share == pytest.approx(2 / 3, abs=0.05)
    other = draw_events([table], 300, 2.0, np.random.default_rng(1))
    assert not drawn.equals(other)
    assert len(draw_events([[]], 300, 2.0, rng)) == 0


def test_the_design_follows_the_events():
    events = pd.DataFrame({"onset": [10.0], "duration": [16.0], "trial_type": ["b"]})
    design = design_of(events, "t", ("t/a", "t/b"), 60, 2.0)
    assert design.shape == (60, 4)
    assert not design[:, :2].any()
    assert 2 * design[:, 2].argmax() in range(18, 30)
    # The second column lets a response come later: h(t - 1) is h(t) less this.
    late = design_of(events.assign(onset=11.0), "t", ("t/a", "t/b"), 60, 2.0)
    np.testing.assert_allclose(design[:, 2] - design[:, 3], late[:, 2], atol=1e-5)


@pytest.fixture
def broken(phantom, tmp_path):
    """A copy of one subject's motor runs, to be damaged."""
    name = sorted(p.name for p in phantom.glob("sub-*"))[0]
    for path in phantom.glob("*.json"):
        shutil.copy(path, tmp_path)
    shutil.copytree(phantom / name, tmp_path / name)
    for path in tmp_path.glob("sub-*/func/*task-wm*"):
        path.unlink()
    return tmp_path


def bold_of(folder):
    return sorted(folder.glob("sub-*/func/*_bold.nii.gz"))[0]


def events_of(folder):
    return sorted(folder.glob("sub-*/func/*_events.tsv"))[0]


def no_events(folder):
    events_of(folder).unlink()


def late_onset(folder):
    table = pd.read_csv(events_of(folder), sep="\t")
    table.loc[0, "onset"] = 500.0
    files.write_table(events_of(folder), table)


def other_tr(folder):
    files.write_json(bold_of(folder).with_name(bold_of(folder).name[:-7] + ".json"),
                     {"RepetitionTime": 0.72})  # fmt: skip


def rewrite(folder, change, tr=2.0):
    image = nib.load(bold_of(folder))
    files.write_nifti(bold_of(folder), change(image.get_fdata(dtype=np.float32)), image.affine,
                      tr=tr)  # fmt: skip


def short(folder):
    rewrite(folder, lambda data: data[..., :5])


def nan_frame(folder):
    def change(data):
        data[..., 7] = np.nan
        return data

    rewrite(folder, change)


def three_dimensions(folder):
    rewrite(folder, lambda data: data[..., 0], tr=None)


BAD = [
    (no_events, r"there is no events\.tsv for it"),
    (late_onset, r"an event begins at 500 s, after the run's end at 200 s"),
    (other_tr, r"is 2 s in the header and 0\.72 s in the sidecar"),
    (short, r"has 5 frames, fewer than a window of 8"),
    (nan_frame, r"frame 7 of 100 has 4096 voxels of NaN or Inf"),
    (three_dimensions, r"a run has four dimensions"),
]


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_bad_runs_are_told(damage, message, broken):
    damage(broken)
    with pytest.raises(InputError, match=message) as error:
        TaskFMRISampler.fit(Cohort.from_bids(broken), CONFIG, broken / "sampler")
    assert "\n" not in str(error.value)
    assert "bold.nii" in str(error.value)


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_the_command_says_bad_runs_in_a_line(damage, message, broken, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "demo", CONFIG)
    damage(broken)
    assert main(["train", "fmri", str(broken), str(broken / "out"), "--preset", "demo"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("neuromix: ")
    assert re.search(message, line)


def test_runs_of_two_repetition_times_are_refused(broken):
    other_tr(broken)
    rewrite(broken, lambda data: data, tr=0.72)
    events = pd.read_csv(events_of(broken), sep="\t")
    files.write_table(events_of(broken), events[events["onset"] < 60])
    with pytest.raises(InputError, match="a sampler has one"):
        Runs.of(Cohort.from_bids(broken), 8)


def test_bad_requests_are_told(fitted, parts, md_phantom):
    sampler = fitted[1]
    with pytest.raises(InputError, match=r"no bold; bring runs"):
        TaskFMRISampler.fit(Cohort.from_bids(md_phantom), CONFIG, fitted[0])
    unknown = pd.DataFrame({"onset": [1.0], "duration": [2.0], "trial_type": ["tongue"]})
    with pytest.raises(InputError, match=r"condition 'tongue' came, .* knows motor/lefthand"):
        sampler.timed(unknown)
    mixed = unknown.assign(trial_type="twoback")
    with pytest.raises(InputError, match="condition 'twoback' of task 'motor' is unknown"):
        sampler.timed(mixed)([MOTOR], [0])
    with pytest.raises(InputError, match="after the run's end at 20 s"):
        sampler.timed(unknown.assign(trial_type="lefthand", onset=30.0), 10)
    assert len(sampler.timed(None, 5)([MOTOR], [0], steps=1)[0]["bold"].data) == 5
    with pytest.raises(InputError, match="0 frames came; a run needs 1 or more"):
        sampler.timed(None, 0)
    with pytest.raises(InputError, match="is not in the space"):
        sampler([{"task": "rest"}], [0])
    with pytest.raises(InputError, match="does not go with a window"):
        replace(CONFIG, overlap=8)
    with pytest.raises(InputError, match="objective noise came without an autoencoder"):
        replace(CONFIG, objective="noise")
    with pytest.raises(InputError, match="autoencoder 'gan' came; allowed are vq, kl"):
        replace(CONFIG, autoencoder="gan")
    with pytest.raises(InputError, match="folds 1 and token 4 came"):
        replace(CONFIG, folds=1)
    one = parts.train.where(subject_id=[parts.train.table["subject_id"].iloc[0]])
    with pytest.raises(InputError, match="a network needs 2 training people or more"):
        TaskFMRISampler.fit(one, CONFIG, fitted[0].parent / "one")


def test_the_command_trains_and_generates(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "demo", replace(CONFIG, labels=("task", "dir")))
    parts.save(tmp_path / "split")
    train, val = (str(tmp_path / "split" / f"{name}.tsv") for name in ("train", "val"))
    sampler, out = str(tmp_path / "sampler"), tmp_path / "synthetic"
    command = ["train", "fmri", train, sampler, "--validation", val, "--preset", "demo"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "sampler").exists()
    assert main(command) == 0
    events = tmp_path / "events.tsv"
    table = pd.DataFrame({"onset": [2.0, 9.0], "duration": 2.0, "trial_type": ["twoback"] * 2})
    files.write_table(events, table)
    make = ["generate", sampler, str(out), "--count", "2", "--steps", "1"]
    assert main([*make, "--events", str(events), "--frames", "12", "--labels", "task", "wm"]) == 0
    cohort = Cohort.from_bids(out)
    assert list(cohort.table["task"]) == ["wm"] * 2
    assert sorted(cohort.table["dir"]) == ["LR", "RL"]
    assert [nib.load(path).shape[3] for path in cohort.table["bold_path"]] == [12, 12]
    assert all(
        read_events(path)["onset"].tolist() == [2.0, 9.0] for path in out.rglob("*_events.tsv")
    )
    files.write_table(events, table.assign(trial_type="tongue"))
    other = ["generate", sampler, str(tmp_path / "x"), "--count", "1", "--events", str(events)]
    assert main(other) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "condition 'tongue' came" in said
