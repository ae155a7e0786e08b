import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neuromix.augment import InputError
from neuromix.augment.data.grid import Grid, template_on
from neuromix.augment.prepare import space
from neuromix.augment.prepare.space import brain_mask, place, register, restore

GRID = Grid.mni(8.0)
SOURCE = Grid.mni(6.0)


def make_matrix(degrees=(0, 0, 0), scales=(1, 1, 1), shift=(0, 0, 0)):
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag(scales)
    matrix[:3, 3] = shift
    return matrix


def make_brain(grid, truth):
    """The template's MD and brain on a grid of a head that lies where ``truth`` says."""
    # The template's voxels, seen from the head's world.
    maps = template_on(Grid.mni(3.0))
    brain = (maps["brain"] > 0.5).astype(np.float32)
    fluid = np.clip(1 - maps["gm"] - maps["wm"], 0, 1)
    md = (0.85 * maps["gm"] + 0.7 * maps["wm"] + 3.0 * fluid) * brain
    matrix = np.linalg.inv(Grid.mni(3.0).affine) @ np.linalg.inv(truth) @ grid.affine
    moved = [
        ndimage.affine_transform(m, matrix[:3, :3], matrix[:3, 3], grid.shape, order=1)
        for m in (md, brain)
    ]
    return moved[0], moved[1] > 0.5


def distances(found, truth):
    """How far apart two transforms put points of the brain, in mm."""
    points = GRID.points()[:, template_on(GRID)["brain"] > 0.5]
    points = np.vstack([points, np.ones(points.shape[1])])
    return np.linalg.norm(((found - truth) @ points)[:3], axis=0)


def test_a_turned_scaled_and_shifted_md_map_is_found(monkeypatch):
    # Coarse and short, for the sake of time: the real settings reach 0.5 mm.
    monkeypatch.setattr(space, "COARSE", SOURCE)
    monkeypatch.setattr(space, "ITERATIONS", (60, 20))
    truth = make_matrix((10, -6, 12), (0.9, 0.97, 0.93), (12, 25, -18))
    # Oblique, left-handed voxels, as scanners make them.
    las = np.diag([-4.0, 4.0, 4.0, 1.0])
    source = Grid((48, 56, 48), make_matrix((0, 0, 10)) @ las)
    source.affine[:3, 3] += truth[:3] @ [0, -17, 5, 1] - (source.affine @ [24, 28, 24, 1])[:3]
    md, mask = make_brain(source, truth)
    transform, _, overlap = register(np.exp(-md), source.affine, mask)
    assert distances(transform, truth).max() < 2  # measured: 1.3 mm
    assert overlap > 0.95


@pytest.fixture
def hasty(monkeypatch):
    """A registration of a second, for brains that lie nearly right."""
    monkeypatch.setattr(space, "ITERATIONS", (3, 1))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "PSR"])
def test_left_stays_left_in_any_orientation(axes):
    md, mask = make_brain(SOURCE, make_matrix(shift=(6, 0, 0)))
    md[SOURCE.points()[0] > 6] *= 1.2  # the right half, and a lesion in it
    md[44 // 6 + 13, 12, 13] = 3
    image = nib.Nifti1Image(np.stack([md, mask], axis=-1), SOURCE.affine)
    to_axes = nib.orientations.axcodes2ornt(axes)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), to_axes)
    )
    assert "".join(nib.aff2axcodes(turned.affine)) == axes
    data = turned.get_fdata()
    transform, mask, _ = register(data[..., 0], turned.affine, data[..., 1] > 0.5)
    result, _ = place(data[..., 0], turned.affine, GRID, transform, mask)
    x = GRID.points()[0]
    grey = template_on(GRID)["gm"] > 0.7
    right, left = (np.median(result[grey & side]) for side in (x > 8, x < -8))
    assert right / left == pytest.approx(1.2, abs=0.06)


