"""Which units are chosen: against the statistics core, brute force and dense algebra."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from codec import foci, lfoci
from codec._neighbors import candidate_sums, lay_columns, make_response
from codec._validation import read_table
from codec.unlearn import Unlearner
from codec.unlearn._greedy import KfacGreedy, exchange, residual_greedy
from codec.unlearn._kfac import Factor
from codec.unlearn._nearest import DeviceSums, few_rows_sums, sums_by_sorting
from codec.unlearn._record import Record
from codec.unlearn._search import Evidence, default_budget, search
from codec.unlearn._slices import Slices
from codec.unlearn._units import Part, UnitLayer, find_units, unit_layer

CPU = torch.device("cpu")


def data(n=300, p=12, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, p)) @ rng.standard_normal((p, p))
    return A, A[:, 0] * A[:, 1] + np.sin(A[:, 2]) + 0.1 * rng.standard_normal(n)


def model():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))


def recording(A, y, units):
    rows = torch.zeros(len(y), dtype=torch.long)
    return Record(torch.tensor(A), torch.tensor(y), rows, "custom", "mean", units.labels(range(units.n_units)))


def evidence(A=None, y=None, norms=None, **more):
    units = find_units(model())
    if A is None:
        A, y = data()
    norms = torch.arange(units.n_units, 0.0, -1.0) if norms is None else torch.as_tensor(norms)
    return Evidence(units, norms, record=lambda: recording(A, y, units), **more)


# --------------------------------------------------------------------------- neighbours on a device
def laid(columns, y):
    response = make_response(np.asarray(y, float), nominal=False)
    scale = np.linspace(0.5, 2.0, columns.shape[1])
    return lay_columns(read_table(columns, "X"), scale, response), response


def columns_with(kind, n=40, p=7):
    rng = np.random.default_rng(5)
    if kind == "no ties":
        return rng.standard_normal((n, p)), rng.standard_normal(n)
    if kind == "ties":
        return rng.integers(0, 4, (n, p)), rng.integers(0, 5, n)
    columns = rng.standard_normal((n, p))
    columns[::3] = columns[0]  # rows at no distance
    return columns, rng.integers(0, 3, n)


@pytest.mark.parametrize("kind", ["no ties", "ties", "twins"])
@pytest.mark.parametrize("k", [1, 3, 39])
@pytest.mark.parametrize("base", [[], [4, 2]])
def test_sums_are_those_of_the_core(kind, k, base):
    points, response = laid(*columns_with(kind))
    candidates = [j for j in range(7) if j not in base]
    expected = candidate_sums(points, response, base, candidates, k)
    for memory in (2**28, 2**12):  # at once, and in small tiles
        found = DeviceSums(CPU, memory_limit=memory)(points, response, base, candidates, k)
        assert found == expected


@pytest.mark.parametrize("kind", ["no ties", "ties", "twins"])
@pytest.mark.parametrize("k", [1, 3, 10, 39])
@pytest.mark.parametrize("base", [[], [4], [4, 2, 0]])
@pytest.mark.parametrize("n", [40, 300])  # with 300 rows most of them are left out by the columns selected before
def test_sums_over_all_pairs_are_those_of_the_core(kind, k, base, n):
    points, response = laid(*columns_with(kind, n=n))
    candidates = [j for j in range(7) if j not in base]
    expected = candidate_sums(points, response, base, candidates, k)
    assert few_rows_sums(points, response, base, candidates, k) == expected


@pytest.mark.parametrize("factor", [0.0, 1e-160, 1e-8, 1e8, 1e150])
def test_sums_over_all_pairs_at_any_size_of_the_distances(factor):
    columns, y = columns_with("no ties", n=60)
    points, response = laid(columns * factor, y)
    expected = candidate_sums(points, response, [1, 3], [0, 2, 4], 5)
    assert few_rows_sums(points, response, [1, 3], [0, 2, 4], 5) == expected


def test_tiles_keep_to_the_memory_limit(monkeypatch):
    seen = []

    def spy(near, columns, scale, wanted, *rest):
        seen.append(len(wanted) * near.numel())
        return sums_by_sorting(near, columns, scale, wanted, *rest)

    points, response = laid(*columns_with("no ties"))
    limit = 2**15
    finder = DeviceSums(CPU, memory_limit=limit)
    monkeypatch.setattr("codec.unlearn._nearest.sums_by_sorting", spy)
    finder(points, response, [0], [1, 2, 3, 4, 5, 6], 3)
    assert sum(seen) == 6 * 40 * 40
    assert max(seen) * 8 * 4 <= limit


@pytest.mark.parametrize("k", [1, 10])
def test_picks_at_n_1000_are_those_of_the_core(k):
    A, y = data(1000, 12)
    noised = A + 1e-2 * A.std(0) * np.random.default_rng(1).standard_normal(A.shape)
    units = find_units(nn.Linear(2, 12))
    given = Evidence(units, torch.ones(12), record=lambda: recording(noised, y, units))
    options = {"selector": "lfoci", "scope": "all", "screen": None, "max_units": 3, "n_neighbors": k}
    expected = foci(noised, y, stop=False, max_features=3, n_neighbors=k)
    host = search(given, **options)
    device = search(given, **options, find=DeviceSums(CPU))
    single = search(given, **options, find=DeviceSums(CPU, torch.float32))
    assert host.units.tolist() == expected.order.tolist()
    assert device.units.tolist() == expected.order.tolist()
    assert single.units.tolist() == expected.order.tolist()  # no float32 ties in these data
    np.testing.assert_allclose(host.scores, expected.conditional, rtol=1e-6)
    assert torch.equal(host.scores, device.scores)


def test_noise_is_that_of_lfoci():
    A, y = data()
    A = np.round(A)  # ties: L-FOCI adds noise
    given = evidence(A, y)
    options = {"selector": "lfoci", "scope": "all", "screen": None, "max_units": 5}
    expected = lfoci(A, y, stop=False, max_features=5, n_neighbors=10, rng=np.random.default_rng(3))
    for find in (None, DeviceSums(CPU)):
        found = search(given, **options, find=find, generator=np.random.default_rng(3))
        assert found.units.tolist() == expected.order.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["no ties", "ties", "twins"])
@pytest.mark.parametrize("k", [1, 3, 10, 39])
@pytest.mark.parametrize("base", [[], [4], [4, 2]])
@pytest.mark.parametrize("lists", [False, True])
def test_sums_on_a_device_are_those_of_the_core(kind, k, base, lists):
    points, response = laid(*columns_with(kind))
    candidates = [j for j in range(7) if j not in base]
    expected = candidate_sums(points, response, base, candidates, k)
    for memory in (2**28, 2**12):
        finder = DeviceSums(torch.device("cuda"), memory_limit=memory, lists=lists)
        assert finder(points, response, base, candidates, k) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("k", [1, 10, 31])
@pytest.mark.parametrize("base", [[], [7], [7, 300, 2], [7, 300, 2, 11, 12, 13]])
def test_many_candidates_on_a_device(k, base):
    A, y = data(1000, 301)
    A[:, :40] = np.round(A[:, :40])
    points, response = laid(A, np.round(y, 1))
    candidates = [j for j in range(301) if j not in base]
    expected = candidate_sums(points, response, base, candidates, k)
    assert DeviceSums(torch.device("cuda"))(points, response, base, candidates, k) == expected


def test_nominal_columns_are_refused():
    points, response = laid(*columns_with("no ties"))
    points.nominal[2] = True
    with pytest.raises(ValueError, match="nominal"):
        DeviceSums(CPU)(points, response, [], [1, 2], 1)


# --------------------------------------------------------------------------- L-FOCI by layer
def test_screen_then_lfoci_in_each_layer():
    A, y = data()
    norms = torch.tensor([9.0, 8, 7, 6, 5, 0, 0, 0, 9, 8, 1, 0])  # eight and four units
    given = evidence(A, y, norms)
    found = search(given, max_units=5, screen=7, generator=np.random.default_rng(0))
    # The screen lets 0-4 and 8, 9 through; of its first five, 0, 1, 2 and 8, 9.
    first = foci(A[:, [0, 1, 2, 3, 4]], y, stop=False, max_features=3, n_neighbors=10).order
    second = foci(A[:, [8, 9]], y, stop=False, max_features=2, n_neighbors=10).order
    assert found.units.tolist() == [*first.tolist(), *(8 + second).tolist()]
    assert found.labels[-1].startswith("2[")
    assert "7 of 12 units by gradient norm; custom" in found.method
    assert list(found.to_frame().columns) == ["unit", "label", "score"]
    assert found.labels[0] in found._repr_html_()


def test_the_screen_can_be_the_kfac_models():
    A, y = data()
    given = evidence(A, y, kfac=lambda k: (torch.tensor([3, 9, 4, 8, 1])[:k], torch.ones(k)))
    found = search(given, max_units=4)
    # Of its first four, 3 and 4 are in the first layer, 9 and 8 in the second: two each, of 3, 4, 1 and of 9, 8.
    first = foci(A[:, [3, 4, 1]], y, stop=False, max_features=2, n_neighbors=10).order
    assert set(found.units.tolist()[:2]) == {[3, 4, 1][i] for i in first}
    assert set(found.units.tolist()[2:]) == {9, 8}
    assert "5 of 12 units by K-FAC decrement" in found.method
    more = search(given, max_units=6, screen=7, scope="all")  # K-FAC names five: the gradient norm adds 0 and 2
    assert set(more.units.tolist()) <= {3, 9, 4, 8, 1, 0, 2}
    plain = search(given, max_units=4, screen_by="gradient_norm")
    assert set(plain.units.tolist()) <= {0, 1, 2, 3, 4}


def test_no_screen_offers_every_unit():
    A, y = data()
    found = search(evidence(A, y, np.zeros(12)), max_units=3, screen=None, scope="all")
    assert found.units.tolist() == foci(A, y, stop=False, max_features=3, n_neighbors=10).order.tolist()
    assert "no screen" in found.method


def test_without_a_screen_gradients_decide_nothing():
    """Neither the candidates nor how many of them a layer has; every layer has its share."""
    A, y = data()
    first = foci(A[:, :8], y, stop=False, max_features=4, n_neighbors=10).order
    second = foci(A[:, 8:], y, stop=False, max_features=2, n_neighbors=10).order

    def forbidden(_):
        raise AssertionError("the screen was asked")

    for norms in (np.zeros(12), np.arange(12), np.arange(12)[::-1].copy()):
        given = evidence(A, y, norms, kfac=forbidden)
        found = search(given, max_units=6, screen=None, generator=np.random.default_rng(0))
        assert found.units.tolist() == [*first.tolist(), *(8 + second).tolist()]


def test_one_seed_gives_one_ranking():
    given = evidence(np.round(data()[0]), data()[1])
    first, second = (search(given, max_units=6, generator=np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(first.units, second.units)
    assert torch.equal(first.scores, second.scores)


def test_units_that_never_vary_come_last():
    A, y = data()
    A[:, :7] = 0.0  # dead, or not recorded
    found = search(evidence(A, y), max_units=8, screen=12, scope="layer")
    assert found.units.tolist() == [7, 0, 1, 2, 3, 4, 5, 6]  # what varies, then by gradient norm
    assert found.scores[1:].isnan().all()


def test_a_loss_that_never_varies_leaves_the_gradient_norm():
    A, _ = data()
    found = search(evidence(A, np.zeros(300)), max_units=3)
    assert found.units.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="nothing to choose from"):
        search(evidence(A, np.zeros(300)), selector="lfoci-pooled")


# --------------------------------------------------------------------------- the other selectors
def test_pooled_is_foci_with_one_neighbour_and_early_stop():
    A, y = data()
    expected = foci(A, y, n_neighbors=1).order.tolist()
    assert search(evidence(A, y), selector="lfoci-pooled").units.tolist() == expected
    assert search(evidence(A, y), selector="first-pick").units.tolist() == expected[:1]
    assert search(evidence(A, y), selector="lfoci-pooled", max_units=2).units.tolist() == expected[:2]


@pytest.mark.parametrize("max_units", [None, 2])
def test_pooled_chooses_one_unit_where_none_raises_t(max_units):
    """y alternates between 0 and 1 along every column, so that neighbours are unlike: T is below 0, least so for 7."""
    x = np.arange(60.0)
    A, y = np.repeat(x[:, None], 12, axis=1), x % 2 + 1e-3 * x
    A[[57, 58], 7] = A[[58, 57], 7]  # two pairs of neighbours are alike here
    assert foci(A, y, n_neighbors=1).order.size == 0
    found = search(evidence(A, y), selector="lfoci-pooled", max_units=max_units, generator=np.random.default_rng(0))
    assert found.units.tolist() == [7]
    assert float(found.scores[0]) < 0.0


def test_simple_selectors():
    norms = np.array([1.0, 5, 5, 2, 0, 0, 0, 0, 7, 0, 0, 0])
    given = evidence(norms=norms)
    assert search(given, selector="gradient_norm", max_units=3).units.tolist() == [8, 1, 2]
    assert search(given, selector="all").units.tolist() == list(range(12))
    drawn = search(given, selector="random", max_units=4, generator=np.random.default_rng(0))
    assert len(set(drawn.units.tolist())) == 4
    assert search(given, selector=lambda e, k: e.gradient_norms.argsort()[-k:], max_units=2).units.tolist() == [2, 8]
    assert default_budget(12) == 12
    assert default_budget(110) == 20
    assert default_budget(26560) == 162
    assert default_budget(110, 0.002) == 44
    assert default_budget(110, 0.005) == default_budget(110, 0.5) == 110


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selector": "best"}, "selector must be one of"),
        ({"scope": "block"}, "scope must be"),
        ({"max_units": 0}, "max_units is 0"),
        ({"screen": -1}, "screen is -1"),
        ({"screen_by": "size"}, "screen_by must be"),
        ({"n_neighbors": 0}, "n_neighbors is 0"),
        ({"selector": "kfac_greedy"}, "needs evidence"),
        ({"screen_by": "kfac_greedy"}, "needs evidence"),
        ({"selector": lambda _e, _k: []}, "at least one"),
        ({"selector": lambda _e, _k: [1, 1]}, "distinct"),
        ({"selector": lambda _e, _k: [12]}, "outside 0..11"),
        ({"selector": lambda _e, _k: [True, False]}, "distinct numbers of units"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(evidence(), **options)


@pytest.mark.parametrize("given", [None, {1, 2}, (unit for unit in (1, 2)), [[1], [2, 3]]])
def test_what_is_no_sequence_of_units_is_refused(given):
    def mine(_evidence, _max_units):
        return given

    with pytest.raises(TypeError, match=r"selector mine gave .*; it must give a sequence of numbers of units"):
        search(evidence(), selector=mine)


# --------------------------------------------------------------------------- greedy on the decrement
def kronecker_case(seed=0):
    """Two linear layers with random factors, a gradient, and the dense curvature of all units."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)).double()
    units = find_units(net)
    half = [torch.randn(9, d, dtype=torch.float64) for d in (4, 6, 7, 3)]
    a1, b1, a2, b2 = (h.T @ h / 9 for h in half)
    factors = [Factor("0.weight", "", a1, 5 * b1), Factor("2.weight", "2.bias", a2, 5 * b2)]
    gradient = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    return units, factors, gradient, [(b1, a1), (b2, a2)]


