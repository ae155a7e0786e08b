import pytest
import torch

from augment.nn.slice_basis import SliceBasis
from augment.tiling import Tiling

TILING = Tiling((12, 18, 10), "axial")


def population(count, seed=0, noise=0.0):
    """Volumes that differ along three fixed patterns inside a box; outside they are zero."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(3, *TILING.shape, generator=generator)
    mean = torch.rand(TILING.shape, generator=generator)
    box = torch.zeros(TILING.shape)
    box[2:10, 3:15, 2:8] = 1
    draws = torch.Generator().manual_seed(seed)
    volumes = mean + torch.einsum("nk,kxyz->nxyz", torch.randn(count, 3, generator=draws), patterns)
    volumes += noise * torch.randn(volumes.shape, generator=draws)
    return (volumes * box)[:, None]


@pytest.fixture(scope="module")
def basis():
    volumes = population(40)
    return SliceBasis.fit(lambda: volumes.split(7), TILING, channels=3)


def test_new_subjects_come_back_when_the_components_hold_them(basis):
    fresh = population(5, seed=9)
    torch.testing.assert_close(basis.decode(basis.encode(fresh)), fresh, atol=1e-3, rtol=0)


def test_more_components_lose_less():
    train, fresh = population(60, noise=0.5), population(10, seed=9, noise=0.5)
    errors = []
    for channels in (1, 3, 8):
        basis = SliceBasis.fit(lambda: train.split(20), TILING, channels=channels)
        errors.append(((basis.decode(basis.encode(fresh)) - fresh) ** 2).mean().item())
    assert errors[0] > 1.5 * errors[1] > 1.5 * 1.05 * errors[2]


def test_latents_have_unit_variance_where_anything_varies(basis):
    latents = basis.encode(population(40))
    inside = basis.mask.expand_as(latents) > 0
    assert latents[inside].std().item() == pytest.approx(1, abs=0.05)
    assert not latents[~inside].any()
    assert 0 < basis.mask.mean() < 1


def test_each_slice_is_encoded_by_itself(basis):
    volume = population(1, seed=3)
    changed = volume.clone()
    changed[..., 5] += 0.3
    difference = (basis.encode(changed) - basis.encode(volume)).abs()
    by_slice = TILING.untile_latents(difference).sum((0, 2, 3, 4))
    assert by_slice[5] > 0
    assert by_slice.sum() == by_slice[5]


def test_it_reloads_as_it_was(basis, tmp_path):
    basis.save_pretrained(tmp_path)
    again = SliceBasis.from_pretrained(tmp_path)
    volume = population(1, seed=4)
    torch.testing.assert_close(again.encode(volume), basis.encode(volume), rtol=0, atol=0)
