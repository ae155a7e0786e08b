import json
import math

import pytest
import torch
from diffusers import DiffusionPipeline, DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from torch.utils.data import default_collate

from neuromix.augment.data.conditions import LabelSpace
from neuromix.augment.diffusion.label_embedding import drop_labels
from neuromix.augment.errors import InputError
from neuromix.augment.tiled.mosaic import Tiling
from neuromix.augment.tiled.published.dit import TiledDiT, add_lora

# In an order that a saved config does not keep, and with a name that modules have.
SPACE = LabelSpace({"type": ("NC", "AD"), "sex": ("F", "M")}, {"age": (18, 88)})
TILING = Tiling((40, 20, 5))  # five slices of 48 x 32 px in 2 x 3 slots: one is spare
SIZE = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ROWS = [
    {"sex": "F", "type": "AD", "age": 60},
    {"sex": "M", "type": "NC", "age": 20},
    {"sex": None, "type": "NC", "age": math.nan},
]
LABELS = default_collate([SPACE.encode(row) for row in ROWS])
TIMES = torch.tensor([999.0, 500.5, 0.0])


def make(tiling=TILING, space=SPACE):
    return TiledDiT(label_space=space.to_dict(), tiling=tiling.to_dict(), **SIZE)


def small(tiling=TILING, *, awake=True):
    """A network; ``awake`` has no zeros from its initialisation left."""
    torch.manual_seed(0)
    network = make(tiling).eval()
    if awake:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return network


