import numpy as np
import pytest

from neuromix.experiments.quality.baselines import Copies, LabelMeans, MeanNoise, PCAGaussian

SHAPE = (8, 9, 7)


class Population:
    """Volumes around a mean that depends on sex, diagnosis and age, with three strong ways to vary
    and noise."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.mask = rng.random(SHAPE) < 0.7
        self.sex, self.age = 0.05 * rng.standard_normal((2, *SHAPE))
        self.ways = np.linalg.qr(rng.standard_normal((np.prod(SHAPE), 3)))[0].T.reshape(3, *SHAPE)

    def mean(self, row):
        side = 1 if row["sex"] == "M" else -1
        return (1 + side * self.sex + (row["age"] - 70) / 10 * self.age) * self.mask

    def draw(self, count, seed):
        rng = np.random.default_rng(seed)
        rows = [
            {
                "sex": str(rng.choice(["F", "M"])),
                "diagnosis": str(rng.choice(["NC", "AD"])),
                "age": float(rng.uniform(60, 80)),
            }
            for _ in range(count)
        ]
        scores = rng.standard_normal((count, 3)) * (2.0, 1.0, 0.5)
        volumes = np.stack([self.mean(row) for row in rows])
        volumes += np.einsum("nk,kxyz->nxyz", scores, self.ways) * self.mask
        volumes += 0.02 * rng.standard_normal(volumes.shape) * self.mask
        return volumes.astype(np.float32), rows


POPULATION = Population()


@pytest.fixture(scope="module")
def training():
    return POPULATION.draw(300, 1)


@pytest.mark.parametrize("make", [MeanNoise, Copies, PCAGaussian])
def test_a_volume_depends_on_its_label_and_seed_alone(training, make):
    generator = make().fit(*training)
    rows = POPULATION.draw(5, 2)[1]
    together = generator.draw(rows, [3, 4, 5, 6, 7])
    assert together.shape == (5, *SHAPE)
    assert together.dtype == np.float32
    assert np.array_equal(generator.draw(rows[2:3], [5])[0], together[2])
    assert not np.array_equal(generator.draw(rows[2:3], [9])[0], together[2])


@pytest.mark.parametrize("make", [MeanNoise, PCAGaussian])
def test_means_follow_the_labels(training, make):
    generator = make().fit(*training)
    for row in ({"sex": "F", "age": 62.0}, {"sex": "M", "age": 78.0}):
        made = generator.draw([row] * 400, list(range(400))).mean(axis=0)
        truth = POPULATION.mean(row)
        other = POPULATION.mean({"sex": "MF"[row["sex"] == "M"], "age": 140 - row["age"]})
        assert np.abs(made - truth)[POPULATION.mask].mean() < 0.02
        assert np.abs(made - other)[POPULATION.mask].mean() > 0.04


def test_the_gaussian_has_the_covariance_of_new_subjects(training):
    new, rows = POPULATION.draw(400, 5)
    made = PCAGaussian().fit(*training).draw(rows, list(range(400)))
    spectra = []
    for volumes in (made, new):
        inside = volumes[:, POPULATION.mask]
        residuals = inside - LabelMeans(inside, rows)(rows)
        spectra.append(np.linalg.svd(residuals, compute_uv=False) ** 2 / 400)
    np.testing.assert_allclose(spectra[0][:3], spectra[1][:3], rtol=0.35)
    np.testing.assert_allclose(spectra[0][3:].sum(), spectra[1][3:].sum(), rtol=0.05)


def test_a_class_keeps_its_own_correlation():
    rng = np.random.default_rng(0)
    rows = [{"sex": "FM"[k % 2]} for k in range(400)]
    z = rng.standard_normal((400, 2)) * (2.0, 1.0)
    z[:, 1] += np.where(np.arange(400) % 2, 1, -1) * 0.45 * z[:, 0]
    volumes = 1 + np.einsum("nk,kxyz->nxyz", 0.3 * z, POPULATION.ways[:2])
    gaussian = PCAGaussian().fit(volumes.astype(np.float32), rows)
    for sex, sign in (("F", -1), ("M", 1)):
        made = gaussian.draw([{"sex": sex}] * 300, list(range(300)))
        scores = np.einsum("nxyz,kxyz->kn", made - made.mean(axis=0), POPULATION.ways[:2])
        assert 0.45 < sign * np.corrcoef(scores)[0, 1] < 0.85  # 0.67 in truth


def test_copies_are_training_subjects_of_the_class(training):
    volumes, rows = training
    copies = Copies().fit(volumes, rows)
    made = copies.draw([{"sex": "F", "diagnosis": "AD", "age": 61.0}] * 8, list(range(8)))
    found = [int(np.flatnonzero((volumes == copy).all(axis=(1, 2, 3)))[0]) for copy in made]
    assert {(rows[k]["sex"], rows[k]["diagnosis"]) for k in found} == {("F", "AD")}
    assert len(set(found)) > 4
    nearest = copies.draw([{"sex": "M", "diagnosis": "MCI"}], [0])[0]  # nobody has it
    assert rows[int((volumes == nearest).all(axis=(1, 2, 3)).argmax())]["sex"] == "M"


def test_labels_that_are_missing_or_new_do_no_harm():
    volumes, rows = POPULATION.draw(60, 1)
    rows = [row | {"diagnosis": "", "age": np.nan} for row in rows]
    rows[0]["sex"] = ""
    made = PCAGaussian().fit(volumes, rows).draw([{"sex": "X", "age": 20.0}, rows[0]], [0, 1])
    assert np.isfinite(made).all()
    assert np.abs(made.mean(axis=0) - volumes.mean(axis=0)).mean() < 0.15


@pytest.mark.parametrize("make", [MeanNoise, PCAGaussian])
def test_denoising_is_right_for_what_is_drawn(training, make):
    """The posterior mean is uncorrelated with its error, in pairs drawn from the generator."""
    generator = make().fit(*training)
    generator.top_ = np.inf
    rows = POPULATION.draw(60, 7)[1]
    clean = generator.draw(rows, list(range(60)))
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    guess = generator.denoise(clean, (0.2 * noise).astype(np.float32), 0.2, rows)
    inside = np.asarray(generator.mask_)
    off, around = (guess - clean)[:, inside], guess[:, inside] - generator.means_(rows)
    assert (off**2).mean() < 0.5 * 0.2**2
    assert abs((off * around).mean()) < 0.2 * (off**2).mean()
    still = generator.denoise(clean, 0 * clean, 1e-3, rows)
    assert np.allclose(still[:, inside], clean[:, inside], atol=0.01)
