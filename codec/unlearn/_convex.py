"""Softmax regression whose samples can be taken back: gradients, Hessians and Newton steps.

The rows are turned into the basis of their own span and the class weights into contrasts, where the
minimiser lies: with weight decay, weights outside of the rows' span and the classes' common weight are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.linalg import blas, lapack

from codec._symmetric_kernels import two_products
from codec._validation import BoolArray, FloatArray, IntArray

CHUNK_BYTES = 600_000  # a chunk of rows is read twice in a pass: it must stay in a core's own cache
MAX_ROTATED = 6_000  # the eigenvectors of a larger second moment cost more than they save
MAX_BLOCKS_BYTES = 2**30
SMALL = 1_000  # parameters up to here: the dense inverse is kept in float64
NEGLIGIBLE = 1e-12  # share of the largest eigenvalue below which a direction is left out; its size is kept
LEADING = 0.2  # share of a sample's largest curvature below which its others stay in the Hessian
MOST_LOST = 0.9  # share of the Hessian, along some direction, that a downdate may take
MOST_DIGITS = 1e-3  # share of a sum below which what a downdate leaves of it is summed anew
UNIT_ROUNDOFF = 2.0**-53


# --------------------------------------------------------------------------- the rows
def check_rows(rows: Any, retained: BoolArray) -> IntArray:
    """Rows of a request, as integers.

    Raises
    ------
    TypeError, ValueError
        No integers; none, out of range, named twice, forgotten before, or all that is left.
    """
    array, n = np.atleast_1d(np.asarray(sorted(rows) if isinstance(rows, Set) else rows)), len(retained)
    if array.dtype.kind == "b":
        if array.shape != (n,):
            raise ValueError(
                f"rows is a mask of shape {array.shape}; it needs one entry for each of the {n} rows of fit."
            )
        array = np.flatnonzero(array)
    if array.size and (array.dtype.kind not in "iu" or array.ndim != 1):
        raise TypeError(
            f"rows holds {array.dtype} of shape {array.shape}; it must be an integer, integers, or a mask of booleans."
        )
    if array.size == 0:
        raise ValueError("rows is empty; name at least one row of the training data.")
    if array.min() < 0 or array.max() >= n:
        wrong = int(array[(array < 0) | (array >= n)][0])
        raise ValueError(f"rows names {wrong}, but the training data has the rows 0 to {n - 1}.")
    values, counts = np.unique(array, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"rows names {int(values[counts > 1][0])} twice; name each row once.")
    if not retained[array].all():
        gone = int(array[~retained[array]][0])
        raise ValueError(f"row {gone} has been forgotten before; a row can be forgotten once.")
    if len(array) == retained.sum():
        raise ValueError("forgetting these rows leaves no training data; there is no model of nothing.")
    return array.astype(np.int64)


@dataclass(frozen=True)
class RowSpan:
    """Orthonormal basis of the rows.

    Attributes
    ----------
    basis : ndarray of shape (d, r) or None
        None: the rows' own coordinates.
    second_moments : ndarray of shape (r,)
        Mean square of the rows along each direction.
    left_out : float
        Sum of the squares of what the basis misses of the rows.
    """

    basis: FloatArray | None
    second_moments: FloatArray
    left_out: float

    def back(self, V: FloatArray) -> FloatArray:
        """Weights (c, r) in the rows' own coordinates (c, d)."""
        return V if self.basis is None else V @ self.basis.T


def rotate(X: FloatArray) -> tuple[FloatArray, RowSpan]:
    """Rows of X (n, d) in the basis of their span, (n, r), and the basis."""
    n, d = X.shape
    if min(n, d) > MAX_ROTATED:
        return X.copy(), RowSpan(None, np.einsum("ij,ij->j", X, X) / n, 0.0)
    wide = d > n
    values, vectors = linalg.eigh(X @ X.T / n if wide else X.T @ X / n, check_finite=False)
    keep = np.flatnonzero(values > NEGLIGIBLE * values[-1])[::-1]
    if keep.size == 0:  # nothing but zeros
        keep = np.array([values.size - 1])
    basis = vectors[:, keep]
    if wide:  # right singular vectors; the QR makes up for the digits that small values lose
        basis = linalg.qr(X.T @ basis, mode="economic", check_finite=False)[0]
    Z = np.ascontiguousarray(X @ basis)
    return Z, RowSpan(basis, values[keep].clip(0.0), float(np.sum((X - Z @ basis.T) ** 2)))


