"""Graphs of blankets: the two rules, the seed, the views; local parents against d-separation on random trees."""

import itertools

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline

from codec import MarkovBlanketSelector
from codec import _blanket_graph as module
from codec._blanket_graph import connected_parts, markov_blanket_graph
from codec.datasets import make_gaussian_network, make_mlp_network, markov_blankets


class Oracle(BaseEstimator):
    """Selects what it is told."""

    def __init__(self, answers):
        self.answers = answers

    def fit(self, X, y):
        self.support_ = np.array([c in self.answers[y.name] for c in X.columns])
        return self

    def get_support(self):
        return self.support_


def frame_of(d, n=40):
    return pd.DataFrame(np.random.default_rng(0).normal(size=(n, d)), columns=[f"v{j}" for j in range(d)])


def named(blankets):
    return {f"v{i}": {f"v{j}" for j in blanket} for i, blanket in enumerate(blankets)}


ONE_WAY = Oracle({"v0": {"v1", "v2"}, "v1": {"v0"}, "v2": set(), "v3": set()})


# --------------------------------------------------------------------------- rules and views
@pytest.mark.parametrize(("rule", "edges"), [("and", {("v0", "v1")}), ("or", {("v0", "v1"), ("v0", "v2")})])
def test_rules(rule, edges):
    graph = markov_blanket_graph(frame_of(4), rule=rule, selector=ONE_WAY)
    assert np.array_equal(graph.matrix, graph.matrix.T)
    assert not graph.matrix.diagonal().any()
    frame = graph.to_frame()
    assert set(frame[["a", "b"]].itertuples(index=False, name=None)) == {("v0", "v1"), ("v0", "v2")}
    assert set(frame.loc[frame["edge"], ["a", "b"]].itertuples(index=False, name=None)) == edges
    assert frame["mutual"].tolist() == [True, False]
    assert graph.n_edges == len(edges)
    pytest.importorskip("networkx")
    made = graph.to_networkx()
    assert {tuple(sorted(e)) for e in made.edges} == edges
    assert list(made.nodes) == ["v0", "v1", "v2", "v3"]
    assert made.edges["v0", "v1"]["mutual"]


def test_it_shows_itself():
    graph = markov_blanket_graph(frame_of(4), rule="or", selector=ONE_WAY)
    assert graph.blankets == {"v0": ("v1", "v2"), "v1": ("v0",), "v2": ("v0",), "v3": ()}
    assert "2 edges (rule: or; 1 pairs selected in one direction only)" in repr(graph)
    assert "<table" in graph._repr_html_()


def test_names_cannot_inject_html():
    answers = {"<b>": {"c"}, "c": {"<b>"}}
    graph = markov_blanket_graph(frame_of(2).set_axis(["<b>", "c"], axis=1), selector=Oracle(answers))
    assert "<b>" not in graph._repr_html_()


# --------------------------------------------------------------------------- from data
def chain():
    nodes = {"a": {}, "b": {"coef": {"a": 1.0}}, "c": {"coef": {"b": 1.0}}, "d": {}}
    return make_gaussian_network(nodes, 300, target="a", random_state=0).network


def test_chain_is_found_and_the_seed_decides():
    data = chain().data
    selector = MarkovBlanketSelector("lfoci", n_neighbors=10)
    runs = [markov_blanket_graph(data, selector=selector, random_state=1, n_jobs=jobs) for jobs in (None, 2)]
    assert np.array_equal(runs[0].found, runs[1].found)
    assert {"a", "c"} <= set(runs[0].blankets["b"])
    assert selector.random_state is None
    assert not hasattr(selector, "support_")


SEEN = {}


class Recorder(MarkovBlanketSelector):
    """Keeps what each variable's search is asked for, by the names of columns."""

    __init__ = MarkovBlanketSelector.__init__

    def fit(self, X, y):
        names = [X.columns[j] for j in self.always_include or []]
        groups = [[X.columns[j] for j in group] for group in self.groups or []]
        SEEN[y.name] = {"asked": (names, groups, self.max_features), "rows": len(y), "seed": self.random_state}
        self.support_ = np.zeros(X.shape[1], dtype=bool)
        return self


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def test_the_seed_is_the_selectors_by_default():
    def seeds(state=None, **options):
        markov_blanket_graph(frame_of(3), selector=Recorder(**options), random_state=state)
        return [one["seed"] for one in SEEN.values()]

    expected = seeds(1)
    assert seeds(random_state=1) == expected
    assert seeds(1, random_state=2) == expected
    assert seeds(random_state=2) != expected
    assert seeds(np.random.RandomState(0)) == seeds(random_state=np.random.RandomState(0))
    assert seeds() != seeds()


