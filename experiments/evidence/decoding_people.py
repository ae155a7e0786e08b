"""The people of ``neuromix experiment decoding``: whose runs they are, and who does what."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.errors import InputError
from neuromix.augment.phantom import make_phantom
from neuromix.experiments.evidence.decoding_config import Decoding
from neuromix.experiments.evidence.sites import FEWEST, require_classes
from neuromix.experiments.frame.cohorts import load_cohort, names_of


def runs_asked_for(config: Decoding, folder: Path) -> Cohort:
    """The runs that are asked for."""
    if config.data is not None:
        cohort = load_cohort(config.data, ("bold",) if config.data.is_dir() else ())
    else:
        count = max(config.sizes) + config.validation + config.fresh + config.test
        place = make_phantom(
            folder / "phantom", "task", subjects=count, seed=config.seed, spacing=config.spacing,
            progress=True,
        )  # fmt: skip
        cohort = Cohort.from_bids(place)
    for column, wanted in (("task", config.tasks), ("dir", config.directions)):
        if wanted:
            cohort = cohort.where(**{column: list(wanted)})
    if not len(cohort):
        raise InputError(
            f"{cohort.name} has no run of task {' '.join(config.tasks) or 'any'} and phase "
            f"encoding {' '.join(config.directions) or 'any'}; name others with --tasks and "
            "--directions"
        )
    return cohort


def divide(cohort: Cohort, config: Decoding) -> dict[str, Cohort]:
    """Part people at random and evenly in sex; of one's own, all that are left judge."""
    order = _interleaved(cohort, config.seed)
    sizes = {"pool": max(config.sizes), "validation": config.validation, "ceiling": config.fresh}
    left = len(order) - sum(sizes.values())
    if left < 2:
        raise InputError(
            f"{len(order)} people of {cohort.name} have such runs; {sum(sizes.values())} to train "
            "and validate are asked for and 2 or more must be left to judge: ask for fewer, or "
            "bring more"
        )
    sizes["test"] = left
    parts, names = {}, names_of(cohort)
    for part, count in sizes.items():
        chosen, order = order[:count], order[count:]
        if count:
            rows = cohort.where(np.isin(names, chosen))
            rank = {name: k for k, name in enumerate(chosen)}
            place = np.argsort([rank[name] for name in names_of(rows)], kind="stable")
            parts[part] = Cohort(rows.table.iloc[place], rows.name)
    if "sex" in config.targets:
        for part, rows in parts.items():
            if part != "validation":
                fewest = FEWEST if part == "test" else 1
                require_classes(rows, "sex", f"{part} part of {cohort.name}", fewest)
    return parts


def _interleaved(cohort: Cohort, seed: int) -> list[str]:
    """People in random order, of whom any first ones are as even in sex as all are."""
    names = names_of(cohort)
    first = {name: k for k, name in reversed(list(enumerate(names)))}
    sexes = cohort.table["sex"].to_numpy(str)
    rng = np.random.default_rng(seed)
    placed: list[tuple[float, str]] = []
    for sex in sorted(set(sexes)):
        people = rng.permutation(sorted(name for name, k in first.items() if sexes[k] == sex))
        placed += [((k + 0.5) / len(people), str(name)) for k, name in enumerate(people)]
    return [name for _, name in sorted(placed)]
