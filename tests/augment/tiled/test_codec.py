import pytest
import torch

from neuromix.augment.errors import InputError
from neuromix.augment.tiled.codec import VolumeCodec, codec_of


def volumes(count=6, gain=0.2):
    """Brains of some brightness in a box of zeros, (N, 1, 9, 10, 5)."""
    generator = torch.Generator().manual_seed(0)
    made = torch.zeros(count, 1, 9, 10, 5)
    made[:, :, 2:7, 2:8, 1:4] = 1 + 0.3 * torch.rand(count, 1, 5, 6, 3, generator=generator)
    return made * (gain * torch.randn(count, generator=generator)).exp()[:, None, None, None, None]


def codec(image, plane="axial", data=None):
    made = volumes() if data is None else data
    return codec_of(made, plane, (2, 4, 4), image, (0.15, 3.2))


def generators(count=6):
    return [torch.Generator().manual_seed(k) for k in range(count)]


@pytest.mark.parametrize(
    ("plane", "shape"),
    [("axial", (6, 12, 12)), ("coronal", (10, 12, 8)), ("sagittal", (10, 12, 8))],
)
def test_a_quantitative_map_comes_back_as_it_was(plane, shape):
    made = codec("fa", plane)
    stacks = made.encode(volumes())
    assert stacks.shape == (6, *shape)
    assert stacks.min() == -1
    assert torch.allclose(made.decode(stacks, generators()), volumes(), atol=1e-5)


def test_brightness_is_taken_off_and_given_back():
    made, data = codec("t1"), volumes()
    stacks = made.encode(data)
    bright = torch.stack([s[s > -0.9].quantile(0.9) for s in stacks])
    assert bright.std() < 1e-4 < 0.1 * data.amax((1, 2, 3, 4)).std()
    back = made.decode(stacks, generators())
    ratio = back.amax((1, 2, 3, 4)).log().std() / data.amax((1, 2, 3, 4)).log().std()
    assert 0.3 < ratio < 3
    assert torch.equal(back, made.decode(stacks, generators()))


def test_md_is_within_its_limits_and_background_is_zero():
    made = codec("md")
    wild = 5 * torch.randn(2, *made.padded)
    values = made.decode(wild, generators(2))
    assert values.min() == 0 and values.max() == pytest.approx(3.2)
    assert not ((values > 0) & (values < 0.15)).any()
    assert not values[..., 0].any() or made.inside[0].any()


def test_a_constant_image_is_refused_in_a_line():
    flat = torch.ones(2, 1, 9, 10, 5)
    with pytest.raises(InputError, match="an image is constant"):
        codec("t1", data=flat)


def test_it_reloads(tmp_path):
    made = codec("t1")
    made.save_pretrained(tmp_path)
    again = VolumeCodec.from_pretrained(tmp_path)
    assert torch.equal(again.encode(volumes()), made.encode(volumes()))
    stacks = made.encode(volumes())
    assert torch.equal(again.decode(stacks, generators()), made.decode(stacks, generators()))
