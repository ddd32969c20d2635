"""Several hypotheses at once, and the rows that a test needs."""

import numpy as np
import pandas as pd
import pytest

from codec import codec_test_many, power_curve
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
    assert np.isnan(curve.required(1.01))
    assert list(curve.to_frame().columns) == ["n_samples", "power", "low", "high"]


@pytest.mark.slow
def test_power_is_the_same_in_several_processes():
    curves = [
        power_curve(line_model, [30], n_simulations=8, n_resamples=39, n_jobs=n_jobs, rng=0) for n_jobs in (None, 2)
    ]
    assert np.array_equal(curves[0].power, curves[1].power)


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
