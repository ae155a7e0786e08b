import json

import numpy as np
import pytest
import torch

from neuromix.augment.errors import InputError
from neuromix.augment.tiled.mosaic import Tiling

PLANES = ("axial", "coronal", "sagittal")
SHAPES = [(40, 48, 40), (17, 33, 5), (1, 1, 1), (16, 32, 1), (3, 2, 11)]


def tile(tiling, volume, fill=0.0):
    """A whole volume as a mosaic, as its slices' latents are laid out one by one."""
    return tiling._join(tiling._split(volume, fill), fill)


def untile(tiling, mosaic):
    return tiling._stack(tiling._cut(mosaic))


def numbered(shape):
    return torch.arange(np.prod(shape), dtype=torch.float32).reshape(shape) + 1


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tile_and_back_is_exact(shape, plane):
    tiling = Tiling(shape, plane)
    volume = numbered((2, 3, *shape))
    mosaic = tile(tiling, volume)
    assert mosaic.shape == (2, 3, *tiling.mosaic_shape)
    assert all(side % 16 == 0 for side in (*tiling.mosaic_shape, *tiling.tile_shape))
    assert torch.equal(untile(tiling, mosaic), volume)
    assert torch.equal(tile(tiling, volume[0, 0]), mosaic[0, 0])  # leading axes do not matter


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("shape", SHAPES)
def test_slices_and_back_is_exact(shape, plane):
    tiling = Tiling(shape, plane)
    volume = numbered((2, 1, *shape))
    slices = tiling.slices(volume)
    assert slices.shape == (2 * tiling.count, 1, *tiling.tile_shape)
    assert torch.equal(tiling.from_slices(slices), volume)


@pytest.mark.parametrize("plane", PLANES)
def test_every_slot_holds_its_slice_unturned(plane):
    tiling = Tiling((10, 20, 7), plane)
    volume = numbered(tiling.shape)
    mosaic = tile(tiling, volume, fill=-1.0)
    (rows, columns), (height, width) = tiling.layout, tiling.tile_shape
    seen = torch.zeros_like(mosaic, dtype=torch.bool)
    for index in range(tiling.count):
        top, left = index // columns * height, index % columns * width
        plain = torch.select(volume, tiling.axis, index)
        area = (slice(top, top + plain.shape[0]), slice(left, left + plain.shape[1]))
        assert torch.equal(mosaic[area], plain)
        seen[area] = True
    assert rows * columns >= tiling.count
    assert (mosaic[~seen] == -1).all()  # padding and spare slots hold the fill


def test_voxel_axes_are_kept_so_the_affine_is():
    """A blob at a world position is still there after the way through the mosaic."""
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    volume = np.zeros((20, 24, 18), dtype=np.float32)
    volume[3, 20, 5] = 1
    for plane in PLANES:
        tiling = Tiling(volume.shape, plane)
        voxel = np.argwhere(untile(tiling, tile(tiling, torch.from_numpy(volume))).numpy() == 1)[0]
        assert np.array_equal(affine @ [*voxel, 1], [84, -86, -62, 1])


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((16, 16, 1), (1, 1)),
        ((16, 16, 7), (3, 3)),
        ((16, 16, 12), (3, 4)),
        ((64, 16, 4), (1, 4)),  # tall tiles stand side by side
        ((16, 64, 4), (4, 1)),
        ((40, 48, 40), (6, 7)),
    ],
)
def test_the_mosaic_is_as_square_as_tiles_allow(shape, layout):
    assert Tiling(shape).layout == layout


@pytest.mark.parametrize("factor", [1, 4, 8])
def test_latents_are_tiled_like_pixels(factor):
    tiling = Tiling((20, 40, 5))
    latents = torch.randn(2, 5, 3, 32 // factor, 48 // factor)
    mosaic = tiling.tile_latents(latents)
    assert mosaic.shape == (2, 3, *(side // factor for side in tiling.mosaic_shape))
    assert torch.equal(tiling.untile_latents(mosaic), latents)
    pixels = latents.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
    volume = tiling.from_slices(pixels.flatten(0, 1))
    coarse = tile(tiling, volume)[..., ::factor, ::factor]
    inside = tile(tiling, torch.ones(tiling.shape))[..., ::factor, ::factor] > 0
    assert torch.equal(coarse[..., inside], mosaic[..., inside])


def test_gradients_pass():
    tiling = Tiling((5, 6, 7))
    volume = torch.randn(1, 1, 5, 6, 7, requires_grad=True)
    tile(tiling, volume).sum().backward()
    assert torch.equal(volume.grad, torch.ones_like(volume))


def test_tokens_know_their_place():
    tiling = Tiling((30, 20, 7), "coronal")  # 20 slices of 32 x 16 pixels
    rows, columns = tiling.layout
    volume = torch.stack(torch.meshgrid(*map(torch.arange, tiling.shape), indexing="ij"))
    mosaic = tile(tiling, volume, fill=-1)[:, ::16, ::16].flatten(1).T.numpy()
    positions, mask = tiling.token_positions(16), tiling.token_mask(16)
    assert positions.shape == (rows * columns * 2, 3)
    assert mask.sum() == 20 * 2
    expected = np.stack([mosaic[:, 0] // 16, mosaic[:, 2] // 16, mosaic[:, 1]], axis=1)
    assert np.array_equal(positions[mask], expected[mask])
    assert (positions[~mask, 2] >= 20).all()
    assert (mosaic[~mask] == -1).all()


def test_config_round_trip():
    tiling = Tiling((5, 6, 7), "sagittal", multiple=8)
    assert Tiling.from_dict(json.loads(json.dumps(tiling.to_dict()))) == tiling


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tiling((4, 4, 4), "oblique"), "'oblique' is not known; allowed are sagittal"),
        (lambda: Tiling((4, 0, 4)), r"\(4, 0, 4\) .* cannot be tiled"),
        (lambda: Tiling((4, 4)), "three sides"),
        (
            lambda: Tiling((4, 5, 6)).slices(torch.zeros((1, 1, 4, 5, 7))),
            r"\(4, 5, 7\) came.*takes \(4, 5",
        ),
        (lambda: Tiling((4, 5, 6)).tile_latents(torch.zeros(1, 5, 4, 2, 2)), "latents of shape"),
        (lambda: Tiling((40, 40, 2)).tile_latents(torch.zeros(1, 2, 4, 5, 5)), r"\(48, 48\) div"),
        (lambda: Tiling((40, 40, 2)).tile_latents(torch.zeros(1, 2, 4, 6, 12)), r"sides \(6, 12"),
        (lambda: Tiling((4, 5, 6)).untile_latents(torch.zeros(1, 4, 4, 5)), r"sides \(4, 5\)"),
        (lambda: Tiling((4, 5, 6)).token_positions(12), r"tokens of 12 px; give Tiling\(mul"),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(InputError, match=message):
        call()
