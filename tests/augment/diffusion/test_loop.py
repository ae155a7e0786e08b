import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import CONFIG, Samples, run, toy

from neuromix.augment.diffusion import state
from neuromix.augment.diffusion.loop import checkpoints, estimate, learning_rate, train
from neuromix.augment.diffusion.objectives import FlowMatching
from neuromix.augment.errors import InputError, TrainingError

SCRIPT = Path(__file__).parents[2] / "training.py"


def weights(folder):
    return load_file(checkpoints(folder)[-1] / "weights.safetensors")


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["network"] for row in map(json.loads, lines) if "network" in row}


def same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    network, result = run(folder)
    return folder, network, result


def test_training_lowers_the_loss_and_keeps_the_best_average(unbroken):
    folder, network, result = unbroken
    curve = losses(folder)
    assert list(curve) == list(range(1, 13))
    assert sum(list(curve.values())[-4:]) < sum(list(curve.values())[:4])
    best = load_file(folder / "best.safetensors")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, best[f"network/{name}"])
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    validation = {row["step"]: row["validation"] for row in rows if "validation" in row}
    assert result.best_step == min(validation, key=validation.get)
    assert list((folder).rglob("events.out.tfevents*"))


def test_a_killed_training_goes_on_to_the_same_weights(unbroken, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    killed = subprocess.run([*command, "7"], capture_output=True, check=False)
    assert killed.returncode == -9
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000004"]
    network, result = run(tmp_path)
    folder, expected, full = unbroken
    same(weights(tmp_path), weights(folder), rtol=0, atol=0)
    same(dict(network.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
    assert losses(tmp_path) == losses(folder)
    assert result.best_step == full.best_step


def test_a_start_that_no_step_betters_is_kept(tmp_path):
    """Also when the training is resumed."""
    config = replace(CONFIG, learning_rate=30.0)
    network, result = run(tmp_path, config, validation=Samples(6))
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    validation = {row["step"]: row["validation"] for row in rows if "validation" in row}
    assert min(validation, key=validation.get) == result.best_step == 0
    assert result.validation == validation[0]
    same(dict(network.state_dict()), dict(toy().state_dict()), rtol=0, atol=0)
    shutil.rmtree(checkpoints(tmp_path)[-1])
    resumed, again = run(tmp_path, config, validation=Samples(6))
    assert (again.best_step, again.validation) == (0, result.validation)
    same(dict(resumed.state_dict()), dict(toy().state_dict()), rtol=0, atol=0)


def test_two_processes_follow_one(unbroken, tmp_path):
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0", str(SCRIPT), str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = unbroken[0]
    assert losses(tmp_path) == pytest.approx(losses(folder), rel=1e-5)
    same(weights(tmp_path), weights(folder), rtol=1e-4, atol=1e-6)


def test_micro_batches_change_nothing(unbroken, tmp_path):
    run(tmp_path, replace(CONFIG, accumulation=2))
    assert losses(tmp_path) == pytest.approx(losses(unbroken[0]), rel=1e-5)


def test_only_the_last_checkpoints_are_kept(unbroken):
    names = [path.name for path in checkpoints(unbroken[0])]
    assert names == ["checkpoint-00000008", "checkpoint-00000012"]


def test_a_training_anew_removes_the_old_checkpoints_and_keeps_its_own(tmp_path):
    config = replace(CONFIG, steps=4, checkpoint_every=2)
    run(tmp_path)
    network, _ = run(tmp_path, config, resume=False, validation=None)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-00000002", "checkpoint-00000004"]
    assert list(losses(tmp_path)) == [1, 2, 3, 4]
    assert not (tmp_path / "best.safetensors").exists()  # nothing of the old one is left
    again, _ = run(tmp_path, config, validation=None)  # which goes on with the new ones
    same(dict(again.state_dict()), dict(network.state_dict()), rtol=0, atol=0)


def test_fp16_whose_gradients_would_stay_scaled_is_refused():
    with pytest.raises(InputError, match="'fp16' came; allowed are auto, no, bf16"):
        replace(CONFIG, precision="fp16")


def test_nan_stops_with_the_step_and_the_last_good_checkpoint(tmp_path, monkeypatch):
    whole = Samples.batch

    def broken(self, indices, generators):
        batch = whole(self, indices, generators)
        broken.calls += 1
        if broken.calls > 6:
            batch["latents"][0] = float("nan")
        return batch

    broken.calls = 0
    monkeypatch.setattr(Samples, "batch", broken)
    with pytest.raises(TrainingError, match=r"step 7 .*checkpoint-00000004"):
        run(tmp_path, validation=None)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    before = {}

    def full(*args):
        raise OSError(28, "No space left on device")

    def fill_disk(step):
        if step == 4:
            before.update(weights(tmp_path))
            monkeypatch.setattr(state, "save_file", full)

    with pytest.raises(OSError, match="No space"):
        run(tmp_path, validation=None, on_step=fill_disk)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000004"]
    assert not list(tmp_path.glob(".checkpoint*"))
    same(weights(tmp_path), before)


def test_other_settings_are_not_resumed(unbroken):
    with pytest.raises(InputError, match="other settings"):
        run(unbroken[0], replace(CONFIG, learning_rate=1.0))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, batch_size=11), "10 training samples are fewer than a batch of 11"),
        (replace(CONFIG, accumulation=3), "does not divide into 3 shares"),
    ],
)
def test_batches_that_cannot_be_are_refused(tmp_path, config, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, config)


def test_an_estimate_writes_and_changes_nothing():
    objective = FlowMatching(toy())
    assert 0 < estimate(objective, Samples(10), CONFIG) < 60
    same(dict(objective.networks["network"].state_dict()), dict(toy().state_dict()))


def test_every_sample_is_seen_once_an_epoch(tmp_path, monkeypatch):
    seen = []
    whole = Samples.batch

    def record(self, indices, generators):
        seen.extend(indices)
        return whole(self, indices, generators)

    monkeypatch.setattr(Samples, "batch", record)
    train(FlowMatching(toy()), Samples(8), replace(CONFIG, steps=4), tmp_path)
    assert sorted(seen[:8]) == sorted(seen[8:]) == list(range(8))
    assert seen[:8] != seen[8:]


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(CONFIG, step) for step in range(13)]
    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) in (1, 2)
    assert rates[-1] == pytest.approx(0, abs=1e-6)
