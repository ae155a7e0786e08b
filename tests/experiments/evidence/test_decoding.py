from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.sampler import TaskFMRISampler
from neuromix.experiments.cli.main import main
from neuromix.experiments.evidence import decoding
from neuromix.experiments.evidence.arms import DECODERS
from neuromix.experiments.evidence.configs import PRESETS, Decoding
from neuromix.experiments.evidence.decoding import (
    classical_copies,
    divide,
    first_people,
    replacement,
    run,
)
from neuromix.experiments.frame.verdict import Endpoint

DEMO = PRESETS["decoding"]["demo"]
PARTS = ("pool", "validation", "ceiling", "test")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, run(DEMO, out)


def test_every_target_has_the_same_arms_and_judges(finished):
    groups = finished[1]["groups"]
    assert [g["key"] for g in groups] == [
        {"setting": "condition", "size": 4}, {"setting": "sex", "size": 4},
    ]  # fmt: skip
    for group in groups:
        assert list(group["scores"]) == ["real", "classical", "runs", "mean-response", "ceiling"]
        assert {s["auc"]["subjects"] for s in group["scores"].values()} == {4}
    assert groups[0]["classes"] == ["motor/lefthand", "motor/righthand"]
    assert groups[1]["classes"] == ["F", "M"]


def test_sampler_and_banks_come_from_the_training_people_alone(finished):
    folder = finished[0] / "0001-decoding"
    parts = divide(Cohort.from_bids(folder / "phantom").where(dir="LR"), DEMO)
    names = {part: set(getattr(parts, part).subject_keys) for part in PARTS}
    assert {part: len(people) for part, people in names.items()} == {
        "pool": 4, "validation": 2, "ceiling": 4, "test": 4,
    }  # fmt: skip
    assert sum(map(len, names.values())) == len(set().union(*names.values()))
    trained = {subject_hash(*person) for person in names["pool"]}
    sampler = TaskFMRISampler.from_pretrained(folder / "samplers" / "runs-4")
    assert set(sampler.record["subjects"]) == trained
    for kind in ("runs", "mean-response"):
        for unit in ("percent", "signal"):
            bank = SampleBank(folder / "banks" / f"{kind}-4-{unit}")
            assert set(bank.record["subjects"]) == trained
            assert len(bank) == 4 * 2
            counts = bank.table["condition"].value_counts()
            assert dict(counts) == {"motor/lefthand": 4, "motor/righthand": 4}
    signal = SampleBank(folder / "banks" / "runs-4-signal").subjects()[0]["bold"].data
    assert 0.8 < float(signal[signal > 0].mean()) < 1.2


def test_the_page_says_how_it_was_made(finished):
    text = (finished[0] / "0001-decoding" / "report.html").read_text()
    for words in (
        "Decoding: do synthetic task fMRI runs help?", "real + synthetic runs",
        "fitted to the training people of each size alone", "Mean response to motor/lefthand",
        "ceiling: many real subjects",
    ):  # fmt: skip
        assert words in text, words


