from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from neuromix.augment.data.grid import Grid
from neuromix.augment.phantom.anatomy import Anatomy
from neuromix.augment.phantom.folding import FoldedAnatomy
from neuromix.augment.phantom.md import mean_diffusivity
from neuromix.augment.phantom.population import person

GRID = Grid.mni(4.0)


@pytest.fixture(scope="module")
def folded():
    return FoldedAnatomy(GRID)


@pytest.fixture(scope="module")
def brains(folded):
    return [draw(folded, index) for index in range(8)]


def draw(folded, index=0, lesions=None, **shape):
    """Person ``index``, some of whose causes are set."""
    who, rng = person(0, "B", index, version=2)
    load = who.lesions if lesions is None else lesions
    return folded.draw(replace(who, lesions=load, shape=replace(who.shape, **shape)), rng)


def test_tissues_are_shares_of_a_voxel_and_volumes_those_of_people(brains):
    for maps in brains:
        assert min(part.min() for part in maps.values()) >= 0
        assert (maps["gm"] + maps["wm"] + maps["csf"]).max() <= 1 + 1e-5
        for part, whole in (("cortex", "gm"), ("lesions", "wm"), ("ventricles", "csf")):
            assert (maps[part] <= maps[whole] + 1e-5).all()
        ml = {name: part.sum() * 0.064 for name, part in maps.items()}
        assert 500 < ml["gm"] < 950
        assert 400 < ml["wm"] < 750
        assert 6 < ml["ventricles"] < 83
        assert 3 < ml["hippocampi"] < 13


def foretold(maps):
    """Correlation of each map with the mean of the others, where some people have it."""
    maps = np.stack(maps)
    inside = maps[:, (maps.mean(0) > 0.3) & (maps.mean(0) < 0.7)]
    others = (inside.sum(0) - inside) / (len(inside) - 1)
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(inside, others, strict=True)])


def test_nobody_else_foretells_where_a_persons_folds_lie(anatomy, brains):
    people = [person(0, "B", index) for index in range(8)]
    bent = [anatomy.draw(who.shape, rng)["gm"] for who, rng in people]
    assert foretold(bent) > 0.3  # version 1: 0.48
    assert foretold([maps["cortex"] for maps in brains]) < 0.15  # 0.03


def test_coarse_voxels_are_averages_of_fine_ones(brains):
    coarse = draw(FoldedAnatomy(Grid.mni(8.0)))
    for name, fine in brains[0].items():
        x, y, z = (side // 2 for side in fine.shape)
        blocks = fine.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))
        # The field of view of 8 mm is wider, by two voxels on either side of x and z.
        np.testing.assert_allclose(coarse[name][2:-2, :, 2:-2], blocks, atol=1e-5)


def test_voxels_finer_than_the_drawing_hold_the_same_person(folded, brains):
    fine = FoldedAnatomy(Grid.mni(1.6))
    ml = {name: part.sum() * 1.6**3 / 1000 for name, part in draw(fine).items()}
    for name in ("gm", "wm", "csf", "ventricles"):
        assert ml[name] == pytest.approx(brains[0][name].sum() * 0.064, rel=0.03)


def test_atrophy_takes_cortex_where_the_person_has_it(folded):
    young, old = (draw(folded, atrophy=share) for share in (0.0, 0.2))
    assert old["csf"].sum() > 1.15 * young["csf"].sum()
    assert old["cortex"].sum() < 0.9 * young["cortex"].sum()
    lost = ndimage.gaussian_filter(old["csf"] - young["csf"], 4)
    had = ndimage.gaussian_filter(young["cortex"], 4)
    share = (lost / had)[had > 0.2]
    assert share.std() > 0.2 * share.mean()  # 0.41 of it; 0.06 if all lose alike


def test_ventricles_grow_large_and_stay_hollow(folded):
    small, large = (draw(folded, 2, ventricles=v)["ventricles"] for v in (-3.0, 16.0))
    assert small.sum() * 0.064 < 12
    assert large.sum() * 0.064 > 55
    hollow = large > 0.5
    filled = np.stack([ndimage.binary_fill_holes(part) for part in np.moveaxis(hollow, 1, 0)], 1)
    assert (filled & ~hollow).sum() < 0.01 * hollow.sum()


def test_lesions_grow_faster_than_their_load(folded):
    none, some, many = (draw(folded, 1, lesions=load)["lesions"].sum() for load in (0.0, 1.0, 2.0))
    assert many - some > 1.5 * (some - none) > 0


def test_md_has_the_tissues_of_people(brains):
    anatomy = Anatomy(GRID)
    values = []
    for index in range(4):
        who, rng = person(0, "B", index, version=2)
        md = mean_diffusivity(anatomy, who, brains[index], rng)
        values.append([
            np.median(md[brains[index][name] > share])
            for name, share in (
                ("wm", 0.95), ("deep", 0.75), ("cortex", 0.75), ("hippocampi", 0.8),
                ("ventricles", 0.95),
            )
        ])  # fmt: skip
    white, thalamus, cortex, hippocampus, ventricle = np.mean(values, 0)
    assert white == pytest.approx(0.72, abs=0.03)
    assert thalamus == pytest.approx(0.74, abs=0.03)
    assert cortex == pytest.approx(0.88, abs=0.03)
    assert hippocampus == pytest.approx(0.90, abs=0.04)
    assert ventricle == pytest.approx(3.0, abs=0.1)


def test_both_versions_have_the_same_people():
    for index in range(20):
        first, second = (person(0, "B", index, version)[0] for version in (1, 2))
        assert first.shape != second.shape
        assert replace(second, shape=first.shape) == first