def decrement(units_, gradient, pairs, damping):
    """g_P^T (H_PP + mu I)^-1 g_P by dense algebra."""
    total = 0.0
    rows = [gradient["0.weight"], torch.cat([gradient["2.weight"], gradient["2.bias"][:, None]], 1)]
    for matrix, (b, a), offset in zip(rows, pairs, (0, 6), strict=True):
        inside = [u - offset for u in units_ if 0 <= u - offset < len(matrix)]
        if inside:
            g = matrix[inside].reshape(-1)
            H = torch.kron(b[inside][:, inside], a) + damping * torch.eye(len(g), dtype=g.dtype)
            total += float(g @ torch.linalg.solve(H, g))
    return total


@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_kfac_greedy_is_brute_force_forward_selection(damping):
    units, factors, gradient, pairs = kronecker_case()
    found, gains = KfacGreedy(units, factors, 5, damping).select(gradient, 9)
    chosen = []
    for _ in range(9):
        left = [u for u in range(9) if u not in chosen]
        chosen.append(max(left, key=lambda u: decrement([*chosen, u], gradient, pairs, damping)))
    assert found.tolist() == chosen
    for k in range(1, 10):
        assert float(gains[:k].sum()) == pytest.approx(decrement(chosen[:k], gradient, pairs, damping), rel=1e-4)


