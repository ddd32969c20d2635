"""Perturbed copies of a sample, and what the units give for each of them."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from codec.unlearn._perturb import choose_perturbation
from codec.unlearn._problem import Problem
from codec.unlearn._record import record
from codec.unlearn._units import find_units


def images(n=12, seed=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 6, 6, generator=draw) * torch.tensor([1.0, 5.0])[:, None, None]


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 4)
    )


def image_problem(model=None):
    return Problem(model or cnn().train(), "cross_entropy", (images(), torch.arange(12) % 4), weight_decay=0.1)


def tabular_problem():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    return Problem(model, "cross_entropy", (x, torch.arange(40) % 2), weight_decay=0.1)


class Text(nn.Module):
    """Embedding, a linear layer on each token, mean over the tokens that are not padding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 4, padding_idx=0)
        self.each = nn.Linear(4, 3)
        self.out = nn.Linear(3, 2)

    def forward(self, input_ids, attention_mask=None):
        h = torch.relu(self.each(self.embed(input_ids)))
        mask = (input_ids != 0 if attention_mask is None else attention_mask).unsqueeze(-1)
        return self.out((h * mask).sum(1) / mask.sum(1))


def text_problem():
    ids = torch.randint(3, 20, (30, 7), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(7) < torch.arange(30)[:, None] % 5 + 3).long()
    data = {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.arange(30) % 2}
    return Problem(Text(), "cross_entropy", data, weight_decay=0.1)


def run(problem, ids=(2, 5), **options):
    units = find_units(problem.model)
    options = {"n_perturbations": 10, "generator": np.random.default_rng(0), **options}
    return record(problem, units, *problem.fetch(list(ids)), **options)


def same(inputs, n, generator):
    return inputs


# --------------------------------------------------------------------------- what is recorded
def test_activations_and_losses_are_those_of_the_model():
    problem = image_problem()
    found = run(problem, perturb=same, n_perturbations=5)
    x, y = problem.fetch([2, 5, 2, 5, 2])
    conv = problem.model[0](x)
    expected = [conv.mean((2, 3)), problem.model[1](conv).mean((2, 3)), problem.model(x)]
    torch.testing.assert_close(found.activations, torch.cat(expected, 1).detach())
    torch.testing.assert_close(
        found.losses, nn.functional.cross_entropy(problem.model(x), y, reduction="none").detach()
    )
    assert found.sample.tolist() == [0, 1, 0, 1, 0]
    assert found.perturbation == "custom"


