import pickle
import warnings

import numpy as np
import pytest
import torch
import torchio as tio
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_validate
from volumes import subjects

from neuromix.augment import Cohort, RandomSynthetic, mix
from neuromix.augment.data.leakage import subject_hash
from neuromix.augment.diffusion.precision import has_bf16
from neuromix.augment.errors import InputError, LeakageError, TrainingError
from neuromix.classifiers import training
from neuromix.classifiers.base import VolumeClassifier
from neuromix.classifiers.evaluate import learning_curve, predict

QUICK = {"steps": 30, "batch_size": 8, "shift": 0}


@pytest.fixture(scope="module")
def fitted():
    return VolumeClassifier("sex", **QUICK).fit(subjects(16))


def test_it_learns_and_scores_unseen_subjects(fitted):
    fresh = subjects(20, seed=1)
    assert fitted.score(fresh) >= 0.9
    assert list(fitted.classes_) == ["F", "M"]
    np.testing.assert_allclose(fitted.predict_proba(fresh).sum(1), 1, atol=1e-5)


def test_clone_pickle_and_seed(fitted):
    fresh = subjects(6, seed=2)
    expected = fitted.predict_proba(fresh)
    reloaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(reloaded.predict_proba(fresh), expected)
    again = clone(fitted).fit(subjects(16))
    np.testing.assert_array_equal(again.predict_proba(fresh), expected)
    other = clone(fitted).set_params(seed=1).fit(subjects(16))
    assert not np.allclose(other.predict_proba(fresh), expected)


def test_probabilities_of_a_subject_do_not_depend_on_the_others(fitted):
    fresh = subjects(19, seed=2)
    alone = np.concatenate([fitted.predict_proba([subject]) for subject in fresh])
    np.testing.assert_allclose(fitted.predict_proba(fresh), alone, atol=1e-5)


def test_subjects_without_the_label_are_left_out_and_counted():
    some = subjects(12) + subjects(4, seed=3, sex="")
    with pytest.warns(UserWarning, match="4 of 16 training subjects have no label sex"):
        classifier = VolumeClassifier("sex", steps=2, batch_size=4).fit(some)
    assert list(classifier.classes_) == ["F", "M"]
    assert classifier.score(some) == classifier.score(some[:12])


def test_one_class_is_refused():
    with pytest.raises(InputError, match="needs two"):
        VolumeClassifier("sex", steps=1).fit(subjects(4, sex="F"))


def test_mixed_shapes_are_refused():
    mixed = subjects(2) + subjects(2, shape=(16, 16, 24))
    with pytest.raises(InputError, match="neuromix prepare"):
        VolumeClassifier("sex", steps=1).fit(mixed)


def test_fitting_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    VolumeClassifier("sex", steps=1, batch_size=4).fit(subjects(4))
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_classified_is_refused(fitted):
    few = subjects(4)
    for change, message in (
        ({"target": "smoker"}, "no 'smoker'; they have"),
        ({"image": "t1w"}, r"no image 't1w'; it has \['md'\]"),
        ({"image": ()}, "name one image"),
        ({"network": "vgg"}, "allowed are compact, sfcn"),
        ({"frames": "first"}, "allowed are all, summary"),
        ({"frames": "summary"}, "1 frame; a summary needs two"),
        ({"monitor": "auc"}, "allowed are"),
        ({"class_weight": {"F": 1}}, "a weight for each of F, M"),
        ({"steps": 0}, "1 or more"),
        ({"patience": -1}, "patience 1 or more"),
        ({"precision": "float16"}, "allowed are float32, bfloat16"),
        ({"device": "tpu"}, "allowed on this machine"),
    ):
        with pytest.raises(InputError, match=message):
            VolumeClassifier(**{"steps": 1} | change).fit(few)
    with pytest.raises(InputError, match="no subjects came"):
        fitted.predict([])
    with pytest.raises(InputError, match="no training subjects came"):
        VolumeClassifier().fit([])
    with pytest.raises(InputError, match="3 labels came for 4"):
        VolumeClassifier().fit(few, ["a", "b", "a"])
    with pytest.raises(InputError, match="4 validation subjects are trained on, such as 000"):
        VolumeClassifier("sex", steps=1).fit(few, validation=few)
    with pytest.raises(InputError, match="validation subjects have sex 'X'"):
        VolumeClassifier("sex", steps=1).fit(few, validation=subjects(2, seed=1, sex="X"))
    with pytest.raises(InputError, match="was trained on"):
        fitted.predict(subjects(2, shape=(24, 24, 24)))
    with pytest.raises(InputError, match="age is a number"):
        VolumeClassifier("age", steps=1).fit(subjects(4, age=70.0))
    with pytest.raises(NotFittedError):
        VolumeClassifier().predict(few)


