"""A 3D VQ-GAN for brain volumes: MONAI's VQVAE and patch discriminator, volume by volume.

An encoder E shrinks each side by four and gives C channels, each place is replaced by the nearest
of K codes, and a decoder D makes a volume of them (van den Oord et al. 2017; Esser et al. 2021)::

    z = E(x),    q(z) = argmin_k || z - e_k ||²,    x' = D(q(z))

The codes follow a moving average of what is assigned to them, not a gradient. They are buffers
here: the training loop takes a parameter without a gradient for a constant, which no checkpoint
needs to hold. A code that nothing is assigned to any more is revived at an encoding of the last
batch, which also gives all codes their first place.

Latents for a diffusion model are z before it is quantised, with one shift and scale a channel, so
that they have unit variance; :meth:`VolumeAutoencoder.decode` quantises. ``kind="kl"`` is MONAI's
AutoencoderKL of the same factor instead (Rombach et al. 2022), for comparison: its code is normal,
with a mean and a standard deviation, and there are no codes.

Volumes are seen inside a brain mask alone, and are zero outside of it when they come back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from monai.networks.nets import VQVAE, AutoencoderKL, PatchDiscriminator
from torch import Tensor

from neuromix.augment.diffusion.objectives import standardise
from neuromix.augment.errors import InputError

FACTOR = 4
"""Voxels along a side of a latent voxel."""
GROUP = 8
"""Volumes that go through the network at a time, which bounds the memory."""
DEAD = 0.02
"""Assignments a step, in the moving average, below which a code counts as dead."""
DECAY = 0.99
"""Of the moving average that the codes follow."""


class VolumeAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' order of bases
    """Volumes (N, 1, X, Y, Z) to latents (N, C, X / 4, Y / 4, Z / 4) and back.

    Sides that four does not divide are padded. ``vq`` has a number K of codes, ``kl`` a normal
    code; ``widths`` are the channels of the two levels, which have so many residual ``layers``.
    """

    mask: Tensor
    shift: Tensor
    scale: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        shape: Sequence[int],
        kind: str = "vq",
        channels: int = 4,
        widths: Sequence[int] = (32, 64),
        codes: int = 8192,
        layers: int = 2,
    ) -> None:
        super().__init__()
        if kind not in ("vq", "kl"):
            raise InputError(f"autoencoder {kind!r} is not known; give vq or kl")
        if len(widths) != 2:
            raise InputError(f"widths {tuple(widths)} came; a factor of four takes two levels")
        self.channels = channels
        self.latent_shape = tuple(math.ceil(side / FACTOR) for side in shape)
        self.network: Any
        if kind == "vq":
            self.network = VQVAE(
                3, 1, 1, tuple(widths), layers, tuple(widths),
                downsample_parameters=((2, 4, 1, 1),) * 2,
                upsample_parameters=((2, 4, 1, 1, 0),) * 2,
                num_embeddings=codes, embedding_dim=channels, decay=DECAY,
            )  # fmt: skip
            table = self.network.quantizer.quantizer.embedding
            first = table.weight.detach().clone()
            del table.weight
            table.register_buffer("weight", first)
        else:
            levels = (widths[0], *widths)
            self.network = AutoencoderKL(
                3, 1, 1, (layers,) * 3, levels, (False,) * 3, channels,
                norm_num_groups=math.gcd(8, *widths),
                with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
            )  # fmt: skip
        self.register_buffer("mask", torch.ones(1, 1, *shape))
        self.register_buffer("shift", torch.zeros(channels, 1, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1, 1))

    @property
    def codebook(self) -> Any:
        """MONAI's quantiser, which holds the codes and their moving averages; ``None`` of kl."""
        return self.network.quantizer.quantizer if self.config["kind"] == "vq" else None

    @property
    def latent_mask(self) -> Tensor:
        """Where latents have a part of the brain, (1, C, x, y, z): ones and zeros."""
        inside = F.max_pool3d(self._padded(self.mask), FACTOR)
        return inside.expand(-1, self.channels, -1, -1, -1)

    def forward(
        self, volumes: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode, draw or quantise, and decode volumes (N, 1, X, Y, Z), as training wants it.

        The codes move along. Returns volumes inside the mask and what the network makes of them,
        both padded; the loss of the code, a mean over its elements: commitment, or divergence from
        a normal one; and the encodings, (N, C, x, y, z).
        """
        inputs = self._padded(volumes * self.mask)
        if self.config["kind"] == "vq":
            encoded = self.network.encode(inputs)
            code, penalty = self.network.quantize(encoded)
        else:
            encoded, deviation = self.network.encode(inputs)
            draws = [torch.randn(encoded.shape[1:], generator=g) for g in generators]
            code = encoded + deviation * torch.stack(draws).to(encoded)
            mean, deviation = encoded.float(), deviation.float()
            penalty = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).mean()
        again = self.network.decode(code) * self._padded(self.mask)
        return inputs, again, penalty, encoded

    @torch.no_grad()
    def moments(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of volumes; the latter is 0 of codes."""
        means, deviations = [], []
        for group in volumes.split(GROUP):
            encoded = self.network.encode(self._padded(group.to(self.mask) * self.mask))
            mean, deviation = (
                encoded if isinstance(encoded, tuple) else (encoded, torch.zeros_like(encoded))
            )
            means.append((mean - self.shift) / self.scale)
            deviations.append(deviation / self.scale)
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, C, x, y, z) to volumes (N, 1, X, Y, Z), zero outside the mask."""
        x, y, z = self.config["shape"]
        parts = []
        for group in latents.split(GROUP):
            code = group * self.scale + self.shift
            if self.config["kind"] == "vq":
                code = self.network.quantize(code)[0]
            parts.append(self.network.decode(code)[..., :x, :y, :z] * self.mask)
        return torch.cat(parts)

    def standardise(self, volumes: Iterable[Tensor]) -> None:
        """Set shift and scale so that latents have zero mean and unit variance in each channel."""
        standardise(self, self.latent_mask, volumes)

    @torch.no_grad()
    def revive(self, encodings: Tensor) -> dict[str, float]:
        """Move dead codes to encodings (K, C), and tell how the codes are used.

        ``codes used`` is the share that was alive, ``perplexity`` the number of equally frequent
        codes that would be as various.
        """
        book = self.codebook
        size = book.ema_cluster_size
        dead = size < DEAD
        share = size / size.sum().clamp_min(1e-9)
        usage = {
            "codes used": 1 - float(dead.float().mean()),
            "perplexity": float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum())),
        }
        book.embedding.weight[dead] = encodings[dead]
        book.ema_w[dead] = encodings[dead]
        size[dead] = 1.0
        return usage

    def _padded(self, volumes: Tensor) -> Tensor:
        pads = [(-side) % FACTOR for side in reversed(volumes.shape[2:])]
        return F.pad(volumes, [part for pad in pads for part in (0, pad)])


class VolumeDiscriminator(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' order
    """MONAI's patch discriminator: volumes (N, 1, X, Y, Z) to the features of every layer.

    Its norm is by sample, so that a judgement does not depend on the batch. The last of the
    features is the judgement of each patch.
    """

    @register_to_config
    def __init__(self, *, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.network = PatchDiscriminator(
            3, width, 1, num_layers_d=layers, norm=("group", {"num_groups": 1})
        )

    def forward(self, volumes: Tensor) -> list[Tensor]:
        """Features of every layer."""
        features: list[Tensor] = self.network(volumes)
        return features
