"""The mean of the people themselves, to register them to where no template fits.

    m_0 = mean of people, each turned and shifted as the template lies, in its own size,
    m_k = mean of people, each registered to m_(k-1) by an affine,

of brightness divided by the median in each brain. So it has the cohort's own contrast, size and
coverage, and the pose of the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import joblib
import nibabel as nib
import numpy as np

from neuromix.augment import files
from neuromix.augment.data.grid import resample
from neuromix.augment.errors import InputError
from neuromix.augment.prepare import space
from neuromix.augment.prepare.outputs import read_map
from neuromix.augment.prepare.scans import Scan

ROUNDS = 2
"""Of affine registration to the mean of before."""
MOST = 20
"""People that it is the mean of."""
FEWEST = 3
NAME = "the people's own mean"


def passes(count: int) -> int:
    """Registrations that the mean of so many people takes."""
    return (1 + ROUNDS) * min(count, MOST)


def mean_of(scans: Sequence[Scan], folder: Path, jobs: int) -> space.Reference:
    """The mean of some of the scans, evenly chosen; what is in the folder is only read."""
    chosen = [scans[k] for k in np.unique(np.linspace(0, len(scans) - 1, MOST).astype(int))]
    reference: space.Reference | None = None
    for number in range(1 + ROUNDS):
        path = folder / f"mean-{number}.nii.gz"
        if not path.is_file():
            parallel = joblib.Parallel(n_jobs=max(1, min(jobs, len(chosen))))
            moved = parallel(joblib.delayed(_on_coarse)(scan, reference) for scan in chosen)
            there = [pair for pair in moved if pair is not None]
            if len(there) < FEWEST:
                raise InputError(
                    f"{len(there)} of {len(chosen)} scans could be laid on each other; a mean "
                    f"needs {FEWEST} or more: give masks, register to the template, or to none"
                )
            means = np.stack([np.mean(each, axis=0) for each in zip(*there, strict=True)], axis=-1)
            files.write_nifti(path, means, space.COARSE.affine, space="mean")
        image, share = np.moveaxis(nib.load(path).get_fdata(dtype=np.float32), -1, 0)
        reference = space.Reference(image, share > 0.5, NAME)
    assert reference is not None
    return reference


def _on_coarse(
    scan: Scan, reference: space.Reference | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """A map of median 1 and its brain on the coarse grid; nothing where that fails."""
    try:
        data, affine, mask = read_map(scan)
        if reference is None:
            transform = space.pose(data, affine, mask)
        else:
            transform, _, _ = space.register(data, affine, mask, reference)
    except InputError:  # it is reported where the scan itself is prepared
        return None
    image, _ = space.place(data, affine, space.COARSE, transform, mask)
    source = space.Grid(mask.shape, affine)
    brain = resample(mask.astype(np.float32), source, space.COARSE, transform=transform)
    return image / np.median(data[mask]), brain
