import time

import numpy as np
import pytest
import torch
import torchio as tio
from torch.utils.data import DataLoader
from volumes import subjects

from neuromix.augment.errors import InputError
from neuromix.augment.mixing import draw_order
from neuromix.augment.transforms import FillMissing
from neuromix.classifiers.inputs import Batches, Store, one_shape, read, scale_of

EYE = np.eye(4)


def rows(count, channels=1, shape=(6, 5, 4), seed=0):
    rng = np.random.default_rng(seed)
    return [{"md": rng.normal(3, 2, (channels, *shape)).astype(np.float32)} for _ in range(count)]


def stored(some, images):
    return Store.of(some, one_shape(some, images), scale_of(some, images))


def batches(count=6, size=12, affine=EYE, **options):
    some = rows(count)
    store = stored(some, ["md"])
    order = draw_order(count, size, np.random.default_rng(0))
    kept = [({}, {"md": affine})] * count
    return Batches(
        store,
        np.arange(count),
        order,
        kept=kept,
        **{"seed": 0, "shift": 0, "flip": False} | options,
    )


def test_a_summary_is_the_mean_and_deviation_over_time():
    subject = subjects(1, channels=5)[0]
    data = subject["md"].numpy()
    found = read(subject, ["md"], "summary")["md"]
    np.testing.assert_allclose(found, [data.mean(0), data.std(0)], rtol=1e-6)
    np.testing.assert_array_equal(read(subject, ["md"], "all")["md"], data)


def test_a_placeholder_is_not_an_image():
    subject = subjects(1, images=("fmri",))[0]
    filled = FillMissing({"fmri": (1, 16, 16, 16), "dmri": (2, 16, 16, 16)})(subject)
    assert list(read(filled, ["fmri", "dmri"], "all")) == ["fmri"]
    with pytest.raises(InputError, match="no image 'dmri'"):
        read(filled, ["dmri"], "all")


