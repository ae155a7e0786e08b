"""A red team: ways in which a test person gets a part in what is evaluated on them.

Each is refused, with the person named. What can't be seen is listed in docs/evidence.md.
"""

import copy
import pickle
import shutil
import warnings
from functools import partial

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import torchio as tio
from mixtures import Doubler

from neuromix.augment import (
    Cohort,
    CompleteModality,
    FillMissing,
    GeneratorKFold,
    RandomSynthetic,
    SampleBank,
    mix,
)
from neuromix.augment.bank import quotas
from neuromix.augment.bank.filters import NearCopy
from neuromix.augment.data import origin
from neuromix.augment.data.cohort import COLUMNS, Split
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.leakage import provenance, voxel_hash, voxel_hashes
from neuromix.augment.diffusion.fitting import apart
from neuromix.augment.errors import InputError, LeakageError
from neuromix.augment.phantom import make_phantom
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.dementia import DementiaClassifier
from neuromix.classifiers.evaluate import cross_validate_subjects, predict
from neuromix.classifiers.sex import SexClassifier

QUICK = {"steps": 1, "batch_size": 2, "seed": 0}


@pytest.fixture(scope="module")
def parts(md_phantom):
    """Six people to train on, three to choose, three to test."""
    return Cohort.from_bids(md_phantom).split((0.5, 0.25, 0.25), stratify=("sex",), seed=1)


@pytest.fixture(scope="module")
def tested(parts):
    """A person of the test part."""
    return parts.test.table.to_dict("records")[0]


class Copier:
    """A sampler of the people that it was fitted on, which are told by its record."""

    version = 1

    def __init__(self, cohort):
        self.subjects = cohort.subjects()
        self.record = provenance([cohort], voxel_hashes(cohort))

    def fingerprint(self):
        return str(len(self.subjects))

    def __call__(self, labels, seeds, steps, guidance):
        return [self.make(row, seed) for row, seed in zip(labels, seeds, strict=True)]

    def make(self, labels, seed):
        image = self.subjects[seed % len(self.subjects)]["md"]
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed % 2**31))
        md = tio.ScalarImage(tensor=image.data + noise, affine=image.affine)
        keys = dict.fromkeys(COLUMNS, "") | {"age": float("nan")} | labels
        return tio.Subject(md=md, **keys, synthetic=True, synthetic_id=str(seed))


def bank_of(folder, cohort, labels=None, **options):
    labels = labels or [{"sex": "FM"[k % 2]} for k in range(4)]
    return SampleBank.fill(folder, Copier(cohort), labels, seed=0, **options)


@pytest.fixture(scope="module")
def clean(parts, tmp_path_factory):
    """A bank of the training part alone."""
    return bank_of(tmp_path_factory.mktemp("leaks") / "clean", parts.train)


@pytest.fixture(scope="module")
def tainted(parts, tmp_path_factory):
    """A bank whose sampler has seen the test people."""
    return bank_of(tmp_path_factory.mktemp("leaks") / "tainted", parts.test)


@pytest.fixture(scope="module")
def completer(tainted, tmp_path_factory):
    """A completer that was fitted on the test people."""
    completer = Doubler(tmp_path_factory.mktemp("leaks") / "completer")
    completer.record = tainted.record
    return completer


def refuses(classifier, parts, person=None):
    """Whether the test part is refused, and the person named."""
    person = person or parts.test.subject_keys[0]
    with pytest.raises(LeakageError) as caught:
        predict(classifier, parts.test)
    assert person in caught.value.subjects and person[1] in str(caught.value)


def person_of(row):
    return row["dataset"], row["subject_id"]


