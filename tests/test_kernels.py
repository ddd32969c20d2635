"""Compiled loops: equal to their own Python source, right where sums are huge; a light, frugal import."""

import contextlib
import copy
import inspect
import math
import sys
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
import reference_impl as reference
from interpreters import assert_no_matrix_of_all_pairs, compiled_only, linux_only, run_python
from marks import slowly

from codec import _kernels, _neighbors, _validation, codec, foci

LARGE = 3_000_000


MODULES = [
    m
    for m in map(
        sys.modules.get, ("codec._kernels", "codec._tree_kernels", "codec._list_kernels", "codec._step_kernels")
    )
    if m is not None
]


def kernels():
    """Return every compiled function of the kernel modules by its full name."""
    found = [f for module in MODULES for f in vars(module).values() if hasattr(f, "py_func")]
    names = [f"{f.py_func.__module__.rpartition('.')[2]}.{f.py_func.__name__}" for f in found]
    own = tuple(module.__name__.rpartition(".")[2] for module in MODULES)
    return {name: f for name, f in zip(names, found, strict=True) if name.startswith(own)}


@contextlib.contextmanager
def python_instead(wrap=lambda _name, source: source):
    """Let the Python sources stand wherever a module of the package names a kernel."""
    sources = {id(kernel): wrap(name, kernel.py_func) for name, kernel in kernels().items()}
    package = [module for name, module in sys.modules.items() if name.startswith("codec.")]
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
        for module in package:
            for name, value in list(vars(module).items()):
                if id(value) in sources:
                    patch.setattr(module, name, sources[id(value)])
        yield


# --------------------------------------------------------------- equal to their source
# The Python sources of all kernels replace the compiled ones, a few small problems run
# through them, and every call is kept: arguments before and after, result. Then the
# compiled kernel gets the same arguments and must give the same, in every bit.

KEPT_CALLS = 60


def small_problems():
    """Run every path of the search on small data."""
    rng = np.random.default_rng(0)
    n = 70  # three leaves
    columns = {
        "continuous": rng.normal(size=(n, 3)),
        "lattice": rng.integers(0, 3, size=(n, 3)).astype(float),
        "duplicated": rng.normal(size=(9, 6))[rng.integers(9, size=n)],
        "constant": np.ones((n, 2)),
    }
    ordered, classes = rng.integers(0, 9, size=n), rng.integers(0, 3, size=n)
    for X in columns.values():
        for k in (1, 30):
            for ties in ("average", "random"):
                codec(ordered, X, n_neighbors=k, ties=ties, rng=0)
                codec(ordered, X[:, 0], n_neighbors=k, ties=ties, rng=0)
            codec(classes, X, n_neighbors=k, nominal_y=True)
            codec(classes, X[:, 0], n_neighbors=k, nominal_y=True)
    import pandas as pd

    frame = pd.DataFrame({"c": pd.Categorical(classes), "x": columns["lattice"][:, 0]})
    for k in (1, 40):
        codec(ordered, frame, n_neighbors=k)
        codec(ordered, frame.c, n_neighbors=k)
        codec(classes, frame.c, n_neighbors=k, nominal_y=True)
    foci(columns["continuous"], ordered + 0.01 * columns["continuous"][:, 0], max_features=2)
    foci(columns["lattice"], ordered, stop=False, n_neighbors=3)
    for table in (rng.normal(size=(120, 6)), rng.integers(0, 12, size=(120, 6)).astype(float)):
        for base, k, paths in STEPS:
            assert len({tuple(step_sums(table, base, k, path)) for path in paths}) == 1


STEPS = [
    ([0], 1, ("tree", "strips", "lists")),
    ([0], 4, ("tree", "lists")),
    ([0, 1], 1, ("tree", "lists")),
    ([2, 0, 1], 3, ("tree", "lists")),
    ([0], 40, ("tree", "lists")),
    ([1, 0], 40, ("tree", "lists")),
]


def step_sums(X, base, k, path):
    """Sums of all candidates of one step, the neighbours found on the path asked for."""
    if "path" not in inspect.signature(_neighbors.candidate_sums).parameters:
        return []
    table = _validation.read_table(X, "X")
    response = _neighbors.make_response(np.arange(len(X)) % 31 + 0.0, nominal=False)
    points = _neighbors.lay_columns(table, np.ones(X.shape[1]), response)
    candidates = [j for j in range(X.shape[1]) if j not in base]
    sums = _neighbors.candidate_sums(points, response, base, candidates, k, path=path)
    best = _neighbors.candidate_sums(points, response, base, candidates, k, path=path, best_only=True)
    assert max(best) == max(sums)
    return sums


@pytest.fixture(scope="module")
def recorded_calls():
    """Calls of each kernel's Python source: (arguments before, arguments after, result)."""
    calls = defaultdict(list)
    counts = defaultdict(int)

    def recorder(name, source):
        def run(*arguments):
            counts[name] += 1
            # The first calls, then ever fewer of them: later problems have their share.
            wanted = len(calls[name]) < KEPT_CALLS and (counts[name] < 8 or counts[name] % 37 == 0)
            before = copy.deepcopy(arguments) if wanted else None
            result = source(*arguments)
            if wanted:
                calls[name].append((before, copy.deepcopy(arguments), copy.deepcopy(result)))
            return result

        return run

    with python_instead(recorder):
        small_problems()
    return calls


