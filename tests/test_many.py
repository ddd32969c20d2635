"""Several hypotheses at once, and the rows that a test needs."""

import numpy as np
import pandas as pd
import pytest

from codec import PowerCurve, codec_test, codec_test_many, power_curve
from codec._frames import take_rows
from codec._many import adjust


# --------------------------------------------------------------------------- many hypotheses
def test_many_names_corrects_and_tabulates():
    rng = np.random.default_rng(0)
    Z = pd.DataFrame(rng.normal(size=(200, 4)), columns=list("abcd"))
    y = Z["a"] + Z["b"] ** 2 + 0.3 * rng.normal(size=200)
    result = codec_test_many(y, Z, correction="fdr_bh", rng=0)
    assert len(result) == 4
    frame = result.to_frame()
    assert list(frame.index) == list("abcd")
    assert list(frame["rejected"]) == [True, True, False, False]
    assert np.all(frame["adjusted"] >= frame["pvalue"])
    assert "<table" in result._repr_html_()
    given = codec_test_many(y, Z[["b", "c"]], given=Z[["a"]], n_resamples=99, rng=0)
    assert given.kind == "omnibus"
    assert list(given.rejected) == [True, False]


def test_corrections():
    p = np.array([0.01, 0.02, 0.03, 0.9])
    assert adjust(p, "holm") == pytest.approx([0.04, 0.06, 0.06, 0.9])
    assert adjust(p, "fdr_bh") == pytest.approx([0.04, 0.04, 0.04, 0.9])
    assert np.all(adjust(p, "fdr_by") >= adjust(p, "fdr_bh"))


def test_too_few_copies_for_many_columns():
    rng = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="n_resamples of at least 199"):
        codec_test_many(rng.normal(size=50), rng.normal(size=(50, 10)), n_resamples=99, rng=0)
    assert codec_test_many(rng.normal(size=50), rng.normal(size=(50, 30)), rng=0).n_resamples == 1199


def test_copies_are_enough_for_dependent_columns():
    """Benjamini-Yekutieli: the smallest of 30 p-values is multiplied by 30 (1 + 1/2 + ... + 1/30) = 119.85."""
    rng = np.random.default_rng(0)
    y, Z = rng.normal(size=50), rng.normal(size=(50, 30))
    Z[:, 3] = y
    result = codec_test_many(y, Z, correction="fdr_by", rng=0)
    assert result.n_resamples == 4793  # 2 * 119.85 / 0.05 = 4793.98
    assert list(np.flatnonzero(result.rejected)) == [3]
    with pytest.warns(UserWarning, match="n_resamples of at least 2396"):
        codec_test_many(y, Z, correction="fdr_by", n_resamples=999, rng=0)


# --------------------------------------------------------------------------- sample size
def line_model(n, rng):
    z = rng.normal(size=n)
    return z + 2.0 * rng.normal(size=n), z


def test_power_grows():
    curve = power_curve(line_model, [200, 30], n_simulations=30, statistic="omnibus", n_resamples=39, rng=0)
    assert list(curve.n_samples) == [30, 200]
    assert curve.power[0] < curve.power[1]
    assert np.all((curve.low <= curve.power) & (curve.power <= curve.high))
    assert 30 < curve.required(0.8) <= 200
    for power in (1.01, 80, 0.0, -0.5, np.nan):
        with pytest.raises(ValueError, match=r"power is .*; it must be"):
            curve.required(power)
    with pytest.raises(TypeError, match="power is 'high'; it must be a number"):
        curve.required("high")
    assert list(curve.to_frame().columns) == ["n_samples", "power", "low", "high"]


@pytest.mark.parametrize(
    ("power", "rows"),
    [
        ([0.2, 0.7, 0.5, 1.0], 70.0),  # monotone: 0.2, 0.6, 0.6, 1; halfway from 60 to 80
        ([0.2, 0.6, 1.0], 50.0),  # halfway from 40 to 60
        ([0.8, 0.9], 20.0),
        ([0.2, 0.7], np.nan),
    ],
)
def test_required_rows_by_hand(power, rows):
    sizes, power = np.array([20, 40, 60, 80])[: len(power)], np.array(power)
    assert PowerCurve(sizes, power, power, power, 0.05, 10).required(0.8) == pytest.approx(rows, nan_ok=True)


@pytest.mark.slow
def test_power_is_the_same_in_several_processes():
    curves = [
        power_curve(line_model, [30], n_simulations=8, n_resamples=39, n_jobs=n_jobs, rng=0) for n_jobs in (None, 2)
    ]
    assert np.array_equal(curves[0].power, curves[1].power)


