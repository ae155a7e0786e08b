import collections
import pickle
import warnings

import numpy as np
import pytest
import torch
import torchio as tio
from mixtures import make_bank
from sklearn.base import clone

from neuromix.augment import Cohort, SyntheticSampler, mix
from neuromix.augment.errors import InputError
from neuromix.classifiers.base import VolumeClassifier


@pytest.fixture(scope="module")
def bank(md_phantom, tmp_path_factory):
    return make_bank(tmp_path_factory.mktemp("mixing") / "bank", md_phantom)


@pytest.fixture
def subjects(md_phantom):
    return Cohort.from_bids(md_phantom).subjects()


def ids(items):
    return [item["synthetic_id"] for item in items]


def count(items, *names):
    return collections.Counter(tuple(item[name] for name in names) for item in items)


# What a mix holds


@pytest.mark.parametrize(("ratio", "samples"), [(0.5, 6), (1.0, 12), (2.0, 24)])
def test_add_puts_samples_beside_the_subjects(bank, subjects, ratio, samples):
    mixed = mix(subjects, bank, ratio)
    items = list(mixed)
    assert len(mixed) == len(items) == 12 + samples
    assert [item["synthetic"] for item in items] == [False] * 12 + [True] * samples
    assert [item["subject_id"] for item in items[:12]] == [s["subject_id"] for s in subjects]
    assert all(list(item) == list(subjects[0]) for item in items)
    for item in items[12:]:
        assert torch.equal(item["md"].data, bank.replay(item["synthetic_id"])["md"].data)


def test_samples_follow_the_joint_distribution_of_labels(bank, subjects):
    real = count(subjects, "sex", "diagnosis")
    samples = count(list(mix(subjects, bank, 2.0))[12:], "sex", "diagnosis")
    assert samples == {labels: 2 * number for labels, number in real.items()}


def test_replace_reads_no_file_of_a_subject_that_it_replaces(bank, subjects, tmp_path):
    for k, subject in enumerate(subjects):
        path = tmp_path / f"{k}.nii"
        subject["md"].save(path)
        subject["md"] = tio.ScalarImage(path)
        subject.update_attributes()
    mixed = mix(subjects, bank, 0.5, mode="replace")
    is_real = mixed.plan(0).is_real
    assert len(mixed) == 12 and is_real.sum() == 6
    for k in np.flatnonzero(~is_real):
        subjects[k]["md"].path.unlink()
    items = list(mixed)
    assert [not item["synthetic"] for item in items] == is_real.tolist()
    assert count(items, "sex", "diagnosis") == count(subjects, "sex", "diagnosis")
    assert mixed.plan(0).is_real.tolist() != mixed.plan(1).is_real.tolist()
    for subject in subjects:
        subject["md"].path.unlink(missing_ok=True)
    assert all(item["synthetic"] for item in mix(subjects, bank, 1.0, mode="replace"))


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_balance_makes_classes_equal(bank, subjects, ratio):
    few = [s for s in subjects if s["diagnosis"] == "NC"] + [
        next(s for s in subjects if s["diagnosis"] == d) for d in ("MCI", "AD")
    ]
    mixed = mix(few, bank, ratio, balance="diagnosis")
    numbers = count(list(mixed), "diagnosis")
    assert set(numbers.values()) == {max(4, round((1 + ratio) * 6 / 3))}


def test_classes_that_cannot_be_equal_differ_by_one(bank, subjects):
    numbers = count(list(mix(subjects, bank, 1 / 12, balance=("sex",))), "sex")
    total = sum(numbers.values())
    assert max(numbers.values()) - min(numbers.values()) == total % 2


def test_subjects_without_the_label_stay_and_are_no_model(bank, subjects):
    for subject in subjects[:6]:
        subject["diagnosis"] = ""
    items = list(mix(subjects, bank, 1.0))
    assert [item["diagnosis"] for item in items[:6]] == [""] * 6
    assert all(item["diagnosis"] for item in items[12:])
    assert count(items[12:], "sex", "diagnosis") == {
        k: 2 * v for k, v in count(subjects[6:], "sex", "diagnosis").items()
    }


def test_match_may_be_wider_or_narrower(bank, subjects):
    subjects = [s for s in subjects if 50 <= s["age"] <= 96]
    mixed = mix(subjects, bank, 1.0, match=("age",))
    behind = mixed.dry_iter()
    assert all(abs(mixed[k]["age"] - behind[k]["age"]) <= bank.tolerance for k in range(len(mixed)))
    assert mix(subjects, bank).match == ("sex", "diagnosis")


# Epochs, seeds, workers


def test_subjects_of_ones_own_get_the_marks(bank, subjects):
    own = [tio.Subject(md=subject["md"], sex=subject["sex"], weight=70) for subject in subjects]
    batch = next(iter(tio.SubjectsLoader(mix(own, bank), batch_size=24, shuffle=True)))
    assert set(batch) == {"md", "sex", "weight", "synthetic", "synthetic_id", "origin"}
    assert batch["weight"].isnan().tolist() == batch["synthetic"].tolist()


def test_a_schedule_holds_a_ratio_per_epoch(bank, subjects):
    mixed = mix(subjects, bank, ratio=(0, 0.5, 1))
    sizes = []
    for epoch in range(5):
        mixed.set_epoch(epoch)
        sizes.append((len(mixed), len(list(mixed))))
    assert sizes == [(12, 12), (18, 18), (24, 24), (24, 24), (24, 24)]


