"""Arms: ways to make a training set of the same real subjects.

The first of each table is what all others are compared with. In ``transfer`` and ``settings``,
samples are nested: those of ratio 1 are the first of ratio 2.

``decoding``: what a decoder sees of a training response at a step.

    real             it
    classical        it or a copy of it, moved, turned and scaled, brighter here and darker there
    runs             it, or as often one of a synthetic run in its place
    runs-classical   it or a copy, or as often one of a synthetic run in its place
    runs-only        one of a synthetic run
    mean-response    it, or as often one of the mean response and noise

``hybrid``: what becomes of a training subject that lacks an image.

    drop           it is left out
    mask           it is kept as it is: the classifier knows what is there
    mean           it gets the mean image of the others
    regression     it gets what voxelwise ridge regressions predict from the other image
    pds            it gets a sample of the modality completer, which knows no diagnosis
    pds-by-label   it gets a sample that was made after its diagnosis, which test images never are
    complete       nobody lacks anything: the ceiling
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuromix.augment.errors import InputError

SYNTHETIC, GAUSSIAN = "synthetic", "gaussian"
"""Sources of samples: the diffusion sampler, and the cheap generator."""
RUNS, MEAN_RESPONSE = "runs", "mean-response"
"""The same for task fMRI."""
RATIOS = (0.5, 1.0, 2.0, 4.0)
SHIFT = 2
"""Voxels that classical augmentation moves images by at most; it mirrors half of them, too."""


@dataclass(frozen=True)
class Arm:
    """How a training set is made.

    Args:
        title: What reports call it.
        real: Whether the real subjects are in it.
        source: Where its samples, or the images in the place of missing ones, come from.
        ratio: Samples for each real subject, where the experiment has no ratio of its own.
        classical: Whether images are moved, and whatever else does not change their label.
    """

    title: str
    real: bool = True
    source: str = ""
    ratio: float = 0.0
    classical: bool = False

    @property
    def augmentation(self) -> dict[str, Any]:
        """Settings of a classifier. Without augmentation not even the usual shift is left."""
        return {"shift": SHIFT if self.classical else 0, "flip": self.classical}


ARMS = {
    "real": Arm("real only"),
    "classical": Arm("real + classical augmentation", classical=True),
    **{
        f"synthetic-{r:g}": Arm(f"real + synthetic, ratio {r:g}", source=SYNTHETIC, ratio=r)
        for r in RATIOS
    },
    "synthetic-only": Arm("synthetic only", real=False, source=SYNTHETIC, ratio=max(RATIOS)),
    "synthetic-classical": Arm(
        "real + synthetic + classical", source=SYNTHETIC, ratio=1.0, classical=True
    ),
    "gaussian": Arm("real + PCA-Gaussian", source=GAUSSIAN, ratio=1.0),
}
DECODERS = {
    "real": ARMS["real"],
    "classical": ARMS["classical"],
    "runs": Arm("real + synthetic runs", source=RUNS),
    "runs-classical": Arm("real + synthetic runs + classical", source=RUNS, classical=True),
    "runs-only": Arm("synthetic runs only", real=False, source=RUNS),
    "mean-response": Arm("real + mean response and noise", source=MEAN_RESPONSE),
}
FILLINGS = {
    "drop": Arm("dropped"),
    "mask": Arm("kept without the image"),
    "mean": Arm("mean-fill", source="mean"),
    "regression": Arm("regression-fill", source="regression"),
    "pds": Arm("PDS-fill", source="pds"),
    "pds-by-label": Arm("PDS-fill by label", source="pds-by-label"),
    "complete": Arm("complete data"),
}


def check_arms(names: Sequence[str], table: Mapping[str, Arm]) -> None:
    """Refuse names that are not known, and sets without the arm that all are compared with."""
    unknown = sorted(set(names) - set(table))
    if unknown:
        raise InputError(f"arms {', '.join(unknown)} came; allowed are {', '.join(table)}")
    reference = next(iter(table))
    if reference not in names or len(set(names)) != len(names):
        raise InputError(
            f"arms {', '.join(names)} came; each at most once, and {reference} among them, which "
            "the others are compared with"
        )
