"""Windows of runs for a network: latents of all frames lie on disk, and batches cut them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import encode_rows
from neuromix.augment.diffusion.objectives import noise_like
from neuromix.augment.fmri.published.vqgan import VolumeAutoencoder
from neuromix.augment.fmri.runs import Runs, Survey, design_of, scaled

GIVEN = 0.5
"""Share of training windows whose first frames are known, as those of later windows of a run."""


def write_latents(
    codec: VolumeAutoencoder, runs: Runs, survey: Survey, path: Path, progress: bool = False
) -> Path:
    """Write the latents of all frames of all runs, (N, 2, C, x, y, z): mean and deviation."""
    from rich.progress import track

    codec.to(PartialState().device)
    title, total = f"Encoding {path.stem}", len(runs.runs)
    listed = track(scaled(runs, survey), title, total, disable=not progress)
    moments = (
        torch.stack(codec.moments(torch.from_numpy(data)[:, None]), dim=1).cpu().numpy()
        for _, data in listed
    )
    files.write_array(path, sum(run.frames for run in runs.runs), moments, np.float16)
    return path


class WindowSet:
    """Windows of F latents, one of each run an epoch, for the training loop.

    Where a window begins, and how many of its first frames are known, is drawn anew each time.
    """

    def __init__(
        self, path: Path, runs: Runs, conditions: Sequence[str], space: LabelSpace, window: int
    ) -> None:
        self.latents = np.load(path, mmap_mode="r")
        self.window = window
        lengths = [run.frames for run in runs.runs]
        self.lengths = lengths
        self.starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()
        self.designs = [
            design_of(run.events, run.task, conditions, run.frames, runs.tr) for run in runs.runs
        ]
        self.codes = encode_rows(space, [run.labels for run in runs.runs])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """Latents (B, F, C, x, y, z), and what :class:`HybridDiT` takes as labels."""
        moments, designs, counts = [], [], []
        for k, generator in zip(indices, generators, strict=True):
            last = self.lengths[k] - self.window
            begin = int(torch.randint(last + 1, (), generator=generator))
            some = float(torch.rand((), generator=generator)) < GIVEN
            count = int(torch.randint(1, self.window, (), generator=generator))
            place = self.starts[k] + begin
            moments.append(self.latents[place : place + self.window])
            designs.append(self.designs[k][begin : begin + self.window])
            counts.append(count if some else 0)
        mean, deviation = torch.from_numpy(np.stack(moments)).float().unbind(2)
        latents = mean + deviation * noise_like(mean, generators)
        chosen = list(indices)
        labels = {name: codes[chosen] for name, codes in self.codes.items()}
        labels |= known_frames(latents, torch.tensor(counts))
        labels["design"] = torch.from_numpy(np.stack(designs))
        return {"latents": latents, "labels": labels}


def known_frames(latents: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """The first ``counts`` (B,) frames of windows (B, F, C, x, y, z), for :class:`HybridDiT`."""
    known = (torch.arange(latents.shape[1]) < counts[:, None]).to(latents)
    return {"known": known, "given": latents * known[:, :, None, None, None, None]}
