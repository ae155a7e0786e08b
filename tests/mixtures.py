"""A bank and a completer that cost nothing, made from the subjects of a phantom."""

from pathlib import Path

import torch
import torchio as tio

from neuromix.augment import Cohort, SampleBank
from neuromix.augment.data.cohort import COLUMNS


class Noisy:
    """A sampler whose samples are phantom subjects of the asked sex under noise."""

    version = 1
    record = {"datasets": [], "subjects": [], "voxels": []}  # noqa: RUF012

    def __init__(self, phantom):
        self.subjects = Cohort.from_bids(phantom).subjects()

    def fingerprint(self):
        return "noisy"

    def __call__(self, labels, seeds, steps, guidance):
        return [self.make(row, seed) for row, seed in zip(labels, seeds, strict=True)]

    def make(self, labels, seed):
        fitting = [s for s in self.subjects if s["sex"] == labels["sex"]]
        image = fitting[seed % len(fitting)]["md"]
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        md = tio.ScalarImage(tensor=image.data + 0.05 * noise, affine=image.affine)
        keys = dict.fromkeys(COLUMNS, "") | dict(labels)
        return tio.Subject(md=md, **keys, synthetic=True, synthetic_id=str(seed))


def make_bank(folder: Path, phantom: Path) -> SampleBank:
    """24 samples, four of each sex and diagnosis."""
    rows = [
        {"sex": "FM"[k % 2], "diagnosis": ("NC", "MCI", "AD")[k % 3], "age": 50.0 + 2 * k}
        for k in range(24)
    ]
    return SampleBank.fill(folder, Noisy(phantom), rows, seed=1)


class Doubler:
    """A completer: twice the source under noise."""

    labels = ()

    def __init__(self, uri, factor=2.0):
        self.uri, self.factor = str(uri), factor

    def complete(self, subject, want, seed, labels=None):
        have = next(i for n, i in subject.get_images_dict().items() if n != want)
        noise = torch.randn(have.shape, generator=torch.Generator().manual_seed(seed))
        return tio.ScalarImage(tensor=self.factor * have.data + noise, affine=have.affine)
