"""Windows of runs for the denoiser: statistics of all people and of folds, and runs on disk.

A person in training has the response that others' closed form says of them, and is noised and
denoised by others' statistics: the network is asked for what it will be asked for on new people.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from neuromix.augment import files
from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.denoiser import CONTEXT, PriorFlow
from neuromix.augment.diffusion.label_embedding import drop_labels, encode_rows
from neuromix.augment.diffusion.pipeline import solve
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.closed_form import (
    PERSON,
    estimated_of,
    fit_linear,
    generator,
    label_space_of,
    read,
)
from neuromix.augment.fmri.config import TaskFMRIConfig
from neuromix.augment.fmri.linear_run import FAINTEST, Evidence, LinearRun, regress
from neuromix.augment.fmri.run_prior import RunDenoiser, RunPrior, context_of, lags_of
from neuromix.augment.fmri.runs import Runs, Survey

GIVEN = 0.7
"""Share of training windows whose first frames are known, as those of later windows of a run."""
MEASURED = 64
"""Windows that the deviation is measured on."""


class Statistics(NamedTuple):
    """What is known in closed form of all training people, and of those outside each fold."""

    linears: list[LinearRun]
    """The first is of all people."""
    priors: list[RunPrior]
    folds: list[int]
    """Of each run."""


def fit_statistics(
    runs: Runs, survey: Survey, config: TaskFMRIConfig, work: Path, progress: bool = False
) -> Statistics:
    """The closed forms of all people and of the folds; those in ``work`` are only loaded."""
    people = list(dict.fromkeys(run.subject for run in runs.runs))
    if len(people) < 2:
        raise InputError(
            "a network needs 2 training people or more, as each is served by the statistics of "
            "others; add people, or train 0 steps, which is the closed form alone"
        )
    order = np.random.default_rng(config.training.seed).permutation(len(people))
    number = {who: int(place) % config.folds for who, place in zip(people, order, strict=True)}
    folds = [number[run.subject] for run in runs.runs]
    linears = [fit_linear(runs, survey, config, work, progress)]
    for fold in sorted(set(folds)):
        others = [k for k, each in enumerate(folds) if each != fold]
        linears.append(fit_linear(runs, survey, config, work, progress, others, f"linear-{fold}"))
    unit = RunPrior.of(linears[0], config.window, config.token).unit
    priors = [RunPrior.of(linear, config.window, config.token, unit) for linear in linears]
    return Statistics(linears, priors, folds)


def write_windows(
    runs: Runs, survey: Survey, folds: Sequence[int], statistics: Statistics,
    conditions: Sequence[str], space: LabelSpace, folder: Path,
) -> None:  # fmt: skip
    """Write frames in units of the prior, anatomies, and responses as others' statistics say them.

    ``frames.npy`` (all frames, V), ``anatomies.npy`` (N, V), ``responses.npy`` (N, most columns,
    V), all float16, and ``columns.json``.
    """
    unit = statistics.priors[0].unit
    people = list(dict.fromkeys(run.subject for run in runs.runs))
    known = [
        estimated_of(runs, k, conditions, space, people.index(run.subject))
        for k, run in enumerate(runs.runs)
    ]
    starts = np.cumsum([0, *(run.frames for run in runs.runs)])
    voxels, most = int(survey.mask.sum()), max(len(each.columns) for each in known)
    shapes = {
        "frames": (int(starts[-1]), voxels),
        "anatomies": (len(known), voxels),
        "responses": (len(known), most, voxels),
    }
    with files.replacing_folder(folder) as place:
        kept = {
            name: np.lib.format.open_memmap(place / f"{name}.npy", "w+", np.float16, shape)
            for name, shape in shapes.items()
        }
        for person in range(len(people)):
            mine = [k for k, each in enumerate(known) if each.person == person]
            evidence = []
            for k in mine:
                data = read(runs, survey, k)
                base, maps, rest, turned = regress(data, known[k], runs.tr)
                share = (data - base) / np.maximum(base, FAINTEST)
                kept["anatomies"][k] = base
                kept["frames"][starts[k] : starts[k + 1]] = share / unit
                tensors = (torch.from_numpy(part).float() for part in (maps, turned @ rest))
                evidence.append(Evidence(known[k].direction, list(known[k].columns), *tensors))
            linear = statistics.linears[1 + folds[mine[0]]]
            for k, own in zip(mine, linear.person(evidence), strict=True):
                kept["responses"][k, : len(own)] = own / unit
        columns = {"columns": [list(each.columns) for each in known]}
        files.write_json(place / "columns.json", columns)


class WindowSet:
    """Windows of F frames, one of each run an epoch, for the training loop.

    Where a window begins, and whether its first frames are known, is drawn anew each time; so is
    whether the design is kept, for guidance.
    """

    def __init__(
        self,
        folder: Path,
        runs: Runs,
        conditions: Sequence[str],
        space: LabelSpace,
        prior: RunPrior,
        folds: Sequence[int],
        config: TaskFMRIConfig,
    ) -> None:
        self.prior, self.folds, self.config = prior, torch.tensor(folds), config
        names = ("frames", "anatomies", "responses")
        self.frames, self.anatomies, self.responses = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in names
        )
        self.columns = json.loads((folder / "columns.json").read_text())["columns"]
        self.designs = [
            estimated_of(runs, k, conditions, space, 0).design for k in range(len(runs.runs))
        ]
        self.lengths = [run.frames for run in runs.runs]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).tolist()
        self.codes = encode_rows(space, [run.labels for run in runs.runs])
        self.lags = lags_of(runs.tr)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, indices: Sequence[int], generators: Sequence[torch.Generator]
    ) -> dict[str, Any]:
        """Windows (B, F Z, H, W), their context, codes of the labels and folds."""
        pairs = [self.window(*pair) for pair in zip(indices, generators, strict=True)]
        latents, context = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        chosen = list(indices)
        return {
            "latents": latents,
            CONTEXT: context,
            "labels": {name: codes[chosen] for name, codes in self.codes.items()},
            "parameters": torch.zeros(len(chosen), 0),
            "fold": self.folds[chosen],
        }

    def window(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A window (F Z, H, W) of run ``k`` and its context."""
        length, most = self.config.window, max(self.lags)
        draws = torch.rand(3, generator=generator).tolist()
        begin = int(draws[0] * (self.lengths[k] - length + 1))
        count = self.config.overlap if draws[1] < GIVEN else 0
        design = np.zeros((most + length, len(self.columns[k])), np.float32)
        if draws[2] >= self.config.label_dropout:
            first = max(begin - most, 0)
            design[first - begin + most :] = self.designs[k][first : begin + length][
                :, self.columns[k]
            ]
        responses = np.array(self.responses[k, : design.shape[1]], dtype=np.float32)
        place = self.starts[k] + begin
        rows, anatomy = (
            torch.from_numpy(np.array(part, dtype=np.float32))
            for part in (self.frames[place : place + length], self.anatomies[k])
        )
        answer = torch.from_numpy(design @ responses)
        context = context_of(self.prior, answer, rows[:count], anatomy, self.lags)
        return self.prior.spread_out(rows), context


