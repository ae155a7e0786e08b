"""The tiled DiT: a diffusion transformer for images that sees a volume as a mosaic of its slices.

For latents ``x`` of a mosaic, a timestep ``t`` and labels ``y`` it predicts what it is trained for
(noise or velocity). Tokens are patches of the mosaic; a condition ``c`` shifts, scales and gates
every block (AdaLN-Zero)::

    c = time(t) + labels(y)
    z = patch(x) + position(row, column) + slice(index) + W labels(y)
    z = block_l(z, c),  l = 1 ... L
    output = unpatch(head(z, c))

It is diffusers' :class:`DiTTransformer2DModel` (Peebles and Xie, *Scalable Diffusion Models with
Transformers*, 2023), whose checkpoints it loads, with these differences:

* ONE embedder of time and labels serves all blocks. Diffusers gives each block its own, which drops
  labels by itself, so that most training samples are neither conditional nor unconditional. Here
  nothing is dropped inside: the caller does it with
  :func:`neuromix.augment.diffusion.label_embedding.drop_labels`.
* The labels are also added to the tokens: with AdaLN alone a short training hardly uses them.
* Mosaics need not be square. A token's position is (row in slice, column in slice, slice), so that
  the same place in neighbouring slices is near. Spare slots take no part: their tokens are dropped
  before the blocks, and the output is zero there.

Positions in the slice are the sines and cosines of the pretrained DiT with one token as the step,
as in its training (0 ... 15 at 256 px, 0 ... 31 at 512 px): every slice looks like the top left of
a picture. The slice number enters through sines and cosines of its own and a linear map.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import (
    PatchEmbed,
    TimestepEmbedding,
    Timesteps,
    get_1d_sincos_pos_embed_from_grid,
)

# A pipeline reloads a component only if it finds this name in the component's module.
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormZero
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from torch import nn

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import LabelEmbedder
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.mosaic import Tiling
from neuromix.augment.tiled.published.pretrained import FIXED, load_dit

if TYPE_CHECKING:
    from peft import PeftModel

TIME_FEATURES = 256
INHERITED = (
    "num_attention_heads", "attention_head_dim", "in_channels", "num_layers", "dropout",
    "patch_size", "norm_eps",
)  # fmt: skip
"""Settings that a pretrained DiT hands on."""

ZERO_AT_START = ("proj_out_1", "proj_out_2", "label_to_tokens")


class TiledDiT(DiTTransformer2DModel):
    """A DiT over mosaics, conditioned on a label space.

    Args:
        label_space: ``LabelSpace.to_dict()``.
        tiling: ``Tiling.to_dict()``, in pixels.
        num_attention_heads: Heads of each block.
        attention_head_dim: Channels of a head; the width D is heads times this, a multiple of 4.
        in_channels: Channels C of the latents.
        out_channels: Channels of the output; those of the input by default.
        num_layers: Blocks.
        dropout: Inside attention and feed-forward layers.
        patch_size: Latent pixels along a side of a token.
        latent_factor: Mosaic pixels along a side of a latent pixel: 8 behind an f8 autoencoder.
        label_scale: Standard deviation of label vectors at the start. The time vector's is about
            0.5; labels as loud as time are used earlier in a short training.
        norm_eps: Epsilon of the norm before the feed-forward layer.
    """

    _gradient_checkpointing_func: Any  # set by diffusers' enable_gradient_checkpointing
    kept: torch.Tensor
    in_slice: torch.Tensor
    slice_number: torch.Tensor
    slice_features: torch.Tensor

    @register_to_config
    def __init__(
        self,
        *,  # diffusers takes a setting passed by place for a default, and loses it in from_config
        label_space: dict[str, Any],
        tiling: dict[str, Any],
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = None,
        num_layers: int = 28,
        dropout: float = 0.0,
        patch_size: int = 2,
        latent_factor: int = 8,
        label_scale: float = 0.5,
        norm_eps: float = 1e-5,
    ) -> None:
        # The parent's constructor is passed over: it builds an embedder into every block.
        ModelMixin.__init__(self)
        dim = num_attention_heads * attention_head_dim
        self.label_space = LabelSpace.from_dict(label_space)
        self.tiling = Tiling.from_dict(tiling)
        height, width = (side // latent_factor for side in self.tiling.mosaic_shape)
        self.latent_shape = (in_channels, height, width)
        self.patch_size = patch_size
        self.out_channels = out_channels or in_channels
        self.gradient_checkpointing = False
        self._set_positions(self.tiling, latent_factor, dim)

        self.pos_embed = PatchEmbed(  # diffusers' name in checkpoints; it adds no position here
            patch_size=patch_size, in_channels=in_channels, embed_dim=dim, pos_embed_type=None
        )
        self.slice_embedder = nn.Linear(dim, dim, bias=False)
        self.time_proj = Timesteps(TIME_FEATURES, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.time_embedder = TimestepEmbedding(TIME_FEATURES, dim)
        self.label_to_tokens = nn.Linear(dim, dim, bias=False)
        self.transformer_blocks = nn.ModuleList(
            _block(num_attention_heads, attention_head_dim, dropout, norm_eps)
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.proj_out_1 = nn.Linear(dim, 2 * dim)
        self.proj_out_2 = nn.Linear(dim, patch_size * patch_size * self.out_channels)
        self._initialise()
        self.label_embedder = LabelEmbedder(self.label_space, dim, label_scale)  # draws its own

    def forward(  # type: ignore[override]  # labels by name instead of one class
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        labels: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Predict (B, out_channels, H, W) for noisy latents (B, C, H, W), zero in spare slots.

        ``timestep`` (B,) is from 0 to 1000. ``labels`` hold a code (B,) for each name of the label
        space, as ``LabelSpace.encode`` gives them: the index of a category or its number of values
        if missing; a position in [0, 1] or NaN if missing.
        """
        self._check(hidden_states, labels)
        dtype = self.pos_embed.proj.weight.dtype
        time = self.time_embedder(self.time_proj(timestep).to(dtype))
        label = self.label_embedder(labels, time)
        condition = time + label

        position = self.in_slice.to(dtype)
        position = position + self.slice_embedder(self.slice_features.to(dtype))[self.slice_number]
        tokens = self.pos_embed(hidden_states)[:, self.kept]
        tokens = tokens + position + self.label_to_tokens(label)[:, None]

        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                arguments = (None, None, None, condition)
                tokens = self._gradient_checkpointing_func(block, tokens, *arguments)
            else:
                tokens = block(tokens, timestep=condition)

        shift, scale = self.proj_out_1(F.silu(condition)).chunk(2, dim=1)
        tokens = self.norm_out(tokens) * (1 + scale[:, None]) + shift[:, None]
        return self._unpatch(self.proj_out_2(tokens))

    @classmethod
    def from_dit(
        cls,
        path: str | Path,
        *,
        label_space: LabelSpace,
        tiling: Tiling,
        subfolder: str = "transformer",
        revision: str | None = None,
    ) -> TiledDiT:
        """Start from a DiT that was pretrained on pictures, such as ``facebook/DiT-XL-2-256``.

        The blocks, the patches, the time embedder and the head are its own, but for the output
        channels that predict the variance. Its class table is replaced by tables for the label
        space, whose vectors spread as those of the classes did. The vector of "no class" goes into
        the time embedder's bias, so that with all labels missing the new network is the pretrained
        one without a class. The label and slice maps to the tokens start at zero.

        ``path`` is a folder or a name on the Hugging Face hub, ``revision`` a branch or commit
        there. The published DiT-XL-2-256 has safetensors on ``refs/pr/1`` and only a pickle on its
        main branch.
        """
        config, state, classes = load_dit(path, subfolder, revision)
        for name in ("proj_out_2.weight", "proj_out_2.bias"):  # without those of the variance
            by_patch = state[name].unflatten(0, (-1, config["out_channels"]))
            state[name] = by_patch[:, : config["in_channels"]].flatten(0, 1)
        network = cls(
            label_space=label_space.to_dict(),
            tiling=tiling.to_dict(),
            label_scale=float(classes[:-1].std(dim=0).mean()),
            **{name: config[name] for name in INHERITED},
        )
        # Not strict, as the new parts are not in it; load_dit has compared all others.
        network.load_state_dict(state, strict=False)
        with torch.no_grad():
            network.time_embedder.linear_2.bias += classes[-1]
            network.slice_embedder.weight.zero_()
        return network

    def _set_positions(self, tiling: Tiling, latent_factor: int, dim: int) -> None:
        side = latent_factor * self.patch_size
        positions = torch.from_numpy(tiling.token_positions(side))
        kept = torch.from_numpy(tiling.token_mask(side)).nonzero().flatten()
        row, column, number = positions[kept].double().T
        # The column comes first, as in diffusers (whose variable names say otherwise).
        in_slice = [get_1d_sincos_pos_embed_from_grid(dim // 2, place) for place in (column, row)]
        every = get_1d_sincos_pos_embed_from_grid(dim, torch.arange(tiling.count).double())
        # They follow from the config, so checkpoints do not hold them.
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("in_slice", torch.cat(in_slice, dim=1).float(), persistent=False)
        self.register_buffer("slice_number", number.long(), persistent=False)
        self.register_buffer("slice_features", every.float(), persistent=False)

    def _initialise(self) -> None:
        """As in the paper: every block starts as the identity and the output as zero."""
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            if name.endswith("norm1.linear") or name in ZERO_AT_START:
                nn.init.zeros_(module.weight)
            else:
                nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _unpatch(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches (B, kept, p * p * C) to (B, C, H, W)."""
        p = self.patch_size
        height, width = (side // p for side in self.latent_shape[1:])
        full = patches.new_zeros(len(patches), height * width, patches.shape[-1])
        full = full.index_copy(1, self.kept, patches)
        grid = full.reshape(-1, height, width, p, p, self.out_channels)
        grid = grid.permute(0, 5, 1, 3, 2, 4)
        return grid.reshape(-1, self.out_channels, height * p, width * p)

    def _check(self, hidden_states: torch.Tensor, labels: Mapping[str, torch.Tensor]) -> None:
        if tuple(hidden_states.shape[1:]) != self.latent_shape:
            raise InputError(
                f"latents of shape {tuple(hidden_states.shape)} came; this network takes "
                f"(batch, {', '.join(map(str, self.latent_shape))})"
            )
        if set(labels) != set(self.label_space.names):
            raise InputError(
                f"labels {sorted(labels)} came; this network is conditioned on "
                f"{list(self.label_space.names)}: encode them with its label_space"
            )


class _SharedAdaLayerNormZero(AdaLayerNormZero):
    """AdaLN-Zero that is handed the condition (B, D) where diffusers' block hands the timestep."""

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return super().forward(x, emb=timestep)


def _block(heads: int, head_dim: int, dropout: float, norm_eps: float) -> BasicTransformerBlock:
    """Diffusers' block without an embedder of its own; attention is torch's scaled dot product."""
    dim = heads * head_dim
    block: Any = BasicTransformerBlock(
        dim, heads, head_dim, dropout=dropout, num_embeds_ada_norm=1, norm_eps=norm_eps, **FIXED
    )
    block.norm1 = _SharedAdaLayerNormZero(dim)
    return block


def add_lora(network: TiledDiT, rank: int) -> PeftModel:
    """Train low-rank updates of the pretrained layers instead of the layers themselves.

    The parts that are new to a pretrained network (labels, slices, output head) train in full; all
    else is frozen. ``save_pretrained`` of the result writes the updates and the new parts only, and
    ``peft.PeftModel.from_pretrained(network, folder)`` puts them on the same base again.
    ``merge_and_unload()`` gives a plain :class:`TiledDiT` back.

    The network is changed in place.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=[
            "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
            "ff.net.0.proj", "ff.net.2", "norm1.linear",
        ],
        modules_to_save=[
            "label_embedder", "label_to_tokens", "slice_embedder", "proj_out_1", "proj_out_2",
        ],
    )  # fmt: skip
    return get_peft_model(network, config)
