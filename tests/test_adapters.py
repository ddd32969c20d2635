"""Classical tests with our result, and our test inside other packages."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import chi2_contingency

from codec import CITest, fisher_z, g_test, register_causal_learn


def test_fisher_z_is_the_published_formula():
    rng = np.random.default_rng(0)
    y, z = rng.normal(size=(2, 50))
    r = np.corrcoef(y, z)[0, 1]
    assert fisher_z(y, z).statistic == pytest.approx(np.sqrt(47) * np.arctanh(r))
    with pytest.warns(UserWarning, match="linear function") as signs:
        nothing = fisher_z(y, y + z, y + 2 * z - z)
    assert signs[0].filename == __file__
    assert tuple(nothing) == (0.0, 1.0)
    assert "linear function" in nothing.notes[0]
    assert fisher_z(1e12 * y, 1e-3 * z).statistic == pytest.approx(fisher_z(y, z).statistic)
    with pytest.raises(ValueError, match="one numeric column"):
        fisher_z(pd.Categorical(list("ab") * 25), z)


@pytest.mark.parametrize(("scale", "shift"), [(1e-16, 0.0), (1e11, 0.0), (1.0, 1e11), (1e12, 1.6e18)])
def test_fisher_z_has_no_units(scale, shift):
    """The partial correlation by its formula."""
    x, y, z = np.random.default_rng(0).normal(size=(3, 100)) + np.random.default_rng(1).normal(size=100)
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in [(x, y), (x, z), (y, z)])
    r = (yz - xy * xz) / np.sqrt((1.0 - xy**2) * (1.0 - xz**2))
    expected = pytest.approx(np.sqrt(96) * np.arctanh(r), rel=1e-4)
    for column in range(3):
        parts = [y, z, x]
        parts[column] = scale * parts[column] + shift
        assert fisher_z(*parts).statistic == expected
    assert fisher_z(y, z, np.column_stack([scale * x + shift, np.full(100, shift)])).statistic == expected


def test_g_test_is_scipys():
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 3, (2, 200))
    found = chi2_contingency(pd.crosstab(y, z), correction=False, lambda_="log-likelihood")
    result = g_test(y, z, method="asymptotic")
    assert (result.statistic, result.pvalue) == pytest.approx((found.statistic, found.pvalue))
    assert g_test(y, z, rng=0).pvalue == pytest.approx(found.pvalue, abs=0.05)
    x = np.arange(200) // 2
    with pytest.warns(UserWarning, match="rows per cell"):
        assert "rows per cell" in g_test(y, z, x, method="asymptotic").notes[0]
    with pytest.warns(UserWarning, match="nothing to permute"):
        nothing = g_test(y, z, np.arange(200))
    assert nothing.pvalue == 1.0  # all permutations within strata of one row are the data themselves
    assert "nothing to permute" in nothing.notes[0]


def test_causal_learn_runs_pc_with_the_test():
    pytest.importorskip("causallearn", reason="causal-learn is not installed")
    from causallearn.search.ConstraintBased.PC import pc
    from causallearn.utils.cit import CIT

    rng = np.random.default_rng(0)
    a = rng.normal(size=250)
    b = a**2 + 0.4 * rng.normal(size=250)
    c = np.sin(b) + 0.4 * rng.normal(size=250)
    data = np.column_stack([a, b, c])
    register_causal_learn("codec-test", n_resamples=99)
    assert CIT(data, "codec-test")(0, 2, [1]) > 0.01
    graph = pc(data, 0.05, "codec-test", show_progress=False).G.graph
    assert np.array_equal(graph != 0, np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool))
    x = rng.normal(size=(100, 4))
    assert CIT(x, "fisherz")(0, 1, [2, 3]) == pytest.approx(fisher_z(x[:, 0], x[:, 1], x[:, 2:]).pvalue)


@pytest.mark.filterwarnings("ignore")
def test_pgmpy_runs_pc_with_the_test():
    discovery = pytest.importorskip("pgmpy.causal_discovery", reason="pgmpy is not installed")
    rng = np.random.default_rng(0)
    a = rng.normal(size=250)
    b = a**2 + 0.4 * rng.normal(size=250)
    data = pd.DataFrame({"a": a, "b": b, "c": np.sin(b) + 0.4 * rng.normal(size=250)})
    test = CITest(data, n_resamples=199)
    found = discovery.PC(ci_test=test, significance_level=0.05, show_progress=False).fit(data)
    edges = {frozenset(edge) for edge in found.causal_graph_.edges()}
    assert edges == {frozenset("ab"), frozenset("bc")}
    assert test("a", "b") == test("b", "a")
    with pytest.raises(TypeError, match="DataFrame"):
        CITest(data.to_numpy())


@pytest.mark.parametrize("method", ["local-permutation", "crt"])
def test_methods_given_others_leave_marginal_tests_alone(method):
    data = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=list("abc"))
    test = CITest(data, method=method, n_resamples=39)
    assert test.test("a", "b").method == "permutation"
    assert test.test("a", "b", ["c"]).method != "permutation"
    assert test("a", "b", None) == test("a", "b")
    with pytest.raises(TypeError, match="rng is 3; pass seed"):
        CITest(data, rng=3)


def test_names_that_mean_no_column_or_several():
    data = pd.DataFrame(np.random.default_rng(0).standard_normal((60, 3)), columns=["a", "b", "price"])
    test = CITest(data, n_resamples=39)
    with pytest.raises(ValueError, match="'zz' is the name of 0 columns of data; the columns are 'a', 'b', 'price'"):
        test.test("a", "zz")
    with pytest.raises(ValueError, match="'a' is the name of 2 columns"):
        CITest(data.set_axis(["a", "b", "a"], axis=1)).test("a", "b")
    assert test.test("a", "b", "price").pvalue == test.test("a", "b", ["price"]).pvalue
    test("a", "b", "price")
    assert test.p_value_ == test.test("a", "b", ["price"]).pvalue


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"statistic": "zz"}, ValueError, "statistic"),
        ({"method": "zz"}, ValueError, "method"),
        ({"n_resample": 39}, TypeError, "takes no option 'n_resample'; those of codec_test are .*n_resamples"),
    ],
)
def test_wrong_options_show_before_the_first_test(options, error, message):
    data = pd.DataFrame(np.random.default_rng(0).standard_normal((60, 2)), columns=["a", "b"])
    with pytest.raises(error, match=message):
        CITest(data, **options)
    with pytest.raises(error, match=message):
        register_causal_learn("wrong", **options)


def test_the_limit_of_g_is_judged_by_expected_counts():
    """Five ones in 1,000 rows: 250 rows a cell on average, and 2.5 expected in two of four."""
    z = np.random.default_rng(0).permutation(1000) % 2
    with pytest.warns(UserWarning, match="2 of 4 cells expect under 5 rows, the least 2.5 rows per cell"):
        assert len(g_test(np.arange(1000) < 5, z, method="asymptotic").notes) == 1
    assert g_test(np.arange(1000) < 500, z, method="asymptotic").notes == ()
    y = np.where(np.arange(1000) < 4, 8, np.arange(1000) % 8)  # two of 18 cells expect under 5, none under 1
    assert g_test(y, z, method="asymptotic").notes == ()
    with pytest.warns(UserWarning, match="nothing to permute"):
        g_test(z, np.arange(1000) % 3, np.arange(1000), method="asymptotic")


@pytest.mark.parametrize("kind", [object, "string", pd.ArrowDtype(pa.string()), pd.ArrowDtype(pa.large_string())])
def test_text_is_categories_wherever_its_column_stands(kind):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"a": rng.normal(size=80), "t": rng.choice(list("uvw"), 80), "c": rng.normal(size=80)})
    data["t"] = data["t"].astype(kind)
    before = data.copy()
    coded = data.assign(t=data["t"].astype("category"))
    for order in (["a", "t", "c"], ["t", "a", "c"]):
        test, same = (CITest(frame[order], n_resamples=19) for frame in (data, coded))
        for question in (("a", "t"), ("a", "t", ["c"]), ("a", "c", ["t"])):
            assert test.test(*question).pvalue == same.test(*question).pvalue
    pd.testing.assert_frame_equal(data, before)


def test_a_condition_that_is_a_number():
    test = CITest(pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3))), n_resamples=19)
    assert test.test(0, 1, 2).pvalue == test.test(0, 1, [2]).pvalue == test.test(0, 1, np.int64(2)).pvalue
    assert test(0, 1, 2) == test(0, 1, [2])


def test_a_permutation_that_changes_nothing_is_told():
    rng = np.random.default_rng(0)
    y, z = rng.standard_normal((2, 120))
    with pytest.warns(UserWarning, match="every permutation gives the same G"):
        result = g_test(y > 0, z, rng=0)
    assert result.pvalue == 1.0
    assert g_test(y > 0, z > 0, rng=0).notes == ()


def test_causal_learn_keeps_no_answers_of_another_test(tmp_path):
    pytest.importorskip("causallearn", reason="causal-learn is not installed")
    from causallearn.utils.cit import CIT

    data, path = np.random.default_rng(0).standard_normal((60, 3)), str(tmp_path / "known.json")
    register_causal_learn("codec-kept", n_resamples=19)
    test = CIT(data, "codec-kept", cache_path=path)
    test.SAVE_CACHE_CYCLE_SECONDS = -1
    first = test(0, 1)
    test(0, 2)  # writes what was known before
    assert CIT(data, "codec-kept", cache_path=path)(0, 1) == first
    for name, options, what in (
        ("codec-kept", {"n_resamples": 39}, "parameters_hash"),
        ("codec-other", {"n_resamples": 19}, "method_name"),
    ):
        register_causal_learn(name, **options)
        with pytest.raises(ValueError, match=rf"holds p-values of another test \({what}"):
            CIT(data, name, cache_path=path)


def test_causal_learn_passes_no_options_on():
    pytest.importorskip("causallearn", reason="causal-learn is not installed")
    from causallearn.utils.cit import CIT

    register_causal_learn("codec-options", n_resamples=19)
    with pytest.raises(TypeError, match=r"takes no option 'n_resamples' here; pass it to register_causal_learn"):
        CIT(np.zeros((9, 2)), "codec-options", n_resamples=99)


def test_causal_learn_leaves_rows_out():
    pytest.importorskip("causallearn", reason="causal-learn is not installed")
    from causallearn.utils.cit import CIT

    data = np.random.default_rng(0).normal(size=(80, 3))
    data[3, 1] = np.nan
    register_causal_learn("codec-omit", n_resamples=19, nan_policy="omit")
    register_causal_learn("codec-raise", n_resamples=19)
    with pytest.warns(UserWarning, match="left out"):
        found = CIT(data, "codec-omit")(0, 1, [2])
    assert found == CIT(np.delete(data, 3, axis=0), "codec-raise")(0, 1, [2])
    with pytest.raises(AssertionError, match="NaN"):
        CIT(data, "codec-raise")
