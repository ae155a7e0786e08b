import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from neuromix.augment.errors import InputError
from neuromix.augment.tiled.mosaic import Tiling
from neuromix.augment.tiled.published.slice_autoencoder import SliceAutoencoder

TILING = Tiling((20, 30, 5), "axial")  # tiles of 32 x 32 px in 2 x 3 slots, one of them spare
LARGEST = 3.2
LEVELS = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
}


def volumes(count=2, seed=0):
    return LARGEST * torch.rand(
        count, 1, *TILING.shape, generator=torch.Generator().manual_seed(seed)
    )


def kl(**settings):
    """As in facebook/DiT-XL-2-256: colour, four levels, quant_conv, 4 latent channels."""
    torch.manual_seed(0)
    return AutoencoderKL(**{"latent_channels": 4, **LEVELS, **settings}).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dit")
    kl(scaling_factor=0.5).save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def codec(saved):
    return SliceAutoencoder.from_kl(saved, TILING, largest=LARGEST)


def new():
    torch.manual_seed(0)
    return SliceAutoencoder.new(TILING, channels=6, widths=(4, 8), largest=LARGEST)


@torch.no_grad()
def test_a_pretrained_one_sees_grey_pictures_and_scales_as_it_says(codec):
    volume = volumes(1)
    mean, deviation = codec.moments(volume)
    assert mean.shape == deviation.shape == (1, 4, 8, 12)
    picture = torch.full((1, 3, 32, 32), -1.0)  # padding is background
    picture[..., :20, :30] = volume[:, :, :, :, 2] / 1.6 - 1
    posterior = kl().encode(picture).latent_dist
    parts = (TILING.untile_latents(latents)[:, 2] for latents in (mean, deviation))
    for latents, expected in zip(parts, (posterior.mean, posterior.std), strict=True):
        torch.testing.assert_close(latents, 0.5 * expected, atol=1e-5, rtol=1e-4)
    again = codec.decode(mean)[0, 0, :, :, 2]
    expected = 1.6 * (kl().decode(posterior.mean).sample.mean((0, 1)) + 1)
    torch.testing.assert_close(again, expected[:20, :30], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [new, lambda: kl_codec(in_channels=1, out_channels=1)])
def test_one_channel_and_other_factors_work(make):
    codec = make()
    mean, _ = codec.moments(volumes())
    assert mean.shape == codec.mask.expand(2, -1, -1, -1).shape
    assert codec.decode(mean).shape == volumes().shape


def kl_codec(**settings):
    architecture = {k: v for k, v in kl(**settings).config.items() if not k.startswith("_")}
    return SliceAutoencoder(tiling=TILING.to_dict(), architecture=architecture, largest=LARGEST)


def test_each_slice_is_encoded_by_itself_and_each_volume_whatever_its_batch(codec):
    one, other = volumes(2)
    changed = one.clone()
    changed[..., 3] /= 2
    together, _ = codec.moments(torch.stack([one, other]))
    alone, _ = codec.moments(one[None])
    assert torch.equal(together[:1], alone)
    assert torch.equal(codec.decode(together)[:1], codec.decode(alone))
    difference = (codec.moments(changed[None])[0] - alone).abs()
    by_slice = TILING.untile_latents(difference).sum((0, 2, 3, 4))
    assert by_slice[3] > 0
    assert by_slice.sum() == by_slice[3]


def test_the_mask_leaves_out_the_spare_slot_alone(codec):
    mask = codec.mask
    assert mask.sum() == 4 * TILING.count * 16
    assert not mask[..., 4:, 8:].any()


def test_measured_latents_have_zero_mean_and_unit_variance():
    codec, train = new(), volumes(6)
    codec.standardise(train.split(2))
    mean, deviation = codec.moments(train)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    latents = (mean + deviation * noise)[codec.mask.expand_as(mean) > 0].unflatten(0, (6, 6, -1))
    assert latents.mean((0, 2)).abs().max() < 0.04
    assert (latents.std((0, 2)) - 1).abs().max() < 0.04
    # The same picture whatever the scale of its latents.
    torch.testing.assert_close(codec.decode(mean), new().decode(new().moments(train)[0]))


@pytest.mark.parametrize("make", [new, lambda: kl_codec(scaling_factor=0.5)])
def test_it_reloads_as_it_was_alone_and_in_a_pipeline(make, tmp_path):
    codec = make()
    codec.standardise([volumes(2, seed=4)])
    codec.save_pretrained(tmp_path / "alone")

    class Pipeline(DiffusionPipeline):
        def __init__(self, codec):
            super().__init__()
            self.register_modules(codec=codec)

    Pipeline(codec).save_pretrained(tmp_path / "pipeline")
    for again in (
        SliceAutoencoder.from_pretrained(tmp_path / "alone"),
        Pipeline.from_pretrained(tmp_path / "pipeline").codec,
    ):
        assert torch.equal(again.moments(volumes())[0], codec.moments(volumes())[0])
        latents = codec.moments(volumes())[0]
        assert torch.equal(again.decode(latents), codec.decode(latents))


def test_the_folder_itself_may_be_the_autoencoder(saved, codec):
    again = SliceAutoencoder.from_kl(saved / "vae", TILING, largest=LARGEST)
    assert torch.equal(again.moments(volumes())[0], codec.moments(volumes())[0])


def save_kl(path, **settings):
    kl(**settings).save_pretrained(path)


def save_without(path, name):
    from safetensors.torch import load_file, save_file

    save_kl(path)
    weights = path / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if k != name}, weights)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path: None, "gave no AutoencoderKL"),
        (lambda path: path.mkdir(), "gave no AutoencoderKL with safetensors"),
        (
            lambda path: kl().save_pretrained(path, safe_serialization=False),
            "gave no AutoencoderKL with safetensors",
        ),
        (lambda path: save_without(path, "quant_conv.weight"), "the first is quant_conv.weight"),
        (lambda path: save_kl(path, out_channels=1), "takes 3 channels and gives 1; allowed"),
    ],
)
def test_what_is_no_autoencoder_is_told_in_one_line(save, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "given"
    save(path)
    with pytest.raises(InputError, match=message) as error:
        SliceAutoencoder.from_kl(path, TILING, largest=LARGEST)
    assert "\n" not in str(error.value)
