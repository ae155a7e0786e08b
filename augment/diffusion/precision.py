"""Which machines train in bfloat16. A GPU says so itself, and a CPU needs AMX.

On a CPU with AVX-512 and no AMX, the weights of a 3 x 3 x 3 convolution of volumes of 2 x 2 x 2 got
NaN as their gradient in a tenth to a quarter of tries (torch 2.13, oneDNN 3.12), with or without
AVX512-BF16. With oneDNN off, or held to AVX2, they never did.
With AMX other kernels are used.
"""

from __future__ import annotations

from neuromix.augment.errors import InputError


def has_bf16(kind: str) -> bool:
    """Whether devices of a kind, ``cpu`` or ``cuda``, train in it here."""
    import torch

    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(False))
    return kind != "cpu" or bool(torch.cpu._is_amx_tile_supported())


def require_bf16(kind: str) -> None:
    """Refuse what the machine can't do."""
    if not has_bf16(kind):
        raise InputError(
            f"bfloat16 came, and this {kind} does not train in it (a CPU needs AMX); take float32, "
            "which --training.precision calls no"
        )
