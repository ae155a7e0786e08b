import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from neuromix.augment.diffusion.loop import (
    TrainConfig,
    checkpoints,
    estimate,
    sample_generators,
    train,
)
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.published.adversarial import AdversarialAutoencoding
from neuromix.augment.fmri.published.vqgan import VolumeAutoencoder, VolumeDiscriminator

SHAPE = (12, 10, 8)
CONFIG = TrainConfig(
    steps=8, batch_size=4, learning_rate=3e-3, warmup=1, ema_decay=0.5,
    validate_every=4, checkpoint_every=4, log_every=1, seed=2,
)  # fmt: skip


def mask():
    inside = torch.zeros(1, 1, *SHAPE)
    inside[..., 2:10, 2:9, 1:7] = 1
    return inside


def build(kind="vq"):
    torch.manual_seed(0)
    codec = VolumeAutoencoder(shape=SHAPE, kind=kind, widths=(8, 8), codes=16, layers=1)
    codec.mask.copy_(mask())
    return codec


def objective(kind="vq", **weights):
    torch.manual_seed(1)
    codec, judge = build(kind), VolumeDiscriminator(width=4, layers=1)
    return AdversarialAutoencoding(codec, judge, code={"vq": 1.0, "kl": 1e-5}[kind], **weights)


class Volumes:
    """Smooth volumes around 1, as of a scaled run."""

    def __len__(self):
        return 12

    def batch(self, indices, generators):
        coarse = [torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(k))
                  for k in indices]  # fmt: skip
        smooth = torch.nn.functional.interpolate(
            torch.stack(coarse), SHAPE, mode="trilinear", align_corners=True
        )
        return {"images": 1 + 0.3 * smooth}


def images(count=4):
    return Volumes().batch(range(count), [])["images"]


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_shapes_mask_and_reload(kind, tmp_path):
    codec = build(kind).eval()
    mean, deviation = codec.moments(images())
    assert mean.shape == deviation.shape == (4, 4, 3, 3, 2)
    assert (deviation > 0).all() if kind == "kl" else not deviation.any()
    again = codec.decode(mean)
    assert again.shape == (4, 1, *SHAPE)
    assert not again[:, :, mask()[0, 0] == 0].any()
    outside = images() + 9 * (1 - mask())
    torch.testing.assert_close(codec.moments(outside)[0], mean)
    codec.save_pretrained(tmp_path)
    loaded = VolumeAutoencoder.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.decode(mean), again)
    assert codec.latent_mask.shape == (1, 4, 3, 3, 2)


def test_a_volume_does_not_depend_on_its_group():
    codec = build().eval()
    many = images(10)
    torch.testing.assert_close(codec.moments(many)[0][9:], codec.moments(many[9:])[0])


def test_latents_are_standardised_inside_the_mask():
    codec = build().eval()
    codec.standardise([images(4), images(6)[4:]])
    mean, _ = codec.moments(images(6))
    inside = codec.latent_mask[0, 0] > 0
    values = mean[:, :, inside].movedim(1, 0).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["autoencoder", "discriminator"])
def test_each_loss_moves_its_own_network(name):
    game = objective()
    game.loss(name, {"images": images()}, sample_generators(0, 0, range(4))).backward()
    for other, network in game.networks.items():
        touched = [p.grad is not None and bool(p.grad.any()) for p in network.parameters()]
        assert all(touched) if other == name else not any(touched), other


def test_the_discriminator_and_features_steer_the_autoencoder():
    generators = sample_generators(0, 0, range(4))
    plain, steered, matched = (
        objective(adversarial=a, matching=m).loss("autoencoder", {"images": images()}, generators)
        for a, m in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    assert steered > plain
    assert matched > plain
    judged = objective(adversarial=1.0, matching=1.0)
    judged.networks["autoencoder"].eval()
    still = objective(adversarial=0.0, matching=0.0)
    still.networks["autoencoder"].eval()
    alike = [
        g.loss("autoencoder", {"images": images()}, generators).item() for g in (judged, still)
    ]
    assert alike[0] == alike[1]  # what chooses the best step does not hear the judge


def test_codes_move_once_a_step_and_by_counting():
    game = objective()
    book = game.autoencoder.codebook
    assert not [name for name, _ in game.autoencoder.named_parameters() if "embedding" in name]
    generators = sample_generators(0, 0, range(4))
    game.loss("autoencoder", {"images": images()}, generators)
    moved = book.ema_cluster_size.clone()
    assert moved.sum() > 0
    game.loss("discriminator", {"images": images()}, generators)
    assert torch.equal(book.ema_cluster_size, moved)


def test_dead_codes_are_revived_at_encodings():
    game = objective()
    book = game.autoencoder.codebook
    game.loss("autoencoder", {"images": images()}, sample_generators(0, 0, range(4)))
    book.ema_cluster_size[3] = 0
    book.ema_cluster_size[5] = 7
    fifth = book.embedding.weight[5].clone()
    told = game.stepped()
    assert torch.equal(book.embedding.weight[3], game.encodings[3])
    assert torch.equal(book.embedding.weight[5], fifth)
    assert 0 < told["codes used"] < 1
    assert 1 <= told["perplexity"] <= 16


def losses(folder, key):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row[key] for row in rows if key in row]


def test_training_mends_volumes_and_uses_its_codes(tmp_path):
    game = objective()
    config = replace(CONFIG, steps=60, validate_every=60, checkpoint_every=60)
    result = train(game, Volumes(), config, tmp_path, validation=Volumes())
    validation = losses(tmp_path, "validation")
    assert result.best_step == 60
    assert validation[-1] < 0.2 * validation[0]
    assert losses(tmp_path, "codes used")[-1] > 0.9
    assert losses(tmp_path, "discriminator")
    # The best weights hold the codes of their step.
    best = load_file(tmp_path / "best.safetensors")
    name = "network.quantizer.quantizer.embedding.weight"
    assert torch.equal(best[f"autoencoder/{name}"], game.autoencoder.state_dict()[name])


def test_a_stopped_training_goes_on_to_the_same_codes_and_weights(tmp_path):
    def stop(step):
        if step == 6:
            raise KeyboardInterrupt

    whole = objective()
    train(whole, Volumes(), CONFIG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(objective(), Volumes(), CONFIG, tmp_path / "cut", on_step=stop)
    assert len(checkpoints(tmp_path / "cut")) == 1
    train(objective(), Volumes(), CONFIG, tmp_path / "cut")
    one, other = (
        load_file(checkpoints(tmp_path / name)[-1] / "weights.safetensors")
        for name in ("whole", "cut")
    )
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def test_an_estimate_leaves_the_codes_alone():
    game = objective()
    before = game.autoencoder.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    assert estimate(game, Volumes(), CONFIG) > 0
    for key, value in game.autoencoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_bad_settings_are_told():
    with pytest.raises(InputError, match="'vqvae' is not known; give vq or kl"):
        VolumeAutoencoder(shape=SHAPE, kind="vqvae")
    with pytest.raises(InputError, match="takes two levels"):
        VolumeAutoencoder(shape=SHAPE, widths=(8, 8, 8))