def contrasts(n_classes: int) -> FloatArray:
    """(K, c) matrix C with class weights ``W = C V``.

    Two classes: the logit is that of the second one. More: orthonormal columns orthogonal to the constant.
    """
    if n_classes == 2:
        return np.array([[0.0], [1.0]])
    start = np.column_stack([np.ones(n_classes), np.eye(n_classes)[:, :-1]])
    return np.ascontiguousarray(np.linalg.qr(start)[0][:, 1:])


# --------------------------------------------------------------------------- the problem
@dataclass(frozen=True)
class Point:
    """Weights (c, r) with the gradient of the mean over the retained samples and the probabilities (K, n)."""

    V: FloatArray
    gradient: FloatArray
    probabilities: FloatArray

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.gradient))


class SoftmaxProblem:
    """Mean cross-entropy over the retained rows plus ``weight_decay / 2 ||V||^2``.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Rows, the intercept's 1 included.
    labels : ndarray of shape (n,), int64
        Classes from 0 to ``n_classes - 1``.
    n_classes : int
        At least 2.
    weight_decay : float
        Positive.
    """

    def __init__(self, X: FloatArray, labels: IntArray, n_classes: int, weight_decay: float) -> None:
        self.rows, self.span = rotate(X)
        self.n_features = X.shape[1]
        self.radius = float(np.sqrt(np.einsum("ij,ij->i", X, X).max()))
        self.targets = np.zeros((n_classes, len(X)))  # one column per retained sample
        self.targets[labels, np.arange(len(X))] = 1.0
        self.contrasts = contrasts(n_classes)
        self.weight_decay = weight_decay
        self.retained = np.ones(len(X))
        self.shape = (self.contrasts.shape[1], self.rows.shape[1])

    @property
    def n_retained(self) -> int:
        return int(self.retained.sum())

    def _chunks(self) -> Iterator[slice]:
        size = max(32, CHUNK_BYTES // (8 * self.shape[1]))
        return (slice(start, start + size) for start in range(0, len(self.rows), size))

    def point(self, V: FloatArray) -> Point:
        """The gradient at V, in one pass over the rows."""
        P = np.empty_like(self.targets)
        G = np.zeros(self.shape)
        for part in self._chunks():
            rows = self.rows[part]
            P[:, part] = softmax(self.contrasts @ (V @ rows.T))
            G += self.contrasts.T @ (P[:, part] * self.retained[part] - self.targets[:, part]) @ rows
        return Point(V, G / self.n_retained + self.weight_decay * V, P)

    def without(self, at: Point, samples: IntArray) -> Point:
        """The same weights when some samples are gone: ``[n grad F_S - sum_U grad f] / (n - m)``."""
        n, m = self.n_retained, len(samples)
        residuals = at.probabilities[:, samples] - self.targets[:, samples]
        gone = self.contrasts.T @ residuals @ self.rows[samples] + m * self.weight_decay * at.V
        return Point(at.V, (n * at.gradient - gone) / (n - m), at.probabilities)

    def drop(self, samples: IntArray) -> None:
        """Forget the samples: nothing of them stays in the rows or the targets."""
        self.retained[samples] = 0.0
        self.rows[samples] = 0.0
        self.targets[:, samples] = 0.0

    def class_counts(self) -> FloatArray:
        """Retained samples of each class."""
        return np.asarray(self.targets.sum(axis=1))

    def product(self, at: Point, U: FloatArray) -> FloatArray:
        """Hessian at a point times U, both (c, r)."""
        out = np.zeros(self.shape)
        for part in self._chunks():
            rows, P = self.rows[part], at.probabilities[:, part]
            logits = self.contrasts @ (U @ rows.T)
            change = P * (logits - np.einsum("kn,kn->n", P, logits)) * self.retained[part]
            out += self.contrasts.T @ change @ rows
        return out / self.n_retained + self.weight_decay * U

    def _weights(self, at: Point, i: int, j: int) -> FloatArray:
        """Of each sample in block (i, j): ``[C^T (diag p - p p^T) C]_ij``."""
        C, P = self.contrasts, at.probabilities
        return np.asarray(((C[:, i] * C[:, j]) @ P - (C[:, i] @ P) * (C[:, j] @ P)) * self.retained)

    def hessian(self, at: Point, dtype: Any) -> FloatArray:
        """Lower blocks of the Hessian, (c r, c r) in Fortran's order; what is above is not filled."""
        (c, r), rows = self.shape, self.rows.astype(dtype, copy=False)
        H = np.zeros((c * r, c * r), dtype=dtype, order="F")
        for i in range(c):
            for j in range(i + 1):
                weights = (self._weights(at, i, j) / self.n_retained).astype(dtype)
                H[i * r : (i + 1) * r, j * r : (j + 1) * r] = (rows * weights[:, None]).T @ rows
        H[np.diag_indices(c * r)] += dtype(self.weight_decay)
        return H

    def class_blocks(self, at: Point) -> FloatArray:
        """Diagonal blocks of the Hessian, (c, r, r)."""
        c, r = self.shape
        blocks = np.empty((c, r, r))
        for i in range(c):
            weights = self._weights(at, i, i) / self.n_retained
            block = (self.rows * weights[:, None]).T @ self.rows
            block[np.diag_indices(r)] += self.weight_decay
            blocks[i] = block
        return blocks

    def rounding(self, at: Point) -> float:
        """Bound on what float64 and the left-out directions hide of the gradient's norm.

        A dot product of k terms errs by at most k unit roundoffs of the product of the norms (Higham,
        Accuracy and Stability of Numerical Algorithms, section 3.1). Softmax is 1/2-Lipschitz, and
        ``||p - e_y|| <= sqrt(2)``.
        """
        K, size = self.contrasts.shape[0], float(np.linalg.norm(at.V))
        logits = (self.n_features + self.shape[1] + 2 * K) * self.radius * size
        sums = math.sqrt(2.0) * (len(self.rows) + K)
        rounding: float = UNIT_ROUNDOFF * (self.radius * (sums + logits / 2 + K + 6) + 3 * self.weight_decay * size)
        return rounding + math.sqrt(2.0 * self.span.left_out / self.n_retained)


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities (K, n) of logits (K, n); the logits are overwritten."""
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


# --------------------------------------------------------------------------- solvers
class Solver(Protocol):
    """Solves, nearly, with the Hessian at the point where it was made."""

    def __call__(self, g: FloatArray) -> FloatArray: ...


@dataclass(frozen=True)
class FrozenInverse:
    """Dense inverse of the Hessian at one point, for every later gradient; only its lower half is read."""

    inverse: NDArray[Any]

    @classmethod
    def made(cls, problem: SoftmaxProblem, at: Point) -> Self:
        small = math.prod(problem.shape) <= SMALL
        H = problem.hessian(at, np.float64 if small else np.float32)
        potrf, potri = (lapack.dpotrf, lapack.dpotri) if small else (lapack.spotrf, lapack.spotri)
        factor, failed = potrf(H, lower=1, overwrite_a=1, clean=0)
        if failed:
            raise np.linalg.LinAlgError(
                f"weight_decay = {problem.weight_decay:.3g} is below the rounding of the Hessian, whose inverse "
                "cannot be formed; scale the columns of X, raise weight_decay or pass solver='cg'."
            )
        return cls(potri(factor, lower=1, overwrite_c=1)[0])

    def __call__(self, g: FloatArray) -> FloatArray:
        symv = blas.dsymv if self.inverse.dtype == np.float64 else blas.ssymv
        scale = _scale(g)
        flat = symv(scale, self.inverse, (g / scale).ravel().astype(self.inverse.dtype), lower=1)
        return np.asarray(flat, dtype=np.float64).reshape(g.shape)

    def of_all(self, vectors: Sequence[FloatArray]) -> list[FloatArray]:
        """The same for several, two in one pass over the matrix."""
        found = []
        for a, b in zip(vectors[::2], vectors[1::2], strict=False):
            scales = np.array([_scale(a), _scale(b)])
            x = (np.stack([a.ravel(), b.ravel()]) / scales[:, None]).astype(self.inverse.dtype)
            y = np.zeros_like(x)
            two_products(self.inverse.T, x, y)  # Fortran's lower half is the upper half of the rows
            found += [part.reshape(a.shape) for part in y.astype(np.float64) * scales[:, None]]
        return found if len(found) == len(vectors) else [*found, self(vectors[-1])]


def _scale(g: FloatArray) -> float:
    """What g is divided by: float32 has no room for tiny gradients."""
    return float(np.abs(g).max()) or 1.0


@dataclass
class Downdated:
    """The kept inverse when a sample's own curvature leaves the Hessian (Woodbury's identity).

    ``(H - B B^T)^-1 g = h + Y (I - B^T Y)^-1 B^T h`` with ``h = H^-1 g`` and ``Y = H^-1 B``.

    Attributes
    ----------
    inverse : FrozenInverse
        H^-1.
    lost : ndarray of shape (k, c r)
        Rows of B^T: the directions that hold nearly all of the sample's curvature. None where they would hold nearly
        all of H.
    images : ndarray of shape (k, c r) or None
        Rows of Y^T, once they are needed.
    """

    inverse: FrozenInverse
    lost: FloatArray
    images: FloatArray | None = None

    @classmethod
    def made(cls, inverse: FrozenInverse, problem: SoftmaxProblem, at: Point, sample: int) -> Self:
        """Of a sample whose row is still there."""
        p, C = at.probabilities[:, sample], problem.contrasts
        values, vectors = np.linalg.eigh(C.T @ (np.diag(p) - np.outer(p, p)) @ C)
        share = np.sqrt(values.clip(0.0) / problem.n_retained)
        lost = [np.outer(share[j] * vectors[:, j], problem.rows[sample]) for j in _leading(values)]
        return cls(inverse, np.reshape(lost, (len(lost), -1)))

    def __call__(self, g: FloatArray) -> FloatArray:
        h, images = self._solved(g)
        back = np.linalg.solve(np.eye(len(self.lost)) - self.lost @ images.T, self.lost @ h.ravel())
        return np.asarray(h + (back @ images).reshape(h.shape))

    def _solved(self, g: FloatArray) -> tuple[FloatArray, FloatArray]:
        """H^-1 g, and Y^T; the first time with one another."""
        if self.images is not None:
            return self.inverse(g), self.images
        h, *images = self.inverse.of_all([g.ravel(), *self.lost])
        self.images = np.reshape(images, self.lost.shape)
        if np.linalg.norm(self.lost @ self.images.T, 2) > MOST_LOST:
            self.lost, self.images = self.lost[:0], self.images[:0]
        return h.reshape(g.shape), self.images


def _leading(values: FloatArray) -> IntArray:
    """Eigenvalues that matter beside the largest, which comes last."""
    return np.flatnonzero(values >= LEADING * values[-1])


@dataclass(frozen=True)
class ClassBlocks:
    """Solves within each class contrast, (c, r, r)."""

    inverses: FloatArray

    @classmethod
    def made(cls, problem: SoftmaxProblem, at: Point) -> Self:
        return cls(np.stack([np.linalg.inv(block) for block in problem.class_blocks(at)]))

    def __call__(self, g: FloatArray) -> FloatArray:
        return np.asarray(np.matmul(self.inverses, g[:, :, None])[:, :, 0])


@dataclass(frozen=True)
class Kfac:
    """Mean curvature of the classes (x) second moment of the rows, which the basis makes diagonal."""

    vectors: FloatArray
    eigenvalues: FloatArray

    @classmethod
    def made(cls, problem: SoftmaxProblem, at: Point) -> Self:
        P, C = at.probabilities * problem.retained, problem.contrasts
        mean = np.diag(P.sum(axis=1)) - P @ at.probabilities.T
        values, vectors = np.linalg.eigh(C.T @ mean @ C / problem.n_retained)
        moments = values.clip(0.0)[:, None] * problem.span.second_moments
        return cls(vectors, moments + problem.weight_decay)

    def __call__(self, g: FloatArray) -> FloatArray:
        return np.asarray(self.vectors @ ((self.vectors.T @ g) / self.eigenvalues))


def conjugate_gradients(
    product: Solver, b: FloatArray, precondition: Solver, tolerance: float, max_iter: int = 500
) -> tuple[FloatArray, int]:
    """Solve ``product(x) = b`` to a relative residual; returns x and the number of products."""
    x, residual = np.zeros_like(b), b.copy()
    goal = tolerance * float(np.linalg.norm(b))
    if not goal > 0.0:  # nothing to solve, or nothing that can be
        return x, 0
    z = precondition(residual)
    direction, rz = z, float(np.vdot(residual, z))
    for step in range(1, max_iter + 1):
        image = product(direction)
        length = rz / float(np.vdot(direction, image))
        x += length * direction
        residual -= length * image
        if np.linalg.norm(residual) <= goal:
            return x, step
        z = precondition(residual)
        before, rz = rz, float(np.vdot(residual, z))
        direction = z + rz / before * direction
    return x, max_iter


# --------------------------------------------------------------------------- Newton
MAKERS: dict[str, Callable[[SoftmaxProblem, Point], Solver]] = {
    "dense": FrozenInverse.made,
    "blocks": ClassBlocks.made,
    "kfac": Kfac.made,
}


@dataclass
class Curvature:
    """The Hessian in the form that a problem of this size can afford; made when first needed, and kept.

    Attributes
    ----------
    kind : {'dense', 'blocks', 'kfac'}
        'dense': its inverse. All three precondition conjugate gradients with the present Hessian.
    tolerance : float
        Relative residual of conjugate gradients.
    kept : Solver or None
        What was made.
    downdated : Downdated or None
        The kept inverse without the curvature of the one sample that a request takes out; for that request alone.
    stale : bool
        Whether samples have gone since it was made: less the curvature of the others it tells the row of a single one,
        so it is left out of pickles and copies, and made anew where it is needed.
    """

    problem: SoftmaxProblem
    kind: str
    tolerance: float = 1e-3
    kept: Solver | None = None
    downdated: Downdated | None = None
    stale: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({"kept": None, "downdated": None, "stale": False} if self.stale else {})

    def make(self, at: Point) -> Solver:
        """What is kept of the Hessian; made at this point when it is not there."""
        if self.kept is None:
            self.kept = MAKERS[self.kind](self.problem, at)
        return self.kept

    def take_out(self, at: Point, samples: IntArray) -> None:
        """Prepare for the samples' removal, while their rows are there; several need the present Hessian anyway."""
        if isinstance(self.kept, FrozenInverse) and len(samples) == 1:
            self.downdated = Downdated.made(self.kept, self.problem, at, int(samples[0]))

    def settle(self) -> None:
        """What was made for one request goes; what is kept holds samples that are gone."""
        self.downdated, self.stale = None, self.kept is not None

    def chord(self, at: Point) -> Point:
        """Where the kept inverse leads; it needs no product with the Hessian."""
        solver = self.downdated or self.make(at)
        return self.problem.point(at.V - solver(at.gradient))

    def newton(self, at: Point) -> tuple[FloatArray, int]:
        """Newton direction of the present Hessian, and the products with it that it took."""
        product = partial(self.problem.product, at)
        return conjugate_gradients(product, -at.gradient, self.make(at), self.tolerance)


