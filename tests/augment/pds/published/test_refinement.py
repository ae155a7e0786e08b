import torch

from neuromix.augment.pds.published.refinement import TissueRefiner


def inputs(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    source, estimate = (torch.randn(count, 2, 6, 6, 6, generator=generator) for _ in "ab")
    support = torch.ones(count, 1, 6, 6, 6)
    support[..., 0] = 0
    return torch.cat([support, source * support], 1), estimate * support


def test_it_starts_as_the_estimate():
    torch.manual_seed(0)
    known, estimate = inputs()
    made = TissueRefiner(2, 2, 3, width=8, blocks=1)(known, estimate, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(made, estimate)


def test_it_learns_what_no_linear_map_tells_in_both_directions():
    torch.manual_seed(0)
    refiner = TissueRefiner(2, 2, 3, width=16, blocks=1)
    optimiser = torch.optim.Adam(refiner.parameters(), lr=2e-2)
    direction = torch.tensor([0, 1, 0, 1])
    sign = (1 - 2.0 * direction)[:, None, None, None, None]

    def error(seed):
        known, estimate = inputs(seed=seed)
        target = estimate + sign * known[:, 1:].abs() * 0.5
        return (refiner(known, estimate, direction) - target).square().mean()

    before = float(error(999).detach())
    for seed in range(150):
        loss = error(seed)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert error(999) < 0.25 * before  # a constant alone leaves 0.36
