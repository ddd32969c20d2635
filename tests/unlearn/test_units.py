"""Units of every kind of layer: what computes an activation is owned by its unit, and by no other."""

import time
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence

from codec.unlearn._slices import Slices
from codec.unlearn._units import UnsupportedModuleError, attention_heads, find_units, read_axis, unit_layer

N = 3  # samples of a batch


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens(*shape, high=7):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(2))


def record(model, inputs, kwargs=None, params=None, batch=N, units=None):
    """Activations of every recorded layer, read as documented: a forward hook with keywords."""
    found, handles = {}, []
    for layer in (units or find_units(model)).layers:
        if layer.tap is not None:

            def hook(module, args, kwargs, output, layer=layer):
                value = layer.tap.read(module, args, kwargs, output, batch)
                found[layer.name] = torch.cat([found[layer.name], value], 1) if layer.name in found else value

            handles.append(model.get_submodule(layer.tap.module).register_forward_hook(hook, with_kwargs=True))
    try:
        functional_call(model, params or {}, inputs, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


class Named(nn.Module):
    """A model that gives its only child the arguments as keywords."""

    def __init__(self, child):
        super().__init__()
        self.child = child

    def forward(self, **kwargs):
        return self.child(**kwargs)


def old(name, module):
    """The deprecated parametrizations by hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(nn.utils, name)(module)


def recurrent(cls, **options):
    return lambda: cls(4, 5, **options)


SHAPES = {  # kind of layer: model, shape of the input with the samples first
    "linear": (lambda: nn.Linear(4, 5), (N, 4)),
    "linear of tokens": (lambda: nn.Linear(4, 5, bias=False), (N, 6, 4)),
    "bilinear": (lambda: nn.Bilinear(4, 4, 5), (N, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (N, 4, 5)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, bias=False), (N, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (N, 2, 3, 3, 3)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (N, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (N, 4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (N, 4, 5, 5)),
    "transposed 1-d, grouped": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (N, 4, 5)),
    "transposed 3-d, depthwise": (lambda: nn.ConvTranspose3d(4, 4, 2, groups=4), (N, 4, 2, 2, 2)),
    "batch norm": (lambda: nn.BatchNorm1d(4), (N, 4)),
    "batch norm 2-d": (lambda: nn.BatchNorm2d(4), (N, 4, 5, 5)),
    "instance norm": (lambda: nn.InstanceNorm1d(4, affine=True), (N, 4, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (N, 4, 5)),
    "layer norm": (lambda: nn.LayerNorm(4), (N, 6, 4)),
    "layer norm of maps": (lambda: nn.LayerNorm((4, 5, 5)), (N, 4, 5, 5)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), (N, 4)),
    "rms norm": (lambda: nn.RMSNorm(4), (N, 6, 4)),
    "prelu": (lambda: nn.PReLU(4), (N, 4, 5)),
    "prelu of one": (lambda: nn.PReLU(), (N, 4, 5)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 5)), (N, 4)),
    "weight norm, old": (lambda: old("weight_norm", nn.Conv1d(4, 6, 3)), (N, 4, 5)),
    "rnn": (recurrent(nn.RNN, batch_first=True), (N, 1, 4)),
    "lstm": (recurrent(nn.LSTM, batch_first=True), (N, 1, 4)),
    "lstm, both ways": (recurrent(nn.LSTM, batch_first=True, bidirectional=True), (N, 1, 4)),
    "lstm, three layers": (recurrent(nn.LSTM, batch_first=True, num_layers=3), (N, 1, 4)),
    "lstm, projected": (recurrent(nn.LSTM, batch_first=True, proj_size=2, bidirectional=True, num_layers=2), (N, 1, 4)),
    "gru": (recurrent(nn.GRU, batch_first=True, bias=False), (N, 1, 4)),
    "gru, deep both ways": (recurrent(nn.GRU, batch_first=True, bidirectional=True, num_layers=2), (N, 1, 4)),
    "rnn cell": (recurrent(nn.RNNCell), (N, 4)),
    "lstm cell": (recurrent(nn.LSTMCell), (N, 4)),
    "gru cell": (recurrent(nn.GRUCell), (N, 4)),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), (N, 3, 8)),
    "attention, no bias": (lambda: nn.MultiheadAttention(8, 4, bias=False, batch_first=True), (N, 3, 8)),
    "attention, extra key": (lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True), (N, 3, 8)),
    "attention, wide keys": (lambda: nn.MultiheadAttention(8, 2, kdim=8, vdim=4, batch_first=True), (N, 3, 8)),
}


def case(name):
    """A model and its inputs, with parameters that are nowhere zero or one."""
    make, shape = SHAPES[name]
    model = make().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(normal(*p.shape) * 0.4 + 0.2)
    x = normal(*shape)
    if "attention" in name:
        return model, (x, x, x[..., :4] if "wide" in name else x)
    return model, (x, x) if name == "bilinear" else (x,)


@pytest.mark.parametrize("name", SHAPES)
def test_a_unit_owns_exactly_what_computes_its_activation(name):
    model, inputs = case(name)
    units = find_units(model)
    params = {k: p.detach().clone().requires_grad_() for k, p in model.named_parameters()}
    activations = record(model, inputs, params=params)
    assert units.uncovered == ()
    for offset, layer in zip(units.offsets, units.layers, strict=False):
        assert activations[layer.name].shape[2] == layer.n_units
        names = [part.parameter for part in layer.parts]
        own = Slices(units, range(offset, offset + layer.n_units))
        for u in range(layer.n_units):
            one = activations[layer.name][..., u].square().sum()
            grads = torch.autograd.grad(one, [params[k] for k in names], retain_graph=True, allow_unused=True)
            grads = {k: torch.zeros_like(params[k]) if g is None else g for k, g in zip(names, grads, strict=True)}
            share = own.unit_sums(own.gather(grads).abs())
            assert share[u] > 0
            share[u] = 0
            assert (share == 0).all(), layer.name


@pytest.mark.parametrize("name", SHAPES)
def test_every_scalar_has_one_owner(name):
    model, _ = case(name)
    units = find_units(model)
    counts = {k: torch.zeros_like(p) for k, p in model.named_parameters()}
    for u in range(units.n_units):
        one = Slices(units, [u])
        assert one.size == units.sizes()[u]
        counts = one.add(counts, torch.ones(one.size, dtype=torch.float64))
    assert all((count == 1).all() for count in counts.values())


@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_those_of_their_samples(name):
    model, inputs = case(name)
    change = torch.zeros(N, *inputs[0].shape[1:])
    change[1] = normal(*change.shape[1:]).sin()
    before = record(model, inputs)
    after = record(model, tuple(x + change[..., : x.shape[-1]] for x in inputs))
    for layer, activations in before.items():
        changed = (activations - after[layer]).abs().flatten(1).amax(1) > 1e-9
        assert changed.tolist() == [False, True, False], layer


def test_the_activations_of_a_filter_are_its_map():
    model, (x,) = case("grouped")
    torch.testing.assert_close(record(model, (x,))[""], model(x).flatten(2).transpose(1, 2))


def test_heads_are_those_of_the_formula():
    model, (x, _, _) = case("attention")
    weight, bias = model.in_proj_weight, model.in_proj_bias
    mask = torch.tensor([[False, False, True]] * N)
    q, k, v = ((x @ w.T + b).reshape(N, 3, 2, 4) for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))
    scores = torch.einsum("nihd,njhd->nhij", q, k) / 2.0  # sqrt(4)
    heads = torch.einsum("nhij,njhd->nihd", scores.masked_fill(mask[:, None, None], -torch.inf).softmax(-1), v)
    found = record(model, (x, x, x), {"key_padding_mask": mask})
    torch.testing.assert_close(found["head"], heads.norm(dim=-1))
    torch.testing.assert_close(found["out_proj"], model(x, x, x, key_padding_mask=mask)[0])
    sequence_first = nn.MultiheadAttention(8, 2, dtype=torch.float64).eval()
    sequence_first.load_state_dict(model.state_dict())
    x = x.transpose(0, 1)
    found = record(sequence_first, (x, x, x), {"key_padding_mask": mask})
    torch.testing.assert_close(found["head"], heads.norm(dim=-1))


def test_transformer_layers_of_both_orders_of_axes_give_the_same_activations():
    make = [nn.TransformerEncoderLayer(8, 2, 6, batch_first=b, dtype=torch.float64).eval() for b in (True, False)]
    make[1].load_state_dict(make[0].state_dict())
    x = normal(N, 5, 8)
    found = [record(make[0], (x,)), record(make[1], (x.transpose(0, 1),))]
    assert len(found[0]) == 6
    for layer in found[0]:
        torch.testing.assert_close(found[0][layer], found[1][layer])


def test_windows_in_the_first_axis_are_positions_of_their_sample():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 5).double()

        def forward(self, x):
            return self.fc(x.reshape(-1, 2, 4)).reshape(len(x), -1, 5)

    model, x = Windows(), normal(N, 6, 4)
    torch.testing.assert_close(record(model, (x,))["fc"], model.fc(x))
    with pytest.raises(ValueError, match="no axis for the 5 samples"):
        record(model, (x,), batch=5)


class Frames(nn.Module):
    """A layer that sees the frames of all samples in the first axis."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.double()

    def forward(self, x):
        return self.layer(x.flatten(0, 1))


@pytest.mark.parametrize(
    ("make", "sides"),
    [
        (lambda: nn.Conv2d(2, 4, 3), (N + 2, 4)),
        (lambda: nn.ConvTranspose2d(2, 4, 2), (N - 1, 4)),
        (lambda: nn.BatchNorm2d(2), (N, 4)),
        (lambda: nn.GroupNorm(1, 2), (N, 4)),
        (lambda: nn.PReLU(2), (N, 4)),
    ],
)
def test_maps_as_high_as_there_are_samples_are_no_samples(make, sides):
    model, x = Frames(make()).eval(), normal(N, 5, 2, *sides)
    expected = model(x)
    assert expected.shape[2] == N
    found = record(model, (x,))["layer"]
    torch.testing.assert_close(found, expected.unflatten(0, (N, 5)).movedim(2, -1).flatten(1, 3))


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
def test_the_sentences_of_a_sample_are_positions_of_lower_recurrent_layers(cls):
    model, x = Frames(cls(4, 5, num_layers=2, batch_first=True)), normal(N, 2, 6, 4)
    steps, state = model(x)
    final = state[0] if cls is nn.LSTM else state
    found = record(model, (x,))
    torch.testing.assert_close(found["layer.l0"], final[0].reshape(N, 2, 5))
    torch.testing.assert_close(found["layer.l1"], steps.reshape(N, 12, 5))


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_read_at_every_step_and_below_at_the_last(cls):
    model = cls(4, 5, num_layers=2, bidirectional=True).double()
    x = normal(6, N, 4)  # steps first
    output, state = model(x)
    final = state[0] if cls is nn.LSTM else state
    found = record(model, (x,))
    torch.testing.assert_close(found["l1_reverse"], output[..., 5:].transpose(0, 1))
    torch.testing.assert_close(found["l0"], final[0][:, None])
    packed = pack_padded_sequence(x, torch.tensor([6, 4, 2]))
    final = model(packed)[1][0] if cls is nn.LSTM else model(packed)[1]
    torch.testing.assert_close(record(model, (packed,))["l1"], final[2][:, None])


def test_a_module_that_runs_twice_has_twice_the_positions():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.fc(self.fc(x))

    model, x = Twice(), normal(N, 4)
    torch.testing.assert_close(record(model, (x,))["fc"], torch.stack([model.fc(x), model(x)], 1))


# --------------------------------------------------------------------------- embeddings
def test_an_embedding_row_is_active_by_its_share_of_the_positions():
    ids = torch.tensor([[1, 1, 2, 0], [3, 3, 3, 3], [0, 1, 2, 3]])
    found = record(Named(nn.Embedding(5, 2)), (), {"input": ids})["child"]
    assert found.tolist() == [[[0.25, 0.5, 0.25, 0, 0]], [[0, 0, 0, 1, 0]], [[0.25, 0.25, 0.25, 0.25, 0]]]


@pytest.mark.parametrize("n_positions", [1, 4])  # no multiple of the samples
def test_positions_in_one_axis_are_those_of_every_sample(n_positions):
    found = record(nn.Embedding(5, 2), (torch.arange(n_positions),))[""]
    expected = (torch.arange(5) < n_positions) / n_positions
    torch.testing.assert_close(found, expected.expand(N, 1, 5))


def test_embedding_rows_are_units():
    units = find_units(nn.Embedding(5, 2))
    assert (units.n_units, units.sizes().tolist()) == (5, [2] * 5)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("sum", "rows"), ("mean", "rows"), ("sum", "offsets"), ("mean", "offsets"), ("sum", "weights")],
)
def test_a_bag_is_its_weights_times_the_rows(mode, form):
    bag = nn.EmbeddingBag(7, 4, mode=mode).double()
    ids, kwargs = tokens(N, 5), {}
    if form == "offsets":
        ids, kwargs = ids.reshape(-1), {"offsets": torch.tensor([0, 4, 4])}  # an empty bag too
    elif form == "weights":
        kwargs = {"per_sample_weights": normal(N, 5)}
    weights = record(bag, (ids,), kwargs)[""][:, 0]
    torch.testing.assert_close(weights.double() @ bag.weight, bag(ids, **kwargs))


