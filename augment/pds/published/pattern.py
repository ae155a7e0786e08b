"""The pattern-aware module: where disease shows, for attention, gates and losses.

Dosenbach's 160 regions (:mod:`neuromix.augment.data.regions`) have a weight each, learnt on the
training split alone: how much better the diagnosis explains a region's signal than chance would
(the F statistic of an analysis of variance, averaged over both modalities, less one). With regions
r and weights w,

    P(x) = sum_r w_r r(x) / max,        0 to 1

biases attention towards such places, gates features, and weighs the loss; and

    L_pattern = sum_r w_r (mean_r error)²

asks that the pattern as a whole be right, which noise in single voxels hides. An error e of the
velocity n - x is an error of both the noise and the clean image, so that the pattern is kept in
either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuromix.augment.data.grid import Grid
from neuromix.augment.data.regions import region_maps

LEAST = 0.3
"""Weight of a region that tells nothing; the average is one."""


class PatternModule(nn.Module):
    """Regions on a grid, ``Grid.to_dict()``, and their weights."""

    weights: Tensor
    regions: Tensor

    def __init__(self, grid: Mapping[str, Any]) -> None:
        super().__init__()
        regions = torch.from_numpy(region_maps(Grid.from_dict(grid)))
        # Regions follow from the grid, so checkpoints hold the weights alone.
        self.register_buffer("regions", regions, persistent=False)
        self.register_buffer("weights", torch.ones(len(regions)))

    def signals(self, volumes: Tensor, support: Tensor) -> Tensor:
        """Mean of each region over segments and voxels, relative to the brain's, (B, R)."""
        mean = (volumes * support).mean(1)
        total = torch.einsum("bxyz,rxyz->br", mean, self.regions)
        size = torch.einsum("bxyz,rxyz->br", support[:, 0], self.regions)
        whole = mean.sum((1, 2, 3)) / support.sum((1, 2, 3, 4)).clamp_min(1)
        return total / size.clamp_min(1e-3) - whole[:, None]

    def learn(self, signals: Tensor, classes: list[str]) -> None:
        """Set the weights by signals (M, N, R) of the training subjects in M modalities.

        ``classes`` are their diagnoses, ``""`` where one is missing.
        """
        from sklearn.feature_selection import f_classif

        known = np.array([bool(value) for value in classes])
        names, counts = np.unique(np.array(classes)[known], return_counts=True)
        if len(names) < 2 or counts.min() < 2:
            return
        targets = np.array(classes)[known]
        ratios = [f_classif(part[known].double().numpy(), targets)[0] for part in signals]
        excess = np.clip(np.nan_to_num(np.mean(ratios, axis=0), nan=1.0) - 1, 0, None)
        if excess.sum() > 0:
            weights = LEAST + (1 - LEAST) * excess / excess.mean()
            self.weights.copy_(torch.from_numpy(weights).float())

    def map(self) -> Tensor:
        """P, (1, 1, X, Y, Z)."""
        total = torch.einsum("r,rxyz->xyz", self.weights, self.regions)
        return (total / total.max().clamp_min(1e-6))[None, None]

    def at(self, shape: torch.Size) -> Tensor:
        """P averaged to a coarser grid, (1, 1, I, J, K)."""
        x, y, z = shape
        return F.adaptive_avg_pool3d(self.map(), (x, y, z))

    def region_error(self, error: Tensor, support: Tensor) -> Tensor:
        """L_pattern of errors (B, N, X, Y, Z): a mean over samples, segments and regions."""
        means = torch.einsum("bnxyz,rxyz->bnr", error * support, self.regions)
        size = torch.einsum("bxyz,rxyz->br", support[:, 0], self.regions)
        weight = (size > 1).float() * self.weights
        squares = (means / size.clamp_min(1)[:, None]).square() * weight[:, None]
        return squares.sum() / (weight.sum() * error.shape[1]).clamp_min(1e-6)
