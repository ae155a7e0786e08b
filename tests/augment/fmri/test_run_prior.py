import numpy as np
import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.denoiser import CONTEXT
from neuromix.augment.fmri.linear_run import Courses, LinearRun
from neuromix.augment.fmri.run_prior import (
    CHANNELS,
    RunDenoiser,
    RunPrior,
    context_of,
    lags_of,
)

FRAMES, KNOWN, SIDE = 12, 6, 4
LAGS = lags_of(2.0)


@pytest.fixture(scope="module")
def linear():
    """Noise of two patterns with memory, over voxels of different strength and memory."""
    model = LinearRun(
        label_space=LabelSpace({"task": ("t",)}).to_dict(), courses=2, shape=(SIDE,) * 3,
        voxels=40, people=3, patterns=2,
    )  # fmt: skip
    draws = torch.Generator().manual_seed(0)
    mask = torch.zeros(SIDE**3, dtype=torch.bool)
    mask[torch.randperm(SIDE**3, generator=draws)[:40]] = True
    model.mask.copy_(mask.reshape(model.mask.shape))
    model.noise.copy_(torch.linalg.qr(torch.randn(40, 2, generator=draws))[0].T)
    model.memory[:, 0] = torch.tensor([0.9, 0.5])
    model.innovation.copy_(torch.tensor([0.03, 0.02]))
    model.grain[0] = torch.linspace(0.005, 0.02, 40)
    model.grain[1] = torch.linspace(0.0, 0.6, 40)
    return model


@pytest.fixture(scope="module")
def prior(linear):
    return RunPrior.of(linear, FRAMES, token=2)


def runs(linear, prior, count):
    """Windows (count, F, V) of the closed form's own noise, in units of the prior."""
    return torch.stack([
        Courses(linear, torch.Generator().manual_seed(k)).take(FRAMES) for k in range(count)
    ]) / prior.unit  # fmt: skip


def windows(linear, prior, count, known):
    rows = runs(linear, prior, count)
    answer = torch.zeros(max(LAGS) + FRAMES, rows.shape[2])
    anatomy = torch.ones(rows.shape[2])
    context = torch.stack([context_of(prior, answer, x[:known], anatomy, LAGS) for x in rows])
    return prior.spread_out(rows), context


def test_voxels_are_laid_out_frame_behind_frame_and_back(linear, prior):
    rows = runs(linear, prior, 1)[0]
    volumes = prior.spread_out(rows)
    assert volumes.shape[0] == FRAMES * prior.frame_shape[0]
    assert torch.equal(prior.gather(volumes), rows)
    assert int(prior.inside.sum()) == FRAMES * 40
    grid = torch.zeros(SIDE, SIDE, SIDE)
    grid[linear.mask] = rows[3]
    corner = [int(each.min()) for each in torch.nonzero(linear.mask, as_tuple=True)]
    x, y, z = corner[0], corner[1] + 1, corner[2] + 2
    assert volumes[3 * prior.frame_shape[0] + 2, 1, 0] == grid[x, y, z]


def test_units_are_those_of_the_noise(linear, prior):
    rows = runs(linear, prior, 200)
    assert rows.std().item() == pytest.approx(1, abs=0.05)
    told = prior.gather(prior.variance)[0]
    np.testing.assert_allclose(told, rows.var((0, 1)), rtol=0.3)


@pytest.mark.parametrize("known", [0, KNOWN])
def test_no_other_linear_estimate_of_its_own_noise_is_better(linear, prior, known):
    """The posterior mean of the model has the least error, and is told how large that is."""
    clean, context = windows(linear, prior, 100, known)
    t, draws = 0.5, torch.Generator().manual_seed(1)
    noise = torch.randn(clean.shape, generator=draws)
    noisy = (1 - t) * clean + t * noise
    estimate, mean = prior(noisy, torch.full((100,), t), None, context)
    fresh = slice(known, None)
    error = prior.gather(clean - estimate)[:, fresh]
    best = (error**2).mean()
    for share in (0.9, 1.1):
        moved = prior.gather(clean - mean - share * (estimate - mean))[:, fresh]
        assert (moved**2).mean() > best
    alone = (prior.gather(clean)[:, fresh] ** 2).mean()  # shrinking each voxel alone
    assert best < 0.95 * alone / (alone + 1)
    given = prior.gather(estimate)[:, :known]
    torch.testing.assert_close(given, prior.gather(clean)[:, :known])


