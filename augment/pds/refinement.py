"""TR: the tissue refinement network, which sharpens an estimate of the target at full resolution.

Which tissues a voxel mixes is decided by its neighbourhood in the source, in ways that no linear
map follows: a rim that is half brain, half nothing is as dark as cerebrospinal fluid. TR sees the
source, the estimate, where the brain ends and the average target at that place, through one
convolution; what follows works voxel by voxel, so that it can be trained on small boxes cut from
many subjects::

    refined = estimate + a F(source, estimate, support, average, direction)

a is the standard deviation of what the estimate missed in the training subjects; F starts as zero.
Sharing of weights between directions is as in :mod:`neuromix.augment.pds.dual_unet`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TissueRefiner(nn.Module):
    """Corrects estimates (B, N, X, Y, Z) of N segments by voxelwise blocks."""

    def __init__(self, modalities: int, segments: int, width: int, blocks: int) -> None:
        super().__init__()
        self.modalities, self.segments = modalities, segments
        self.stem = nn.Conv3d(modalities * (3 * segments + 1), width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv3d(width, 2 * width, 1), nn.GELU(), nn.Conv3d(2 * width, width, 1))
            for _ in range(blocks)
        )
        self.head = nn.Conv3d(width, modalities * segments, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # there is one

    def forward(
        self,
        source: Tensor,
        estimate: Tensor,
        support: Tensor,
        average: Tensor,
        deviation: Tensor,
        direction: Tensor,
    ) -> Tensor:
        """Refined estimates (B, N, X, Y, Z), zero outside the support (B, 1, X, Y, Z).

        ``average`` is the mean target, ``deviation`` that of the estimate's error, both as the
        estimate.
        """
        # The average is a place's; what differs from it is the subject's.
        inputs = torch.cat([source, (estimate - average) / deviation, average, support], dim=1)
        hot = F.one_hot(direction, self.modalities).to(inputs)
        h = self.stem(torch.einsum("bm,bcxyz->bmcxyz", hot, inputs).flatten(1, 2))
        for block in self.blocks:
            h = h + block(F.gelu(h))
        every = self.head(F.gelu(h)).unflatten(1, (self.modalities, self.segments))
        answer = every[torch.arange(len(every), device=every.device), direction]
        return (estimate + deviation * answer) * support