def fitted(subjects, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody is untraced
        return SexClassifier(**QUICK | options).fit(subjects)


def renamed(cohort, row, **changes):
    """The cohort with a row under other names."""
    return Cohort(pd.concat([cohort.table, pd.DataFrame([{**row, **changes}])], ignore_index=True))


# People under their own names, or others


def test_an_honest_split_passes(parts, clean):
    subjects = mix(parts.train.subjects(), clean, 1.0, match="sex").subjects()
    said = predict(fitted(subjects), parts.test)
    assert len(said.subjects) == len(parts.test)


def test_1_a_test_person_in_training(parts, tested):
    refuses(fitted(renamed(parts.train, tested, session_id="again").subjects()), parts)


def test_2_a_renamed_file(parts, tested, tmp_path):
    path = shutil.copy(tested["md_path"], tmp_path / "other.nii.gz")
    new = {"dataset": "clinic", "subject_id": "p9", "md_path": str(path)}
    refuses(fitted(renamed(parts.train, tested, **new).subjects()), parts)


def test_3_a_renamed_file_behind_a_transform(parts, tested):
    new = {"dataset": "clinic", "subject_id": "p9"}
    dataset = renamed(parts.train, tested, **new).dataset(tio.RandomFlip(flip_probability=1))
    refuses(fitted([dataset[k] for k in range(len(dataset))]), parts)


def test_4_another_visit_in_another_table(parts, tested, tmp_path):
    def save(name, rows):
        table = pd.DataFrame(rows)[["subject_id", "sex", "md_path"]]
        table.to_csv(tmp_path / name, sep="\t", index=False)
        return tmp_path / name

    train = save("train.tsv", [{**parts.train.table.iloc[k]} for k in range(4)])
    test = save("test.tsv", [{**parts.train.table.iloc[5], "subject_id": train_name(parts)}])
    classifier = fitted(Cohort.load(train).subjects())
    with pytest.raises(InputError, match=r"names no dataset.*add a column `dataset`"):
        predict(classifier, Cohort.load(test))
    classifier = fitted(Cohort.load(train, dataset="study").subjects())
    with pytest.raises(LeakageError, match=f"study sub-{train_name(parts)}"):
        predict(classifier, Cohort.load(test, dataset="study"))
    (tmp_path / "dataset_description.json").write_text('{"Name": "study"}')
    with pytest.raises(LeakageError, match=f"study sub-{train_name(parts)}"):
        predict(classifier, Cohort.load(test))


def train_name(parts):
    return parts.train.subject_keys[0][1]


def test_5_a_phantom_of_the_same_seed_under_another_name(md_phantom, parts, tmp_path):
    other = make_phantom(tmp_path / "other", "md", subjects=2, seed=3, spacing=8.0)
    description = other / "dataset_description.json"
    description.write_text(description.read_text().replace('"Name": "', '"Name": "new '))
    seen = Cohort.from_bids(other)
    assert seen.subject_keys[0][0] not in {d for d, _ in parts.test.subject_keys}
    whole = Cohort.from_bids(md_phantom)
    with pytest.raises(LeakageError, match="by their images, under other names") as caught:
        bank_of(tmp_path / "bank", seen).check_disjoint(whole)
    assert len(caught.value.subjects) == 2


# People who are synthetic in part


def test_6_an_imputed_image(parts, tested, tmp_path):
    """The person stays who they are, whatever was filled in."""
    folder = tmp_path / "imputed"
    image = folder / "sub-x" / "sub-x_desc-imputed_bold.nii"
    image.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), "f4"), np.eye(4)), image)
    (folder / "completion.json").write_text('{"provenance": {"subjects": ["s"], "voxels": []}}')
    table = renamed(parts.train, tested).table.assign(fmri_path="")
    table.loc[len(table) - 1, "fmri_path"] = str(image)
    subjects = Cohort(table).subjects()
    assert subjects[-1]["synthetic"] and origin.person_of(subjects[-1]) == person_of(tested)
    classifier = fitted(subjects)
    assert "s" in classifier.record_["subjects"]  # whoever made the completer
    refuses(classifier, parts)


def test_7_a_mixup(parts, tested, clean):
    """Both parents count: the real one by name and by voxels, the sample by its makers."""
    transform = RandomSynthetic(clean, match="sex", p=1, mode="mixup")
    subjects = [transform(s) for s in renamed(parts.train, tested).subjects()]
    refuses(fitted(subjects), parts)
    for subject in subjects:
        subject["subject_id"] = "p" + subject["subject_id"]
    refuses(fitted(subjects), parts)


def test_8_a_completer_in_nested_transforms(parts, completer):
    fill = CompleteModality(completer, have="md", want="fa")
    nested = tio.Compose([tio.OneOf([tio.Compose([fill])]), tio.RandomFlip()])
    for subjects in (parts.train.dataset(nested), parts.train.subjects()):
        classifier = fitted(subjects, augment=nested if isinstance(subjects, list) else None)
        refuses(classifier, parts)


