import pytest
import torch

from neuromix.augment.diffusion import cross_fitting
from neuromix.augment.diffusion.cross_fitting import fit_priors
from neuromix.augment.diffusion.prior import RIDGES, Prior
from neuromix.augment.diffusion.resolution import settings_of

SHAPE, SPACING = (3, 12, 12), (3.0, 3.0, 3.0)
INSIDE = torch.ones(SHAPE, dtype=torch.bool)


def people(count, seed=0):
    """Volumes with neighbours that resemble one another, and a label that raises one corner."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(count, 1, *SHAPE, generator=generator)
    fields = 2 * torch.nn.functional.avg_pool3d(fields, (1, 5, 5), 1, (0, 2, 2))
    label = torch.arange(count) % 2
    volumes = fields[:, 0] + 0.5
    volumes[:, :, :6, :6] += 2.0 * label[:, None, None, None]
    return volumes, torch.stack([1.0 - label, label.float()], 1)


def test_each_is_served_by_people_of_other_folds():
    volumes, features = people(24)
    settings = settings_of(SHAPE, SPACING, INSIDE, 2)
    folds = torch.arange(24) % 3
    priors = fit_priors(
        settings, volumes, INSIDE, features, folds, torch.Generator().manual_seed(0)
    )
    assert len(priors) == 4
    again = Prior(**settings)
    again.fit(volumes[folds != 1], INSIDE, features[folds != 1])
    assert torch.equal(priors[2].filters, again.filters)
    whole = priors[0]
    assert (whole.blend.diff() >= 0).all()
    # What it says of its error holds for people whom it has not seen.
    others, labels = people(40, seed=9)
    for t in (0.2, 0.5, 0.8):
        told = (whole.spread(torch.tensor([t])) ** 2).mean().item()
        noise = torch.randn(others.shape, generator=torch.Generator().manual_seed(5))
        estimate, _ = whole((1 - t) * others + t * noise, torch.full((len(others),), t), labels)
        assert ((estimate - others) ** 2).mean().item() == pytest.approx(told, rel=0.3)


def test_what_a_context_leaves_is_measured_on_people_of_other_folds():
    """Channels that say nothing seem to say something in the people of a regression."""
    volumes, _ = people(60)
    context = torch.randn(60, 4, *SHAPE, generator=torch.Generator().manual_seed(1))
    settings = settings_of(SHAPE, SPACING, INSIDE, 0, 4) | {"reach": [0, 1, 1]}
    generator = torch.Generator().manual_seed(0)
    whole = fit_priors(settings, volumes, INSIDE, None, torch.arange(60) // 15, generator, context)[
        0
    ]
    left = volumes - whole.expected(None, 60, context)
    assert whole.variance.mean() > 1.1 * left.var()


@pytest.mark.parametrize(("said", "strong"), [(1.0, False), (0.0, True)])
def test_the_penalty_is_the_one_that_foretells_other_people_best(said, strong, monkeypatch):
    """A context that says nothing is hardly believed, one that says all is."""
    volumes, _ = people(24)
    noise = torch.randn(24, 4, *SHAPE, generator=torch.Generator().manual_seed(1))
    context = said * volumes[:, None] + (1 - said) * noise
    regressions = []
    truly = Prior.fit_mean
    monkeypatch.setattr(
        cross_fitting.Prior, "fit_mean",
        lambda prior, *parts: regressions.append(truly(prior, *parts)) or regressions[-1],
    )  # fmt: skip
    settings = settings_of(SHAPE, SPACING, INSIDE, 0, 4) | {"reach": [0, 1, 1]}
    folds, generator = torch.arange(24) % 3, torch.Generator().manual_seed(0)
    whole = fit_priors(settings, volumes, INSIDE, None, folds, generator, context)[0]
    chosen = [torch.equal(whole.regression, each) for each in regressions[0]].index(True)
    assert (RIDGES[chosen] == max(RIDGES)) == strong
