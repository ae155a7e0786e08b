import pytest
import torch

from neuromix.augment.tiled.codec import VolumeCodec, codec_of


def volumes(count=6, gain=0.2):
    """Brains of some brightness in a box of zeros, (N, 1, 9, 10, 5)."""
    generator = torch.Generator().manual_seed(0)
    made = torch.zeros(count, 1, 9, 10, 5)
    made[:, :, 2:7, 2:8, 1:4] = 1 + 0.3 * torch.rand(count, 1, 5, 6, 3, generator=generator)
    return made * (gain * torch.randn(count, generator=generator)).exp()[:, None, None, None, None]


def codec(image, plane="axial", data=None):
    made = volumes() if data is None else data
    return codec_of(made, plane, (2, 4, 4), image)


def generators(count=6):
    return [torch.Generator().manual_seed(k) for k in range(count)]


@pytest.mark.parametrize(
    ("plane", "shape"),
    [("axial", (12, 12, 12)), ("coronal", (20, 12, 8)), ("sagittal", (20, 12, 8))],
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
    tissue = made.stack(data) > 0
    bright = torch.stack([
        s[: made.room[0]][m].quantile(0.9) for s, m in zip(stacks, tissue, strict=True)
    ])  # fmt: skip
    assert bright.std() < 1e-4 < 0.1 * data.amax((1, 2, 3, 4)).std()
    back = made.decode(stacks, generators())
    ratio = back.amax((1, 2, 3, 4)).log().std() / data.amax((1, 2, 3, 4)).log().std()
    assert 0.3 < ratio < 3
    assert torch.equal(back, made.decode(stacks, generators()))


def test_contrast_is_taken_off_and_given_back():
    """Grey over white differs by person, and so does how much grey there is."""
    generator = torch.Generator().manual_seed(2)
    data = torch.zeros(40, 1, 12, 10, 5)
    data[:, :, 1:11, 2:8, 1:4] = 1.0
    for person in data:
        person[:, 1 : 3 + int(torch.randint(3, (), generator=generator)), 2:8, 1:4] = 0.6
        person[:, 9, 2:8, 1:4] = 0.3
        person[:, 10, 2:4, 1] = 0.1  # no mask ends it
    data *= 1 + 0.02 * torch.randn(data.shape, generator=generator)
    powers = (0.2 * torch.randn(40, generator=generator)).exp()
    data = data ** powers[:, None, None, None, None]
    made = codec("t1", data=data)
    assert made.config["contrasted"] and not codec("fa").config["contrasted"]
    seen = 0.55 * (made.unstack(made.encode(data)) + 1)
    back = made.decode(made.encode(data), generators(40))
    given, taken, again = (
        (each[:, 0, 2] / each[:, 0, 6]).clamp_min(1e-3)[:, 3:7, 1:4].mean((1, 2)).log().std()
        for each in (data, seen, back)
    )
    assert taken < 0.2 * given
    assert 0.6 < again / given < 1.6


def test_md_is_within_its_limits_and_background_is_zero():
    made = codec("md")
    wild = 5 * torch.randn(2, *made.padded)
    values = made.decode(wild, generators(2))
    assert values.min() == 0 and values.max() == pytest.approx(3.2)
    assert not ((values > 0) & (values < 0.15)).any()
    assert not values[..., 0].any() or made.inside[0].any()


def test_it_reloads(tmp_path):
    made = codec("t1")
    made.save_pretrained(tmp_path)
    again = VolumeCodec.from_pretrained(tmp_path)
    assert torch.equal(again.encode(volumes()), made.encode(volumes()))
    stacks = made.encode(volumes())
    assert torch.equal(again.decode(stacks, generators()), made.decode(stacks, generators()))


def brains(count=40):
    """Balls of tissue of 0.7 to 2 whose size differs, (N, 1, 12, 12, 8), cut out by a mask."""
    generator = torch.Generator().manual_seed(0)
    place = torch.stack(
        torch.meshgrid(*(torch.arange(n) - n / 2 for n in (12, 12, 8)), indexing="ij"), -1
    )
    radius = 4 + 0.7 * torch.randn(count, generator=generator)
    mask = (place * torch.tensor([1.0, 1.0, 1.4])).norm(dim=-1) < radius[:, None, None, None]
    tissue = 1 + 0.3 * torch.randn(count, 12, 12, 8, generator=generator).clamp(-1, 3)
    return (tissue.clamp_min(0.7) * mask)[:, None]


def test_a_mask_is_a_stack_of_its_own_and_comes_back():
    data = brains()
    made = codec("md", data=data)
    assert made.config["outlined"] and made.padded == (16, 12, 12)
    stacks = made.encode(data)
    back = made.decode(stacks, generators(len(data)))
    assert ((back > 0) == (data > 0)).all()
    both = (back > 0) & (data > 0)
    assert torch.allclose(back[both], data[both], atol=1e-4)
    # Tissue goes on beyond the mask, so that no voxel of the rim is bimodal.
    tissue = stacks[:, :8][made.inside[:8].expand(len(data), -1, -1, -1)]
    assert tissue.min() > -0.8


def test_samples_of_a_masked_map_have_one_outline_and_no_faint_tissue():
    from neuromix.augment.diffusion.cross_fitting import fit_priors
    from neuromix.augment.diffusion.denoiser import Denoiser
    from neuromix.augment.diffusion.flow import FlowMultistepScheduler
    from neuromix.augment.diffusion.pipeline import solve
    from neuromix.augment.diffusion.resolution import settings_of

    data = brains()
    made = codec("md", data=data)
    settings = settings_of(made.padded, (8.0, 8.0, 8.0), made.inside, 0)
    generator = torch.Generator().manual_seed(0)
    folds = torch.arange(len(data)) % 2
    priors = fit_priors(settings, made.encode(data), made.inside, None, folds, generator)
    denoiser = Denoiser(
        label_space={"categories": {}, "ranges": {}}, prior_settings=settings,
        network_settings={}, parameters=7,
    )  # fmt: skip
    denoiser.prior.load_state_dict(priors[0].state_dict())
    noise = torch.randn(16, *made.padded, generator=generator)
    stacks = solve(denoiser, FlowMultistepScheduler(), noise, 20, 1.0, {}, {})
    drawn = made.decode(stacks, generators(16))
    assert specks(drawn) < 2 * specks(data) + 0.01
    assert drawn[drawn > 0].min() >= data[data > 0].min()
    sizes, real = (v.flatten(1).count_nonzero(1).float() for v in (drawn, data))
    assert 0.5 < sizes.std() / real.std() < 1.5
    assert sizes.mean() == pytest.approx(float(real.mean()), rel=0.1)


def specks(volumes):
    """Share of voxels that most of their neighbours contradict."""
    mask = (volumes > 0).float()
    near = torch.nn.functional.avg_pool3d(mask, 3, 1, 1)
    return float(((mask - near).abs() > 0.6).sum() / mask.sum())


def test_much_bright_fluid_does_not_hide_that_tissue_ends_at_a_mask():
    data = brains()
    fluid = torch.rand(data.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    assert codec("md", data=torch.where(fluid & (data > 0), 3.0, data)).config["outlined"]
    soft = torch.nn.functional.avg_pool3d(data, 3, 1, 1)
    assert not codec("t1", data=soft).config["outlined"]
