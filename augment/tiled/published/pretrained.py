"""Checkpoints of diffusers' DiT, read as published and checked against their layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

from neuromix.augment.errors import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"

FIXED: dict[str, Any] = {
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
"""What the config of a checkpoint must say, because our blocks are built that way."""


def load_dit(
    path: str | Path, subfolder: str, revision: str | None
) -> tuple[Mapping[str, Any], dict[str, torch.Tensor], torch.Tensor]:
    """Read a pretrained DiT for a network that has one embedder for all blocks.

    ``path`` is a folder or a name on the Hugging Face hub, ``revision`` a branch or commit there.
    Returns the whole config, with ``out_channels`` as a number; the weights, with the embedder of
    time under ``time_embedder``; and the table of classes (K + 1, D), the last row for "no class".
    """
    source = f"{path}/{subfolder}" if subfolder else str(path)
    config = json.loads(_fetch(path, "config.json", subfolder, revision).read_text())
    state = _read(_fetch(path, WEIGHTS, subfolder, revision))
    config = _check_layout(source, config, state)
    shared = _pop_shared(source, state)
    classes = shared.pop("class_embedder.embedding_table.weight")
    state |= {name.replace("timestep_", "time_", 1): value for name, value in shared.items()}
    return config, state, classes


def _fetch(path: str | Path, name: str, subfolder: str, revision: str | None) -> Path:
    """A file of a local folder or of the hub."""
    folder = Path(path) / subfolder
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        instead = f"the pickle {pickles[0]}, which may run code" if pickles else "no weights"
        raise InputError(
            f"{folder} has no {name} but {instead}; allowed is safetensors: save it again with "
            "DiTTransformer2DModel.from_pretrained(...).save_pretrained(...)"
        )
    if Path(path).is_dir():
        raise InputError(f"{path} has no folder {subfolder}; name the one with {name}: subfolder=")

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(
            hf_hub_download(str(path), name, subfolder=subfolder or None, revision=revision)
        )
    except (EntryNotFoundError, HFValidationError, OSError) as error:
        raise InputError(
            f"{path} is no folder, and no {subfolder}/{name} came from the hub "
            f"({type(error).__name__}); give a folder, or a revision that has it "
            "(refs/pr/1 for facebook/DiT-XL-2-256)"
        ) from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not whole ({error}); fetch it again") from error


def _check_layout(
    source: str, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> Mapping[str, Any]:
    """Compare a checkpoint with the DiT that its config describes; give the full config."""
    for name, allowed in FIXED.items():
        if config.get(name, allowed) != allowed:
            raise InputError(
                f"{source} has {name} {config[name]!r}; allowed is {allowed!r}, as in facebook/"
                "DiT-XL-2-256"
            )
    # Old configs carry settings of other models; only those of a DiT count.
    known = DiTTransformer2DModel.extract_init_dict(dict(config))[0]
    with torch.device("meta"):
        reference = DiTTransformer2DModel(**known)
    shapes = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
    for name in sorted(shapes.keys() | state.keys()):
        came = tuple(state[name].shape) if name in state else "nothing"
        allowed = shapes.get(name, "nothing")
        if came != allowed:
            raise InputError(
                f"{source} is not laid out as a DiT: {name} has {came}, allowed is {allowed}; "
                "give a checkpoint such as facebook/DiT-XL-2-256"
            )
    return {**reference.config, "out_channels": reference.out_channels}


def _pop_shared(source: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take the blocks' equal copies of the embedder out of a checkpoint; give one of them."""
    shared: dict[str, torch.Tensor] = {}
    for key in [key for key in state if ".norm1.emb." in key]:
        block, name = key.split(".norm1.emb.")
        value = state.pop(key)
        if not torch.equal(value, shared.setdefault(name, value)):
            # Trained on in diffusers, where the copies drift apart. One of them for all would be
            # another network.
            raise InputError(
                f"{source} has embedders that differ between blocks ({block}, {name}); allowed are "
                "equal ones: give a checkpoint as published, or one of TiledDiT to from_pretrained"
            )
    return shared
