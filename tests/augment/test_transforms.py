import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torchio as tio
from mixtures import Doubler, make_bank
from torchio.utils import get_subclasses

from neuromix import augment
from neuromix.augment import Cohort, CompleteModality, FillMissing, RandomSynthetic, TimeConsistent
from neuromix.augment.data.leakage import voxel_hash
from neuromix.augment.errors import InputError


@pytest.fixture(scope="module")
def bank(md_phantom, tmp_path_factory):
    return make_bank(tmp_path_factory.mktemp("transforms") / "bank", md_phantom)


@pytest.fixture
def subjects(md_phantom):
    return Cohort.from_bids(md_phantom).subjects()


@pytest.fixture
def paired():
    """Subjects with two modalities on one grid, and the keys of a cohort."""
    generator = torch.Generator().manual_seed(0)
    return [
        tio.Subject(
            fmri=tio.ScalarImage(tensor=torch.rand(4, 6, 7, 8, generator=generator)),
            dmri=tio.ScalarImage(tensor=torch.rand(4, 6, 7, 8, generator=generator)),
            subject_id=str(k),
            synthetic=False,
            synthetic_id="",
            origin="",
        )
        for k in range(3)
    ]


def without(subject, name):
    part = copy.deepcopy(subject)
    part.remove_image(name)
    return part


def same(one, other):
    """Whether two subjects hold the same keys, labels and voxels."""
    if list(one) != list(other):
        return False
    for key, value in one.items():
        if isinstance(value, tio.Image):
            if not torch.equal(value.data, other[key].data):
                return False
        elif value != other[key] and not (value != value and other[key] != other[key]):
            return False
    return True


# RandomSynthetic: replace


def test_replace_takes_everything_from_a_matching_sample(bank, subjects):
    transform = RandomSynthetic(bank, match="sex", p=1)
    for subject in subjects:
        result = transform(subject)
        sample = bank.replay(result["synthetic_id"])
        assert {**sample, "md": 0, "age": 0} == {**result, "md": 0, "age": 0}
        assert result["age"] == sample["age"]
        assert torch.equal(result["md"].data, sample["md"].data)
        assert result["sex"] == subject["sex"] == sample["sex"]
        assert result["synthetic"] is True and list(result) == list(subject)
        assert result.sex == result["sex"]


def test_replace_does_not_read_the_real_image_nor_change_the_subject(bank, subjects):
    before = dict(subjects[0])
    RandomSynthetic(bank, match="sex", p=1)(subjects[0])
    assert tio.DATA not in subjects[0]["md"]
    assert dict(subjects[0]) == before and not subjects[0].applied_transforms


def test_the_history_replays_the_very_same_sample(bank, subjects):
    pipeline = tio.Compose([RandomSynthetic(bank, match="sex", p=1), tio.RandomAffine()])
    result = pipeline(subjects[0])
    names = [transform.name for transform in result.history]
    assert names == ["Synthetic", "Affine"]
    assert result.history[0].sample_id == result["synthetic_id"]
    assert same(result.get_composed_history()(subjects[0]), result)
    assert same(result.get_composed_history()(subjects[5]), result)
    saved = pickle.loads(pickle.dumps(result.applied_transforms))
    name, arguments = saved[0]
    assert name == "Synthetic"
    assert all(
        value is None or isinstance(value, str | float | bool) for value in arguments.values()
    )


def test_p_is_the_share_of_replaced_subjects_and_seeds_repeat_it(bank, subjects):
    transform = RandomSynthetic(bank, match="sex", p=0.25)
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        draws.append([transform(subjects[k % 12])["synthetic_id"] for k in range(200)])
    assert draws[0] == draws[1]
    # 50 expected, standard deviation 6.1.
    assert 30 < sum(map(bool, draws[0])) < 70
    assert len(set(draws[0])) > 10


def test_one_of_and_a_subject_that_stays_as_it_is(bank, subjects):
    one_of = tio.OneOf({RandomSynthetic(bank, match="sex", p=1): 0.5, tio.RandomNoise(): 0.5})
    torch.manual_seed(1)
    names = {one_of(subjects[0]).history[0].name for _ in range(20)}
    assert names == {"Synthetic", "Noise"}
    subjects[0]["sex"] = ""
    assert RandomSynthetic(bank, match="sex", p=1)(subjects[0]) is subjects[0]


