from dataclasses import replace

import numpy as np
import pytest

from neuromix.augment.data.grid import Grid
from neuromix.augment.phantom.anatomy import Anatomy, Shape


def brain(anatomy, shape, seed=0):
    return anatomy.draw(shape, np.random.default_rng(seed))


def test_tissues_are_shares_of_a_voxel(anatomy):
    maps = brain(anatomy, Shape())
    total = maps["gm"] + maps["wm"] + maps["csf"]
    assert total.min() >= 0
    assert total.max() < 1.05
    volume = anatomy.volumes(maps)
    assert 1500 < volume["brain_ml"] < 2300
    assert 10 < volume["ventricles_ml"] < 25
    assert 4 < volume["hippocampi_ml"] < 10


@pytest.mark.parametrize(
    ("change", "structure", "grows"),
    [
        ({"ventricles": 6.0}, "ventricles_ml", True),
        ({"hippocampi": 2.0}, "hippocampi_ml", False),
        ({"size": 1.05}, "brain_ml", True),
    ],
)
def test_each_cause_changes_its_structure(anatomy, change, structure, grows):
    plain = anatomy.volumes(brain(anatomy, Shape()))[structure]
    changed = anatomy.volumes(brain(anatomy, replace(Shape(), **change)))[structure]
    assert (changed > 1.1 * plain) if grows else (changed < 0.9 * plain)


def test_atrophy_turns_cortex_into_csf(anatomy):
    young, old = (brain(anatomy, replace(Shape(), atrophy=a)) for a in (0.0, 0.3))
    lost = young["gm"].sum() - old["gm"].sum()
    assert lost > 0.1 * young["gm"].sum()
    assert old["csf"].sum() - young["csf"].sum() == pytest.approx(lost, rel=1e-3)


def test_a_brain_has_the_same_form_at_every_spacing(anatomy):
    coarse = Anatomy(Grid.mni(8.0))
    shape = Shape(ventricles=4.0)
    fine_ml = anatomy.volumes(brain(anatomy, shape, 5))
    coarse_ml = coarse.volumes(brain(coarse, shape, 5))
    assert coarse_ml["brain_ml"] == pytest.approx(fine_ml["brain_ml"], rel=0.02)
    assert coarse_ml["ventricles_ml"] == pytest.approx(fine_ml["ventricles_ml"], rel=0.05)


def test_left_and_right_can_be_told_apart(anatomy):
    """Petalia: a linear classifier tells a brain from its mirror image."""
    rng = np.random.default_rng(7)
    brains = []
    for k in range(120):
        shape = Shape(petalia=1 + 0.3 * rng.standard_normal())
        maps = brain(anatomy, shape, k)
        brains.append(maps["gm"] + 2 * maps["wm"])
    difference = np.stack([(b - b[::-1]).ravel() for b in brains])
    train, test = difference[:80], difference[80:]
    # The direction that best separates the training brains from their mirror images (ridge).
    gram = train @ train.T
    weights = train.T @ np.linalg.solve(gram + 0.3 * np.trace(gram) / 80 * np.eye(80), np.ones(80))
    assert (test @ weights > 0).mean() >= 0.95
