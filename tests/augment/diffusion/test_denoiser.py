import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.cross_fitting import fit_priors
from neuromix.augment.diffusion.denoiser import Denoiser, PriorFlow

SPACE = LabelSpace({"sex": ("F", "M")})
SHAPE = (2, 8, 8)
SETTINGS = {
    "shape": SHAPE, "spacing": (3.0, 3.0, 3.0), "features": 2, "reach": (0, 1, 1),
    "cell": (1, 2, 2),
}  # fmt: skip
NETWORK = {"depth": 2, "width": 16, "blocks": 1, "layers": 1, "heads": 2, "token": 4}


@pytest.fixture(scope="module")
def priors():
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(12, *SHAPE, generator=generator)
    inside = torch.ones(SHAPE, dtype=torch.bool)
    inside[:, 0] = False
    features = torch.eye(2)[torch.arange(12) % 2]
    return fit_priors(SETTINGS, volumes, inside, features, torch.arange(12) % 2, generator)


def denoiser(priors, network=NETWORK, **settings):
    torch.manual_seed(0)
    made = Denoiser(
        label_space=SPACE.to_dict(),
        prior_settings=SETTINGS,
        network_settings=network,
        parameters=3,
        **settings,
    )
    made.prior.load_state_dict(priors[0].state_dict())
    return made


LABELS = {"sex": torch.tensor([0, 1])}


def clean(made, noisy, t):
    """What the velocity says of the volume."""
    velocity = made(noisy, torch.full((2,), 1000 * t), LABELS)
    return noisy - t * velocity


def test_a_fresh_network_is_the_prior(priors):
    noisy, t = torch.randn(2, *SHAPE), 0.5
    made = denoiser(priors)
    expected, _ = made.prior(noisy, torch.full((2,), t), made.features(LABELS))
    assert torch.allclose(clean(made, noisy, t), expected, atol=1e-5)
    alone = denoiser(priors, network={})
    assert torch.allclose(clean(alone, noisy, t), expected, atol=1e-5)


@pytest.mark.parametrize(("t", "gain"), [(0.5, 1.5), (0.9, 1.0)])
def test_guidance_by_the_prior_takes_the_network_more_than_once_in_its_interval(priors, t, gain):
    noisy = torch.randn(2, *SHAPE)
    plain, guided = denoiser(priors), denoiser(priors, guide=1.5)
    for made in (plain, guided):
        torch.nn.init.constant_(made.network.head.bias, 0.3)
    prior = clean(denoiser(priors, network={}), noisy, t)
    added, more = clean(plain, noisy, t) - prior, clean(guided, noisy, t) - prior
    assert added[:, :, 1:].abs().min() > 0
    assert torch.equal(added[:, :, 0], torch.zeros(2, 2, 8))  # outside of the brain
    assert torch.allclose(more, gain * added, atol=1e-4)


def test_guidance_by_an_early_network_goes_on_in_its_direction(priors):
    noisy = torch.randn(2, *SHAPE)
    early, late, guided = (denoiser(priors, **kind) for kind in ({}, {}, EARLY))
    for made, bias in ((early.network, 0.1), (late.network, 0.3), (guided.network, 0.3)):
        torch.nn.init.constant_(made.head.bias, bias)
    guided.early.load_state_dict(early.network.state_dict())
    before, after = clean(early, noisy, 0.5), clean(late, noisy, 0.5)
    assert torch.allclose(clean(guided, noisy, 0.5), before + 2 * (after - before), atol=1e-4)
    assert torch.allclose(clean(guided, noisy, 0.9), clean(late, noisy, 0.9), atol=1e-5)


EARLY = {"guide": 2.0, "has_early": True}


def batch(fold):
    return {
        "latents": torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3)),
        "labels": LABELS, "parameters": torch.zeros(2, 3), "fold": torch.tensor([fold, fold]),
    }  # fmt: skip


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (1, 2)]


def test_the_loss_of_a_fresh_network_is_about_one_and_falls_with_training(priors):
    made = denoiser(priors)
    objective = PriorFlow(made, priors[1:], label_dropout=0.0)
    optimiser = torch.optim.AdamW(made.network.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = objective.loss("network", batch(0), generators())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert 0.3 < losses[0] < 3
    assert losses[-1] < 0.9 * losses[0]


def test_people_are_served_by_the_prior_of_their_fold(priors):
    made = denoiser(priors)
    objective = PriorFlow(made, priors[1:], label_dropout=0.0)
    by_fold = {
        fold: objective.loss("network", batch(fold), generators()).item() for fold in (-1, 0, 1)
    }
    assert len(set(by_fold.values())) == 3
    objective.priors[0].filters.zero_()
    assert objective.loss("network", batch(0), generators()).item() != by_fold[0]
    assert objective.loss("network", batch(1), generators()).item() == by_fold[1]


def test_it_reloads(priors, tmp_path):
    made = denoiser(priors)
    torch.nn.init.normal_(made.network.head.weight)
    made.save_pretrained(tmp_path)
    again = Denoiser.from_pretrained(tmp_path)
    noisy = torch.randn(2, *SHAPE)
    assert torch.equal(clean(made.eval(), noisy, 0.4), clean(again, noisy, 0.4))


def test_a_context_tells_what_noise_hides(priors):
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(40, *SHAPE, generator=generator)
    source = (volumes + 0.3 * torch.randn(40, *SHAPE, generator=generator))[:, None]
    inside, folds = torch.ones(SHAPE, dtype=torch.bool), torch.arange(40) % 2
    settings = SETTINGS | {"features": 0, "context": 1}
    fitted = fit_priors(settings, volumes, inside, None, folds, generator, source)
    made = Denoiser(
        label_space=LabelSpace({}).to_dict(), prior_settings=settings, network_settings=NETWORK,
        parameters=3,
    )  # fmt: skip
    made.prior.load_state_dict(fitted[0].state_dict())
    t = 0.9
    noisy = (1 - t) * volumes[:2] + t * torch.randn(2, *SHAPE, generator=generator)
    time = torch.full((2,), 1000 * t)
    told = noisy - t * made(noisy, time, {"context": source[:2]})
    shuffled = noisy - t * made(noisy, time, {"context": source[2:4]})
    assert ((told - volumes[:2]) ** 2).mean() < 0.5 < ((shuffled - volumes[:2]) ** 2).mean()
    objective = PriorFlow(made, fitted[1:])
    loss = objective.loss("network", batch(0) | {"labels": {}, "context": source[:2]}, generators())
    assert torch.isfinite(loss)
    loss.backward()
    assert made.network.head.weight.grad.abs().sum() > 0
