"""The flat vector: gather and scatter are inverse, adjoint and differentiable."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import grad, jvp, vmap

from codec.unlearn._slices import Slices
from codec.unlearn._units import Part, find_units, unit_layer


class Odd(nn.Module):
    """A scalar, a parameter of two layers, and one of no unit."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.shared = nn.Parameter(torch.zeros(2, 5, 3))
        self.forgotten = nn.Parameter(torch.zeros(4))


def odd_rule(name, module):
    even = Part("shared", 1, torch.tensor([[0, 4], [2, 1]]))
    odd = Part("shared", 1, torch.tensor([[3]]))
    return [
        unit_layer("scale", "A", 1, {"scale": 0}, None, module=""),
        unit_layer("even", "B", 2, {"shared": even}, None, module=""),
        unit_layer("odd", "C", 1, {"shared": odd}, None, module=""),
    ]


def odd():
    units = find_units(Odd(), extra={Odd: odd_rule})
    return units.keep(lambda layer: layer.name != "forgotten")


UNITS = {
    "mlp": find_units(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))),
    "conv": find_units(nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))),
    "transposed": find_units(nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.ConvTranspose1d(4, 6, 2, groups=2))),
    "lstm": find_units(nn.LSTM(2, 3, num_layers=2, proj_size=2, bidirectional=True)),
    "attention": find_units(nn.MultiheadAttention(4, 2, add_bias_kv=True, vdim=3)),
    "odd": odd(),
}


