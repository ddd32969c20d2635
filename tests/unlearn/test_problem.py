"""The door: what comes in as a model, data and a loss, and what is refused."""

import copy
import pickle
import subprocess
import sys
import threading
from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from codec.unlearn import Unlearner, baselines
from codec.unlearn._chain import NoChainError, find_chain
from codec.unlearn._data import content_of, spread
from codec.unlearn._problem import Problem
from codec.unlearn.baselines import Recipe

X = torch.arange(24.0).reshape(8, 3) / 10
Y = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0])


MODEL = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))


def problem(model=None, loss="cross_entropy", data=(X, Y), **options):
    return Problem(model or net(), loss, data, **{"weight_decay": 0.1, **options})


def test_the_model_is_a_copy_in_evaluation_mode():
    model = net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ours = problem(model)
    ours.parameters()["0.weight"].add_(1.0)
    assert model.training
    assert not ours.model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_losses_are_those_of_torch():
    model = net()
    ours = problem(model)
    expected = nn.functional.cross_entropy(model.eval()(X), Y, reduction="none")
    torch.testing.assert_close(ours.sample_losses(ours.parameters()), expected)
    assert ours.regularizer(ours.parameters()) == pytest.approx(
        0.05 * sum(p.square().sum().item() for p in model.parameters()), rel=1e-6
    )


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.functional.cross_entropy,
        lambda o, t: nn.functional.cross_entropy(o, t, reduction="none"),
    ],
)
def test_every_reduction_gives_one_loss_a_sample(loss):
    model = net()
    torch.testing.assert_close(
        problem(model, loss).sample_losses(problem(model).parameters()),
        problem(model).sample_losses(problem(model).parameters()),
    )
    assert getattr(loss, "reduction", "mean") == "mean"  # the caller's loss is as it was


WEIGHTS = torch.tensor([1.0, 6.0])
TOGETHER = "must be the mean of one loss a sample"


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=WEIGHTS),
        lambda o, t: nn.functional.cross_entropy(o, t, weight=WEIGHTS),  # alone in its batch a sample has no weight
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(ignore_index=1),
        lambda o, t: nn.functional.cross_entropy(o, t, ignore_index=1),
        lambda o, t: (o[:, :1] - t).square().mean(),
    ],
)
def test_a_loss_that_is_no_mean_over_samples_is_refused(loss):
    with pytest.raises(ValueError, match=TOGETHER):
        problem(loss=loss)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("cross_entropy", True), (nn.CrossEntropyLoss(), True), (nn.functional.cross_entropy, True),
        (nn.CrossEntropyLoss(label_smoothing=0.1), False), (lambda o, t: nn.functional.cross_entropy(o, t), False),
    ],
)  # fmt: skip
def test_smoothed_labels_have_no_likelihood(loss, expected):
    assert problem(loss=loss).likelihood is expected


@pytest.mark.parametrize(
    ("loss", "targets", "expected"),
    [
        (nn.BCEWithLogitsLoss(), (1,), True),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(10.0)), (1,), False),
        (nn.BCEWithLogitsLoss(), (3,), False),  # a mean over three of them
        (nn.CrossEntropyLoss(weight=torch.ones(2)), (), False),
    ],
)
def test_weighted_losses_and_means_of_several_have_no_likelihood(loss, targets, expected):
    y = (torch.arange(8 * max(1, *targets, 1)) % 2).reshape(8, *targets)
    model = nn.Linear(3, *targets or (2,))
    assert problem(model, loss, (X, y.float() if targets else y)).likelihood is expected


class Weighted(nn.Module):
    """A loss of the user's, without a hash."""

    __hash__ = None

    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_a_loss_needs_no_hash():
    ours = problem(loss=Weighted())
    torch.testing.assert_close(
        ours.sample_losses(ours.parameters()), problem(ours.model).sample_losses(ours.parameters())
    )


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 20.0])), nn.CrossEntropyLoss()])
def test_what_few_samples_do_not_show_is_refused_before_a_step(loss):
    """The rare class, or the target that is ignored, is none of the samples that are looked at first."""
    x, y = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(1000, dtype=torch.long)
    y[[5, 700]] = -100 if loss.weight is None else 1
    assert not {5, 700} & set(spread(1000, 64).tolist())
    unlearner = Unlearner(nn.Linear(3, 2), loss, (x, y), weight_decay=0.1, selector="all")
    with pytest.raises(ValueError, match="must be the mean of one loss a sample"):
        unlearner.forget([3])
    assert not unlearner.forgotten


