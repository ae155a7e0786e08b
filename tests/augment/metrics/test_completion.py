import numpy as np
import pytest

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.completion import (
    band_power,
    completion_table,
    coverage,
    crps,
    source_use,
)

RNG = np.random.default_rng(0)
SHAPE = (2, 12, 12, 12)
MASK = np.zeros(SHAPE[1:], bool)
MASK[2:10, 2:10, 2:10] = True
REGIONS = np.zeros((4, *SHAPE[1:]), np.float32)
for k, corner in enumerate([(2, 2, 2), (6, 6, 6), (2, 6, 2), (6, 2, 6)]):
    REGIONS[k][tuple(slice(c, c + 4) for c in corner)] = 1
SIGMA = 0.1


def world(subjects=24, seed=1):
    """Real images around what a source tells: the part that can be predicted, and noise."""
    rng = np.random.default_rng(seed)
    told = 0.5 + 0.2 * np.einsum("mr,rxyz->mxyz", rng.standard_normal((subjects, 4)), REGIONS)
    told = np.repeat(told[:, None], SHAPE[0], axis=1)
    return told, told + SIGMA * rng.standard_normal(told.shape)


def samples(told, count=16, spread=SIGMA, seed=2):
    noise = np.random.default_rng(seed).standard_normal((count, *told.shape))
    return told + spread * noise


def table(make):
    told, real = world()
    made = [make(t, k) for k, t in enumerate(told)]
    pairs = zip(made, real, strict=True)
    return completion_table(pairs, mask=MASK, data_range=1.6, regions=REGIONS)


HONEST = table(lambda told, k: samples(told, seed=k))


def test_honest_samples_pass_everything():
    assert HONEST["psnr"]["value"] == pytest.approx(
        10 * np.log10(1.6**2 / (1.0625 * 0.01)), abs=0.1
    )
    assert HONEST["coverage"]["value"] == pytest.approx(1, abs=0.02)
    assert HONEST["spectrum"]["value"] < 0.02
    assert HONEST["pattern"]["value"] > 0.95
    # A normal distribution that happens to be the right one.
    assert HONEST["crps"]["value"] == pytest.approx(SIGMA / np.sqrt(np.pi), rel=0.03)
    for figure in HONEST.values():
        assert figure["low"] <= figure["value"] <= figure["high"]


TRIVIAL = {
    # name: a completer, and what it fails by how much
    "mean volume": (lambda told, k: np.full((1, *SHAPE), 0.5), {"psnr": 3, "pattern": 0.8}),
    "perfect regression": (lambda told, k: told[None], {"crps": 0.02, "spectrum": 0.05}),
    "too sure": (lambda told, k: samples(told, spread=SIGMA / 4, seed=k), {"coverage": 0.5}),
    "too vague": (lambda told, k: samples(told, spread=3 * SIGMA, seed=k), {"coverage": -0.2}),
    "another subject": (
        lambda told, k: samples(world()[0][k - 1], seed=k), {"psnr": 3, "pattern": 0.5},
    ),
    "blurred samples": (
        lambda told, k: told + samples(told, seed=k).mean((2, 3, 4), keepdims=True) * 0.01,
        {"spectrum": 0.05},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TRIVIAL))
def test_each_trivial_completer_fails_something(name):
    make, fails = TRIVIAL[name]
    made = table(make)
    for metric, margin in fails.items():
        worse = HONEST[metric]["value"] - made[metric]["value"]
        if metric in ("crps", "spectrum"):
            worse = -worse
        assert worse * np.sign(margin) > abs(margin), (metric, made[metric])


def test_uncertainty_that_knows_where_it_errs_correlates():
    where = np.where(np.arange(12) < 6, 0.02, 0.3)  # noisy on one side
    told, _ = world()
    rng = np.random.default_rng(3)
    pairs = [
        (t + where * rng.standard_normal((8, *SHAPE)), t + where * rng.standard_normal(SHAPE))
        for t in told
    ]
    knowing = completion_table(pairs, mask=MASK, data_range=1.6, regions=REGIONS)
    assert knowing["uncertainty"]["value"] > 0.4
    assert abs(HONEST["uncertainty"]["value"]) < 0.05  # nothing to know


def test_crps_and_coverage_of_small_sets_by_hand():
    assert crps(np.array([[0.0], [2.0]]), np.array([1.0])) == pytest.approx(1 - 1)
    assert crps(np.array([[3.0]]), np.array([1.0])) == pytest.approx(2)
    ladder = np.arange(9.0)[:, None]
    assert coverage(ladder, np.array([4.5])) == pytest.approx(1 / 0.8)
    assert coverage(ladder, np.array([9.5])) == 0


def test_power_of_white_noise_is_flat():
    power = band_power(RNG.standard_normal((4, 2, 16, 16, 16)))
    assert power.shape == (4, 8)
    shape = power.mean(0)[2:]  # the longest waves are too few
    np.testing.assert_allclose(shape / shape.mean(), 1, atol=0.1)


def test_a_completer_that_is_blind_to_its_source_loses_nothing_by_a_shuffle():
    errors = {"mean": 4.0, "ideal": 1.0}
    assert source_use(errors | {"own": 4.0, "shuffled": 4.0}) == 0
    assert source_use(errors | {"own": 1.0, "shuffled": 7.0}) == pytest.approx(2)


def test_what_does_not_fit_is_told():
    told, real = world(2)
    with pytest.raises(InputError, match="needs two or more"):
        completion_table([(told[:1], real[0])], mask=MASK, data_range=1.6, regions=REGIONS)
    with pytest.raises(InputError, match="came for a real image of"):
        completion_table(
            [(told[:1, :, 1:], real[0])] * 2, mask=MASK, data_range=1.6, regions=REGIONS
        )