def test_data_without_anything_to_test_reject_nothing():
    drawn = []

    def model(n, rng):
        x, z = rng.normal(size=(2, n))
        drawn.append(len(drawn) % 2)
        return np.repeat(np.arange(2.0), n // 2) if drawn[-1] else x + z, z, np.repeat(np.arange(2.0), n // 2)

    options = {"statistic": "codec", "method": "permutation", "n_resamples": 19, "rng": 0}
    assert power_curve(model, 60, n_simulations=8, **options).power <= 0.5
    assert sum(drawn) == 4
    with pytest.raises(ValueError, match="y that is a function of given"):
        power_curve(lambda n, rng: (x := np.repeat([0.0, 1.0], n // 2), rng.normal(size=n), x), 60, **options)


def test_power_from_data():
    rng = np.random.default_rng(0)
    data = line_model(200, rng)
    assert power_curve(data, [50], n_simulations=5, n_resamples=19, rng=0).power.shape == (1,)
    assert power_curve(data, 50, n_simulations=5, n_resamples=19, rng=0).power.shape == (1,)
    with pytest.raises(ValueError, match="n_jobs is 0"):
        power_curve(data, 50, n_jobs=0)
    with pytest.raises(ValueError, match="more than half"):
        power_curve(data, [150], n_simulations=5)
    with pytest.raises(ValueError, match=r"source has parts of \[100, 200\] rows"):
        power_curve((data[0][:100], data[1]), [50], n_simulations=5)
    with pytest.raises(ValueError, match="n_samples is empty"):
        power_curve(data, [])
    with pytest.raises(TypeError, match="function of"):
        power_curve(data[0], [50])
    with pytest.raises(ValueError, match="must return"):
        power_curve(lambda n, rng: (rng.normal(size=n),), [50], n_simulations=1)
    with pytest.raises(TypeError, match="source must be"):
        power_curve((1.0, 2.0), [50])
    with pytest.raises(TypeError, match="source must be"):
        power_curve((*data[:1], None), [50])
    with pytest.raises(ValueError, match="must return"):
        power_curve(lambda *_: (1.0, 2.0), [50], n_simulations=1)


def test_a_missing_value_among_text_at_hand_is_told():
    words = [np.nan, *("ab"[k % 2] for k in range(199))]
    z = np.random.default_rng(0).normal(size=200)
    with pytest.raises(ValueError, match="missing"):
        power_curve((words, z), [100], n_simulations=20, n_resamples=19, rng=0)


def test_a_condition_of_none_is_no_condition():
    """As in `codec_test(y, z, None)`."""
    data = line_model(80, np.random.default_rng(0))
    options = {"n_simulations": 8, "n_resamples": 19, "rng": 0}
    assert power_curve((*data, None), 40, **options).power == power_curve(data, 40, **options).power
    model = power_curve(lambda n, rng: (*line_model(n, rng), None), 40, **options)
    assert model.power == power_curve(line_model, 40, **options).power


def test_a_number_of_threads_that_is_none_is_named():
    y, z = np.random.default_rng(0).normal(size=(2, 40))
    with pytest.raises(ValueError, match="n_jobs is 0; it must be None"):
        codec_test_many(y, z, n_jobs=0)
    with pytest.raises(TypeError, match=r"n_jobs is 1\.5; it must be an integer"):
        codec_test_many(y, z, n_jobs=1.5)


def test_the_first_column_alone_has_the_same_pvalue():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 120))
    y = (x + rng.normal(size=120) > 0).astype(int)
    many = codec_test_many(y, np.column_stack([z, x + z]), x, statistic="codec", n_resamples=39, rng=0)
    alone = codec_test(y, z, x, statistic="codec", n_resamples=39, rng=0)
    assert (many.method, many.pvalue[0]) == (alone.method, alone.pvalue)
    mixed = pd.DataFrame({"number": z, "class": pd.Categorical(z > x)})
    assert codec_test_many(y, mixed, x, statistic="codec", n_resamples=39, rng=0).method != alone.method


def test_constant_samples_reject_nothing():
    def rare(n, rng):
        return (rng.random(n) < 0.05).astype(float), rng.normal(size=n)

    seen = [rare(20, np.random.default_rng(seed))[0] for seed in range(40)]
    assert 0 < sum(y.max() == 0.0 for y in seen) < 40
    assert 0.0 <= power_curve(rare, 20, n_simulations=40, n_resamples=19, rng=0).power[0] < 0.5
    with pytest.raises(
        ValueError, match="constant y or z, or a y that is a function of given, in every simulated data set"
    ):
        power_curve((np.ones(60), np.arange(60.0)), 20, n_simulations=3, n_resamples=19)


def test_power_from_ordered_categories():
    """They are numbers by their order, as in the test itself."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=120)
    codes = np.digitize(z + rng.normal(size=120), [-1.0, 0.0, 1.0])
    ordered = pd.Categorical.from_codes(codes, categories=["d", "a", "c", "b"], ordered=True)
    options = {"n_simulations": 20, "n_resamples": 19, "statistic": "omnibus", "rng": 0}
    curves = [power_curve((y, z), 40, **options).power for y in (ordered, pd.Series(ordered), codes)]
    assert curves[0] == curves[1] == curves[2]
    rows = np.array([5, 2, 9])
    taken = take_rows(ordered, rows)
    assert taken.ordered
    assert taken.codes.tolist() == codes[rows].tolist()