def test_columns_are_those_of_the_whole_table():
    options = {"always_include": ["v2", 0], "groups": np.array([[0, 1], [2, 3]]), "max_features": 4}
    markov_blanket_graph(frame_of(4), selector=Recorder(**options))
    assert {name: one["asked"] for name, one in SEEN.items()} == {
        "v0": (["v2"], [["v1"], ["v2", "v3"]], 3),
        "v1": (["v2", "v0"], [["v0"], ["v2", "v3"]], 3),
        "v2": (["v0"], [["v0", "v1"], ["v3"]], 3),
        "v3": (["v2", "v0"], [["v0", "v1"], ["v2"]], 3),
    }
    markov_blanket_graph(frame_of(2), selector=Recorder(max_features=1, groups=[[0]]))
    assert SEEN["v0"]["asked"] == ([], [], 1)
    with pytest.raises(ValueError, match="always_include names 'z', which is no column of X"):
        markov_blanket_graph(frame_of(3), selector=MarkovBlanketSelector(always_include=["z"]))


def test_rows_without_the_variable_take_no_part_in_its_search():
    data = frame_of(3)
    data.loc[:4, "v1"] = np.nan
    data["v2"] = data["v2"].round().astype("category")
    data.loc[:1, "v2"] = np.nan
    markov_blanket_graph(data, selector=Recorder(allow_nan=True))
    assert [SEEN[name]["rows"] for name in data] == [40, 35, 38]
    with pytest.raises(ValueError, match="X contains NaN: column 'v1' has 5 missing"):
        markov_blanket_graph(data, selector=MarkovBlanketSelector())
    data["v1"] = data["v1"] * 0.0
    graph = markov_blanket_graph(data, selector=MarkovBlanketSelector(allow_nan=True), random_state=0)
    assert graph.blankets["v1"] == ()


def test_frames_of_every_kind_give_the_same_graph():
    data = chain().data
    selector = MarkovBlanketSelector("foci", n_neighbors=10)
    results = [markov_blanket_graph(X, selector=selector).found for X in (data, data.to_numpy(), pl.DataFrame(data))]
    assert all(np.array_equal(found, results[0]) for found in results)


def test_categories_stay_categories():
    seen = {}

    class Look(Oracle):
        def fit(self, X, y):
            seen[y.name] = (y.dtype, X.dtypes)
            return super().fit(X, y)

    data = make_mlp_network(60, 6, nominal=0.5, random_state=0).network.data
    before = data.copy()
    markov_blanket_graph(data, selector=Look({name: set() for name in data}))
    pd.testing.assert_frame_equal(data, before)
    for name in data:
        is_nominal = isinstance(data[name].dtype, pd.CategoricalDtype)
        assert isinstance(seen[name][0], pd.CategoricalDtype) == is_nominal
        if is_nominal:
            assert not seen[name][0].ordered


def test_constant_variables_are_in_no_blanket():
    data = chain().data.assign(k=1.0)
    graph = markov_blanket_graph(data, selector=MarkovBlanketSelector("foci"), rule="or")
    assert graph.blankets["k"] == ()


# --------------------------------------------------------------------------- local parents
def random_tree(d, rng):
    """A tree with every edge in a random direction: no cycle through any node."""
    parents = [[] for _ in range(d)]
    for v in range(1, d):
        u = int(rng.integers(v))
        child, parent = (v, u) if rng.random() < 0.5 else (u, v)
        parents[child].append(parent)
    return parents


def test_parents_of_random_trees_with_an_oracle(monkeypatch):
    """With right blankets and independences: two parents or more are found exactly, one is among the candidates."""
    nx = pytest.importorskip("networkx")
    n_found = 0
    for seed in range(60):
        parents = random_tree(9, np.random.default_rng(seed))
        dag = nx.DiGraph([(u, v) for v, above in enumerate(parents) for u in above])

        def independent(_table, part, _alpha, _rng, dag=dag):
            return all(nx.is_d_separator(dag, {i}, {j}, set()) for i, j in itertools.combinations(part, 2))

        monkeypatch.setattr(module, "_all_independent", independent)
        graph = markov_blanket_graph(frame_of(9), selector=Oracle(named(markov_blankets(parents))), parents=True)
        for above, local in zip(parents, graph.local_parents, strict=True):
            if len(above) >= 2:
                assert set(local.parents) == set(above)
                n_found += 1
            else:
                assert local.parents == ()
                assert set(above) <= set(local.candidates)
    assert n_found > 60


