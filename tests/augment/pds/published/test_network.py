import pytest
import torch
from torch import nn

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.pds.published.network import DualModalUNet, SpatialAttention
from neuromix.augment.pds.published.pattern import PatternModule

GRID = Grid.mni(12.0)
SPACE = LabelSpace({"diagnosis": ("NC", "AD")})


def new(pattern=True, widths=(8, 16), patch=1):
    torch.manual_seed(0)
    network = DualModalUNet(
        SPACE, modalities=2, known_channels=3, segments=2, widths=widths,
        patch=patch, heads=2, pattern=PatternModule(GRID.to_dict()) if pattern else None,
    )  # fmt: skip
    nn.init.normal_(network.head.weight, std=0.1)  # it starts as zero, which would hide all else
    return network


def inputs(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(count, 2, *GRID.shape, generator=generator)
    known = torch.randn(count, 3, *GRID.shape, generator=generator)
    return noisy, known, torch.full((count,), 400.0)


LABELS = {"diagnosis": torch.tensor([0, 2])}


def test_it_starts_as_zero_and_gradients_reach_everything():
    network = new()
    nn.init.zeros_(network.head.weight)
    made = network(*inputs(), torch.tensor([0, 1]), LABELS)
    assert made.shape == (2, 2, *GRID.shape)
    assert not made.any()
    network = new()
    nn.init.normal_(network.gates)
    network(*inputs(), torch.tensor([0, 1]), LABELS).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 8, 16)])
def test_the_source_is_seen_at_every_resolution(widths):
    network = new(widths=widths).eval()
    noisy, known, time = inputs(1)
    direction, labels = torch.tensor([0]), {"diagnosis": torch.tensor([2])}
    with torch.no_grad():
        whole = network(noisy, known, time, direction, labels)
        for level in range(len(widths)):
            handed = network.handed[level]
            weight, bias = handed.weight.clone(), handed.bias.clone()
            handed.weight.zero_(), handed.bias.zero_()
            cut = network(noisy, known, time, direction, labels)
            assert (cut - whole).abs().mean() > 1e-3 * whole.abs().mean()
            handed.weight.copy_(weight), handed.bias.copy_(bias)


def test_one_far_voxel_of_the_source_changes_the_output():
    """One resolution and no pooling: convolutions reach five voxels, attention the whole brain."""
    network = new(pattern=False, widths=(8,)).eval()
    # GroupNorm would carry a trace of any voxel everywhere; attention alone shall do it.
    for module in [m for m in network.modules() if hasattr(m, "norm_1")]:
        module.norm_1 = module.norm_2 = nn.Identity()
    network.attention.norm_target = network.attention.norm_source = nn.Identity()
    network.norm = nn.Identity()
    noisy, known, time = inputs(1)
    direction, labels = torch.tensor([0]), {"diagnosis": torch.tensor([2])}
    changed = known.clone()
    changed[0, 0, 0, 0, 0] += 30
    with torch.no_grad():
        difference = (
            network(noisy, changed, time, direction, labels)
            - network(noisy, known, time, direction, labels)
        ).abs()
        far = difference[..., -4:, -4:, -4:]
        assert far.min() > 0
        nn.init.zeros_(network.attention.out.weight)
        without = (
            network(noisy, changed, time, direction, labels)
            - network(noisy, known, time, direction, labels)
        ).abs()
    assert not without[..., -4:, -4:, -4:].any()
    assert without[..., :2, :2, :2].any()


def test_attention_is_over_positions_not_channels():
    torch.manual_seed(0)
    attention = SpatialAttention(8, 2)
    target, source = torch.randn(1, 8, 3, 4, 5), torch.randn(1, 8, 3, 4, 5)
    made = attention(target, source, None)
    assert made.shape == target.shape
    # Positions that change places in the source change nothing: each is a key of its own.
    order = torch.randperm(60)
    shuffled = source.flatten(2)[:, :, order].unflatten(2, (3, 4, 5))
    torch.testing.assert_close(attention(target, shuffled, None), made, atol=1e-5, rtol=1e-4)
    # In the target they take their answers with them.
    moved = target.flatten(2)[:, :, order].unflatten(2, (3, 4, 5))
    expected = made.flatten(2)[:, :, order].unflatten(2, (3, 4, 5))
    torch.testing.assert_close(attention(moved, source, None), expected, atol=1e-5, rtol=1e-4)
    # Channels do not.
    channels = source[:, torch.randperm(8)]
    assert (attention(target, channels, None) - made).abs().max() > 1e-3


def test_attention_leans_to_the_pattern():
    torch.manual_seed(0)
    attention = SpatialAttention(8, 2)
    target, source = torch.randn(1, 8, 4, 4, 4), torch.randn(1, 8, 4, 4, 4)
    pattern = torch.zeros(1, 1, 4, 4, 4)
    pattern[..., 2, 2, 2] = 1
    louder = source.clone()
    louder[..., 2, 2, 2] += 1

    def felt():
        return float(
            (attention(target, louder, pattern) - attention(target, source, pattern)).norm()
        )

    with torch.no_grad():
        plain = felt()
        attention.bias.fill_(4.0)
        assert felt() > 3 * plain


def test_direction_label_and_pattern_make_a_difference():
    network = new().eval()
    nn.init.constant_(network.gates, 0.5)
    noisy, known, time = inputs(1)
    both = [torch.tensor([d]) for d in (0, 1)]
    none, disease = ({"diagnosis": torch.tensor([k])} for k in (2, 1))
    with torch.no_grad():
        plain = network(noisy, known, time, both[0], none)
        assert (network(noisy, known, time, both[1], none) - plain).abs().mean() > 0.01
        assert (network(noisy, known, time, both[0], disease) - plain).abs().mean() > 1e-3
        nn.init.zeros_(network.gates)
        assert (network(noisy, known, time, both[0], none) - plain).abs().mean() > 1e-4


def test_sides_that_do_not_divide_are_padded():
    network = new(pattern=False, patch=4)
    noisy, known, time = inputs(1)
    cut = (..., slice(0, 13), slice(0, 14), slice(0, 11))
    made = network(
        noisy[cut], known[cut], time, torch.tensor([1]), {"diagnosis": torch.tensor([2])}
    )
    assert made.shape == (1, 2, 13, 14, 11)