# --------------------------------------------------------------------------- whole models
def resnet50():
    """The convolutions and norms of ResNet-50, by their list."""
    model = nn.Module()

    def add(name, n_in, n_out, size):
        model.add_module(name, nn.Conv2d(n_in, n_out, size, bias=False))
        model.add_module(name.replace("conv", "bn"), nn.BatchNorm2d(n_out))

    add("conv1", 3, 64, 7)
    n_in = 64
    for stage, (depth, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(depth):
            stem = f"layer{stage}_{block}_conv"
            add(f"{stem}1", n_in, width, 1)
            add(f"{stem}2", width, width, 3)
            add(f"{stem}3", width, 4 * width, 1)
            if block == 0:
                add(f"{stem}_down", n_in, 4 * width, 1)
            n_in = 4 * width
    model.fc = nn.Linear(2048, 1000)
    return model


def distilbert(**sizes):
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(num_labels=100, **sizes)
    return transformers.DistilBertForSequenceClassification(config)


def check_large(make, kinds, n_rows, n_parameters):
    with torch.device("meta"):
        model = make()
    start = time.process_time()
    units = find_units(model)
    assert time.process_time() - start < 1.0
    assert units.keep(lambda layer: layer.kind in kinds).n_units == n_rows
    assert units.uncovered == ()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert dict(units.shapes) == shapes
    everyone = Slices(units, torch.arange(units.n_units))
    counts = everyone.scatter(torch.ones(everyone.size, dtype=torch.int8))  # 2 where two units meet
    assert all((counts[name] == 1).all() for name in shapes)
    assert everyone.size == n_parameters == int(units.sizes().sum())
    return units


def test_resnet50_has_26560_filters_and_no_scalar_has_two_owners():
    units = check_large(resnet50, {"Conv"}, 26_560, 25_557_032)
    unit = units.offsets[[layer.name for layer in units.layers].index("layer2_3_conv2")] + 17
    assert units.label(unit) == "layer2_3_conv2[17]"
    only = Slices(units, [unit])
    assert (only.parameters, only.size) == (("layer2_3_conv2.weight",), 256 * 9)


def test_distilbert_has_42340_rows_and_no_scalar_has_two_owners():
    units = check_large(distilbert, {"Linear"}, 42_340, 67_030_372)
    assert units.n_units == 42_340 + 30_522 + 512 + 768 * (1 + 2 * 6)


@pytest.mark.slow
def test_distilbert_is_recorded_without_padding_of_its_own():
    model = distilbert(n_layers=1, dim=8, n_heads=2, hidden_dim=6, vocab_size=11, max_position_embeddings=6).eval()
    ids = tokens(N, 4)
    found = record(model, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    units = find_units(model)
    assert {layer.name: layer.n_units for layer in units.layers} == {k: a.shape[2] for k, a in found.items()}
    torch.testing.assert_close(found["classifier"][:, 0], model(ids).logits)


def test_conv1d_of_gpt2_has_its_units_in_columns():
    layer = pytest.importorskip("transformers").pytorch_utils.Conv1D(5, 4)
    units = find_units(layer)
    assert (units.n_units, units.sizes().tolist()) == (5, [5] * 5)
    only = Slices(units, [2])
    torch.testing.assert_close(
        only.gather(dict(layer.named_parameters())), torch.cat([layer.weight[:, 2], layer.bias[2:3]])
    )


# --------------------------------------------------------------------------- owners
class Tied(nn.Module):
    """A decoder that shares its weight with the embedding and has a bias of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.decode = nn.Linear(3, 5)
        self.decode.weight = self.embed.weight
        self.again = self.decode


def test_tied_parameters_belong_to_their_first_name():
    units = find_units(Tied())
    assert units.to_frame()[["layer", "parameters"]].to_numpy().tolist() == [
        ["embed", "embed.weight"],
        ["decode", "decode.bias"],
    ]


def test_frozen_parameters_have_no_unit():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    units = find_units(model)
    assert [part.parameter for layer in units.layers for part in layer.parts] == ["1.weight", "1.bias", "2.weight"]
    assert list(units.shapes) == ["1.weight", "1.bias", "2.weight"]


class Shift(nn.Module):
    """Parameters that no rule knows."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.gain = nn.Parameter(torch.ones(4, 1))
        self.several = nn.ParameterList([nn.Parameter(torch.zeros(2))])

    def forward(self, x):
        return x


def test_bare_parameters_have_units_along_their_first_axis():
    units = find_units(nn.Sequential(Shift(), nn.Linear(4, 2)))
    assert [(layer.name, layer.n_units) for layer in units.layers] == [
        ("0.token", 1),
        ("0.scale", 1),
        ("0.gain", 4),
        ("0.several.0", 2),
        ("1", 2),
    ]
    assert units.to_frame()["recorded"].tolist() == [False] * 4 + [True]
    assert units.sizes().tolist() == [4, 1, 1, 1, 1, 1, 1, 1, 5, 5]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (lambda: parametrizations.spectral_norm(nn.Linear(4, 5)), ["bias", "parametrizations.weight.original"]),
        (lambda: parametrizations.orthogonal(nn.Linear(4, 4, bias=False)), ["parametrizations.weight.original"]),
        (lambda: old("spectral_norm", nn.Linear(4, 5, bias=False)), ["weight_orig"]),
    ],
)
def test_parametrized_rows_are_those_of_the_originals(model, names):
    units = find_units(model())
    assert sorted(part.parameter for part in units.layers[0].parts) == names
    assert (len(units.layers), units.uncovered) == (1, ())


