import numpy as np
import pytest
import torch
from scipy import ndimage

from neuromix.augment.errors import InputError
from neuromix.augment.tiled.codec import DeformableTemplate
from neuromix.augment.tiled.mosaic import Tiling

SHAPE, SPACING = (24, 22, 12), (4.0, 4.0, 5.0)  # tiles of 24 x 24 px
NOISE = 0.05


def population(count, *, seed=0, shape=SHAPE, spacing=SPACING, bend=4.0):
    """An ellipsoid with smooth folds, each time bent by some mm, and noise."""
    rng = np.random.default_rng(seed)
    half = [(side - 1) / 2 * mm for side, mm in zip(shape, spacing, strict=True)]
    sides = [np.linspace(-end, end, side) for end, side in zip(half, shape, strict=True)]
    points = np.stack(np.meshgrid(*sides, indexing="ij"))
    volumes = []
    for _ in range(count):
        field = [
            ndimage.gaussian_filter(rng.standard_normal(shape), [12 / mm for mm in spacing])
            for _ in range(3)
        ]
        bent = points + np.stack(field) * bend / np.std(field)
        x, y, z = bent / np.reshape(half, (3, 1, 1, 1))
        value = 1.2 + 0.5 * np.sin(6 * x) * np.cos(5 * y) + 0.3 * np.sin(5 * z)
        value += NOISE * rng.standard_normal(shape)
        volumes.append(value.clip(0.2) * (x**2 + y**2 + z**2 < 0.75**2))
    return torch.from_numpy(np.stack(volumes)).float()[:, None]


def fit(volumes, *, plane="axial", spacing=SPACING, factor=8, depth=1):
    tiling = Tiling(tuple(volumes.shape[2:]), plane, factor)
    return DeformableTemplate.fit(
        volumes.split(7), len(volumes), tiling, spacing, factor=factor, depth=depth
    )


@pytest.fixture(scope="module")
def train():
    return population(24)


@pytest.fixture(scope="module")
def codec(train):
    return fit(train)


@pytest.fixture(scope="module")
def fresh():
    return population(5, seed=9)


@pytest.fixture(scope="module")
def coded(codec, fresh):
    return codec.moments(fresh)


@pytest.fixture(scope="module")
def drawn(codec):
    """What standard normal latents decode to."""
    noise = torch.randn(12, *codec.mask.shape[1:], generator=torch.Generator().manual_seed(1))
    return codec.decode(noise * codec.mask)


def check_they_come_back(codec, volumes, mismatch):
    """Values to float precision where both have brain, which few voxels do not."""
    mean, deviation = codec.moments(volumes)
    again = codec.decode(mean)
    assert again.shape == volumes.shape
    assert mean.shape == deviation.shape == (len(volumes), *codec.mask.shape[1:])
    both = (volumes > 0) & (again > 0)
    torch.testing.assert_close(again[both], volumes[both], atol=1e-4, rtol=0)
    odd = (volumes > 0) != (again > 0)
    assert odd.sum() < mismatch * (volumes > 0).sum()


def largest_part(brain):
    """Share of a brain's voxels that hang together."""
    parts, _ = ndimage.label(brain)
    return np.bincount(parts.ravel())[1:].max() / brain.sum()


def test_new_subjects_come_back(codec, fresh):
    check_they_come_back(codec, fresh, mismatch=0.03)


@pytest.mark.parametrize(
    ("plane", "shape", "spacing", "cell"),
    [
        ("axial", (24, 20, 16), (4.0, 4.0, 4.0), (4, 4)),
        ("coronal", (21, 15, 18), (4.0, 6.0, 5.0), (4, 4)),
        ("sagittal", (13, 21, 18), (7.0, 4.0, 5.0), (8, 1)),
    ],
)
def test_every_plane_cell_and_shape_works(plane, shape, spacing, cell):
    volumes = population(14, shape=shape, spacing=spacing)
    codec = fit(volumes[:12], plane=plane, spacing=spacing, factor=cell[0], depth=cell[1])
    check_they_come_back(codec, volumes[12:], mismatch=0.06)
    factor = codec.volume_tiling.tile_shape[0] // cell[0] * codec.tiling.layout[0]
    assert codec.mask.shape[2] == factor


def test_subjects_that_lie_elsewhere_come_back(codec, fresh):
    moved = torch.roll(fresh, 2, dims=2)
    check_they_come_back(codec, moved, mismatch=0.06)
    # Unregistered, more than twice as many voxels are of one brain only.
    still = codec.decode(torch.zeros_like(codec.moments(moved)[0]))
    assert ((moved > 0) != (still > 0)).sum() > 2 * 0.06 * (moved > 0).sum()


