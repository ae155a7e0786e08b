"""``neuromix experiment``: a function for each; imports wait until they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tyro

Sampler = Literal["demo", "tiny", "base", "paper"]


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
    from experiments.calibration import Calibration, run

    run(Calibration(out, targets, sizes, seeds, subjects, steps), dry_run=dry_run)


def fidelity(
    out: Path,
    /,
    data: Path | None = None,
    preset: Literal["demo", "tiny", "base", "paper"] = "tiny",
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
    from experiments.fidelity import BASELINES, Fidelity, run

    config = Fidelity(
        out=out,
        data=data,
        preset=preset,
        train=train,
        validation=validation,
        judges=judges,
        heldout=heldout,
        synthetic=synthetic,
        sampling_seeds=sampling_seeds,
        steps=steps,
        guidance=guidance,
        guidances=guidances,
        baselines=BASELINES if baselines is None else baselines,
        unet_samples=unet_samples,
        unet_batch=unet_batch,
        judge_steps=judge_steps,
        seed=seed,
    )
    run(config, dry_run=dry_run)


def transfer(
    out: Path = Path("runs"),
    /,
    preset: Literal["demo", "tiny"] = "tiny",
    data_a: Path | None = None,
    data_b: Path | None = None,
    sizes: tuple[int, ...] | None = None,
    sizes_b: tuple[int, ...] | None = None,
    arms: tuple[str, ...] | None = None,
    seeds: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    ceiling: int | None = None,
    steps: int | None = None,
    steps_b: int | None = None,
    sampler: Sampler | None = None,
    sampler_steps: int | None = None,
    guidance: float | None = None,
    spacing: float | None = None,
    seed: int | None = None,
    endpoint: Path | None = None,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Does synthetic data help to learn sex at site A, and from it to find dementia at site B?

    Run it again to go on where it stopped. What follows the preset changes it.

    Args:
        out: Folder of the run folders, or one run folder.
        preset: tiny (about 75 minutes on two cores) or demo (seconds; it says nothing).
        data_a: BIDS folder or table with md and sex. Default: a phantom of community A is made.
        data_b: BIDS folder or table with md and diagnosis. Default: a phantom of clinic B is made.
        sizes: Real training subjects of site A. Tiny: 40 160.
        sizes_b: Real training subjects of site B. Tiny: 20 80.
        arms: Some of: real, classical, synthetic-0.5, synthetic-1, synthetic-2, synthetic-4,
            synthetic-only, synthetic-classical, gaussian. Tiny: all.
        seeds: Of the classifiers, in each arm. Tiny: 5.
        validation: Subjects of each site that choose checkpoints. Tiny: 60.
        test: Phantom subjects of each site that judge. Tiny: 300. Of own data, all that are left.
        ceiling: Fresh phantom subjects that the ceiling is trained on; 0 leaves it out. Tiny: 2000.
        steps: Optimiser steps at site A, in every arm. Tiny: 300.
        steps_b: Optimiser steps at site B. Tiny: 100.
        sampler: Preset of the sampler.
        sampler_steps: Training steps of the sampler, if not those of its preset.
        guidance: Above 1, labels show more in samples than in nature.
        spacing: Voxel side of the phantoms in mm.
        seed: Decides the phantoms, the parts and the sampler.
        endpoint: JSON file of the one comparison that was committed before the run, with
            experiment, setting, metric, arm, baseline, size and seeds (of the phantom).
        dry_run: Say what would be done and how long it would take, and stop.
    """
    given = locals()
    from experiments.transfer import PRESETS, run

    run(replace(PRESETS[preset], **_changes(given)), out, dry_run=dry_run)


