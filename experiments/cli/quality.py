"""``neuromix experiment``: a function for each; imports wait until they are needed.

Here are those that ask how good phantoms and samplers are; ``evidence`` has the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from neuromix.experiments.cli import evidence
from neuromix.experiments.cli.options import Preset, given_options


def calibration(
    out: Path,
    /,
    targets: tuple[str, ...] = ("sex", "dementia", "diagnosis"),
    sizes: tuple[int, ...] = (100, 400, 2000),
    seeds: int = 3,
    subjects: int = 3000,
    steps: int = 500,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Learning curves of a compact CNN on the md phantom: is it as hard as real data?

    Run it again to go on where it stopped.

    Args:
        out: Run folder.
        targets: Labels to tell.
        sizes: Training subjects that have the label.
        seeds: Draws of the training subjects and of the network, for each size.
        subjects: Size of the phantom; a seventh of it is the test set.
        steps: Optimiser steps of each fit.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    from neuromix.experiments.quality.calibration import Calibration, run

    run(Calibration(out, targets, sizes, seeds, subjects, steps), dry_run=dry_run)


def fidelity(
    out: Path,
    /,
    data: Path | None = None,
    preset: Preset = "tiny",
    train: int = 400,
    validation: int = 60,
    judges: int = 800,
    heldout: int = 800,
    synthetic: int = 400,
    sampling_seeds: int = 3,
    steps: tuple[int, ...] = (5, 10, 20, 50, 250),
    guidance: float = 1.0,
    guidances: tuple[float, ...] = (),
    baselines: tuple[str, ...] | None = None,
    unet_samples: int = 100,
    unet_batch: int = 4,
    judge_steps: int = 1000,
    seed: int = 0,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """The tiled MD sampler beside its baselines: do samples look, vary and read like real ones?

    Run it again to go on where it stopped.

    Args:
        out: Run folder.
        data: BIDS folder or table with md. Default: a phantom of memory clinic B is made.
        preset: Of the sampler.
        train: Training subjects. With DATA, these four sizes are proportions.
        validation: Subjects that choose the best step.
        judges: Subjects that classifiers and features are trained on.
        heldout: Subjects that samples are compared with, and whose labels are asked for.
        synthetic: Samples of each generator.
        sampling_seeds: Draws of the sampler.
        steps: Numbers of steps to compare. Give none to leave it out.
        guidance: Of all samples but those of the next option.
        guidances: Guidance scales to compare, such as 1 1.5 2 3.
        baselines: Some of: "mean + noise", "training copies", "PCA Gaussian", "MONAI U-Net".
            Default: all.
        unet_samples: Samples of the U-Net, which is slow.
        unet_batch: Volumes of its training steps; with fewer it gets more steps in the same time.
        judge_steps: Optimiser steps of each classifier.
        seed: Decides the phantom, the parts, the first weights and the noise.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    given = locals()
    from neuromix.experiments.quality.fidelity import Fidelity, run

    config = Fidelity(out=out, preset=preset, **given_options(given))
    run(config, dry_run=dry_run)


def neuro(
    data: Path,
    out: Path = Path("runs"),
    /,
    by: Literal["subject", "run"] = "subject",
    noise_model: Literal["ols", "ar1"] = "ols",
    smoothing: float = 8.0,
    splits: int = 100,
    seed: int = 0,
) -> None:
    """Real task fMRI against itself: do halves agree, and are trivial generators told from them?

    Run it again to go on where it stopped.

    Args:
        data: Prepared cohort with bold and events: BIDS folder or table.
        out: Folder of the run folders, or one run folder.
        by: Halves of subjects, or of runs, each taken as a subject (where there are few subjects).
        noise_model: Of the GLM: ols, or ar1, which takes longer.
        smoothing: Of the effect maps, full width at half maximum in mm.
        splits: Into halves.
        seed: Decides the splits, and who is held out.
    """
    from neuromix.experiments.quality.neuro import Neuro, run

    run(Neuro(data, by, noise_model, smoothing, splits, seed), out)


