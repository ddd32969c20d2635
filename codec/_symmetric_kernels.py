"""A large symmetric matrix times two vectors, in one pass over the half that is stored.

Such a product takes as long as reading the matrix from memory; two at a time take hardly longer than one.
"""

from __future__ import annotations

from functools import partial

from codec._jit import compiled


@partial(compiled, fastmath={"reassoc", "contract"})  # sums may be reordered: else they are no vector instructions
def two_products(upper, x, y):
    """Add ``H x`` to y, both (2, n); of H's rows what lies left of the diagonal is not read.

    Two rows at a time, so that the entries of x and y that both meet are loaded once.
    """
    n = upper.shape[0]
    zero = upper.dtype.type(0)
    for j in range(0, n - 1, 2):
        one, two, between = upper[j, j], upper[j + 1, j + 1], upper[j, j + 1]
        first, second = upper[j, j + 2 :], upper[j + 1, j + 2 :]
        xa, xb, ya, yb = x[0, j + 2 :], x[1, j + 2 :], y[0, j + 2 :], y[1, j + 2 :]
        a, a_next, b, b_next = x[0, j], x[0, j + 1], x[1, j], x[1, j + 1]
        sum_a, sum_b, sum_a_next, sum_b_next = zero, zero, zero, zero
        for i in range(first.size):
            u, v = first[i], second[i]
            ya[i] += u * a + v * a_next
            yb[i] += u * b + v * b_next
            sum_a += u * xa[i]
            sum_b += u * xb[i]
            sum_a_next += v * xa[i]
            sum_b_next += v * xb[i]
        y[0, j] += sum_a + one * a + between * a_next
        y[1, j] += sum_b + one * b + between * b_next
        y[0, j + 1] += sum_a_next + two * a_next + between * a
        y[1, j + 1] += sum_b_next + two * b_next + between * b
    if n % 2:
        y[0, n - 1] += upper[n - 1, n - 1] * x[0, n - 1]
        y[1, n - 1] += upper[n - 1, n - 1] * x[1, n - 1]