def normal(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensors_of(units, seed=0):
    return {name: normal(shape, seed + i) for i, (name, shape) in enumerate(units.shapes.items())}


@st.composite
def slices_of(draw, allow_all=True):
    units = UNITS[draw(st.sampled_from(sorted(UNITS)))]
    if allow_all and draw(st.booleans()):
        return Slices(units)
    return Slices(units, sorted(draw(st.sets(st.integers(0, units.n_units - 1), max_size=units.n_units))))


properties = settings(max_examples=40, deadline=None)


@properties
@given(slices_of())
def test_gather_undoes_scatter(slices):
    flat = normal(slices.size)
    full = slices.scatter(flat)
    assert tuple(full) == slices.parameters
    assert all(full[name].shape == slices.units.shapes[name] for name in full)
    torch.testing.assert_close(slices.gather(full) if slices.size else flat, flat, rtol=0, atol=0)


@properties
@given(slices_of())
def test_scatter_is_the_adjoint_of_gather(slices):
    tensors, flat = tensors_of(slices.units), normal(slices.size, 7)
    inner = sum((full * tensors[name]).sum() for name, full in slices.scatter(flat).items())
    torch.testing.assert_close(torch.as_tensor(inner, dtype=torch.float64), flat @ slices.gather(tensors).double())


@properties
@given(slices_of(), st.floats(-3, 3))
def test_add_changes_the_chosen_places_alone(slices, scale):
    tensors, flat = tensors_of(slices.units), normal(slices.size, 7)
    before = {name: t.clone() for name, t in tensors.items()}
    full, changed = slices.scatter(flat), slices.add(tensors, flat, scale)
    for name, tensor in tensors.items():
        torch.testing.assert_close(changed[name], before[name] + scale * full.get(name, torch.zeros(())))
        assert torch.equal(tensor, before[name])
        assert name in full or changed[name] is tensor


@properties
@given(slices_of())
def test_unit_sums_are_those_of_the_units_one_by_one(slices):
    flat = normal(slices.size, 3)
    full = {name: torch.zeros(shape).double() for name, shape in slices.units.shapes.items()} | slices.scatter(flat)
    chosen = range(slices.units.n_units) if slices.selected is None else slices.selected.tolist()
    expected = [Slices(slices.units, [u]).gather(full).sum().item() for u in chosen]
    assert slices.n_selected == len(expected)
    torch.testing.assert_close(slices.unit_sums(flat), torch.tensor(expected, dtype=torch.float64))


@properties
@given(slices_of())
def test_owners_are_the_labels_of_the_sums(slices):
    flat = normal(slices.size, 3)
    sums = torch.zeros(slices.n_selected + 1, dtype=torch.float64).index_add_(0, slices.owners(), flat)
    torch.testing.assert_close(slices.unit_sums(flat), sums[:-1])


@properties
@given(slices_of(allow_all=False))
def test_a_unit_has_the_same_entries_alone_and_among_others(slices):
    tensors = tensors_of(slices.units)
    flat = slices.gather(tensors)
    for place, unit in enumerate(slices.selected.tolist()):
        own = flat[slices.owners() == place]
        alone = Slices(slices.units, [unit]).gather(tensors)
        assert sorted(own.tolist()) == sorted(alone.tolist())


def test_all_parameters_are_the_vector_of_torch():
    units = UNITS["transposed"]
    tensors = tensors_of(units)
    torch.testing.assert_close(
        Slices(units).gather(tensors), nn.utils.parameters_to_vector(tensors.values()), rtol=0, atol=0
    )


def test_parameters_of_no_unit_are_in_the_whole_vector_alone():
    units = UNITS["odd"]
    assert units.uncovered == ("forgotten",)
    assert Slices(units).size == 1 + 30 + 4
    assert Slices(units, range(units.n_units)).size == 1 + 30 - 0
    sums = Slices(units).unit_sums(torch.ones(35))
    assert sums.tolist() == [1, 12, 12, 6]


def test_rows_by_hand():
    units = UNITS["odd"]
    shared = torch.arange(30.0).reshape(2, 5, 3)
    tensors = {"scale": torch.tensor(5.0), "shared": shared, "forgotten": torch.zeros(4)}
    flat = Slices(units, [0, 2, 3]).gather(tensors)
    torch.testing.assert_close(
        flat, torch.cat([torch.tensor([5.0]), shared[:, [1, 2]].flatten(), shared[:, 3].flatten()])
    )


def test_all_units_of_a_layer_lie_as_the_parameter_does():
    units = UNITS["transposed"]
    tensors = tensors_of(units)
    flat = Slices(units, range(units.n_units)).gather(tensors)
    expected = torch.cat([tensors[part.parameter].reshape(-1) for layer in units.layers for part in layer.parts])
    torch.testing.assert_close(flat, expected, rtol=0, atol=0)


def test_the_vector_is_a_copy():
    units = UNITS["mlp"]
    tensors = tensors_of(units)
    Slices(units, [4, 5]).gather(tensors).zero_()
    assert torch.equal(tensors["2.weight"], tensors_of(units)["2.weight"])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, in forward mode
@pytest.mark.parametrize("name", sorted(UNITS))
def test_derivatives_go_through(name):
    units = UNITS[name]
    slices = Slices(units, range(0, units.n_units, 2))
    tensors, flat, direction = tensors_of(units), normal(slices.size, 1), normal(slices.size, 2)

    def objective(v):
        return sum((i + 1) * t.square().sum() for i, t in enumerate(slices.add(tensors, v).values()))

    order = {name: i for i, name in enumerate(units.shapes)}
    weights = slices.gather(
        {k: torch.full(s, 2.0 * (order[k] + 1), dtype=torch.float64) for k, s in units.shapes.items()}
    )
    expected = weights * (flat + slices.gather(tensors))
    torch.testing.assert_close(grad(objective)(flat), expected)
    torch.testing.assert_close(jvp(objective, (flat,), (direction,))[1], expected @ direction)
    many = torch.stack([flat, direction])
    torch.testing.assert_close(vmap(objective)(many), torch.stack([objective(v) for v in many]))
    sums = vmap(slices.unit_sums)(many)
    torch.testing.assert_close(sums, torch.stack([slices.unit_sums(v) for v in many]))


def test_types_of_the_tensors_are_kept():
    units = UNITS["mlp"]
    slices = Slices(units, [0, 5])
    single = {name: t.float() for name, t in tensors_of(units).items()}
    assert all(t.dtype == torch.float32 for t in slices.add(single, normal(slices.size)).values())
    assert slices.scatter(normal(slices.size))["0.weight"].dtype == torch.float64


def test_no_unit_is_an_empty_vector():
    slices = Slices(UNITS["mlp"], [])
    assert (slices.size, slices.parameters, slices.scatter(torch.zeros(0))) == (0, (), {})
    assert slices.gather(tensors_of(UNITS["mlp"])).shape == (0,)
    assert slices.unit_sums(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("selected", [[2, 1], [1, 1], [[1]]])
def test_units_must_be_ascending(selected):
    with pytest.raises(ValueError, match="ascending"):
        Slices(UNITS["mlp"], selected)


def test_units_and_vectors_must_fit():
    with pytest.raises(ValueError, match=r"0\.\.5"):
        Slices(UNITS["mlp"], [6])
    slices = Slices(UNITS["mlp"], [0])
    for method in (slices.scatter, slices.unit_sums):
        with pytest.raises(ValueError, match=r"\(4,\)"):
            method(torch.zeros(5))
