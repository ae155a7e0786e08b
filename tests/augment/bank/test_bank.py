import json
import multiprocessing
import pickle
import time
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import torchio as tio
from banking import GRID, LABELS, RECORD, FakeSampler, fill
from nilearn.image import load_img

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.bank.filling import CLAIM
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError, LeakageError
from neuromix.experiments.cli.main import main


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("bank") / "bank")


def image_of(bank, name):
    return next(bank.path.glob(f"sub-{name}/*/*.nii"))


def start(folder, delay):
    """Another process that fills a bank."""
    process = multiprocessing.get_context("fork").Process(
        target=fill, args=(folder, FakeSampler(delay=delay)), daemon=True
    )
    process.start()
    return process


def whole_images(folder):
    """All visible images, each of which must be readable to its last voxel."""
    images = [path for path in folder.rglob("*.nii") if not path.name.startswith(".")]
    for path in images:
        assert np.isfinite(nib.load(path).get_fdata()).all()
    return images


def test_a_draw_matches_all_labels(bank):
    for seed in range(20):
        subject = bank.draw({"sex": "M", "age": 60, "diagnosis": None}, seed)
        assert subject["sex"] == "M"
        assert abs(subject["age"] - 60) <= 5
        assert subject["synthetic"] is True
        assert subject["md"].data.mean() > 4
    ids = {bank.draw({"sex": "M"}, seed)["synthetic_id"] for seed in range(200)}
    assert len(ids) == 15  # each of them is drawn
    close = SampleBank(bank.path, tolerance=0.5)
    assert {close.draw({"age": 60}, seed)["age"] for seed in range(9)} == {60.0}


def test_equal_seeds_draw_the_same_and_replay_gives_it_again(bank):
    one, two = bank.draw({"sex": "F"}, 4), SampleBank(bank.path).draw({"sex": "F"}, 4)
    again = bank.replay(one["synthetic_id"])
    for other in (two, again):
        assert one["synthetic_id"] == other["synthetic_id"]
        assert torch.equal(one["md"].data, other["md"].data)
    assert {bank.draw({}, seed)["synthetic_id"] for seed in range(9)} != {one["synthetic_id"]}


def test_a_draw_is_its_own(bank):
    before = bank.replay("syn000001")["md"].data.clone()
    bank.replay("syn000001")["md"].data.zero_()
    assert torch.equal(bank.replay("syn000001")["md"].data, before)


def test_torchio_nilearn_and_cohort_read_the_same_image(bank):
    drawn = bank.replay("syn000003")["md"]
    path = image_of(bank, "syn000003")
    loaded = tio.ScalarImage(path)
    assert torch.equal(loaded.data, drawn.data)
    np.testing.assert_allclose(loaded.affine, drawn.affine)
    assert np.array_equal(load_img(path).get_fdata(dtype=np.float32), drawn.data[0].numpy())
    cohort = Cohort.from_bids(bank.path)
    assert all(s["synthetic"] and s["synthetic_id"].startswith("syn") for s in cohort.subjects())
    row = cohort.table.iloc[2]
    assert (row["dataset"], row["sex"], row["age"]) == (bank.name, "F", 52.0)
    assert cohort.table["synthetic_id"][2] == "syn000003"
    assert torch.equal(bank.subjects()[2]["md"].data, drawn.data)
    assert drawn.data.dtype == torch.float32


def test_it_is_a_bids_derivative_that_tells_where_it_comes_from(bank):
    description = bids.read_json(bank.path / "dataset_description.json")
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "neuromix"
    assert description["SourceDatasets"] == [{"Name": "study"}]
    path = image_of(bank, "syn000002")
    assert path.name.endswith("desc-synthetic_dwimap.nii")
    told = bids.metadata(path)
    assert told["Labels"] == {"sex": "M", "age": 51.0}
    assert (told["Units"], told["Steps"], told["WeightsHash"]) == ("1e-3 mm^2/s", 20, "w")
    assert told["Seed"] == bank.table["seed"][1]
    columns = set(pd.read_csv(bank.path / "participants.tsv", sep="\t").columns)
    assert columns == set(bids.read_json(bank.path / "participants.json"))


