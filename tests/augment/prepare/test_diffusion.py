import numpy as np
import pytest

from neuromix.augment import InputError
from neuromix.augment.prepare.diffusion import fit_md, read_gradients

SHAPE = (3, 3, 2)
EVERYWHERE = np.ones(SHAPE, dtype=bool)
EIGENVALUES = np.array([1.7, 0.3, 0.2])  # 1e-3 mm²/s: a fibre, with an MD of 0.7333


def make_table(directions=30, shells=(1000.0,), b0=2):
    """b-values (N,) and unit vectors (N, 3), unweighted volumes first."""
    spread = np.random.default_rng(0).normal(size=(directions, 3))
    spread /= np.linalg.norm(spread, axis=1, keepdims=True)
    bvals = np.concatenate([np.zeros(b0), np.repeat(shells, directions)])
    return bvals, np.concatenate([np.zeros((b0, 3)), np.tile(spread, (len(shells), 1))])


def make_signal(bvals, bvecs, kurtosis=0.0):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    tensor = rotation @ np.diag(EIGENVALUES) @ rotation.T
    b = bvals / 1000
    exponent = -b * np.einsum("ni,ij,nj->n", bvecs, tensor, bvecs)
    exponent += kurtosis * (b * EIGENVALUES.mean()) ** 2 / 6
    return np.broadcast_to(800 * np.exp(exponent), (*SHAPE, len(bvals))).copy()


def test_noise_free_md_is_exact():
    bvals, bvecs = make_table()
    md = fit_md(make_signal(bvals, bvecs), bvals, bvecs, EVERYWHERE)
    assert md.dtype == np.float32
    np.testing.assert_allclose(md, EIGENVALUES.mean(), rtol=1e-5)


@pytest.mark.parametrize("orientation", ["(N, 3)", "(3, N)"])
def test_both_layouts_of_directions_and_lengths_near_one(orientation):
    bvals, bvecs = make_table()
    signal = make_signal(bvals, bvecs)
    table = 1.02 * (bvecs if orientation == "(N, 3)" else bvecs.T)
    np.testing.assert_allclose(fit_md(signal, bvals, table, EVERYWHERE), 0.7333, atol=1e-4)


def test_noise_averages_out():
    bvals, bvecs = make_table()
    signal = make_signal(bvals, bvecs)
    noise = np.random.default_rng(2).normal(scale=16, size=(2, *signal.shape))  # SNR 50
    md = fit_md(np.hypot(signal + noise[0], noise[1]), bvals, bvecs, EVERYWHERE)
    assert abs(md.mean() - EIGENVALUES.mean()) < 0.02


def test_shells_with_kurtosis_are_dropped():
    bvals, bvecs = make_table(shells=(1000.0, 3000.0))
    signal = make_signal(bvals, bvecs, kurtosis=1.0)
    low = bvals <= 1000
    expected = fit_md(signal[..., low], bvals[low], bvecs[low], EVERYWHERE)
    np.testing.assert_array_equal(fit_md(signal, bvals, bvecs, EVERYWHERE), expected)
    assert fit_md(signal, bvals, bvecs, EVERYWHERE, b_max=3000)[0, 0, 0] < expected[0, 0, 0] - 0.1


def test_jitter_of_a_shell_is_not_above_b_max():
    bvals, bvecs = make_table()
    bvals[2:] += np.random.default_rng(3).uniform(-10, 10, 30)
    md = fit_md(make_signal(bvals, bvecs), bvals, bvecs, EVERYWHERE, b_max=1000)
    np.testing.assert_allclose(md, EIGENVALUES.mean(), rtol=1e-4)


def test_md_is_finite_in_range_and_zero_outside_the_mask():
    bvals, bvecs = make_table()
    signal = make_signal(bvals, bvecs)
    signal[0, 0, 0] = np.nan
    signal[0, 1, 0, 5] = np.inf
    signal[1, 0, 0, 2:] = 0  # more loss than free water can explain
    signal[1, 1, 0, 2:] = 5000  # gains signal
    signal[2, 2, 0] = 0
    mask = EVERYWHERE.copy()
    mask[..., 1] = False
    md = fit_md(signal, bvals, bvecs, mask)
    assert np.isfinite(md).all()
    assert md.min() >= 0
    assert md.max() <= 3.2
    assert md[1, 0, 0] == np.float32(3.2)
    assert md[1, 1, 0] < 1e-3
    assert md[0, 0, 0] == md[2, 2, 0] == 0
    assert not md[..., 1].any()


def test_the_brain_is_found_without_a_mask():
    bvals, bvecs = make_table(directions=12)
    place = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), axis=-1)
    ball = np.linalg.norm(place - 11.5, axis=-1) < 8
    noise = np.random.default_rng(4).rayleigh(8, size=(24, 24, 24, len(bvals)))
    data = np.where(ball[..., None], make_signal(bvals, bvecs)[0, 0, 0], noise)
    found = fit_md(data, bvals, bvecs) > 0
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.9


def spoil(bvals, bvecs, how):
    if how == "lengths":
        return bvals[:-1], bvecs
    if how == "unit":
        return bvals / 1000, bvecs
    if how == "no b0":
        return np.maximum(bvals, 1000), bvecs + (bvals == 0)[:, None] * [1, 0, 0]
    if how == "five directions":
        return bvals[:7], bvecs[:7]
    if how == "one plane":
        flat = bvecs * [1, 1, 0]
        return bvals, flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    if how == "zero vector":
        bvecs[4] = 0
    elif how == "long vector":
        bvecs[4] *= 1.5
    elif how == "nan":
        bvals[3] = np.nan
    return bvals, bvecs


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("lengths", "do not fit together"),
        ("unit", "looks like ms/µm²"),
        ("no b0", "no volume has b <= 50"),
        ("five directions", "5 independent directions"),
        ("one plane", "3 independent directions"),
        ("zero vector", r"volume 4 \(b = 1000\) has length 0"),
        ("long vector", "has length 1.5"),
        ("nan", "must be numbers"),
    ],
)
def test_bad_gradients_are_refused_in_one_line(how, message):
    signal = make_signal(*make_table())
    bvals, bvecs = spoil(*make_table(), how)
    count = len(bvals) if how == "five directions" else signal.shape[3]
    with pytest.raises(InputError, match=message) as error:
        fit_md(signal[..., :count], bvals, bvecs, EVERYWHERE)
    assert "\n" not in str(error.value)


def test_gradients_are_read_from_text(tmp_path):
    bvals, bvecs = make_table()
    np.savetxt(tmp_path / "dwi.bval", bvals[None], fmt="%g")
    np.savetxt(tmp_path / "dwi.bvec", bvecs.T)
    read = read_gradients(tmp_path / "dwi.bval", tmp_path / "dwi.bvec")
    np.testing.assert_allclose(read[0], bvals)
    np.testing.assert_allclose(read[1], bvecs.T)
    (tmp_path / "dwi.bvec").write_text("a b c")
    with pytest.raises(InputError, match=r"dwi.bvec cannot be read"):
        read_gradients(tmp_path / "dwi.bval", tmp_path / "dwi.bvec")