def test_labels_that_the_sample_lacks_become_missing(bank, subjects):
    subjects[0].update(education=12, hand="left", note=None)
    result = RandomSynthetic(bank, match="sex", p=1)(subjects[0])
    assert math.isnan(result["education"]) and result["hand"] == "" and result["note"] is None
    subjects[0]["genes"] = torch.ones(3)
    with pytest.raises(InputError, match="no 'genes'"):
        RandomSynthetic(bank, match="sex", p=1)(subjects[0])


def test_an_excluded_image_stays_and_an_unknown_one_is_refused(bank, subjects):
    atlas = tio.LabelMap(tensor=torch.ones(1, 4, 4, 4))
    subjects[0].add_image(atlas, "atlas")
    with pytest.raises(InputError, match=r"no image 'atlas', they have md.*exclude=\['atlas'\]"):
        RandomSynthetic(bank, match="sex", p=1)(subjects[0])
    for which in ({"exclude": ["atlas"]}, {"include": ["md"]}):
        result = RandomSynthetic(bank, match="sex", p=1, **which)(subjects[0])
        assert torch.equal(result["atlas"].data, atlas.data) and result["synthetic"]
        result["atlas"].data.zero_()
        assert atlas.data.all()


def test_keep_holds_the_real_image(bank, subjects):
    result = RandomSynthetic(bank, match="sex", p=1, keep={"md": "real"})(subjects[0])
    assert torch.equal(result["real"].data, subjects[0]["md"].data)
    assert not torch.equal(result["md"].data, result["real"].data)


def test_a_sample_on_another_grid_is_resampled_with_a_warning(bank, subjects):
    subject = tio.Resample(10)(subjects[0])
    torch.manual_seed(0)
    transform = RandomSynthetic(bank, match="sex", p=1)
    with pytest.warns(UserWarning, match="neuromix prepare"):
        result = transform(subject)
    assert result["md"].shape == subject["md"].shape
    assert np.allclose(result["md"].affine, subject["md"].affine)
    expected = tio.Resample(subject["md"])(bank.replay(result["synthetic_id"]))["md"].data
    inside = expected > 0.3
    assert (result["md"].data - expected)[inside].abs().mean() < 0.15
    with pytest.warns(UserWarning):
        assert same(result.get_composed_history()(subject), result)


def test_a_crop_gets_the_same_part_of_the_sample(bank, subjects):
    transform = RandomSynthetic(bank, match="sex", p=1)
    with pytest.warns(UserWarning, match="another grid"):
        result = transform(tio.Crop(4)(subjects[0]))
    whole = bank.replay(result["synthetic_id"])
    assert torch.allclose(result["md"].data, tio.Crop(4)(whole)["md"].data, atol=1e-4)
    assert [step.name for step in result.history] == ["Crop", "Synthetic"]


def test_an_intensity_transform_before_it_is_warned_of(bank, subjects):
    late = tio.Compose([tio.ZNormalization(), RandomSynthetic(bank, match="sex", p=1)])
    with pytest.warns(UserWarning, match="ZNormalization changed the real image"):
        late(subjects[0])


# RandomSynthetic: mixup


def test_mixup_blends_images_and_keeps_the_labels(bank, subjects):
    transform = RandomSynthetic(bank, match=("sex", "diagnosis"), p=1, mode="mixup")
    weights = []
    for subject in subjects:
        result = transform(subject)
        twin = result.history[0]
        sample = bank.replay(twin.sample_id)
        weights.append(twin.weight)
        assert (sample["sex"], sample["diagnosis"]) == (subject["sex"], subject["diagnosis"])
        blend = (1 - twin.weight) * subject["md"].data + twin.weight * sample["md"].data
        assert torch.allclose(result["md"].data, blend, atol=1e-5)
        parent = f"voxels:{voxel_hash(subject['md'].data.numpy())}"
        origin = f"{bank.uri}\n{parent}"
        marks = {"synthetic": True, "synthetic_id": twin.sample_id, "origin": origin}
        labels = {k: v for k, v in subject.items() if k not in ("md", *marks)}
        assert labels | marks == {k: v for k, v in result.items() if k != "md"}
        assert same(result.get_composed_history()(subject), result)
        assert not subject["synthetic"]
    assert len(set(weights)) == len(subjects) and 0 < min(weights) < max(weights) < 1


