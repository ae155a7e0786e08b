import math

import pytest
import torch

from neuromix.augment.diffusion.prior import Prior
from neuromix.augment.diffusion.resolution import LEVELS, block, place, times

SHAPE, SPACING = (3, 12, 12), (3.0, 3.0, 3.0)
INSIDE = torch.ones(SHAPE, dtype=torch.bool)


def people(count, seed=0, smooth=True):
    """Volumes with neighbours that resemble one another, and a label that raises one corner."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(count, 1, *SHAPE, generator=generator)
    if smooth:
        fields = 2 * torch.nn.functional.avg_pool3d(fields, (1, 5, 5), 1, (0, 2, 2))
    label = torch.arange(count) % 2
    volumes = fields[:, 0] + 0.5
    volumes[:, :, :6, :6] += 2.0 * label[:, None, None, None]
    features = torch.stack([1.0 - label, label.float()], 1)
    return volumes, features


def fitted(count=60, **settings):
    volumes, features = people(count)
    prior = Prior(SHAPE, SPACING, features=2, **{"reach": (1, 2, 2), "cell": (1, 2, 2)} | settings)
    prior.fit(volumes, INSIDE, features)
    return prior


def error(prior, volumes, features, t, blend=None):
    if blend is not None:
        prior.blend.fill_(blend)
    noise = torch.randn(volumes.shape, generator=torch.Generator().manual_seed(5))
    noisy = (1 - t) * volumes + t * noise
    estimate, _ = prior(noisy, torch.full((len(volumes),), t), features)
    return ((estimate - volumes) ** 2).mean().item()


@pytest.mark.parametrize("t", [0.3, 0.6])
def test_neighbours_say_more_than_a_voxel_alone(t):
    volumes, features = people(40, seed=1)
    alone = error(fitted(reach=(0, 0, 0)), volumes, features, t, blend=0)
    near = error(fitted(), volumes, features, t, blend=0)
    assert near < 0.8 * alone


def test_much_noise_leaves_the_mean_of_the_label():
    prior = fitted()
    _, features = people(2)
    estimate, mean = prior(torch.randn(2, *SHAPE), torch.full((2,), 0.998), features)
    assert (estimate - mean).abs().mean() < 0.2
    raised = mean[1] - mean[0]
    assert raised[:, :6, :6].mean() == pytest.approx(2.0, abs=0.3)
    assert raised[:, 7:, 7:].abs().mean() < 0.3


def test_a_missing_label_gives_the_mean_of_all():
    prior = fitted()
    unknown = torch.full((1, 2), torch.nan)
    assert torch.allclose(prior.expected(unknown)[0], prior.mean)


def test_little_noise_is_left_as_it_is():
    volumes, features = people(10, seed=2)
    assert error(fitted(), volumes, features, 0.01, blend=0) < 0.011**2


def test_the_filter_is_the_linear_estimate_of_its_covariance():
    volumes, _ = people(50)
    prior = Prior(SHAPE, SPACING, reach=(0, 1, 1), cell=(1, 2, 2))
    prior.fit(volumes, INSIDE)
    level = 8
    rest = volumes - volumes.mean(0)
    padded = torch.nn.functional.pad(rest, (2, 2, 2, 2))
    row, column = 5, 7
    covariance = torch.zeros(9, 9)
    for down in range(-1, 2):
        for right in range(-1, 2):
            top, left = row + 1 + down, column + 1 + right  # of the patch, in padded voxels
            patch = padded[:, 1, top : top + 3, left : left + 3].reshape(50, 9)
            covariance += patch.T @ patch / (49 * 9)
    noise = float(times()[level] / (1 - times()[level])) ** 2
    system = covariance + (noise + 1e-5) * torch.eye(9)
    expected = torch.linalg.solve(system, covariance[:, 4])
    assert torch.allclose(
        prior.filters[level].unflatten(1, SHAPE)[:, 1, row, column].float(), expected, atol=2e-3
    )


def test_a_known_context_tells_what_noise_hides():
    volumes, _ = people(60)
    others, _ = people(20, seed=3)
    context, theirs = 0.5 * volumes[:, None] + 1, 0.5 * others[:, None] + 1
    t = torch.full((20,), 0.9)
    noise = torch.randn(others.shape, generator=torch.Generator().manual_seed(0))
    noisy = 0.1 * others + 0.9 * noise
    errors = []
    for known, its in ((None, None), (context, theirs)):
        prior = Prior(
            SHAPE, SPACING, context=0 if known is None else 1, reach=(0, 1, 1), cell=(1, 2, 2)
        )
        prior.fit(volumes, INSIDE, context=known)
        estimate, _ = prior(noisy, t, context=its)
        errors.append(((estimate - others) ** 2).mean())
    assert errors[1] < 0.05 * errors[0]


def test_far_cells_are_not_believed_but_for_the_leading_modes():
    generator = torch.Generator().manual_seed(0)
    loud = torch.randn(40, 1, 1, 1, generator=generator)  # one mode, everywhere
    volumes = loud + 0.2 * torch.randn(40, *SHAPE, generator=generator)
    prior = Prior(SHAPE, (3.0, 30.0, 30.0), cell=(1, 2, 2), reach=(0, 1, 1))
    prior.fit(volumes, INSIDE)
    covariance = (prior.vectors * prior.powers) @ prior.vectors.T
    assert covariance[0, -1] == pytest.approx(loud.var().item(), rel=0.2)
    one, other = covariance[0, 0] - covariance[0, -1], covariance[0, -1]
    assert one < 0.2 * other


def test_voxels_that_share_a_filter_lose_little():
    volumes, features = people(40, seed=1)
    own, shared = fitted(), fitted(share=(1, 2, 2))
    assert shared.filters.numel() < own.filters.numel() / 3
    assert error(shared, volumes, features, 0.5) < 1.1 * error(own, volumes, features, 0.5)


def test_a_plain_prior_knows_one_variance_only():
    volumes, _ = people(60)
    plain = Prior(SHAPE, SPACING, reach=(0, 0, 0), share=SHAPE, cell=(1, 2, 2))
    plain.fit_plain(volumes, INSIDE)
    t = torch.tensor([0.5])
    estimate, mean = plain(0.5 * volumes[:1] + 0.5, t)
    variance = float(volumes.var())
    assert torch.allclose(
        estimate - mean, (volumes[:1] + 1 - mean) * variance / (variance + 1), atol=0.05
    )
    assert float(plain.spread(t).mean()) == pytest.approx(
        (variance / (variance + 1)) ** 0.5, rel=0.05
    )


def test_levels_are_even_in_log_odds_and_times_find_their_place():
    index, share = place(times().float())
    assert torch.allclose(index + share, torch.arange(LEVELS).float(), atol=1e-3)
    index, share = place(torch.tensor([1e-9, 1 - 1e-9]))
    assert (index + share).tolist() == [0, LEVELS - 1]


def test_blocks_are_even_in_millimetres():
    assert block((8, 64, 64), (3.0, 3.0, 3.0), 8 * 64 * 64, 40_000) == [1, 1, 1]
    sides = block((96, 96, 96), (1.0, 1.0, 2.0), 96**3, 2048)
    assert math.prod(sides) >= 96**3 / 2048
    assert 2 * sides[2] <= sides[0] <= 4 * sides[2]
    assert block((1, 64, 64), (1.0, 1.0, 1.0), 4096, 64)[0] == 1


def test_it_reloads(tmp_path):
    prior = fitted()
    prior.save_pretrained(tmp_path)
    again = Prior.from_pretrained(tmp_path)
    volumes, features = people(2)
    t = torch.tensor([0.4, 0.7])
    assert torch.equal(prior(volumes, t, features)[0], again(volumes, t, features)[0])
    assert again.filters.dtype == torch.float16 and again.inside.dtype == torch.bool
