"""``neuromix experiment``, those that ask whether synthetic data help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import tyro

from neuromix.experiments.cli.options import Preset, given_options


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
    sampler: Preset | None = None,
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
        endpoint: JSON file of the one comparison that is stated, and committed, before the run:
            experiment, setting, metric, arm, baseline, size and seeds (of the phantom).
        dry_run: Say what would be done and how long it would take, and stop.
    """
    given = locals()
    from neuromix.experiments.evidence.configs import PRESETS
    from neuromix.experiments.evidence.transfer import run

    run(replace(PRESETS["transfer"][preset], **given_options(given)), out, dry_run=dry_run)


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
    sampler: Preset | None = None,
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
        few: Labelled subjects in few-labels, a quarter of which choose checkpoint and step, and
            train nothing. Tiny: 40.
        many: Pool of site B, which the sampler of few-labels is trained on. Tiny: 400.
        size: Training subjects in confounded, the larger class in imbalance, and subjects of the
            old site in new-site. Tiny: 80.
        new: Subjects of the new site. Tiny: 20.
        validation: Subjects that choose checkpoints in the other settings. Tiny: 60.
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
    from neuromix.experiments.evidence.configs import PRESETS
    from neuromix.experiments.evidence.settings import run

    run(replace(PRESETS["settings"][preset], **given_options(given)), out, dry_run=dry_run)


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
    sampler: Preset | None = None,
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
    from neuromix.experiments.evidence.configs import PRESETS
    from neuromix.experiments.evidence.decoding import run

    run(replace(PRESETS["decoding"][preset], **given_options(given)), out, dry_run=dry_run)


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
    completer: Preset | None = None,
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
        arms: Some of: drop, mask, mean, regression, pds, pds-by-label, complete.
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
    from neuromix.experiments.evidence.configs import PRESETS
    from neuromix.experiments.evidence.hybrid import run

    run(replace(PRESETS["hybrid"][preset], **given_options(given)), out, dry_run=dry_run)