def test_alpha_decides_how_evenly_it_mixes(bank, subjects):
    torch.manual_seed(0)
    even = RandomSynthetic(bank, match="sex", p=1, mode="mixup", alpha=1000)
    weights = [even(subjects[0]).history[0].weight for _ in range(10)]
    assert all(0.4 < weight < 0.6 for weight in weights)


# RandomSynthetic: other inputs


def test_tensors_arrays_and_images_take_labels_beside_them(bank, subjects):
    image = tio.ScalarImage(tensor=subjects[0]["md"].data, affine=subjects[0]["md"].affine)
    transform = RandomSynthetic(bank, match="sex", p=1)
    for data in (image, image.data, image.data.numpy()):
        for sex in "FM":
            result = transform(data, labels={"sex": sex})
            assert type(result) is type(data)
            voxels = torch.as_tensor(result.data if isinstance(result, tio.Image) else result)
            ids = bank.table.query("sex == @sex")["synthetic_id"]
            assert any(torch.equal(voxels, bank.replay(name)["md"].data) for name in ids)
    with pytest.raises(InputError, match="labels="):
        transform(image.data)
    with pytest.raises(InputError, match="has the shape"):
        transform(torch.rand(1, 3, 3, 3), labels={"sex": "F"})
    with pytest.raises(InputError, match="put them under its keys"):
        transform(subjects[0], labels={"sex": "F"})


def test_a_dict_keeps_its_types_and_gets_the_marks_either_way(bank, subjects):
    data = {"md": subjects[0]["md"].data.numpy(), "sex": "F", "name": "a"}
    changed = RandomSynthetic(bank, match="sex", p=1, include=["md"])(data)
    with pytest.warns(UserWarning, match="p=0 changes nothing"):
        unchanged = RandomSynthetic(bank, match="sex", p=0, include=["md"])(data)
    marks = {"synthetic", "synthetic_id", "origin"}
    assert set(changed) == set(unchanged) == {"md", "sex", "name", *marks}
    assert changed["synthetic"] and not unchanged["synthetic"] and changed["name"] == ""
    assert isinstance(changed["md"], np.ndarray) and np.array_equal(unchanged["md"], data["md"])
    with pytest.raises(InputError, match="include="):
        RandomSynthetic(bank, match="sex")(data)


# RandomSynthetic: settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": ()}, "one or more of"),
        ({"match": "hand"}, "sex"),
        ({"mode": "swap"}, "replace, mixup"),
        ({"alpha": 0}, "above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(bank, options, message):
    with pytest.raises(InputError, match=message):
        RandomSynthetic(bank, **{"match": "sex"} | options)


def test_settings_that_change_nothing_warn(bank):
    with pytest.warns(UserWarning, match="alpha changes nothing"):
        RandomSynthetic(bank, match="sex", alpha=1)


def test_a_source_needs_a_path_and_a_path_is_a_source(bank, subjects):
    assert RandomSynthetic(bank.uri, match="sex", p=1)(subjects[0])["synthetic"]

    class Online:
        uri = ""
        labels = ("sex",)

        def draw(self, labels, seed):
            raise AssertionError

    with pytest.raises(InputError, match="save it"):
        RandomSynthetic(Online(), match="sex")


def test_labels_that_subject_or_bank_lack_are_named(bank, subjects):
    subject = tio.Subject(md=subjects[0]["md"], hand="left")
    with pytest.raises(InputError, match=r"a subject has no 'sex'; it has .*hand"):
        RandomSynthetic(bank, match="sex", p=1)(subject)
    subjects[0]["sex"] = "X"
    with pytest.raises(InputError, match=r"F.*M"):
        RandomSynthetic(bank, match="sex", p=1)(subjects[0])


# Loaders


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (4, "fork"), (1, "spawn")])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loaders(bank, subjects, workers, start):
    pipeline = tio.Compose([RandomSynthetic(bank, match="sex", p=0.5), tio.RandomFlip()])
    torch.manual_seed(0)
    loader = tio.SubjectsLoader(
        tio.SubjectsDataset(subjects, transform=pipeline),
        batch_size=4,
        num_workers=workers,
        multiprocessing_context=start,
    )
    batches = list(loader)
    ids = [i for batch in batches for i in batch["synthetic_id"]]
    flags = torch.cat([batch["synthetic"] for batch in batches]).tolist()
    assert [bool(i) for i in ids] == flags and 0 < sum(flags) < len(subjects)
    assert batches[0]["md"][tio.DATA].shape == (4, *subjects[0]["md"].shape)
    sexes = [s for batch in batches for s in batch["sex"]]
    assert sexes == [subject["sex"] for subject in subjects]