@torch.no_grad()
def calibrate(statistics: Statistics, data: WindowSet, seed: int) -> None:
    """Measure the deviation of the priors on people of other folds, by some windows of the set."""
    priors = statistics.priors
    numbers = np.random.default_rng(seed).permutation(len(data))
    draws = torch.Generator().manual_seed(seed)

    def windows() -> Any:
        for k in np.resize(numbers, MEASURED).tolist():
            clean, context = data.window(k, draws)
            noise = torch.randn(clean.shape, generator=draws)
            yield priors[1 + statistics.folds[k]], clean, context, noise

    priors[0].calibrate(windows())
    for prior in priors[1:]:
        prior.deviation.copy_(priors[0].deviation)


def begin_denoiser(
    config: TaskFMRIConfig, space: LabelSpace, statistics: Statistics
) -> tuple[RunDenoiser, PriorFlow]:
    """A denoiser that knows what the first prior knows, and its objective."""
    prior = statistics.priors[0]
    settings = {k: v for k, v in prior.config.items() if not k.startswith("_")}
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        denoiser = RunDenoiser(
            label_space=space.to_dict(), prior_settings=settings, parameters=0,
            network_settings=config.network | {"depth": prior.frame_shape[0]},
        )  # fmt: skip
    denoiser.prior.load_state_dict(prior.state_dict())
    device = PartialState().device
    return denoiser.to(device), PriorFlow(denoiser, statistics.priors[1:], config.label_dropout)


