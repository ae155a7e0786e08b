import numpy as np
import pytest
import torch

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.diffusion.denoiser import CONTEXT
from neuromix.augment.fmri.config import TaskFMRIConfig
from neuromix.augment.fmri.runs import Runs, Survey
from neuromix.augment.fmri.windows import fit_statistics, fit_windows
from neuromix.augment.phantom import make_phantom

CONFIG = TaskFMRIConfig(
    window=12, overlap=6, patterns=6, folds=2, width=8, blocks=1, layers=1, heads=2,
    label_dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Four people with one task in one phase encoding, two of them in each fold."""
    folder = tmp_path_factory.mktemp("windows")
    make_phantom(folder / "data", "task", subjects=4, seed=5, spacing=12.0)
    cohort = Cohort.from_bids(folder / "data").where(task="motor", dir="LR")
    runs = Runs.of(cohort, CONFIG.window)
    survey = Survey.of(runs, folder / "survey", 1)
    statistics = fit_statistics(runs, survey, CONFIG, folder)
    return statistics, fit_windows([runs], [survey], CONFIG, folder), runs


def test_each_person_is_served_by_the_statistics_of_the_others(fitted):
    statistics, made, _ = fitted
    assert sorted(statistics.folds) == [0, 0, 1, 1]
    data = made.sets[0]
    for k, fold in enumerate(statistics.folds):
        linear = statistics.linears[1 + fold]
        told = torch.from_numpy(np.array(data.responses[k], dtype=np.float32))
        own = (told * statistics.priors[0].unit - linear.maps[0][data.columns[k]]).flatten()
        others = linear.responses[0][:, data.columns[k]].flatten(1)
        left = own - torch.linalg.lstsq(others.T, own[:, None]).solution.T[0] @ others
        assert left.norm() < 0.02 * own.norm() + 0.02  # nothing but a sum of theirs


def test_training_people_are_not_explained_better_than_new_ones_would_be(fitted):
    statistics, made, _ = fitted
    data = made.sets[0]
    rows = {"others": [], "own": []}
    for k, fold in enumerate(statistics.folds):
        for seed in range(4):
            clean, context = data.window(k, torch.Generator().manual_seed(seed))
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed + 50))
            for name, prior in (("others", 1 + fold), ("own", 0)):
                estimate, _ = statistics.priors[prior](
                    0.4 * clean + 0.6 * noise, torch.tensor([0.6]), None, context[None]
                )
                error = data.prior.gather(clean - estimate[0])
                fresh = data.prior.gather(context[2])[:, 0] == 0
                rows[name].append(float((error[fresh] ** 2).mean()))
    assert np.mean(rows["own"]) < np.mean(rows["others"])  # what the folds keep from the network
    told = made.denoiser.prior.spread(torch.tensor([0.6]))[0][made.denoiser.prior.inside]
    assert float((told**2).mean()) == pytest.approx(np.mean(rows["others"]), rel=0.2)


def test_a_batch_holds_windows_of_runs_with_what_is_known_of_them(fitted):
    _, made, runs = fitted
    data = made.sets[0]
    batch = data.batch([0, 3], [torch.Generator().manual_seed(k) for k in (1, 2)])
    assert batch["latents"].shape == (2, *made.denoiser.latent_shape)
    context, rows = (data.prior.gather(batch[name]) for name in (CONTEXT, "latents"))
    known = context[:, 2, :, 0].sum(1).long().tolist()
    assert set(known) <= {0, CONFIG.overlap}
    for k, count in enumerate(known):
        assert torch.equal(context[k, 1, :count], rows[k, :count])
        assert not context[k, 1, count:].any()
    again = data.batch([3], [torch.Generator().manual_seed(2)])
    assert torch.equal(again["latents"][0], batch["latents"][1])
    # Anatomy and deviation make the run.
    k, place = 2, data.starts[2]
    anatomy, first = np.float32(data.anatomies[k]), np.float32(data.frames[place + 7])
    survey_scale = runs.runs[k].read()[7]
    frame = anatomy + np.maximum(anatomy, 0.1) * data.prior.unit * first
    corner = np.corrcoef(frame, survey_scale[made.linear.mask.numpy()])[0, 1]
    assert corner > 0.9999


def test_the_objective_learns_from_windows(fitted):
    _, made, _ = fitted
    draws = [torch.Generator().manual_seed(k) for k in range(4)]
    batch = made.sets[0].batch(range(4), draws)
    loss = made.objective.loss("network", batch, draws)
    assert loss.item() == pytest.approx(1, abs=0.4)  # in units of the prior's own error
    loss.backward()
    head = made.objective.networks["network"].head.weight.grad
    assert head.isfinite().all()
    assert head.abs().sum() > 0