def test_originals_without_a_row_for_each_unit_have_units_of_their_own():
    units = find_units(parametrizations.weight_norm(nn.Linear(4, 5), dim=1))
    assert [(layer.name, layer.n_units) for layer in units.layers] == [
        ("", 5),
        ("parametrizations.weight.original0", 1),
    ]
    transposed = find_units(parametrizations.weight_norm(nn.ConvTranspose1d(4, 6, 3, groups=2)))
    assert [layer.n_units for layer in transposed.layers] == [6, 4]


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def test_a_parametrized_layer_inside_a_model():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    parametrize.register_parametrization(model[1], "weight", Double())
    units = find_units(model)
    assert [layer.name for layer in units.layers] == ["0", "1"]
    assert units.layers[1].parts[0].parameter == "1.parametrizations.weight.original"


# --------------------------------------------------------------------------- users' rules
class Mixer(nn.Module):
    """Units along the second axis of its weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 5, dtype=torch.float64))
        self.scale = nn.Parameter(torch.ones(5, dtype=torch.float64))

    def forward(self, x):
        return x @ self.weight * self.scale


def mixer_rule(name, module):
    rows = {"weight": 1, "scale": 0}
    return [unit_layer(name, "Mixer", module.weight.shape[1], rows, lambda call: read_axis(call, axis=-1))]


def test_a_rule_of_the_user():
    class Sub(Mixer):
        pass

    model = nn.Sequential(Sub(), nn.Linear(5, 2).double())
    units = find_units(model, extra={Mixer: mixer_rule})
    assert units.sizes().tolist() == [5, 5, 5, 5, 5, 6, 6]
    assert units.layers[0].kind == "Mixer"
    x = normal(N, 4)
    torch.testing.assert_close(record(model, (x,), units=units)["0"][:, 0], model[0](x))


def test_heads_of_separate_projections_are_those_of_the_packed_ones():
    class Separate(nn.Module):
        def __init__(self, packed):
            super().__init__()
            self.n_heads = packed.num_heads
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8).double() for _ in range(4))
            with torch.no_grad():
                for i, linear in enumerate((self.q, self.k, self.v)):
                    linear.weight.copy_(packed.in_proj_weight[8 * i : 8 * i + 8])
                    linear.bias.copy_(packed.in_proj_bias[8 * i : 8 * i + 8])

        def forward(self, x):
            q, k, v = (f(x).reshape(*x.shape[:2], self.n_heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
            heads = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(heads.transpose(1, 2).flatten(2))

    packed, (x, _, _) = case("attention")
    model = Separate(packed)
    units = find_units(model, extra={Separate: attention_heads("q", "k", "v", "out", n_heads="n_heads")})
    assert [(layer.name, layer.n_units) for layer in units.layers] == [("head", 2), ("out", 8)]
    assert units.sizes().tolist() == [3 * (4 * 8 + 4)] * 2 + [9] * 8
    torch.testing.assert_close(record(model, (x,), units=units)["head"], record(packed, (x, x, x))["head"])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            lambda n, _m: [unit_layer(n, "A", 4, {"weight": 0}, None), unit_layer(n, "B", 5, {"weight": 1}, None)],
            "both",
        ),
        (lambda n, _m: [unit_layer(n, "A", 5, {"weight": 0}, None)], "must lie in 0..3"),
        (lambda n, _m: [unit_layer(n, "A", 4, {"weight": 2}, None)], "along an axis"),
        (lambda n, _m: [unit_layer(n, "A", 4, {"wieght": 0}, None)], "wieght"),
    ],
)
def test_a_wrong_rule_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        find_units(Mixer(), extra={Mixer: rule})


def test_two_units_of_one_layer_may_not_share_a_row():
    layer = find_units(nn.Linear(3, 2)).layers[0]
    part = layer.parts[0]

    def rule(name, module):
        same = type(part)(part.parameter, 0, torch.zeros(2, 1, dtype=torch.long))
        return [unit_layer(name, "A", 2, {"weight": same}, None)]

    with pytest.raises(ValueError, match="two of its units own one row"):
        find_units(nn.Linear(3, 2), extra={nn.Linear: rule})


def test_a_tap_of_the_wrong_shape_is_refused():
    rule = {nn.Linear: lambda n, _m: [unit_layer(n, "A", 2, {"weight": 0}, lambda call: call.output)]}
    model = nn.Linear(3, 2).double()
    with pytest.raises(ValueError, match="must give \\(batch, positions, n_units\\)"):
        record(model, (normal(N, 3),), units=find_units(model, extra=rule))


# --------------------------------------------------------------------------- what cannot be cut
def unsupported_model():
    return nn.ModuleDict(
        {
            "fine": nn.Linear(3, 2),
            "lazy": nn.LazyLinear(4),
            "renormed": nn.Embedding(5, 2, max_norm=1.0),
            "sparse": nn.EmbeddingBag(5, 2, sparse=True),
            "by_frequency": nn.Embedding(5, 2, scale_grad_by_freq=True),
            "complex": nn.Linear(3, 2, dtype=torch.complex64),
        }
    )


def test_all_modules_that_cannot_be_cut_are_named_at_once():
    with pytest.raises(UnsupportedModuleError, match="5 module") as error:
        find_units(unsupported_model())
    assert set(error.value.modules) == {"lazy", "renormed", "sparse", "by_frequency", "complex"}
    words = ("one batch", "max_norm=None", "sparse=False", "scale_grad_by_freq=False", "real and imaginary")
    for word in (*words, "unsupported='skip'"):
        assert word in str(error.value)


def test_they_can_be_left_out():
    units = find_units(unsupported_model(), unsupported="skip")
    assert [layer.name for layer in units.layers] == ["fine"]
    assert units.uncovered == (
        "renormed.weight", "sparse.weight", "by_frequency.weight", "complex.weight", "complex.bias",
    )  # fmt: skip
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        find_units(nn.Linear(2, 2), unsupported="ignore")
    with pytest.raises(TypeError, match=r"must be a torch nn.Module, got str"):
        find_units("model")


def test_frozen_modules_are_no_reason_to_refuse():
    model = unsupported_model()
    del model["lazy"]
    for name in ("renormed", "sparse", "by_frequency", "complex"):
        model[name].requires_grad_(False)
    assert find_units(model).n_units == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_modules_are_refused():
    with pytest.raises(UnsupportedModuleError, match="it is scripted"):
        find_units(torch.jit.script(nn.Linear(3, 2)))


def test_sharded_parameters_must_be_cut_between_rows():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for place, message in ((Shard(0), None), (Replicate(), None), (Shard(1), "another axis than 0")):
            model = nn.Linear(3, 2, bias=False)
            model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [place]))
            if message is None:
                assert find_units(model).n_units == 2
            else:
                with pytest.raises(UnsupportedModuleError, match=message):
                    find_units(model)
    finally:
        torch.distributed.destroy_process_group()


# --------------------------------------------------------------------------- the table of units
def test_labels_layers_and_frame():
    units = find_units(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    assert units.offsets == (0, 4, 6)
    assert units.labels([0, 3, 4, 5]) == ("0[0]", "0[3]", "1[0]", "1[1]")
    assert units.layer_of(4).name == "1"
    assert units.layer_index(torch.tensor([3, 4])).tolist() == [0, 1]
    assert units.to_frame()["n_parameters"].tolist() == [16, 10]
    assert "Units(n_units=6, layers=2, uncovered=0)" in repr(units)
    assert "<table" in units._repr_html_()
    assert find_units(nn.Linear(3, 4)).label(2) == "(model)[2]"
    with pytest.raises(ValueError, match=r"0\.\.5"):
        units.label(6)


def test_kept_layers_leave_the_rest_uncovered():
    units = find_units(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    kept = units.keep(lambda layer: layer.kind == "Linear")
    assert (kept.n_units, kept.covered, kept.uncovered) == (4, ("0.weight", "0.bias"), ("1.weight", "1.bias"))


def test_a_model_without_parameters_has_no_units():
    units = find_units(nn.ReLU())
    assert (units.n_units, units.sizes().tolist(), len(units.to_frame())) == (0, [], 0)


def test_the_model_is_as_before():
    model, _ = case("conv2d")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    find_units(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model._forward_hooks
