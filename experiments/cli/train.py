"""``neuromix train``: a function for each sampler; imports wait until they are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from neuromix.experiments.cli.options import Preset


def md(
    data: Path,
    out: Path,
    /,
    validation: Path | None = None,
    preset: Preset = "tiny",
    steps: int | None = None,
    batch_size: int | None = None,
    objective: Literal["flow", "noise"] | None = None,
    pretrained: str | None = None,
    autoencoder: str | None = None,
    channels: int | None = None,
    lora_rank: int | None = None,
    seed: int = 0,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Fit the tiled MD sampler on training subjects. Run it again to go on where it stopped.

    Args:
        data: Training subjects only: train.tsv of a split, or a BIDS folder.
        out: Folder for the sampler.
        validation: Subjects that choose the best step: val.tsv of the same split.
        preset: demo (90 s on two cores), tiny (15 minutes), base (a GPU, hours) or paper,
            which fine-tunes facebook/DiT-XL-2-256. What follows changes a preset; None keeps it.
        steps: Optimiser steps.
        batch_size: Subjects of a step.
        objective: flow (velocity, from a Gaussian start) or noise (as published DiTs).
        pretrained: DiT to start from: a folder, or NAME or NAME@REVISION on the Hugging Face hub.
        autoencoder: template (closed form), kl (trained first), or a pretrained AutoencoderKL,
            named as above.
        channels: Latent channels of kl.
        lora_rank: Above 0, train low-rank updates of the pretrained DiT instead of all of it.
        seed: Decides the first weights, the order and the noise.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    from neuromix.experiments.cli.sampling import train

    training = {"steps": steps, "batch_size": batch_size, "seed": seed}
    model = {
        "objective": objective,
        "pretrained": pretrained,
        "autoencoder": autoencoder,
        "channels": channels,
        "lora_rank": lora_rank,
    }
    train("md", data, out, validation, preset, training, model, dry_run)


def fmri(
    data: Path,
    out: Path,
    /,
    validation: Path | None = None,
    preset: Preset = "tiny",
    steps: int | None = None,
    batch_size: int | None = None,
    start: float | None = None,
    window: int | None = None,
    objective: Literal["flow", "noise"] | None = None,
    autoencoder: Literal["vq", "kl"] | None = None,
    time: Literal["factorised", "stack"] | None = None,
    seed: int = 0,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Fit the task fMRI sampler on training runs. Run it again to go on where it stopped.

    Each run needs its events.tsv, and all have one grid and one repetition time (`neuromix prepare
    --what bold`).

    Args:
        data: Training subjects only: train.tsv of a split, or a BIDS folder.
        out: Folder for the sampler.
        validation: Subjects that choose the best step: val.tsv of the same split.
        preset: demo and tiny (two cores; start 0), base (a GPU, hours) or paper, as published. What
            follows changes a preset; None keeps it.
        steps: Optimiser steps.
        batch_size: Windows of a step.
        start: Where the flow begins: 1 at noise (as published), 0 at a run in closed form, which
            then is the run, without a network; between, at a mix of both.
        window: Frames that are made jointly.
        objective: flow (velocity) or noise (as published).
        autoencoder: vq (VQ-GAN, as published) or kl.
        time: factorised (attention over space and over frames) or stack (frames as channels, as
            published).
        seed: Decides the first weights, the order and the noise.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    from neuromix.experiments.cli.sampling import train

    training = {"steps": steps, "batch_size": batch_size, "seed": seed}
    model = {
        "start": start,
        "window": window,
        "objective": objective,
        "autoencoder": autoencoder,
        "time": time,
    }
    train("fmri", data, out, validation, preset, training, model, dry_run)


def pds(
    data: Path,
    out: Path,
    /,
    validation: Path | None = None,
    preset: Preset = "tiny",
    directions: tuple[Literal["fmri", "dmri"], ...] = ("fmri", "dmri"),
    steps: int | None = None,
    refining_steps: int | None = None,
    batch_size: int | None = None,
    without: tuple[Literal["pattern", "refinement", "microstructure", "diagnosis"], ...] = (),
    source_blind: tyro.conf.FlagCreatePairsOff[bool] = False,
    seed: int = 0,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Fit the modality completer on subjects with fMRI and dMRI segments. Run it again to go on.

    Args:
        data: Training subjects only: train.tsv of a split, or a BIDS folder.
        out: Folder for the completer.
        validation: Subjects that choose the best step: val.tsv of the same split.
        preset: demo (minutes on two cores), tiny (half an hour), base (a GPU, hours) or paper, the
            published system at its size. What follows changes a preset; None keeps it.
        directions: Modalities that shall be filled in.
        steps: Optimiser steps of PDM.
        refining_steps: Optimiser steps of TR's first stage; the second takes a third as many.
        batch_size: Subjects of a step, of PDM and of TR; presets have sizes for each.
        without: Parts to leave out, for ablations.
        source_blind: Hide the source, as the published code does; for comparison.
        seed: Decides the first weights, the order and the noise.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    from neuromix.experiments.cli.completing import train_pds as run

    training = {"steps": steps, "batch_size": batch_size, "seed": seed}
    model = {"directions": directions, "source_blind": source_blind}
    run(data, out, validation, preset, training, refining_steps, model, without, dry_run)


SAMPLERS: dict[str, Callable[..., Any]] = {"md": md, "fmri": fmri, "pds": pds}