def latents(network, batch=3):
    return torch.randn(batch, *network.latent_shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dit():
    """A DiT as published: all blocks hold the same embedder."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(**SIZE, out_channels=8, sample_size=8, num_embeds_ada_norm=10)
    embedder = model.transformer_blocks[0].norm1.emb.state_dict()
    model.transformer_blocks[1].norm1.emb.load_state_dict(embedder)
    return model.eval()


@pytest.fixture
def checkpoint(dit, tmp_path):
    dit.save_pretrained(tmp_path / "transformer")
    path = tmp_path / "transformer/config.json"
    config = json.loads(path.read_text())
    del config["norm_eps"]  # the published config is older, and that of another class
    config |= {"_class_name": "Transformer2DModel", "cross_attention_dim": None}
    path.write_text(json.dumps(config))
    return tmp_path


def from_dit(path, tiling=TILING, **options):
    return TiledDiT.from_dit(path, label_space=SPACE, tiling=tiling, **options).eval()


@torch.no_grad()
def test_a_pretrained_dit_is_the_same_network_on_one_square_slice(checkpoint, dit):
    network = from_dit(checkpoint, Tiling((64, 64, 1)))
    classes = dit.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
    network.label_embedder.tables[0].weight[0] = classes[5] - classes[-1]
    nothing = SPACE.encode({})
    labels = default_collate([{**nothing, "sex": 0}, nothing, {**nothing, "sex": 0}])
    x = latents(network)
    expected = dit(x, TIMES, torch.tensor([5, 10, 5])).sample[:, :4]  # 10 is "no class"
    assert torch.allclose(network(x, TIMES, labels), expected, atol=1e-5)


@torch.no_grad()
def test_slices_start_equal_after_pretraining_and_know_their_number_after_training(checkpoint):
    network = from_dit(checkpoint)
    one = torch.randn(3, 1, 4, 6, 4).expand(-1, 5, -1, -1, -1)
    first, *others = TILING.untile_latents(network(TILING.tile_latents(one), TIMES, LABELS)).unbind(
        1
    )
    assert all(torch.allclose(first, other, atol=1e-5) for other in others)
    network.slice_embedder.weight.normal_()
    slices = TILING.untile_latents(network(TILING.tile_latents(one), TIMES, LABELS))
    assert not torch.allclose(slices[:, 0], slices[:, 1], atol=1e-2)


def test_no_block_holds_an_embedder(checkpoint):
    names = [name for name, _ in from_dit(checkpoint).named_parameters()]
    assert not [name for name in names if ".emb." in name or "class_embedder" in name]


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_every_parameter_has_a_finite_gradient(plane):
    network = small(Tiling((20, 33, 7), plane))
    x = latents(network)
    assert x.shape[2] != x.shape[3]
    output = network(x, TIMES, LABELS)
    assert output.shape == x.shape
    output.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_new_network_starts_at_zero():
    network = small(awake=False)
    assert not network(latents(network), TIMES, LABELS).any()


@torch.no_grad()
def test_spare_slots_take_no_part():
    network = small()
    x = latents(network)
    used = TILING.tile_latents(torch.ones(1, 5, 1, 6, 4)).bool().expand_as(x)
    assert not used.all()
    output = network(x, TIMES, LABELS)
    assert torch.equal(network(torch.where(used, x, 100.0), TIMES, LABELS), output)
    assert not output[~used].any()
    assert output[used].all()


@torch.no_grad()
def test_a_sample_depends_on_its_own_labels_alone():
    network = small()
    x = latents(network)
    output = network(x, TIMES, LABELS)
    for name in SPACE.names:
        changed = {**LABELS, name: LABELS[name].clone()}
        changed[name][0] = 0.25 if name == "age" else 0 if name == "type" else 1
        other = network(x, TIMES, changed)
        assert not torch.allclose(other[0], output[0], atol=1e-3)
        assert torch.equal(other[1:], output[1:])


@torch.no_grad()
def test_dropped_labels_are_missing_labels():
    network = small()
    x = latents(network)
    dropped = drop_labels(SPACE, LABELS, torch.tensor([True, False, True]))
    nothing = SPACE.encode({})
    expected = default_collate([nothing, SPACE.encode(ROWS[1]), nothing])
    output = network(x, TIMES, dropped)
    assert output.isfinite().all()
    assert torch.equal(output, network(x, TIMES, expected))


def test_labels_are_learned_in_a_few_steps():
    network = small(Tiling((16, 16, 2)), awake=False)
    labels = default_collate([SPACE.encode({"sex": sex}) for sex in ("F", "M") * 4])
    target = (2.0 * labels["sex"] - 1).view(-1, 1, 1, 1)
    times = torch.full((8,), 500.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(15):
        x = torch.randn(8, *network.latent_shape)  # fresh, so that only the label tells the target
        loss = (network(x, times, labels) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        swapped = network(x, times, {**labels, "sex": 1 - labels["sex"]})
    assert (swapped * -target).mean() > 0.5


class Pipeline(DiffusionPipeline):
    def __init__(self, transformer):
        super().__init__()
        self.register_modules(transformer=transformer)


def test_a_pipeline_holds_the_network(tmp_path):
    network = small()
    Pipeline(network).save_pretrained(tmp_path)
    again = Pipeline.from_pretrained(tmp_path).transformer
    x = latents(network)
    assert type(again) is TiledDiT
    assert torch.equal(again(x, TIMES, LABELS), network(x, TIMES, LABELS))


def test_checkpoints_give_the_same_network(tmp_path):
    network = small()
    network.save_pretrained(tmp_path)
    again = TiledDiT.from_pretrained(tmp_path)
    assert TiledDiT.from_config(network.config).config == network.config  # as an EMA does
    assert {name: again.config[name] for name in network.config if name[0] != "_"} == {
        name: value for name, value in network.config.items() if name[0] != "_"
    }
    assert again.label_space == SPACE
    assert again.tiling == TILING
    x = latents(network)
    assert torch.equal(again(x, TIMES, LABELS), network(x, TIMES, LABELS))


@torch.no_grad()
def test_low_precision(tmp_path):
    network = small()
    network.save_pretrained(tmp_path)
    x = latents(network)
    expected = network(x, TIMES, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [network(x, TIMES, LABELS)]
    loaded = TiledDiT.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    for half in (loaded, network.to(torch.bfloat16)):
        outputs.append(half(x.bfloat16(), TIMES, LABELS))
    for output in outputs:
        assert output.dtype == torch.bfloat16
        assert (output - expected).norm() < 0.05 * expected.norm()


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        network = small()
        if checkpointing:
            network.enable_gradient_checkpointing()
        network(latents(network), TIMES, LABELS).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(*gradients, strict=True))


def test_lora_trains_little_and_reloads(checkpoint, tmp_path):
    from peft import PeftModel

    network = add_lora(from_dit(checkpoint), rank=2)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    new = ("label_embedder", "label_to_tokens", "slice_embedder", "proj_out_1", "proj_out_2")
    assert all("lora_" in name or any(part in name for part in new) for name in trained)
    assert {part for part in new if any(part in name for name in trained)} == set(new)
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    x = latents(network)
    optimiser = torch.optim.Adam(trained.values(), lr=1e-2)
    for _ in range(3):
        network(x, TIMES, LABELS).square().mean().backward()
        optimiser.step()
    assert all(torch.equal(p, frozen[n]) for n, p in network.named_parameters() if n in frozen)

    with torch.no_grad():
        output = network(x, TIMES, LABELS)
        network.save_pretrained(tmp_path / "lora")
        base = from_dit(checkpoint)
        assert not torch.allclose(base(x, TIMES, LABELS), output, atol=1e-3)
        again = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
        assert torch.equal(again(x, TIMES, LABELS), output)
        merged = again.merge_and_unload()
        assert type(merged) is TiledDiT
        merged.save_pretrained(tmp_path / "merged")
        plain = TiledDiT.from_pretrained(tmp_path / "merged")
        assert torch.allclose(plain(x, TIMES, LABELS), output, atol=1e-5)


def test_an_empty_label_space_is_unconditional():
    network = make(space=LabelSpace())
    assert network(latents(network), TIMES, {}).shape == (3, *network.latent_shape)


def edit(path, change):
    state = load_file(path / WEIGHTS)
    change(state)
    save_file(state, path / WEIGHTS)


def set_config(path, **settings):
    file = path / "transformer/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def only_a_pickle(path):
    (path / WEIGHTS).rename((path / WEIGHTS).with_suffix(".bin"))


HEAD = "proj_out_1.bias"
LAST = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (only_a_pickle, r"pickle diffusion_pytorch_model.bin, .*allowed is safetensors"),
        (lambda path: (path / WEIGHTS).unlink(), "has no diffusion_.* but no weights"),
        (lambda path: (path / WEIGHTS).write_bytes(b"half"), "is not whole"),
        (lambda path: edit(path, lambda s: s.pop(HEAD)), f"{HEAD} has nothing, allowed is .32,"),
        (
            lambda path: edit(path, lambda s: s.update(x=s[HEAD] + 0)),
            "x has .32,., allowed is nothing",
        ),
        (lambda path: edit(path, lambda s: s.update({HEAD: s[HEAD][:5]})), "has .5,., allowed"),
        (lambda path: edit(path, lambda s: s.update({LAST: s[LAST] + 1})), "differ between blocks"),
        (lambda path: set_config(path, num_layers=3), "transformer_blocks.2.* has nothing"),
        (lambda path: set_config(path, norm_type="ada_norm"), "'ada_norm'; allowed is 'ada_norm_z"),
        (lambda path: set_config(path, activation_fn="geglu"), "activation_fn 'geglu'; allowed is"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(InputError, match=message) as error:
        from_dit(checkpoint)
    assert "\n" not in str(error.value)


def test_a_place_without_a_checkpoint_is_told(tmp_path):
    with pytest.raises(InputError, match=r"is no folder, and no transformer/config\.json"):
        from_dit(tmp_path / "absent")
    with pytest.raises(InputError, match="has no folder transformer"):
        from_dit(tmp_path)


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((3, 4, 8, 8), LABELS, r"\(3, 4, 8, 8\) came; this network takes \(batch, 4, 12, 12\)"),
        ((3, 4, 12, 12), {"sex": LABELS["sex"]}, r"\['sex'\] came; .*'type', 'sex', 'age'"),
    ],
)
def test_input_that_does_not_fit_is_told(shape, labels, message):
    with pytest.raises(InputError, match=message):
        small()(torch.zeros(shape), TIMES, labels)


def test_tiles_that_no_token_fits_are_told():
    with pytest.raises(InputError, match="do not divide into tokens of 16 px"):
        make(Tiling((40, 20, 5), multiple=8))