def newton_step(curvature: Curvature, at: Point, *, exact: bool = False) -> tuple[Point, int]:
    """A step that lowers the gradient's norm, and the Hessian products it took.

    Unless `exact`, the dense inverse of an earlier Hessian is tried first, then the present Hessian. Where there is
    an inverse it also corrects a step of the present Hessian for the curvature that changed on the way.
    """
    problem, dense = curvature.problem, curvature.kind == "dense"
    if dense and not exact:
        after = curvature.chord(at)
        if after.norm <= 0.5 * at.norm or at.norm <= problem.rounding(at):
            return (after if after.norm < at.norm else at), 0
    after, products = _present_step(curvature, at)
    if dense and exact:
        corrected = curvature.chord(after)
        after = corrected if corrected.norm < after.norm else after
    return after, products


def _present_step(curvature: Curvature, at: Point) -> tuple[Point, int]:
    """Newton's step with the present Hessian.

    Its direction lowers the gradient's norm for short enough steps, so halving ends; at the gradient's rounding
    nothing lowers it.
    """
    direction, products = curvature.newton(at)
    length = 1.0
    while length > 1e-3:
        after = curvature.problem.point(at.V + length * direction)
        if after.norm <= (1.0 - 1e-4 * length) * at.norm:
            return after, products
        length /= 2.0
    return at, products


