"""One forward step: every path gives the integers of a brute force, however it is cut and wherever it runs."""

import sys

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpreters import compiled_only

import codec
from codec import _neighbors, foci


# ------------------------------------------------------------------- the slow truth
def brute_force(columns, scale, nominal, y, nominal_y, chosen, k):
    """K * A * one of the chosen columns: all distances, a block of rows at a time.

    Tied neighbours share the places that are left; each row's fraction is rounded once, half up.
    """
    n = y.size
    one = 2 ** (61 - n.bit_length())
    count = (
        np.array([np.sum(y == value) for value in y]) if nominal_y else np.array([np.sum(y <= value) for value in y])
    )
    total = 0
    for rows in np.array_split(np.arange(n), max(1, n // 256)):
        distance = np.zeros((rows.size, n))
        for j in chosen:
            gap = columns[j, rows][:, None] - columns[j]
            distance += scale[j] * np.where(gap != 0, 1.0, 0.0) if nominal[j] else scale[j] * (gap * gap)
        distance[np.arange(rows.size), rows] = np.inf
        kth = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
        strict, tied = distance < kth, distance == kth
        if nominal_y:
            value = np.where(y[rows][:, None] == y, count[rows][:, None], 0)
        else:
            value = np.minimum(count[rows][:, None], count)
        total += one * int((strict * value).sum())
        sums = zip(k - strict.sum(axis=1), (tied * value).sum(axis=1), tied.sum(axis=1), strict=True)
        for places, tied_sum, n_tied in (map(int, triple) for triple in sums):
            total += (2 * one * places * tied_sum + n_tied) // (2 * n_tied)
    return total


class Case:
    """A table, a response, and the sums of one step on any path."""

    def __init__(self, columns, y, *, nominal_y=False, scale=None, nominal=()):
        p = len(columns)
        self.columns = np.ascontiguousarray(columns, dtype=float)
        self.y, self.nominal_y = np.asarray(y, dtype=float), nominal_y
        self.scale = np.ones(p) if scale is None else np.asarray(scale, dtype=float)
        self.nominal = np.isin(np.arange(p), list(nominal))
        self.response = _neighbors.make_response(self.y, nominal=nominal_y)
        self.points = _neighbors.Geometry(self.columns[:, self.response.order], self.scale, self.nominal)

    def sums(self, base, candidates, k, **options):
        return _neighbors.candidate_sums(self.points, self.response, base, candidates, k, **options)

    def slow(self, base, candidates, k):
        table = (self.columns, self.scale, self.nominal, self.y, self.nominal_y)
        return [brute_force(*table, [*base, j], k) for j in candidates]

    def paths(self, base, candidates, k):
        """The paths that can serve these candidates; None is the engine's own choice."""
        paths = [None, "tree"]
        if not base:
            return [*paths, "sort"]
        if not self.nominal[candidates].any():
            paths.append("lists")
            if len(base) == 1 and k == 1 and not self.nominal[base[0]]:
                paths.append("strips")
        return paths


def assert_all_equal(case, base, candidates, k):
    """Assert that every path gives the integers of the brute force."""
    expected = case.slow(base, candidates, k)
    for path in case.paths(base, candidates, k):
        assert case.sums(base, candidates, k, path=path) == expected, path


# -------------------------------------------------------------------- adversarial data
def clustered(rng, p, n):
    return rng.normal(size=(p, 5))[:, rng.integers(5, size=n)] + 1e-7 * rng.normal(size=(p, n))


def duplicated(rng, p, n):
    """Nine rows of ten are copies of a few."""
    columns = rng.normal(size=(p, n))
    copies = rng.random(n) < 0.9
    columns[:, copies] = rng.normal(size=(p, 3))[:, rng.integers(3, size=int(copies.sum()))]
    return columns


def one_column_rules(rng, p, n):
    columns = rng.normal(size=(p, n))
    columns[rng.integers(p)] *= 1e12
    return columns


def subnormal_gaps(rng, p, n):
    """Gaps whose squares are subnormal or zero beside gaps of one."""
    tiny = rng.integers(0, 9, size=(p, n)) * 10.0 ** rng.integers(-163, -158, size=(p, 1))
    return np.where(rng.random((p, n)) < 0.7, tiny, np.round(rng.normal(size=(p, n))))


def last_bits(rng, p, n):
    """Values a few ulp apart: many gaps differ and round to one square."""
    return 1.0 + rng.integers(0, 40, size=(p, n)) * np.finfo(float).eps


def copies_of_columns(rng, p, n):
    """Columns that occur twice, a constant one, and one that is a monotone map of another."""
    columns = rng.normal(size=(p, n))[rng.integers(max(1, p // 2), size=p)]
    columns[-1] = 3.0
    columns[0] = np.exp(columns[p // 2])
    return columns


GEOMETRIES = {
    "continuous": lambda rng, p, n: rng.normal(size=(p, n)),
    "clustered": clustered,
    "lattice": lambda rng, p, n: rng.integers(0, 5, size=(p, n)).astype(float),
    "duplicated": duplicated,
    "cauchy": lambda rng, p, n: rng.standard_cauchy(size=(p, n)),
    "one column 1e12": one_column_rules,
    "0-1": lambda rng, p, n: rng.integers(0, 2, size=(p, n)).astype(float),
    "subnormal gaps": subnormal_gaps,
    "last bits": last_bits,
    "copies": copies_of_columns,
}
RESPONSES = {
    "distinct": lambda rng, n: rng.permutation(n),
    "counts": lambda rng, n: rng.poisson(2, n),
    "classes": lambda rng, n: rng.integers(0, 4, n),
}


def draw_case(geometry, response, rng, p, n, **options):
    y = RESPONSES[response](rng, n)
    return Case(GEOMETRIES[geometry](rng, p, n), y, nominal_y=response == "classes", **options)


# ------------------------------------------------------------ every path, every geometry
@given(
    geometry=st.sampled_from(sorted(GEOMETRIES)),
    response=st.sampled_from(sorted(RESPONSES)),
    n=st.integers(3, 90),
    d=st.integers(0, 6),
    n_candidates=st.sampled_from([1, 2, 15, 16, 17, 33]),
    weights=st.sampled_from(["equal", "different"]),
    data=st.data(),
)
def test_small_steps(geometry, response, n, d, n_candidates, weights, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    k = data.draw(st.sampled_from(sorted({min(k, n - 1) for k in (1, 2, 10, int(n**0.5), n - 1)})), label="k")
    p = d + n_candidates
    scale = None if weights == "equal" else rng.uniform(0.1, 10, size=p)
    case = draw_case(geometry, response, rng, p, n, scale=scale)
    order = rng.permutation(p).tolist()
    assert_all_equal(case, order[:d], order[d:], k)


@given(
    n=st.integers(3, 90),
    d=st.integers(0, 3),
    n_nominal=st.integers(1, 5),
    k=st.sampled_from([1, 2, 7]),
    response=st.sampled_from(sorted(RESPONSES)),
    seed=st.integers(0, 2**32 - 1),
)
def test_nominal_columns(n, d, n_nominal, k, response, seed):
    # Categories among the selected columns and among the candidates, beside lattices and numbers.
    rng = np.random.default_rng(seed)
    p = d + 4
    columns = np.where(rng.random((p, 1)) < 0.5, rng.integers(0, 3, size=(p, n)), rng.normal(size=(p, n)))
    nominal = rng.permutation(p)[:n_nominal]
    columns[nominal] = rng.integers(0, 4, size=(nominal.size, n))
    case = Case(columns, RESPONSES[response](rng, n), nominal_y=response == "classes", nominal=nominal)
    candidates = list(range(d, p))
    numbers = [j for j in candidates if not case.nominal[j]]
    k = min(k, n - 1)
    assert_all_equal(case, list(range(d)), candidates, k)
    if numbers:
        assert_all_equal(case, list(range(d)), numbers, k)


@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
@pytest.mark.parametrize("n", [33, 500])
def test_steps_of_every_geometry(geometry, n, global_random_seed):
    rng = np.random.default_rng([global_random_seed, n])
    for d, k, response in [
        (0, 10, "counts"),
        (1, 1, "distinct"),
        (1, 10, "classes"),
        (2, 1, "classes"),
        (2, int(n**0.5), "distinct"),
        (3, 2, "counts"),
        (4, 1, "counts"),
        (6, 1, "distinct"),
    ]:
        n_candidates = 5 if k == 1 else 2
        case = draw_case(geometry, response, rng, d + n_candidates, n, scale=rng.uniform(0.5, 2, d + n_candidates))
        assert_all_equal(case, list(range(d)), list(range(d, d + n_candidates)), k)


@pytest.mark.parametrize("n_candidates", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("d", [1, 2])
def test_blocks_that_are_not_full(n_candidates, d):
    rng = np.random.default_rng([n_candidates, d])
    case = draw_case("continuous", "distinct", rng, d + n_candidates, 150)
    assert_all_equal(case, list(range(d)), list(range(d, d + n_candidates)), 1)


@pytest.mark.parametrize("n", [3, 4, 5, 31, 32, 33, 64, 65, 127, 129, 257])
def test_sizes_around_a_leaf(n):
    rng = np.random.default_rng(n)
    for geometry in ("continuous", "lattice"):
        case = draw_case(geometry, "counts", rng, 6, n)
        for d in (0, 1, 2, 3):
            for k in {1, 2, n - 1}:
                assert_all_equal(case, list(range(d)), list(range(d, 6)), k)


@pytest.mark.parametrize("k", [1, 5])
def test_thirty_dimensions(k):
    rng = np.random.default_rng([30, k])
    for geometry in ("continuous", "0-1", "cauchy"):
        case = draw_case(geometry, "distinct", rng, 32, 300)
        assert_all_equal(case, list(range(29)), [29, 30, 31], k)


@pytest.mark.parametrize("geometry", ["continuous", "duplicated", "cauchy", "one column 1e12"])
def test_a_few_thousand_rows(geometry):
    rng = np.random.default_rng(2000)
    case = draw_case(geometry, "distinct", rng, 6, 2000)
    for d, k in [(1, 1), (2, 1), (3, 1), (1, 44), (2, 10)]:
        candidates = list(range(d, 6 if k == 1 else d + 1))
        expected = case.sums(list(range(d)), candidates, k, path="tree")
        assert case.slow(list(range(d)), candidates[:1], k) == expected[:1]
        for path in case.paths(list(range(d)), candidates, k):
            assert case.sums(list(range(d)), candidates, k, path=path) == expected, (path, d, k)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a path that is forced takes 20 s a step where all of 20,000 rows tie
@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
@pytest.mark.parametrize("response", sorted(RESPONSES))
@pytest.mark.parametrize("n", [5000, 20_000])
def test_many_rows(geometry, response, n):
    # Only the paths against each other: the tree has been held against the brute force above.
    rng = np.random.default_rng(n)
    case = draw_case(geometry, response, rng, 12, n)
    for d in range(1, 7):
        for k in (1, 10) if n > 5000 else (1, 2, 10, 70):
            candidates = list(range(d, 12 if k == 1 else d + 2))
            expected = case.sums(list(range(d)), candidates, k, path="tree")
            for path in case.paths(list(range(d)), candidates, k):
                assert case.sums(list(range(d)), candidates, k, path=path) == expected, (path, d, k)


def test_paths_that_cannot_serve_say_so():
    rng = np.random.default_rng(0)
    case = Case(rng.integers(0, 3, size=(5, 40)), rng.normal(size=40), nominal=[4])
    refused = [
        ("sort", [0], [1], 1, {}),
        ("sort", [], [1], 1, {"random": True}),
        ("strips", [], [1], 1, {}),
        ("strips", [0, 1], [2], 1, {}),
        ("strips", [0], [1], 2, {}),
        ("strips", [0], [4], 1, {}),
        ("strips", [4], [0], 1, {}),
        ("lists", [], [1], 1, {}),
        ("lists", [0], [4], 1, {}),
        ("lists", [0], [1], 1, {"random": True}),
    ]
    for path, base, candidates, k, options in refused:
        with pytest.raises(ValueError, match=path.rstrip("s") if path != "sort" else "sort"):
            case.sums(base, candidates, k, path=path, **options)


def test_the_shares_of_a_step_add_up_to_one():
    rng = np.random.default_rng(1)
    case = Case(rng.normal(size=(40, 300)), rng.permutation(300), nominal=[39])
    case.columns[39] = rng.integers(0, 3, size=300)
    for base in ([], [0], [0, 1]):
        candidates = list(range(len(base), 40))
        for path in [None, *case.paths(base, candidates, 1)]:
            shares = []
            case.sums(base, candidates, 1, path=path, advance=shares.append)
            assert sum(shares) == pytest.approx(1, abs=1e-12)
            assert min(shares) > 0


# -------------------------------------------------------------- however the work is cut
CUTS = {
    "a task for every row": {"ROWS_PER_TASK": 1.0},
    "few tasks": {"ROWS_PER_TASK": 1e15, "MIN_TASKS": 1},
    "three tasks": {"ROWS_PER_TASK": 1e15, "MIN_TASKS": 3},
    "a block of candidates at a time": {"LIST_BYTES": 1},
    "narrow strips": {"STRIP_FACTOR": 0.0},
    "one strip": {"STRIP_FACTOR": 1e9},
    "lists of one entry": {"list_length": lambda *_: 1},
    "lists of two entries": {"list_length": lambda *_: 2},
    "lists of K entries": {"list_length": lambda *of: of[-1]},
    "lists of everyone": {"list_length": lambda *of: of[0] - 1},
    "a tree in three runs": {"WORTH_RUNS": 1, "ROWS_PER_TASK": 1e15, "MIN_TASKS": 3},
    "a tree in many runs": {"WORTH_RUNS": 1, "ROWS_PER_TASK": 1.0},
    "no K are a few": {"FEW": 1},
    "every K is a few": {"FEW": 10**6},
    "a few neighbours in lists of everyone": {"FEW": 10**6, "list_length": lambda *of: of[0] - 1},
    "many neighbours in lists of everyone": {"FEW": 1, "list_length": lambda *of: of[0] - 1},
    "a few neighbours in lists of two entries": {"FEW": 10**6, "list_length": lambda *_: 2},
    "many neighbours in lists of two entries": {"FEW": 1, "list_length": lambda *_: 2},
}


@pytest.mark.parametrize("cut", sorted(CUTS))
@pytest.mark.parametrize("geometry", ["continuous", "lattice", "duplicated"])
def test_any_cut_gives_the_same(cut, geometry, monkeypatch):
    rng = np.random.default_rng(7)
    case = draw_case(geometry, "counts", rng, 38, 300)
    steps = [([0], 1), ([0, 1], 1), ([2, 0, 1], 1), ([0], 4), ([1, 0], 4), ([1], 60), ([1, 2, 0], 60)]
    steps = [(base, list(range(len(base), 38 if k == 1 else 6)), k) for base, k in steps]
    expected = [case.sums(*step, path="tree") for step in steps]
    drawn = [case.sums(base, candidates[:3], k, random=True, seed=5) for base, candidates, k in steps]
    for name, value in CUTS[cut].items():
        monkeypatch.setattr(_neighbors, name, value)
    assert [case.sums(base, candidates[:3], k, random=True, seed=5) for base, candidates, k in steps] == drawn
    for step, sums in zip(steps, expected, strict=True):
        for path in case.paths(*step):
            assert case.sums(*step, path=path) == sums, path


# ---------------------------------------------------------------- wherever the work runs
BACKENDS = [("threading", 1), ("threading", 2), ("threading", -1), ("loky", 2), ("sequential", 1)]
STEPS = [("sort", [], 3), ("tree", [0, 1], 1), ("strips", [0], 1), ("lists", [0, 1], 1), ("lists", [1, 0, 2], 5)]


def ragged_case(n=400):
    rng = np.random.default_rng(8)
    columns = rng.normal(size=(21, n))
    columns[5] = np.round(columns[5])
    return Case(columns, rng.poisson(9, size=n))


@pytest.mark.parametrize(("backend", "n_jobs"), BACKENDS)
def test_same_bits_for_any_backend(backend, n_jobs):
    case = ragged_case()
    steps = [((base, list(range(3, 21)), k), path) for path, base, k in STEPS]
    expected = [case.sums(*step, path=path) for step, path in steps]
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
        assert [case.sums(*step, path=path) for step, path in steps] == expected
    assert [case.sums(*step, path=path, n_jobs=n_jobs) for step, path in steps] == expected


@compiled_only
def test_same_bits_on_dask_processes():
    distributed = pytest.importorskip("distributed")
    case = ragged_case()
    cluster = {"processes": True, "n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**cluster) as local, distributed.Client(local):
        for path, base, k in STEPS:
            expected = case.sums(base, list(range(3, 21)), k, path=path)
            with joblib.parallel_config(backend="dask"):
                assert case.sums(base, list(range(3, 21)), k, path=path) == expected, path


def test_what_is_sent_tells_its_size():
    # Dask asks for it: small arguments travel with every task, large ones once.
    case = ragged_case()
    step = _neighbors.Step(case.points, case.response, [0, 1], [2, 3], 1, False, 0)
    columns = case.points.columns.nbytes
    assert columns < sys.getsizeof(case.points) < sys.getsizeof(step) < 1.5 * columns
    selected = _neighbors._selected(step)
    assert sys.getsizeof(selected) > selected.laid.nbytes + sum(part.nbytes for part in selected.tree[:-1])


@compiled_only
def test_inputs_on_disk(tmp_path):
    # Read-only memory maps: as the caller's table, and as joblib hands large arrays to its processes.
    rng = np.random.default_rng(9)
    X = rng.normal(size=(9000, 17))
    y = X[:, 0] * X[:, 1] + X[:, 2]
    for name, array in (("X", X), ("y", y)):
        np.save(tmp_path / f"{name}.npy", array)
    on_disk = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "y")]
    alone = foci(X, y, max_features=3)
    assert foci(*on_disk, max_features=3).cumulative.tolist() == alone.cumulative.tolist()
    with joblib.parallel_config(backend="loky", n_jobs=1):
        assert foci(*on_disk, max_features=3).cumulative.tolist() == alone.cumulative.tolist()


# ------------------------------------------------------------------- one column without ties, and almost without
ALMOST = {
    "no ties": np.random.default_rng(0).normal(size=50),
    "two rows": np.array([3.0, -1.0]),
    "three rows": np.array([0.0, 5.0, 1.0]),
    "equal values at the ends": np.array([0.0, 0.0, 1.0, 3.0, 7.0, 7.0]),
    "equal gaps": np.array([0.0, 1.0, 2.0, 10.0, 30.0]),
    "gaps that round to one square": np.array([0.0, 1.0, 1.0 + 2.0**-52, 7.0, 7.0 - 2.0**-50, 20.0]),
    "squares that vanish": np.array([0.0, 1e-170, 3e-170, 1e-160, 1.0, 3.0]),
    "squares that nearly vanish": np.array([0.0, 1e-150, 3e-150, 7e-150, 1e-140, 1.0]),
}


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("name", ALMOST)
def test_one_column_equals_brute_force(name, scale):
    x = ALMOST[name]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(x.size)
        case = Case([x[order]], np.random.default_rng(seed).integers(0, 9, x.size), scale=[scale])
        assert case.sums([], [0], 1) == case.slow([], [0], 1)


@pytest.mark.parametrize("run", ["codec_test", "codec_test_many"])
def test_interrupt_of_a_test_that_numba_wraps(run, monkeypatch):
    # Ctrl-C while a compiled function boxes its results arrives as a SystemError.
    def collect(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr(sys.modules["codec._inference"], "collect", collect)
    monkeypatch.setattr(sys.modules["codec._many"], "collect", collect)
    rng = np.random.default_rng(0)
    with pytest.raises(KeyboardInterrupt):
        getattr(codec, run)(rng.normal(size=60), rng.normal(size=(60, 2)), rng=0)