def test_9_test_images_that_were_filled_in_by_who_knows_them(parts, completer):
    honest = fitted(parts.train.subjects())
    fill = CompleteModality(completer, have="md", want="fa")
    with pytest.raises(LeakageError, match=parts.test.subject_keys[0][1]):
        predict(honest, [fill(subject) for subject in parts.test.subjects()])


def test_10_synthetic_people_do_not_judge(parts, clean):
    with pytest.raises(InputError, match="4 of 4 test subjects are synthetic"):
        predict(fitted(parts.train.subjects()), clean.subjects())


# Sources


def test_11_a_bank_in_nested_transforms_with_workers(parts, tainted):
    draw = RandomSynthetic(tainted, match="sex", p=1)
    for augment in (
        tio.Compose([tio.OneOf([draw])]),
        tio.OneOf({tio.Compose([draw]): 1}),
        partial(apply, draw),
    ):
        refuses(fitted(parts.train.subjects(), augment=augment), parts)
    refuses(fitted(parts.train.subjects(), augment=partial(apply, draw), workers=1), parts)


def apply(transform, subject):
    return transform(subject)


@pytest.mark.parametrize("way", ["list", "pickle", "subset", "loader", "resampler", "bank"])
def test_12_a_list_made_from_a_mix(way, parts, tainted):
    mixed = mix(parts.train.subjects(), tainted, 1.0, match="sex")
    if way == "list":
        subjects = mixed.subjects()
    elif way == "pickle":
        subjects = pickle.loads(pickle.dumps(mixed))
    elif way == "subset":
        subjects = torch.utils.data.Subset(mixed, range(2, len(mixed)))
    elif way == "loader":
        subjects = unbatched(tio.SubjectsLoader(mixed, batch_size=4))
    elif way == "resampler":
        subjects = [*parts.train.subjects(), *copy.deepcopy(tainted.subjects())]
    else:
        subjects = [*parts.train.subjects(), *Cohort.from_bids(tainted.path).subjects()]
    refuses(fitted(subjects), parts)


def unbatched(loader):
    """Subjects of the batches of a loader, whose history is lost."""
    subjects = []
    for batch in loader:
        for k in range(len(batch["sex"])):
            keys = {name: batch[name][k] for name in batch if name != "md"}
            image = tio.ScalarImage(tensor=batch["md"]["data"][k], affine=batch["md"]["affine"][k])
            keys |= {"synthetic": bool(keys["synthetic"]), "age": float(keys["age"])}
            subjects.append(tio.Subject(md=image, **keys))
    return subjects


def test_13_a_bank_of_a_bank(parts, tainted, tmp_path):
    again = Cohort.from_bids(tainted.path)
    second = bank_of(tmp_path / "second", again)
    with pytest.raises(LeakageError, match=parts.test.subject_keys[0][1]):
        second.check_disjoint(parts.test)


def test_14_a_filter_that_knows_them(parts, tmp_path):
    bank = bank_of(tmp_path / "bank", parts.train, filters=[NearCopy(parts.test)])
    with pytest.raises(LeakageError, match=parts.test.subject_keys[0][1]):
        bank.check_disjoint(parts.test)


@pytest.mark.parametrize("quota", ["like", "balance", "deconfound"])
def test_15_a_quota_table(quota, parts, tmp_path):
    space = LabelSpace({"sex": ("F", "M"), "diagnosis": ("AD", "MCI", "NC")}, {"age": (18, 90)})
    everyone = Cohort(pd.concat([part.table for part in parts]))
    wanted = {
        "like": lambda: quotas.like(everyone, space, 4, 0),
        "balance": lambda: quotas.balance(everyone, space, ("sex",), 4),
        "deconfound": lambda: quotas.deconfound(everyone, space, "sex", ("diagnosis",), 4),
    }[quota]()
    bank = bank_of(tmp_path / "bank", parts.train, wanted)
    with pytest.raises(LeakageError, match=parts.test.subject_keys[0][1]):
        bank.check_disjoint(parts.test)
    clean = bank_of(tmp_path / "clean", parts.train, [dict(row) for row in wanted[:2]])
    clean.check_disjoint(parts.test)
    grown = bank_of(tmp_path / "clean", parts.train, wanted)  # went on with a quota of theirs
    with pytest.raises(LeakageError):
        grown.check_disjoint(parts.test)