class Pooled(nn.Module):
    """An encoder whose positions are all pooled, padding among them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 4, padding_idx=0)
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, dropout=0.0)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.encoder(self.embed(x), src_key_padding_mask=x == 0).mean(1))


def test_an_encoder_is_the_same_model_with_and_without_derivatives():
    x = torch.randint(1, 20, (8, 5), generator=torch.Generator().manual_seed(0))
    x[::2, 3:] = 0
    ours = problem(Pooled(), data=(x, Y))
    trained = nn.functional.cross_entropy(ours.model(x), Y, reduction="none")  # as training saw it
    torch.testing.assert_close(ours.sample_losses(ours.parameters()), trained.detach())


def test_inference_mode_around_a_call_changes_nothing():
    with torch.inference_mode():
        inside = Unlearner(MODEL, "cross_entropy", (X.clone(), Y), weight_decay=0.1, random_state=0)
        inside.submit([1])
        inside.run()
        copied = inside.model
    assert not any(p.is_inference() for p in (*copied.parameters(), *inside.parameters.values()))
    outside = Unlearner(MODEL, "cross_entropy", (X, Y), weight_decay=0.1, random_state=0)
    outside.forget([1])
    for unlearner in (inside, outside):
        unlearner.forget([2])
    assert all(torch.equal(inside.parameters[k], v) for k, v in outside.parameters.items())
    with torch.inference_mode():
        fine = baselines.fine_tune(problem(MODEL), [1], random_state=0)
    again = baselines.fine_tune(problem(MODEL), [1], random_state=0)
    assert all(torch.equal(fine.parameters[k], v) for k, v in again.parameters.items())


def test_autocast_around_a_call_changes_nothing():
    def both():
        unlearner = Unlearner(MODEL, "cross_entropy", (X, Y), weight_decay=0.1, random_state=0)
        unlearner.forget([1])
        return unlearner.parameters, baselines.fine_tune(problem(MODEL), [1], random_state=0).parameters

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert MODEL(X).dtype == torch.bfloat16  # so it would matter
        inside = both()
        assert torch.is_autocast_enabled("cpu")
    for ours, plain in zip(inside, both(), strict=True):
        assert all(torch.equal(ours[k], v) for k, v in plain.items())


def test_an_unlearner_can_be_pickled_after_a_request():
    unlearner = Unlearner(MODEL, "cross_entropy", (X, Y), weight_decay=0.1, random_state=0)
    unlearner.forget([1])
    other = pickle.loads(pickle.dumps(unlearner))
    for one in (unlearner, other):
        one.forget([2])
    assert all(torch.equal(other.parameters[k], v) for k, v in unlearner.parameters.items())


class Mixed(nn.Module):
    """Half the precision within."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(x)


def test_a_model_of_mixed_precision_is_no_chain():
    ours = problem(Mixed())
    with pytest.raises(NoChainError, match=r"gives torch\.bfloat16, its layers torch\.float32"):
        find_chain(ours, ours.parameters())


def test_samples_of_several_lengths_are_refused_in_words():
    class Ragged(Pairs):
        def __getitem__(self, i):
            return X[i, : 1 + i % 2], Y[i]

    with pytest.raises(ValueError, match=r"train_data gives samples that cannot be stacked.*pad"):
        problem(data=Ragged())


def test_a_label_that_is_none_is_refused_in_words():
    x, y = torch.randn(1000, 3), torch.arange(1000) % 2
    y[501] = 7
    unlearner = Unlearner(MODEL, "cross_entropy", (x, y), weight_decay=0.1, selector="all")
    with pytest.raises(ValueError, match="train_data does not fit the model or the loss"):
        unlearner.forget([1])