def test_a_cohort_is_not_a_list_of_subjects(md_phantom):
    with pytest.raises(InputError, match=r"cohort\.subjects\(\)"):
        VolumeClassifier().fit(Cohort.from_bids(md_phantom))
    loader = tio.SubjectsLoader(Cohort.from_bids(md_phantom).dataset())
    with pytest.raises(InputError, match=r"loader\.dataset"):
        VolumeClassifier().fit(loader)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_with_nan_are_refused(value):
    broken = subjects(4)
    broken[1]["md"].data[0, 3, 3, 3] = value
    with pytest.raises(InputError, match="NaN or Inf"):
        VolumeClassifier("sex", steps=1, batch_size=4).fit(broken)


def test_weights_that_became_nan_are_not_a_classifier():
    with pytest.raises(TrainingError, match="lower learning_rate"):
        VolumeClassifier("sex", steps=5, batch_size=4, learning_rate=1e30).fit(subjects(4))


@pytest.mark.parametrize("factor", [1e-9, 1e6])
def test_the_unit_of_an_image_does_not_matter(factor):
    train, test = subjects(16), subjects(10, seed=1)
    for subject in train + test:
        subject["md"].set_data(subject["md"].data * factor)
    assert VolumeClassifier("sex", **QUICK).fit(train).score(test) >= 0.9


def test_given_labels_replace_the_subjects_own():
    some = subjects(8)
    swapped = ["young" if s["sex"] == "F" else "old" for s in some[:-1]] + [None]
    with pytest.warns(UserWarning, match="1 of 8"):
        classifier = VolumeClassifier("sex", steps=2, batch_size=4).fit(some, swapped)
    assert list(classifier.classes_) == ["old", "young"]