def test_worth_is_what_leaving_and_coming_do_to_the_decrement():
    units, factors, gradient, pairs = kronecker_case()
    greedy = KfacGreedy(units, factors, 5, 0.1)
    inside = [1, 2, 5, 7]
    slices = Slices(units)
    H = torch.block_diag(*(torch.kron(b, a) for b, a in pairs)) + 0.1 * torch.eye(45, dtype=torch.float64)
    order = torch.cat([torch.arange(42).view(-1)[:24], *(torch.cat([24 + 6 * k + torch.arange(6), 42 + torch.tensor([k])])
                       for k in range(3))])  # the bias of a row beside its weights  # fmt: skip
    owner = torch.cat([torch.arange(6).repeat_interleave(4), 6 + torch.arange(3).repeat_interleave(7)])
    g = slices.gather(gradient)[order]
    keep = torch.isin(owner, torch.tensor(inside))
    x = torch.zeros_like(g)
    x[keep] = torch.linalg.solve(H[keep][:, keep], g[keep])
    back = order.argsort()
    worth = greedy.worth(slices.scatter(x[back]), slices.scatter((g - H @ x)[back]), inside)
    before = decrement(inside, gradient, pairs, 0.1)
    for unit in range(9):
        if unit in inside:
            wanted = before - decrement([u for u in inside if u != unit], gradient, pairs, 0.1)
        else:
            wanted = decrement([*inside, unit], gradient, pairs, 0.1) - before
        assert float(worth[unit]) == pytest.approx(wanted, rel=1e-6)


