import pytest
import torch

from neuromix.augment.diffusion.patches import detailed, patch_mean

SHAPE = (4, 20, 24)


def people(count=6):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_with_little_noise_a_person_is_found_again_even_a_voxel_off():
    volumes, t = people(), 0.1
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    for seen in (volumes[2:3], volumes[2:3].roll((1, -1), (-2, -1))):
        found = patch_mean((1 - t) * seen + t * noise, t, volumes)
        inner = (found - seen)[..., 3:-3, 3:-3]
        assert inner.abs().mean() < 0.02


def test_with_much_noise_it_is_near_the_mean_of_many():
    volumes, t = people(40), 0.95
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = patch_mean((1 - t) * volumes[:1] + t * noise, t, volumes)
    assert found.std() < 0.7 * volumes.std()


@pytest.mark.parametrize("t", [0.05, 0.3, 0.59])
def test_it_is_the_weighted_mean_of_the_formula(t):
    volumes = people(3)[:, :, :9, :9]
    noisy = (1 - t) * volumes[:1] + t * people(1)[:, :, :9, :9]
    found = patch_mean(noisy, t, volumes)
    half = round(1 + 4 * t / 0.6)
    here = (slice(0, 3), slice(4 - min(half, 4), 5 + half), slice(4 - min(half, 4), 5 + half))
    seen, scale = noisy[0] / (1 - t), t / (1 - t)
    logs, values = [], []
    for person in volumes:
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                moved = person.roll((a, b), (-2, -1))
                logs.append(-((seen - moved)[here] ** 2).sum() / (2 * scale**2))
                values.append(moved[1, 4, 4])
    expected = (torch.stack(logs).softmax(0) * torch.stack(values)).sum()
    assert found[0, 1, 4, 4].item() == pytest.approx(expected.item(), abs=1e-3)


def test_means_over_blocks_stay_as_they_were_estimated():
    estimate, patches = people(2)
    made = detailed(estimate[None], patches[None])
    pool = torch.nn.functional.avg_pool2d
    assert (pool(made, 4) - pool(estimate[None], 4)).std() < 0.6 * pool(estimate[None], 4).std()
    fine = made - patches
    assert fine.diff(dim=-1).abs().mean() < 0.3 * patches.diff(dim=-1).abs().mean()
