import numpy as np
import pytest
from scipy import ndimage

from neuromix.augment.errors import InputError
from neuromix.augment.metrics import realism
from neuromix.augment.metrics.privacy import nearest, patch_copies
from neuromix.augment.metrics.realism import Brain

SHAPE = (24, 24, 5)


def people(n, seed, *, side=0.0):
    """Brains with folds of their own, large shapes in common, and a brightness of the scan."""
    rng = np.random.default_rng(seed)
    x, y, _ = np.indices(SHAPE) - np.array(SHAPE)[:, None, None, None] / 2
    shapes = np.stack([np.cos(x / 7), np.sin(y / 6), np.cos((x + y) / 9)])
    folds = ndimage.gaussian_filter(rng.standard_normal((n, *SHAPE)), (0, 0.8, 0.8, 0.8))
    volumes = 6 + np.einsum("nk,kxyz->nxyz", rng.standard_normal((n, 3)), 0.6 * shapes) + 2 * folds
    volumes[:, 8:12, 8:12] -= side
    volumes *= np.exp(0.1 * rng.standard_normal((n, 1, 1, 1)))
    noise = 0.2 * rng.random((n, *SHAPE))  # of a file format, outside the brain
    return np.where(x**2 + y**2 < 100, np.maximum(volumes, 1), noise).astype(np.float32)


TRAIN, HELDOUT = people(60, 0), people(30, 1)
BRAIN = Brain.of(TRAIN)


def blurred(n):
    return ndimage.gaussian_filter(people(n, 2), (0, 0.6, 0.6, 0))


def noisy(n):
    return people(n, 2) + 0.5 * np.random.default_rng(3).standard_normal((n, *SHAPE))


def alike(n):
    return 0.5 * people(n, 2) + 0.5 * TRAIN.mean(axis=0)


def of_another_shape(n):
    return people(n, 2, side=2.0)


def in_pieces(n):
    """The left of one training person and the right of another."""
    return np.concatenate([TRAIN[:n, :12], TRAIN[n : 2 * n, 12:]], axis=1)


def table(made):
    return realism.realism(*(BRAIN(each) for each in (TRAIN, HELDOUT, made)), BRAIN)


def test_people_are_not_told_from_people():
    rows = table(people(30, 2))
    assert 0.25 < rows["structure"]["value"] < 0.65 and 0.25 < rows["texture"]["value"] < 0.65
    assert rows["mmd"]["value"] < 1 and abs(rows["spectrum"]["value"]) < 1
    assert rows["spread"]["value"] == pytest.approx(1, abs=0.2)
    for row in rows.values():
        assert row["interval"][0] <= row["value"] <= row["interval"][1]
    assert rows["spread"]["interval"][0] < 1 < rows["spread"]["interval"][1]


@pytest.mark.parametrize(
    ("fault", "shows"),
    [
        (blurred, lambda r: r["texture"]["value"] > 0.95 and r["spectrum"]["value"] < -3),
        (noisy, lambda r: r["texture"]["value"] > 0.95 and r["spectrum"]["value"] > 3),
        (alike, lambda r: r["spread"]["interval"][1] < 0.8 and r["mmd"]["value"] > 1),
        (of_another_shape, lambda r: r["structure"]["interval"][0] > 0.8),
    ],
)
def test_each_fault_shows(fault, shows):
    assert shows(table(fault(30)))


def test_the_background_and_the_brightness_of_a_scan_tell_nothing():
    clean = people(30, 2) * BRAIN.mask
    assert not BRAIN(clean)[:, ~BRAIN.mask].any()
    assert np.array_equal(BRAIN(clean), BRAIN(people(30, 2)))
    assert np.allclose(BRAIN(2.5 * clean), BRAIN(clean), atol=1e-5)
    absolute = Brain.of(TRAIN, is_levelled=False)
    assert np.array_equal(absolute(clean)[:, BRAIN.mask], clean[:, BRAIN.mask])
    with pytest.raises(InputError, match="no voxel has tissue in half"):
        Brain.of(np.zeros((4, *SHAPE)))


def test_pooling_counts_what_hangs_over_as_nothing():
    pooled = realism.pool(np.ones((1, 6, 4, 1)), 4)
    assert pooled.ravel().tolist() == [1.0, 0.5]


def test_rings_say_at_which_wavelength():
    x = np.arange(32)
    waves = [np.cos(2 * np.pi * x / length) for length in (16, 4, 8 / 3)]
    volumes = np.stack([np.broadcast_to(w[:, None, None], (32, 32, 2)) for w in waves])
    power = realism.ring_power(volumes, np.ones((32, 32, 2), dtype=bool))
    assert power.argmax(axis=1).tolist() == [2, 8, 12]  # of 16, at 2/wavelength of the Nyquist one


def test_the_interval_of_an_auc_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        high, low = rng.standard_normal(40) + 1, rng.standard_normal(40)
        wins = realism.compare(high, low)
        row = realism.auc(wins, np.ones(wins.shape))
        held += row["interval"][0] <= 0.760 <= row["interval"][1]  # Φ(1/√2)
    assert 88 <= held <= 99


def test_a_slab_of_one_slice_has_a_texture():
    made, mask = BRAIN(TRAIN)[..., 2:3], BRAIN.mask[..., 2:3]
    assert np.isfinite(realism.texture(made, mask)).all()


def test_too_few_are_refused():
    with pytest.raises(InputError, match="30 real and 3 made"):
        table(people(3, 2))


def test_volumes_that_hold_no_numbers_are_refused():
    broken = people(5, 2)
    broken[3, 8, 8, 2] = np.nan
    with pytest.raises(InputError, match=r"1 of 5 volumes hold NaN.* index 3"):
        BRAIN(broken)


def test_a_set_of_one_volume_is_told():
    row = table(np.repeat(people(1, 2), 30, axis=0))["texture"]
    assert row["value"] > 0.9


class TestCopies:
    mask = BRAIN.mask

    def rows(self, made):
        made, train, heldout = (BRAIN(each) for each in (made, TRAIN, HELDOUT))
        near = nearest(*(each[:, self.mask] for each in (made, train, heldout)))
        return near["value"], patch_copies(made, train, heldout, self.mask)["value"]

    def test_new_people_are_neither_near_nor_pieces(self):
        near, share = self.rows(people(30, 2))
        assert near == pytest.approx(1, abs=0.1) and share < 0.03

    def test_copies_are_both_and_what_is_put_together_is_pieces(self):
        assert self.rows(TRAIN[:20]) == (pytest.approx(0, abs=0.01), 1.0)
        near, share = self.rows(in_pieces(20))
        assert near > 0.5 and share > 0.4

    def test_a_copy_that_was_shifted_by_a_voxel_is_found(self):
        near, share = self.rows(np.roll(TRAIN[:20], 1, axis=1))
        assert near > 0.8 and share > 0.6
