"""What all samplers share: how they stand as a Source, and what decides their samples.

A sampler is a diffusers ``DiffusionPipeline`` with ``fit(train, config, folder, *, resume)``,
``__call__(labels, seeds, steps, guidance)``, ``save_pretrained`` and ``from_pretrained``. Sample k
depends on the weights, label k, seed k, the steps and the guidance alone.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuromix.augment.data import leakage, origin
from neuromix.augment.data.cohort import COLUMNS, Cohort
from neuromix.augment.data.conditions import LabelSpace, known
from neuromix.augment.errors import InputError
from neuromix.augment.source import SAMPLERS

if TYPE_CHECKING:
    import torchio as tio


class Saved:
    """A pipeline that tells where it lies, who made it, and what decides what it makes.

    Mixed into a ``DiffusionPipeline`` that has ``provenance`` in its config.
    """

    image: str
    """Name of the image that it makes."""
    config: Any  # of the pipeline
    components: dict[str, Any]  # of the pipeline

    @classmethod
    def load_config(cls, *args: Any, **options: Any) -> Any:
        """What diffusers reads; parts that stood in other modules once are looked up by class.

        ``model_index.json`` names the module of each part. A part that is no more is refused.
        """
        loaded = super().load_config(*args, **options)  # type: ignore[misc]  # of the pipeline
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, part in config.items():
            if not (isinstance(part, list | tuple) and len(part) == 2 and part[0]):
                continue
            module, kind = part
            if module.split(".")[0] not in ("augment", "classifiers", "experiments", "neuromix"):
                continue
            here = getattr(sys.modules[cls.__module__], kind, None)
            if here is not None:
                config[name] = [here.__module__, kind]
            elif not _has(module, kind):
                raise InputError(
                    f"{args[0]} has a {name} of the class {module}.{kind}, which this release does "
                    "not have; fit the sampler again, or open it with the release that saved it"
                )
        return loaded

    @property
    def uri(self) -> str:
        """The folder that it was saved in or loaded from, or ``""``."""
        folder = self.config.get("_name_or_path")
        return str(Path(folder).resolve()) if folder else ""

    @property
    def version(self) -> int:
        """Grows when equal weights, labels and seeds give other samples."""
        return SAMPLERS[type(self).__name__].version

    @property
    def record(self) -> dict[str, Any]:
        """Who had a part in its making."""
        return dict(self.config["provenance"])

    def check_disjoint(self, cohort: Cohort, *, voxels: bool = True) -> None:
        """Raise ``LeakageError`` if a subject of the cohort had a part in its making."""
        leakage.check_disjoint(self.record, cohort, voxels=voxels)

    def fingerprint(self) -> str:
        """A digest of the weights and settings of all components."""
        digest = hashlib.sha256()
        named = sorted(self.components.items())
        parts: dict[str, Any] = {name: part for name, part in named if part is not None}
        for name, part in parts.items():
            # Keys with an underscore tell where and by which release a part was saved.
            config = {k: v for k, v in part.config.items() if not k.startswith("_")}
            digest.update(f"{name}:{json.dumps(config, sort_keys=True, default=str)}".encode())
            if not hasattr(part, "state_dict"):
                continue  # a scheduler
            for key, tensor in sorted(part.state_dict().items()):
                digest.update(f"{key}:{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        others = {k: v for k, v in self.config.items() if k not in self.components}
        own = {k: v for k, v in others.items() if not k.startswith("_")}
        own.pop("provenance", None)  # names who made the weights, which are digested themselves
        digest.update(json.dumps(own, sort_keys=True).encode())
        return digest.hexdigest()[:24]


class SamplerSource(Saved):
    """A sampler as a Source: it makes each subject when it is drawn, in the main process only.

    Mixed into a ``DiffusionPipeline`` that has a ``label_space``, and ``provenance`` in its config.
    """

    label_space: LabelSpace

    def __call__(
        self,
        labels: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        steps: int = 20,
        guidance: float = 1.0,
    ) -> list[tio.Subject]:
        """Make a subject for each of the labels."""
        raise NotImplementedError

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that can be asked for."""
        return self.label_space.names

    def draw(self, labels: Mapping[str, Any], seed: int) -> tio.Subject:
        """Make a subject of these labels, in the usual steps and without guidance."""
        refuse_worker()
        return self([labels], [seed])[0]

    def replay(self, synthetic_id: str) -> tio.Subject:
        """Make the subject of a ``synthetic_id`` again."""
        refuse_worker()
        labels, seed, steps, guidance = parse_recipe(synthetic_id)
        return self([labels], [seed], steps, guidance)[0]

    def _subject(
        self, image: tio.Image, seed: int, synthetic_id: str, labels: Mapping[str, Any]
    ) -> tio.Subject:
        """A subject with the keys of a cohort's, its labels and its marks."""
        import torchio as tio

        keys = {"dataset": "neuromix", "subject_id": f"syn{seed}", "age": math.nan}
        shown = {name: value for name, value in labels.items() if known(value)}
        marks = {
            "synthetic": True, "synthetic_id": synthetic_id, "origin": origin.of_maker(self),
        }  # fmt: skip
        return tio.Subject(
            {self.image: image, **dict.fromkeys(COLUMNS, ""), **keys, **shown, **marks}
        )


