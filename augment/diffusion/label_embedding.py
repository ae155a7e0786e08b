"""How networks are conditioned on a label space: codes to vectors, and codes to "missing".

Codes are those of :meth:`neuromix.augment.data.conditions.LabelSpace.encode`, one tensor (B,) per
label: the index of a category (its number of values if missing), a position in [0, 1] (NaN if
missing). ``torch.utils.data.default_collate`` makes such tensors of encoded rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from neuromix.augment.data.conditions import LabelSpace, inside


def encode_rows(space: LabelSpace, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Codes (N,) by name of rows of labels, as far as the space knows them."""
    codes = [space.encode(inside(space, row)) for row in rows]
    return {name: torch.tensor([row[name] for row in codes]) for name in space.names}


class LabelEmbedder(nn.Module):
    """Sum of one vector (D) per label: a table per category, a curve per continuous label.

    Each label has a learned vector for "missing", which starts at zero; ``scale`` is the standard
    deviation of all other entries at the start.
    """

    def __init__(self, space: LabelSpace, dim: int, scale: float) -> None:
        super().__init__()
        # Lists, as label names may be no names of modules; sorted, as a saved config is: a reloaded
        # network must not take the table of one label for that of another.
        self.categories, self.ranges = sorted(space.categories), sorted(space.ranges)
        self.tables = nn.ModuleList(
            _table(len(space.categories[name]), dim, scale) for name in self.categories
        )
        self.curves = nn.ModuleList(_Curve(dim, scale) for _ in self.ranges)

    def forward(self, labels: Mapping[str, torch.Tensor], time: torch.Tensor) -> torch.Tensor:
        """Codes (B,) by name to vectors (B, D), as long and of the type of ``time`` (B, D)."""
        total = torch.zeros_like(time)
        for name, table in zip(self.categories, self.tables, strict=True):
            total = total + table(labels[name].long())
        for name, curve in zip(self.ranges, self.curves, strict=True):
            total = total + curve(labels[name])
        return total


def drop_labels(
    space: LabelSpace, labels: Mapping[str, torch.Tensor], dropped: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Make samples unconditional: all their labels become missing.

    Once per sample and before the network: with a random mask in training, with a mask of ones for
    the unconditional half of classifier-free guidance. ``dropped`` are booleans (B,). What stands
    beside the labels, such as the context of a denoiser, stays.
    """
    missing = space.encode({})
    return {
        name: codes.masked_fill(dropped, missing[name]) if name in missing else codes
        for name, codes in labels.items()
    }


def label_features(space: LabelSpace, labels: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Codes (B,) by name as features (B, F) of a linear model, NaN where a label is missing.

    Ones and zeros for each value of a category, a number for a range; names sorted, as a saved
    config is. The space must have a label.
    """
    columns = []
    for name, values in sorted(space.categories.items()):
        codes = labels[name].long()
        hot = F.one_hot(codes, len(values) + 1)[:, :-1].float()
        columns.append(hot.masked_fill((codes == len(values))[:, None], torch.nan))
    columns += [labels[name][:, None].float() for name in sorted(space.ranges)]
    return torch.cat(columns, dim=1)


def _table(values: int, dim: int, scale: float) -> nn.Embedding:
    table = nn.Embedding(values + 1, dim)
    nn.init.normal_(table.weight, std=scale)
    with torch.no_grad():
        table.weight[-1].zero_()
    return table


class _Curve(nn.Module):
    """A vector that moves with a number in [0, 1], and one for NaN."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(1, dim)
        self.linear_2 = nn.Linear(dim, dim)
        self.missing = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.linear_1.weight)
        nn.init.normal_(self.linear_1.bias)
        # The root mean square of silu of such numbers is about 0.8.
        nn.init.normal_(self.linear_2.weight, std=scale / (0.8 * dim**0.5))
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        known = ~value.isnan()
        # Spread to about unit variance. NaN must not enter the network: its gradient stays NaN
        # even where the result is not used.
        spread = (torch.where(known, value, 0.5) - 0.5) * 12**0.5
        vector = self.linear_2(F.silu(self.linear_1(spread[:, None].to(self.missing.dtype))))
        return torch.where(known[:, None], vector, self.missing)
