"""Samplers that were saved when their parts stood in other modules."""

import json

import pytest

from neuromix.augment.data.cohort import Cohort
from neuromix.augment.diffusion.loop import TrainConfig
from neuromix.augment.errors import InputError
from neuromix.augment.opening import open_source
from neuromix.augment.tiled.config import TiledMDConfig
from neuromix.augment.tiled.sampler import TiledMDSampler

BEFORE = {
    "transformer": ["augment.nn.denoiser", "Denoiser"],
    "codec": ["augment.nn.codec", "VolumeCodec"],
    "scheduler": ["augment.samplers.flow", "FlowMultistepScheduler"],
}


@pytest.fixture
def sampler(md_phantom, tmp_path):
    training = TrainConfig(steps=1, batch_size=2, warmup=0, validate_every=1, checkpoint_every=1)
    config = TiledMDConfig(width=8, blocks=1, layers=0, folds=2, training=training)
    TiledMDSampler.fit(Cohort.from_bids(md_phantom), config, tmp_path)
    return tmp_path


def rename(folder, parts):
    index = folder / "model_index.json"
    content = json.loads(index.read_text())
    parts = {name: [parts[name][0], content[name][1]] for name in parts}
    index.write_text(json.dumps(content | parts))


def test_a_sampler_saved_under_the_names_of_before_is_the_same(sampler):
    after = TiledMDSampler.from_pretrained(sampler)
    assert after.config["codec"][0] == "neuromix.augment.tiled.codec"
    rename(sampler, BEFORE)
    before = open_source(sampler)
    assert isinstance(before, TiledMDSampler)
    assert before.fingerprint() == after.fingerprint()
    assert before.config["codec"] == after.config["codec"]


@pytest.mark.parametrize(
    ("module", "kind"),
    [("augment.nn.older", "OlderCodec"), ("neuromix.augment.tiled.codec", "DeformableTemplate")],
)
def test_a_part_that_is_no_more_is_refused_in_a_line(sampler, module, kind):
    index = sampler / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"codec": [module, kind]}))
    with pytest.raises(InputError, match=rf"class {module}\.{kind}, which this release"):
        TiledMDSampler.from_pretrained(sampler)