def test_class_weights_as_the_error_says_are_the_weighted_mean():
    def loss(o, t):
        return nn.functional.cross_entropy(o, t, weight=WEIGHTS, reduction="none") * len(Y) / WEIGHTS[Y].sum()

    ours = problem(loss=loss)
    expected = nn.functional.cross_entropy(ours.model(X), Y, weight=WEIGHTS)
    torch.testing.assert_close(ours.sample_losses(ours.parameters()).mean(), expected.detach())


def test_positions_that_do_not_count_are_refused_unless_all_samples_have_as_many():
    outputs = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 4)))
    targets = torch.randint(2, (8, 4))
    targets[:, 3] = -100
    assert problem(outputs, lambda o, t: nn.functional.cross_entropy(o, t), data=(X, targets)).n == 8
    targets[0, 1:] = -100
    for loss in ("cross_entropy", lambda o, t: nn.functional.cross_entropy(o, t)):
        with pytest.raises(ValueError, match=TOGETHER):
            problem(outputs, loss, data=(X, targets))


@pytest.mark.parametrize("loss", ["mse", nn.SmoothL1Loss(), lambda o, t: (o - t).square()])
def test_outputs_and_targets_that_broadcast_are_refused(loss):
    with pytest.raises(ValueError, match=r"changes with the other samples.*\(8, 1\), targets \[\(8,\)\]"):
        problem(nn.Linear(3, 1), loss, data=(X, X[:, 0].clone()))
    assert problem(nn.Linear(3, 1), loss, data=(X, X[:, :1].clone())).n == 8


def test_a_loss_near_zero_is_no_reason_to_refuse():
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[9.0, 3.0, -7.0], [0.0, 0.0, 0.0]]))
    inputs = torch.randn(50, 3)
    targets = (model(inputs)[:, 0] < 0).long()
    scaled = inputs * 40.0  # losses of 1e-7, logits in the hundreds
    assert problem(model, lambda o, t: nn.functional.cross_entropy(o, t), data=(scaled, targets)).n == 50


def test_samples_that_act_on_each_other_in_the_model_are_refused():
    of_batch = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="when other samples are in its batch"):
        problem(of_batch)
    assert problem(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))).n == 8


def test_data_that_the_model_writes_into_stay_as_they_are():
    class Clamped(nn.Linear):
        def forward(self, x):
            return super().forward(x.sub_(0.5).clamp_(-1.0, 1.0))

    inputs, model = X.clone(), Clamped(3, 2)
    for given in (inputs, inputs.numpy()):
        ours = problem(model, data=(given, Y))
        expected = nn.functional.cross_entropy(model(X.clone()), Y, reduction="none").detach()
        for _ in range(2):
            torch.testing.assert_close(ours.sample_losses(ours.parameters()), expected)
        assert torch.equal(inputs, X)


def test_squared_error_of_several_outputs_is_the_mean_over_them():
    target = torch.stack([X[:, 0], X[:, 1]], dim=1)
    ours = problem(loss="mse", data=(X, target))
    out = ours.model(X)
    torch.testing.assert_close(ours.sample_losses(ours.parameters()), (out - target).square().mean(1).detach())


class Counting(nn.Linear):
    """Counts its calls in a buffer, in evaluation mode too, and divides by the count."""

    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("calls", torch.ones(()))

    def forward(self, x):
        found = super().forward(x) / self.calls.clone()
        self.calls += 1.0
        return found


def test_buffers_that_the_model_writes_into_stay_as_they_are():
    model = Counting()
    unlearner = Unlearner(model, "cross_entropy", (X, Y), weight_decay=0.1, selector="all")
    unlearner.forget([1])
    assert float(model.calls) == float(unlearner.model.calls) == 1.0


class Keeping(nn.Module):
    """Keeps what its layer gave, in a list and through a hook that is an object."""

    def __init__(self):
        super().__init__()
        self.kept, self.layer, self.out = [], nn.Linear(3, 4), nn.Linear(4, 2)
        self.layer.register_forward_hook(Collector())

    def forward(self, x):
        self.kept = [torch.tanh(self.layer(x))]
        return self.out(self.kept[0])


class Collector:
    def __init__(self):
        self.found = []

    def __call__(self, module, args, output):
        self.found = [output]