def test_queue(bank, subjects):
    dataset = tio.SubjectsDataset(subjects, transform=RandomSynthetic(bank, match="sex", p=1))
    queue = tio.Queue(dataset, 8, 2, tio.UniformSampler(8), num_workers=0)
    patches = [queue[k] for k in range(len(queue))]
    assert len(patches) == 24 and all(patch["synthetic"] for patch in patches)


# CompleteModality


@pytest.fixture
def doubler(tmp_path, monkeypatch):
    completer = Doubler(tmp_path / "doubler")
    # What comes back from the path is another object, as after a restart.
    monkeypatch.setattr("neuromix.augment.transforms.open_source", Doubler)
    return completer


def test_a_missing_modality_is_filled_and_replays(doubler, paired):
    subject = without(paired[0], "dmri")
    transform = CompleteModality(doubler, have="fmri", want="dmri")
    result = transform(subject)
    assert "dmri" not in subject
    noise = result["dmri"].data - 2 * subject["fmri"].data
    assert abs(float(noise.std()) - 1) < 0.1
    assert torch.equal(result["fmri"].data, subject["fmri"].data)
    assert [t.name for t in result.history] == ["Completed"]
    assert result["synthetic"] and result["synthetic_id"].startswith("dmri:seed=")
    assert same(result.get_composed_history()(subject), result)
    assert not torch.equal(transform(subject)["dmri"].data, result["dmri"].data)


def test_a_real_image_is_never_overwritten(doubler, paired):
    transform = CompleteModality(doubler, have="fmri", want="dmri")
    assert transform(paired[0]) is paired[0]
    neither = FillMissing({"fmri": (1, 2, 2, 2), "dmri": (1, 2, 2, 2)})(
        tio.Subject(md=tio.ScalarImage(tensor=torch.ones(1, 2, 2, 2)))
    )
    assert not transform(neither)["synthetic"]
    recorded = transform(without(paired[0], "dmri")).get_composed_history()
    assert same(recorded(paired[0]), paired[0])


def test_a_placeholder_is_filled(doubler, paired):
    shapes = {name: paired[0][name].shape for name in ("fmri", "dmri")}
    placeheld = FillMissing(shapes)(without(paired[0], "dmri"))
    result = CompleteModality(doubler, have="fmri", want="dmri")(placeheld)
    assert result["dmri"].data.any() and result["present"] == {"fmri": True, "dmri": True}
    assert placeheld["present"] == {"fmri": True, "dmri": False}


def test_bad_completions_are_refused(doubler, bank):
    with pytest.raises(InputError, match="completes no images"):
        CompleteModality(bank, have="fmri", want="dmri")
    with pytest.raises(InputError, match="name different images"):
        CompleteModality(doubler, have="fmri", want="fmri")
    doubler.uri = ""
    with pytest.raises(InputError, match="save it"):
        CompleteModality(doubler, have="fmri", want="dmri")


# FillMissing


