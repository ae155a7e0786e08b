"""What a checkpoint holds: weights, their moving averages and the optimisers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuromix.augment.diffusion.objectives import Objective

WEIGHTS, AVERAGES, MOMENTS = "weights.safetensors", "ema.safetensors", "optimisers.safetensors"


class TrainingState:
    """The networks of an objective, wrapped by accelerate, with an optimiser and an average each.

    Parameters of a frozen base never change, so that no file holds them.
    """

    def __init__(
        self, objective: Objective, accelerator: Accelerator, weight_decay: float, ema_decay: float
    ) -> None:
        self.networks, self.accelerator = objective.networks, accelerator
        for name in list(self.networks):
            self.networks[name] = accelerator.prepare(self.networks[name])
        self.optimisers = {
            name: torch.optim.AdamW(self.trained(name), weight_decay=weight_decay)
            for name in self.networks
        }
        self.averages = {
            name: EMAModel(self.trained(name), decay=ema_decay) for name in self.networks
        }
        for average in self.averages.values():
            average.to(accelerator.device)

    def trained(self, name: str) -> list[torch.nn.Parameter]:
        """Parameters that are optimised and averaged."""
        return [p for p in self._bare(name).parameters() if p.requires_grad]

    def average(self, name: str) -> None:
        """Let the moving average follow a step of the optimiser."""
        self.averages[name].step(self.trained(name))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The networks hold the averaged weights for a while."""
        for name, average in self.averages.items():
            average.store(self.trained(name))
            average.copy_to(self.trained(name))
        try:
            yield
        finally:
            for name, average in self.averages.items():
                average.restore(self.trained(name))

    def unwrap(self, best: Path | None) -> None:
        """Give the networks back with the weights of a file, or else with the averaged ones."""
        for name in self.networks:
            self.networks[name] = self._bare(name)
        if best is not None:
            self._load_weights(load_file(best))
        else:
            for name, average in self.averages.items():
                average.copy_to(self.trained(name))

    def weights(self) -> dict[str, Tensor]:
        """Everything in the networks that training changes."""
        weights = {}
        for name in self.networks:
            frozen = self._frozen(name)
            for key, value in self._bare(name).state_dict().items():
                if key not in frozen:
                    weights[f"{name}/{key}"] = _whole(value)
        return weights

    def save(self, folder: Path) -> dict[str, int]:
        """Write three files; the steps of each average, which no tensor holds."""
        save_file(self.weights(), folder / WEIGHTS)
        averages = {
            f"{name}/{k}": _whole(value)
            for name, average in self.averages.items()
            for k, value in enumerate(average.shadow_params)
        }
        save_file(averages, folder / AVERAGES)
        moments = {
            f"{name}/{index}/{part}": _whole(value)
            for name, optimiser in self.optimisers.items()
            for index, parts in optimiser.state_dict()["state"].items()
            for part, value in parts.items()
        }
        save_file(moments, folder / MOMENTS)
        return {name: average.optimization_step for name, average in self.averages.items()}

    def load(self, folder: Path, steps: dict[str, int]) -> None:
        """Read what :meth:`save` wrote and returned."""
        self._load_weights(load_file(folder / WEIGHTS))
        moments, averaged = load_file(folder / MOMENTS), load_file(folder / AVERAGES)
        for name, optimiser in self.optimisers.items():
            content = optimiser.state_dict()
            content["state"] = {}
            for key, value in moments.items():
                owner, index, part = key.rsplit("/", 2)
                if owner == name:
                    content["state"].setdefault(int(index), {})[part] = value
            optimiser.load_state_dict(content)
            average = self.averages[name]
            average.shadow_params = [
                averaged[f"{name}/{k}"].to(self.accelerator.device)
                for k in range(len(average.shadow_params))
            ]
            average.optimization_step = steps[name]

    def _bare(self, name: str) -> torch.nn.Module:
        module: torch.nn.Module = self.accelerator.unwrap_model(self.networks[name])
        return module

    def _frozen(self, name: str) -> set[str]:
        return {k for k, p in self._bare(name).named_parameters() if not p.requires_grad}

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        for name in self.networks:
            own = {k.split("/", 1)[1]: v for k, v in weights.items() if k.startswith(f"{name}/")}
            self._bare(name).load_state_dict(own, strict=not self._frozen(name))


def _whole(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()