def test_a_model_that_keeps_what_it_computed_is_copied():
    model = Keeping()
    model(X)  # torch's own copy fails from here on
    kept, weights = model.kept[0], [p.detach().clone() for p in model.parameters()]
    unlearner = Unlearner(model, "cross_entropy", (X, Y), weight_decay=0.1, max_units=3, random_state=0)
    torch.testing.assert_close(unlearner.model(X), model.out(kept))
    assert unlearner.forget([1]).accepted
    assert not torch.equal(unlearner.model(X), model.out(kept))
    assert model.kept[0] is kept
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


class Shared(nn.Module):
    """One layer in two places, another with its weight, and both under a further name."""

    def __init__(self):
        super().__init__()
        self.first, self.tied = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.again, self.tied.weight = self.first, self.first.weight
        self.more = nn.ModuleList([self.tied, self.first])

    def forward(self, x):
        return self.again(torch.tanh(self.more[0](torch.tanh(self.first(x)))))


def shared_by_hand(weight, bias, x):
    return torch.tanh(torch.tanh(x @ weight.T + bias) @ weight.T) @ weight.T + bias


def test_a_layer_in_two_places_is_one_and_stays_it():
    ours = problem(Shared())
    parameter, changed = ours.model.first.weight, {"first.weight": torch.eye(3) / 2, "first.bias": torch.ones(3)}
    torch.testing.assert_close(ours.outputs(changed, X), shared_by_hand(torch.eye(3) / 2, torch.ones(3), X))
    assert ours.model.first.weight is ours.model.tied.weight is parameter
    assert ours.names == ("first.weight", "first.bias")
    assert parameter.requires_grad


def test_a_layer_in_two_places_is_deleted_from_as_the_formula_says():
    """The whole step by dense algebra: Jacobians of what the model is by hand, mean squared error over 3 outputs."""
    torch.manual_seed(0)
    model, x, t = Shared().double(), torch.randn(20, 3).double(), torch.randn(20, 3).double()
    w = torch.cat([p.detach().flatten() for p in (model.first.weight, model.first.bias)])

    def outputs(flat):
        return shared_by_hand(flat[:9].view(3, 3), flat[9:], x)

    jacobian = torch.autograd.functional.jacobian(outputs, w)
    gradients = 2.0 / 3.0 * torch.einsum("io,iop->ip", outputs(w) - t, jacobian) + 0.1 * w
    kept = jacobian[2:].reshape(-1, 12)
    curvature = 2.0 / 3.0 * kept.T @ kept / 18 + (0.1 + 0.05) * torch.eye(12, dtype=w.dtype)
    step = torch.linalg.solve(curvature, gradients.mean(0) - gradients[2:].mean(0))
    unlearner = Unlearner(
        model, "mse", (x, t), weight_decay=0.1, damping=0.05, update="chained", selector="all", tolerance=1e-9
    )
    assert unlearner.forget([0, 1]).accepted
    found = torch.cat([p.flatten() for p in unlearner.parameters.values()]) - w
    torch.testing.assert_close(found, step, rtol=1e-8, atol=1e-12)


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], int(Y[i])


class Lists(Pairs):
    def __getitem__(self, i):
        return {"input": X[i].tolist(), "labels": int(Y[i])}


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        (X, Y.tolist()),
        (X.tolist(), Y.tolist()),
        (pd.DataFrame(X.numpy()), pd.Series(Y.numpy(), index=range(5, 13))),
        TensorDataset(X, Y),
        Pairs(),
        Lists(),
        {"input": X, "labels": Y},
        {"input": X.tolist(), "labels": Y.tolist()},
        (X.clone().requires_grad_() * 1.0, Y),
        (X.flip(0).numpy()[::-1], Y.flip(0).numpy()[::-1]),
        (np.broadcast_to(X.numpy(), X.shape), Y),  # read-only
        (UserDict({"input": X}), Y),
    ],
)
def test_every_form_of_data_is_the_same_samples(data):
    model = net()
    ours = problem(model, data=data)
    torch.testing.assert_close(ours.sample_losses(ours.parameters(), [5, 2]), losses_of(model, [5, 2]))
    assert ours.n == 8


class Streamed(IterableDataset):
    def __len__(self):
        return len(X)

    def __iter__(self):
        return zip(X, Y, strict=True)


class WithNames(Pairs):
    def __getitem__(self, i):
        return {"input": X[i], "labels": int(Y[i]), "file": f"{i}.png"}