def test_cross_validation_and_grid_search_by_person():
    some = subjects(12)
    groups = [k // 2 for k in range(12)]
    y = [s["sex"] for s in some]
    classifier = VolumeClassifier("sex", steps=20, batch_size=4, shift=0)
    scores = cross_validate(classifier, some, y, groups=groups, cv=StratifiedGroupKFold(2))
    assert len(scores["test_score"]) == 2
    assert np.isfinite(scores["test_score"]).all()
    search = GridSearchCV(classifier, {"learning_rate": [1e-9, 2e-3]}, cv=StratifiedGroupKFold(2))
    search.fit(some, y, groups=groups)
    assert search.best_params_ == {"learning_rate": 2e-3}
    assert search.best_estimator_.score(subjects(8, seed=1)) >= 0.9


def test_the_best_weights_by_validation_are_kept_and_training_stops():
    options = {"steps": 60, "batch_size": 8, "shift": 0, "check_every": 5}
    classifier = VolumeClassifier("sex", **options, patience=2)
    classifier.fit(subjects(16), validation=subjects(10, seed=1))
    losses = [row["loss"] for row in classifier.history_]
    best = int(np.argmin(losses))
    assert classifier.steps_ == classifier.history_[best]["step"] == 5 * (best + 1)
    assert len(losses) == min(best + 3, 12)
    logits = np.log(classifier.predict_proba(subjects(10, seed=1))) * classifier.temperature_
    said = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    codes = [k % 2 for k in range(10)]
    assert -said[np.arange(10), codes].mean() == pytest.approx(losses[best], abs=2e-3)


def test_training_stops_when_validation_gets_no_better():
    wrong = ["F", "M", "M", "F"] * 3
    classifier = VolumeClassifier("sex", steps=400, batch_size=8, check_every=5, patience=2)
    classifier.fit(subjects(12), wrong, validation=subjects(12, seed=1))
    assert classifier.history_[-1]["step"] < 400


def test_validation_calibrates():
    rng = np.random.default_rng(0)
    train, held_out = subjects(24), subjects(40, seed=1)
    for subject in held_out:  # a third of the labels are wrong, so that being sure is wrong
        if rng.random() < 1 / 3:
            subject["sex"] = "M" if subject["sex"] == "F" else "F"
    plain = VolumeClassifier("sex", **QUICK).fit(train)
    told = VolumeClassifier("sex", **QUICK, check_every=30).fit(train, validation=held_out)
    assert plain.temperature_ == 1 < told.temperature_
    fresh = subjects(10, seed=2)
    assert (told.predict(fresh) == plain.predict(fresh)).all()
    assert told.predict_proba(fresh).max(1).mean() < plain.predict_proba(fresh).max(1).mean()


def test_settings_that_change_nothing_warn():
    for change in ({"patience": 2}, {"freeze": True}):
        with pytest.warns(UserWarning, match="changes nothing without"):
            VolumeClassifier("sex", steps=1, batch_size=4, **change).fit(subjects(4))


def test_a_mix_is_fitted_as_it_is_and_its_record_travels(md_phantom, tmp_path):
    from mixtures import make_bank

    bank = make_bank(tmp_path / "bank", md_phantom)
    bank.about["provenance"] = {"subjects": [subject_hash("elsewhere", "7")], "voxels": []}
    real = Cohort.from_bids(md_phantom).subjects()
    classifier = VolumeClassifier("sex", steps=2, batch_size=4).fit(mix(real, bank))
    assert subject_hash("elsewhere", "7") in classifier.record_["subjects"]
    assert len(classifier.record_["subjects"]) == 13 and len(classifier.record_["voxels"]) == 12
    random = RandomSynthetic(bank, match=("sex",), p=1)
    augmented = VolumeClassifier("sex", steps=2, batch_size=4, augment=random).fit(real)
    assert subject_hash("elsewhere", "7") in augmented.record_["subjects"]


def test_whoever_was_trained_on_does_not_judge(md_phantom):
    train, val, test = Cohort.from_bids(md_phantom).split((0.5, 0.25, 0.25), stratify=("sex",))
    classifier = VolumeClassifier("sex", steps=2, batch_size=4)
    classifier.fit(train.subjects(), validation=val.subjects())
    classifier.check_disjoint(test)
    assert len(predict(classifier, test, sources=[classifier]).truth) == len(test)
    for seen in (train, val):
        for judged in (seen, seen.subjects()):
            with pytest.raises(LeakageError) as caught:
                predict(classifier, judged)
            assert set(caught.value.subjects) == set(seen.subject_keys)


def test_a_learning_curve_sets_the_seed():
    curve = learning_curve(VolumeClassifier("sex", **QUICK), subjects(12), subjects(8, seed=1),
                           [4, 12], [0, 1])  # fmt: skip
    assert not np.array_equal(curve[12][0].probabilities, curve[12][1].probabilities)
    assert all(run.classes == ("F", "M") for runs in curve.values() for run in runs)


def test_augmentation_gives_the_same_for_any_number_of_workers():
    options = {"steps": 3, "batch_size": 4, "augment": tio.RandomNoise(std=(0.5, 1))}
    fresh = subjects(4, seed=1)
    plain, *others = (
        VolumeClassifier("sex", **options | change).fit(subjects(8)).predict_proba(fresh)
        for change in ({}, {"workers": 2}, {"augment": None})
    )
    np.testing.assert_array_equal(plain, others[0])
    assert not np.allclose(plain, others[1])


def test_interrupting_a_fit_interrupts(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Bar, "on_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        VolumeClassifier("sex", steps=2, batch_size=4).fit(subjects(4))


@pytest.mark.skipif(
    not has_bf16("cpu", [torch.nn.Conv3d(1, 1, 1)]), reason="this CPU does not train in bfloat16"
)
def test_bfloat16_says_about_the_same(fitted):
    fresh = subjects(10, seed=1)
    mixed = VolumeClassifier("sex", **QUICK, precision="bfloat16").fit(subjects(16))
    assert mixed.score(fresh) >= 0.9
    assert mixed.predict_proba(fresh) == pytest.approx(fitted.predict_proba(fresh), abs=0.1)


def test_the_bar_shows_progress(capsys):
    VolumeClassifier("sex", steps=2, batch_size=4, progress=True).fit(subjects(4))
    assert "Training on sex" in capsys.readouterr().out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VolumeClassifier("sex", steps=2, batch_size=4).fit(subjects(4))
    assert capsys.readouterr().out == ""