def test_frames_before_say_what_comes_next(linear, prior):
    clean, context = windows(linear, prior, 200, KNOWN)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    _, mean = prior(noise, torch.full((200,), 0.998), None, context)
    actual, told = (prior.gather(x)[:, KNOWN] for x in (clean, mean))
    assert ((actual - told) ** 2).mean() < 0.9 * (actual**2).mean()
    late = prior.gather(mean)[:, -1]
    assert (late**2).mean() < 0.5 * (told**2).mean()  # it forgets


def test_the_response_moves_the_mean_and_ago_is_ago(linear, prior):
    voxels, most = 40, max(LAGS)
    answer = torch.zeros(most + FRAMES, voxels)
    answer[most + 3] = 1.0
    context = context_of(prior, answer, torch.zeros(0, voxels), torch.ones(voxels), LAGS)
    assert context.shape[0] == CHANNELS
    _, mean = prior(torch.zeros_like(context[:1]), torch.tensor([0.9]), None, context[None])
    assert prior.gather(mean[0])[3].eq(1).all()
    assert prior.gather(mean[0]).sum() == voxels
    for number, lag in enumerate(LAGS):
        seen = prior.gather(context[4 + number])
        assert seen.sum() == (voxels if 3 + lag < FRAMES else 0)
        if 3 + lag < FRAMES:
            assert seen[3 + lag].eq(1).all()


def test_the_deviation_is_the_error_on_windows_that_were_not_seen(linear, prior):
    clean, context = windows(linear, prior, 60, 0)
    draws = torch.Generator().manual_seed(3)
    noise = torch.randn(clean.shape, generator=draws)
    measured = RunPrior.of(linear, FRAMES, token=2)
    measured.calibrate((prior, *each) for each in zip(clean, context, noise, strict=True))
    t = torch.tensor([0.5])
    fresh = torch.randn(clean.shape, generator=draws)
    estimate, _ = prior(0.5 * (clean + fresh), t.expand(60), None, context)
    error = prior.gather(clean - estimate).pow(2).mean().sqrt()
    told = prior.gather(measured.spread(t))[0].pow(2).mean().sqrt()
    assert told.item() == pytest.approx(error.item(), rel=0.1)


def test_a_denoiser_of_runs_begins_as_its_prior_and_reloads(prior, linear, tmp_path):
    settings = {k: v for k, v in prior.config.items() if not k.startswith("_")}
    network = {"depth": prior.frame_shape[0], "width": 8, "blocks": 1, "layers": 1, "heads": 2,
               "token": 2}  # fmt: skip
    denoiser = RunDenoiser(
        label_space=LabelSpace({"task": ("t",)}).to_dict(), prior_settings=settings,
        network_settings=network, parameters=0,
    )  # fmt: skip
    denoiser.prior.load_state_dict(prior.state_dict())
    clean, context = windows(linear, prior, 2, KNOWN)
    labels = {"task": torch.zeros(2, dtype=torch.long), CONTEXT: context}
    velocity = denoiser(clean, torch.full((2,), 500.0), labels)
    estimate, _ = prior(clean, torch.full((2,), 0.5), None, context)
    torch.testing.assert_close(velocity, (clean - estimate) / 0.5)
    denoiser.save_pretrained(tmp_path)
    again = RunDenoiser.from_pretrained(tmp_path)
    assert isinstance(again.prior, RunPrior)
    assert torch.equal(again(clean, torch.full((2,), 500.0), labels), velocity)