def settings(
    out: Path = Path("runs"),
    /,
    preset: Literal["demo", "tiny"] = "tiny",
    settings: tuple[str, ...] | None = None,
    data_a: Path | None = None,
    data_b: Path | None = None,
    arms: tuple[str, ...] | None = None,
    seeds: int | None = None,
    few: int | None = None,
    many: int | None = None,
    size: int | None = None,
    new: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    ceiling: int | None = None,
    steps: int | None = None,
    sampler: Sampler | None = None,
    sampler_steps: int | None = None,
    guidance: float | None = None,
    spacing: float | None = None,
    seed: int | None = None,
    endpoint: Path | None = None,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Does synthetic data help where it ought to: few labels, imbalance, confounding, a new site?

    Run it again to go on where it stopped. What follows the preset changes it.

    Args:
        out: Folder of the run folders, or one run folder.
        preset: tiny (about 75 minutes on two cores) or demo (seconds; it says nothing).
        settings: Some of: few-labels, imbalance, confounded, new-site. Tiny: all.
        data_a: BIDS folder or table of the old site in new-site. Default: a phantom is made.
        data_b: BIDS folder or table with md and diagnosis. Default: a phantom is made.
        arms: As in transfer.
        seeds: Of the classifiers, in each arm. Tiny: 5.
        few: Labelled subjects in few-labels. Tiny: 40.
        many: Pool of site B, which the sampler of few-labels is trained on. Tiny: 400.
        size: Training subjects in confounded, the larger class in imbalance, and subjects of the
            old site in new-site. Tiny: 80.
        new: Subjects of the new site. Tiny: 20.
        validation: Subjects that choose checkpoints. Tiny: 60.
        test: Phantom subjects that judge. Tiny: 300. Of own data, all that are left.
        ceiling: Fresh phantom subjects that the ceiling is trained on; 0 leaves it out. Tiny: 1000.
        steps: Optimiser steps, in every arm. Tiny: 250.
        sampler: Preset of the sampler.
        sampler_steps: Training steps of the sampler, if not those of its preset.
        guidance: Above 1, labels show more in samples than in nature.
        spacing: Voxel side of the phantoms in mm.
        seed: Decides the phantoms, the parts and the sampler.
        endpoint: As in transfer.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    given = locals()
    from experiments.settings import PRESETS, run

    run(replace(PRESETS[preset], **_changes(given)), out, dry_run=dry_run)


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
    from experiments.neuro import Neuro, run

    run(Neuro(data, by, noise_model, smoothing, splits, seed), out)


def completion(
    out: Path = Path("runs"),
    /,
    data: Path | None = None,
    preset: Sampler = "tiny",
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
    from experiments.completion import Completion, run

    run(Completion(preset=preset, **_changes(given)), out, dry_run=dry_run)


def hybrid(
    out: Path = Path("runs"),
    /,
    preset: Literal["demo", "tiny"] = "tiny",
    data: Path | None = None,
    lacks: Literal["fmri", "dmri"] | None = None,
    missing: tuple[int, ...] | None = None,
    arms: tuple[str, ...] | None = None,
    seeds: int | None = None,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    steps: int | None = None,
    completer: Sampler | None = None,
    completer_steps: int | None = None,
    refining_steps: int | None = None,
    samples: int | None = None,
    spacing: float | None = None,
    seed: int | None = None,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """NC, MCI or AD where training or test subjects lack a modality: drop them, or fill it in?

    Run it again to go on where it stopped. What follows the preset changes it.

    Args:
        out: Folder of the run folders, or one run folder.
        preset: tiny (hours on two cores, see --dry-run) or demo (a minute; it says nothing).
        data: BIDS folder or table with fmri, dmri and diagnosis. Default: a phantom is made.
        lacks: The modality that subjects lack. Tiny: dmri.
        missing: Shares of the training subjects that lack it, in percent. Tiny: 0 30 50 70.
        arms: Some of: drop, mask, mean, regression, pds, pds-extra, pds-by-label, complete.
            Tiny: all. Test subjects that lack it are judged where mask and complete are there.
        seeds: Of the classifiers, in each arm. Tiny: 5.
        train: Training subjects. Tiny: 160.
        validation: Subjects that choose the completer's best step, and checkpoints. Tiny: 40.
        test: Phantom subjects that judge. Tiny: 200. Of own data, all that are left.
        steps: Optimiser steps of the classifiers, in every arm. Tiny: 300.
        completer: Preset of the completer.
        completer_steps: Training steps of PDM, if not those of the preset.
        refining_steps: Training steps of TR, if not those of the preset.
        samples: Of each test subject that lacks the modality. Tiny: 4.
        spacing: Voxel side of the phantom in mm.
        seed: Decides the phantom, the parts, who lacks what, and the completer.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    given = locals()
    from experiments.hybrid import run
    from experiments.hybrid_config import PRESETS

    run(replace(PRESETS[preset], **_changes(given)), out, dry_run=dry_run)


def fmri(
    out: Path = Path("runs"),
    /,
    data: Path | None = None,
    preset: Sampler = "tiny",
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
    from experiments.fmri import FMRI, run

    run(FMRI(**_changes(given | {"preset": None}), preset=preset), out, dry_run=dry_run)


def decoding(
    out: Path = Path("runs"),
    /,
    preset: Literal["demo", "tiny"] = "tiny",
    data: Path | None = None,
    targets: tuple[str, ...] | None = None,
    tasks: tuple[str, ...] | None = None,
    directions: tuple[str, ...] | None = None,
    sizes: tuple[int, ...] | None = None,
    arms: tuple[str, ...] | None = None,
    seeds: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    ceiling: int | None = None,
    ratio: int | None = None,
    steps: int | None = None,
    frames: int | None = None,
    step: float | None = None,
    shrink: int | None = None,
    sampler: Sampler | None = None,
    sampling_steps: int | None = None,
    spacing: float | None = None,
    seed: int | None = None,
    endpoint: Path | None = None,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Do synthetic task fMRI runs help a decoder of condition, or of sex, that few people train?

    Run it again to go on where it stopped. What follows the preset changes it.

    Args:
        out: Folder of the run folders, or one run folder.
        preset: tiny (see --dry-run) or demo (a minute; it says nothing).
        data: BIDS folder or table with bold and events. Default: a phantom is made.
        targets: What is told apart: condition, sex. Tiny: both.
        tasks: Whose runs are used. Tiny: motor language.
        directions: Phase encodings that are used. Tiny: all.
        sizes: People that decoder and sampler are trained on. Tiny: 10 20 40.
        arms: Some of: real, classical, runs, runs-classical, runs-only, mean-response. Tiny: all.
        seeds: Of the decoder, in each arm. Tiny: 5.
        validation: People who choose checkpoints. Tiny: 20.
        test: Phantom people who judge. Tiny: 100. Of own data, all that are left.
        ceiling: Other people that the ceiling is trained on; 0 leaves it out. Default: as many as
            judge, of own data nobody.
        ratio: Responses of synthetic runs for each real one. Tiny: 4.
        steps: Optimiser steps, in every arm. Tiny: 300.
        frames: Of a response. Tiny: 4.
        step: Seconds of a frame. Tiny: 6.
        shrink: Voxels along a side of the cubes that a decoder sees as one. Tiny: 2.
        sampler: Preset of the sampler. Tiny: tiny, the closed form.
        sampling_steps: Of a sampler with a network.
        spacing: Voxel side of the phantom in mm. Tiny: 6.
        seed: Decides the phantom, the parts and the sampler.
        endpoint: As in transfer.
        dry_run: Say what would be done and how long it would take, and stop.
    """
    given = locals()
    from experiments.decoding import run
    from experiments.decoding_config import PRESETS

    run(replace(PRESETS[preset], **_changes(given)), out, dry_run=dry_run)


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a preset that were given."""
    others = ("out", "preset", "dry_run")
    return {k: v for k, v in given.items() if k not in others and v is not None}


EXPERIMENTS: dict[str, Callable[..., Any]] = {
    "calibration": calibration,
    "fidelity": fidelity,
    "transfer": transfer,
    "settings": settings,
    "neuro": neuro,
    "fmri": fmri,
    "completion": completion,
    "hybrid": hybrid,
    "decoding": decoding,
}