def test_exchanges_raise_the_exact_decrement_and_keep_what_they_cannot_mend():
    """An exact curvature that the K-FAC model does not know: the swap that it suggests is judged on the exact one."""
    units, factors, gradient, _ = kronecker_case()
    greedy, slices = KfacGreedy(units, factors, 5, 0.1), Slices(units)
    half = torch.randn(60, 45, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    H = half.T @ half / 60 + 0.1 * torch.eye(45, dtype=torch.float64)
    g, owners = slices.gather(gradient), slices.owners()

    def solve(chosen, _):
        keep = torch.isin(owners, torch.tensor(chosen))
        x = torch.zeros_like(g)
        x[keep] = torch.linalg.solve(H[keep][:, keep], g[keep])
        return x

    def exact(chosen):
        return float(g @ solve(sorted(chosen), None))

    triples = sorted(itertools.combinations(range(9), 3), key=exact)
    for start in triples[::7] + triples[-1:]:
        found, gains = exchange(greedy, (torch.tensor(start), torch.ones(3)), solve, lambda v: H @ v, g, slices)
        assert len(set(found.tolist())) == len(gains) == 3
        if start == triples[0]:
            assert exact(found.tolist()) > exact(start)
        assert exact(found.tolist()) >= exact(start) * (1.0 - 1e-12)
    assert found.tolist() == list(triples[-1])


def test_exchanges_are_judged_by_rough_steps():
    """A step that is half of the exact one has three quarters of its decrement: 3/4 of 25/16 is more than 1."""
    net = nn.Linear(1, 3, bias=False).double()
    units, gradient = find_units(net), torch.tensor([1.0, 1.25, 0.5], dtype=torch.float64)
    one, three = torch.eye(1, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    greedy = KfacGreedy(units, [Factor("weight", "", one, 0.9 * three)], 1, 0.1)  # damped: the identity

    def solve(chosen, before):
        inside = torch.zeros(3, dtype=torch.float64).index_fill(0, torch.tensor(chosen), 1.0)
        return gradient * inside * (1.0 if before is None else 0.5)

    found, _ = exchange(greedy, (torch.tensor([0]), torch.ones(1)), solve, lambda v: v, gradient, Slices(units))
    assert found.tolist() == [1]


def test_kfac_greedy_serves_convolutions():
    net = nn.Conv2d(2, 3, 2)
    a = torch.eye(9) + 0.5
    greedy = KfacGreedy(find_units(net), [Factor("weight", "bias", a, torch.eye(3))], 1, 0.1)
    gradient = {"weight": torch.zeros(3, 2, 2, 2), "bias": torch.tensor([0.0, 2.0, 1.0])}
    units, gains = greedy.select(gradient, 2)
    assert units.tolist() == [1, 2]
    inverse = torch.linalg.inv(a + 0.1 * torch.eye(9))[8, 8]  # rows are independent: B is the identity
    torch.testing.assert_close(gains, torch.tensor([4.0, 1.0], dtype=torch.float64).float() * inverse)


def reordered(*rows):
    """A rule that cuts a linear layer into unit layers of the given rows."""

    def rule(name, module):
        for i, some in enumerate(rows):
            part = Part(f"{name}.weight", 0, torch.tensor(some)[:, None])
            yield UnitLayer(f"{name}.{i}", "Linear", len(some), (part,))

    return rule


@pytest.mark.parametrize("rows", [([0, 1], [2, 3, 4, 5]), ([5, 3, 4], [1, 0, 2]), ([4, 1, 2],)])
def test_kfac_greedy_follows_the_rows_of_a_rule(rows):
    _, factors, gradient, pairs = kronecker_case()
    net = nn.Sequential(nn.Linear(4, 6, bias=False)).double()
    units = find_units(net, extra={nn.Linear: reordered(*rows)})
    greedy = KfacGreedy(units, factors, 5, 0.1)
    row_of = [row for some in rows for row in some]
    found, gains = greedy.select(gradient, 3)
    chosen = []
    for _ in range(3):
        left = [row for row in row_of if row not in chosen]
        chosen.append(max(left, key=lambda row: decrement([*chosen, row], gradient, pairs, 0.1)))
    assert [row_of[unit] for unit in found.tolist()] == chosen
    assert float(gains.sum()) == pytest.approx(decrement(chosen, gradient, pairs, 0.1), rel=1e-4)
    assert len(greedy.select(gradient, 9)[0]) == len(row_of)
    zeros = {name: torch.zeros_like(value) for name, value in gradient.items()}
    worth = greedy.worth(zeros, gradient, [])  # with nothing inside: what each unit brings alone
    for unit, row in enumerate(row_of):
        assert float(worth[unit]) == pytest.approx(decrement([row], gradient, pairs, 0.1), rel=1e-6)


def test_kfac_greedy_enters_a_unit_once_that_owns_rows_of_two_layers():
    _, factors, gradient, _ = kronecker_case()
    factors[1] = Factor("2.weight", "", factors[1].inputs[:6, :6], factors[1].outputs)

    def pairs_of_rows(name, module):
        yield unit_layer(name, "Pairs", 3, {"0.weight": 0, "2.weight": 0}, None)

    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)).double()
    units = find_units(net, extra={nn.Sequential: pairs_of_rows})
    found, _ = KfacGreedy(units, factors, 5, 0.1).select(gradient, 9)
    assert sorted(found.tolist()) == [0, 1, 2]