def test_parents_from_data():
    rng = np.random.default_rng(4)
    a, b, e, f = rng.standard_normal((4, 500))
    c = a + b + 0.3 * e
    X = pd.DataFrame({"a": a, "b": b, "c": c, "d": c + 0.3 * f})
    truth = {"a": {"b", "c"}, "b": {"a", "c"}, "c": {"a", "b", "d"}, "d": {"c"}}
    graph = markov_blanket_graph(X, selector=Oracle(truth), parents=True, random_state=0)
    frame = graph.parents_to_frame()
    assert frame["parents"].tolist() == ["", "", "a, b", ""]
    assert frame.loc["d", "at most one of"] == "c"
    assert frame.loc["a", "parents"] == ""  # b and c are joined, but dependent
    assert frame.loc["a", "reason"] == "no part of the blanket looks like parents"


def test_two_groups_that_look_like_parents_are_none():
    X = frame_of(5, 200)
    answers = {"v0": {"v1", "v2", "v3", "v4"}, "v1": {"v2"}, "v2": {"v1"}, "v3": {"v4"}, "v4": {"v3"}}
    local = markov_blanket_graph(X, selector=Oracle(answers), parents=True, random_state=0).local_parents
    assert local[0].parents == local[0].candidates == ()
    assert "2 groups" in local[0].reason


def test_components_are_those_of_networkx():
    nx = pytest.importorskip("networkx")
    for seed in range(20):
        joined = np.triu(np.random.default_rng(seed).random((9, 9)) < 0.15, 1)
        joined |= joined.T
        graph = nx.from_numpy_array(joined)
        assert {frozenset(p) for p in connected_parts(range(9), joined)} == set(
            map(frozenset, nx.connected_components(graph))
        )


# --------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "xor"}, "rule is 'xor'"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"n_jobs": 0}, "n_jobs is 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        markov_blanket_graph(frame_of(3), selector=ONE_WAY, **arguments)
    with pytest.raises(ValueError, match="at least two"):
        markov_blanket_graph(frame_of(1))
    with pytest.raises(ValueError, match="parents were not asked for"):
        markov_blanket_graph(frame_of(4), selector=ONE_WAY).parents_to_frame()


def test_a_level_that_is_no_number_is_named():
    with pytest.raises(TypeError, match="alpha is 'x'; it must be a number"):
        markov_blanket_graph(frame_of(3), selector=ONE_WAY, alpha="x")


def test_two_graphs_can_be_compared():
    graph, same = (markov_blanket_graph(frame_of(4), selector=ONE_WAY) for _ in range(2))
    assert graph == graph
    assert graph != same  # two objects, as of scikit-learn's estimators; `found` tells whether they agree


def test_without_networkx_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "networkx", None)
    with pytest.raises(ImportError, match=r"pip install 'codec\[graph\]'"):
        markov_blanket_graph(frame_of(4), selector=ONE_WAY).to_networkx()


def test_names_of_several_columns_are_refused():
    frame = frame_of(5).set_axis(["b", "a", "c", "a", "b"], axis=1)
    with pytest.raises(ValueError, match="X has several columns called 'b', 'a'; every column needs a name of its own"):
        markov_blanket_graph(frame, selector=ONE_WAY)
    with pytest.raises(ValueError, match="columns called '1'"):
        markov_blanket_graph(frame_of(3).set_axis([1, "1", 2], axis=1), selector=ONE_WAY)


@pytest.mark.parametrize("left", ["nothing", "two rows", "a constant"])
def test_parts_that_no_complete_rows_can_test_are_no_parents(left):
    """v1 and v2 are in each other's blanket, hence one part, and hardly seen together."""
    X = frame_of(3)
    split = {"nothing": 20, "two rows": 22, "a constant": 30}[left]
    X.loc[:19, "v1"] = np.nan
    X.loc[split:, "v2"] = np.nan
    if left == "a constant":
        X.loc[20:29, "v2"] = 1.0
    answers = Oracle({"v0": {"v1", "v2"}, "v1": {"v2"}, "v2": {"v1"}})
    graph = markov_blanket_graph(X, selector=answers, parents=True, random_state=0)
    assert graph.local_parents[0].parents == ()
    assert graph.local_parents[0].reason == "no part of the blanket looks like parents"


def test_a_selector_without_support_is_refused_at_once():
    with pytest.raises(TypeError, match=r"(?s)selector is Pipeline.*get_support"):
        markov_blanket_graph(frame_of(3), selector=make_pipeline(MarkovBlanketSelector()))
