"""y that is a function of the condition: nothing is left to explain, and no p-value may say otherwise."""

import warnings

import numpy as np
import pytest

from codec import MarkovBlanketSelector, codec_test, codec_test_many
from codec._kernel_ridge import Smoother
from codec._residuals import Residuals, embed
from codec._validation import read_table

FUNCTIONS = {
    "itself": lambda x: x[:, 0],
    "sine": lambda x: np.sin(2.0 * x[:, 0]),
    "quick sine": lambda x: np.sin(6.0 * x[:, 0]),
    "sine of two": lambda x: np.sin(x[:, 0] + x[:, 1]),
}


def draw(name, n, seed):
    rng = np.random.default_rng([seed, 7])
    x = rng.standard_normal((n, 2 if "two" in name else 1))
    return x, FUNCTIONS[name](x), rng.standard_normal(n)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("n", "runs"), [(400, 15), (2100, 4)])
def test_nothing_is_rejected_where_y_is_a_function_of_given(name, n, runs):
    for seed in range(runs):
        x, y, z = draw(name, n, seed)
        with pytest.warns(UserWarning, match="function of given"):
            assert codec_test(y, z, x, rng=seed).pvalue == 1.0


def test_the_note_says_so():
    x, y, z = draw("sine", 400, 0)
    with pytest.warns(UserWarning, match="function of given"):
        result = codec_test(y, z, x, rng=0)
    assert result.pvalue == 1.0
    assert "function of given" in result.describe()
    with pytest.warns(UserWarning, match="function of given"):
        assert codec_test(z, y, x, rng=0).pvalue == 1.0  # nor can a function of given tell anything
    with pytest.warns(UserWarning, match="function of given"):
        assert codec_test(y, z, x, rng=0, method="crt", n_resamples=19).pvalue == 1.0
    with pytest.warns(UserWarning, match="function of given"):
        assert (codec_test_many(y, np.column_stack([z, z**2]), x, rng=0).to_frame()["pvalue"] == 1.0).all()


@pytest.mark.parametrize("size", [1e-3, 1e-2, 1.0])
def test_little_noise_is_noise(size):
    x, y, z = draw("sine", 500, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert codec_test(y + size * z, z, x, rng=0).pvalue <= 0.01


def test_a_response_that_is_a_function_leaves_the_others_alone():
    x, y, z = draw("sine", 500, 2)
    other = x[:, 0] + z
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert codec_test(np.column_stack([y, other]), z, x, rng=0).pvalue <= 0.01


def test_residuals_of_a_function_are_zero():
    x, y, z = draw("sine", 600, 3)
    columns = np.ascontiguousarray(embed(read_table(np.column_stack([y, y + z, x[:, 0] > 0]), "y")).T)
    residuals = Residuals(Smoother(embed(read_table(x, "x")), np.random.default_rng(0)), columns)
    np.testing.assert_array_equal(residuals.noiseless, [True, False, False])
    assert not residuals.standard[0].any()
    assert residuals.standard[1].std() > 0.5
    assert not residuals.of(columns[:, None, :])[0].any()


def test_neighbours_with_the_same_point_do_not_count_as_themselves():
    x = np.repeat(np.random.default_rng(0).standard_normal(150), 2)[:, None]
    smoother = Smoother(embed(read_table(x, "x")), np.random.default_rng(0))
    noise = np.random.default_rng(1).standard_normal(300)
    assert abs(smoother.explains(noise)) < 0.25
    assert smoother.explains(np.sin(x[:, 0])) > 0.9


@pytest.mark.slow
def test_a_leaked_response_is_selected_alone():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        features = rng.standard_normal((1100, 6))
        y = features[:, 0] + 0.3 * rng.standard_normal(1100)
        found = MarkovBlanketSelector(random_state=0).fit(np.column_stack([3.0 * y + 1.0, features]), y).blanket_
        np.testing.assert_array_equal(found, [0])
