"""Simulations: their equations, their distributions in closed form, their blankets by the definition."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency, kstest

from codec import datasets
from codec.datasets import (
    make_bullseye,
    make_discrete_network,
    make_foci_model,
    make_gaussian_network,
    make_mlp_network,
    make_modular_sum,
    make_post_nonlinear,
    markov_blankets,
)

RAIN = {
    "rain": ([], [0.8, 0.2]),
    "sprinkler": (["rain"], [[0.6, 0.4], [0.99, 0.01]]),
    "wet": (["sprinkler", "rain"], [[[1.0, 0.0], [0.2, 0.8]], [[0.1, 0.9], [0.01, 0.99]]]),
    "slippery": (["wet"], [[0.95, 0.05, 0.0], [0.1, 0.3, 0.6]]),
}
MAKERS = [
    lambda seed: make_foci_model("power", 50, random_state=seed),
    lambda seed: make_bullseye(50, dim=2, random_state=seed),
    lambda seed: make_modular_sum(50, flip=0.1, random_state=seed),
    lambda seed: make_post_nonlinear("squared", 50, random_state=seed),
    lambda seed: make_mlp_network(50, 10, nominal=0.4, random_state=seed),
    lambda seed: make_gaussian_network(gaussian_nodes(5, 0), 50, random_state=seed),
    lambda seed: make_discrete_network(RAIN, 50, random_state=seed),
]


def gaussian_nodes(d, seed):
    """A random linear network as make_gaussian_network takes it."""
    rng = np.random.default_rng(seed)
    nodes = {}
    for v in range(d):
        above = rng.choice(v, min(v, int(rng.integers(0, 3))), replace=False) if v else []
        coef = {f"n{u}": float(rng.uniform(0.5, 1.5) * rng.choice([-1, 1])) for u in above}
        nodes[f"n{v}"] = {"intercept": float(rng.normal()), "coef": coef, "sd": float(rng.uniform(0.5, 2.0))}
    return nodes


def gaussian_moments(nodes):
    """Mean and covariance of X = a + B X + e: (I - B)^-1 a and (I - B)^-1 D (I - B)^-T."""
    names = list(nodes)
    B = np.array([[nodes[v]["coef"].get(u, 0.0) for u in names] for v in names])
    inverse = np.linalg.inv(np.eye(len(names)) - B)
    a = np.array([nodes[v]["intercept"] for v in names])
    D = np.diag([nodes[v]["sd"] ** 2 for v in names])
    return inverse @ a, inverse @ D @ inverse.T


# --------------------------------------------------------------------------- the blanket
@pytest.mark.parametrize("seed", range(4))
def test_blanket_is_the_smallest_set_that_separates(seed):
    """By the definition: all subsets, d-separation of the graph by networkx."""
    nx = pytest.importorskip("networkx")
    network = make_mlp_network(2, 7, random_state=seed).network
    graph = nx.DiGraph()
    graph.add_nodes_from(range(7))
    graph.add_edges_from((u, v) for v, above in enumerate(network.parents) for u in above)
    for v in range(7):
        others = [u for u in range(7) if u != v]
        sets = (set(s) for k in range(7) for s in itertools.combinations(others, k))
        smallest = next(s for s in sets if nx.is_d_separator(graph, {v}, set(others) - s, s) or s == set(others))
        assert tuple(sorted(smallest)) == network.blankets[v]


@pytest.mark.parametrize("seed", range(5))
def test_blanket_is_the_pattern_of_the_precision_matrix(seed):
    """Normal data: two variables are independent given all others where the precision is 0."""
    nodes = gaussian_nodes(8, seed)
    precision = np.linalg.inv(gaussian_moments(nodes)[1])
    blankets = make_gaussian_network(nodes, 2, random_state=0).network.blankets
    for v in range(8):
        expected = [u for u in range(8) if u != v and abs(precision[v, u]) > 1e-10]
        assert list(blankets[v]) == expected


def test_blanket_in_the_joint_distribution_of_tables():
    """Enumeration: P(node | all others) depends on the blanket alone, and on each of its members."""
    names = list(RAIN)
    tables = {v: np.asarray(t) for v, (_, t) in RAIN.items()}
    joint = np.zeros([tables[v].shape[-1] for v in names])
    for state in np.ndindex(joint.shape):
        at = dict(zip(names, state, strict=True))
        joint[state] = np.prod([tables[v][(*(at[u] for u in RAIN[v][0]), at[v])] for v in names])
    positive = 0.999 * joint + 0.001 * joint.sum() / joint.size
    assert joint.sum() == pytest.approx(1.0)
    assert positive.min() > 0
    blankets = make_discrete_network(RAIN, 2, random_state=0).network.blankets
    for v in range(4):
        others = [u for u in range(4) if u != v]
        with np.errstate(invalid="ignore"):
            given = joint / joint.sum(axis=v, keepdims=True)
        for u in others:
            along = np.moveaxis(given, u, 0)
            defined = ~np.isnan(along)
            changes = any(
                np.abs(a - b)[da & db].max(initial=0.0) > 1e-9
                for (a, da), (b, db) in itertools.combinations(zip(along, defined, strict=True), 2)
            )
            assert changes == (u in blankets[v])


def test_blankets_are_symmetric():
    blankets = make_mlp_network(2, 40, random_state=3).network.blankets
    assert all(v in blankets[u] for v in range(40) for u in blankets[v])
    assert markov_blankets([[], [0], [1]]) == ((1,), (0, 2), (1,))
    assert markov_blankets([]) == ()


# --------------------------------------------------------------------------- distributions
def test_gaussian_network_has_its_moments():
    nodes = gaussian_nodes(6, 1)
    shuffled = dict(reversed(nodes.items()))  # children before parents
    data = make_gaussian_network(shuffled, 100_000, random_state=0).network.data[list(nodes)].to_numpy()
    mean, covariance = gaussian_moments(nodes)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((data.mean(axis=0) - mean) / sd).max() < 5 / np.sqrt(len(data))
    assert np.abs((np.cov(data.T) - covariance) / np.outer(sd, sd)).max() < 10 / np.sqrt(len(data))


def test_discrete_network_has_its_tables():
    data = make_discrete_network(RAIN, 50_000, random_state=0).network.data
    for name, (parents, table) in RAIN.items():
        table = np.asarray(table)
        for state in np.ndindex(table.shape[:-1]):
            rows = (
                np.all([data[u] == s for u, s in zip(parents, state, strict=True)], axis=0) if parents else slice(None)
            )
            classes = data[name][rows].astype(int)
            share = np.bincount(classes, minlength=table.shape[-1]) / len(classes)
            assert np.abs(share - table[state]).max() < 5 * 0.5 / np.sqrt(len(classes))
    assert data.dtypes.map(lambda d: isinstance(d, pd.CategoricalDtype) and not d.ordered).all()


def test_modular_sum_hides_every_proper_subset():
    X, y, blanket = make_modular_sum(20_000, 4, n_terms=3, modulus=2, random_state=0)
    assert blanket == (0, 1, 2)
    assert np.array_equal(y, X[:, 0] ^ X[:, 1] ^ X[:, 2])
    for k in (1, 2):
        for subset in itertools.combinations(range(4), k):
            table = np.zeros((2**k, 2))
            np.add.at(table, (X[:, subset] @ (2 ** np.arange(k)), y), 1)
            assert chi2_contingency(table).pvalue > 1e-4
    X, y, _ = make_modular_sum(5000, 2, random_state=1)
    np.testing.assert_allclose(y, np.mod(X.sum(axis=1), 1.0))
    assert kstest(y, "uniform").pvalue > 1e-4
    y = make_modular_sum(4000, 2, modulus=2, flip=1.0, random_state=1)
    assert y.blanket == ()
    X, y, _ = make_modular_sum(4000, 2, modulus=2, flip=0.5, random_state=2)
    assert np.mean(y == X.sum(axis=1) % 2) == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / 4000))


def test_foci_models_are_their_equations():
    x, y, _ = make_foci_model("product", 100, random_state=0)
    np.testing.assert_allclose(y, x[:, 0] * x[:, 1] + np.sin(x[:, 0] * x[:, 2]))
    x, square, blanket = make_foci_model("square", 100, random_state=0)
    np.testing.assert_allclose(square - x[:, 3] ** 2, y)
    assert blanket == (0, 1, 2, 3)
    n = 20_000
    x, y, _ = make_foci_model("linear", n, random_state=0)
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(coefficients, [3, 2, -1, 0, 0, 0, 0, 0, 0, 0], atol=5 / np.sqrt(n))
    x, y, _ = make_foci_model("additive", n, random_state=0)
    rest = y - np.sin(x[:, 0]) - 2 * np.cos(x[:, 1]) - np.exp(x[:, 2])
    assert kstest(rest, "norm").pvalue > 1e-4
    x, y, _ = make_foci_model("logarithm", n, random_state=0)
    rest = y - 2 * np.log(4 - np.sin(x[:, 0]) + np.abs(x[:, 1]) + x[:, 2] ** 2)
    assert kstest(10 * rest, "norm").pvalue > 1e-4
    x, y, _ = make_foci_model("power", n, random_state=0)
    inner = x[:, 0] > 0  # |x + u| = x + u: solve for u
    u = y[inner] ** (1 / np.sin(x[inner, 1] - x[inner, 2])) - x[inner, 0]
    assert kstest(u[np.isfinite(u)], "uniform").pvalue > 1e-4


def test_bullseye_is_its_equations():
    n = 5000
    X, y, blanket = make_bullseye(n, noise=0.05, random_state=0)
    r1, r2, r3, r4, r5, r6 = X.T
    for rest in (r2 - r1, r3 - r1, r4 - r3, r5 - (r2 + r4) / 2, y - (r3 + r5) / 2, r6 - (r4 + y) / 2):
        assert kstest(rest, "uniform", (-0.05, 0.1)).pvalue > 1e-4
    assert np.all((r1 <= 0.5) | (r1 >= 0.75))
    # parents of 1, ..., 6 and y by their equations
    assert markov_blankets([[], [0], [0], [2], [1, 3], [3, 6], [2, 4]])[6] == blanket == (2, 3, 4, 5)
    points = make_bullseye(n, dim=3, noise=0.05, random_state=0)
    radii = np.stack([np.linalg.norm(points.X[:, list(g)], axis=1) for g in points.groups], axis=1)
    np.testing.assert_allclose(radii, X)
    np.testing.assert_array_equal(points.y, y)
    assert [points.names[j] for j in points.groups[2]] == ["p3_1", "p3_2", "p3_3"]
    assert points.blanket == tuple(j for g in blanket for j in points.groups[g])
    assert np.abs(points.X.mean(axis=0)).max() < 5 / np.sqrt(n)


def test_post_nonlinear_pairs_depend_as_they_say():
    """Given Z the transforms are increasing, so ranks of x in thin slices of Z are ranks of its noise."""
    n = 40_000
    signs = {}
    for kind in ("null", "shared", "squared"):
        X, y, blanket = make_post_nonlinear(kind, n, 1, random_state=5)
        assert blanket == ((1,) if kind == "null" else (0, 1))
        order = np.argsort(X[:, 1])
        ranks = [np.argsort(np.argsort(v[order].reshape(-1, 40), axis=1), axis=1) - 19.5 for v in (X[:, 0], y)]
        signs[kind] = [np.corrcoef(f(ranks[0]).ravel(), f(ranks[1]).ravel())[0, 1] for f in (np.asarray, np.abs)]
    limit = 5 / np.sqrt(n)
    assert max(map(abs, signs["null"])) < limit
    assert signs["shared"][0] > 0.15  # correlation of the noise .36 / 1.36 = .26
    assert abs(signs["squared"][0]) < limit < 0.1 < signs["squared"][1]


def test_mlp_network_is_scaled_and_its_noise_is_as_large_as_said():
    data = make_mlp_network(20_000, 12, noise=0.5, random_state=0)
    table = data.network.data.to_numpy()
    np.testing.assert_allclose(table.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(table.std(axis=0), 1.0)
    v = next(v for v, above in enumerate(data.network.parents) if len(above) == 1)
    x, y = table[:, data.network.parents[v][0]], table[:, v]
    slices = y[np.argsort(x)].reshape(-1, 40)
    assert slices.var(axis=1, ddof=1).mean() == pytest.approx(0.25 / 1.25, rel=0.1)  # noise^2 / (1 + noise^2)


def test_products_have_no_effect_of_one_parent_alone():
    for seed in range(20):
        network = make_mlp_network(4000, 6, mean_parents=3, products=1.0, random_state=seed).network
        v, above = next((v, a) for v, a in enumerate(network.parents) if len(a) == 2)
        if network.parents[above[0]] or network.parents[above[1]]:
            continue
        x1, x2, y = network.data.to_numpy()[:, [*above, v]].T
        assert abs(np.corrcoef(x1, y)[0, 1]) < 0.1
        assert np.corrcoef(np.sign(x1 * x2) * np.sqrt(np.abs(x1 * x2)), y)[0, 1] == pytest.approx(1.25**-0.5, abs=0.02)
        return
    pytest.fail("no product of two roots in 20 networks")


# --------------------------------------------------------------------------- the contract
@pytest.mark.parametrize("make", MAKERS)
def test_one_seed_one_data_set(make):
    first, again, other = make(7), make(7), make(8)
    pd.testing.assert_frame_equal(first.to_frame(), again.to_frame())
    assert not first.to_frame().equals(other.to_frame())
    X, y, blanket = first
    assert X.shape == (50, len(first.names))
    assert len(y) == 50
    assert sorted(j for g in first.groups for j in g) == list(range(X.shape[1]))
    assert set(blanket) <= set(range(X.shape[1]))
    assert first.to_frame().columns.tolist() == [*first.names, "y"]


def test_all_targets_share_one_network():
    a = make_mlp_network(30, 8, target="v2", random_state=4)
    b = make_mlp_network(30, 8, target=5, random_state=4)
    pd.testing.assert_frame_equal(a.network.data, b.network.data)
    np.testing.assert_array_equal(a.network.target(5).y, b.y)
    assert a.names == ("v0", "v1", "v3", "v4", "v5", "v6", "v7")
    assert {a.names[j] for j in a.blanket} == {f"v{u}" for u in a.network.blankets[2]}


def test_nominal_nodes_are_categories():
    data = make_mlp_network(300, 20, nominal=0.4, random_state=0).network.data
    nominal = [isinstance(d, pd.CategoricalDtype) for d in data.dtypes]
    assert sum(nominal) == 8
    target = next(c for c, is_nominal in zip(data.columns, nominal, strict=True) if is_nominal)
    made = make_mlp_network(300, 20, nominal=0.4, target=target, random_state=0)
    assert isinstance(made.y.dtype, pd.CategoricalDtype)
    assert isinstance(made.X, pd.DataFrame)


def test_every_name_of_the_room_is_there():
    assert all(hasattr(datasets, name) for name in datasets.__all__)


# --------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_foci_model("cubic"), "model is 'cubic'"),
        (lambda: make_foci_model("square", p=3), "p == 3, must be >= 4"),
        (lambda: make_foci_model(n=0), "n == 0"),
        (lambda: make_modular_sum(modulus=1), "modulus == 1"),
        (lambda: make_modular_sum(flip=2.0), "flip == 2"),
        (lambda: make_post_nonlinear("other"), "kind is 'other'"),
        (lambda: make_mlp_network(nominal=1.5), "nominal == 1.5"),
        (lambda: make_mlp_network(10, 4, mean_parents=-1), "mean_parents == -1"),
        (lambda: make_mlp_network(10, 4, mean_parents=np.nan), "mean_parents is nan; it must be finite"),
        (lambda: make_post_nonlinear(noise=-1), "noise == -1"),
        (lambda: make_gaussian_network({"a": {"sd": -1}}), "nodes: sd of 'a' == -1"),
        (
            lambda: make_gaussian_network({"a": {}, "b": {"coefs": {"a": 1.0}}}),
            "nodes: 'b' has the entry 'coefs'; it may",
        ),
        (lambda: make_mlp_network(10, 4, target="v9"), "target is 'v9'"),
        (lambda: make_mlp_network(10, 4, target=9), "target is 9"),
        (lambda: make_gaussian_network({"a": {"coef": {"b": 1.0}}}), "parent 'b' of 'a' is no node"),
        (lambda: make_gaussian_network({"a": {"coef": {"b": 1.0}}, "b": {"coef": {"a": 1.0}}}), "cycle"),
        (lambda: make_gaussian_network({"x": {}, "y": {}}, target="x").to_frame(), "a feature is called 'y'"),
        (lambda: make_gaussian_network({}), "nodes is empty"),
        (lambda: make_discrete_network({"a": ([], [0.5, 0.6])}), "must be at least 0 and sum to 1"),
        (lambda: make_discrete_network({"a": ([], [0.5, 0.5]), "b": (["a"], [1.0])}), "has shape"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_mlp_network(10, 4, target=1.5), "target is 1.5; it must be the name of a node or its index"),
        (lambda: make_gaussian_network({0: {}, 1: {"coef": {0: 1.0}}}), "the name 0 is no string; write '0'"),
        (lambda: make_discrete_network({0: ([], [0.5, 0.5])}), "the name 0 is no string"),
        (lambda: make_mlp_network(10, 4, noise="0.1"), "noise must be an instance of"),
    ],
)
def test_wrong_types_are_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("make", MAKERS)
def test_wrong_seeds_are_named(make):
    with pytest.raises(ValueError, match="random_state is -1; pass None, an int from 0 on"):
        make(-1)
    with pytest.raises(TypeError, match="random_state is 'x'"):
        make("x")


def test_numpy_scalars_are_numbers():
    made = make_mlp_network(20, 4, noise=np.float32(0.5), products=np.float64(0.25), target=np.int64(1), random_state=0)
    np.testing.assert_array_equal(made.X, make_mlp_network(20, 4, target=1, random_state=0).X)
    assert make_modular_sum(20, flip=np.float32(0.5), random_state=0).X.shape == (20, 10)
    assert make_bullseye(20, noise=np.float32(0.1), random_state=0).X.shape == (20, 6)


def test_two_simulations_can_be_compared():
    first, second = (make_mlp_network(20, 4, random_state=0) for _ in range(2))
    assert first != second
    assert first.network != second.network
    assert first == first