def test_kfac_greedy_refuses():
    units, factors, _, _ = kronecker_case()
    with pytest.raises(ValueError, match="damping"):
        KfacGreedy(units, factors, 5, 0.0)
    with pytest.raises(ValueError, match="no layer"):
        KfacGreedy(units, [], 5, 0.1)


def residual_case():
    units = find_units(nn.Linear(3, 6, bias=False).double())
    half = torch.randn(40, 18, dtype=torch.float64)
    H = half.T @ half / 40 + 0.1 * torch.eye(18, dtype=torch.float64)
    return Slices(units), H, torch.randn(18, dtype=torch.float64)


def test_residual_greedy_by_dense_algebra():
    slices, H, g = residual_case()
    found, scores = residual_greedy(lambda v: H @ v, g, slices, 5, iterations=100, tolerance=1e-10)
    chosen, residual = [], g
    for unit, score in zip(found.tolist(), scores.tolist(), strict=True):
        size = residual.view(6, 3).norm(dim=1)
        size[chosen] = -1.0
        assert unit == int(size.argmax())
        assert score == pytest.approx(float(size[unit]))
        chosen.append(unit)
        inside = torch.tensor([3 * u + i for u in chosen for i in range(3)])
        residual = g - H[:, inside] @ torch.linalg.solve(H[inside][:, inside], g[inside])


