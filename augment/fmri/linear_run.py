"""Runs of BOLD in closed form: a person, a response to events, and structured noise, all linear.

A run is modelled voxel by voxel as (x a voxel, t a frame, d the design, see ``fmri/runs.py``)::

    y(x, t) = B(x) [ 1 + sum_k d_k(t) M_k(x) + sum_j a_j(t) P_j(x) + e(x, t) ]

``B`` is the person's anatomy in a phase encoding and ``M`` the person's maps of the task's
conditions, each normal over people, with a mean (linear in the labels, of B) and a covariance. Both
are a mean plus a normal sum of the training people's deviations, with the same weights in every
task and phase encoding, so that one person's runs are alike. Estimates of maps are noisy, and
people would differ too much: from the spectrum of their covariance that of noise alone is taken off
(as parallel analysis compares them, Horn 1965). It is found by the same estimate from each run's
residuals backwards in time, which have the memory of the noise and know no events. ``P`` are the
largest patterns of the residuals, ``a`` their courses, autoregressive of order p (Yule-Walker), and
``e`` is autoregressive of order one with a strength and a correlation of its own in every voxel.

It is estimated in two readings of the training runs, one run in memory at a time. Runs are drawn
frame after frame, so that their length is free and a piece of a run goes on from the one before in
its full state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import label_features

FAINTEST = 0.1
"""Share of the mean brain signal below which a voxel is not divided by its own."""
SLOW = 128.0
"""Drifts of longer periods in seconds are fitted beside the response."""
ORDER = 6
"""Order p of the courses: a sum of slow and quick processes needs more than one."""
TAKEN = 8
"""Patterns that each run's residuals give to the common ones."""
MOST = 200
"""People that means are taken from; more change little and need memory."""
LACKING = 3.0
"""Most that weights of noise are made larger by; events that are the same backwards have none."""
DOUBT = 1.0
"""People's worth of doubt that a label changes anything (ridge penalty)."""
BURN = 200
"""Frames that courses run before the first, to have forgotten their start."""


class Estimated(NamedTuple):
    """A training run, as :meth:`LinearRun.fit` is given it."""

    design: np.ndarray
    """(T, K), zero for the conditions of other tasks."""
    task: str
    direction: int
    person: int
    columns: Sequence[int]
    """Of the design that are the task's own."""


class Evidence(NamedTuple):
    """What one run says of its person, see :func:`regress`."""

    direction: int
    columns: list[int]
    """Of the design that are the task's own."""
    maps: Tensor
    """Estimates (k, V)."""
    null: Tensor
    """What noise alone would have made of these."""


