"""A sampler that costs nothing, and banks of its samples."""

import time

import numpy as np
import torch
import torchio as tio

from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data.conditions import known
from neuromix.augment.data.grid import Grid
from neuromix.augment.data.leakage import subject_hash

GRID = Grid.mni(16.0)
RECORD = {"datasets": ["study"], "subjects": [subject_hash("study", "01")], "voxels": []}


class FakeSampler:
    """Noise around a mean that tells the sex."""

    version = 1

    def __init__(self, weights="w", images=("md",), frames=5, delay=0.0):
        self.weights, self.images, self.frames, self.delay = weights, images, frames, delay
        self.record = RECORD
        self.calls = []

    def fingerprint(self):
        return self.weights

    def __call__(self, labels, seeds, steps, guidance):
        self.calls += list(seeds)
        time.sleep(self.delay)
        return [self.make(row, seed) for row, seed in zip(labels, seeds, strict=True)]

    def make(self, labels, seed):
        rng = np.random.default_rng(seed)
        scans = {}
        for image in self.images:
            channels = 1 if image == "md" else self.frames
            noise = rng.standard_normal((channels, *GRID.shape)) + 5 * (labels.get("sex") == "M")
            extra = {"RepetitionTime": 0.72} if image == "bold" else {}
            scans[image] = tio.ScalarImage(
                tensor=torch.from_numpy(noise.astype(np.float32)), affine=GRID.affine, **extra
            )
        keys = {"dataset": "neuromix", "subject_id": "x", "session_id": "", "age": float("nan")}
        keys |= {name: value for name, value in labels.items() if known(value)}
        return tio.Subject(**scans, **keys, synthetic=True, synthetic_id=str(seed))


LABELS = [{"sex": "FM"[k % 2], "age": 50.0 + k} for k in range(30)]


def no_extremes(subject):
    peak = float(subject["md"].data.amax())
    return f"a voxel of {peak:.2f}" if peak > 8.6 else None


def fill(folder, sampler=None, labels=LABELS, seed=7, **options):
    options = {"filters": [no_extremes]} | options
    return SampleBank.fill(folder, sampler or FakeSampler(), labels, seed, **options)