def test_registration_explains_most_of_the_variance(codec, train, fresh, coded):
    rest, bends = codec._untile(coded[0])
    registered = codec.decode(codec._tile(torch.zeros_like(rest), bends))
    both = (fresh > 0) & (registered > 0)
    mean = train.sum(0) / (train > 0).sum(0).clamp_min(1)
    left, before = ((guess - fresh)[both].var() for guess in (registered, mean.expand_as(fresh)))
    assert left < 0.15 * before
    assert left < 2 * NOISE**2


def test_the_rest_is_standard_normal_and_white(codec, train):
    rest, unknown = (codec._untile(moment)[0][:, 0] for moment in codec.moments(train))
    known = codec.near & (unknown == 0)
    assert rest[known].mean().item() == pytest.approx(0, abs=0.05)
    assert rest[known].var().item() == pytest.approx(1, abs=0.15)
    for axis in (1, 2, 3):
        (one, other), (here, there) = (
            (field.narrow(axis, 0, size), field.narrow(axis, 1, size))
            for field, size in ((rest, rest.shape[axis] - 1), (known, rest.shape[axis] - 1))
        )
        assert abs((one * other)[here & there].mean()) < 0.1


def test_bends_have_the_scale_of_the_training_subjects(codec, train):
    """Their largest patterns are left out of it, so it is somewhat smaller."""
    bends = codec._untile(codec.moments(train)[0])[1]
    assert 0.2 < bends.var() < 1.5
    noise = torch.randn(24, 3, *codec.lattice, generator=torch.Generator().manual_seed(0))
    real, made = (
        codec._displace(codec._waves(field) * codec.amplitude).std() for field in (bends, noise)
    )
    assert 0.4 < made / real < 1.1


def test_what_is_drawn_is_one_brain_of_the_right_size(drawn, train):
    for volume in drawn[:, 0].numpy():
        assert largest_part(volume > 0) > 0.995
        assert volume[volume > 0].min() >= 0.15
    real, made = ((each > 0).flatten(1).sum(1).float().mean() for each in (train, drawn))
    assert made / real == pytest.approx(1, abs=0.05)


def test_the_rest_is_unknown_exactly_where_one_has_no_brain(codec, fresh, coded):
    unknown, bends = codec._untile(coded[1])
    brain = codec._stack((fresh > 0) & (codec.decode(coded[0]) > 0))
    assert torch.equal(unknown[:, 0], (codec.near & ~brain).float())
    assert not bends.any()
    assert brain.any()


def test_the_mask_is_zero_away_from_brains(codec, train, coded):
    near, everywhere = codec._untile(codec.mask)
    brain = codec._stack(train > 0).any(0).numpy()
    wide = ndimage.binary_dilation(brain)
    assert not near[0, 0][torch.from_numpy(~wide)].any()
    assert near[0, 0][torch.from_numpy(brain)].all()
    assert (everywhere == 1).all()
    for moment in coded:
        assert not (moment * (1 - codec.mask)).any()


def test_a_code_does_not_depend_on_its_batch(codec, fresh, coded):
    """But for rounding: matrix products of other sizes may add in another order."""
    alone = codec.moments(fresh[2:3])
    for one, all_ in zip(alone, coded, strict=True):
        torch.testing.assert_close(one, all_[2:3], atol=1e-3, rtol=0)
    again = codec.decode(coded[0])[2:3]
    torch.testing.assert_close(codec.decode(coded[0][2:3]), again, atol=1e-4, rtol=0)


def test_it_weighs_latents_by_what_they_change(codec, fresh):
    """A bend that spans the brain counts for more than one of a few voxels."""
    waves = torch.zeros(2, 3, *codec.lattice)
    waves[0, 0, 1, 0, 0] = waves[1, 0, -1, -1, -1] = 1.0
    bends = codec._waves(waves)
    rest = torch.zeros(2, 1, *codec.shape)
    coarse, fine = codec.weigh(codec._tile(rest, bends)).norm(dim=1)
    assert coarse > 10 * fine


def test_it_reloads_as_it_was(codec, fresh, coded, tmp_path):
    codec.save_pretrained(tmp_path)
    again = DeformableTemplate.from_pretrained(tmp_path)
    for moment, expected in zip(again.moments(fresh), coded, strict=True):
        assert torch.equal(moment, expected)
    assert torch.equal(again.decode(coded[0]), codec.decode(coded[0]))
    assert torch.equal(again.mask, codec.mask)


def test_brains_that_reach_every_side_are_brain_everywhere():
    volumes = population(8, shape=(16, 16, 8))
    volumes = volumes + 1.0
    codec = fit(volumes)
    check_they_come_back(codec, volumes, mismatch=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "no value of the images passes 0.15, so all is background"),
        (0.1, "no value of the images passes 0.15, so all is background"),
        (1.0, "every value of the images that passes 0.15 is 1, as in a mask"),
    ],
)
def test_images_without_a_brain_are_refused(value, message):
    with pytest.raises(InputError, match=message):
        fit(torch.full((6, 1, 16, 16, 4), value))