@pytest.mark.parametrize("space", ["MNI152NLin6Asym", "custom"])
def test_it_keeps_the_name_of_the_space_that_the_sampler_learned_in(tmp_path, space):
    sampler = FakeSampler()
    sampler.record = RECORD | ({"space": space} if space != "custom" else {})
    bank = fill(tmp_path / "bank", sampler, LABELS[:2], filters=[])
    path = image_of(bank, "syn000002")
    assert path.name == f"sub-syn000002_space-{space}_param-md_desc-synthetic_dwimap.nii"
    assert bids.metadata(path)["SpatialReference"] == space
    assert bids.space_of(Cohort.from_bids(bank.path).table["md_path"]) == space
    assert bank.replay("syn000002")["md"].data.std() > 0


def test_a_bank_that_tells_no_space_is_read_and_extended(tmp_path):
    """Older ones were named after the template whatever the grid."""
    sampler, space = FakeSampler(), "space-MNI152NLin2009aSym"
    bank = fill(tmp_path / "bank", sampler, LABELS[:2], filters=[])
    about = bids.read_json(bank.path / "bank.json")
    del about["space"]
    files.write_json(bank.path / "bank.json", about)
    for path in [*bank.path.rglob("sub-*.*")]:
        path.rename(path.with_name(path.name.replace("space-custom", space)))
    for sidecar in bank.path.rglob("sub-*.json"):
        sidecar.write_text(sidecar.read_text().replace("space-custom", space))
    assert SampleBank(bank.path).replay("syn000002")["md"].data.std() > 0
    extended = fill(bank.path, sampler, LABELS[:3], filters=[])
    assert len(sampler.calls) == 3 and extended.verify() == []
    assert all(space in path.name for path in bank.path.rglob("*.nii"))


def test_what_filters_rejected_is_recorded_and_replaced(bank, tmp_path):
    rejected = pd.read_csv(bank.path / "rejected.tsv", sep="\t")
    assert len(rejected) >= 3
    assert rejected["reason"].str.match(r"a voxel of \d").all()
    assert not set(rejected["seed"]) & set(bank.table["seed"])
    assert all(s["md"].data.max() <= 8.6 for s in bank.subjects())
    free = fill(tmp_path / "free", filters=[])
    assert not (free.path / "rejected.tsv").exists()
    kept = ~bank.table["synthetic_id"].isin(rejected["sample"])
    assert bank.table["md_sha256"][kept].tolist() == free.table["md_sha256"][kept].tolist()


def test_a_filter_that_rejects_all_is_told_with_its_reason(tmp_path):
    sampler = FakeSampler()

    def never(subject):
        return "too dull" if subject["sex"] == "M" else None

    with pytest.raises(InputError, match=r"15 of 30 samples were rejected 32 times.*too dull"):
        fill(tmp_path, sampler, filters=[never])
    assert len(sampler.calls) == 15 + 15 * 32
    with pytest.raises(InputError, match="not finished"):
        SampleBank(tmp_path)


@dataclass(frozen=True)
class Judge:
    at_least: float
    record = {"datasets": ["clinic"], "subjects": ["abc"], "voxels": ["v"]}  # noqa: RUF012

    def __call__(self, subject):
        return None


def test_whom_a_filter_saw_travels_with_the_bank(tmp_path):
    judged = fill(tmp_path, filters=[Judge(0.6)])
    assert set(judged.record["subjects"]) == {"abc", *FakeSampler().record["subjects"]}
    assert judged.about["settings"]["filters"] == ["Judge(at_least=0.6)"]
    with pytest.raises(InputError, match=r"at_least=0\.6.*now .*at_least=0\.7"):
        fill(tmp_path, filters=[Judge(0.7)])


def test_the_leak_guard_names_whom_the_sampler_saw(bank):
    table = pd.DataFrame({"subject_id": ["02", "03"], "dataset": "study", "md_path": "x.nii"})
    bank.check_disjoint(Cohort(table))
    table.loc[1, "subject_id"] = "01"
    with pytest.raises(LeakageError, match="study sub-01"):
        bank.check_disjoint(Cohort(table))


