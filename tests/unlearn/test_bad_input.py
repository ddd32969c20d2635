"""Bad input: a clear error, and the caller's model, ours and the ledger bit for bit as before."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from codec.unlearn import Unlearner

N = 40


def data():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(N, 5, generator=draw), torch.randint(3, (N,), generator=draw)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


def state(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ------------------------------------------------------------------------------ what no unlearner is made of
class Dropping(nn.Linear):
    """Dropout that is on in evaluation mode too."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


def nowhere(output, target):
    return torch.full((len(output),), torch.nan) * output[:, 0]


class Wandering(torch.utils.data.Dataset):
    """Augmented at random at every reading."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.randn(5), i % 3


class Flipping(Wandering):
    """Augmented in a twentieth of its readings."""

    def __getitem__(self, i):
        sample = torch.arange(5.0) + i
        return (sample.flip(0) if torch.rand(()) < 0.05 else sample), i % 3


class Centred(nn.Module):
    """A loss that learns with the model."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(3))

    def forward(self, output, target):
        return nn.functional.cross_entropy(output - self.centres, target, reduction="none")


HALF = {"model": lambda: net().half(), "data": lambda: (data()[0].half(), data()[1])}
PROBLEMS = {
    "data on another device than the model": ({"data": lambda: (data()[0].to("meta"), data()[1])}, "bring both to one"),
    "model without values": ({"model": lambda: nn.Linear(5, 3, device="meta")}, "meta device"),
    "loss with parameters": ({"loss": Centred()}, r"loss has trainable parameters \(centres\)"),
    "loss with a layer": ({"loss": nn.Sequential(nn.Identity(), Centred())}, r"parameters \(1\.centres\)"),
    "loss is NaN": ({"loss": nowhere}, "not finite on the first samples"),
    "half precision": (HALF, r"float16; .*call model\.float\(\)"),
    "nothing is trainable": ({"model": lambda: net().requires_grad_(False)}, "no parameter with requires_grad"),
    "dropout forced on": ({"model": lambda: Dropping(5, 3)}, "not deterministic"),
    "data of random augmentation": ({"data": Wandering}, "another sample at every reading"),
    "data of rare augmentation": ({"data": Flipping}, "another sample at every reading"),
    "inputs and targets of two lengths": ({"data": lambda: (data()[0], data()[1][1:])}, r"\[39, 40\] samples"),
    "no data": ({"data": lambda: (data()[0][:0], data()[1][:0])}, "train_data is empty"),
    "negative weight decay": ({"weight_decay": -1.0}, "weight_decay is -1"),
    "weight decay that is no number": ({"weight_decay": float("nan")}, "weight_decay is nan"),
    "inputs of another type": (
        {"data": lambda: (data()[0].double(), data()[1])},
        "Inputs are float64 of shape .*float32",
    ),
    "inputs of another width": (
        {"data": lambda: (data()[0][:, :4], data()[1])},
        r"Inputs are float32 of shape \(40, 4\)",
    ),
    "classes from 1": ({"data": lambda: (data()[0], data()[1] + 1)}, r"int64 of shape \(40,\) from 1 to 3"),
    "classes in int32": ({"data": lambda: (data()[0], data()[1].int())}, "targets are int32"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_unlearner_and_no_ledger_is_made(name, tmp_path):
    changes, message = PROBLEMS[name]
    given = {"model": net, "loss": "cross_entropy", "data": data, "weight_decay": 0.01, **changes}
    model = given["model"]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folder = tmp_path / "ledger"
    with pytest.raises(ValueError, match=message):
        Unlearner(model, given["loss"], given["data"](), weight_decay=given["weight_decay"], ledger=folder)
    assert not folder.exists()
    for key, value in model.state_dict().items():
        assert value.is_meta or torch.equal(value, before[key])


OPTIONS = {
    "selector": ({"selector": "lfocy"}, "selector must be one of"),
    "curvature": ({"curvature": "gnn"}, "curvature"),
    "damping": ({"damping": "atuo"}, "damping is 'atuo'"),
    "negative damping": ({"damping": -1.0}, "damping is -1"),
    "units": ({"units": "foo"}, "units is 'foo'; it must be 'auto' or"),
    "scope": ({"scope": "layers"}, "scope must be"),
    "max_units": ({"max_units": 0}, "max_units is 0"),
    "max_units in a word": ({"max_units": "auto"}, "max_units is 'auto'"),
    "screen": ({"screen": "all"}, "screen is 'all'"),
    "n_neighbors": ({"n_neighbors": None}, "n_neighbors is None"),
    "two perturbations": ({"n_perturbations": 2}, "n_perturbations is 2; selector='lfoci' looks for nearest"),
    "one for the paper's selector": ({"n_perturbations": 1, "selector": "lfoci-pooled"}, "n_perturbations is 1;"),
}


def test_three_perturbations_are_enough_and_one_where_none_is_looked_at():
    for options in ({"n_perturbations": 3}, {"n_perturbations": 1, "selector": "gradient_norm"}):
        ours = Unlearner(net(), "cross_entropy", data(), weight_decay=0.01, max_units=2, random_state=0, **options)
        assert len(ours.forget([0]).units) == 2


NO_TYPE = {
    "perturbations": ({"n_perturbations": 1.5}, "n_perturbations is 1.5"),
    "batch_size": ({"batch_size": 8.5}, "batch_size is 8.5"),
    "guard": ({"guard": 3}, "guard is 3; it must be a callable"),
    "guard_drop": ({"guard_drop": "1"}, "guard_drop is '1'"),
    "captured": ({"captured": 1}, "captured is 1"),
    "convex": ({"convex": "no"}, "convex is 'no'"),
    "steps": ({"n_steps": 1.5, "update": "gradient", "convex": True}, "n_steps is 1.5"),
    "seed": ({"random_state": "0"}, "random_state is '0'"),
    "weight_decay": ({"weight_decay": "0.01"}, "weight_decay is '0.01'"),
    "the class of a loss": (
        {"loss": nn.CrossEntropyLoss},
        r"loss is the class CrossEntropyLoss; .*CrossEntropyLoss\(\)",
    ),
    "text": ({"train_data": (np.array([["a"], ["b"]]), [0, 1])}, "what is no number"),
    "rows of two lengths": ({"train_data": ([[0.0, 1.0], [0.0]], [0, 1])}, "rows of several lengths"),
}


@pytest.mark.parametrize("name", NO_TYPE)
def test_an_option_of_another_type_is_named(name, tmp_path):
    options, message = NO_TYPE[name]
    given = {"loss": "cross_entropy", "train_data": data(), "weight_decay": 0.01, **options}
    with pytest.raises(TypeError, match=message):
        Unlearner(net(), ledger=tmp_path / "ledger", **given)
    assert not (tmp_path / "ledger").exists()


def test_a_seed_below_zero_is_refused():
    with pytest.raises(ValueError, match="random_state is -1"):
        Unlearner(net(), "cross_entropy", data(), weight_decay=0.01, random_state=-1)


def test_a_generator_seeds_as_often_as_it_is_drawn_from():
    def first_units(random_state):
        ours = Unlearner(
            net(), "cross_entropy", data(), weight_decay=0.01, selector="random", max_units=3, random_state=random_state
        )
        return ours.forget([0]).units

    rng = np.random.default_rng(3)
    drawn = [first_units(rng) for _ in range(6)]
    again = np.random.default_rng(3)
    assert drawn == [first_units(again) for _ in range(6)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_option_shows_before_the_ledger_is_begun(name, tmp_path):
    options, message = OPTIONS[name]
    folder = tmp_path / "ledger"
    with pytest.raises(ValueError, match=message):
        Unlearner(net(), "cross_entropy", data(), weight_decay=0.01, ledger=folder, **options)
    assert not folder.exists()


def test_integers_of_numpy_are_integers():
    options = {"selector": "gradient_norm", "max_units": np.int64(3), "n_neighbors": np.int64(5), "random_state": 0}
    assert len(Unlearner(net(), "cross_entropy", data(), weight_decay=0.01, **options).forget([0]).units) == 3


# ------------------------------------------------------------------------------ what is no request
NOTHING_LEFT = "all forgotten already"  # handed in to wait, it is no error: nothing waits then
REQUESTS = {
    "above the last": ({"ids": [N]}, IndexError, "numbered 0 to 39"),
    "below the first": ({"ids": [-1]}, IndexError, "numbered 0 to 39"),
    "empty": ({"ids": []}, ValueError, "nothing to forget"),
    "an empty mask": ({"ids": torch.zeros(N, dtype=torch.bool)}, ValueError, "nothing to forget"),
    "a mask of another length": ({"ids": torch.ones(3, dtype=torch.bool)}, ValueError, "one entry for each"),
    "everything": ({"ids": range(N), "repeated": "ignore"}, ValueError, "nothing is left to keep"),
    "of other data": ({"ids": Subset(range(N), [3])}, ValueError, "not the training data that were passed"),
    "twice": ({"ids": [3, 3]}, ValueError, "asked for twice"),
    "forgotten already": ({"ids": [3, 7]}, ValueError, r"\[7\], asked for twice or forgotten"),
    NOTHING_LEFT: ({"ids": [7], "repeated": "ignore"}, ValueError, "nothing to do"),
    "no integers": ({"ids": [1.5]}, TypeError, "must be integers"),
    "text": ({"ids": "first"}, TypeError, "must be integers"),
    "numbers and text": ({"ids": {1, "a"}}, TypeError, "must be integers"),
    "no such class": ({"target": 9}, ValueError, "no training sample of this class"),
    "ids and a class": ({"ids": [1], "target": 1}, ValueError, "either ids or target"),
    "neither": ({}, ValueError, "either ids or target"),
    "another word for repeated": ({"ids": [1], "repeated": "skip"}, ValueError, "'raise' or 'ignore'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """An unlearner with one request done, and its folder."""
    folder = tmp_path_factory.mktemp("ledger")
    ours = Unlearner(net(), "cross_entropy", data(), weight_decay=0.01, selector="all", random_state=0, ledger=folder)
    assert ours.forget([7]).accepted
    yield ours, folder
    ours.close()


@pytest.mark.parametrize(
    ("way", "name"),
    [(way, name) for way in ("forget", "submit") for name in REQUESTS if (way, name) != ("submit", NOTHING_LEFT)],
)
def test_a_bad_request_changes_nothing(standing, way, name):
    arguments, error, message = REQUESTS[name]
    ours, folder = standing
    before, weights = state(folder), ours.parameters
    with pytest.raises(error, match=message):
        getattr(ours, way)(**arguments)
    assert state(folder) == before
    assert ours.forgotten == (7,)
    assert ours.pending == ()
    assert all(torch.equal(weights[key], value) for key, value in ours.parameters.items())


# ------------------------------------------------------------------------------ what fails on the way
def nan_of_class_3(output, target):
    losses = nn.functional.cross_entropy(output, target.clamp(max=2), reduction="none")
    return torch.where(target == 3, torch.nan * losses, losses)


@pytest.mark.parametrize("selector", ["all", "gradient_norm", "lfoci", "kfac_greedy"])
def test_a_loss_that_is_nan_for_one_sample_names_it(selector, tmp_path):
    X, y = data()
    y[20] = 3
    ours = Unlearner(net(), nan_of_class_3, (X, y), weight_decay=0.01, selector=selector, ledger=tmp_path)
    before, weights = state(tmp_path), ours.parameters
    with pytest.raises(ValueError, match=r"not finite for training samples \[20\]"):
        ours.forget([3])
    assert state(tmp_path) == before
    assert all(torch.equal(weights[key], value) for key, value in ours.parameters.items())
    ours.close()


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_request_that_is_interrupted_changes_nothing_and_can_be_repeated(stop, tmp_path):
    calls = []

    def guard(_):
        calls.append(True)
        if len(calls) == 2:
            raise stop
        return 1.0

    options = {"weight_decay": 0.01, "selector": "all", "random_state": 0}
    ours = Unlearner(net(), "cross_entropy", data(), guard=guard, ledger=tmp_path, **options)
    before, weights = state(tmp_path), ours.parameters
    ours_waiting = ours.submit([3])
    waiting = state(tmp_path)
    with pytest.raises(stop):
        ours.run()
    assert state(tmp_path) == waiting != before
    assert ours.pending == (ours_waiting,)
    assert all(torch.equal(weights[key], value) for key, value in ours.parameters.items())
    assert ours.run()[0].accepted
    ours.close()
    calm = Unlearner(net(), "cross_entropy", data(), guard=lambda _: 1.0, **options)
    calm.forget([3])
    assert all(torch.equal(calm.parameters[key], value) for key, value in ours.parameters.items())


@pytest.mark.parametrize("score", [None, "high", torch.zeros(2)])
def test_a_score_that_is_no_number_is_refused(score):
    unlearner = Unlearner(net(), "cross_entropy", data(), weight_decay=0.1, guard=lambda _: score, selector="all")
    with pytest.raises(TypeError, match=r"guard returned .*; it must return a number"):
        unlearner.forget([1])
    assert not unlearner.forgotten
