"""The two-stage loss of PDS, as objectives of the one training loop.

First *semantic consistency*: the volume as a whole must say what the source says. Then *anatomical
and microstructural detail*. With e an error in units of its usual size, inside the brain, P the map
and w the weights of the pattern-aware module,

    semantic = mean (1 + P) e²  +  sum_r w_r (mean_r e)²
    detail   = semantic + 0.1 mean |grad e| + m mean |e - mean over segments of e|

The last term is MR, microstructure refinement: how a voxel's signal changes from gradient to
gradient (or over time), which is what microstructure leaves in it, apart from how bright it is.
Squares find the posterior mean; the absolute errors of the detail keep edges and contrasts from
being bought with blur, and are weighed so that they cost next to nothing in squares.

PDM learns the first (:class:`SemanticConsistency`: e is the error of the velocity or of the noise),
TR the first and then the second (:class:`Refinement`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuromix.augment.diffusion.label_embedding import drop_labels
from neuromix.augment.diffusion.objectives import (
    SHIFT,
    SPREAD,
    Batch,
    Generators,
    Objective,
    noise_like,
)
from neuromix.augment.pds.dual_modal import DualModalDiffusion

EDGES = 0.1
"""Weight of the errors of edges."""


class SemanticConsistency(Objective):
    """PDM's loss: denoising, weighed by the pattern; of the model its ``network`` is trained.

    With ``alphas``, cumulative products of a noise schedule (T,), noise is predicted, else
    velocity.
    """

    def __init__(
        self, model: DualModalDiffusion, label_dropout: float, alphas: Tensor | None = None
    ) -> None:
        self.model = model
        self.networks: dict[str, nn.Module] = {"network": model.network}
        self.label_dropout = label_dropout
        self.alphas = alphas

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Of a batch ``{"latents", "known", "support", "direction", "labels"}``."""
        clean, support = batch["latents"], batch["support"]
        noise = noise_like(clean, generators)
        if self.alphas is None:
            normal = torch.stack([torch.randn((), generator=g) for g in generators])
            time = (SHIFT + SPREAD * normal).sigmoid().to(clean)
            t = time[:, None, None, None, None]
            noisy, wanted, time = (1 - t) * clean + t * noise, noise - clean, 1000 * time
        else:
            drawn = [torch.randint(len(self.alphas), (), generator=g) for g in generators]
            time = torch.stack(drawn)
            alpha = self.alphas[time].to(clean)[:, None, None, None, None]
            noisy, wanted = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, noise
            time = time.to(clean.device)
        draws = torch.stack([torch.rand((), generator=g) for g in generators]).to(clean.device)
        labels = drop_labels(self.model.label_space, batch["labels"], draws < self.label_dropout)
        predicted = self.model(
            noisy, time, batch["known"], batch["direction"], labels, self.networks[name]
        )
        if self.model.start == "noise":  # what lies outside the brain must be denoised, too
            support = torch.ones_like(support)
        error = (predicted.float() - wanted) * support
        return semantic(self.model, error, support)


class Refinement(Objective):
    """TR's loss, of its first stage or, with ``detail``, of its second.

    ``microstructure`` is the weight m of MR.
    """

    def __init__(self, model: DualModalDiffusion, detail: bool, microstructure: float) -> None:
        assert model.refiner is not None
        self.networks: dict[str, nn.Module] = {"refiner": model.refiner}
        self.pattern = model.atlas is not None
        self.detail, self.microstructure = detail, microstructure

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Of a batch of boxes, as :class:`neuromix.augment.pds.pairs.BoxSet` gives them."""
        support, deviation = batch["support"], batch["deviation"]
        inputs = (batch[k] for k in ("source", "estimate", "support", "average", "deviation"))
        refined = self.networks[name](*inputs, batch["direction"])
        error = support * (refined.float() - batch["target"]) / deviation
        voxels = support.sum().clamp_min(1)
        loss = (batch["weight"] * error.square()).sum() / (voxels * error.shape[1])
        if self.pattern:
            # The mean over a box stands for that over a region: they are about as large.
            inside = support.sum((2, 3, 4)).clamp_min(1)
            loss = loss + (error.sum((2, 3, 4)) / inside).square().mean()
        if not self.detail:
            return loss
        for axis in (2, 3, 4):
            both = support.narrow(axis, 1, support.shape[axis] - 1)
            both = both * support.narrow(axis, 0, support.shape[axis] - 1)
            steps = (error.diff(dim=axis).abs() * both).sum() / (both.sum().clamp_min(1))
            loss = loss + EDGES / 3 * steps / error.shape[1]
        contrast = error - error.mean(1, keepdim=True)
        micro = contrast.abs().sum() / (voxels * error.shape[1])
        return loss + self.microstructure * micro


def semantic(model: DualModalDiffusion, error: Tensor, support: Tensor) -> Tensor:
    """The first stage's loss of errors (B, N, X, Y, Z) that are zero outside the support."""
    squares: Any = error.square()
    if model.atlas is None:
        return squares.sum() / (support.sum().clamp_min(1) * error.shape[1])
    weight = (1 + model.atlas.map()) * support
    loss = (weight * squares).sum() / (weight.sum().clamp_min(1) * error.shape[1])
    return loss + model.atlas.region_error(error, support)
