import json

import numpy as np
import pytest
from scipy import ndimage

from neuromix.augment.errors import InputError
from neuromix.augment.metrics.features import pca_features
from neuromix.augment.metrics.fidelity import Judge, fidelity_table, label_faithfulness

SIDE = 16
NOISE = 0.03
CLASSES = ("F", "M")


class Brains:
    """A Gaussian model of small brains: tissues, ten smooth ways to vary, sex, noise."""

    def __init__(self):
        rng = np.random.default_rng(0)
        x, y, z = np.indices((SIDE,) * 3) - (SIDE - 1) / 2
        radius = np.sqrt(x**2 + (y / 1.15) ** 2 + z**2)
        self.mask = radius < 6.3
        self.tissues = {
            "csf": radius < 2,
            "wm": (radius >= 2.5) & (radius < 4),
            "gm": (radius >= 4.5) & self.mask,
        }
        mean = np.select([radius < 2.3, radius < 4.3], [2.0, 0.7], 0.9)
        fields = rng.standard_normal((11, *radius.shape))
        fields = np.stack([ndimage.gaussian_filter(field, 1.2) for field in fields])
        fields /= fields[:, self.mask].std(axis=1)[:, None, None, None]
        self.mean, self.ways, self.sex = mean, 0.06 * fields[:10], 0.06 * fields[10]

    def draw(self, n, seed):
        rng = np.random.default_rng(seed)
        sex = np.array(CLASSES)[rng.integers(2, size=n)]
        side = np.where(sex == "M", 1.0, -1.0)
        volumes = self.mean + np.einsum("nk,kxyz->nxyz", rng.standard_normal((n, 10)), self.ways)
        volumes += side[:, None, None, None] * self.sex
        volumes += NOISE * rng.standard_normal(volumes.shape)
        return (volumes * self.mask).astype(np.float32), sex

    def predict_proba(self, volumes):
        """Tells sex by the known difference, right in all but a few."""
        direction = (self.sex * self.mask).ravel()
        score = (volumes - self.mean * self.mask).reshape(len(volumes), -1) @ direction
        male = 1 / (1 + np.exp(-np.clip(score, -30, 30)))
        return np.stack([1 - male, male], axis=1)


BRAINS = Brains()
ALARMS = {
    "ms_ssim": lambda row: abs(row["change"]) > 0.03,
    "sharpness": lambda row: abs(row["change"]) > 0.05,
    "graininess": lambda row: abs(row["change"]) > 0.05,
    "tissue_md_gm": lambda row: abs(row["change"]) > 0.05,
    "continuity_difference": lambda row: abs(row["change"]) > 0.1,
    "mmd2": lambda row: row["ratio"] > 1,
    "precision": lambda row: row["value"] < 0.8 * row["real"],
    "recall": lambda row: row["value"] < 0.8 * row["real"],
    "near_copies": lambda row: row["interval"][0] > 0.02,
    "label_sex": lambda row: row["ratio"] < 0.9,
}
"""Limits that honest samples of other seeds stay within by half or more."""


@pytest.fixture(scope="module")
def real():
    """Training, held-out and other volumes, and the sex of the held-out ones."""
    heldout, sex = BRAINS.draw(120, 2)
    return BRAINS.draw(80, 1)[0], heldout, BRAINS.draw(120, 3)[0], sex


def table(real, synthetic, sex, **changes):
    train, heldout, other, heldout_sex = real
    judge = Judge(BRAINS.predict_proba, CLASSES, sex, heldout_sex)
    settings = {"pairs": 20, "splits": 10} | changes
    return fidelity_table(
        train,
        heldout,
        synthetic,
        features=pca_features(other),
        tissues=BRAINS.tissues,
        judges={"sex": judge},
        **settings,
    )


def alarms(content):
    return {name for name, rings in ALARMS.items() if rings(content["metrics"][name])}


@pytest.fixture(scope="module")
def honest(real):
    return table(real, *BRAINS.draw(60, 4))


def test_honest_samples_ring_no_alarm(real, honest):
    assert alarms(honest) == set()
    assert alarms(table(real, *BRAINS.draw(60, 5))) == set()


def collapsed(train, synthetic, rng):
    few = train.mean(axis=0) + NOISE * rng.standard_normal(synthetic.shape)
    return (few * BRAINS.mask).astype(np.float32)


def copied(train, synthetic, rng):
    return train[: len(synthetic)] + np.float32(0.01) * rng.standard_normal(synthetic.shape)


def partly_copied(train, synthetic, rng):
    return np.concatenate([train[:9], synthetic[9:]])


def blurred(train, synthetic, rng):
    return np.stack([ndimage.gaussian_filter(volume, 0.5) for volume in synthetic])