class Unlabelled(Pairs):
    def __getitem__(self, i):
        return X[i], None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Streamed(), "a Dataset with a length.*got Streamed"),
        (WithNames(), r"no number: \['file'\]\[0\] \(str\)"),
        (Unlabelled(), "no number: .*NoneType"),
        ((X.to_sparse(), Y), "sparse_coo; pass data.to_dense"),
        ((SimpleNamespace(x=X), Y), "what is no number.*SimpleNamespace"),
    ],
)
def test_data_without_numbers_are_refused_in_words(data, message):
    with pytest.raises(TypeError, match=message):
        problem(data=data)


def test_unsigned_integers_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"Inputs are uint16 of shape \(8, 3\) from 0 to 23"):
        problem(data=((10 * X).round().to(torch.uint16), Y))


def test_a_pair_of_a_batch_and_a_number_has_two_lengths():
    with pytest.raises(ValueError, match=r"\[0, 8\] samples"):
        problem(data=(X, torch.tensor(1)))


@pytest.mark.parametrize(
    "loss",
    [lambda o, _t: torch.cdist(o, o).mean(1), lambda o, _t: (o @ o.T).mean()],
)
def test_losses_that_compare_samples_are_refused_in_words(loss):
    with pytest.raises(ValueError, match=r"compare the samples of a batch \(contrastive ones\)"):
        problem(loss=loss)


@pytest.mark.parametrize("pack", [tuple, list])
def test_several_inputs_stay_several(pack):
    model = nn.Bilinear(3, 3, 2)
    ours = problem(model, data=(pack([X, X.numpy()]), Y.tolist()))
    expected = nn.functional.cross_entropy(model(X, X), Y, reduction="none").detach()
    torch.testing.assert_close(ours.sample_losses(ours.parameters()), expected)


def losses_of(model, ids):
    return nn.functional.cross_entropy(model.eval()(X[ids]), Y[ids], reduction="none").detach()


def test_a_large_dataset_is_read_sample_by_sample(monkeypatch):
    monkeypatch.setattr("codec.unlearn._data.CACHE_BYTES", 10)
    model = net()
    ours = problem(model, data=Pairs(), batch_size=3)
    assert [len(b.ids) for b in ours.batches()] == [3, 3, 2]
    torch.testing.assert_close(ours.sample_losses(ours.parameters()), losses_of(model, list(range(8))))


def test_losses_of_some_samples_come_in_their_order():
    ours = problem(batch_size=3)
    whole = ours.sample_losses(ours.parameters())
    torch.testing.assert_close(ours.sample_losses(ours.parameters(), [7, 2, 2, 0]), whole[[7, 2, 2, 0]])
    assert ours.sample_losses(ours.parameters(), []).shape == (0,)


def test_tied_and_frozen_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight
            self.shift = nn.Parameter(torch.ones(5), requires_grad=False)

        def forward(self, x):
            return self.out(self.embed(x)) + self.shift

    tokens = torch.tensor([0, 1, 2, 3])
    ours = problem(Tied(), data=(tokens, tokens))
    assert ours.names == ("embed.weight",)
    assert ours.tied == {"out.weight": "embed.weight"}
    changed = {"embed.weight": torch.zeros(5, 3)}  # both places of the tied tensor must change
    torch.testing.assert_close(ours.outputs(changed, tokens), torch.ones(4, 5))


def test_hugging_face_outputs_and_adapters():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self, make):
            super().__init__()
            self.net, self.make = net(), make

        def forward(self, x):
            return self.make(self.net(x))

    assert problem(Wrapped(Output)).n == 8
    assert problem(Wrapped(lambda o: (o, None)), output=lambda o: o[0]).n == 8
    with pytest.raises(TypeError, match="pass output="):
        problem(Wrapped(lambda o: (o, None)))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return nn.functional.dropout(self.net(x), 0.5, training=True)