def uninitialised(name, result):
    """Drop from a result what the kernel leaves uninitialised on purpose."""
    kernel = name.rpartition(".")[2]
    if kernel in ("search_space", "list_space"):  # scratch: shapes and types only
        return shapes(result)
    if kernel == "build_tree":  # node 0 of the boxes does not exist
        return [a[1:] if isinstance(a, np.ndarray) and a.ndim == 2 else a for a in result]
    if kernel == "lay_out":
        return [result[0], uninitialised("build_tree", result[1]), *result[2:]]
    return result


def shapes(result):
    """Return shape and type of every array in nested tuples."""
    return [shapes(a) if isinstance(a, tuple) else (a.shape, a.dtype) for a in result]


def assert_same(a, b):
    """Assert equality of numbers, arrays and nested tuples of them."""
    if isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b or (a != a and b != b)


@compiled_only
@pytest.mark.parametrize("name", sorted(kernels()))
def test_kernel_equals_its_source(name, recorded_calls):
    kernel = kernels()[name]
    assert recorded_calls[name], "no small problem reaches this kernel"
    for before, after, result in recorded_calls[name]:
        arguments = copy.deepcopy(before)
        value = kernel(*arguments)
        assert_same(uninitialised(name, value), uninitialised(name, result))
        assert_same(arguments, after)


@compiled_only
def test_python_sources_give_the_same_values():
    rng = np.random.default_rng(1)
    X, y = rng.integers(0, 3, size=(50, 3)), rng.integers(0, 5, 50)
    compiled = [codec(y, X, n_neighbors=k) for k in (1, 3)]
    with python_instead():
        assert [codec(y, X, n_neighbors=k) for k in (1, 3)] == compiled
    assert compiled == pytest.approx([float(reference.codec(y, X, n_neighbors=k)) for k in (1, 3)], abs=1e-12)


@compiled_only
def test_kernels_are_lazy_and_free_of_the_lock():
    # An explicit signature costs 700 ms at import; candidates run in threads.
    assert kernels()
    for name, kernel in kernels().items():
        source = inspect.getsource(kernel.py_func).splitlines()[0]
        assert kernel.targetoptions.get("nogil"), name
        assert not kernel.targetoptions.get("parallel"), name  # prange in threads aborts the process
        assert not kernel.targetoptions.get("fastmath"), name  # ties are decided by exact sums
        assert source.startswith("@"), name


# ---------------------------------------------------------------------- n = 3,000,000


@pytest.mark.slow
def test_rank_sums_of_three_million_rows():
    # M = n (n + 1) / 2; D = sum L (n - L) = n (n^2 - 1) / 6, near the end of int64
    n = LARGE
    values = np.random.default_rng(0).permutation(n).astype(float)
    response = _neighbors.make_response(values, nominal=False)
    assert response.total == n * (n + 1) // 2
    assert response.spread == n * (n**2 - 1) // 6


def test_class_sums_of_three_million_rows():
    # Two equal classes: M = n^2 / 2, D = n^3 / 4 = 6.75e18
    n = LARGE
    response = _neighbors.make_response(np.arange(n) % 2 + 0.0, nominal=True)
    assert response.total == n**2 // 2
    assert response.spread == n**3 // 4


def test_sums_beyond_int64_are_exact():
    n = 4_000_000  # D = n^3 / 4 = 1.6e19
    response = _neighbors.make_response(np.arange(n) % 2 + 0.0, nominal=True)
    assert response.spread == n**3 // 4
    assert response.spread > np.iinfo(np.int64).max


