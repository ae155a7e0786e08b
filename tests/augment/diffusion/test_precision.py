import pytest
import torch
from torch import nn

from neuromix.augment.diffusion.loop import TrainConfig, train
from neuromix.augment.diffusion.precision import precision_of
from neuromix.augment.errors import InputError
from neuromix.classifiers.training import device_for


def test_bfloat16_is_refused_where_it_can_not_be_trained_in(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(InputError, match="this cpu does not train in it") as error:
        device_for("cpu", "bfloat16")
    assert "\n" not in str(error.value)
    config = TrainConfig(steps=1, batch_size=1, precision="bf16")
    objective = type("Nothing", (), {"networks": {"network": nn.Linear(1, 1)}})()
    with pytest.raises(InputError, match="this cpu does not train in it"):
        train(objective, [0], config, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _: False)
    with pytest.raises(InputError, match="this cuda does not train in it"):
        device_for("auto", "bfloat16")


def test_bfloat16_is_taken_where_there_is_amx(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert device_for("cpu", "bfloat16") == "cpu"


def test_auto_is_bfloat16_where_the_machine_has_it_and_the_network_stands_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    flat, deep = nn.Conv2d(1, 1, 3), nn.Sequential(nn.Conv3d(1, 1, 3))
    assert precision_of("auto", "cpu", [flat]) == precision_of("bf16", "cpu", [flat]) == "bf16"
    assert precision_of("auto", "cpu", [flat, deep]) == "no"
    with pytest.raises(InputError, match="without 3D convolutions"):
        precision_of("bf16", "cpu", [deep])
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert precision_of("auto", "cpu", [flat]) == "no" == precision_of("no", "cpu", [flat])