@pytest.mark.parametrize(
    ("reduce", "by_hand"),
    [
        ("mean", lambda v: v.mean(0)),
        ("max", lambda v: v.max(0).values),
        ("norm", lambda v: v.square().sum(0).sqrt()),
    ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_padding_does_not_count(reduce, by_hand, masked):
    problem = text_problem()
    inputs, targets = problem.fetch([1])  # four tokens, three of padding
    if not masked:  # then the embedding's padding index tells
        del inputs["attention_mask"]
    found = record(problem, find_units(problem.model), inputs, targets, perturb=same, n_perturbations=1, reduce=reduce)
    each = problem.model.each(problem.model.embed(inputs["input_ids"]))[0, :4].detach()
    torch.testing.assert_close(found.activations[0, 20:23], by_hand(each))


class Recurrent(nn.Module):
    """Tokens, a recurrent layer, mean over the tokens that are not padding."""

    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.mix = kind(4, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, input_ids, attention_mask):
        h, mask = self.mix(self.embed(input_ids))[0], attention_mask[..., None]
        return self.out((h * mask).sum(1) / mask.sum(1))


def distilbert():
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(
        vocab_size=20, dim=8, hidden_dim=12, n_layers=2, n_heads=2, max_position_embeddings=9, num_labels=2
    )
    return transformers.DistilBertForSequenceClassification(config)


@pytest.mark.parametrize(
    ("make", "positions"),
    [
        (distilbert, ["distilbert.transformer.layer.0.attention.q_lin", "distilbert.transformer.layer.1.ffn.lin2"]),
        (lambda: Recurrent(nn.LSTM), ["mix.l0"]),
        (lambda: Recurrent(nn.GRU), ["mix.l0"]),
        (lambda: Recurrent(nn.RNN), ["mix.l0"]),
    ],
    ids=["DistilBERT", "LSTM", "GRU", "RNN"],
)
@pytest.mark.parametrize("reduce", ["mean", "max", "norm"])
def test_a_sequence_gives_the_same_with_and_without_padding(make, positions, reduce):
    """Whole models: four tokens alone, and the same four with three of padding behind a mask."""
    ids = torch.randint(1, 20, (10, 4), generator=torch.Generator().manual_seed(5))
    padded = torch.cat([ids, torch.zeros(10, 3, dtype=torch.long)], 1)
    mask = (torch.arange(7) < 4).long().expand(10, 7)
    data = {"input_ids": padded, "attention_mask": mask, "labels": torch.arange(10) % 2}
    problem = Problem(make(), "cross_entropy", data, weight_decay=0.1)
    units = find_units(problem.model)
    inputs, targets = problem.fetch([1, 2, 3])
    short = {"input_ids": ids[1:4], "attention_mask": mask[1:4, :4]}
    found = [
        record(problem, units, x, targets, perturb=same, n_perturbations=3, reduce=reduce) for x in (inputs, short)
    ]
    torch.testing.assert_close(found[0].losses, found[1].losses)
    for name in positions:
        place = [layer.name for layer in units.layers].index(name)
        here = slice(units.offsets[place], units.offsets[place + 1])
        assert found[0].activations[:, here].std() > 0.0
        torch.testing.assert_close(found[0].activations[:, here], found[1].activations[:, here])


# --------------------------------------------------------------------------- where the samples are
SIDE = 6  # positions of a sample, and rows of a pass


class SequenceFirst(nn.Module):
    """A linear layer on steps that stand before the samples."""

    def __init__(self):
        super().__init__()
        self.each, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.each(x.transpose(0, 1)).tanh().mean(0))


class Folded(nn.Module):
    """Layers that see the frames (or sentences) of all samples in the first axis."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        h = x.flatten(0, 1)
        for layer in self.layers:
            h = layer(h)
            h = h[0] if isinstance(h, tuple) else h
        return h.reshape(len(x), -1, h.shape[-1]).mean(1)


class Positions(nn.Module):
    """Tokens, and a table of positions that is called with their numbers, one axis or a table of pairs."""

    def __init__(self, pairs=False):
        super().__init__()
        self.words, self.places, self.out = nn.Embedding(20, 4), nn.Embedding(SIDE, 4), nn.Linear(4, 2)
        self.pairs = pairs

    def forward(self, x):
        places = torch.arange(x.shape[1])
        if self.pairs:
            return self.out((self.words(x)[:, None] + self.places((places[:, None] - places).abs())).mean((1, 2)))
        return self.out((self.words(x) + self.places(places)).mean(1))


def plain(model, *shape):
    """A problem whose samples have this shape; of tokens where the model looks them up."""
    draw = torch.Generator().manual_seed(4)
    integers = any(isinstance(module, nn.Embedding) for module in model.modules())
    x = torch.randint(20, (24, *shape), generator=draw) if integers else torch.randn(24, *shape, generator=draw)
    return Problem(model, "cross_entropy", (x, torch.arange(24) % 2), weight_decay=0.1)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (SequenceFirst, (SIDE, 3)),
        (lambda: Folded(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(3)), (2, 2, SIDE + 2, 5)),
        (lambda: Folded(nn.Linear(3, 4), nn.LayerNorm(4)), (2, SIDE, 3)),
        (lambda: Folded(nn.GRU(3, 4, num_layers=2, batch_first=True)), (3, 5, 3)),
        (Positions, (SIDE,)),
        (partial(Positions, pairs=True), (SIDE,)),
    ],
    ids=["sequence first", "frames", "windows", "sentences", "positions", "pairs of positions"],
)
@pytest.mark.parametrize("n_rows", [2, SIDE, 2 * SIDE])  # a divisor, the length itself, a multiple
@pytest.mark.parametrize("reduce", ["mean", "max", "norm"])
def test_no_length_of_an_axis_is_taken_for_the_samples(make, shape, n_rows, reduce):
    problem = plain(make(), *shape)
    options = {"perturb": "resample", "n_perturbations": n_rows, "reduce": reduce}
    whole, alone = run(problem, **options), run(problem, **options, memory_limit=1)
    torch.testing.assert_close(whole.activations, alone.activations, rtol=1e-5, atol=1e-6)


def test_steps_before_the_samples_are_read_as_the_model_gives_them():
    problem = plain(SequenceFirst(), SIDE, 3)
    found = run(problem, range(SIDE), perturb=same, n_perturbations=SIDE)
    each = problem.model.each(problem.fetch(range(SIDE))[0]).mean(1)
    torch.testing.assert_close(found.activations[:, :4], each.detach())


def test_rows_of_a_table_of_positions_are_all_samples_alike():
    found = run(plain(Positions(), SIDE), n_perturbations=300)
    torch.testing.assert_close(found.activations[:, 20 : 20 + SIDE], torch.full((300, SIDE), 1 / SIDE))


def test_what_a_callable_makes_longer_is_read_by_the_lengths():
    """Inputs that are longer than those of the one row whose shapes tell where the samples are."""
    problem = plain(SequenceFirst(), SIDE, 3)
    found = run(problem, perturb=lambda x, _n, _g: torch.cat([x, x[:, :1]], 1), n_perturbations=4)
    x = problem.fetch([2, 5, 2, 5])[0]
    each = problem.model.each(torch.cat([x, x[:, :1]], 1)).mean(1)
    torch.testing.assert_close(found.activations[:, :4], each.detach())


def failing(failure):
    """A perturbation that changes nothing, or fails."""

    def perturb(inputs, n, generator):
        if failure:
            raise failure
        return inputs

    return perturb


class Encoder(nn.Module):
    """An encoder of torch's, which makes nested tensors of padded samples in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 4, padding_idx=0)
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(4, 2)

    def forward(self, x):
        padding = x == 0
        h = self.encoder(self.embed(x), src_key_padding_mask=padding)
        return self.out(h.masked_fill(padding[..., None], 0.0).sum(1))


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning")
def test_encoders_of_padded_samples_are_recorded_and_left_as_they_were(failure):
    model = Encoder()
    x = plain(model, 5).fetch(range(24))[0]
    x[::2, 3:] = 0
    problem = Problem(model, "cross_entropy", (x, torch.arange(24) % 2), weight_decay=0.1)

    if failure:
        with pytest.raises(failure):
            run(problem, perturb=failing(failure))
    else:
        found = run(problem, [2, 5], perturb=failing(failure), n_perturbations=2)
        inputs, targets = problem.fetch([2, 5])
        expected = nn.functional.cross_entropy(problem.model.eval()(inputs), targets, reduction="none").detach()
        torch.testing.assert_close(found.losses, expected)
    assert model.encoder.use_nested_tensor
    assert problem.model_with(problem.parameters()).encoder.use_nested_tensor
    assert torch.backends.mha.get_fastpath_enabled()


class Packed(nn.Module):
    """Recurrent units that read packed sequences."""

    def __init__(self, kind):
        super().__init__()
        self.embed, self.read, self.out = nn.Embedding(20, 4), kind(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        lengths = (x > 0).sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=False)
        state = self.read(packed)[1]
        return self.out((state[0] if isinstance(state, tuple) else state)[-1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_units_of_packed_sequences_are_their_last_states(kind):
    model = Packed(kind)
    x = torch.randint(1, 20, (12, 5), generator=torch.Generator().manual_seed(0))
    x[::2, 3:] = 0
    problem = Problem(model, "cross_entropy", (x, torch.arange(12) % 2), weight_decay=0.1)
    units = find_units(problem.model)
    found = run(problem, [2, 5], perturb=same, n_perturbations=2)
    with torch.no_grad():
        packed = nn.utils.rnn.pack_padded_sequence(
            model.embed(x[[2, 5]]), torch.tensor([3, 5]), batch_first=True, enforce_sorted=False
        )
        state = model.read(packed)[1]
    expected = (state[0] if isinstance(state, tuple) else state)[-1]
    places = [i for i, label in enumerate(units.all_labels) if label.startswith("read")]
    torch.testing.assert_close(found.activations[:, places], expected)


class Unread(nn.Module):
    """Floats beside a table that they do not go through."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(5, 3, padding_idx=0), nn.Linear(3, 2)

    def forward(self, x):
        return self.out(x.mean(1) + self.table.weight.mean(0))


def test_floats_have_no_padding_although_a_table_has():
    x = torch.randn(12, 4, 3, generator=torch.Generator().manual_seed(6))
    problem = Problem(Unread(), "cross_entropy", (x, torch.arange(12) % 2), weight_decay=0.1)
    found = run(problem, perturb="gaussian")
    assert found.perturbation == "gaussian"
    assert torch.isfinite(found.activations).all()


def test_a_module_that_runs_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return self.a(torch.relu(self.a(x)))

    problem = Problem(Twice(), "mse", (torch.ones(4, 3), torch.zeros(4, 3)), weight_decay=0.0)
    first = problem.model.a(torch.ones(1, 3))
    second = problem.model.a(first.relu())
    found = run(problem, [0], perturb=same, n_perturbations=1)
    torch.testing.assert_close(found.activations, ((first + second) / 2).detach())
    found = run(problem, [0], perturb=same, n_perturbations=1, reduce="max")
    torch.testing.assert_close(found.activations, torch.maximum(first, second).detach())


def test_other_parameters_can_be_given():
    problem = tabular_problem()
    zeros = {name: torch.zeros_like(p) for name, p in problem.parameters().items()}
    found = run(problem, params=zeros)
    assert not found.activations.any()
    torch.testing.assert_close(found.losses, torch.full((10,), np.log(2.0), dtype=torch.float32))


def test_rows_are_spread_over_the_samples():
    assert torch.bincount(run(tabular_problem(), range(7), n_perturbations=30).sample).tolist() == [5, 5, 4, 4, 4, 4, 4]
    many = run(tabular_problem(), range(20), n_perturbations=6).sample.tolist()
    assert len(set(many)) == 6


def test_frame_and_words():
    found = run(tabular_problem())
    frame = found.to_frame()
    assert list(frame.columns[:3]) == ["sample", "loss", "0[0]"]
    assert frame.shape == (10, 10)
    assert "resample (chosen automatically)" in found._repr_html_()


# --------------------------------------------------------------------------- nothing is changed
def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Routed(nn.Module):
    """Each sample goes to one of two experts; to one of them none of the first four."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(2, 3), nn.Linear(2, 3)])

    def forward(self, x):
        out = x.new_zeros(len(x), 3)
        for k, expert in enumerate(self.experts):
            mine = (x[:, 0] > 0) == bool(k)
            out[mine] = expert(x[mine])
        return out


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 4]])
def test_experts_of_some_samples_are_refused_in_words(ids):
    x = torch.randn(12, 2)
    x[:, 0] = torch.cat([torch.ones(4), -torch.ones(8)])
    problem = Problem(Routed(), "cross_entropy", (x, torch.arange(12) % 3), weight_decay=0.1)
    with pytest.raises(ValueError, match=r"routed experts\) cannot be recorded: pass a selector"):
        run(problem, ids, perturb=same, n_perturbations=8)


