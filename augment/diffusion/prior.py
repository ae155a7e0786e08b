"""What statistics say of an image, in closed form: E[x | x_t, labels] and how far off that is.

On the path x_t = (1 - t) x + t n, with y = x_t / (1 - t) = x + s n and s = t / (1 - t), two linear
estimators share the work; m(labels) is a mean that is linear in the labels (ridge).

*Fine*: a filter of its own at every voxel v, over the neighbourhood N(v), from the covariance S of
training people's residuals x - m there, which neighbouring places lend each other::

    f_v = m_v + w_v . (y - m)_N(v),        w_v = S_vN (S_NN + s² I)^(-1)

*Coarse*: a Gaussian over some two thousand cells (means of blocks of voxels). Its leading modes
over people are kept whole, and the rest of the sample covariance is tapered by distance, as
ensemble Kalman filters do (Houtekamer and Mitchell 2001): what is far apart and varies little has
been measured on too few people. Where much noise hides the neighbourhood, its content replaces the
filter's,

    E[x | x_t] = f + g(t) up( E[down x | down y] - down f ),

with g fitted on people of other folds. A *context* c of images that are known without noise (a
source of another modality, earlier frames) is part of the mean: m(labels) + r_v . (c - mean), a
ridge regression of its own at every voxel on that voxel and the six beside it. Filters and Gaussian
are then those of what it leaves of people of other folds: it leaves less of those it was fitted to.

The prior never explains training people better than others: one is made of all people, for
sampling, and one for each fold, of the people outside it (:mod:`.cross_fitting`). ``deviation`` is
the root mean square of x - E over people of other folds, by voxel and level. All of it is float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from neuromix.augment.diffusion.resolution import (
    FIRST,
    LEVELS,
    MEMORY,
    place,
    sites_of,
    times,
)

MODES = 6
"""Modes over people that are kept whole: tapered, the spread of atrophy over people halves."""
TAPER = 27.0
"""Length in mm over which the rest of the coarse covariance is trusted."""
DOUBT = 1.0
"""Subjects' worth of doubt that a label changes anything (ridge penalty)."""
RIDGES = (0.01, 0.001, 0.1, 1.0)
"""Penalties of the regression on a context, as shares of the context's mean variance: the first,
or the one that foretells people of other folds best."""
LENT = 0.36
"""What people at the next voxel count in that regression; two voxels beside count LENT squared."""
QUIET = 0.02
"""Smallest deviation: where nobody varies, nothing is divided by nothing."""