def noisy(train, synthetic, rng):
    return synthetic + NOISE * rng.standard_normal(synthetic.shape) * BRAINS.mask


def jittering(train, synthetic, rng):
    return synthetic * (1 + 0.08 * rng.standard_normal((len(synthetic), 1, 1, SIDE)))


def scaled(train, synthetic, rng):
    return 1.1 * synthetic


def in_other_units(train, synthetic, rng):
    return 1e-3 * synthetic


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        (collapsed, {"ms_ssim", "mmd2", "recall"}),
        (copied, {"near_copies"}),
        (partly_copied, {"near_copies"}),
        (blurred, {"sharpness", "mmd2"}),
        (noisy, {"graininess"}),
        (jittering, {"continuity_difference"}),
        (scaled, {"tissue_md_gm", "mmd2"}),
        (in_other_units, {"tissue_md_gm", "precision"}),
    ],
)
def test_each_fault_is_caught(real, fault, caught_by):
    synthetic, sex = BRAINS.draw(60, 4)
    if fault is copied:
        sex = BRAINS.draw(80, 1)[1][:60]
    faulty = fault(real[0], synthetic, np.random.default_rng(9)).astype(np.float32)
    rung = alarms(table(real, faulty, sex))
    assert caught_by <= rung
    if fault in (copied, partly_copied):  # drawn from the right population, all the same
        assert rung == caught_by


def test_shuffled_labels_are_caught_by_the_judge_alone(real):
    synthetic, sex = BRAINS.draw(60, 4)
    shuffled = np.random.default_rng(0).permutation(sex)
    assert alarms(table(real, synthetic, shuffled)) == {"label_sex"}


def test_the_table_is_plain_and_repeats(real, honest):
    assert json.loads(json.dumps(honest, allow_nan=False)) == honest
    assert honest["sizes"] == {"train": 80, "heldout": 120, "synthetic": 60, "split": 60}
    for row in honest["metrics"].values():
        assert row["interval"][0] <= row["value"] <= row["interval"][1]
        assert row["real_interval"][0] <= row["real"] <= row["real_interval"][1]
    assert table(real, *BRAINS.draw(60, 4)) == honest


def test_faithfulness_is_balanced_and_leaves_missing_labels_out():
    volumes = np.arange(12.0).reshape(12, 1, 1, 1)
    labels = ["F"] * 8 + ["M", "M", None, None]

    def says(volumes):  # every third is called M
        male = volumes.ravel() % 3 == 0
        return np.stack([~male, male], axis=1).astype(float)

    result = label_faithfulness(says, volumes, labels, CLASSES)
    assert result["recall"] == {"F": 5 / 8, "M": 1 / 2}  # 0, 3, 6 and 9 are called M
    assert result["value"] == (5 / 8 + 1 / 2) / 2
    assert result["n"] == {"F": 8, "M": 2}
    assert 0.2 < result["interval"][0] < 0.4 and 0.7 < result["interval"][1] < 0.9


def test_a_perfect_judgement_keeps_its_doubt():
    volumes = np.array([0.0, 1.0] * 10).reshape(20, 1, 1, 1)
    result = label_faithfulness(
        lambda v: np.stack([1 - v.ravel(), v.ravel()], 1), volumes, ["F", "M"] * 10, CLASSES
    )
    assert result["value"] == 1 and result["interval"][1] == 1
    assert 0.8 < result["interval"][0] < 0.95


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["F", "M"], "2 labels came for 3 volumes"),
        (["F", "M", "X"], "tells .* apart"),
        (["F", "F", None], "volumes of each"),
    ],
)
def test_labels_that_the_judge_cannot_judge_are_refused(labels, reason):
    with pytest.raises(InputError, match=reason):
        label_faithfulness(
            lambda v: np.full((len(v), 2), 0.5), np.zeros((3, 1, 1, 1)), labels, CLASSES
        )


def test_a_judge_of_other_classes_is_refused():
    with pytest.raises(InputError, match=r"\(2, 3\) for 2 volumes and 2 classes"):
        label_faithfulness(
            lambda v: np.zeros((len(v), 3)), np.zeros((2, 1, 1, 1)), ["F", "M"], CLASSES
        )


def test_bad_volumes_are_refused(real):
    synthetic, sex = BRAINS.draw(60, 4)
    with pytest.raises(InputError, match="one grid"):
        table(real, synthetic[:, 1:], sex)
    with pytest.raises(InputError, match="5 synthetic volumes are too few"):
        table(real, synthetic[:5], sex[:5])
    synthetic[3, 8, 8, 8] = np.nan
    with pytest.raises(InputError, match=r"1 of 60 synthetic volumes hold NaN.* index 3"):
        table(real, synthetic, sex)
