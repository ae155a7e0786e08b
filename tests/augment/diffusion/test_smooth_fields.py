import pytest
import torch

from neuromix.augment.diffusion.smooth_fields import along, harmonics


@pytest.mark.parametrize("side", [7, 8])
def test_harmonics_are_orthonormal_and_vary_as_much_everywhere(side):
    waves = harmonics(side)
    torch.testing.assert_close(waves @ waves.T, torch.eye(side), atol=1e-5, rtol=0)
    # Equal strength for cosine and sine of a frequency gives equal variance at every place.
    strength = 1.0 / (1 + (torch.arange(side) + 1) // 2)
    variance = (strength[:, None] * waves.square()).sum(0)
    torch.testing.assert_close(variance, variance.mean().expand(side), atol=1e-5, rtol=0)


def test_each_axis_has_its_matrix():
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(2, 3, 4, 5, 6, generator=generator)
    a, b, c = (torch.randn(m, n, generator=generator) for m, n in ((7, 4), (2, 5), (3, 6)))
    expected = torch.einsum("bkijl,xi,yj,zl->bkxyz", field, a, b, c)
    torch.testing.assert_close(along(field, [a, b, c]), expected, atol=1e-4, rtol=1e-4)