class Fitted(NamedTuple):
    """All that a training needs."""

    denoiser: RunDenoiser
    objective: PriorFlow
    sets: list[WindowSet]
    """Of each cohort."""
    linear: LinearRun


def fit_windows(
    looked: Sequence[Runs],
    surveys: Sequence[Survey],
    config: TaskFMRIConfig,
    work: Path,
    progress: bool = False,
) -> Fitted:
    """Fit all that is known in closed form to the first cohort, and begin the rest."""
    work.mkdir(parents=True, exist_ok=True)
    space, conditions = label_space_of(looked[0], config), looked[0].conditions
    statistics = fit_statistics(looked[0], surveys[0], config, work, progress)
    sets = []
    for number, (runs, survey) in enumerate(zip(looked, surveys, strict=True)):
        survey = Survey(surveys[0].mask, survey.scales, survey.digests)  # one brain for all
        folds = [-1] * len(runs.runs) if number else statistics.folds
        folder = work / f"windows-{number}"
        if not folder.is_dir():
            write_windows(runs, survey, folds, statistics, conditions, space, folder)
        prior = statistics.priors[0]
        sets.append(WindowSet(folder, runs, conditions, space, prior, folds, config))
    calibrate(statistics, sets[0], config.training.seed)
    return Fitted(*begin_denoiser(config, space, statistics), sets, statistics.linears[0])


def draw_windows(
    denoiser: RunDenoiser,
    scheduler: Any,
    linear: LinearRun,
    design: np.ndarray,
    codes: Mapping[str, float],
    tr: float,
    overlap: int,
    seeds: tuple[int, int],
    steps: int,
    guidance: float,
) -> Iterator[Tensor]:
    """A run of a design (T, K), in frames (n, X, Y, Z) scaled to a mean of about 1.

    ``seeds`` are those of the run and of its person.
    """
    prior, device, lags = denoiser.prior, denoiser.device, lags_of(tr)
    most, frames = max(lags), prior.frames
    told = {name: torch.tensor([code]) for name, code in codes.items()}
    direction = int(codes.get("dir", 0))
    draws = generator(seeds[1], 0, PERSON)
    base, maps = (part.cpu() for part in linear.draw(direction, told, draws))
    everyone = torch.ones(1, dtype=torch.bool)
    missing = drop_labels(denoiser.label_space, told, everyone)
    # A window may begin before the first event and end after the last frame.
    padded = torch.from_numpy(np.pad(design, ((most, frames), (0, 0))))
    mask, before, start = linear.mask.cpu(), torch.zeros(0, len(base)), 0
    while start + len(before) < len(design):
        answer = padded[start : start + most + frames] @ maps / prior.unit
        wanted, nothing = (
            {name: value.to(device) for name, value in own.items()}
            | {CONTEXT: context_of(prior, each, before, base, lags)[None].to(device)}
            for own, each in ((told, answer), (missing, torch.zeros_like(answer)))
        )
        draws = generator(seeds[0], start)
        noise = torch.randn(1, *denoiser.latent_shape, generator=draws).to(device)
        made = solve(denoiser, scheduler, noise, steps, guidance, wanted, nothing)
        rows = prior.gather(made[0].float()).cpu()
        fresh = rows[len(before) : len(design) - start]
        volumes = torch.zeros(len(fresh), *mask.shape)
        volumes[:, mask] = base + base.clamp_min(FAINTEST) * prior.unit * fresh
        yield volumes
        start += frames - overlap
        before = torch.cat([before, rows[len(before) :]])[frames - overlap :]
