import pytest
import torch

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.loop import sample_generators
from neuromix.augment.diffusion.objectives import FlowMatching, NoisePrediction
from neuromix.augment.errors import InputError
from neuromix.augment.fmri.published.hybrid_dit import HybridDiT

SPACE = LabelSpace({"task": ("motor", "wm"), "dir": ("LR", "RL")}, {"age": (20.0, 80.0)})
FRAMES, COURSES, SHAPE = 6, 3, (5, 4, 3)
SETTINGS = {
    "label_space": SPACE.to_dict(), "courses": COURSES, "frames": FRAMES, "shape": SHAPE,
    "channels": 2, "widths": (16, 32), "depths": (1, 1), "head_dim": 8,
}  # fmt: skip
KINDS = {
    "hybrid": {},
    "stack": {"time": "stack"},
    "all-cnn": {"stages": ("cnn", "cnn")},
    "all-transformer": {"stages": ("transformer", "transformer")},
    "adaln-only": {"cross_attention": False},
    "stacked-cnn": {"stages": ("cnn", "cnn"), "time": "stack"},
}


def build(name="hybrid", awake=True):
    torch.manual_seed(0)
    network = HybridDiT(**(SETTINGS | KINDS[name]))
    if awake:  # what starts at zero hides all else
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def window(count=2, seed=0):
    torch.manual_seed(seed)
    codes = [SPACE.encode({"task": "motor", "dir": "RL", "age": 40}), SPACE.encode({})]
    labels = {name: torch.tensor([codes[k % 2][name] for k in range(count)])
              for name in SPACE.names}  # fmt: skip
    shape = (count, FRAMES, 2, *SHAPE)
    labels |= {
        "design": torch.randn(count, FRAMES, COURSES),
        "given": torch.zeros(shape), "known": torch.zeros(count, FRAMES),
    }  # fmt: skip
    return torch.randn(shape), torch.full((count,), 300.0), labels


@pytest.mark.parametrize("name", KINDS)
def test_shape_gradients_and_reload(name, tmp_path):
    network = build(name)
    latents, time, labels = window()
    answer = network(latents, time, labels)
    assert answer.shape == latents.shape
    answer.square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    network.save_pretrained(tmp_path)
    again = HybridDiT.from_pretrained(tmp_path).eval()
    assert torch.equal(again(latents, time, labels), answer)
    low = again.to(torch.bfloat16)(latents.bfloat16(), time, labels)
    assert low.isfinite().all()


@pytest.mark.parametrize("name", ["hybrid", "stack"])
def test_it_starts_at_zero(name):
    assert not build(name, awake=False)(*window()).any()


@pytest.mark.parametrize("name", KINDS)
def test_every_part_of_the_condition_is_heard(name):
    network = build(name)
    latents, time, labels = window()
    with torch.no_grad():
        answer = network(latents, time, labels)
        changes = {
            "task": labels["task"].flip(0),
            "age": torch.tensor([0.9, 0.1]),
            "design": labels["design"] + 1,
            "given": labels["given"] + 1,
            "known": labels["known"] + 1,
        }
        for key, value in changes.items():
            assert (network(latents, time, labels | {key: value}) - answer).abs().max() > 1e-4, key
        assert (network(latents, time + 300, labels) - answer).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["hybrid", "all-cnn", "all-transformer", "stack"])
def test_frames_are_made_jointly(name):
    network = build(name)
    latents, time, labels = window()
    other = latents.clone()
    other[:, 2] += 1
    with torch.no_grad():
        change = (network(other, time, labels) - network(latents, time, labels)).abs()
    assert (change.amax((0, 2, 3, 4, 5)) > 1e-5)[1:4].all()


def test_attention_reaches_over_space_frames_and_tokens():
    network = build("all-transformer")
    latents, time, labels = window()
    other = latents.clone()
    other[:, 0, :, 0, 0, 0] += 1
    design = labels["design"].clone()
    design[:, 0] += 1
    with torch.no_grad():
        answer = network(latents, time, labels)
        moved = (network(other, time, labels) - answer).abs()
        told = (network(latents, time, labels | {"design": design}) - answer).abs()
    assert moved[:, 5, :, 4, 3, 2].max() > 1e-6
    assert told[:, 5].max() > 1e-6


def test_samples_do_not_see_one_another():
    network = build()
    latents, time, labels = window()
    with torch.no_grad():
        both = network(latents, time, labels)
        alone = network(latents[1:], time[1:], {k: v[1:] for k, v in labels.items()})
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


def test_dropping_forgets_labels_and_design_and_keeps_known_frames():
    network = build()
    latents, time, labels = window()
    labels["known"][:, 0] = 1
    dropped = network.drop(labels, torch.tensor([True, False]))
    assert dropped["design"][0].isnan().all()
    assert torch.equal(dropped["design"][1], labels["design"][1])
    assert dropped["task"][0] == 2
    assert torch.equal(dropped["known"], labels["known"])
    other = labels | {"design": labels["design"] + 1, "task": labels["task"] * 0 + 1}
    everyone = torch.tensor([True, True])
    with torch.no_grad():
        one, two = (network(latents, time, network.drop(each, everyone))
                    for each in (labels, other))  # fmt: skip
    assert torch.equal(one, two)
    assert one.isfinite().all()


@pytest.mark.parametrize("objective", [FlowMatching, NoisePrediction])
def test_it_learns_a_response_to_the_design(objective):
    """Latents that follow the first column of the design, and nothing else."""
    network = build(awake=False).train()
    arguments = () if objective is FlowMatching else (torch.linspace(0.99, 0.01, 100),)
    game = objective(network, *arguments, label_dropout=0.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        _, _, labels = window(4, seed=step)
        latents = 2 * labels["design"][..., 0][:, :, None, None, None, None]
        latents = latents.expand(-1, -1, 2, *SHAPE)
        loss = game.loss(
            "network", {"latents": latents, "labels": labels}, sample_generators(0, step, range(4))
        )
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


BAD = [
    ({"stages": ("cnn", "mlp")}, "stage 'mlp' is not known; allowed are cnn, transformer"),
    ({"time": "joint"}, "time 'joint' is not known; allowed are factorised, stack"),
    ({"widths": (16,)}, "2 stages came with 1 widths and 2 depths"),
    ({"widths": (16, 20)}, "width 20 does not divide into heads of 8"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_settings_are_told(changes, message):
    with pytest.raises(InputError, match=message):
        HybridDiT(**(SETTINGS | changes))


def test_bad_input_is_told():
    network = build()
    latents, time, labels = window()
    with pytest.raises(InputError, match=r"this network takes \(batch, 6, 2, 5, 4, 3\)"):
        network(latents[:, 1:], time, labels)
    del labels["design"]
    with pytest.raises(InputError, match="is conditioned on"):
        network(latents, time, labels)