class Random(Pairs):
    def __getitem__(self, i):
        return X[i] + torch.rand(3), int(Y[i])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": Noisy()}, ValueError, "not deterministic"),
        ({"data": Random()}, ValueError, "another sample"),
        ({"model": net().half()}, ValueError, "float32 or float64"),
        ({"model": net().requires_grad_(False)}, ValueError, "requires_grad"),
        ({"model": net().to("meta")}, ValueError, "meta device"),
        ({"data": (X, Y[:3])}, ValueError, "same number"),
        ({"data": (X[:0], Y[:0])}, ValueError, "empty"),
        ({"data": 3}, TypeError, "Dataset"),
        ({"data": {"input": X}}, ValueError, "target_key"),
        ({"loss": "hinge"}, ValueError, "cross_entropy"),
        ({"loss": lambda o, _t: o.sum(1) * np.nan}, ValueError, "not finite"),
        ({"loss": lambda *_: 3.0}, TypeError, "must return a tensor"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        problem(**arguments)


def test_a_module_that_is_no_module():
    with pytest.raises(TypeError, match="torch nn"):
        Problem("net", "mse", (X, Y), weight_decay=0.0)


def test_what_tells_data_apart_is_read_whole():
    """Long columns print shortened, and torch's half precision has no type of numpy's."""
    column = pd.Series(np.arange(500.0))
    other = column.copy()
    other[250] = -1.0
    words = np.array(["a", "b"] * 900, dtype=object)
    reordered = words[::-1].copy()
    for one, two in (
        (column, other),
        (words, reordered),
        (torch.zeros(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (torch.tensor(1 + 2j), torch.tensor(1 - 2j)),
        ("a", "b"),
    ):
        assert content_of(one) == content_of(copy.deepcopy(one))
        assert content_of(one) != content_of(two)


class Scaled(nn.Module):
    """Scales its inputs, in place or not, and has running statistics."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x):
        x = x.mul_(10.0) if self.in_place else x * 10.0
        return self.last(torch.relu(self.norm(self.first(x))))


@pytest.mark.parametrize("method", [baselines.retrain, baselines.fine_tune, baselines.scrub, baselines.random_labels])
def test_running_statistics_of_models_that_write_their_inputs_move_in_training(method):
    found = []
    for in_place in (False, True):
        torch.manual_seed(0)
        ours = Problem(Scaled(in_place), "cross_entropy", (X.clone(), Y), weight_decay=0.01)
        found.append(method(ours, [1, 5], Recipe(epochs=3, batch_size=10), random_state=0).parameters)
        assert torch.equal(ours.fetch(torch.arange(len(X)))[0], X)
    assert any("running_mean" in name for name in found[0])
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())


class Merged(nn.Module):
    """An adapter that is merged into a frozen weight in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(3, 2).requires_grad_(False)
        self.adapter = nn.Parameter(torch.ones(2, 3))

    def forward(self, x):
        return self.base(x) + (x @ self.adapter.T if self.training else x @ self.adapter.detach().T)


def test_a_loss_that_no_parameter_changes_is_refused():
    for model, loss in [
        (Merged(), "cross_entropy"),
        (nn.Linear(3, 2), lambda o, t: nn.functional.cross_entropy(o, t, reduction="none").detach()),
        (nn.Linear(3, 2), lambda o, t: (o.argmax(1) != t).float()),
    ]:
        with pytest.raises(ValueError, match="loss does not depend on the trainable parameters"):
            Problem(model, loss, (X, Y), weight_decay=0.1)
    silent = nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in silent.parameters():
            parameter.zero_()
    Problem(silent, "mse", (X, torch.zeros(len(X), 1)), weight_decay=0.1)  # a perfect fit has no gradient either


@pytest.mark.parametrize("selector", ["all", "gradient_norm", "lfoci", "random"])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.SmoothL1Loss()])
def test_targets_in_double_are_those_in_single(loss, selector):
    targets, found = X @ torch.ones(3, 1), []
    for kind in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        unlearner = Unlearner(
            model, loss, (X, targets.to(kind)), weight_decay=0.1, selector=selector, n_perturbations=50, random_state=0
        )
        unlearner.forget(1)
        found.append(unlearner.parameters)
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)


def test_smoothed_targets_are_no_likelihood():
    hard = nn.functional.one_hot(Y, 2).float()
    assert problem(MODEL).likelihood
    assert problem(MODEL, data=(X, hard)).likelihood
    assert not problem(MODEL, data=(X, 0.7 * hard + 0.15)).likelihood
    assert not problem(MODEL, nn.BCEWithLogitsLoss(), data=(X, 0.7 * hard + 0.15)).likelihood


