"""Which samples a request means, and which requests are refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from codec.unlearn import Unlearner, baselines
from codec.unlearn._problem import Problem
from codec.unlearn._requests import fresh_ids, ids_of_class, others, read_ids

DATA = TensorDataset(torch.zeros(6))
EVEN = Subset(DATA, [4, 2, 0])
MASK = np.isin(np.arange(6), [1, 4])


@pytest.mark.parametrize(
    ("request_", "ids"),
    [
        (3, [3]),
        (np.int64(3), [3]),
        ([4, 1], [4, 1]),
        (range(2), [0, 1]),
        (torch.tensor([5, 0]), [5, 0]),
        (MASK, [1, 4]),
        (torch.from_numpy(MASK), [1, 4]),
        ({4, 1}, [1, 4]),
        ({4: "a", 1: "b"}.keys(), [1, 4]),
        (Subset(DATA, [2, 3]), [2, 3]),
        (Subset(EVEN, [2, 0]), [0, 4]),
        (Subset(Subset(EVEN, torch.tensor([1, 2])), np.array([1])), [0]),
    ],
)
def test_every_form_of_ids(request_, ids):
    assert read_ids(request_, 6, DATA) == ids


def test_a_subset_counts_in_the_training_data():
    """Of training data that are a Subset themselves, and of no other data, be they as long."""
    assert read_ids(Subset(EVEN, [2, 0]), 3, EVEN) == [2, 0]
    for other in (Subset(DATA, [2]), Subset(TensorDataset(torch.zeros(3)), [2]), Subset(range(3), [2])):
        with pytest.raises(ValueError, match="not the training data that were passed"):
            read_ids(other, 3, EVEN)


def test_many_ids_take_no_longer_than_they_must():
    """Half a million: to look each up among those before it took more than an hour."""
    assert len(fresh_ids(range(500_000), (), 10**6, "raise")) == 500_000


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ([], ValueError, "empty"),
        (MASK & False, ValueError, "empty"),
        (6, IndexError, "numbered 0 to 5"),
        (-1, IndexError, "numbered 0 to 5"),
        ([0.5], TypeError, "integers"),
        (torch.ones(1, requires_grad=True), TypeError, "integers"),
        ([True, 5], TypeError, "numbers and True or False"),
        ({True, 5}, TypeError, "numbers and True or False"),
        ([[1], [2]], TypeError, "shape"),
        (MASK[:4], ValueError, "mask"),
    ],
)
def test_what_is_no_request(request_, error, message):
    with pytest.raises(error, match=message):
        read_ids(request_, 6)


def test_repeated_ids_are_refused_or_ignored():
    assert fresh_ids([3, 1, 3, 2], {1}, 9, "ignore") == [3, 2]
    assert fresh_ids([3, 2], {1}, 9, "raise") == [3, 2]
    for ids in ([1], [2, 2]):
        with pytest.raises(ValueError, match="asked for twice or forgotten already"):
            fresh_ids(ids, {1}, 9, "raise")
    with pytest.raises(ValueError, match="repeated must be"):
        fresh_ids([1], set(), 9, "skip")


def test_not_everything_can_be_forgotten():
    assert fresh_ids([1], {0}, 3, "raise") == [1]
    with pytest.raises(ValueError, match="nothing is left to keep"):
        fresh_ids([1, 2], {0}, 3, "raise")


def test_the_samples_of_a_subset_are_deleted():
    """Of a Dataset that was read into memory, as a plain request and as a baseline's."""
    data = TensorDataset(torch.randn(6, 2), torch.tensor([0, 1] * 3))
    ours = Unlearner(nn.Linear(2, 2), "cross_entropy", data, weight_decay=0.1, selector="all", random_state=0)
    inner = Subset(Subset(data, [5, 3, 1]), [2])
    assert ours.forget(inner).forgotten == (1,)
    assert baselines.newton(ours.problem, inner).forgotten == (1,)


def test_a_class_and_the_others():
    labels = torch.tensor([0, 1, 1, 0, 1])
    problem = Problem(nn.Linear(2, 2), "cross_entropy", (torch.rand(5, 2), labels), weight_decay=0.1, batch_size=2)
    assert ids_of_class(problem, 1, {2}) == [1, 4]
    with pytest.raises(ValueError, match="no training sample of this class is left"):
        ids_of_class(problem, 0, {0, 3})
    squares = Problem(nn.Linear(2, 2), "mse", (torch.rand(5, 2), torch.rand(5, 2)), weight_decay=0.1)
    with pytest.raises(ValueError, match="one class label"):
        ids_of_class(squares, 0, set())
    assert others({3, 0}, 5).tolist() == [1, 2, 4]
