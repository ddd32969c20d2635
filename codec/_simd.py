"""One loop that the compiler does not vectorise by itself: nearest neighbours of 16 candidates at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from codec._jit import compiled

WIDTH = 16  # candidates in a block: two AVX-512 or four AVX2 vectors of doubles
GROUP = 4  # list entries between two looks at the bound
VECTOR = 8  # doubles in one LLVM vector; LLVM splits it where the machine's are shorter


@intrinsic
def _scan(_typing: Any, block: Any, row: Any, near: Any, n_groups: Any, out: Any) -> Any:
    """See :func:`scan_list`; pointers in tuples, state in registers, no branch but the bound."""
    signature = types.void(block, row, near, n_groups, out)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        unpack = [[builder.extract_value(args[k], i) for i in range(len(sig.args[k]))] for k in (0, 2, 4)]
        (x, weight), (index, base, bound, value), (best, best_value, second) = unpack
        _emit(builder, (x, weight, args[1], index, base, bound, value, args[3], best, best_value, second))
        return context.get_dummy_value()

    return signature, generate


def _emit(builder: ir.IRBuilder, pointers: tuple[Any, ...]) -> None:
    """The LLVM code of one scan."""
    double, int64, int32 = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(double, VECTOR)
    lanes = range(WIDTH // VECTOR)
    at = [ir.Constant(int64, VECTOR * u) for u in lanes]
    inf, zero = (ir.Constant(vector, [c] * VECTOR) for c in (float("inf"), 0.0))
    undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(int32, 0)
    no_shuffle = ir.Constant(ir.VectorType(int32, VECTOR), [0] * VECTOR)

    def pointer(address: Any, kind: Any) -> Any:
        return builder.inttoptr(address, kind.as_pointer())

    def load(start: Any, offset: Any) -> Any:
        got = builder.load(builder.bitcast(builder.gep(start, [offset]), vector.as_pointer()))
        got.align = 8
        return got

    def splat(scalar: Any) -> Any:
        return builder.shuffle_vector(builder.insert_element(undefined, scalar, first), undefined, no_shuffle)

    x_, weight_, row, index_, base_, bound_, value_, n_groups, best_, best_value_, second_ = pointers
    x, weight, base, bound, value = (pointer(a, double) for a in (x_, weight_, base_, bound_, value_))
    index = pointer(index_, int32)
    here = [load(x, builder.add(builder.mul(row, ir.Constant(int64, WIDTH)), o)) for o in at]
    weights = [load(weight, o) for o in at]
    entry = builder.block
    head, check, body, done = (builder.append_basic_block(s) for s in ("head", "check", "body", "done"))
    builder.branch(head)

    builder.position_at_end(head)
    group = builder.phi(int64)
    group.add_incoming(ir.Constant(int64, 0), entry)
    state = [[builder.phi(vector) for _ in lanes] for _ in range(3)]  # best, its value, second best
    for phis, start in zip(state, (inf, zero, inf), strict=True):
        for phi in phis:
            phi.add_incoming(start, entry)
    builder.cbranch(builder.icmp_signed("<", group, n_groups), check, done)

    builder.position_at_end(check)  # go on while a lane's best is not below the bound
    limit = splat(builder.load(builder.gep(bound, [group])))
    open_ = [builder.fcmp_ordered(">=", state[0][u], limit) for u in lanes]
    any_open = open_[0]
    for mask in open_[1:]:
        any_open = builder.or_(any_open, mask)
    bits = ir.IntType(VECTOR)
    is_open = builder.icmp_unsigned("!=", builder.bitcast(any_open, bits), ir.Constant(bits, 0))
    builder.cbranch(is_open, body, done)

    builder.position_at_end(body)
    new = [list(phis) for phis in state]
    start_at = builder.mul(group, ir.Constant(int64, GROUP))
    for e in range(GROUP):
        q = builder.add(start_at, ir.Constant(int64, e))
        j = builder.sext(builder.load(builder.gep(index, [q])), int64)
        from_base = splat(builder.load(builder.gep(base, [q])))
        value_j = splat(builder.load(builder.gep(value, [j])))
        row_j = builder.mul(j, ir.Constant(int64, WIDTH))
        for u in lanes:
            gap = builder.fsub(load(x, builder.add(row_j, at[u])), here[u])
            distance = builder.fadd(from_base, builder.fmul(weights[u], builder.fmul(gap, gap)))
            nearer = builder.fcmp_ordered("<", distance, new[0][u])
            farther = builder.select(nearer, new[0][u], distance)
            behind = builder.fcmp_ordered("<", farther, new[2][u])
            new[2][u] = builder.select(behind, farther, new[2][u])
            new[1][u] = builder.select(nearer, value_j, new[1][u])
            new[0][u] = builder.select(nearer, distance, new[0][u])
    last = builder.block
    group.add_incoming(builder.add(group, ir.Constant(int64, 1)), last)
    for phis, values in zip(state, new, strict=True):
        for phi, got in zip(phis, values, strict=True):
            phi.add_incoming(got, last)
    builder.branch(head)

    builder.position_at_end(done)
    for phis, address in zip(state, (best_, best_value_, second_), strict=True):
        for u in lanes:
            place = builder.gep(pointer(address, double), [at[u]])
            stored = builder.store(phis[u], builder.bitcast(place, vector.as_pointer()))
            stored.align = 8


@compiled
def _scan_compiled(blocks, weights, b, row, lists, slot, value, best, best_value, second):
    index, base, bound, groups, _ = lists
    _scan(
        (blocks.ctypes.data + b * blocks.strides[0], weights.ctypes.data + b * weights.strides[0]),
        row,
        (
            index.ctypes.data + slot * index.strides[0],
            base.ctypes.data + slot * base.strides[0],
            bound.ctypes.data + slot * bound.strides[0],
            value.ctypes.data,
        ),
        groups[slot],
        (best.ctypes.data, best_value.ctypes.data, second.ctypes.data),
    )


def scan_list_python(blocks, weights, b, row, lists, slot, value, best, best_value, second):
    """Nearest list entry of one row for the candidates of a block; the meaning of the compiled loop.

    Parameters
    ----------
    blocks : ndarray of shape (blocks, n, WIDTH)
        The candidates' values.
    weights : ndarray of shape (blocks, WIDTH)
        Their weights in the squared distance.
    b, row, slot : int
        The block, the row whose neighbour is sought, and the place of its list.
    lists : tuple
        ``index`` and ``base`` (slots, entries): other rows, and their squared distance in the selected
        columns; ``bound`` (slots, groups): no entry of group g or later lies nearer than that; the
        number of groups of each list; its reach.
    value : ndarray of shape (n,)
        What to return of the nearest row.
    best, best_value, second : ndarray of shape (WIDTH,)
        Results: smallest squared distance, the value of the first row there, second smallest distance
        (equal to the smallest when neighbours tie).
    """
    index, base, bound, groups, _ = lists
    best[:] = np.inf
    best_value[:] = 0.0
    second[:] = np.inf
    for g in range(groups[slot]):
        if not (best >= bound[slot, g]).any():
            return
        for e in range(GROUP * g, GROUP * g + GROUP):
            gap = blocks[b, index[slot, e]] - blocks[b, row]
            distance = base[slot, e] + weights[b] * (gap * gap)
            nearer = distance < best
            second[:] = np.minimum(second, np.where(nearer, best, distance))
            best_value[:] = np.where(nearer, value[index[slot, e]], best_value)
            best[:] = np.where(nearer, distance, best)


scan_list = scan_list_python if config.DISABLE_JIT else _scan_compiled  # type: ignore[attr-defined]
