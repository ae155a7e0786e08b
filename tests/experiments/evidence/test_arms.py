import json
from types import SimpleNamespace

import numpy as np
import pytest
from mixtures import make_bank

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.errors import InputError, LeakageError
from neuromix.classifiers.sex import SexClassifier
from neuromix.experiments.evidence.arms import ARMS, FILLINGS, check_arms
from neuromix.experiments.evidence.comparison import cells_of, run_cells
from neuromix.experiments.evidence.configs import Transfer
from neuromix.experiments.evidence.samples import (
    Material,
    gaussian_samples,
    keep_pictures,
    labels_like,
    needs,
    sampler_config,
)
from neuromix.experiments.frame.arms import check_disjoint, judge, runs_of
from neuromix.experiments.frame.run import Run


@pytest.fixture(scope="module")
def cohort(md_phantom):
    return Cohort.from_bids(md_phantom)


@pytest.fixture(scope="module")
def material(cohort, md_phantom, tmp_path_factory):
    bank = make_bank(tmp_path_factory.mktemp("bank") / "bank", md_phantom)
    real = cohort.subjects()
    samples = {"synthetic": bank.subjects(), "gaussian": bank.subjects()[::-1]}
    return Material(real[:6], real[6:9], real[9:], samples)


def test_training_sets_are_nested_and_hold_what_their_names_say(material):
    sets = {name: material.training_set(arm) for name, arm in ARMS.items()}
    sizes = {name: len(chosen) for name, chosen in sets.items()}
    assert sizes == {
        "real": 6, "classical": 6, "synthetic-0.5": 9, "synthetic-1": 12, "synthetic-2": 18,
        "synthetic-4": 30, "synthetic-only": 24, "synthetic-classical": 12, "gaussian": 12,
    }  # fmt: skip
    ids = {name: [id(s) for s in chosen] for name, chosen in sets.items()}
    assert ids["synthetic-2"][:12] == ids["synthetic-1"] == ids["synthetic-classical"]
    assert all(subject["synthetic"] for subject in sets["synthetic-only"])
    assert sets["gaussian"][6] is material.samples["gaussian"][0]
    moved = {name for name, arm in ARMS.items() if arm.augmentation != ARMS["real"].augmentation}
    assert moved == {"classical", "synthetic-classical"}
    assert ARMS["real"].augmentation == {"shift": 0, "flip": False}
    assert needs(["real", "synthetic-2", "gaussian"], 6) == {"synthetic": 12, "gaussian": 6}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["real", "magic"], "arms magic came; allowed are real, classical"),
        (["synthetic-1"], "real among them"),
        (["real", "real"], "at most once"),
    ],
)
def test_arms_that_cannot_be_are_refused(names, words):
    with pytest.raises(InputError, match=words):
        check_arms(names, ARMS)


def test_each_experiment_has_its_own_arms_and_reference():
    with pytest.raises(InputError, match="drop among them"):
        check_arms(["mask"], FILLINGS)


def test_samples_have_the_labels_of_real_subjects_in_equal_shares(cohort):
    space = LabelSpace.from_labels(cohort.table.to_dict("records"), ("sex", "diagnosis"))
    wanted = labels_like(cohort, space, 30, seed=0)
    assert wanted[:12] == labels_like(cohort, space, 12, seed=0)
    real = sorted((r["sex"], r["diagnosis"]) for r in cohort.table.to_dict("records"))
    for begin in (0, 12):
        made = sorted((r["sex"], r["diagnosis"]) for r in wanted[begin : begin + 12])
        assert made == real


def test_gaussian_samples_are_subjects_like_all_others(cohort, material):
    wanted = [{"sex": "F", "diagnosis": "AD", "age": 70.0}, {"sex": "M"}]
    affine = material.train[0]["md"].affine
    one, two = gaussian_samples(cohort, wanted, affine, seed=0)
    assert (one["sex"], one["diagnosis"], one["age"], one["synthetic"]) == ("F", "AD", 70.0, True)
    assert set(one) >= set(material.train[0])
    assert np.array_equal(one["md"].affine, affine)
    assert not np.array_equal(one["md"].numpy(), two["md"].numpy())
    again = gaussian_samples(cohort, wanted, affine, seed=0)[0]
    assert np.array_equal(one["md"].numpy(), again["md"].numpy())


def test_cells_are_done_once_and_read_again(material, tmp_path):
    calls = []

    def fit(cell, shared):
        calls.append((cell["arm"], cell["seed"]))
        classifier = SexClassifier(steps=2, seed=cell["seed"])
        train = shared.training_set(ARMS[cell["arm"]])
        return judge(classifier, train, shared.validation, shared.test)[1]

    where = {"setting": "s", "size": 6}
    for seeds in (1, 2, 2):
        with Run.open(tmp_path / "0001-toy", "toy", {}) as run:
            cells = cells_of(where, ["real", "synthetic-1"], seeds)
            run_cells(run, "toy", cells, lambda: material, fit)
    assert calls == [
        ("real", 0), ("synthetic-1", 0), ("real", 1), ("synthetic-1", 1),
    ]  # fmt: skip
    predictions, validation = runs_of(run, where, "synthetic-1", 2)
    assert len(predictions) == 2
    assert list(predictions[0].truth) == [s["sex"] for s in material.test]
    assert 0 <= validation <= 1
    lines = [json.loads(x) for x in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(x["arm"], x["real"], x["synthetic"]) for x in lines[:2]] == [
        ("real", 6, 0), ("synthetic-1", 6, 6),
    ]  # fmt: skip
    assert all(0 < x["waiting"] + x["loading"] < x["seconds"] for x in lines)
    with pytest.raises(InputError, match="is not done"):
        runs_of(run, where, "gaussian", 1)


def test_pictures_pair_like_with_like(material, tmp_path):
    keep_pictures(SimpleNamespace(folder=tmp_path), "site", material)
    content = np.load(tmp_path / "pictures" / "site.npz")
    assert content["real"].shape == content["synthetic"].shape
    real, made = (
        [title.split()[0] for title in content[name]] for name in ("titles", "synthetic titles")
    )
    assert real == made  # the sexes


def test_a_subject_on_both_sides_is_named(cohort):
    train = cohort.where(np.arange(12) < 6)
    test = cohort.where(np.arange(12) >= 6)
    check_disjoint([train], [test], voxels=True)
    renamed = Cohort(train.table.assign(subject_id=[f"x{k}" for k in range(6)], dataset="other"))
    check_disjoint([renamed], [train], voxels=False)
    with pytest.raises(LeakageError, match="under other names"):
        check_disjoint([renamed], [train], voxels=True)


def test_a_sampler_of_fewer_steps_still_looks_at_validation():
    config = Transfer(sampler="demo", sampler_steps=7, seed=3)
    training = sampler_config(config).training
    assert (training.steps, training.validate_every, training.seed) == (7, 7, 3)
    with pytest.raises(InputError, match="0 sampler steps"):
        Transfer(sampler_steps=0)
    with pytest.raises(InputError, match="allowed are demo"):
        Transfer(sampler="huge")
