import numpy as np
import pytest

from neuromix.experiments.quality.completion_baselines import baselines

SHAPE = (2, 8, 8, 8)


def pairs(count, seed):
    """Each target is twice its source plus a pattern that all share, under a little noise."""
    rng = np.random.default_rng(seed)
    strength = rng.standard_normal((count, 3))
    patterns = np.random.default_rng(9).standard_normal((3, *SHAPE))
    source = np.einsum("sk,knxyz->snxyz", strength, patterns)
    target = 2 * source + patterns[0] + 0.1 * rng.standard_normal(source.shape)
    return source.astype(np.float32), target.astype(np.float32)


TRAIN, TEST = pairs(40, 0), pairs(10, 1)
ERRORS = {}
for name, baseline in baselines(seconds=0).items():
    if "U-Net" not in name:
        made = baseline.fit(*TRAIN).predict(TEST[0])
        assert made.shape == (10, 1, *SHAPE)
        ERRORS[name] = float(((made[:, 0] - TEST[1]) ** 2).mean())


def test_a_linear_world_is_found_by_the_regressions_alone():
    assert ERRORS["PCA regression"] < 0.05
    assert ERRORS["voxelwise regression"] < 0.05
    assert ERRORS["nearest subject"] > 0.3
    assert ERRORS["mean volume"] > 5 * ERRORS["nearest subject"] / 2


@pytest.mark.parametrize("name", ["regression U-Net", "diffusion U-Net"])
def test_networks_train_for_their_time_and_predict(name):
    baseline = baselines(seconds=0)[name]
    baseline.weights = 1  # the smallest
    baseline.fit(*TRAIN)
    assert baseline.steps_ == 2  # no time is two steps
    made = baseline.predict(TEST[0][:2], seeds=(1, 2))
    count = 2 if name == "diffusion U-Net" else 1
    assert made.shape == (2, count, *SHAPE)
    assert np.isfinite(made).all()
    again = baseline.predict(TEST[0][:2], seeds=(1, 2))
    np.testing.assert_allclose(made, again, atol=1e-5)


def test_a_regression_unet_learns():
    baseline = baselines(seconds=4)["regression U-Net"]
    made = baseline.fit(*TRAIN).predict(TEST[0])[:, 0]
    assert ((made - TEST[1]) ** 2).mean() < 0.7 * ERRORS["mean volume"]