def test_residual_greedy_in_rounds_and_with_negative_curvature():
    slices, H, g = residual_case()
    found, _ = residual_greedy(lambda v: H @ v, g, slices, 5, per_round=2)
    assert len(set(found.tolist())) == 5
    top = g.view(6, 3).norm(dim=1).argsort(descending=True)[:2]
    assert found.tolist()[:2] == top.tolist()
    against, _ = residual_greedy(lambda v: -v, g, slices, 6)  # no step is taken: the gradient norm decides
    assert against.tolist() == g.view(6, 3).norm(dim=1).argsort(descending=True).tolist()


# --------------------------------------------------------------------------- models without Kronecker factors
class Tagger(nn.Module):
    """One class for each of six tokens."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 5)

    def forward(self, x):
        return self.out(self.table(x)).transpose(1, 2)


FEATURES, TOKENS = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), torch.arange(120).view(20, 6) % 9
WITHOUT_FACTORS = {
    "no weight decay": (model, FEATURES, torch.arange(20) % 4, 0.0),
    "outputs without an axis": (lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), FEATURES, FEATURES[:, 0], 0.1),
    "a class for each token": (Tagger, TOKENS, TOKENS % 5, 0.1),
    "600 classes": (lambda: nn.Linear(3, 600), FEATURES, torch.arange(20), 0.1),
    "no layer that K-FAC knows": (
        lambda: nn.Sequential(nn.Conv1d(1, 4, 2), nn.Tanh(), nn.Flatten()), FEATURES[:, None], torch.arange(20) % 8, 0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_FACTORS)
def test_a_model_without_factors_is_screened_by_gradient_norm(name):
    make, x, y, decay = WITHOUT_FACTORS[name]
    options = {"weight_decay": decay, "max_units": 2, "n_perturbations": 20, "captured": False, "random_state": 0}
    loss = "mse" if y.is_floating_point() else "cross_entropy"
    ours = Unlearner(make(), loss, (x, y), **options)
    deletion = ours.forget([1])
    assert "by gradient norm" in deletion.selector
    assert ours.forgotten == (1,)
    joint = Unlearner(make(), loss, (x, y), selector="kfac_greedy", **options)
    with pytest.raises(ValueError, match="pass selector='gradient_norm'"):
        joint.forget([1])