def minimize(problem: SoftmaxProblem, tolerance: float, max_iter: int) -> tuple[Point, int]:
    """The minimiser from zero, to a norm of the gradient; also the number of Newton steps."""
    at = problem.point(np.zeros(problem.shape))
    kind = "dense" if math.prod(problem.shape) <= SMALL else "kfac"
    for step in range(max_iter):
        if at.norm <= tolerance:
            return at, step
        after, _ = newton_step(Curvature(problem, kind, tolerance=0.05), at)
        if after is at:  # rounding
            return at, step
        at = after
    return at, max_iter


# --------------------------------------------------------------------------- ridge
class RidgeProblem:
    """Mean of ``||V z - y||^2 / 2`` over the retained rows plus ``weight_decay / 2 ||V||^2``.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64
        Rows, the intercept's 1 included.
    targets : ndarray of shape (n, t), float64
        Responses.
    weight_decay : float
        Positive.
    """

    def __init__(self, X: FloatArray, targets: FloatArray, weight_decay: float) -> None:
        self.rows, self.span = rotate(X)
        self.targets = targets.copy()
        self.n_features = X.shape[1]
        self.radius = float(np.sqrt(np.einsum("ij,ij->i", X, X).max()))
        self.target_radius = float(np.sqrt(np.einsum("ij,ij->i", targets, targets).max()))
        self.weight_decay = weight_decay
        self.retained = np.ones(len(X))
        self._sum_up()

    def _sum_up(self) -> None:
        self.second = self.rows.T @ self.rows  # sum, not mean, of z z^T: rows can be taken out
        self.summed = float(np.trace(self.second))

    @property
    def n_retained(self) -> int:
        return int(self.retained.sum())

    def gradient(self, V: FloatArray) -> FloatArray:
        """Over the retained samples, measured on the rows themselves."""
        residuals = (V @ self.rows.T - self.targets.T) * self.retained
        return np.asarray(residuals @ self.rows / self.n_retained + self.weight_decay * V)

    def drop(self, samples: IntArray) -> None:
        """Forget the samples: downdate the second moment; nothing of them stays in rows or targets."""
        self.second -= self.rows[samples].T @ self.rows[samples]
        self.retained[samples] = 0.0
        self.rows[samples] = 0.0
        self.targets[samples] = 0.0
        if float(np.trace(self.second)) < MOST_DIGITS * self.summed:  # an outlier went: few digits are left of the rest
            self._sum_up()

    def newton_step(self, V: FloatArray) -> FloatArray:
        """The minimiser: the loss is quadratic. A second step only takes back what rounding left."""
        H, g = self.second / self.n_retained, self.gradient(V).T
        H[np.diag_indices(len(H))] += self.weight_decay
        try:
            step = linalg.cho_solve(linalg.cho_factor(H, check_finite=False), g, check_finite=False)
        except np.linalg.LinAlgError:  # rounding has made eigenvalues smaller than the weight decay
            values, vectors = linalg.eigh(H, check_finite=False)
            step = vectors @ (vectors.T @ g / values.clip(self.weight_decay)[:, None])
        return V - np.asarray(step).T

    def rounding(self, V: FloatArray) -> float:
        """Bound on what float64 and the left-out directions hide of the gradient's norm."""
        size = float(np.linalg.norm(V))
        residual = self.radius * size + self.target_radius
        terms = len(self.rows) + self.n_features + 2 * self.rows.shape[1] + 4
        rounding: float = UNIT_ROUNDOFF * (terms * self.radius * residual + 3 * self.weight_decay * size)
        return rounding + residual * math.sqrt(self.span.left_out / self.n_retained)
