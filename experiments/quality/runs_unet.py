"""MONAI's 3D diffusion U-Net on windows of BOLD latents, in the place of the hybrid network.

It is the baseline of Seo et al. (2025): frames are stacked into channels, and time, labels and
design, embedded as in :class:`~neuromix.augment.fmri.network.HybridDiT`, are added to its embedded
time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import LabelEmbedder
from neuromix.augment.fmri.network import LABEL_SCALE, HybridDiT
from neuromix.augment.fmri.parts import Parts
from neuromix.experiments.quality.voxel_unet import unet_width

LEVELS = 3


class WindowUNet(nn.Module):
    """Takes and gives what :class:`HybridDiT` does.

    Args:
        space: The labels.
        courses: Columns K of the design.
        window_shape: Frames F, channels C, latent voxels x, y and z.
        parameters: About how many weights the U-Net shall have.
    """

    drop = HybridDiT.drop

    def __init__(
        self, space: LabelSpace, courses: int, window_shape: Sequence[int], parameters: int
    ) -> None:
        super().__init__()
        self.label_space = space
        self.window_shape = tuple(window_shape)
        frames, channels = self.window_shape[:2]

        def build(width: int) -> Any:
            return _unet(width, frames * (2 * channels + 1), frames * channels)

        width = unet_width(parameters, build)
        self.unet = build(width)
        # MONAI adds to the embedded time what this makes of `class_labels`.
        self.unet.class_embedding = nn.Identity()
        self.embedding = 4 * width
        self.label_embedder = LabelEmbedder(space, self.embedding, LABEL_SCALE)
        self.design_embedder = nn.Linear(frames * courses, self.embedding)
        self.no_design = nn.Parameter(torch.zeros(self.embedding))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.no_design.device

    def forward(self, latents: Tensor, timestep: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Velocity (B, F, C, x, y, z) of noisy windows of that shape at times (B,)."""
        sides = latents.shape[3:]
        known = labels["known"].to(latents)[:, :, None, None, None, None]
        known = known.expand(-1, -1, 1, *sides)
        hidden = torch.cat([latents, labels["given"].to(latents), known], dim=2).flatten(1, 2)
        # Each level down halves each side.
        margin = [edge for side in reversed(sides) for edge in (0, -side % 2 ** (LEVELS - 1))]
        design = labels["design"].flatten(1)
        untold = design.isnan().any(-1, keepdim=True)
        told = self.design_embedder(design.nan_to_num().to(latents))
        label = self.label_embedder(labels, latents.new_zeros(len(latents), self.embedding))
        label = label + torch.where(untold, self.no_design, told)
        velocity: Tensor = self.unet(
            nn.functional.pad(hidden, margin), timestep, class_labels=label
        )
        velocity = velocity[:, :, : sides[0], : sides[1], : sides[2]]
        return velocity.reshape(latents.shape)


def unet_beside(parts: Parts) -> WindowUNet:
    """One of about as many weights as the network of the parts, for the same windows."""
    network = parts.network
    weights = sum(p.numel() for p in network.parameters())
    return WindowUNet(parts.space, network.config["courses"], network.window_shape, weights)


def _unet(width: int, inputs: int, outputs: int) -> Any:
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=inputs,
        out_channels=outputs,
        num_res_blocks=1,
        channels=tuple(width * 2**k for k in range(LEVELS)),
        attention_levels=(False,) * (LEVELS - 1) + (True,),
        norm_num_groups=4,
        num_head_channels=width * 2 ** (LEVELS - 1),
        num_class_embeds=1,
    )
