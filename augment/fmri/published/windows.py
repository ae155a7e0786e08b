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
from neuromix.augment.data.conditions import LabelSpace, inside
from neuromix.augment.diffusion.objectives import noise_like
from neuromix.augment.fmri.published.vqgan import VolumeAutoencoder
from neuromix.augment.fmri.runs import Runs, Survey, design_of, scaled

GIVEN = 0.5
"""Share of training windows whose first frames are known, as those of later windows of a run."""


class FrameSet:
    """Scaled volumes on disk, (N, 1, X, Y, Z), to train an autoencoder with."""

    def __init__(self, path: Path) -> None:
        self.frames = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.frames)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """Volumes (B, 1, X, Y, Z)."""
        return {"images": torch.from_numpy(np.stack([self.frames[k] for k in indices])).float()}


def write_latents(
    codec: VolumeAutoencoder, runs: Runs, survey: Survey, path: Path, progress: bool = False
) -> Path:
    """Write the latents of all frames of all runs, (N, 2, C, x, y, z): mean and deviation."""
    from rich.progress import track

    codec.to(PartialState().device)
    shape = (sum(run.frames for run in runs.runs), 2, codec.channels, *codec.latent_shape)
    with files.replacing(path) as temporary:
        writer = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        done = 0
        total = len(runs.runs)
        title = f"Encoding {path.stem}"
        for _, data in track(scaled(runs, survey), title, total, disable=not progress):
            moments = codec.moments(torch.from_numpy(data)[:, None])
            writer[done : done + len(data)] = torch.stack(moments, dim=1).cpu().numpy()
            done += len(data)
        writer.flush()
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
        codes = [space.encode(inside(space, run.labels)) for run in runs.runs]
        self.codes = {name: torch.tensor([row[name] for row in codes]) for name in space.names}

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
