"""Intervals of the coefficient: coverage, and where they are refused."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from marks import slowly
from reference_impl import codec as reference_codec
from scipy.stats import t as student

from codec import _intervals, codec, codec_interval, codec_test
from codec._intervals import right_neighbor


@pytest.mark.parametrize("n", [500, slowly(2000)])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_analytic_interval_covers(n, noise):
    """Coverage of the 95 % interval within [.92, .97], two binomial errors allowed."""
    assert 0.91 <= coverage(n, noise, 1000) <= 0.975


def coverage(n, noise, repetitions):
    rng = np.random.default_rng(n)

    def draw(size):
        z = rng.normal(size=size)
        return np.sin(2 * z) + noise * rng.normal(size=size), z

    truth = right_neighbor(*draw(400_000))[0]
    ends = np.array([codec_interval(*draw(n)) for _ in range(repetitions)])
    return np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))


def test_standard_error_of_the_right_neighbour_is_that_of_its_definition(global_random_seed):
    """In loops: W_i = min(F(y_i), F(y_{i+1})) + G(y_i), G from the pairs that y_i is no part of, four lags."""
    n = 30
    z, e = np.random.default_rng(global_random_seed).normal(size=(2, n))
    r = [1 + int(np.sum(value > z + e)) for value in (z + e)[np.argsort(z)]]
    lower = [min(r[i], r[i + 1]) for i in range(n - 1)]
    w = []
    for i in range(n - 1):
        others = [lower[j] for j in range(n - 1) if j not in {i - 1, i}]
        w.append(lower[i] / n + sum(low >= r[i] for low in others) / (n - 3))
    w = [value - sum(w) / len(w) for value in w]
    lag = [sum(a * b for a, b in zip(w, w[k:], strict=False)) / len(w) for k in range(4)]
    variance = max(lag[0] + 2 * lag[1] - lag[2] - lag[3], 1 / n**2)
    xi = 1 - 3 * sum(abs(a - b) for a, b in pairwise(r)) / (n**2 - 1)
    xi *= (n + 1) / (n - 2)  # over the largest value
    assert right_neighbor(z + e, z) == pytest.approx((xi, 6 * np.sqrt(variance / n)), rel=1e-9)


def normal_t(noise):
    """T of y = z + noise e, both normal: 3 / pi arcsin((1 + rho^2) / 2) - 1/2, rho^2 = 1 / (1 + noise^2)."""
    return 3 / np.pi * np.arcsin((1 + 1 / (1 + noise**2)) / 2) - 0.5


@pytest.mark.filterwarnings("ignore:T is")
@pytest.mark.parametrize("noise", [0.5, 0.1, 0.05, 0.02])
def test_strong_dependence_is_covered(noise):
    """Of 400 intervals at n = 500; without the largest value in the center .70 and .02 of the last two held T."""
    held = 0
    for r in range(400):
        rng = np.random.default_rng([r, 3])
        z = rng.standard_normal(500)
        low, high = codec_interval(z + noise * rng.standard_normal(500), z)
        held += low <= normal_t(noise) <= high
    assert held / 400 >= 0.90


@pytest.mark.parametrize(
    ("noise", "columns", "told"),
    [(0.5, 1, False), (0.05, 1, False), (0.01, 1, True), (0.5, 2, False), (0.05, 2, True)],
)
def test_where_no_interval_covers_is_told(noise, columns, told):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((500, columns))
    y = z.sum(axis=1) / np.sqrt(columns) + noise * rng.standard_normal(500)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        codec_interval(y, z, rng=0)
    assert [str(w.message)[:4] for w in caught] == ["T is"] * told


@pytest.mark.filterwarnings("ignore:120 rows")
@pytest.mark.parametrize("method", ["analytic", "bootstrap"])
def test_widths_are_quantiles_of_students_t_with_a_twelfth_of_the_rows(method):
    z, e = np.random.default_rng(0).normal(size=(2, 120))
    narrow, wide = (
        np.diff(codec_interval(z + e, z, method=method, confidence_level=level, rng=0))[0] for level in (0.5, 0.99)
    )
    assert wide / narrow == pytest.approx(student.ppf(0.995, 10) / student.ppf(0.75, 10), rel=1e-9)


def test_bootstrap_interval_by_hand(monkeypatch):
    """T is 0.4; of subsamples of 54 rows, 400^(2/3) = 54.3, it is 0.3 and 0.5 in turn."""
    sizes = []

    class Half:
        def __init__(self, y, *_):
            sizes.append(y.n_rows)

        def observed(self):
            return 0.4 if len(sizes) == 1 else 0.3 + 0.2 * (len(sizes) % 2)

    monkeypatch.setattr(_intervals, "Coefficient", Half)
    y, z = np.random.default_rng(0).normal(size=(2, 400))
    half = student.ppf(0.975, 400 / 12) * np.sqrt(54 / 400) * 0.1 * np.sqrt(400 / 399)
    found = codec_interval(y, z, method="bootstrap", rng=0)
    assert found == pytest.approx((0.4 - half, 0.4 + half), rel=1e-9)
    assert sizes == [400] + [54] * 400


def test_bootstrap_interval_covers_half_of_the_time_at_half(global_random_seed, monkeypatch):
    monkeypatch.setattr(_intervals, "BOOTSTRAP_SAMPLES", 25)
    assert_bootstrap_covers(0.5, 60, global_random_seed)


@pytest.mark.slow
def test_bootstrap_interval_covers(monkeypatch):
    monkeypatch.setattr(_intervals, "BOOTSTRAP_SAMPLES", 100)
    assert_bootstrap_covers(0.95, 120, 0)


def assert_bootstrap_covers(level, repetitions, seed):
    """Normal variables: T(y, w) is (3 / pi) arcsin((1 + R^2) / 2) - 1 / 2; four binomial standard errors allowed."""
    both, given = (3.0 / np.pi * np.arcsin((1.0 + share) / 2.0) - 0.5 for share in (2 / 3, 1 / 3))
    truth = (both - given) / (1.0 - given)
    rng = np.random.default_rng(seed)
    covered = 0
    for k in range(repetitions):
        x, z, e = rng.normal(size=(3, 400))
        low, high = codec_interval(x + z + e, z, x, confidence_level=level, rng=k)
        covered += low <= truth <= high
    assert abs(covered / repetitions - level) <= 4.0 * np.sqrt(level * (1.0 - level) / repetitions)


def test_bootstrap_interval_surrounds_the_coefficient():
    rng = np.random.default_rng(0)
    x, z, e = rng.normal(size=(3, 400))
    low, high = codec_interval(x + z + e, z, x, rng=0)
    assert (low + high) / 2.0 == pytest.approx(codec(x + z + e, z, x), abs=1e-12)
    z = rng.normal(size=600)
    result = codec_test(z + rng.normal(size=600), z, statistic="codec", n_resamples=99, rng=0)
    assert result.confidence_interval(0.9).low < result.confidence_interval(0.9).high


@pytest.mark.filterwarnings("ignore:T is")
def test_no_interval_where_it_would_lie_below_its_range():
    """T is at least 0: an interval below -1, whose upper end would be below its lower one, covers nothing."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 400))
    assert reference_codec(x, 1000.0 * z, x) < -100
    with pytest.raises(ValueError, match=r"T is -\d+ in this sample, and no interval around it reaches -1"):
        codec_interval(x, 1000.0 * z, x, rng=0)
    assert codec_interval(x + z, z, x, rng=0).low >= -1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "n-out-of-n"}, "fails for this coefficient"),
        ({"method": "analytic", "z": np.ones((200, 2)).cumsum(axis=0)}, "one column of z"),
        ({"method": "analytic", "y": np.arange(200) % 5}, "without ties"),
        ({"z": np.random.default_rng(0).normal(size=(200, 3))}, "beyond 2"),
        ({"given": np.random.default_rng(0).normal(size=(200, 2))}, "beyond 2"),
        ({"confidence_level": 1.0}, "between 0 and 1"),
        ({"y": np.ones(200)}, "y is constant"),
        ({"z": np.ones(200)}, "z is constant"),
        (
            {"y": np.arange(200) < 11, "z": np.arange(200) % 7},
            "same value in 189 of 200 rows, and a subsample 1.9 others",
        ),
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


def test_the_bootstrap_warns_of_a_rare_class():
    z = np.random.default_rng(0).normal(size=400)
    with pytest.warns(UserWarning, match="same value in 370 of 400 rows, and a subsample 4.0 others"):
        codec_interval(np.arange(400) < 30, z, rng=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codec_interval(np.arange(400) < 40, z, rng=0)


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