def test_16_an_autoencoder_or_network_of_another_sampler(parts, tainted, tmp_path):
    part = tmp_path / "sampler" / "codec"
    part.mkdir(parents=True)
    shutil.copy(tainted.path / "bank.json", tmp_path / "sampler" / "model_index.json")
    (record,) = origin.records_of(str(part), "facebook/DiT-XL-2-256", None)
    assert record == tainted.record


def test_17_a_pretrained_classifier(parts, tmp_path):
    pretrained = SexClassifier(**QUICK).fit(parts.test.subjects())
    pretrained.save(tmp_path)
    again = SexClassifier.load(tmp_path)
    classifier = DementiaClassifier.from_classifier(again, freeze=True)
    refuses(classifier.fit(two_classes(parts.train.subjects())), parts)


def two_classes(subjects):
    for k, subject in enumerate(subjects):
        subject["diagnosis"] = ("NC", "AD")[k % 2]
    return subjects


# Choosing


def test_18_validation_that_chooses_a_step(parts):
    classifier = SexClassifier(**QUICK, check_every=1)
    refuses(classifier.fit(parts.train.subjects(), validation=parts.test.subjects()), parts)
    with pytest.raises(InputError, match="validation subjects are trained on, such as"):
        classifier.fit(parts.train.subjects(), validation=parts.train.subjects())
    unknown = parts.train.subjects()
    for subject in unknown:
        subject["subject_id"] = "p" + subject["subject_id"]
    with pytest.raises(InputError, match="are trained on, under other names"):
        classifier.fit(parts.train.subjects(), validation=unknown)


def test_19_validation_of_a_sampler_among_its_training_people(parts):
    assert apart(parts.train, parts.val) == [parts.train, parts.val]
    with pytest.raises(LeakageError, match=f"in training and in validation.*{train_name(parts)}"):
        apart(parts.train, parts.train)


def test_20_cross_validation(parts, tainted, md_phantom):
    cohort = Cohort.from_bids(md_phantom)
    with pytest.raises(LeakageError, match=r"sub-"):
        list(GeneratorKFold(lambda train, fold: tainted, n_splits=2).split(cohort))
    folds = GeneratorKFold(n_splits=2, shared=tainted).split(cohort)
    assert all(fold.optimistic for fold in folds)
    visits = pd.concat([cohort.table.assign(session_id=name) for name in "ab"])
    said = cross_validate_subjects(SexClassifier(**QUICK), Cohort(visits), folds=2)
    assert not set(said[0].subjects) & set(said[1].subjects)  # both visits of a person together


def test_21_a_split_with_a_person_in_two_parts(parts, tested, tmp_path):
    Split(renamed(parts.train, tested), parts.val, parts.test).save(tmp_path)
    with pytest.raises(LeakageError, match=f"train.tsv and in test.tsv.*{tested['subject_id']}"):
        Split.load(tmp_path)


# What is not known is said


def test_a_synthetic_subject_of_nowhere_is_warned_of(parts, clean):
    subjects = mix(parts.train.subjects(), clean, 1.0, match="sex").subjects()
    for subject in subjects:
        subject["origin"] = subject["origin"] and "gone"
    with pytest.warns(UserWarning, match="had a part in gone is not known"):
        classifier = SexClassifier(**QUICK).fit(subjects)
    with pytest.warns(UserWarning, match="gone is not known"):
        predict(classifier, parts.test)


def test_a_placeholder_makes_nobody_synthetic(parts):
    fill = FillMissing({"md": list(parts.train.subjects()[0]["md"].shape), "fa": [1, 8, 8, 8]})
    classifier = VolumeClassifier("sex", image=("md", "fa"), **QUICK)
    with pytest.raises(InputError, match="no subject has the image 'fa'"):
        classifier.fit([fill(s) for s in parts.train.subjects()])
    classifier = VolumeClassifier("sex", **QUICK).fit([fill(s) for s in parts.train.subjects()])
    assert len(classifier.record_["subjects"]) == len(parts.train.subject_keys)
    voxels = {voxel_hash(s["md"].data.numpy()) for s in parts.train.subjects()}
    assert set(classifier.record_["voxels"]) == voxels
