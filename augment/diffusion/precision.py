"""Which machines train in bfloat16, and which networks.

A GPU says so itself. A CPU needs AMX, or AVX512-BF16 and a network without 3D convolutions: with
AVX-512 the weights of a 3 x 3 x 3 convolution of volumes of 2 x 2 x 2 got NaN as their gradient in
a tenth to a quarter of tries (torch 2.13, oneDNN 3.12), and those of 2D ones, of 2 x 2 to 32 x 32
pixels, in none of 2,250.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from neuromix.augment.errors import InputError


def has_bf16(kind: str, networks: Iterable[nn.Module] = ()) -> bool:
    """Whether devices of a kind, ``cpu`` or ``cuda``, train networks in it here."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(False))
    if kind != "cpu" or torch.cpu._is_amx_tile_supported():
        return True
    is_deep = any(isinstance(part, nn.Conv3d) for each in networks for part in each.modules())
    return bool(torch.cpu._is_avx512_bf16_supported()) and not is_deep


def require_bf16(kind: str, networks: Iterable[nn.Module] = ()) -> None:
    """Refuse what the machine can't do."""
    if not has_bf16(kind, networks):
        raise InputError(
            f"bfloat16 came, and this {kind} does not train in it (a CPU needs AMX, or AVX512-BF16 "
            "for networks without 3D convolutions); take float32, which --training.precision "
            "calls no"
        )


def precision_of(wanted: str, kind: str, networks: Iterable[nn.Module] = ()) -> str:
    """``no`` or ``bf16``; ``auto`` is what the machine has."""
    networks = list(networks)
    if wanted == "bf16":
        require_bf16(kind, networks)
    if wanted == "auto":
        return "bf16" if has_bf16(kind, networks) else "no"
    return wanted