def test_kill_and_resume_gives_the_same_bank(bank, tmp_path):
    folder = tmp_path / "bank"
    rng = np.random.default_rng(0)
    for turn in range(6):
        process = start(folder, delay=0.03)
        time.sleep(rng.uniform(0.05, 0.15))
        process.kill()
        process.join()
        if turn == 0:
            assert len(whole_images(folder)) < len(LABELS)
    done = {path.parent.parent.name for path in folder.glob("sub-*/dwi/*.json")}
    assert whole_images(folder)
    sampler = FakeSampler()
    resumed = fill(folder, sampler)
    assert resumed.digest() == bank.digest()
    assert resumed.verify() == []
    assert not list(folder.rglob("*.tmp"))
    old = resumed.table["participant_id"].isin(done)
    assert not set(sampler.calls) & set(resumed.table["seed"][old])


def test_processes_share_the_work_and_give_the_same_bank(bank, tmp_path):
    folder = tmp_path / "bank"
    helpers = [start(folder, delay=0.1) for _ in range(2)]
    while not list(folder.glob("sub-*")):
        time.sleep(0.01)
    sampler = FakeSampler(delay=0.1)
    shared = fill(folder, sampler)
    for helper in helpers:
        helper.join()
        assert helper.exitcode == 0
    assert shared.digest() == bank.digest()
    # Each of the groups of eight is made by one process, and they work side by side.
    assert len(set(sampler.calls) & set(bank.table["seed"])) <= 22


def test_what_a_killed_process_had_claimed_is_made_by_the_one_that_waits(bank, tmp_path):
    folder = tmp_path / "bank"
    stuck = start(folder, delay=60)
    while not (folder / "bank.json").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    waiting = start(folder, delay=0)
    while len(list(folder.glob("sub-*/dwi/*.json"))) < len(LABELS) - CLAIM:
        time.sleep(0.01)
    assert waiting.is_alive()
    stuck.kill()
    waiting.join()
    assert SampleBank(folder).digest() == bank.digest()


def test_a_longer_list_extends_the_bank(bank, tmp_path):
    short = fill(tmp_path, labels=LABELS[:11])
    sampler = FakeSampler()
    longer = fill(tmp_path, sampler)
    assert longer.digest() == bank.digest()
    assert not set(sampler.calls) & set(short.table["seed"])
    assert len(short) == 11
    with pytest.raises(InputError, match="begun for 30 samples, now 11"):
        fill(tmp_path, labels=LABELS[:11])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": FakeSampler("other")}, "weights w, now other"),
        ({"seed": 8}, "seed 7, now 8"),
        ({"steps": 5}, "steps 20, now 5"),
        ({"guidance": 2.0}, "guidance 1.0, now 2.0"),
        ({"filters": []}, "filters"),
        ({"labels": [{"sex": "M"}, *LABELS[1:]]}, "was made with"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(bank, changes, words):
    with pytest.raises(InputError, match=words):
        fill(bank.path, **changes)
    assert bank.verify() == []


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.doc").write_text("")
    with pytest.raises(InputError, match="holds other files"):
        fill(tmp_path)
    assert not (tmp_path / "bank.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": []}, "at least one"),
        ({"labels": [{"seed": 1}]}, "bank's own"),
        ({"seed": -1}, "negative"),
    ],
)
def test_what_cannot_be_filled_is_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        fill(tmp_path / "bank", **options)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"sex": "X"}, r"no sample has \{'sex': 'X'\}; the bank has .*sex F \(15\), M \(15\)"),
        ({"age": 20}, "age 50 to 79"),
        ({"age": "old"}, "age 'old' is no number"),
        ({"hand": "left"}, r"no label 'hand'; it has age"),
    ],
)
def test_labels_that_the_bank_lacks_are_told_with_those_it_has(bank, labels, words):
    with pytest.raises(InputError, match=words):
        bank.draw(labels, 0)


