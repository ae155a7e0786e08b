import pytest
import torch

from neuromix.augment.diffusion.flow import FlowMultistepScheduler

DEVIATIONS = torch.tensor([0.1, 0.5, 1.0, 5.0, 70.0])


def solve(steps, deviations=DEVIATIONS):
    """Flow of independent normal variables from noise of 1: the true answer is the deviation."""
    scheduler = FlowMultistepScheduler()
    scheduler.set_timesteps(steps)
    sample = torch.ones_like(deviations)
    for time in scheduler.timesteps:
        t, variance = float(time) / 1000, deviations**2
        total = (1 - t) ** 2 * variance + t**2
        velocity = (t - (1 - t) * variance) / total * sample
        sample = scheduler.step(velocity, time, sample).prev_sample
    return sample / deviations


@pytest.mark.parametrize(("steps", "within"), [(10, 0.05), (20, 0.025), (250, 0.005)])
def test_faint_and_strong_patterns_keep_their_spread(steps, within):
    torch.testing.assert_close(solve(steps), torch.ones(5), atol=within, rtol=0)


def test_a_known_sample_is_found_in_one_step():
    scheduler = FlowMultistepScheduler()
    scheduler.set_timesteps(1)
    clean, noise, t = torch.full((3,), 2.0), torch.randn(3), scheduler.times[0]
    noisy = (1 - t) * clean + t * noise
    found = scheduler.step(noise - clean, scheduler.timesteps[0], noisy).prev_sample
    torch.testing.assert_close(found, clean, atol=1e-4, rtol=0)


def test_each_call_of_set_timesteps_starts_anew():
    assert torch.equal(solve(7), solve(7))


def test_it_reloads_as_it_was(tmp_path):
    FlowMultistepScheduler(first=0.99).save_pretrained(tmp_path)
    again = FlowMultistepScheduler.from_pretrained(tmp_path)
    again.set_timesteps(4)
    assert float(again.timesteps[0]) == pytest.approx(990)
