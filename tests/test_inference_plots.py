"""Displays of tests: what they store and draw, and what they refuse."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from codec import codec_test
from codec.plotting import CalibrationDisplay, NullDistributionDisplay


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_null_distribution_shows_the_observed_value():
    z = np.random.default_rng(0).normal(size=60)
    result = codec_test(z, z, n_resamples=99, rng=0)
    _, axes = plt.subplots()
    display = NullDistributionDisplay.from_result(result, ax=axes, bins=7)
    assert display.ax_ is axes
    assert display.figure_ is axes.figure
    assert len(axes.patches) == 7
    assert sum(patch.get_height() for patch in axes.patches) == 99
    assert display.line_.get_xdata()[0] == result.statistic
    assert "p = 0.01" in display.line_.get_label()
    assert display.plot().ax_ is not axes


def test_asymptotic_result_has_no_distribution_to_show():
    z = np.random.default_rng(0).normal(size=60)
    with pytest.raises(ValueError, match="no copies"):
        NullDistributionDisplay(codec_test(z, z, method="asymptotic"))


def test_calibration_band_holds_uniform_pvalues():
    display = CalibrationDisplay(np.arange(1, 100) / 100).plot()
    assert np.allclose(display.pvalues, display.expected)
    assert np.all((display.low < display.pvalues) & (display.pvalues < display.high))
    wrong = CalibrationDisplay(np.arange(1, 100) / 400)
    assert np.mean(wrong.pvalues < wrong.low) > 0.8


@pytest.mark.parametrize("pvalues", [[], [0.5, 1.2], [np.nan], [[0.1, 0.2]]])
def test_numbers_that_are_no_pvalues(pvalues):
    with pytest.raises(ValueError, match="between 0 and 1"):
        CalibrationDisplay(pvalues)
