"""Quotas: which labels the samples of a bank shall have.

Each quota returns a list of labels, one a sample, in an order that the seed fixes and that a longer
request only extends: labels k of 100 are labels k of 1,000.

Those that complete a cohort fill a table of cells. With n_c real subjects and s_c samples so far in
cell c, and a wanted share q_c, the next sample goes to the cell that is furthest behind (Webster's
method for seats in a parliament, in which real subjects are seats already given):

    argmin_c (n_c + s_c + 1/2) / q_c
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromix.augment.data.cohort import KEY
from neuromix.augment.data.conditions import known
from neuromix.augment.data.leakage import provenance
from neuromix.augment.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from neuromix.augment.data.cohort import Cohort
    from neuromix.augment.data.conditions import LabelSpace

Labels = dict[str, Any]


class LabelList(list[Labels]):
    """Labels for a bank, one a sample, which remembers whose of a cohort they are."""

    def __init__(self, labels: Iterable[Labels], cohort: Cohort) -> None:
        super().__init__(labels)
        self.record = provenance([cohort])


JITTER = 0.02
"""Samples that copy a real row move its age by up to this share of the range, either way."""
AGE_BINS = 5
"""Quantiles that ages are cut into before they are counted."""


def grid(space: LabelSpace, given: Mapping[str, Any], count: int, seed: int) -> list[Labels]:
    """All there is: categories in turn, ages even over the range; ``given`` labels for all."""
    unknown = set(given) - set(space.names)
    if unknown:
        raise InputError(
            f"labels {sorted(unknown)} are not in the sampler; it has {list(space.names)}"
        )
    wanted = []
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        labels: Labels = {}
        turn = k
        # In alphabetical order, since a sampler that was saved and opened has lost any other.
        for name, values in sorted(space.categories.items()):
            labels[name] = given.get(name, values[turn % len(values)])
            turn = turn // len(values) if name not in given else turn
        for name, limits in sorted(space.ranges.items()):
            drawn = _round(float(rng.uniform(*limits)), limits)
            try:
                labels[name] = float(given.get(name, drawn))
            except ValueError:
                raise InputError(f"{name} {given[name]!r} is no number; give one") from None
        space.encode(labels)
        wanted.append(labels)
    return wanted


def like(cohort: Cohort, space: LabelSpace, count: int, seed: int) -> list[Labels]:
    """The joint distribution of a cohort: random rows, their ages moved a little.

    Columns that the space lacks are left aside; a label that a row lacks is not asked for.
    """
    rows = _rows(cohort, space)
    return LabelList((_copy(rows, space, seed, k) for k in range(count)), cohort)


def balance(
    cohort: Cohort,
    space: LabelSpace,
    by: Sequence[str] = ("diagnosis",),
    count: int | None = None,
    seed: int = 0,
) -> list[Labels]:
    """Make classes equally large in real and synthetic subjects together.

    The classes are the combinations of ``by``, labels with categories, that occur in the cohort;
    the other labels of a sample come from a random row of its class. ``count`` is just enough by
    default; with fewer, the smallest classes come first.
    """
    for name in by:
        _require_category(name, space)
    rows = _complete(_rows(cohort, space), by)
    cells: dict[tuple[str, ...], list[Labels]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in by), []).append(row)
    members = [cells[key] for key in sorted(cells)]
    have = np.array([len(cell) for cell in members])
    if count is None:
        count = int((have.max() - have).sum())
    chosen = _fill(have, np.full(len(have), 1 / len(have)), count, seed)
    return LabelList(
        (_copy(members[cell], space, seed, k) for k, cell in enumerate(chosen)), cohort
    )


def deconfound(
    cohort: Cohort,
    space: LabelSpace,
    target: str = "diagnosis",
    by: Sequence[str] = ("age", "sex", "site"),
    count: int | None = None,
    seed: int = 0,
) -> list[Labels]:
    """Make the target independent of confounders in real and synthetic subjects together.

    Subjects are counted in a table of target by cell, where a cell is a joint value of all
    confounders (ages in quantiles). The wanted table is the smallest product r_t c_b that is
    nowhere below the real counts; it need not make the classes equal. The labels that are neither
    target nor confounder come from a random real row of the same cell.

    Rows that lack one of the labels count for nothing, and a confounder that is the same in all
    rows needs no cure and is left aside. ``count`` is just enough by default; with fewer, the worst
    gaps are filled first.
    """
    _require_category(target, space)
    if target in by:
        raise InputError(f"{target} is the target; leave it out of the confounders {list(by)}")
    cohort.require_columns(by)
    columns = [name for name in by if cohort.table[name].replace("", None).nunique() > 1]
    if not columns:
        raise InputError(
            f"{', '.join(by) or 'nothing'} came as confounders and none varies in "
            f"{cohort.name!r}; name a label that does"
        )
    strange = [name for name in columns if name not in space.names]
    if strange:
        raise InputError(
            f"the sampler cannot be asked for {', '.join(strange)}, only for "
            f"{', '.join(space.names)}; fit one with that label or leave it out of the confounders"
        )
    rows = _complete(_rows(cohort, space), (target, *columns))
    classes = sorted({row[target] for row in rows})
    if len(classes) < 2:
        raise InputError(
            f"all {len(rows)} rows have {target} {classes[0]}; a target needs two classes"
        )
    cell_of = _cells(rows, columns)
    counts = np.zeros((len(classes), cell_of.max() + 1), int)
    class_of = np.array([classes.index(row[target]) for row in rows])
    np.add.at(counts, (class_of, cell_of), 1)
    product = _smallest_product(counts)
    if count is None:
        count = round(product.sum()) - len(rows)
    chosen = _fill(counts.ravel(), (product / product.sum()).ravel(), count, seed)
    unseen = sum(counts.flat[cell] == 0 for cell in chosen)
    if unseen:
        warnings.warn(
            f"{unseen} of {count} samples have a {target} that no real subject of their "
            f"{', '.join(columns)} has, where the sampler must extrapolate; check how well their "
            "labels show",
            stacklevel=2,
        )
    members = [[rows[i] for i in np.flatnonzero(cell_of == b)] for b in range(counts.shape[1])]
    wanted = []
    for k, cell in enumerate(chosen):
        t, b = divmod(cell, counts.shape[1])
        wanted.append(_copy(members[b], space, seed, k) | {target: classes[t]})
    return LabelList(wanted, cohort)


def associations(
    cohort: Cohort, labels: Sequence[Mapping[str, Any]], target: str, by: Sequence[str]
) -> pd.DataFrame:
    """How strongly the target hangs together with each confounder, 0 not at all to 1.

    A row a confounder with the columns ``label``, ``measure`` (Cramér's V for categories, the
    correlation ratio for numbers), ``before`` (real alone) and ``after`` (with samples of
    ``labels``).
    """
    import pandas as pd

    real = cohort.table[[target, *by]]
    both = pd.DataFrame([*real.to_dict("records"), *labels], columns=real.columns)
    rows = []
    for name in by:
        numeric = pd.api.types.is_numeric_dtype(real[name])
        measure = _correlation_ratio if numeric else _cramers_v
        pairs = [table[[target, name]].replace("", None).dropna() for table in (real, both)]
        before, after = (measure(pair[target], pair[name]) for pair in pairs)
        title = "correlation ratio" if numeric else "Cramér's V"
        rows.append({"label": name, "measure": title, "before": before, "after": after})
    return pd.DataFrame(rows)


def _correlation_ratio(classes: pd.Series, values: pd.Series) -> float:
    total = ((values - values.mean()) ** 2).sum()
    groups = values.groupby(classes)
    between = (groups.size() * (groups.mean() - values.mean()) ** 2).sum()
    return math.sqrt(between / total) if total > 0 else 0.0


def _cramers_v(first: pd.Series, second: pd.Series) -> float:
    import pandas as pd
    from scipy.stats import contingency

    table = pd.crosstab(first, second).to_numpy()
    return float(contingency.association(table)) if min(table.shape) > 1 else 0.0


def _rows(cohort: Cohort, space: LabelSpace) -> list[Labels]:
    """The labels of each row as far as the space has them, whatever the order of the table."""
    rows = []
    for row in cohort.table.sort_values(list(KEY)).to_dict("records"):
        labels = {name: row[name] for name in space.names if known(row.get(name))}
        try:
            space.encode(labels)
        except InputError as error:
            raise InputError(
                f"sub-{row['subject_id']}: {error}; leave such subjects out, or fit a sampler on "
                "subjects like them"
            ) from None
        rows.append(labels)
    if not any(rows):
        raise InputError(
            f"no subject of {cohort.name!r} has a label that the sampler can be asked for; it has "
            f"{', '.join(space.names)}"
        )
    return rows


def _complete(rows: Sequence[Labels], names: Sequence[str]) -> list[Labels]:
    complete = [row for row in rows if all(name in row for name in names)]
    if not complete:
        raise InputError(
            f"none of {len(rows)} rows has all of the labels {', '.join(names)}; choose labels "
            "that the cohort has"
        )
    return complete


def _require_category(name: str, space: LabelSpace) -> None:
    if name not in space.categories:
        raise InputError(
            f"the sampler has no classes of {name!r}; it has those of "
            f"{', '.join(space.categories) or 'nothing'}"
        )


def _cells(rows: Sequence[Labels], names: Sequence[str]) -> np.ndarray:
    """The cell of each row, 0 to B - 1: rows with equal values of all names share one."""
    codes = [np.zeros(len(rows), int)]
    for name in names:
        values = np.array([row[name] for row in rows])
        if values.dtype.kind == "f":
            edges = np.quantile(values, np.arange(1, AGE_BINS) / AGE_BINS)
            values = np.searchsorted(edges, values, side="right")
        codes.append(np.unique(values, return_inverse=True)[1])
    return np.unique(np.column_stack(codes), axis=0, return_inverse=True)[1].ravel()


def _smallest_product(counts: np.ndarray) -> np.ndarray:
    """The table r_t c_b of the smallest sum that is nowhere below ``counts`` (T, B).

    In logarithms this is a convex problem with linear limits (a geometric programme).
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    height = len(counts)
    t, b = np.nonzero(counts)
    limits = np.zeros((len(t), sum(counts.shape)))
    limits[np.arange(len(t)), t] = limits[np.arange(len(t)), height + b] = 1
    floors = np.log(counts[t, b])
    start = np.concatenate([np.zeros(height), np.log(counts.max(axis=0))])
    solution = minimize(
        lambda x: (
            logsumexp(x[:height]) + logsumexp(x[height:]),
            np.concatenate([softmax(x[:height]), softmax(x[height:])]),
        ),
        start,
        jac=True,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: limits @ x - floors, "jac": lambda x: limits},
        options={"maxiter": 1000, "ftol": 1e-9},
    )
    shares = np.exp(solution.x[:height] - solution.x[:height].max())
    return np.outer(shares, (counts / shares[:, None]).max(axis=0))


def _fill(have: np.ndarray, shares: np.ndarray, count: int, seed: int) -> list[int]:
    """The cells of ``count`` samples, one after the other; the seed decides between equals."""
    order = np.random.default_rng(seed).permutation(len(have))
    filled = have[order] + 0.5
    chosen = []
    for _ in range(count):
        behind = (filled / shares[order]).argmin()
        filled[behind] += 1
        chosen.append(int(order[behind]))
    return chosen


def _copy(rows: Sequence[Labels], space: LabelSpace, seed: int, k: int) -> Labels:
    """Labels of sample ``k``: those of a random row, numbers moved a little inside the range."""
    rng = np.random.default_rng([seed, k])
    labels = dict(rows[int(rng.integers(len(rows)))])
    for name, (low, high) in sorted(space.ranges.items()):
        if name in labels:
            reach = JITTER * (high - low)
            moved = rng.uniform(max(labels[name] - reach, low), min(labels[name] + reach, high))
            labels[name] = _round(moved, (low, high))
    return labels


def _round(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return min(max(round(value, 1), low), high)
