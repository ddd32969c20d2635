"""Two loops that the compiler does not vectorise by itself: nearest neighbours of many candidates at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from codec._jit import compiled

VECTOR = 8  # doubles in one LLVM vector; LLVM splits it where the machine's are shorter
WIDTH = 16  # candidates in a block: two AVX-512 or four AVX2 vectors of doubles
WIDTH_K = VECTOR  # the same for several neighbours
GROUP = 4  # list entries between two looks at the bound
FAR = float(np.finfo(np.float64).max)  # no distance yet

DOUBLE, INT64, INT32 = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
DOUBLES = ir.VectorType(DOUBLE, VECTOR)


# --------------------------------------------------------------------------- writing LLVM code
def _pointer(builder: ir.IRBuilder, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: ir.IRBuilder, start: Any, offset: Any) -> Any:
    """A vector from an array of doubles."""
    got = builder.load(builder.bitcast(builder.gep(start, [offset]), DOUBLES.as_pointer()))
    got.align = 8
    return got


def _store(builder: ir.IRBuilder, vector: Any, start: Any, offset: Any) -> None:
    stored = builder.store(vector, builder.bitcast(builder.gep(start, [offset]), DOUBLES.as_pointer()))
    stored.align = 8


def _splat(builder: ir.IRBuilder, scalar: Any) -> Any:
    undefined, none = ir.Constant(DOUBLES, ir.Undefined), ir.Constant(ir.VectorType(INT32, VECTOR), [0] * VECTOR)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, ir.Constant(INT32, 0)), undefined, none)


def _any(builder: ir.IRBuilder, masks: list[Any]) -> Any:
    """Whether a lane of any mask is set."""
    either = masks[0]
    for mask in masks[1:]:
        either = builder.or_(either, mask)
    bits = ir.IntType(VECTOR)
    return builder.icmp_unsigned("!=", builder.bitcast(either, bits), ir.Constant(bits, 0))


def _extreme(builder: ir.IRBuilder, which: str, a: Any, b: Any) -> Any:
    """Smaller or larger of each lane, none of them NaN.

    A comparison and a choice, stored where one of both came from, would become a store under a mask;
    reading that again has to wait.
    """
    name, kind = f"llvm.{which}num.v{VECTOR}f64", ir.FunctionType(DOUBLES, [DOUBLES, DOUBLES])
    return builder.call(builder.module.declare_intrinsic(name, (), kind), [a, b], fastmath=("nnan",))


def _unpacked(builder: ir.IRBuilder, sig: Any, args: Any) -> list[Any]:
    """Arguments; a tuple as a list of its items."""
    return [
        [builder.extract_value(arg, i) for i in range(len(kind))] if isinstance(kind, types.BaseTuple) else arg
        for kind, arg in zip(sig.args, args, strict=True)
    ]


# --------------------------------------------------------------------------- one neighbour
@intrinsic
def _scan(_typing: Any, block: Any, row: Any, near: Any, n_groups: Any, out: Any) -> Any:
    """See :func:`scan_list`; pointers in tuples, state in registers, no branch but the bound."""
    signature = types.void(block, row, near, n_groups, out)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        (x, weight), row, (index, base, bound, value), n_groups, out = _unpacked(builder, sig, args)
        _emit(builder, (x, weight, row, index, base, bound, value, n_groups, *out))
        return context.get_dummy_value()

    return signature, generate


def _emit(builder: ir.IRBuilder, pointers: tuple[Any, ...]) -> None:
    """The LLVM code of one scan."""
    lanes = range(WIDTH // VECTOR)
    at = [ir.Constant(INT64, VECTOR * u) for u in lanes]
    inf, zero = (ir.Constant(DOUBLES, [c] * VECTOR) for c in (float("inf"), 0.0))

    x_, weight_, row, index_, base_, bound_, value_, n_groups, *out_ = pointers
    x, weight, base, bound, value = (_pointer(builder, a, DOUBLE) for a in (x_, weight_, base_, bound_, value_))
    index = _pointer(builder, index_, INT32)
    out = [_pointer(builder, address, DOUBLE) for address in out_]
    here = [_load(builder, x, builder.add(builder.mul(row, ir.Constant(INT64, WIDTH)), o)) for o in at]
    weights = [_load(builder, weight, o) for o in at]
    entry = builder.block
    head, check, body, done = (builder.append_basic_block(s) for s in ("head", "check", "body", "done"))
    builder.branch(head)

    builder.position_at_end(head)
    group = builder.phi(INT64)
    group.add_incoming(ir.Constant(INT64, 0), entry)
    state = [[builder.phi(DOUBLES) for _ in lanes] for _ in range(3)]  # best, its value, second best
    for phis, start in zip(state, (inf, zero, inf), strict=True):
        for phi in phis:
            phi.add_incoming(start, entry)
    builder.cbranch(builder.icmp_signed("<", group, n_groups), check, done)

    builder.position_at_end(check)  # go on while a lane's best is not below the bound
    limit = _splat(builder, builder.load(builder.gep(bound, [group])))
    builder.cbranch(_any(builder, [builder.fcmp_ordered(">=", state[0][u], limit) for u in lanes]), body, done)

    builder.position_at_end(body)
    new = [list(phis) for phis in state]
    start_at = builder.mul(group, ir.Constant(INT64, GROUP))
    for e in range(GROUP):
        q = builder.add(start_at, ir.Constant(INT64, e))
        j = builder.zext(builder.load(builder.gep(index, [q])), INT64)
        from_base = _splat(builder, builder.load(builder.gep(base, [q])))
        value_j = _splat(builder, builder.load(builder.gep(value, [j])))
        row_j = builder.mul(j, ir.Constant(INT64, WIDTH))
        for u in lanes:
            gap = builder.fsub(_load(builder, x, builder.add(row_j, at[u])), here[u])
            distance = builder.fadd(from_base, builder.fmul(weights[u], builder.fmul(gap, gap)))
            nearer = builder.fcmp_ordered("<", distance, new[0][u])
            farther = _extreme(builder, "max", distance, new[0][u])
            new[2][u] = _extreme(builder, "min", farther, new[2][u])
            new[1][u] = builder.select(nearer, value_j, new[1][u])
            new[0][u] = _extreme(builder, "min", distance, new[0][u])
    last = builder.block
    group.add_incoming(builder.add(group, ir.Constant(INT64, 1)), last)
    for phis, values in zip(state, new, strict=True):
        for phi, got in zip(phis, values, strict=True):
            phi.add_incoming(got, last)
    builder.branch(head)

    builder.position_at_end(done)
    for phis, start in zip(state, out, strict=True):
        for u in lanes:
            _store(builder, phis[u], start, at[u])


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


# --------------------------------------------------------------------------- several neighbours
@intrinsic
def _scan_k(_typing: Any, block: Any, row: Any, near: Any, sizes: Any, out: Any) -> Any:
    """See :func:`scan_list_k`; returns the number of entries kept."""
    signature = types.int64(block, row, near, sizes, out)

    def generate(_context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        (x, weight), row, (index, base, bound), (n_groups, k), out = _unpacked(builder, sig, args)
        return _emit_k(builder, (x, weight, base, bound, *out[:2]), (index, out[2]), row, n_groups, k)

    return signature, generate


def _emit_k(
    builder: ir.IRBuilder, doubles: tuple[Any, ...], indices: tuple[Any, ...], row: Any, n_groups: Any, k: Any
) -> Any:
    """The LLVM code of one scan for K neighbours: entries that no lane can use cost one comparison."""
    x, weight, base, bound, best, kept = (_pointer(builder, address, DOUBLE) for address in doubles)
    index, kept_index = (_pointer(builder, address, INT32) for address in indices)
    zero, one, width = (ir.Constant(INT64, c) for c in (0, 1, VECTOR))
    here, weights = _load(builder, x, builder.mul(row, width)), _load(builder, weight, zero)
    entry = builder.block
    head, check, body, done = (builder.append_basic_block(s) for s in ("head", "check", "body", "done"))
    builder.branch(head)

    builder.position_at_end(head)
    group, count, kth = builder.phi(INT64), builder.phi(INT64), builder.phi(DOUBLES)
    starts = (zero, zero, ir.Constant(DOUBLES, [FAR] * VECTOR))
    for phi, start in zip((group, count, kth), starts, strict=True):
        phi.add_incoming(start, entry)
    builder.cbranch(builder.icmp_signed("<", group, n_groups), check, done)

    builder.position_at_end(check)
    limit = _splat(builder, builder.load(builder.gep(bound, [group])))
    builder.cbranch(_any(builder, [builder.fcmp_ordered(">=", kth, limit)]), body, done)

    builder.position_at_end(body)
    new_count, new_kth = count, kth
    start_at = builder.mul(group, ir.Constant(INT64, GROUP))
    for e in range(GROUP):
        q = builder.add(start_at, ir.Constant(INT64, e))
        j = builder.load(builder.gep(index, [q]))
        from_base = _splat(builder, builder.load(builder.gep(base, [q])))
        gap = builder.fsub(_load(builder, x, builder.mul(builder.zext(j, INT64), width)), here)
        distance = builder.fadd(from_base, builder.fmul(weights, builder.fmul(gap, gap)))
        before = builder.block
        near, behind = builder.append_basic_block("near"), builder.append_basic_block("behind")
        builder.cbranch(_any(builder, [builder.fcmp_ordered("<=", distance, new_kth)]), near, behind)

        builder.position_at_end(near)
        _store(builder, distance, kept, builder.mul(new_count, width))
        builder.store(j, builder.gep(kept_index, [new_count]))
        inserted = _insert(builder, distance, best, k)
        counted = builder.add(new_count, one)
        last = builder.block
        builder.branch(behind)

        builder.position_at_end(behind)
        merged = builder.phi(INT64), builder.phi(DOUBLES)
        for phi, old, new in zip(merged, (new_count, new_kth), (counted, inserted), strict=True):
            phi.add_incoming(old, before)
            phi.add_incoming(new, last)
        new_count, new_kth = merged
    last = builder.block
    for phi, new in zip((group, count, kth), (builder.add(group, one), new_count, new_kth), strict=True):
        phi.add_incoming(new, last)
    builder.branch(head)

    builder.position_at_end(done)
    return count


def _insert(builder: ir.IRBuilder, distance: Any, best: Any, k: Any) -> Any:
    """Put a distance into the K smallest of each lane, which ascend; returns the largest of them."""
    before = builder.block
    turn, after = builder.append_basic_block("turn"), builder.append_basic_block("after")
    builder.branch(turn)

    builder.position_at_end(turn)
    level, under = builder.phi(INT64), builder.phi(DOUBLES)
    level.add_incoming(ir.Constant(INT64, 0), before)
    under.add_incoming(ir.Constant(DOUBLES, [-1.0] * VECTOR), before)
    at = builder.mul(level, ir.Constant(INT64, VECTOR))
    here = _load(builder, best, at)
    new = _extreme(builder, "min", here, _extreme(builder, "max", under, distance))
    _store(builder, new, best, at)
    following = builder.add(level, ir.Constant(INT64, 1))
    level.add_incoming(following, turn)
    under.add_incoming(here, turn)
    builder.cbranch(builder.icmp_signed("<", following, k), turn, after)

    builder.position_at_end(after)
    return new


@compiled
def _scan_k_compiled(blocks, weights, b, row, lists, slot, best, kept, kept_index):
    best[:] = FAR
    index, base, bound, groups, _ = lists
    return _scan_k(
        (blocks.ctypes.data + b * blocks.strides[0], weights.ctypes.data + b * weights.strides[0]),
        row,
        (
            index.ctypes.data + slot * index.strides[0],
            base.ctypes.data + slot * base.strides[0],
            bound.ctypes.data + slot * bound.strides[0],
        ),
        (groups[slot], best.shape[0]),
        (best.ctypes.data, kept.ctypes.data, kept_index.ctypes.data),
    )


def scan_list_k_python(blocks, weights, b, row, lists, slot, best, kept, kept_index):
    """The K smallest distances of one row to its list; the meaning of the compiled loop.

    Parameters
    ----------
    blocks, weights, b, row, lists, slot
        As for :func:`scan_list_python`, with ``WIDTH_K`` candidates in a block.
    best : ndarray of shape (K, WIDTH_K)
        Result: the K smallest distances, ascending; ``FAR`` where there are fewer.
    kept, kept_index : ndarray of shape (entries, WIDTH_K) and (entries,)
        Results: distances and rows of the entries that some lane could use; no other lies within the
        K-th distance of any lane.

    Returns
    -------
    int
        The number of entries kept.
    """
    index, base, bound, groups, _ = lists
    best[:] = FAR
    count = 0
    for g in range(groups[slot]):
        if not (best[-1] >= bound[slot, g]).any():
            break
        for e in range(GROUP * g, GROUP * g + GROUP):
            gap = blocks[b, index[slot, e]] - blocks[b, row]
            distance = base[slot, e] + weights[b] * (gap * gap)
            if (distance <= best[-1]).any():
                kept[count] = distance
                kept_index[count] = index[slot, e]
                count += 1
                best[:] = np.sort(np.vstack([best, distance]), axis=0)[:-1]
    return count


scan_list = scan_list_python if config.DISABLE_JIT else _scan_compiled  # type: ignore[attr-defined]
scan_list_k = scan_list_k_python if config.DISABLE_JIT else _scan_k_compiled  # type: ignore[attr-defined]