def fmri(
    out: Path = Path("runs"),
    /,
    data: Path | None = None,
    preset: Preset = "tiny",
    tasks: tuple[str, ...] = ("motor", "language", "wm"),
    directions: tuple[str, ...] = (),
    train: int = 40,
    validation: int = 8,
    heldout: int = 100,
    drawn: int = 12,
    seconds: float = 480.0,
    codec_seconds: float = 240.0,
    cell_seconds: float = 90.0,
    start: float = 0.5,
    time: Literal["factorised", "stack"] = "factorised",
    people: tuple[int, ...] = (5, 10, 20, 40),
    widths: tuple[int, ...] = (16, 32, 48, 64),
    ablations: tuple[str, ...] | None = None,
    steps: tuple[int, ...] = (5, 10, 20, 50),
    usual: int = 10,
    splits: int = 100,
    spacing: float = 6.0,
    seed: int = 0,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """The task fMRI sampler beside trivial generators and MONAI's U-Net: is it as good as real?

    Run it again to go on where it stopped.

    Args:
        out: Folder of the run folders, or one run folder.
        data: BIDS folder or table with bold and events. Default: a phantom is made.
        preset: Whose sizes the networks have.
        tasks: Whose runs are used.
        directions: Phase encodings that are used; all by default.
        train: Training subjects.
        validation: Subjects that choose the best step.
        heldout: Subjects that judge; with fewer than about 100 the ceiling is low.
        drawn: Held-out subjects whose runs networks are asked for, which is slow.
        seconds: Training of each of the main networks; 0 leaves all networks out.
        codec_seconds: Training of the codec that they share.
        cell_seconds: Training of each network of scaling and ablation.
        start: Where the flow of the hybrid from the closed form begins.
        time: How networks see frames: attention over space and over time in turn (factorised), or
            as channels, as published (stack).
        people: Numbers of training subjects of the closed form. Give none to leave it out.
        widths: Of networks, multiples of 16.
        ablations: Some of: "factorised time", "stacked frames", "all CNN", "all transformer",
            "AdaLN only". Default: all.
        steps: Numbers of steps to compare.
        usual: Steps of all other rows.
        splits: Into halves.
        spacing: Voxel side of the phantom in mm.
        seed: Decides the phantom, the parts, the first weights and the noise.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    given = locals()
    from neuromix.experiments.quality.runs import FMRI, run

    run(FMRI(**given_options(given | {"preset": None}), preset=preset), out, dry_run=dry_run)


def completion(
    out: Path = Path("runs"),
    /,
    data: Path | None = None,
    preset: Preset = "tiny",
    train: int = 160,
    validation: int = 20,
    heldout: int = 40,
    samples: int = 16,
    arms: tuple[str, ...] = ("full",),
    baselines: tuple[str, ...] | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    refining_steps: int | None = None,
    spacing: float = 6.0,
    seed: int = 0,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """The modality completer beside its baselines, on held-out subjects, in both directions.

    Run it again to go on where it stopped.

    Args:
        out: Run folder, or a folder of them.
        data: BIDS folder or table with fMRI and dMRI segments. Default: a phantom is made.
        preset: Of the completer.
        train: Training subjects.
        validation: Subjects that choose the best step.
        heldout: Subjects whose images are predicted.
        samples: How many are averaged.
        arms: Some of: full, source-blind, and parts to leave out: pattern, refinement,
            microstructure, diagnosis.
        baselines: Some of: "mean volume", "nearest subject", "voxelwise regression",
            "PCA regression", "regression U-Net", "diffusion U-Net". Default: all.
        seconds: Processor time of each trained baseline in each direction. Default: half of that
            of the first arm, which learns both.
        steps: Of PDM's training, if not those of the preset.
        refining_steps: Of TR's.
        spacing: Voxel side of the phantom in mm.
        seed: Decides the phantom, the parts, the first weights and the noise.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    given = locals()
    from neuromix.experiments.quality.completion import Completion, run

    run(Completion(preset=preset, **given_options(given)), out, dry_run=dry_run)


EXPERIMENTS: dict[str, Callable[..., Any]] = {
    "calibration": calibration,
    "fidelity": fidelity,
    "transfer": evidence.transfer,
    "settings": evidence.settings,
    "neuro": neuro,
    "fmri": fmri,
    "completion": completion,
    "hybrid": evidence.hybrid,
    "decoding": evidence.decoding,
}