def _has(module: str, kind: str) -> bool:
    """Whether a module of this release has a class."""
    try:
        return hasattr(importlib.import_module(module), kind)
    except ImportError:
        return False


def refuse_worker() -> None:
    """A network cannot run in the worker processes of a DataLoader."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        raise InputError(
            "a sampler cannot run in a DataLoader worker; fill a bank with it first (`neuromix "
            "generate`, SampleBank.fill) and draw from that, or set num_workers=0"
        )


def recipe(labels: Mapping[str, Any], seed: int, steps: int, guidance: float) -> str:
    """The ``synthetic_id`` of a sampler's subject: all that it takes to make it again."""
    content = {"labels": dict(labels), "seed": seed, "steps": steps, "guidance": guidance}
    # NumPy's numbers are turned into Python's.
    return json.dumps(content, separators=(",", ":"), default=lambda value: value.item())


def parse_recipe(synthetic_id: str) -> tuple[dict[str, Any], int, int, float]:
    """Labels, seed, steps and guidance; inverse of :func:`recipe`."""
    try:
        content = json.loads(synthetic_id)
        return (
            dict(content["labels"]),
            int(content["seed"]),
            int(content["steps"]),
            content["guidance"],
        )
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{synthetic_id!r} is no synthetic_id of a sampler; it must be one that a subject "
            "drawn from the sampler carries"
        ) from None


@torch.no_grad()
def solve(
    network: Any,
    scheduler: Any,
    latents: Tensor,
    steps: int,
    guidance: float,
    wanted: Mapping[str, Tensor],
    nothing: Mapping[str, Tensor],
    interval: Sequence[float] = (0.0, 1.0),
) -> Tensor:
    """From noise (B, ...) to samples, step by step, with classifier-free guidance.

    p = p(x, t, nothing) + guidance (p(x, t, wanted) - p(x, t, nothing)),      x <- step(p, t, x)

    Guidance acts while t / 1000 lies in the ``interval`` (Kynkäänniemi et al. 2024).
    """
    low, high = interval
    both = {name: torch.cat([wanted[name], nothing[name]]) for name in wanted}
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        time = t.expand(len(latents)).to(latents.device)
        if guidance == 1 or not low <= float(t) / 1000 <= high:
            predicted = network(latents, time, wanted)
        else:
            pair = network(torch.cat([latents, latents]), torch.cat([time, time]), both)
            asked, free = pair.chunk(2)
            predicted = free + guidance * (asked - free)
        latents = scheduler.step(predicted, t, latents).prev_sample
    return latents


def check_requests(labels: Sequence[Any], seeds: Sequence[int]) -> None:
    """Refuse lists that do not belong together."""
    if len(labels) != len(seeds):
        raise InputError(f"{len(labels)} labels came with {len(seeds)} seeds; give one seed each")


def is_sampler(folder: Path) -> bool:
    """Whether a folder holds a finished sampler."""
    return (folder / "model_index.json").is_file()
