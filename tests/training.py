"""A small training for the tests, in this process or, as a script, in others."""

import sys
from pathlib import Path

import torch
from torch import nn

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.loop import TrainConfig, train
from neuromix.augment.diffusion.objectives import FlowMatching

SPACE = LabelSpace({"sex": ("F", "M")})
CONFIG = TrainConfig(
    steps=12, batch_size=4, learning_rate=1e-2, warmup=2, ema_decay=0.9,
    validate_every=4, checkpoint_every=4, log_every=1, seed=5,
)  # fmt: skip


class Toy(nn.Module):
    """Latents (B, 2, 4, 4), whose mean depends on the label."""

    label_space = SPACE

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 3, padding=1)
        self.label = nn.Embedding(3, 2)
        self.time = nn.Linear(1, 2)

    def forward(self, noisy, time, labels):
        shift = self.label(labels["sex"]) + self.time(time[:, None] / 1000)
        return self.mix(noisy) + shift[:, :, None, None]


class Samples:
    """Latents that are random around a mean, encoded anew each time they are asked for."""

    def __init__(self, count, first=0):
        self.first, self.count = first, count

    def __len__(self):
        return self.count

    def batch(self, indices, generators):
        sex = torch.tensor([k % 2 for k in indices])
        means = [torch.full((2, 4, 4), float(self.first + k) / 10) for k in indices]
        noise = [0.1 * torch.randn(2, 4, 4, generator=g) for g in generators]
        latents = torch.stack([m + n for m, n in zip(means, noise, strict=True)])
        return {"latents": latents, "labels": {"sex": sex}}


def toy():
    torch.manual_seed(1)
    return Toy()


def run(folder, config=CONFIG, **options):
    objective = FlowMatching(toy())
    options = {"validation": Samples(6, first=20)} | options
    result = train(objective, Samples(10), config, folder, **options)
    return objective.networks["network"], result


if __name__ == "__main__":
    # training.py FOLDER [STEP]: train, and die without a word after a step.
    import os
    import signal

    stop = int(sys.argv[2]) if len(sys.argv) > 2 else None

    def die(step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGKILL)

    run(Path(sys.argv[1]), on_step=die)
