"""Windows of runs as latents: on disk, in batches, and made one after the other.

A window begins with some frames of the one before, which the network is given; over these the run
goes gradually from the old window to the new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from neuromix.augment.diffusion.pipeline import solve
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.closed_form import generator
from neuromix.augment.fmri.published.hybrid_dit import HybridDiT
from neuromix.augment.fmri.published.vqgan import VolumeAutoencoder
from neuromix.augment.fmri.runs import Runs, Survey, design_of, scaled
from neuromix.augment.prepare.bold import windows

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
        for k, draws in zip(indices, generators, strict=True):
            last = self.lengths[k] - self.window
            begin = int(torch.randint(last + 1, (), generator=draws))
            some = float(torch.rand((), generator=draws)) < GIVEN
            count = int(torch.randint(1, self.window, (), generator=draws))
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


def draw_latents(
    network: HybridDiT,
    codec: VolumeAutoencoder,
    scheduler: Any,
    design: np.ndarray,
    codes: Mapping[str, float],
    overlap: int,
    seed: int,
    steps: int,
    guidance: float,
) -> Iterator[Tensor]:
    """A run of a design (T, K), in frames (n, X, Y, Z) scaled to a mean of about 1."""
    length, count, device = network.window_shape[0], len(design), network.device
    if count < length:
        raise InputError(
            f"a run of {count} frames is shorter than the window of {length}; ask for "
            f"{length} or more"
        )
    starts = windows(count, length, overlap / length)
    everyone = torch.ones(1, dtype=torch.bool, device=device)
    mask = codec.latent_mask.to(device)
    latents: Tensor | None = None
    for number, start in enumerate(starts):
        shared = starts[number - 1] + length - start if number else 0
        before = None if latents is None else latents[length - shared :]
        draws = generator(seed, number)
        noise = torch.randn(1, *network.window_shape, generator=draws).to(device)
        given = torch.zeros_like(noise)
        if before is not None:
            given[0, :shared] = before
        wanted = {name: torch.tensor([code], device=device) for name, code in codes.items()}
        wanted |= known_frames(given, torch.tensor([shared], device=device))
        wanted["design"] = torch.from_numpy(design[start : start + length])[None].to(device)
        nothing = network.drop(wanted, everyone)
        latents = solve(network, scheduler, noise, steps, guidance, wanted, nothing)[0] * mask
        if before is not None:
            share = torch.arange(1, shared + 1).to(latents) / (shared + 1)
            share = share.reshape(-1, 1, 1, 1, 1)
            latents[:shared] = (1 - share) * before + share * latents[:shared]
        done = starts[number + 1] - start if number + 1 < len(starts) else length
        yield codec.decode(latents[:done])[:, 0].float()
