import pytest
import torch
import torchio as tio
from banking import fill
from torch.utils.data import DataLoader

from neuromix.augment import files
from neuromix.augment.bank.bank import SampleBank
from neuromix.augment.data import bids
from neuromix.augment.data.cohort import Cohort
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.errors import InputError, LeakageError
from neuromix.augment.opening import open_source
from neuromix.augment.tiled.config import TiledMDConfig
from neuromix.augment.tiled.sampler import TiledMDSampler

CONFIG = TiledMDConfig(
    labels=("sex", "age"), width=16, blocks=1, layers=1, heads=2, folds=2,
    training=TrainConfig(
        steps=2, batch_size=4, warmup=1, validate_every=2, checkpoint_every=2, log_every=1
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def parts(md_phantom):
    return Cohort.from_bids(md_phantom).split((0.8, 0.0, 0.2), seed=0)


@pytest.fixture(scope="module")
def fitted(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampler")
    return TiledMDSampler.fit(parts.train, CONFIG, folder)[0], folder


class Draws(torch.utils.data.Dataset):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.source.draw({"sex": "F"}, index)["md"].data


def test_a_sampler_draws_and_replays_the_same(fitted):
    sampler, folder = fitted
    assert sampler.labels == ("sex", "age")
    drawn = sampler.draw({"sex": "F", "age": 70}, 5)
    assert (drawn["sex"], drawn["age"]) == ("F", 70)
    again = open_source(sampler.uri).replay(drawn["synthetic_id"])
    assert torch.equal(drawn["md"].data, again["md"].data)
    assert sampler.uri == str(folder.resolve())
    other = sampler.draw({"sex": "F", "age": 70}, 6)
    assert not torch.equal(drawn["md"].data, other["md"].data)


def test_a_replay_keeps_steps_and_guidance(fitted):
    sampler, _ = fitted
    made = sampler([{"sex": "M"}], [3], 2, 2.5)[0]
    assert torch.equal(sampler.replay(made["synthetic_id"])["md"].data, made["md"].data)


def test_a_sampler_refuses_to_run_in_a_worker(fitted):
    with pytest.raises(InputError, match=r"DataLoader worker; fill a bank.*num_workers=0"):
        list(DataLoader(Draws(fitted[0]), num_workers=1))
    assert len(list(DataLoader(Draws(fitted[0]), num_workers=0))) == 2


def test_the_fingerprint_tells_weights(fitted):
    sampler, folder = fitted
    assert TiledMDSampler.from_pretrained(folder).fingerprint() == sampler.fingerprint()
    other = TiledMDSampler.from_pretrained(folder)
    with torch.no_grad():
        next(other.transformer.parameters()).add_(1e-3)
    assert other.fingerprint() != sampler.fingerprint()


def test_a_sampler_knows_whom_it_saw(fitted, parts):
    sampler, _ = fitted
    sampler.check_disjoint(parts.test)
    with pytest.raises(LeakageError):
        sampler.check_disjoint(parts.train)


def test_a_bank_is_filled_by_a_sampler_and_made_again(fitted, parts, tmp_path):
    sampler, folder = fitted
    labels = [{"sex": "F", "age": 70.0}, {"sex": "M", "age": 61.5}, {"sex": "F"}]
    bank = SampleBank.fill(tmp_path / "bank", sampler, labels, 3, steps=2)
    told = bids.read_json(next(bank.path.glob("sub-syn000002/dwi/*.json")))
    opened = TiledMDSampler.from_pretrained(folder)
    (again,) = opened([told["Labels"]], [told["Seed"]], told["Steps"], told["Guidance"])
    assert torch.equal(again["md"].data, bank.replay("syn000002")["md"].data)
    assert (again["sex"], again["age"]) == ("M", 61.5)
    assert bank.replay("syn000003")["age"] != bank.replay("syn000003")["age"]  # NaN
    real = parts.test.subjects()[0]
    drawn = bank.draw({"sex": "F"}, 0)
    assert set(drawn.keys()) == set(real.keys())
    kinds = [
        {k: tio.ScalarImage if isinstance(v, tio.ScalarImage) else type(v) for k, v in each.items()}
        for each in (drawn, real)
    ]
    assert kinds[0] == kinds[1]
    next(iter(tio.SubjectsLoader(tio.SubjectsDataset([real, drawn]), batch_size=2)))
    bank.check_disjoint(parts.test)
    with pytest.raises(LeakageError):
        bank.check_disjoint(parts.train)


def test_folders_are_opened_once(tmp_path):
    bank = fill(tmp_path / "bank")
    source = open_source(bank.uri)
    assert isinstance(source, SampleBank)
    assert open_source(tmp_path / "bank") is source


@pytest.mark.parametrize("content", [None, {"_class_name": "StableDiffusionPipeline"}])
def test_what_is_no_source_is_refused(tmp_path, content):
    if content:
        files.write_json(tmp_path / "model_index.json", content)
    with pytest.raises(InputError, match=r"no source of samples|holds a StableDiffusionPipeline"):
        open_source(tmp_path)


def test_an_empty_name_is_refused(monkeypatch, tmp_path):
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no source of samples"):
        open_source("")


def test_a_strange_id_is_refused(fitted):
    with pytest.raises(InputError, match="no synthetic_id of a sampler"):
        fitted[0].replay("syn000001")
