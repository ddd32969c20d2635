"""A large symmetric matrix times two vectors, in one pass over the half that is stored.

Such a product takes as long as reading the matrix from memory; two at a time take hardly longer than one.
"""

from __future__ import annotations

from functools import partial

from codec._jit import compiled


@partial(compiled, fastmath={"reassoc", "contract"})  # sums may be reordered: else they are no vector instructions
def two_products(upper, x, y):
    """Add ``H x`` to y, both (2, n); of H's rows what lies left of the diagonal is not read.

    Four rows at a time, so that the entries of x and y that all meet are loaded once. In one function: called, the
    loop over columns took three times as long.
    """
    n = upper.shape[0]
    last = n - n % 4
    zero = upper.dtype.type(0)
    for j in range(0, last, 4):
        _corner(upper, x, y, j, j + 4)
        h0, h1, h2, h3 = upper[j, j + 4 :], upper[j + 1, j + 4 :], upper[j + 2, j + 4 :], upper[j + 3, j + 4 :]
        xa, xb, ya, yb = x[0, j + 4 :], x[1, j + 4 :], y[0, j + 4 :], y[1, j + 4 :]
        a0, a1, a2, a3 = x[0, j], x[0, j + 1], x[0, j + 2], x[0, j + 3]
        b0, b1, b2, b3 = x[1, j], x[1, j + 1], x[1, j + 2], x[1, j + 3]
        s0, s1, s2, s3, t0, t1, t2, t3 = zero, zero, zero, zero, zero, zero, zero, zero
        for i in range(h0.size):
            p, q, u, v, a, b = h0[i], h1[i], h2[i], h3[i], xa[i], xb[i]
            ya[i] += p * a0 + q * a1 + u * a2 + v * a3
            yb[i] += p * b0 + q * b1 + u * b2 + v * b3
            s0 += p * a
            s1 += q * a
            s2 += u * a
            s3 += v * a
            t0 += p * b
            t1 += q * b
            t2 += u * b
            t3 += v * b
        y[0, j] += s0
        y[0, j + 1] += s1
        y[0, j + 2] += s2
        y[0, j + 3] += s3
        y[1, j] += t0
        y[1, j + 1] += t1
        y[1, j + 2] += t2
        y[1, j + 3] += t3
    _corner(upper, x, y, last, n)


@compiled
def _corner(upper, x, y, start, stop):
    """A square on the diagonal."""
    for j in range(start, stop):
        for i in range(j, stop):
            for k in range(2):
                y[k, j] += upper[j, i] * x[k, i]
                if i > j:
                    y[k, i] += upper[j, i] * x[k, j]