@compiled_only
@pytest.mark.slow
def test_three_million_rows_closed_forms():
    n = LARGE
    y = np.arange(float(n))
    # as in test_properties: T = 1 - 3 n / (n^2 - 1) for equally spaced Z = Y ...
    assert codec(y, y) == pytest.approx(1 - 3 * n / (n**2 - 1), rel=0, abs=1e-13)
    # ... and everybody is a neighbour of everybody: T = -1 / (n - 1)
    assert codec(y, np.zeros(n)) == pytest.approx(-1 / (n - 1), rel=1e-6, abs=0)
    # Two classes of n / 2 in a row: one row at each side of the border has one neighbour
    # of either class, M - A = n / 2 and T = 1 - n (n / 2) / (n^3 / 4) = 1 - 2 / n.
    assert codec(y >= n // 2, y, nominal_y=True) == pytest.approx(1 - 2 / n, rel=0, abs=1e-14)


@compiled_only
@pytest.mark.slow
def test_three_million_rows_without_ties():
    # Neighbours by sorting, sums of Python integers: T = 1 - n (M - A) / D
    n = LARGE
    rng = np.random.default_rng(2)
    z, y = rng.random(n), rng.permutation(n)
    order = np.argsort(z)
    rank, gap = y[order] + 1, np.diff(z[order])
    assert gap.min() > 0
    left, right = np.r_[np.inf, gap], np.r_[gap, np.inf]
    neighbor = np.where(left < right, np.r_[0, rank[:-1]], np.r_[rank[1:], 0])
    a, m, d = int(np.minimum(rank, neighbor).sum()), n * (n + 1) // 2, n * (n**2 - 1) // 6
    assert codec(y, z) == pytest.approx(float(1 - Fraction(n * (m - a), d)), rel=0, abs=1e-13)


@compiled_only
def test_very_many_neighbors_never_overflow_silently():
    # K n^2 is above 2^63 here: the right value or an error, but no wrapped integer.
    n, k = LARGE, 2_500_000
    try:
        value = codec(np.arange(float(n)), np.zeros(n), n_neighbors=k)
    except ValueError as error:
        message = str(error)
        value = -1 / (n - 1) if "n_neighbors" in message else math.nan
    assert value == pytest.approx(-1 / (n - 1), rel=1e-6, abs=0)


def test_shares_of_tied_neighbors_at_three_million_rows():
    # strict + places * tied / n_tied at its largest: every value near n, thousands of places
    n = LARGE
    one = int(_kernels.fixed_point(n))
    assert n * one < 2**63
    rng = np.random.default_rng(3)
    for _ in range(200):
        n_tied = int(rng.integers(2, n))
        places = int(rng.integers(1, min(n_tied, 2000)))
        tied = int(rng.integers(0, n * n_tied))
        strict = int(rng.integers(0, 2000 * n))
        whole, part = _kernels.add_share(strict, places, tied, n_tied, one)
        exact = strict + Fraction(places * tied, n_tied)
        assert 0 <= part <= one
        assert abs(int(whole) + Fraction(int(part), one) - exact) <= Fraction(1, 2 * one)


# ------------------------------------------------------------------ fresh interpreters


def test_import_is_light():
    heavy = {"torch", "matplotlib", "statsmodels", "polars", "pyarrow.parquet", "distributed", "tqdm", "IPython"}
    loaded = set(run_python("import codec, sys; print(*sys.modules, sep='\\n')").split())
    assert "codec._kernels" in loaded
    assert loaded & heavy == set()


def test_import_needs_no_heavy_package():
    # Not only unused: absent. What core users did not install is never asked for.
    code = """
        import sys
        absent = {"torch", "matplotlib", "statsmodels", "polars", "dask", "distributed", "tqdm", "pyarrow"}
        class Nowhere:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in absent:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Nowhere())
        import numpy as np
        import codec
        rng = np.random.default_rng(0)
        X = rng.normal(size=(60, 3))
        path = codec.foci(X, X[:, 1], verbose=True)
        codec.MarkovBlanketSelector("foci").fit(X, X[:, 1])
        print(path.order.tolist())
    """
    assert "1" in run_python(code)


@compiled_only
def test_one_normal_form_reaches_the_kernels():
    # Every further layout or dtype would be compiled anew (300 ms each).
    code = """
        import numpy as np, pandas as pd
        from codec import codec, foci, lfoci, _kernels, _tree_kernels
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(60, 3)), rng.integers(0, 4, 60)
        fixed = X.copy(); fixed.flags.writeable = False
        forms = [X, X.astype("f4"), np.asfortranarray(X), fixed, X[::-1], X > 0, pd.DataFrame(X),
                 np.round(X).astype(int), pd.DataFrame({"a": pd.Categorical(y), "b": X[:, 0]})]
        for form in forms:
            for target in (y, y.astype("u1"), y > 1, y.astype(str)):
                codec(target, form)
                codec(target, form, given=X[:, 0], n_neighbors=3, ties="random", rng=1)
                foci(form, target, standardize=None, n_jobs=2)
                lfoci(form, target, standardize="bounded", rng=np.random.default_rng(0))
            both = {**vars(_kernels), **vars(_tree_kernels)}.items()
            used = {n: len(f.signatures) for n, f in both if hasattr(f, "py_func")}
            print({n: c for n, c in used.items() if n in ("sorted_sums", "tree_sums")})
    """
    assert "{'sorted_sums': 1, 'tree_sums': 1}" in run_python(code)


@compiled_only
@linux_only
@pytest.mark.parametrize("n_columns", [3, slowly(1), slowly(16)])
def test_no_matrix_of_all_pairs(n_columns):
    # 12,000 rows: one n x n matrix of doubles would be 1.15 GB; 400 MB are allowed.
    setup = f"""
        from codec import codec, foci
        rng = np.random.default_rng(0)
        X = rng.normal(size=(12_000, {n_columns}))
        y = X[:, 0] + rng.normal(size=12_000)

        def work(X, y):
            codec(y, X, n_neighbors=5)
            codec(np.round(y), np.round(X), given=X[:, :1])
            foci(X[:, :3], y, max_features=1)
    """
    assert_no_matrix_of_all_pairs(setup, 400)