def test_a_store_is_standardised_by_channel_and_marks_what_is_absent():
    some = [*rows(20, 2), {"t1w": np.ones((1, 2, 2, 2), np.float32) * np.arange(2)}]
    for row in some[:-1]:
        row["md"][1] *= 100
    scale = scale_of(some, ["md", "t1w"])
    store = Store.of(some, one_shape(some, scale), scale)
    volumes = store.volumes["md"][:-1].float()
    torch.testing.assert_close(volumes.mean((0, 2, 3, 4)), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(volumes.std((0, 2, 3, 4)), torch.ones(2), atol=1e-2, rtol=0)
    assert store.present.tolist() == [[True, False]] * 20 + [[False, True]]
    assert store.volumes["md"].dtype == torch.float16
    with pytest.raises(InputError, match="constant"):
        scale_of([{"md": np.ones((1, 2, 2, 2), np.float32)}], ["md"])


def test_each_row_comes_as_often_as_any_other():
    rng = np.random.default_rng(0)
    assert np.bincount(draw_order(6, 16, rng)).tolist().count(3) == 4


def test_a_batch_is_moved_by_whole_voxels():
    plain, codes, _ = batches().__getitems__(range(6))
    again, *_ = batches().__getitems__(range(6))
    assert torch.equal(plain, again) and sorted(codes.tolist()) == list(range(6))
    moved, *_ = batches(shift=2).__getitems__(range(6))
    for before, after in zip(plain, moved, strict=True):
        assert any(
            torch.equal(torch.roll(before, (x, y, z), (1, 2, 3)), after)
            for x in range(-2, 3)
            for y in range(-2, 3)
            for z in range(-2, 3)
        )
    assert not torch.equal(plain, moved)


TURN = np.array([[0.1, -0.2, 3, 5], [2, 0, 0, 1], [0, 2, 0.1, 0], [0, 0, 0, 1]])
"""Voxel axes along anterior, superior and, slightly oblique, right."""


@pytest.mark.parametrize(
    ("affine", "axis"),
    [(EYE, 0), (np.diag([-2, 2, 2, 1]), 0), (TURN, 2), (EYE[[1, 0, 2, 3]], 1)],
    ids=["unknown", "from right to left", "turned", "swapped"],
)
def test_half_of_a_batch_is_mirrored_along_left_and_right(affine, axis):
    plain, *_ = batches().__getitems__(range(6))
    turned, *_ = batches(affine=affine, flip=True).__getitems__(range(6))
    pairs = list(zip(plain, turned, strict=True))
    mirrored = [torch.equal(before.flip(1 + axis), after) for before, after in pairs]
    same = [torch.equal(before, after) for before, after in pairs]
    assert any(mirrored) and any(same) and all(np.add(mirrored, same) == 1)


def augmented(**options):
    some = subjects(4)
    read_rows = [read(subject, ["md"], "all") for subject in some]
    store = stored(read_rows, ["md"])
    kept = [({"sex": s["sex"]}, {"md": np.diag([2, 2, 2, 1])}) for s in some]
    order = np.tile(np.arange(4), 3)
    codes = np.array([0, 1, 0, 1])
    return store, Batches(store, codes, order, seed=3, shift=0, flip=False, kept=kept, **options)


def same_code(subject, code):
    return code


def test_augmentation_sees_images_in_their_own_units():
    seen = []

    def look(subject):
        seen.append((subject["md"].data.mean().item(), subject["sex"], subject["md"].spacing))
        return subject

    store, made = augmented(augment=look, recode=same_code)
    volumes, *_ = made.__getitems__([0, 1])
    means = [float(s["md"].data.mean()) for s in subjects(2)]
    assert [mean for mean, _, _ in seen] == pytest.approx(means, abs=1e-2)
    assert [who for _, who, _ in seen] == ["F", "M"] and seen[0][2] == (2, 2, 2)
    torch.testing.assert_close(volumes, store.batch(np.array([0, 1])), atol=5e-3, rtol=0)


def test_augmentation_depends_on_the_seed_and_the_position_alone():
    _, made = augmented(augment=tio.RandomNoise(std=(1, 2)), recode=same_code)
    state = torch.get_rng_state()
    alone = [made.__getitems__(range(begin, begin + 4))[0] for begin in (0, 4, 8)]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(alone[0], alone[1])
    for workers in (0, 2):
        loader = DataLoader(made, 4, num_workers=workers, collate_fn=lambda batch: batch)
        assert all(torch.equal(a, b) for a, (b, *_) in zip(alone, loader, strict=True))


def test_augmentation_may_change_the_class_but_not_the_shape():
    _, made = augmented(augment=tio.RandomNoise(), recode=lambda subject, code: 1 - code)
    assert made.__getitems__([0, 1])[1].tolist() == [1, 0]
    _, made = augmented(augment=tio.Pad(1), recode=same_code)
    with pytest.raises(InputError, match="keep the shape"):
        made.__getitems__([0])


def test_one_of_several_images_is_hidden_at_times():
    some = [row | {"t1w": row["md"]} for row in rows(40)]
    store = stored(some, ["md", "t1w"])
    made = Batches(store, np.zeros(40, int), np.arange(40), seed=0, shift=0, flip=False)
    batch, *_ = made.__getitems__(range(40))
    there = batch["present"].sum(1)
    assert 3 <= (there == 1).sum() <= 20 and (there > 0).all()
    assert store.present.all()


def test_feeding_takes_little_of_a_step():
    some = rows(32, shape=(48, 56, 48))
    store = stored(some, ["md"])
    kept = [({}, {"md": EYE})] * 32
    made = Batches(store, np.zeros(32, int), np.arange(32), seed=0, shift=2, flip=True, kept=kept)
    begun = time.perf_counter()
    made.__getitems__(range(16))
    assert time.perf_counter() - begun < 0.1  # 4 ms on an idle core; a step takes 50 or more
