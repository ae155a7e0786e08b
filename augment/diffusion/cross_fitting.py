"""Priors that explain nobody better than a stranger: one of all people, and one for each fold.

What is known of a person in training is what the prior of the people outside that person's fold
says (cross-fitting). It measures how far off priors are, how much the coarse part should count, and
which penalty a regression on a context needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from neuromix.augment.diffusion.memory import keep_freed_memory
from neuromix.augment.diffusion.prior import QUIET, RIDGES, Prior, smooth
from neuromix.augment.diffusion.resolution import LEVELS, times

TOGETHER = 16
"""People who are estimated at a time."""
LEAST = 0.3
"""Smallest deviation as a share of that of the whole brain: a rim where few have tissue would
outweigh it."""


def fit_priors(
    settings: dict[str, Any],
    volumes: Tensor,
    inside: Tensor,
    features: Tensor | None,
    folds: Tensor,
    generator: torch.Generator,
    context: Tensor | None = None,
) -> list[Prior]:
    """The prior of all people, and those of the people outside each fold.

    ``volumes`` are (N, L, H, W), ``features`` of their labels (N, F) and ``context`` (N, K, L, H,
    W); ``folds`` are numbers (N,) from 0. Each person is noised and estimated by the prior of the
    others, at every level: that gives the deviation and the blend of all of them. What a context
    leaves of each is measured by the others' regression, too.
    """
    keep_freed_memory()
    count = int(folds.max()) + 1
    priors = [Prior(**settings) for _ in range(count + 1)]
    regressions = []
    for fold, prior in enumerate(priors, start=-1):
        chosen = folds != fold
        parts = (None if part is None else part[chosen] for part in (features, context))
        if context is None:
            prior.fit(volumes[chosen], inside, *parts)
        else:
            regressions.append(prior.fit_mean(volumes[chosen], inside, *parts))

    def left() -> Tensor:
        """Of each person, what the others' mean leaves."""
        rest = torch.empty_like(volumes)
        for fold, prior in enumerate(priors[1:]):
            for person in (folds == fold).nonzero().flatten().tolist():
                known = [None if e is None else e[person, None] for e in (features, context)]
                rest[person] = volumes[person] - prior.expected(known[0], 1, known[1])[0]
        return rest

    if context is None:
        rest = left()
    else:
        tried = []
        for number in range(len(RIDGES)):
            for prior, each in zip(priors, regressions, strict=True):
                prior.regression.copy_(each[number])
            tried.append(left())
        best = int(np.argmin([float(each.square().mean()) for each in tried]))
        rest = tried[best]
        for prior, each in zip(priors, regressions, strict=True):
            prior.regression.copy_(each[best])
        for fold, prior in enumerate(priors, start=-1):
            prior.fit_rest(rest[folds != fold], int((folds != fold).sum()))
    whole = priors[0]
    squares = torch.zeros_like(whole.deviation)
    powers, shares = np.zeros(LEVELS), np.zeros(LEVELS)
    crosses, gained = torch.zeros_like(squares), torch.zeros_like(squares)
    for number, t in enumerate(times().float().tolist()):
        error, gain = torch.empty_like(rest), torch.empty_like(rest)
        noisy = rest + t / (1 - t) * torch.randn(rest.shape, generator=generator)
        for fold, prior in enumerate(priors[1:]):
            for some in (folds == fold).nonzero().flatten().split(TOGETHER):
                fine, gain[some] = prior.posterior(noisy[some], torch.full((len(some),), t))
                error[some] = rest[some] - fine
        powers[number] = float((gain**2).mean()) + 1e-12
        shares[number] = float((error * gain).mean()) / powers[number]
        squares[number] = (error**2).mean(0)
        crosses[number], gained[number] = (error * gain).mean(0), (gain**2).mean(0)
    # The more noise, the more the coarse part knows better.
    levels = np.arange(LEVELS)
    rising = IsotonicRegression(y_min=0, y_max=1).fit(levels, shares, powers).predict(levels)
    whole.blend.copy_(torch.from_numpy(rising))
    blend = whole.blend[:, None, None, None]
    squares = squares - 2 * blend * crosses + blend**2 * gained
    # People are few: a place learns from its neighbours how much is left over.
    deviation = smooth(squares).clamp_min(0).sqrt()
    least = LEAST * (squares[:, inside].mean(1).clamp_min(0).sqrt())
    whole.deviation.copy_(deviation.maximum(least[:, None, None, None]).clamp_min(QUIET))
    for prior in priors[1:]:
        prior.blend.copy_(whole.blend)
        prior.deviation.copy_(whole.deviation)
    return priors
