"""Which machines train in bfloat16. A GPU says so itself, and a CPU needs AMX.

With AVX512-BF16 alone oneDNN takes bfloat16, gains nothing worth having, and now and then gives NaN
as the gradient of a convolution's weights (torch 2.13).
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
