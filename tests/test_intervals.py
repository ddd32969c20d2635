"""Intervals of the coefficient: coverage, and where they are refused."""

import numpy as np
import pytest

from codec import codec, codec_interval, codec_test
from codec._intervals import right_neighbor


@pytest.mark.slow
@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_analytic_interval_covers(n, noise):
    """Coverage of the 95 % interval within [.92, .97], two binomial errors allowed."""
    assert 0.91 <= coverage(n, noise, 1000) <= 0.975


def test_analytic_interval_covers_quickly():
    assert 0.88 <= coverage(500, 1.0, 200) <= 0.99


def coverage(n, noise, repetitions):
    rng = np.random.default_rng(n)

    def draw(size):
        z = rng.normal(size=size)
        return np.sin(2 * z) + noise * rng.normal(size=size), z

    truth = right_neighbor(*draw(400_000))[0]
    ends = np.array([codec_interval(*draw(n)) for _ in range(repetitions)])
    return np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))


def test_bootstrap_interval():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 400))
    low, high = codec_interval(x + z + 0.3 * rng.normal(size=400), z, x, rng=0)
    assert -1 <= low < codec(x + z, z, x) <= 1
    assert high - low < 0.5
    z = rng.normal(size=600)
    result = codec_test(z + rng.normal(size=600), z, statistic="codec", n_resamples=99, rng=0)
    assert result.confidence_interval(0.9).low < result.confidence_interval(0.9).high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "n-out-of-n"}, "fails for this coefficient"),
        ({"method": "analytic", "z": np.ones((200, 2)).cumsum(axis=0)}, "one column of z"),
        ({"method": "analytic", "y": np.arange(200) % 5}, "without ties"),
        ({"z": np.random.default_rng(0).normal(size=(200, 3))}, "beyond 2"),
        ({"given": np.random.default_rng(0).normal(size=(200, 2))}, "beyond 2"),
        ({"confidence_level": 1.0}, "between 0 and 1"),
        ({"y": np.ones(200)}, "constant"),
        ({"z": 1e200 * np.random.default_rng(0).normal(size=(200, 2))}, "squared distances overflow"),
        ({"given": 1e-200 * np.random.default_rng(0).normal(size=200)}, "squared distances vanish"),
        ({"y": np.random.default_rng(0).normal(size=(200, 2))}, "y has 2 columns; an interval is for one response"),
        ({"y": np.arange(200) % 3, "given": np.arange(200) % 3}, "function of given"),
    ],
)
def test_intervals_are_refused_outside_their_range(change, message):
    rng = np.random.default_rng(1)
    arguments = {"y": rng.normal(size=200), "z": rng.normal(size=200), **change}
    with pytest.raises(ValueError, match=message):
        codec_interval(arguments.pop("y"), arguments.pop("z"), arguments.pop("given", None), **arguments)


def test_small_samples_and_intervals():
    rng = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="covers less"):
        codec_interval(rng.normal(size=100), rng.normal(size=100))
    with pytest.raises(ValueError, match="at least 100"):
        codec_interval(rng.normal(size=50), rng.normal(size=(50, 2)))
    with pytest.warns(UserWarning, match="wider than it need be"):
        low, high = codec_interval(rng.normal(size=200), rng.normal(size=(200, 2)), rng=0)
    assert -1 <= low < high <= 1


@pytest.mark.parametrize("method", ["auto", "analytic"])
def test_three_rows_have_no_interval(method):
    y, z = np.random.default_rng(0).normal(size=(2, 4))
    with pytest.raises(ValueError, match="y has 3 rows; the analytic interval needs at least 4"):
        codec_interval(y[:3], z[:3], method=method)
    with pytest.warns(UserWarning, match="covers less"):
        assert tuple(codec_interval(y, z, method=method)) == (-1.0, 1.0)