def test_losses_and_layers_without_a_second_derivative_are_refused():
    with pytest.raises(ValueError, match="loss has no second derivative in torch"):
        Unlearner(MODEL, nn.MultiMarginLoss(), (X, Y), weight_decay=0.1)
    Unlearner(MODEL, nn.MultiMarginLoss(), (X, Y), weight_decay=0.1, curvature="empirical_fisher").forget(1)
    bags = nn.Sequential(nn.EmbeddingBag(9, 3, mode="max"), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="bags of mode='max'"):
        Unlearner(bags, "cross_entropy", (torch.randint(9, (len(X), 4)), Y), weight_decay=0.1)


def test_what_a_model_is_called_with_and_cannot_be_copied_is_told():
    with pytest.raises(ValueError, match=r"unexpected keyword argument 'x' \(entries of a dict are passed by name"):
        Problem(MODEL, "cross_entropy", {"x": X, "index": Y, "labels": Y}, weight_decay=0.1)
    with pytest.raises(ValueError, match="vmap cannot take it sample by sample; let it give one value a sample"):
        problem(MODEL, lambda o, t: nn.functional.cross_entropy(o[t >= 0], t[t >= 0]))
    locked = nn.Linear(3, 2)
    locked.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"model cannot be copied.*'lock' of type lock"):
        problem(locked)


class Centres(nn.Module):
    """A class's logit is the negative distance to its centre."""

    def __init__(self, distance):
        super().__init__()
        self.distance, self.embed = distance, nn.Linear(3, 4)
        self.centres = nn.Parameter(torch.eye(4)[:2])

    def forward(self, x):
        return -self.distance(self.embed(x), self.centres)


def test_a_call_without_a_second_derivative_is_told_and_what_is_advised_has_one():
    torch.manual_seed(0)
    model = Centres(torch.cdist)
    with pytest.raises(ValueError, match=r"no second derivative .* torch\.cdist"):
        Unlearner(model, "cross_entropy", (X, Y), weight_decay=0.1, random_state=0).forget([1])
    before, model.distance = model(X), lambda a, b: (a[..., None, :] - b[..., None, :, :]).norm(dim=-1)
    torch.testing.assert_close(model(X), before)
    assert Unlearner(model, "cross_entropy", (X, Y), weight_decay=0.1, random_state=0).forget([1]).accepted


def test_outputs_have_the_samples_first():
    class Turned(nn.Linear):
        def forward(self, x):
            return super().forward(x).T

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs.T, targets, reduction="none")

    turned = Turned(3, 8)  # as many outputs as samples: the first batch alone does not show it
    with pytest.raises(ValueError, match="first axis must be that of the samples"):
        problem(turned, loss)
    ours = problem(turned, "cross_entropy", output=lambda o: o.T)
    torch.testing.assert_close(ours.sample_losses(ours.parameters()), loss(turned(X), Y))


def test_lazy_modules_are_told_to_be_trained():
    with pytest.raises(ValueError, match=r"'0\.weight' of a lazy module"):
        problem(nn.Sequential(nn.LazyLinear(2)))


class TwoPrecisions(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4).to(first), nn.Linear(4, 2).double()

    def forward(self, x):
        return self.second(torch.tanh(self.first(x.to(self.first.weight.dtype))).double())


@pytest.mark.parametrize("method", [baselines.kfac, baselines.newton])
def test_layers_of_two_precisions_take_the_step_of_one(method):
    torch.manual_seed(0)
    mixed = TwoPrecisions(torch.float32)
    double = copy.deepcopy(mixed).double()
    data = (X.double(), Y)
    found, expected = (method(problem(m, data=data), [1], damping=0.1).parameters for m in (mixed, double))
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-5)
        assert found[name].dtype == dict(mixed.named_parameters())[name].dtype


def test_the_modules_within_are_there_when_they_are_asked_for():
    code = (
        "import codec.unlearn as u; print(u.baselines.newton.__name__, u.evaluate.evaluate.__name__, hasattr(u, 'x'))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["newton", "evaluate", "False"]
