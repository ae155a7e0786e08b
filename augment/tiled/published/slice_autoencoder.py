"""A convolutional autoencoder for slices: diffusers' AutoencoderKL, pretrained or trained here.

Every slice s of a tiling is encoded by itself (Kingma and Welling 2014; Rombach et al. 2022):

    q(z | s) = N(mu(s), sigma(s)²),        s ~ decoder(z),        latents = (z - shift) / scale

with one shift and scale a channel, so that latents have unit variance, as the noise of diffusion
has. A pretrained autoencoder brings its own scale, and one trained here is measured on its training
subjects. Values from 0 to ``largest`` become -1 to 1. An autoencoder of pictures gets the grey
value in all three channels, and the mean of its three is the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging
from torch import Tensor

from neuromix.augment.diffusion.objectives import standardise
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.mosaic import Tiling

GROUP = 16
"""Slices that go through the network at a time, which bounds the memory. Groups never mix volumes,
so that a volume's bytes do not depend on the others of its batch."""

QUIET = -4.0
"""Logarithm of the variance of a code before training, about."""


class SliceAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' order of bases
    """Volumes to latents of mosaics and back, slice by slice.

    ``architecture`` is the config of the ``AutoencoderKL``; ``largest`` the value of the volumes
    that becomes 1: larger ones are clipped, 0 becomes -1.
    """

    shift: Tensor
    scale: Tensor

    @register_to_config
    def __init__(
        self, *, tiling: dict[str, Any], architecture: dict[str, Any], largest: float = 1.0
    ) -> None:
        super().__init__()
        self.tiling = Tiling.from_dict(tiling)
        self.network: Any = AutoencoderKL.from_config(
            architecture
        )  # its type of forward is too wide
        self.channels: int = self.network.config["latent_channels"]
        self.factor: int = 2 ** (len(self.network.config["block_out_channels"]) - 1)
        self.register_buffer("shift", torch.zeros(self.channels, 1, 1))
        self.register_buffer("scale", torch.ones(self.channels, 1, 1))

    @classmethod
    def new(
        cls, tiling: Tiling, *, channels: int, widths: Sequence[int], largest: float
    ) -> SliceAutoencoder:
        """An untrained one for single-channel slices; each level but the first halves the sides."""
        levels = len(widths)
        architecture = {
            "in_channels": 1,
            "out_channels": 1,
            "latent_channels": channels,
            "block_out_channels": list(widths),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "norm_num_groups": min(8, *widths),
            # A registered slice has few latent pixels, and attention over them adds little.
            "mid_block_add_attention": False,
        }
        codec = cls(tiling=tiling.to_dict(), architecture=architecture, largest=largest)
        # The code is quiet at first: images are learned sooner than through full noise.
        torch.nn.init.constant_(codec.network.quant_conv.bias[channels:], QUIET)
        return codec

    @classmethod
    def from_kl(
        cls, path: str | Path, tiling: Tiling, *, largest: float, revision: str | None = None
    ) -> SliceAutoencoder:
        """Take a pretrained ``AutoencoderKL``, such as that of ``facebook/DiT-XL-2-256``.

        ``path`` is a folder, or a name on the Hugging Face hub, whose subfolder ``vae``, or which
        itself, holds ``config.json`` and safetensors; ``revision`` a branch or commit there.
        """
        pretrained = _load_kl(path, revision)
        config = {k: v for k, v in pretrained.config.items() if not k.startswith("_")}
        codec = cls(tiling=tiling.to_dict(), architecture=config, largest=largest)
        codec.network.load_state_dict(pretrained.state_dict())
        codec.scale.fill_(1 / config["scaling_factor"])
        codec.shift.fill_(config["shift_factor"] or 0)
        return codec.eval()

    @property
    def mask(self) -> Tensor:
        """Where latents belong to a slice, (1, C, H / f, W / f): zero in spare slots alone."""
        height, width = (side // self.factor for side in self.tiling.tile_shape)
        ones = torch.ones(1, self.tiling.count, self.channels, height, width)
        return self.tiling.tile_latents(ones).to(self.scale)

    def forward(
        self, slices: Tensor, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode, draw and decode slices (B, 1, h, w) in the volumes' unit, a generator for each.

        Returns slices as the network sees them, from -1 to 1, (B, 1, h, w); what it makes of them;
        and mean and logarithm of the variance of their code, (B, C, h / f, w / f).
        """
        inputs = self._scaled(slices)
        posterior = self.network.encode(self._coloured(inputs)).latent_dist
        again = self.network.decode(posterior.sample(generators)).sample
        return inputs, again.mean(1, keepdim=True), posterior.mean, posterior.logvar

    @torch.no_grad()
    def moments(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents (B, C, H / f, W / f) of volumes (B, 1, X, Y, Z)."""
        means, deviations = [], []
        for group in self._groups(self.tiling.slices(volumes)):
            inputs = self._coloured(self._scaled(group.to(self.scale)))
            posterior = self.network.encode(inputs).latent_dist
            means.append((posterior.mean - self.shift) / self.scale)
            deviations.append(posterior.std / self.scale)
        mean, deviation = (
            self.tiling.tile_latents(torch.cat(parts).unflatten(0, (-1, self.tiling.count)))
            for parts in (means, deviations)
        )
        return mean, deviation

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents of mosaics (B, C, H / f, W / f) to volumes (B, 1, X, Y, Z) in their unit."""
        slices = self.tiling.untile_latents(latents * self.scale + self.shift).flatten(0, 1)
        parts = [
            self.network.decode(group).sample.mean(1, keepdim=True)
            for group in self._groups(slices)
        ]
        return self.tiling.from_slices((torch.cat(parts) + 1) * (self.config["largest"] / 2))

    def standardise(self, volumes: Iterable[Tensor]) -> None:
        """Set shift and scale so that latents have zero mean and unit variance in each channel."""
        standardise(self, self.mask, volumes)

    def _scaled(self, values: Tensor) -> Tensor:
        return (values * (2 / self.config["largest"]) - 1).clamp(-1, 1)

    def _coloured(self, slices: Tensor) -> Tensor:
        return slices.expand(-1, self.network.config["in_channels"], -1, -1)

    def _groups(self, slices: Tensor) -> list[Tensor]:
        volumes = slices.split(self.tiling.count)
        return [group for volume in volumes for group in volume.split(GROUP)]


def _load_kl(path: str | Path, revision: str | None) -> AutoencoderKL:
    """A pretrained autoencoder, whole and as its config says, from safetensors."""
    if Path(path).is_dir():
        places: list[str | None] = ["vae" if (Path(path) / "vae").is_dir() else None]
    else:
        places = ["vae", None]  # a repository may be the autoencoder itself
    problems: list[Exception] = []
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # weights that do not fit are told below, in one line
    try:
        for place in places:
            try:
                network, info = AutoencoderKL.from_pretrained(
                    str(path),
                    subfolder=place,
                    revision=revision,
                    use_safetensors=True,
                    output_loading_info=True,
                )
                break
            except (OSError, ValueError, RuntimeError) as error:
                problems.append(error)
        else:
            raise InputError(
                f"{path} gave no AutoencoderKL with safetensors ({_first_line(problems[0])}); give "
                "a folder, or a name on the hub if it can be reached, whose `vae`, or which "
                "itself, is one (refs/pr/1 is the revision of facebook/DiT-XL-2-256 that has them)"
            ) from problems[0]
    finally:
        logging.set_verbosity(verbosity)
    odd = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if odd:
        raise InputError(
            f"{path} is not laid out as an AutoencoderKL: {len(odd)} weights are missing or too "
            f"many, the first is {odd[0]}; give one that diffusers' AutoencoderKL has saved"
        )
    colours = (network.config["in_channels"], network.config["out_channels"])
    if colours not in ((1, 1), (3, 3)):
        raise InputError(
            f"the autoencoder {path} takes {colours[0]} channels and gives {colours[1]}; allowed "
            "are 1 and 1 (grey) or 3 and 3 (colour)"
        )
    return network


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