def test_broken_samples_are_named(tmp_path):
    broken = fill(tmp_path, labels=[{"sex": "F"}] * 3 + [{"sex": "M"}])
    path = image_of(broken, "syn000002")
    path.write_bytes(path.read_bytes()[:-4])
    image_of(broken, "syn000001").unlink()
    for name, word in (("syn000001", "no such file"), ("syn000002", "truncated")):
        with pytest.raises(InputError, match=rf"sample {name} is broken \({word}"):
            broken.replay(name)
    problems = "\n".join(broken.verify())
    assert "syn000001" in problems
    assert "syn000002" in problems
    assert "syn000003" not in problems
    with pytest.raises(InputError, match="sample syn000001 is broken"):
        broken.subjects()
    for name in ("syn000001", "syn000002"):  # as the message says: delete, and fill again
        for file in (tmp_path / f"sub-{name}").rglob("*.*"):
            file.unlink()
    mended = fill(tmp_path, labels=[{"sex": "F"}] * 3 + [{"sex": "M"}])
    assert mended.verify() == []
    assert mended.digest() == broken.digest()


def test_a_changed_voxel_is_found_by_verify_and_by_the_command(tmp_path, capsys):
    changed = fill(tmp_path, labels=LABELS[:2])
    assert main(["verify", str(tmp_path)]) == 0
    path = image_of(changed, "syn000002")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert main(["verify", str(tmp_path)]) == 2
    assert "syn000002" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "format 99, this version reads 1"),
        ({"sampler": {"class": "TiledMDSampler", "version": 0, "weights": "w"}}, "version 0 of"),
    ],
)
def test_banks_of_other_versions_are_refused(tmp_path, change, words):
    path = fill(tmp_path, labels=LABELS[:1]).path / "bank.json"
    files.write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(InputError, match=words):
        SampleBank(tmp_path)


def test_what_is_no_bank_or_empty_is_refused(tmp_path):
    with pytest.raises(InputError, match="no bank of samples"):
        SampleBank(tmp_path)
    empty = fill(tmp_path, labels=LABELS[:1])
    table = empty.path / "participants.tsv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="empty bank"):
        SampleBank(tmp_path)


def test_a_sample_that_is_not_there_is_told(bank):
    with pytest.raises(InputError, match="no sample 'syn9'; it has syn000001 to syn000030"):
        bank.replay("syn9")


def test_runs_of_bold_keep_time_and_task(tmp_path):
    labels = [{"task": "motor", "dir": "LR", "sex": "F"}, {"task": "wm", "dir": "RL", "sex": "M"}]
    bold = fill(tmp_path, FakeSampler(images=("bold",)), labels, filters=[])
    image = nib.load(image_of(bold, "syn000002"))
    assert image.shape == (*GRID.shape, 5)
    assert image.header.get_zooms()[3] == pytest.approx(0.72)
    assert bids.metadata(image_of(bold, "syn000002"))["RepetitionTime"] == 0.72
    drawn = bold.draw({"task": "wm"}, 0)
    assert drawn["bold"].shape == (5, *GRID.shape)
    assert (drawn["task"], drawn["dir"]) == ("wm", "RL")
    assert list(Cohort.from_bids(tmp_path).table["task"]) == ["motor", "wm"]


def test_several_images_of_a_subject_stay_together(tmp_path):
    pair = fill(tmp_path, FakeSampler(images=("fmri", "dmri")), LABELS[:2], filters=[])
    assert pair.images == ("fmri", "dmri")
    cohort = Cohort.from_bids(tmp_path)
    assert len(cohort) == 2
    real, drawn = cohort.subjects()[0], pair.replay("syn000001")
    assert set(real.keys()) == set(drawn.keys())
    assert real["task"] == drawn["task"] == "rest"
    for image in pair.images:
        assert torch.equal(drawn[image].data, pair.subjects()[0][image].data)
    next(pair.path.glob("sub-syn000001/func/*.json")).unlink()  # killed between two sidecars
    assert (
        fill(tmp_path, FakeSampler(images=("fmri", "dmri")), LABELS[:2], filters=[]).verify() == []
    )
    assert list(pair.path.glob("sub-syn000001/func/*.json"))


def test_it_travels_to_workers_as_its_path(bank):
    content = pickle.dumps(SampleBank(bank.path, tolerance=1.0))
    assert len(content) < 1000
    again = pickle.loads(content)
    assert (again.path, again.tolerance) == (bank.path, 1.0)