def test_epochs_and_seeds_draw_other_samples_and_come_back(bank, subjects):
    mixed = mix(subjects, bank, seed=3)
    first = ids(mixed)
    mixed.set_epoch(1)
    second = ids(mixed)
    mixed.set_epoch(0)
    assert first == ids(mixed) == ids(mix(subjects, bank, seed=3))
    assert first != second and first != ids(mix(subjects, bank, seed=4))
    replaced = mix(subjects, bank, mode="replace")  # the same subjects in each epoch
    third = ids(replaced)
    replaced.set_epoch(1)
    assert third != ids(replaced)


@pytest.mark.parametrize(("workers", "start"), [(1, "spawn"), (4, "fork")])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_gives_the_same_and_sees_the_epoch(bank, subjects, workers, start):
    noisy = tio.Compose([tio.RandomNoise(), tio.RandomFlip((0, 1, 2))])
    mixed = mix(subjects, bank, (0.5, 1.0), transform=noisy)
    loader = tio.SubjectsLoader(
        mixed,
        batch_size=5,
        num_workers=workers,
        multiprocessing_context=start,
        persistent_workers=True,
    )
    torch.manual_seed(workers)
    for epoch in (0, 1):
        mixed.set_epoch(epoch)
        expected = list(mixed)
        batches = list(loader)
        assert [i for batch in batches for i in batch["synthetic_id"]] == ids(expected)
        voxels = torch.cat([batch["md"][tio.DATA] for batch in batches])
        assert torch.equal(voxels, torch.stack([item["md"].data for item in expected]))


def test_the_state_of_the_global_generator_stays(bank, subjects):
    mixed = mix(subjects, bank, transform=tio.RandomNoise())
    before = torch.get_rng_state()
    mixed[0]
    assert torch.equal(before, torch.get_rng_state())


def test_indices_have_the_manners_of_a_list(bank, subjects):
    mixed = mix(subjects, bank)
    assert ids([mixed[-1]]) == ids([mixed[len(mixed) - 1]])
    with pytest.raises(IndexError):
        mixed[len(mixed)]
    assert ids(pickle.loads(pickle.dumps(mixed))) == ids(mixed)


def test_queue(bank, subjects):
    queue = tio.Queue(mix(subjects, bank), 8, 1, tio.UniformSampler(8), num_workers=0)
    patches = [queue[k] for k in range(len(queue))]
    assert sum(patch["synthetic"] for patch in patches) == 12


def test_samples_on_another_grid_come_to_that_of_the_subjects(bank, subjects):
    coarse = [tio.Resample(12)(subject) for subject in subjects]
    with pytest.warns(UserWarning, match="neuromix prepare"):
        shapes = {item["md"].shape for item in mix(coarse, bank)}
    assert shapes == {coarse[0]["md"].shape}


# Classifiers


def test_a_classifier_is_fitted_on_a_mix(bank, subjects):
    mixed = mix(subjects, bank)
    classifier = VolumeClassifier("sex", steps=2, batch_size=4).fit(mixed.subjects())
    again = VolumeClassifier("sex", steps=2, batch_size=4).fit(mixed)
    assert np.allclose(classifier.predict_proba(subjects), again.predict_proba(subjects))


def test_fit_resample_adds_subjects_and_their_labels(bank, subjects):
    y = np.array([subject["sex"] for subject in subjects])
    sampler = clone(SyntheticSampler(bank, 1.5, balance="diagnosis", match="sex"))
    more, labels = sampler.fit_resample(subjects, y)
    assert more[:12] == subjects and len(more) == len(labels) == 30
    assert [item["sex"] for item in more] == labels.tolist()
    assert set(count(more, "diagnosis").values()) == {10}
    assert sampler.fit_resample(subjects)[1] is None
    assert sampler.fit_resample(subjects, y.tolist())[1] == labels.tolist()


def test_fit_resample_refuses_labels_that_match_does_not_determine(bank, subjects):
    y = [subject["diagnosis"] for subject in subjects]
    with pytest.raises(InputError, match="add the label that y is made from to match"):
        SyntheticSampler(bank, match="sex").fit_resample(subjects, y)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": -1}, "0 or more"),
        ({"ratio": float("nan")}, "0 or more"),
        ({"ratio": 1.5, "mode": "replace"}, "0 to 1"),
        ({"mode": "swap"}, "add, replace"),
        ({"mode": "replace", "balance": "sex"}, "mode='add'"),
        ({"match": "hand"}, "age, sex, diagnosis"),
        ({"balance": "hand"}, "age, sex, diagnosis"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(bank, subjects, options, message):
    with pytest.raises(InputError, match=message):
        mix(subjects, bank, **options)


def test_labels_that_the_bank_lacks_are_told_before_the_first_epoch(bank, subjects, md_phantom):
    subjects[3]["sex"] = "X"
    with pytest.raises(InputError, match=r"F.*M"):
        mix(subjects, bank)
    with pytest.raises(InputError, match="no subjects"):
        mix([], bank)
    with pytest.raises(InputError, match=r"cohort\.subjects\(\)"):
        mix(Cohort.from_bids(md_phantom), bank)
    for subject in subjects:
        subject["sex"] = ""
    with pytest.raises(InputError, match="no subject has all of sex"):
        mix(subjects, bank, match="sex")
    with pytest.raises(InputError, match="counted from 0"):
        mix(subjects, bank, match="diagnosis").set_epoch(-1)


def test_a_mix_that_changes_nothing_warns(bank, subjects):
    for ratio in (0, 0.01, (0, 0)):
        with pytest.warns(UserWarning, match="changes nothing"):
            mix(subjects, bank, ratio)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mix(subjects, bank, (0, 1))