def test_a_finished_run_does_nothing_again(finished, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a finished cell was done again")

    monkeypatch.setattr(decoding, "judge", refuse)
    assert run(DEMO, finished[0])["groups"] == finished[1]["groups"]


def test_arms_draw_from_their_bank(finished):
    banks = {
        name: finished[0] / "0001-decoding" / "banks" / f"{name}-4-percent"
        for name in ("runs", "mean-response")
    }
    drawn = {name: replacement(arm, "condition", banks) for name, arm in DECODERS.items()}
    assert drawn.pop("real") is drawn.pop("classical") is None
    assert {arm: (t.probability, t.match) for arm, t in drawn.items()} == {
        "runs": (0.5, ("condition",)), "runs-classical": (0.5, ("condition",)),
        "runs-only": (1.0, ("condition",)), "mean-response": (0.5, ("condition",)),
    }  # fmt: skip
    assert drawn["runs"].source.uri == str(banks["runs"])
    assert drawn["mean-response"].source.uri == str(banks["mean-response"])


def test_copies_are_the_response_changed_alike_in_all_frames():
    frame = np.zeros((12, 12, 12), np.float32)
    frame[4:9, 4:8, 4:9] = 1
    subjects = [
        tio.Subject(
            bold=tio.ScalarImage(tensor=np.stack([k * frame, 2 * k * frame])), condition=f"t/{k}"
        )
        for k in (1, 2, 3)
    ]
    made = classical_copies(subjects, 2, 0)
    assert [s["condition"] for s in made] == ["t/1", "t/1", "t/2", "t/2", "t/3", "t/3"]
    assert len({s["bold"].data.numpy().tobytes() for s in made}) == 6
    for subject in made:
        first, second = subject["bold"].data
        np.testing.assert_allclose(second, 2 * first, rtol=1e-4, atol=1e-5)
        assert first.shape == frame.shape
        assert not np.allclose(first, frame)
    again = classical_copies(subjects, 2, 0)
    assert all(np.array_equal(a["bold"].data, b["bold"].data)
               for a, b in zip(made, again, strict=True))  # fmt: skip


def people(count, sex):
    rows = [
        {"dataset": "d", "subject_id": f"{k:02d}", "sex": sex[k % len(sex)], "task": "t",
         "run": r, "bold_path": f"{k}{r}.nii"}
        for k in range(count) for r in "12"
    ]  # fmt: skip
    return Cohort(pd.DataFrame(rows))


def test_people_are_parted_whole_and_evenly_in_sex():
    config = Decoding(sizes=(2, 6), validation=4, test=2, data="own")
    parts = divide(people(24, "FM"), config)
    each = (parts.pool, parts.validation, parts.test)
    assert [len(rows.subject_keys) for rows in each] == [6, 4, 14]
    assert parts.ceiling is None
    for rows in each:
        assert (rows.table["subject_id"].value_counts() == 2).all()
    for count, sexes in ((2, "FM"), (6, "FFFMMM")):
        first = parts.pool.where(first_people(parts.pool, count, 0)).table
        assert sorted(first.drop_duplicates("subject_id")["sex"]) == list(sexes)
    other = divide(people(24, "FM"), Decoding(sizes=(6,), validation=4, data="own", seed=1)).pool
    assert not np.array_equal(other.table["subject_id"], parts.pool.table["subject_id"])


def test_too_few_people_and_one_sex_are_told():
    config = Decoding(sizes=(4,), validation=4, test=2, data="own")
    with pytest.raises(InputError, match=r"9 people of .* have such runs; 8 to train"):
        divide(people(9, "FM"), config)
    with pytest.raises(InputError, match=r"the pool part of .* of the classes of sex, only .F."):
        divide(people(20, "F"), config)
    assert divide(
        people(20, "F"), Decoding(targets=("condition",), sizes=(4,), validation=4, data="own")
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arms", "runs"], "real among them"),
        (["--arms", "real", "magic"], "allowed are real, classical, runs"),
        (["--targets", "age"], "allowed are condition, sex"),
        (["--sizes", "1"], "2 or more and once"),
        (["--frames", "0"], "1 frame or more"),
        (["--seeds", "0"], "1 or more"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, words):
    assert main(["experiment", "decoding", str(tmp_path), "--preset", "demo", *options]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("neuromix: ")
    assert words in line
    assert not list(tmp_path.iterdir())


def test_the_committed_endpoint_fits_the_default_run():
    path = Path(decoding.__file__).parent / "endpoints" / "decoding.json"
    endpoint = Endpoint.read(path, "decoding", 1000)
    default = PRESETS["decoding"]["tiny"]
    endpoint.require(default.keys, default.arms)
    assert endpoint.fits(default.keys[0])
    with pytest.raises(InputError, match="for the phantom seeds"):
        Endpoint.read(path, "decoding", 0)
    with pytest.raises(InputError, match="needs the arm runs"):
        endpoint.require(default.keys, ["real", "mean-response"])


def test_a_dry_run_makes_nothing(tmp_path, capsys):
    options = ["--preset", "demo", "--dry-run"]
    assert main(["experiment", "decoding", str(tmp_path), *options]) == 0
    assert "20 fits" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