def test_missing_modalities_collate_with_a_mask(paired):
    shapes = {name: paired[0][name].shape for name in ("fmri", "dmri")}
    cohort = [paired[0], without(paired[1], "dmri"), without(paired[2], "fmri")]
    dataset = tio.SubjectsDataset(cohort, transform=FillMissing(shapes))
    batch = next(iter(tio.SubjectsLoader(dataset, batch_size=3)))
    assert batch["present"]["fmri"].tolist() == [True, True, False]
    assert batch["present"]["dmri"].tolist() == [True, False, True]
    assert batch["dmri"][tio.DATA].flatten(1).any(1).tolist() == [True, False, True]
    again = FillMissing(shapes)(dataset[1])
    assert again["present"] == {"fmri": True, "dmri": False}
    assert same(dataset[1].get_composed_history()(cohort[1]), dataset[1])


def test_a_shape_that_would_not_collate_is_refused(paired):
    with pytest.raises(InputError, match="FillMissing was told"):
        FillMissing({"fmri": (1, 2, 2, 2)})(paired[0])
    with pytest.raises(InputError, match="C, X, Y, Z"):
        FillMissing({"fmri": (2, 2, 2)})


# TimeConsistent


@pytest.fixture
def movie():
    frame = torch.rand(1, 6, 7, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    return tio.Subject(
        bold=tio.ScalarImage(tensor=frame.repeat(5, 1, 1, 1)),
        short=tio.ScalarImage(tensor=frame.repeat(2, 1, 1, 1)),
        mask=tio.LabelMap(tensor=torch.ones(1, 6, 7, 8)),
    )


INTENSITY = {
    "gamma": tio.RandomGamma((0.3, 0.6)),
    "bias": tio.RandomBiasField(),
    "blur": tio.RandomBlur((1, 2)),
    "noise": tio.RandomNoise(std=1),
    "spike": tio.RandomSpike(),
    "compose": tio.Compose([tio.RandomGamma((0.3, 0.6)), tio.RandomNoise(std=1)]),
    "one of": tio.OneOf([tio.RandomGamma((0.3, 0.6)), tio.RandomGamma((-0.6, -0.3))]),
}


@pytest.mark.parametrize("name", INTENSITY)
def test_equal_frames_stay_equal(movie, name):
    transform = TimeConsistent(INTENSITY[name])
    result = transform(movie)
    for image in ("bold", "short"):
        data = result[image].data
        assert data.shape == movie[image].shape and not torch.allclose(data, movie[image].data)
        assert torch.equal(data, data[:1].expand_as(data))
    assert [t.name for t in result.history] == ["SharedOverTime"]
    assert same(result.get_composed_history()(movie), result)
    assert not torch.equal(transform(movie)["bold"].data, result["bold"].data)


def test_gamma_alone_tears_frames_apart(movie):
    data = tio.RandomGamma((0.3, 0.6))(movie)["bold"].data
    assert not torch.allclose(data, data[:1].expand_as(data))


def test_frames_follow_their_own_values(movie):
    movie["bold"].set_data(movie["bold"].data * torch.arange(1, 6).view(5, 1, 1, 1))
    result = TimeConsistent(tio.RandomGamma((0.3, 0.6)), exclude=["short"])(movie)
    (_, arguments), *_ = result.history[0].steps
    (gamma,) = arguments["gamma"]["bold"]
    assert torch.allclose(result["bold"].data, movie["bold"].data ** gamma)
    assert torch.equal(result["short"].data, movie["short"].data)


def test_nothing_is_drawn_with_p_of_zero_inside(movie):
    result = TimeConsistent(tio.RandomGamma(p=0))(movie)
    assert same(result, movie) and not result.history


def test_transforms_that_need_no_wrapper_are_refused(movie):
    for transform in (tio.RandomAffine(), tio.ZNormalization()):
        with pytest.raises(InputError, match="RandomGamma"):
            TimeConsistent(transform)(movie)
    with pytest.raises(InputError, match="takes a TorchIO transform"):
        TimeConsistent(torch.nn.Identity())


# All


def test_names_do_not_collide():
    names = [kind.__name__ for kind in set(get_subclasses(tio.Transform))]
    ours = [name for name in augment.__all__ if name in names]
    assert {"RandomSynthetic", "Synthetic", "TimeConsistent"} <= set(ours)
    for name in (*ours, "Completed", "SharedOverTime"):
        assert names.count(name) == 1
