"""TR: the tissue refinement network, which sharpens an estimate of the target at full resolution.

Which tissues a voxel mixes is decided by its neighbourhood in the source, in ways that no linear
map follows. TR sees the source, the estimate and where the brain ends through one convolution; what
follows works voxel by voxel::

    refined = estimate + F(known, estimate, direction)

F starts as zero. Sharing of weights between directions is as in
:mod:`neuromix.augment.pds.published.network`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TissueRefiner(nn.Module):
    """Corrects estimates (B, N, X, Y, Z) of N segments by voxelwise blocks."""

    def __init__(
        self, modalities: int, segments: int, known_channels: int, width: int, blocks: int
    ) -> None:
        super().__init__()
        self.modalities, self.segments = modalities, segments
        self.stem = nn.Conv3d(modalities * (known_channels + segments), width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv3d(width, 2 * width, 1), nn.GELU(), nn.Conv3d(2 * width, width, 1))
            for _ in range(blocks)
        )
        self.head = nn.Conv3d(width, modalities * segments, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # there is one

    def forward(self, known: Tensor, estimate: Tensor, direction: Tensor) -> Tensor:
        """Refined estimates; ``known`` (B, 1 + N or 1, X, Y, Z) begins with the support."""
        inputs = torch.cat([known, estimate], dim=1)
        hot = F.one_hot(direction, self.modalities).to(inputs)
        h = self.stem(torch.einsum("bm,bcxyz->bmcxyz", hot, inputs).flatten(1, 2))
        for block in self.blocks:
            h = h + block(F.gelu(h))
        every = self.head(F.gelu(h)).unflatten(1, (self.modalities, self.segments))
        answer = every[torch.arange(len(every), device=every.device), direction]
        return estimate + answer * known[:, :1]
