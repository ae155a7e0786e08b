"""The whole of PDS as one network: a mean given the source, a Gaussian around it, and PDM and TR.

With m the mean of the target given the source (:mod:`neuromix.augment.pds.local_regression`,
sharpened by TR where it refines means), a the deviation of what is left, and z = (y - m) / a,

    v(z_t, t) = E[n - z | z_t] - F( [z_t / k, E[z | z_t]], known, t, direction, labels ) / k,
    k² = (1 - t)² + t²

where the expectations are those of the smooth Gaussian field of
:mod:`neuromix.augment.pds.smooth_residual` and F is PDM (:mod:`neuromix.augment.pds.dual_unet`),
which starts as zero. The factor bounds what it adds, at every t. A training of zero steps already
gives the regression, and samples around it with the right spread and smoothness.

With ``start="noise"`` there is neither: m and a are two numbers for each modality, and PDM predicts
velocity or noise all by itself, as published. With ``source_blind`` nothing is known of the subject
but where its brain is: the flaw of the published code, for comparison.

Volumes are (B, N, X, Y, Z) in units of their modality's scale; a direction is the index of the
target modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.data.grid import Grid
from neuromix.augment.pds.dual_unet import DualModalUNet
from neuromix.augment.pds.local_regression import LocalRegression
from neuromix.augment.pds.pattern import PatternModule
from neuromix.augment.pds.refinement import TissueRefiner
from neuromix.augment.pds.smooth_residual import SmoothResidual


class DualModalDiffusion(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' order of bases
    """Fills one of two modalities from the other.

    N ``segments``; ``voxels``, how many a training subject's brain covers; ``pattern``, whether
    attention, gates and losses know the regions. The other settings are those of
    :class:`~neuromix.augment.pds.config.ModalityConfig`.
    """

    scale: Tensor
    limits: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        label_space: dict[str, Any],
        grid: dict[str, Any],
        modalities: Sequence[str],
        segments: int,
        voxels: int,
        start: str,
        refine: str,
        pattern: bool,
        source_blind: bool,
        widths: Sequence[int],
        patch: int,
        heads: int,
        refiner_width: int,
        refiner_blocks: int,
    ) -> None:
        super().__init__()
        self.label_space = LabelSpace.from_dict(label_space)
        self.grid = Grid.from_dict(grid)
        self.modalities = tuple(modalities)
        self.segments = segments
        self.start, self.refine, self.source_blind = start, refine, source_blind
        count, shape = len(self.modalities), self.grid.shape
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("limits", torch.zeros(count, 2))
        self.regression = LocalRegression(count, segments, shape, voxels)
        self.residual = SmoothResidual(count, segments, shape)
        # Under another name: diffusers gives a setting precedence over a module of its name.
        self.atlas = PatternModule(grid) if pattern else None
        gaussian = start == "gaussian"
        self.network = DualModalUNet(
            self.label_space,
            modalities=count,
            noisy_channels=(1 + gaussian) * segments,
            known_channels=1 + (not source_blind) * segments + gaussian * segments,
            segments=segments,
            widths=widths,
            patch=patch,
            heads=heads,
            pattern=self.atlas,
        )
        self.refiner = None
        if refine != "none":
            self.refiner = TissueRefiner(count, segments, refiner_width, refiner_blocks)

    def mean(self, source: Tensor, support: Tensor, direction: int) -> Tensor:
        """The mean of the target given the source, (B, N, X, Y, Z)."""
        mean: Tensor = self.regression(source, support, direction)
        if self.refine == "mean":
            mean = self.refined(source, mean, support, direction)
        return mean

    def refined(self, source: Tensor, estimate: Tensor, support: Tensor, direction: int) -> Tensor:
        """An estimate as TR sharpens it."""
        assert self.refiner is not None
        average = self.regression.prior(direction).expand_as(estimate)
        deviation = self.residual.deviation[direction][None].expand_as(estimate)
        chosen = torch.full((len(source),), direction, device=source.device)
        shown = torch.zeros_like(source) if self.source_blind else source
        refined: Tensor = self.refiner(shown, estimate, support, average, deviation, chosen)
        return refined

    def known(self, source: Tensor, mean: Tensor, support: Tensor) -> Tensor:
        """What is known of a subject, as PDM takes it."""
        parts = [support]
        if not self.source_blind:
            parts.append(source)
        if self.start == "gaussian":
            parts.append(mean)
        return torch.cat(parts, dim=1)

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        known: Tensor,
        direction: Tensor,
        labels: Mapping[str, Tensor],
        network: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Velocity or noise (B, N, X, Y, Z) at z_t.

        ``timestep`` (B,) is 1000 times the t of a flow, ``known`` what :meth:`known` gave,
        ``network`` PDM as the training loop has wrapped it.
        """
        network = network or self.network
        if self.start == "noise":
            return network(noisy, known, timestep, direction, labels)
        t = (timestep / 1000).to(noisy)
        gaussian, guess = self.residual.velocity(noisy, t, direction)
        bound = ((1 - t) ** 2 + t**2).sqrt()[:, None, None, None, None]
        inputs = torch.cat([noisy / bound, guess], dim=1)
        return gaussian - network(inputs, known, timestep, direction, labels) / bound