class Meter(nn.Module):
    """Counts its calls in a buffer, also in evaluation mode, and draws from torch's generator."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        torch.rand(3)
        return x


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_model_and_random_state_are_as_before(failure):
    problem = image_problem(nn.Sequential(Meter(), *cnn()))
    problem.model.train()
    before = {k: v.clone() for k, v in problem.model.state_dict().items()}
    state = torch.get_rng_state()

    if failure:
        with pytest.raises(failure):
            run(problem, perturb=failing(failure))
    else:
        run(problem, perturb=failing(failure))
    assert hooks(problem.model) == 0
    assert all(module.training for module in problem.model.modules())
    assert all(torch.equal(before[k], v) for k, v in problem.model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_an_interrupt_within_a_pass_leaves_no_hook():
    class Interrupts(nn.Module):
        on = False

        def forward(self, x):
            if self.on:
                raise KeyboardInterrupt
            return x

    problem = image_problem(nn.Sequential(*cnn(), Interrupts()))
    problem.model[-1].on = True
    with pytest.raises(KeyboardInterrupt):
        run(problem)
    assert hooks(problem.model) == 0


def test_dropout_is_off_and_running_statistics_are_used():
    problem = image_problem()
    problem.model.train()
    first, second = (run(problem, perturb=same, n_perturbations=4) for _ in range(2))
    assert torch.equal(first.losses, second.losses)
    assert torch.equal(first.losses[0], first.losses[2])


# --------------------------------------------------------------------------- seeds and memory
@pytest.mark.parametrize(
    ("problem", "perturb"),
    [(image_problem, "gaussian"), (image_problem, "occlusion"), (text_problem, "tokens"), (text_problem, "embedding")],
)
def test_one_seed_gives_one_record_for_any_memory_limit(problem, perturb):
    problem = problem()
    whole = run(problem, perturb=perturb, n_perturbations=20)
    again = run(problem, perturb=perturb, n_perturbations=20, memory_limit=1)  # row by row
    other = run(problem, perturb=perturb, n_perturbations=20, generator=np.random.default_rng(1))
    torch.testing.assert_close(whole.activations, again.activations, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole.losses, again.losses, rtol=1e-5, atol=1e-6)
    assert not torch.equal(whole.losses, other.losses)
    assert torch.equal(whole.losses, run(problem, perturb=perturb, n_perturbations=20).losses)


def test_passes_are_as_small_as_the_memory_limit_asks():
    problem = tabular_problem()
    sizes = []
    handle = problem.model.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    row = 2 * 4 * (5 + 6 + 6)  # the model's input, with that and the output of its widest module; as much again
    run(problem, n_perturbations=20, memory_limit=8 * row)
    handle.remove()
    assert sizes == [1, 8, 8, 4]  # the first tells what a row takes


# --------------------------------------------------------------------------- perturbations
def perturbed(problem, name, n=400, ids=(0,), share=None):
    inputs = tree_map(lambda leaf: leaf.repeat_interleave(n, 0), problem.fetch(list(ids))[0])
    reference = problem.fetch(range(problem.n))[0]
    chosen = choose_perturbation(name, problem, reference, share)
    return inputs, chosen.rows(inputs, torch.Generator().manual_seed(0))


def test_noise_is_a_tenth_of_each_channels_deviation():
    problem = image_problem()
    before, after = perturbed(problem, "gaussian")
    sd = problem.fetch(range(12))[0].transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close((after - before).transpose(0, 1).flatten(1).std(1), 0.1 * sd, rtol=0.05, atol=0)
    assert abs(float((after - before).mean())) < 0.02


def test_occlusion_covers_one_square_with_the_mean():
    problem = image_problem()
    before, after = perturbed(problem, "occlusion", share=0.5)
    mean = problem.fetch(range(12))[0].mean((0, 2, 3))
    changed = (before != after).all(1)
    assert (changed.sum((1, 2)) == 9).all()  # 3 x 3 of 6 x 6
    assert (changed.any(1).sum(1) == 3).all()  # one square: three rows, three columns
    assert (changed.any(2).sum(1) == 3).all()
    torch.testing.assert_close(after[:, 1][changed], mean[1].expand(9 * 400))
    assert len(changed.flatten(1).unique(dim=0)) == 16  # every place


def test_resampling_draws_from_each_feature_by_itself():
    problem = tabular_problem()
    before, after = perturbed(problem, "resample", n=2000)
    data = problem.fetch(range(40))[0]
    for j in range(5):
        assert torch.isin(after[:, j], data[:, j]).all()
    changed = (before != after).float()
    assert bool((before != after).any(1).float().mean() > 0.95)  # a draw can hit the value itself
    # 30 % each, and one for certain: 0.3 + 0.7^5 / 5, times 39/40 other values
    assert float(changed.mean()) == pytest.approx((0.3 + 0.7**5 / 5) * 39 / 40, abs=0.02)


def test_resampling_uses_the_reference_alone():
    problem = tabular_problem()
    seen = []

    def spy(module, args, out):
        seen.append(args[0])

    handle = problem.model.register_forward_hook(spy)
    run(problem, [0], perturb="resample", reference=[3, 4], n_perturbations=50)
    handle.remove()
    data = problem.fetch([0, 3, 4])[0]
    rows = torch.cat(seen)
    assert all(torch.isin(rows[:, j], data[:, j]).all() for j in range(5))


def test_tokens_keep_special_ones_and_padding():
    problem = text_problem()
    problem.model.config = type("Config", (), {"cls_token_id": 5, "pad_token_id": 0, "sep_token_id": None})()
    data = problem.fetch(range(30))[0]
    ids = [int(i) for i in torch.nonzero((data["input_ids"] == 5).any(1))[:, 0]][:1]
    before, after = perturbed(problem, "tokens", ids=ids)
    kept = (before["input_ids"] == 5) | (before["attention_mask"] == 0)
    assert torch.equal(after["input_ids"][kept], before["input_ids"][kept])
    put_in = after["input_ids"][after["input_ids"] != before["input_ids"]]
    assert len(put_in)
    assert not torch.isin(put_in, torch.tensor([0, 5])).any()
    assert torch.isin(put_in, data["input_ids"]).all()
    assert after["attention_mask"] is before["attention_mask"]


def test_noise_on_embeddings_has_the_stated_size_and_leaves_the_tokens():
    problem = text_problem()
    inputs = problem.fetch([0])[0]
    inputs = tree_map(lambda leaf: leaf.repeat_interleave(500, 0), inputs)
    chosen = choose_perturbation("embedding", problem, inputs, 0.5)
    assert chosen.rows(inputs, torch.Generator()) is inputs
    plain = problem.model.embed(inputs["input_ids"])
    with chosen.around(problem.model, inputs, torch.arange(500)):
        noisy = problem.model.embed(inputs["input_ids"])
        other = problem.model.embed(torch.zeros_like(inputs["input_ids"]))  # not the input's tokens
    assert float((noisy - plain).detach().std()) == pytest.approx(
        0.5 * float(problem.model.embed.weight.detach().std()), rel=0.05
    )
    assert not other.any()
    assert hooks(problem.model) == 0


class Across(nn.Module):
    """Looks tokens up after something was done to them."""

    def __init__(self, change, back):
        super().__init__()
        self.embed, self.out = nn.Embedding(20, 4), nn.Linear(4, 2)
        self.change, self.back = change, back

    def forward(self, x):
        return self.out(self.back(self.embed(self.change(x))).tanh().mean(1))


def test_noise_on_embeddings_of_transposed_tokens_is_that_of_the_tokens():
    make = [(lambda x: x, lambda h: h), (lambda x: x.t(), lambda h: h.transpose(0, 1))]
    models = [Across(*functions) for functions in make]
    models[1].load_state_dict(models[0].state_dict())
    found = [run(plain(model, 5), perturb="embedding", memory_limit=limit) for model in models for limit in (None, 1)]
    for other in found[1:]:
        torch.testing.assert_close(other.losses, found[0].losses)
    assert not torch.equal(found[0].losses, run(plain(models[0], 5), perturb=same).losses)


def test_noise_on_embeddings_knows_tokens_that_come_by_name():
    class ByName(Across):
        def forward(self, x):
            return self.out(self.embed(input=x).mean(1))

    problem = plain(ByName(None, None), 5)
    losses = [run(problem, perturb=perturb).losses for perturb in ("embedding", same)]
    assert not torch.equal(*losses)


def test_noise_on_embeddings_that_do_not_read_the_tokens_is_refused():
    problem = plain(Across(lambda x: x[:, 1:], lambda h: h), 5)
    with pytest.raises(ValueError, match=r"perturb='embedding' .* \(10, 5\), or transposed; pass perturb='tokens'"):
        run(problem, perturb="embedding")
    assert hooks(problem.model) == 0


@pytest.mark.parametrize(
    ("perturb", "x", "message"),
    [
        (
            "gaussian",
            images().to(torch.uint8),
            r"perturb='gaussian' changes floats; the inputs are uint8 \(12, 2, 6, 6\)",
        ),
        (
            "occlusion",
            images().to(torch.uint8),
            r"perturb='occlusion' changes floats of shape .* bring images to floats",
        ),
        ("occlusion", images()[:, :, 0, 0], r"the inputs are float32 \(12, 2\): bring images to floats"),
    ],
)
def test_a_perturbation_that_could_change_nothing_is_refused(perturb, x, message):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(x[0].numel(), 2)

        def forward(self, pixels):
            return self.out(pixels.flatten(1).float() / 255)

    problem = Problem(Scaled(), "cross_entropy", (x, torch.arange(12) % 2), weight_decay=0.1)
    with pytest.raises(ValueError, match=message):
        run(problem, perturb=perturb)


class Embedded(nn.Module):
    """Vectors of tokens with a mask of zeros and ones."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, attention_mask, inputs_embeds):
        return self.out((inputs_embeds * attention_mask[..., None]).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("name", ["resample", "gaussian"])
def test_the_mask_is_no_feature(name, dtype):
    draw = torch.Generator().manual_seed(7)
    mask = (torch.arange(5) < torch.arange(12)[:, None] % 4 + 1).to(dtype)
    data = {
        "attention_mask": mask,
        "inputs_embeds": torch.randn(12, 5, 3, generator=draw),
        "labels": torch.arange(12) % 2,
    }
    problem = Problem(Embedded(), "cross_entropy", data, weight_decay=0.1)
    before, after = perturbed(problem, name, n=20)
    assert after["attention_mask"] is before["attention_mask"]
    assert not torch.equal(after["inputs_embeds"], before["inputs_embeds"])


class Masked(nn.Module):
    """Tokens by another name than Hugging Face's, with a mask that comes first."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(20, 4), nn.Linear(4, 2)

    def forward(self, words, keep=None, attention_mask=None):
        mask = (attention_mask if keep is None else keep)[..., None]
        return self.out((self.embed(words) * mask).sum(1))


@pytest.mark.parametrize(("key", "dtype"), [("keep", torch.bool), ("attention_mask", torch.int64)])
@pytest.mark.parametrize("perturb", ["tokens", "embedding", "auto"])
def test_tokens_behind_a_mask_are_found(key, dtype, perturb):
    draw = torch.Generator().manual_seed(8)
    mask = (torch.arange(5) < torch.arange(12)[:, None] % 4 + 1).to(dtype)
    words = torch.randint(20, (12, 5), generator=draw)
    problem = Problem(
        Masked(), "cross_entropy", {key: mask, "words": words, "labels": torch.arange(12) % 2}, weight_decay=0.1
    )
    losses = [run(problem, perturb=name).losses for name in (perturb, same)]
    assert not torch.equal(*losses)
    before, after = perturbed(problem, perturb, n=20)
    assert after[key] is before[key]
    assert torch.equal(after["words"], before["words"]) == (perturb == "embedding")


class Factors(nn.Module):
    """A user and an item, each with a table of its own."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(4, 3), nn.Embedding(30, 3)

    def forward(self, x):
        return (self.users(x[:, 0]) * self.items(x[:, 1])).sum(1, keepdim=True)


class Placed(nn.Module):
    """Tokens with the place of each, and a table of five places."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.out = nn.Embedding(30, 3), nn.Embedding(5, 3), nn.Linear(3, 1)

    def forward(self, x):
        places = torch.arange(x.shape[1]).expand(x.shape)
        return self.out(self.words(x) + self.places(places)).mean(1)


def integers_problem(make):
    item = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    return Problem(make(), "mse", (torch.stack([item % 4, item], 1), torch.zeros(30, 1)), weight_decay=0.1)


@pytest.mark.parametrize(
    ("problem", "name"),
    [
        (image_problem, "gaussian"),
        (tabular_problem, "resample"),
        (text_problem, "tokens"),
        (partial(integers_problem, Factors), "resample"),
        (partial(integers_problem, Placed), "tokens"),
    ],
)
def test_auto_goes_by_the_kind_of_data(problem, name):
    assert run(problem()).perturbation == f"{name} (chosen automatically)"


# --------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturb": "blur"}, "perturb must be one of"),
        ({"perturb": "tokens"}, "no input is an integer"),
        ({"perturb": lambda x, _n, _g: x[:1]}, "10 rows"),
        ({"perturb": "gaussian", "strength": 0.0}, "above 0"),
        ({"perturb": "gaussian", "strength": 1e39}, "not finite"),
        ({"reduce": "sum"}, "reduce must be one of"),
        ({"n_perturbations": 0}, "at least 1"),
        ({"memory_limit": 0}, "memory_limit"),
        ({"reference": []}, "reference is empty"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(tabular_problem(), **options)


def test_no_sample():
    problem = tabular_problem()
    with pytest.raises(ValueError, match="at least one sample"):
        record(problem, find_units(problem.model), torch.zeros(0, 5), torch.zeros(0))