class Prior(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own order of bases
    """Posterior mean of volumes (B, L, H, W), L slices of H by W, given their noised version.

    Args:
        shape: (L, H, W).
        spacing: Of voxels in mm, in the same order.
        features: Features of labels (B, F) that the mean is linear in.
        context: Images that are known without noise, (B, context, L, H, W).
        reach: Voxels on each side that a filter sees, (l, h, w).
        cell: Voxels of a coarse cell, (l, h, w).
        share: Voxels that share a filter, (l, h, w).
        sites: Places that have a filter; all by default.
    """

    mean: Tensor
    effects: Tensor
    centre: Tensor
    context_mean: Tensor
    variance: Tensor
    inside: Tensor
    where: Tensor
    filters: Tensor
    regression: Tensor
    vectors: Tensor
    powers: Tensor
    blend: Tensor
    deviation: Tensor

    @register_to_config
    def __init__(
        self,
        shape: Sequence[int],
        spacing: Sequence[float],
        features: int = 0,
        context: int = 0,
        reach: Sequence[int] = (1, 3, 3),
        cell: Sequence[int] = (1, 4, 4),
        share: Sequence[int] = (1, 1, 1),
        sites: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.cell, self.share = tuple(shape), tuple(cell), tuple(share)
        self.reach = tuple(reach)
        cells = [-(-n // c) for n, c in zip(shape, cell, strict=True)]
        self.grid = tuple(-(-n // c) for n, c in zip(shape, share, strict=True))
        sites = sites or math.prod(self.grid)
        self.taps = list(product(*(range(-r, r + 1) for r in reach)))
        self.beside = [tap for tap in self.taps if sum(map(abs, tap)) <= 1]
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("effects", torch.zeros(features, *shape))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("context_mean", torch.zeros(context, *shape))
        self.register_buffer("variance", torch.ones(*shape))
        self.register_buffer("inside", torch.ones(*shape, dtype=torch.bool))
        self.register_buffer("where", torch.arange(sites))
        self.register_buffer("filters", torch.zeros(LEVELS, len(self.taps), sites).half())
        told = torch.zeros(context * len(self.beside), sites)
        self.register_buffer("regression", told.half(), persistent=context > 0)
        self.register_buffer("vectors", torch.zeros(math.prod(cells), math.prod(cells)))
        self.register_buffer("powers", torch.zeros(math.prod(cells)))
        self.register_buffer("blend", torch.zeros(LEVELS))
        self.register_buffer("deviation", torch.ones(LEVELS, *shape))

    # Estimates.

    def expected(
        self, features: Tensor | None, count: int = 1, context: Tensor | None = None
    ) -> Tensor:
        """The mean, (B, L, H, W), given features (B, F), NaN where a label is missing, and context.

        A context is (B, K, L, H, W).
        """
        mean = self.mean.expand(count, *self.shape)
        if features is not None and len(self.effects):
            known = (features.to(self.mean) - self.centre).nan_to_num()
            mean = mean + torch.einsum("bf,flhw->blhw", known, self.effects)
        if context is not None:
            known = context.float() - self.context_mean
            told = self._weighed(self.regression.float(), known, self.beside)
            mean = mean + told * self.inside
        return mean

    @torch.no_grad()
    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        features: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """E[x | x_t] and the mean, (B, L, H, W) each, of x_t (B, L, H, W) at t (B,)."""
        with torch.autocast(noisy.device.type, enabled=False):
            noisy, t = noisy.float(), t.float().clamp(1e-3, FIRST)
            mean = self.expected(features, len(noisy), context)
            scale = (1 - t)[:, None, None, None]
            fine, change = self.posterior(noisy / scale - mean, t)
            blend = self._between(self.blend, t)[:, None, None, None]
            return mean + fine + blend * change, mean

    def posterior(self, rest: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What filters say of y - m (B, L, H, W), and how the coarse Gaussian would change that."""
        fine = torch.empty_like(rest)
        for level in t.unique().tolist():  # while sampling, all have the same
            here = t == level
            low, share = place(torch.tensor([level]))
            below, above = self.filters[int(low)].float(), self.filters[int(low) + 1].float()
            weights = torch.lerp(below, above, float(share))
            fine[here] = self._weighed(weights, rest[here][:, None], self.taps)
        lacking = self._up(self._coarse(rest, t) - self._down(fine))
        return fine * self.inside, lacking * self.inside

    def spread(self, t: Tensor) -> Tensor:
        """Root mean square of x - E[x | x_t] over people, (B, L, H, W), at t (B,)."""
        return self._between(self.deviation, t)

    def _between(self, table: Tensor, t: Tensor) -> Tensor:
        """Entries (LEVELS, ...) of a table at t (B,)."""
        low, share = place(t)
        share = share.reshape(-1, *[1] * (table.ndim - 1)).to(table)
        return torch.lerp(table[low], table[low + 1], share)

    def _weighed(
        self, weights: Tensor, channels: Tensor, taps: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """The sum of weights (C taps, sites) times neighbours of channels (B, C, L, H, W)."""
        everywhere = weights.new_zeros(len(weights), math.prod(self.grid))
        everywhere[:, self.where] = weights
        weights = everywhere.unflatten(1, self.grid)
        for axis, (shared, side) in enumerate(zip(self.share, self.shape, strict=True), start=1):
            if shared > 1:
                weights = weights.repeat_interleave(shared, axis).narrow(axis, 0, side)
        s, h, w = self.reach
        padded = F.pad(channels, (w, w, h, h, s, s))
        height, width = padded.shape[-2:]
        # In a padded volume laid out flat, a neighbour is a constant offset away.
        room = F.pad(weights, (0, 2 * w, 0, 2 * h)).flatten(1)
        span = room.shape[1]
        flat = F.pad(padded.flatten(2), (0, 2 * h * width + 2 * w))
        total = torch.zeros(len(channels), span, device=channels.device)
        for number, (channel, (dl, dh, dw)) in enumerate(product(range(flat.shape[1]), taps)):
            start = ((dl + s) * height + dh + h) * width + dw + w
            total.addcmul_(room[number], flat[:, channel, start : start + span])
        volumes = total.reshape(len(channels), -1, height, width)
        return volumes[:, :, : self.shape[1], : self.shape[2]]

    def _coarse(self, rest: Tensor, t: Tensor) -> Tensor:
        """E[down x | down y] - down m, (B, cells)."""
        noise = ((t / (1 - t)) ** 2 / math.prod(self.cell))[:, None]
        along = self._down(rest) @ self.vectors
        return (along * self.powers / (self.powers + noise)) @ self.vectors.T

    def _down(self, volumes: Tensor) -> Tensor:
        """Means of cells, (B, cells)."""
        s, h, w = (-n % c for n, c in zip(self.shape, self.cell, strict=True))
        padded = F.pad(volumes, (0, w, 0, h, 0, s))
        return F.avg_pool3d(padded[:, None], self.cell).flatten(1)

    def _up(self, cells: Tensor) -> Tensor:
        """Volumes (B, L, H, W) of which :meth:`_down` makes these cells."""
        grid = [-(-n // c) for n, c in zip(self.shape, self.cell, strict=True)]
        volumes = cells.reshape(-1, *grid)
        for axis, (n, c) in enumerate(zip(self.shape, self.cell, strict=True), start=1):
            volumes = volumes.repeat_interleave(c, axis).narrow(axis, 0, n)
        return volumes

    # Fitting.

    def fit_plain(self, volumes: Tensor, inside: Tensor) -> None:
        """Know one mean and one variance only: the start of a network that works alone."""
        self.inside.copy_(inside)
        values = volumes[:, inside]
        self.mean.fill_(float(values.mean())).mul_(inside).sub_((~inside).float())
        variance = float(values.var())
        self.variance.fill_(variance)
        for number, level in enumerate((times() / (1 - times())).tolist()):
            own = variance / (variance + level**2)
            self.filters[number, self.middle] = own
            self.deviation[number] = (own * level**2) ** 0.5

    @property
    def middle(self) -> int:
        """Number of the tap at a voxel itself."""
        s, h, w = self.reach
        return (s * (2 * h + 1) + h) * (2 * w + 1) + w

    def fit(
        self,
        volumes: Tensor,
        inside: Tensor,
        features: Tensor | None = None,
        context: Tensor | None = None,
    ) -> None:
        """Take mean, coarse covariance and filters from volumes (N, L, H, W) of people."""
        self.fit_mean(volumes, inside, features, context)
        rest = volumes - self.expected(features, len(volumes), context)
        self.fit_rest(rest, max(len(rest) - 1 - len(self.effects), 1))

    def fit_mean(
        self,
        volumes: Tensor,
        inside: Tensor,
        features: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor | None:
        """Take the mean from volumes (N, L, H, W), with its effects and its regression.

        Returns regressions by :data:`RIDGES`, of which the first one is taken.
        """
        self.inside.copy_(inside)
        self.mean.copy_(volumes.mean(0))
        rest = volumes - self.mean
        if features is not None and features.shape[1]:
            self.centre.copy_(features.nanmean(0).nan_to_num())
            design = (features - self.centre).nan_to_num()
            gram = design.T @ design + DOUBT * torch.eye(design.shape[1])
            effects = torch.linalg.solve(gram, design.T @ rest.flatten(1))
            self.effects.copy_(effects.reshape(self.effects.shape))
            rest = rest - torch.einsum("bf,flhw->blhw", design, self.effects)
        if context is None:
            return None
        self.context_mean.copy_(context.mean(0))
        known = context - self.context_mean
        size = float(known[:, :, inside].square().mean())
        penalties = [size * share for share in RIDGES]
        regressions = self._solve(rest, known, self.beside, penalties, len(rest), LENT)
        self.regression.copy_(regressions[0])
        return regressions

    def fit_rest(self, rest: Tensor, free: int) -> None:
        """Take covariance and filters from what the mean leaves of people, (N, L, H, W)."""
        own = (rest**2).sum(0) / free
        self.variance.copy_(smooth(own[None])[0].clamp_min(QUIET**2))
        self._fit_coarse(rest, free)
        powers = ((times() / (1 - times())) ** 2).tolist()
        self.filters.copy_(self._solve(rest, rest[:, None], self.taps, powers, free))

    def _fit_coarse(self, rest: Tensor, free: int) -> None:
        used = self._down(self.inside[None].float())[0] > 0
        cells = self._down(rest)[:, used]
        spacing = self.config["spacing"]
        grid = [-(-n // c) for n, c in zip(self.shape, self.cell, strict=True)]
        sides = [c * s for c, s in zip(self.cell, spacing, strict=True)]
        centres = torch.cartesian_prod(
            *(torch.arange(n) * float(side) for n, side in zip(grid, sides, strict=True))
        )[used]
        taper = torch.exp(-(torch.cdist(centres, centres) ** 2) / (2 * TAPER**2))
        # People are fewer than cells: the small Gram matrix has the same spectrum.
        _, vectors = torch.linalg.eigh((cells @ cells.T).double())
        modes = min(MODES, max(len(rest) // 8, 1))
        leading = vectors[:, len(vectors) - modes :].float()
        whole = (leading.T @ cells) / free**0.5
        remainder = (cells - leading @ (leading.T @ cells)) / free**0.5
        covariance = whole.T @ whole + taper * (remainder.T @ remainder)
        # In single precision it need not converge.
        powers, basis = torch.linalg.eigh(covariance.double())
        count = len(powers)
        self.powers.zero_()[:count] = powers.clamp_min(0)
        self.vectors.zero_()
        self.vectors[used.nonzero().flatten(), :count] = basis.float()

    def _solve(
        self,
        wanted: Tensor,
        channels: Tensor,
        taps: Sequence[tuple[int, ...]],
        powers: Sequence[float],
        free: int,
        lending: float = 1.0,
    ) -> Tensor:
        """Weights of neighbours in channels (N, C, L, H, W) that tell ``wanted`` (N, L, H, W) best.

        One set for each of P powers of noise in the channels: (P, C taps, sites). People of the
        next voxel count ``lending`` as much as a site's own.
        """
        s, h, w = self.reach
        margin = 1  # places on each side, in plane, that lend a site their people
        pads = (w + margin, w + margin, h + margin, h + margin, s, s)
        padded = F.pad(channels, pads)
        flat = padded.flatten(1)  # (N, all)
        aim = F.pad(wanted, pads).flatten(1)
        _, count, deep, high, wide = padded.shape
        offsets = torch.tensor([
            ((c * deep + dl + s) * high + dh + h) * wide + dw + w
            for c, (dl, dh, dw) in product(range(count), taps)
        ])  # fmt: skip
        middle = (s * high + h) * wide + w
        weights = len(offsets)
        sites = sites_of(self.inside, self.share)
        # A site's filter is that of every voxel of its block, and their neighbours lend theirs.
        lent = {
            (dl * high + dh) * wide + dw: lending
            ** sum(
                d in (0, side + margin) for d, side in zip((dh, dw), self.share[1:], strict=True)
            )
            for dl, dh, dw in np.ndindex(
                self.share[0], self.share[1] + 2 * margin, self.share[2] + 2 * margin
            )
        }
        starts = (
            (sites[:, 0] * self.share[0]) * high + sites[:, 1] * self.share[1]
        ) * wide + sites[:, 2] * self.share[2]
        found = torch.zeros(len(powers), weights, len(self.where), dtype=torch.float16)
        numbers = (sites[:, 0] * self.grid[1] + sites[:, 1]) * self.grid[2] + sites[:, 2]
        if len(numbers) == len(self.where):
            self.where.copy_(numbers)
        rows = torch.searchsorted(self.where, numbers)
        size = max(1, MEMORY // (weights * (weights + len(flat)) * 8))

        def solve(begin: int) -> None:
            first = starts[begin : begin + size]
            covariance = torch.zeros(len(first), weights, weights)
            side = torch.zeros(len(first), weights, 1)
            for shift, share in lent.items():
                index = (first[:, None] + shift + offsets).clamp_max(flat.shape[1] - 1)
                patches = flat[:, index].transpose(0, 1).contiguous()  # (S, N, W)
                mine = aim[:, (first + shift + middle).clamp_max(aim.shape[1] - 1)].T[..., None]
                covariance.baddbmm_(patches.transpose(1, 2), patches, alpha=share)
                side.baddbmm_(patches.transpose(1, 2), mine, alpha=share)
            covariance /= free * sum(lent.values())
            side /= free * sum(lent.values())
            # In single precision, what is told twice leaves less than nothing.
            least = 1e-5 + 1e-5 * covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
            for number, power in enumerate(powers):
                system = covariance + (power + least) * torch.eye(weights)
                solved = torch.cholesky_solve(side, torch.linalg.cholesky(system))[..., 0]
                found[number][:, rows[begin : begin + size]] = solved.T.half()

        # Small systems are solved one a thread: threads that share one wait for each other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(
                threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                list(pool.map(solve, range(0, len(sites), size)))
        finally:
            torch.set_num_threads(threads)
        return found


def smooth(volumes: Tensor) -> Tensor:
    """Means over 3 x 3 x 3 voxels of volumes (B, L, H, W)."""
    padded = F.pad(volumes[:, None], (1, 1, 1, 1, 1, 1), mode="replicate")
    return F.avg_pool3d(padded, 3, 1)[:, 0]