class LinearRun(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Draws people and their runs: K ``courses`` of the design, V ``voxels`` of the brain.

    The deviations of the first ``people`` of the training are summed; J ``patterns`` are the
    noise's.
    """

    mask: Tensor
    anatomy: Tensor
    effects: Tensor
    centre: Tensor
    anatomies: Tensor
    maps: Tensor
    responses: Tensor
    noise: Tensor
    memory: Tensor
    innovation: Tensor
    grain: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        label_space: dict[str, Any],
        courses: int,
        shape: Sequence[int],
        voxels: int,
        people: int,
        patterns: int,
    ) -> None:
        super().__init__()
        self.label_space = LabelSpace.from_dict(label_space)
        self.persons = LabelSpace(
            {k: v for k, v in self.label_space.categories.items() if k not in ("task", "dir")},
            self.label_space.ranges,
        )
        self.most = people
        directions = len(self.label_space.categories.get("dir", ("",)))
        features = sum(map(len, self.persons.categories.values())) + len(self.persons.ranges)
        sizes = {
            "anatomy": (directions, voxels),
            "effects": (directions, features, voxels),
            "centre": (features,),
            "anatomies": (directions, people, voxels),
            "maps": (directions, courses, voxels),
            "responses": (directions, people, courses, voxels),
            "noise": (patterns, voxels),
            "memory": (patterns, ORDER),
            "innovation": (patterns,),
            "grain": (2, voxels),  # standard deviation, correlation
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size))
        self.register_buffer("mask", torch.zeros(tuple(shape), dtype=torch.bool))

    def fit(
        self,
        runs: Sequence[Estimated],
        read: Callable[[int], np.ndarray],
        codes: Mapping[str, Tensor],
        tr: float,
        folder: Path,
        progress: bool = False,
    ) -> None:
        """Estimate everything.

        ``read`` turns the number of a run into its frames (T, V), scaled to a mean of about 1;
        ``codes`` are (N,), of each label of a person, for each run; estimates of each run lie in
        ``folder``.
        """
        from rich.progress import track

        voxels, most = self.anatomy.shape[1], max(len(run.columns) for run in runs)
        shapes: dict[str, tuple[int, ...]] = {"base": (len(runs), voxels)}
        shapes |= {name: (len(runs), most, voxels) for name in ("maps", "null")}
        kept = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)
            for name, shape in shapes.items()
        }
        common = np.zeros((0, voxels), np.float32)
        numbers = range(len(runs))
        for k in track(numbers, "Responses", disable=not progress):
            run, data = runs[k], read(k)
            base, maps, rest, turned = regress(data, run, tr)
            kept["base"][k], kept["maps"][k, : len(maps)] = base, maps
            kept["null"][k, : len(maps)] = turned @ rest
            own = _largest(rest / np.sqrt(len(rest) * len(runs)), TAKEN)
            common = _largest(np.concatenate([common, own]), len(self.noise))
        norms = np.linalg.norm(common, axis=1, keepdims=True)
        common /= np.maximum(norms, 1e-12)
        self.noise[: len(common)] = torch.from_numpy(common)

        lags, spread, next_to = np.zeros((len(common), ORDER + 1)), 0.0, 0.0
        for k in track(numbers, "Noise", disable=not progress):
            rest = regress(read(k), runs[k], tr)[2]
            courses = rest @ common.T
            grain = rest - courses @ common
            size = len(rest)
            lags += np.stack(
                [(courses[lag:] * courses[: size - lag]).sum(0) / size for lag in range(ORDER + 1)],
                axis=1,
            ) / len(runs)
            spread = spread + (grain**2).mean(0) / len(runs)
            next_to = next_to + (grain[1:] * grain[:-1]).sum(0) / size / len(runs)
        for j, lag in enumerate(lags):
            memory, innovation = _yule_walker(lag)
            self.memory[j], self.innovation[j] = torch.from_numpy(memory).float(), innovation
        deviation = np.sqrt(spread)
        correlation = np.clip(next_to / np.maximum(spread, 1e-12), -0.95, 0.95)
        self.grain.copy_(torch.from_numpy(np.stack([deviation, correlation])).float())
        self._fit_people(runs, kept, codes)
        for name in kept:
            (folder / f"{name}.npy").unlink()

    def _fit_people(
        self,
        runs: Sequence[Estimated],
        kept: Mapping[str, np.ndarray],
        codes: Mapping[str, Tensor],
    ) -> None:
        """Means and patterns of anatomy and maps over people, from estimates of each run."""
        features = self._features(codes, len(runs))
        self.centre.copy_(features.nanmean(0).nan_to_num())
        features = (features - self.centre).nan_to_num()
        tasks = {run.task: list(run.columns) for run in runs}
        seen = {(run.task, run.direction) for run in runs}
        for direction in range(len(self.anatomy)):
            mine = [k for k, run in enumerate(runs) if run.direction == direction]
            if not mine:
                continue
            groups = _by_person(runs, mine)
            bases = torch.stack([torch.from_numpy(kept["base"][g].mean(0)) for g in groups])
            self.anatomy[direction] = bases.mean(0)
            rest = bases - bases.mean(0)
            told = features[[g[0] for g in groups]]
            gram = told.T @ told + DOUBT * torch.eye(told.shape[1])
            effects = torch.linalg.solve(gram, told.T @ rest)
            self.effects[direction] = effects
            used = [k for k in range(len(groups)) if runs[groups[k][0]].person < self.most]
            who = [runs[groups[k][0]].person for k in used]
            self.anatomies[direction, who] = _deviations((rest - told @ effects)[used])
            for task, columns in tasks.items():
                own = [k for k in mine if runs[k].task == task]
                if not own:
                    continue
                groups = _by_person(runs, own)
                maps, null = (
                    torch.stack(
                        [torch.from_numpy(kept[name][g, : len(columns)].mean(0)) for g in groups]
                    )
                    for name in ("maps", "null")
                )
                self.maps[direction, columns] = maps.mean(0)
                used = [k for k in range(len(groups)) if runs[groups[k][0]].person < self.most]
                found = _deviations(*((m - m.mean(0))[used].flatten(1) for m in (maps, null)))
                for k, each in zip(used, found, strict=True):
                    place = self.responses[direction, runs[groups[k][0]].person]
                    place[columns] = each.reshape(len(columns), -1)
        for direction, (task, columns) in itertools.product(range(len(self.maps)), tasks.items()):
            if (task, direction) not in seen:  # it answers as in another phase encoding
                other = min(there for name, there in seen if name == task)
                self.maps[direction, columns] = self.maps[other, columns]
                self.responses[direction][:, columns] = self.responses[other][:, columns]

    def draw(
        self, direction: int, codes: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A person of the generator's: anatomy (V,) and maps (K, V).

        ``direction`` is the index of the phase encoding, ``codes`` are (1,) for each label of the
        person.
        """
        features = (self._features(codes, 1) - self.centre.cpu()).nan_to_num()
        people = self.anatomies.shape[1]
        who, how = torch.randn(2, people, generator=generator).to(self.anatomy)
        base = self.anatomy[direction] + features.to(self.anatomy)[0] @ self.effects[direction]
        base = base + who @ self.anatomies[direction]
        maps = self.maps[direction] + torch.einsum("p,pkv->kv", how, self.responses[direction])
        return base.clamp_min(0), maps

    def person(self, runs: Sequence[Evidence]) -> list[Tensor]:
        """The maps of one person in each of their runs, (k, V), as far as they are known from all.

        Posterior means: noise of an estimate, by what it puts into the deviations of others, is
        shrunk away, and what no sum of these explains is not said.
        """
        people = self.anatomies.shape[1]
        precision, pull = torch.eye(people), torch.zeros(people)
        for run in runs:
            others = self.responses[run.direction][:, run.columns].flatten(1)
            power = (others**2).sum()
            if power > 0:
                noise = ((others @ run.null.flatten()) ** 2).sum() / power + 1e-12
                precision += others @ others.T / noise
                rest = run.maps - self.maps[run.direction][run.columns]
                pull += others @ rest.flatten() / noise
        weights = torch.linalg.solve(precision, pull)
        return [
            self.maps[run.direction][run.columns]
            + torch.einsum("p,pkv->kv", weights, self.responses[run.direction][:, run.columns])
            for run in runs
        ]

    def _features(self, codes: Mapping[str, Tensor], count: int) -> Tensor:
        return label_features(self.persons, codes) if self.persons.names else torch.zeros(count, 0)

    def begin(self, generator: torch.Generator) -> Courses:
        """The noise of a run, before its first frame."""
        return Courses(self, generator)


class Courses:
    """The noise of one run, which goes on as long as it is asked, in pieces of any size."""

    def __init__(self, model: LinearRun, generator: torch.Generator) -> None:
        self.generator = generator
        self.patterns = model.noise.cpu()
        self.memory, self.innovation = model.memory.cpu().T, model.innovation.cpu()
        deviation, self.correlation = model.grain.cpu()
        self.fresh = deviation * (1 - self.correlation**2).sqrt()
        self.past = torch.zeros(ORDER, len(self.patterns))  # the latest first
        for _ in range(BURN):
            self._course()
        self.grain = deviation * self._white(self.patterns.shape[1])

    def take(self, frames: int) -> Tensor:
        """The next frames of the noise (n, V), as a share of the anatomy."""
        made = torch.empty(frames, self.patterns.shape[1])
        for t in range(frames):
            self.grain = self.correlation * self.grain + self.fresh * self._white(made.shape[1])
            made[t] = self._course() @ self.patterns + self.grain
        return made

    def _course(self) -> Tensor:
        white = self._white(len(self.innovation))
        course = (self.memory * self.past).sum(0) + self.innovation * white
        self.past = torch.cat([course[None], self.past[:-1]])
        return course

    def _white(self, count: int) -> Tensor:
        return torch.randn(count, generator=self.generator)


def regress(
    data: np.ndarray, run: Estimated, tr: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Anatomy (V,), maps (k, V), residual (T, V), and weights (k, T) that make maps of noise of it.

    These are the weights of the maps backwards in time, as much larger as the residual lacks of
    what they look for. Maps and residual are shares of the anatomy. Slow drifts are fitted with
    the response but stay in the residual, where the courses of the noise take them up.
    """
    size = len(data)
    own = run.design[:, list(run.columns)]
    slow = np.arange(1, int(2 * size * tr / SLOW) + 1)
    drifts = np.cos(np.pi * slow * (np.arange(size)[:, None] + 0.5) / size)
    fitted = np.concatenate([np.ones((size, 1)), own, drifts], 1)
    inverse = np.linalg.pinv(fitted)
    weights = inverse[: 1 + own.shape[1]].astype(np.float32)
    found = weights @ data
    base = found[0]
    whole = np.maximum(base, FAINTEST)
    rest = (data - base - own @ found[1:]) / whole
    turned = weights[1:, ::-1]
    left = np.linalg.norm(turned - (turned @ fitted) @ inverse, axis=1, keepdims=True)
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    turned = turned * (length / np.maximum(left, length / LACKING)).astype(np.float32)
    return base, found[1:] / whole, rest - rest.mean(0), turned


def _largest(rows: np.ndarray, count: int) -> np.ndarray:
    """The largest patterns of rows (N, V), each as long as its singular value."""
    power, vectors = np.linalg.eigh(rows.astype(np.float64) @ rows.T.astype(np.float64))
    order = np.argsort(power)[::-1][:count]
    result: np.ndarray = (vectors[:, order].T.astype(np.float32)) @ rows
    return result


def _deviations(rest: Tensor, null: Tensor | None = None) -> Tensor:
    """Deviations (N, M) whose normal sums have the covariance of rows (N, M), less that of noise.

    Each remains that of its person: the symmetric root of the spectrum that is kept.
    """
    power, vectors = torch.linalg.eigh((rest @ rest.T).double())
    kept = torch.ones_like(power)
    if null is not None:
        noise = torch.linalg.eigvalsh((null @ null.T).double()).clamp_min(0)
        kept -= noise / power.clamp_min(1e-12)
    weight = (kept.clamp_min(0) / max(len(rest) - 1, 1)).sqrt()
    return ((vectors * weight) @ vectors.T).float() @ rest


def _by_person(runs: Sequence[Estimated], numbers: Sequence[int]) -> list[list[int]]:
    """Runs of each person, of the first people at most."""
    groups: dict[int, list[int]] = {}
    for k in numbers:
        groups.setdefault(runs[k].person, []).append(k)
    return list(groups.values())[:MOST]


def _yule_walker(lags: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (p,) and standard deviation of the innovation of a stationary process."""
    from scipy.linalg import solve_toeplitz

    if lags[0] <= 0:
        return np.zeros(len(lags) - 1), 0.0
    memory = solve_toeplitz(lags[:-1], lags[1:])
    return memory, float(np.sqrt(max(lags[0] - memory @ lags[1:], 0.0)))
