"""Maps on their way to a plain tiled DiT: read, encoded slice by slice, and kept on disk.

Memory holds a batch, however large the cohort. The code of a :class:`SliceAutoencoder` is normal
with a mean and a standard deviation: both are kept, and each training step draws anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.fitting import ImageSet, Job
from neuromix.augment.diffusion.label_embedding import encode_rows
from neuromix.augment.diffusion.objectives import Autoencoding, noise_like
from neuromix.augment.tiled.mosaic import BATCH, Tiling, volumes
from neuromix.augment.tiled.published.slice_autoencoder import SliceAutoencoder

if TYPE_CHECKING:
    from neuromix.augment.data.cohort import Cohort


class LatentSet:
    """Latents that :func:`write_latents` has written and encoded labels, for the training loop."""

    def __init__(self, path: Path, space: LabelSpace, rows: Sequence[Mapping[str, Any]]) -> None:
        self.latents = np.load(path, mmap_mode="r")
        self.codes = encode_rows(space, rows)

    def __len__(self) -> int:
        return len(self.latents)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """Latents (B, C, H, W), drawn anew, and codes of the labels."""
        moments = torch.from_numpy(np.stack([self.latents[k] for k in indices]))
        mean, deviation = moments.unbind(1)
        latents = mean + deviation * noise_like(mean, generators)
        chosen = list(indices)
        labels = {name: codes[chosen] for name, codes in self.codes.items()}
        return {"latents": latents, "labels": labels}


def write_slices(tiling: Tiling, cohort: Cohort, image: str, path: Path) -> ImageSet:
    """Write every slice of a cohort."""
    # Half precision is 0.001e-3 mm²/s at 2e-3 mm²/s, far below the noise of a scan.
    parts = (tiling.slices(batch).numpy() for batch in volumes(cohort, image))
    files.write_array(path, len(cohort) * tiling.count, parts, np.float16)
    return ImageSet(path)


def fit_autoencoder(codec: SliceAutoencoder, job: Job) -> None:
    """Train a codec in place on slices, and scale its latents. A finished one is only loaded."""
    sets = [
        write_slices(
            codec.tiling, cohort, job.config.image, job.work / "autoencoder" / f"{name}.npy"
        )
        for cohort, name in zip(job.cohorts, job.names, strict=True)
    ]
    config = job.config.autoencoding.within(job.config.training)
    job.train(Autoencoding(codec), sets, config, "autoencoder")
    codec.eval().standardise(volumes(job.cohorts[0], job.config.image))


def write_latents(
    codec: SliceAutoencoder,
    cohort: Cohort,
    image: str,
    path: Path,
    progress: bool = False,
) -> Path:
    """Write the latents of a cohort, (N, 2, C, H, W): mean and standard deviation of each code."""
    from rich.progress import track

    codec.to(PartialState().device)
    title = f"Encoding {path.stem}"
    batches = track(volumes(cohort, image), title, -(-len(cohort) // BATCH), disable=not progress)
    moments = (
        torch.stack(codec.moments(batch.to(codec.device)), dim=1).cpu().numpy() for batch in batches
    )
    files.write_array(path, len(cohort), moments, np.float32)
    return path