@pytest.mark.usefixtures("hasty")
def test_frames_move_together_and_the_skull_goes():
    brain, mask = make_brain(SOURCE, np.eye(4))
    head = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask)
    frame = 600 * np.exp(-brain) * mask + 60 * head
    data = np.stack([frame, 2 * frame, 3 * frame], axis=-1)
    transform, mask, overlap = register(data.mean(axis=3), SOURCE.affine)
    result, _ = place(data, SOURCE.affine, GRID, transform, mask)
    assert result.shape == (*GRID.shape, 3)
    np.testing.assert_allclose(result[..., 2], 3 * result[..., 0], rtol=1e-4)
    outside = ~ndimage.binary_dilation(template_on(GRID)["brain"] > 0.3)
    assert not result[outside].any()
    assert overlap > 0.9


def test_the_record_is_exact_and_goes_through_json():
    truth = make_matrix((5, -3, 7), (0.95, 1.0, 0.9), (1 / 3, 2.7, -9.1))
    md, _ = make_brain(SOURCE, truth)
    image, record = place(md, SOURCE.affine, GRID, truth)
    again = json.loads(json.dumps(record))
    assert again == record
    np.testing.assert_array_equal(again["transform"], truth)
    back = restore(image, again)
    np.testing.assert_array_equal(back, restore(image, record))
    assert back.shape == SOURCE.shape


def test_there_and_back_again_is_where_it_was():
    truth = make_matrix((5, -3, 7), (0.95, 1.0, 0.9), (4, 2.7, -9.1))
    spot = np.exp(
        -(((SOURCE.points() - np.array([18, -7, 11])[:, None, None, None]) / 25) ** 2).sum(0)
    )
    image, record = place(np.stack([spot, 2 * spot], -1), SOURCE.affine, Grid.mni(4.0), truth)
    back = restore(image, record)
    assert back.shape == (*SOURCE.shape, 2)
    centres = [ndimage.center_of_mass(v) for v in (spot, back[..., 0])]
    np.testing.assert_allclose(*centres, atol=0.05)  # voxels of 6 mm
    assert np.abs(back[..., 0] - spot).max() < 0.07  # two interpolations of a peak of 1
    np.testing.assert_allclose(back[..., 1], 2 * back[..., 0], rtol=1e-5)


def test_tissue_values_do_not_fade_at_the_edge_of_the_brain():
    mask = template_on(SOURCE)["brain"] > 0.5
    image, _ = place(0.8 * mask, SOURCE.affine, GRID, np.eye(4), mask)
    assert set(np.unique(image.round(4))) == {np.float32(0), np.float32(0.8)}
    assert np.abs((image > 0).sum() * 8**3 / (mask.sum() * 6**3) - 1) < 0.05


def test_rounding_errors_of_an_affine_do_not_blank_the_border():
    affine = SOURCE.affine.copy()
    affine[:3, 3] += 1e-9
    image, _ = place(np.ones(SOURCE.shape), affine, SOURCE, np.eye(4))
    np.testing.assert_allclose(image, 1)


def test_brain_mask_leaves_out_what_hangs_on_by_a_thread():
    centred = np.indices((40, 40, 40)) - 19.5
    brain = (centred**2).sum(0) < 12**2
    eye = ((centred - np.array([0, 17, 0])[:, None, None, None]) ** 2).sum(0) < 3**2
    eye[19:21, 30:35, 19:21] = True
    noise = np.random.default_rng(0).rayleigh(3, brain.shape)
    mask = brain_mask(np.where(brain | eye, 100, noise), spacing=4.0)
    assert (mask & brain).sum() > 0.97 * brain.sum()
    assert not mask[eye & ~ndimage.binary_dilation(brain, iterations=2)].any()


@pytest.mark.usefixtures("hasty")
def test_what_cannot_be_registered_is_refused_in_one_line():
    slab = np.ones((40, 40, 2))
    with pytest.raises(InputError, match="a slab of 40 x 40 x 2 voxels"):
        register(slab, np.diag([3.0, 3.0, 3.0, 1.0]))
    block = np.zeros((40, 40, 40))
    block[:12] = 1
    with pytest.raises(InputError, match="registration failed") as error:
        register(block, np.diag([3.0, 3.0, 3.0, 1.0]), block > 0)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no signal in the brain mask"):
        register(block, np.diag([3.0, 3.0, 3.0, 1.0]), block < 1)
