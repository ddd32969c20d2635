"""Deletion of training samples from a trained model: the one file that knows the order of the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from codec._forward import show_progress
from codec._validation import Rng, check_integer, check_positive
from codec.unlearn._certificate import Accountant
from codec.unlearn._deletion import Deletion, Timer
from codec.unlearn._distributed import Group
from codec.unlearn._history import History, clone, digest, ids_of, one_at_a_time, with_noise
from codec.unlearn._ledger import fingerprint
from codec.unlearn._loss import Loss
from codec.unlearn._options import WITHOUT_ANCHOR, Guard, Options, entropy_of, name_of, units_of
from codec.unlearn._problem import Parameters, Problem, outside_modes
from codec.unlearn._report import Report
from codec.unlearn._requests import fresh_ids, ids_of_class, read_ids
from codec.unlearn._search import Scope, Screen, Selector
from codec.unlearn._steps import Steps
from codec.unlearn._units import Units


class Unlearner:
    """Delete training samples from a trained model by a Newton step on the units that carry them.

    Parameters
    ----------
    model : nn.Module
        Trained model. It is copied and never changed.
    loss, train_data
        As in :class:`codec.unlearn.Problem`.
    weight_decay : float
        lambda of the objective that the model was trained on.
    units : 'auto' or Units, default 'auto'
        Cut of this very model into units, see :func:`codec.unlearn.find_units`. Parameters of no unit are never changed.
    selector : str or callable, default 'lfoci'
        Who chooses the units. 'lfoci': forward selection of the loss on the activations of each layer, among the units
        that a screen lets through. 'lfoci-pooled': as the paper has it, all units in one pool, one neighbour, an early
        stop. 'first-pick': its first unit. 'gradient_norm': the largest gradients. 'kfac_greedy': joint choice by the
        decrement on the K-FAC model, then exchanges by the exact one. 'greedy_decrement': joint choice by the exact
        decrement. 'random'. 'all'. A callable ``selector(evidence, max_units)`` returns the numbers of the units, a
        sequence of distinct integers, at least one; ``evidence.units`` are the :class:`codec.unlearn.Units` and
        ``evidence.gradient_norms``, of shape (n_units,), the norms of each unit's part of the step's right-hand side.
    scope : {'layer', 'all'}, default 'layer'
        One pool of candidates for each layer, or one for all; of 'lfoci' alone.
    perturb : str or callable, default 'auto'
        How inputs are perturbed while activations are recorded, which 'lfoci', 'lfoci-pooled' and 'first-pick' need.
        'gaussian': normal noise of 0.1 standard deviations of the data, by channel or flat feature. 'occlusion': a
        window of a quarter of each side shows the data's mean, for floats of shape (samples, channels, ...). 'tokens':
        15 % of the tokens, at least one, are replaced by others of the data. 'embedding': normal noise of 0.1 standard
        deviations of the table on the tokens' embeddings. 'resample': 30 % of the features, at least one, are drawn
        from their marginals. 'auto': 'tokens' for integers that an embedding reads ('resample' where they are
        categories), 'gaussian' for floats with a channel axis, else 'resample'. A callable ``perturb(inputs, n,
        generator)`` gets n rows that repeat the samples and a ``torch.Generator`` on their device, and returns inputs
        of the same structure with n rows.
    n_perturbations : int, default 300
        Perturbed copies in all.
    max_units : int, optional
        Most units of a request. Default: 20, or the root of their number if that is more; of many samples more, and
        from half a percent of the data on all.
    screen : 'auto', int or None, default 'auto'
        Candidates that 'lfoci' chooses from; None: all units.
    n_neighbors : int, default 10
        K of 'lfoci'.
    curvature : {'ggn', 'hessian', 'fisher', 'empirical_fisher', 'kfac', 'secant'}, default 'ggn'
        Curvature of the retained samples: generalised Gauss-Newton; exact Hessian; Fisher information with expected
        labels; the same with observed labels, for comparison; Kronecker factors; Hessian by central differences.
    solver : {'auto', 'cg', 'cholesky'}, default 'auto'
        How the step's linear system is solved. 'auto': Cholesky for up to 128 parameters, else conjugate gradients
        over all retained samples, with a K-FAC preconditioner where the model is a chain of layers. 'cholesky' takes
        up to 8,192 parameters of the chosen units.
    damping : 'auto' or float, default 'auto'
        mu of ``(H_R + mu I)^-1``; 'auto': three times ``||grad F_S|| / ||w||`` of the trained model, up to five times
        that where the forgotten samples were not learnt, at least 1e-4; doubled until the retained objective rises by at
        most half and the guard holds; where a whole class goes, a third of it on the last layer. Where it is above
        1e-4, up to 2 % of the curvature of a chain of layers is left out for speed, twice (samples that have hardly
        any, and the last directions of wide layers' inputs); where a number is given nothing is left out. Newton steps (``update='gradient'``, ``convex=True``) take none.
    update : str, default 'difference'
        Right-hand side b of the step ``(H_R + mu I)^-1 b``. 'difference': ``grad F_S - grad F_R``. 'gradient':
        ``-grad F_R``, for convex models. 'chained': the difference gradient at the present parameters. 'sekhari':
        ``m / (n - m)`` times the mean of grad f over the m forgotten samples, which takes ``grad F_S = 0`` for granted.
        'certified_removal': another name of it, the update of Guo et al. (ICML 2020). 'gradient_ascent': the same b,
        divided by ``weight_decay + mu``, no curvature. 'paper_step': the same b with the rank-one secant of the paper's
        released code, for comparison only. 'gradient' and 'chained' step on from where the model is; the others take
        one step from the anchor for everything forgotten since.
    n_steps : int, default 1
        Newton steps of ``update='gradient'`` where ``convex=True``.
    convex : bool, default False
        You state that the loss is convex in the parameters. Then deletions carry a certificate, and copies can
        be released with noise; needs weight decay. Both are about the parameters alone: norms that keep running
        statistics are refused unless their parameters are frozen, and other buffers are assumed to be free of the data.
    guard : callable(model) -> float, optional
        Validation score, higher is better, on data of its own. A request that lowers it by more than
        ``guard_drop``, from what it was just before, is refused; many requests together may lower it by more. With
        ``damping='auto'`` larger dampings are tried first. A larger damping applies to everything forgotten since the
        anchor, so it can partly undo earlier deletions: `Deletion.reason` says so.
    guard_drop : float, default 0.02
        Most that one request may lower the score.
    captured : bool, default True
        Whether deletions report the captured decrement, which takes two further solutions.
    tolerance : float, default 0.2
        Of conjugate gradients, relative to what the request adds; it starts at the solution of the one before. Also
        the share of the gradient that a step may miss before further ones follow.
    budget : float, default 0.05
        Share of the samples that may be forgotten before the model is anchored anew where it stands.
    ledger : path, optional
        Folder in which every request is kept as it is done; made anew.
    output, target_key, device, batch_size, group
        As in :class:`codec.unlearn.Problem`. With a group, the candidates of a selection step are shared too,
        ``random_state`` is needed, and process 0 keeps the ledger.
    random_state : None, int, SeedSequence or Generator, default None
        Seed of every random choice. Request k has its own stream, so that a resumed run draws the same.

    Attributes
    ----------
    problem : Problem
    units : Units
    options : Options
        What was chosen.
    forgotten : tuple of int
        Samples forgotten so far.
    deletions : tuple of Deletion
        Every request, refused ones too.
    pending : tuple of tuple of int
        Requests handed in and not yet done.

    Raises
    ------
    ValueError
        An option that is unknown or out of range, options that exclude each other, what
        :class:`codec.unlearn.Problem` refuses, units of another model, ``convex=True`` without weight decay or with
        running statistics, a group without ``random_state``, or a ledger that holds requests already.
    TypeError
        An argument of the wrong type, or data that hold no numbers.
    UnsupportedModuleError
        Modules that cannot be cut into units, with ``units='auto'``.
    LedgerError
        The ledger is damaged, in use, or belongs to another model.

    Notes
    -----
    S are the n training samples, R those that are retained; ``f(w, z) = loss + weight_decay / 2 ||w||^2``, F is the
    mean of f, and H its curvature.
    With the difference gradient [1]_ the model moves by ``-(H_R + mu I)^-1 [grad F_R - grad F_S]``, which is
    nothing when nothing is forgotten, and the same to ``tolerance`` whatever the order of the requests. Where a whole
    class goes that step stops too early, and further ones follow on the model linearised at the same point, with the
    loss as it is.
    For networks no bound is known: the result is empirical, to be measured beside a retrained model. Deleting a few
    random samples moves a network less than training it again from another seed does.

    References
    ----------
    .. [1] R. Mehta, S. Pal, V. Singh, S. N. Ravi, "Deep Unlearning via Randomized Conditionally Independent
       Hessians", CVPR 2022, :arxiv:`2204.07655`. The paper's step uses the gradient of the forgotten sample
       alone (equation 5); see :doc:`/unlearning` for what was changed and why.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Unlearner
    >>> _ = torch.manual_seed(0)
    >>> X, y = torch.randn(60, 4), torch.randint(3, (60,))
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> unlearner = Unlearner(model, "cross_entropy", (X, y), weight_decay=0.01, selector="all", random_state=0)
    >>> deletion = unlearner.forget([3, 7])
    >>> deletion.accepted, unlearner.forgotten
    (True, (3, 7))
    """

    @outside_modes
    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        train_data: Any,
        *,
        weight_decay: float,
        units: str | Units = "auto",
        selector: Selector = "lfoci",
        scope: Scope = "layer",
        perturb: Any = "auto",
        n_perturbations: int = 300,
        max_units: int | None = None,
        screen: Screen = "auto",
        n_neighbors: int = 10,
        curvature: str = "ggn",
        solver: str = "auto",
        damping: str | float = "auto",
        update: str = "difference",
        n_steps: int = 1,
        convex: bool = False,
        guard: Guard | None = None,
        guard_drop: float = 0.02,
        captured: bool = True,
        tolerance: float = 0.2,
        budget: float = 0.05,
        ledger: str | Path | None = None,
        output: Callable[[Any], Tensor] | None = None,
        target_key: str = "labels",
        device: torch.device | str | None = None,
        batch_size: int = 1024,
        group: Group | None = None,
        random_state: Rng = None,
    ) -> None:
        self.options = Options(
            selector=selector, scope=scope, perturb=perturb, n_perturbations=n_perturbations, max_units=max_units,
            screen=screen, n_neighbors=n_neighbors, curvature=curvature, solver=solver, damping=damping, update=update,
            n_steps=n_steps, convex=convex, guard=guard, guard_drop=guard_drop, captured=captured, tolerance=tolerance,
            budget=budget,
        )  # fmt: skip
        self.options.check(weight_decay)
        self.problem = Problem(
            model, loss, train_data, weight_decay=weight_decay, output=output, target_key=target_key, device=device,
            batch_size=batch_size, group=group,
        )  # fmt: skip
        self.problem.team.check_seed(random_state)
        self.options.check_problem(self.problem)
        self.units = units_of(units, self.problem.model)
        self.options.check_selection(self.units.n_units)
        self._history = History(
            self.problem.parameters(),
            entropy_of(random_state),
            anchored=update not in WITHOUT_ANCHOR,
            settings=partial(_settings, self.problem, self.units, self.options, loss),
            team=self.problem.team,
        )
        self.problem.team.check_same(
            {**self.options.facts(), "random_state": str(self._history.entropy), "loss": name_of(loss)},
            "give every process the same options and the same seed",
        )
        self._steps = Steps(self.problem, self.units, self.options, self._history)
        self._lock = RLock()
        if ledger is not None:
            self._history.begin(ledger)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=RLock())

    # ------------------------------------------------------------------------ what is seen from outside
    @property
    @outside_modes
    def model(self) -> nn.Module:
        """A copy of the model as it is now, in evaluation mode."""
        return self.problem.model_with(self._history.weights)

    @property
    @outside_modes
    def parameters(self) -> Parameters:
        """Copies of the trainable parameters as they are now, by name."""
        return clone(self._history.weights)

    @property
    def forgotten(self) -> tuple[int, ...]:
        """Samples forgotten so far, in order."""
        return self._history.forgotten

    @property
    def deletions(self) -> tuple[Deletion, ...]:
        """Every request so far."""
        return tuple(self._history.deletions)

    @property
    def pending(self) -> tuple[tuple[int, ...], ...]:
        """Requests that wait for :meth:`run`."""
        return tuple(self._history.pending)

    @property
    def history(self) -> pd.DataFrame:
        """One row a request, see :meth:`Report.to_frame`."""
        return self.report().to_frame()

    def report(self, title: str = "Deletions") -> Report:
        """:class:`Report` of all requests under a title; ``.to_html(path)`` writes a page."""
        return Report(self.deletions, title, tuple(self._history.standing))

    # ------------------------------------------------------------------------ requests
    @one_at_a_time
    def submit(self, ids: Any = None, *, target: int | None = None, repeated: str = "raise") -> tuple[int, ...]:
        """Hand in a request that :meth:`run` will do; with a ledger it is on disk when this returns.

        Parameters and errors are those of :meth:`forget`; samples that wait count as forgotten. Returns the ids of this
        request, a tuple of int, empty where ``repeated='ignore'`` leaves none.
        """
        waiting = [i for request in self._history.pending for i in request]
        fresh = self._read(ids, target, repeated, [*self.forgotten, *waiting])
        if fresh:
            self._history.submit(fresh)
        return fresh

    @one_at_a_time
    @outside_modes
    def run(self, *, verbose: bool = False) -> tuple[Deletion, ...]:
        """Do the waiting requests in the order in which they came; ``verbose=True`` shows progress.

        Samples that :meth:`forget` took in the meantime are left out, and a request of such samples alone is withdrawn.
        One that fails goes on waiting; take it back with :meth:`withdraw`. Returns a tuple, one :class:`Deletion` for
        each request that was done.
        """
        waiting, done = len(self._history.pending), []
        with show_progress("Unlearner", verbose, f"{waiting} requests") as advance:
            while self._history.pending:
                ids = tuple(fresh_ids(self._history.pending[0], self.forgotten, self.problem.n, "ignore"))
                if ids:
                    done.append(self._forget(ids, waited=True))
                else:
                    self._history.withdraw(0)
                advance(1.0 / waiting)
        return tuple(done)

    @one_at_a_time
    def withdraw(self, place: int) -> tuple[int, ...]:
        """Take back the request at this place in :attr:`pending`; returns its ids.

        Places are numbered from 0. IndexError: no request waits there.
        """
        place, waiting = check_integer(place, "place", -(2**63)), self.pending
        if not 0 <= place < len(waiting):
            raise IndexError(f"place is {place}; {len(waiting)} requests wait, numbered from 0.")
        self._history.withdraw(place)
        return waiting[place]

    @one_at_a_time
    @outside_modes
    def forget(self, ids: Any = None, *, target: int | None = None, repeated: str = "raise") -> Deletion:
        """Delete samples: one call, one request, done at once, before those that wait.

        Parameters
        ----------
        ids : int, sequence or set of int, boolean mask, Tensor or Subset, optional
            Training samples, numbered from 0. A Subset must be one of the very object ``train_data``, or of a Subset
            of it.
        target : int, optional
            Instead of ids: all samples of a class.
        repeated : {'raise', 'ignore'}, default 'raise'
            What to do with ids that are forgotten already or asked for twice.

        Returns
        -------
        Deletion
            ``accepted`` tells whether the model was changed.

        Raises
        ------
        ValueError, IndexError, TypeError
            No ids, unknown ids, repeated ids, or nothing would be left. The model and the ledger are as before.
        """
        fresh = self._read(ids, target, repeated, self.forgotten)
        if not fresh:
            raise ValueError("every one of the ids is forgotten already: there is nothing to do.")
        return self._forget(fresh)

    def _read(self, ids: Any, target: int | None, repeated: str, gone: Sequence[int]) -> tuple[int, ...]:
        if (ids is None) == (target is None):
            raise ValueError("pass either ids or target.")
        if target is not None:
            asked = ids_of_class(self.problem, target, gone)
        else:
            asked = read_ids(ids, self.problem.n, self.problem.source)
        return tuple(fresh_ids(asked, gone, self.problem.n, repeated))

    def _forget(self, ids: tuple[int, ...], *, waited: bool = False) -> Deletion:
        """One request from selection to ledger; where it fails everything is as before."""
        self._history.check_same(ids)
        with self._history.request():
            return self._done(ids, waited)

    def _done(self, ids: tuple[int, ...], waited: bool) -> Deletion:
        number = len(self._history.deletions) + 1
        timer = Timer()
        draws = np.random.default_rng(np.random.SeedSequence(self._history.entropy, spawn_key=(number,)))
        steps, options = self._steps, self.options
        if steps.budget_is_spent:
            self._history.renew_anchor()
        prepared = steps.prepare(timer)
        gone = [*ids_of(self._history.since_anchor), *ids]
        with timer("select"):
            ranking = steps.rank(prepared, ids, draws)
        slices = steps.slices(steps.touched(ranking.units))
        with timer("solve"):
            step = steps.solve(prepared, slices, gone, self._history.weights)
        weights = clone(slices.add(prepared.point, step.delta)) if step.accepted else self._history.weights
        accepted = step.accepted and all(bool(torch.isfinite(w).all()) for w in weights.values())
        steps.losses.put(weights, step.losses if accepted else None)
        with timer("measure"):
            measured = steps.measure(prepared, ids, weights, ranking, gone)
            taken_back = steps.taken_back(step, weights) if accepted and options.guard is not None else ""
        deletion = Deletion(
            id=number,
            forgotten=ids,
            method=f"{options.update}, {options.curvature}",
            selector=ranking.method,
            accepted=accepted,
            reason=f"{'' if accepted else 'refused: '}{step.reason}{taken_back}{self._history.news if accepted else ''}",
            units=() if options.selector == "all" else tuple(ranking.units.tolist()),
            labels=() if options.selector == "all" else ranking.labels,
            scores=() if options.selector == "all" else tuple(ranking.scores.tolist()),
            guard=step.guard,
            damping=step.damping,
            step_length=step.step_length,
            iterations=step.iterations,
            certificate=steps.certificate(weights, [*self.forgotten, *ids]) if accepted and options.convex else None,
            timings=timer.seconds,
            **measured,
        )
        self._history.enter(deletion, weights, waited)
        return deletion

    # ------------------------------------------------------------------------ undo
    @one_at_a_time
    @outside_modes
    def rollback(self, id: int | None = None) -> None:  # noqa: A002 - as in `Deletion.id`
        """Take back a request: its samples count as training samples again.

        The last request is undone bit for bit, unless one after it was taken back: the weights before it are kept of the
        last one alone. For any other the model is solved anew from the anchor for the requests that remain, on the units
        that were chosen for them, to ``tolerance``; updates that step on from where the model is cannot do that.

        Parameters
        ----------
        id : int, optional
            Number of the request. Default: the last one that stands.

        Raises
        ------
        ValueError
            No such request stands, the model was anchored anew after it, or it is not the last and the update has no
            anchor.
        """
        history = self._history
        if not history.standing:
            raise ValueError("no request stands: there is nothing to take back.")
        number = history.standing[-1] if id is None else check_integer(id, "id", 1)
        if number not in history.standing:
            raise ValueError(f"id is {number}; the requests that stand are {history.standing}.")
        history.take_back(number, self._without(number))

    def _without(self, number: int) -> Parameters:
        """Weights as they were before the last request, or without another one."""
        before = self._history.before(number)
        if before is not None:
            return before
        if self.options.update in WITHOUT_ANCHOR:
            raise ValueError(
                f"request {number} cannot be taken back: update={self.options.update!r} steps on from where the model is, and "
                "only the weights before the last request are kept. Begin again with the trained model."
            )
        since = self._history.since_anchor
        if number not in [d.id for d in since]:
            raise ValueError(
                f"request {number} cannot be taken back alone: the model was anchored anew after it. Begin again with "
                "the trained model, or use a larger budget."
            )
        return self._solved(tuple(d for d in since if d.id != number))

    def _solved(self, requests: tuple[Deletion, ...]) -> Parameters:
        """Weights for some of the requests since the anchor."""
        if not requests:
            return clone(self._history.anchor)
        prepared = self._steps.prepare(Timer())
        units = {u for deletion in requests for u in deletion.units}
        every = self.options.selector == "all"
        slices = self._steps.slices(torch.arange(self.units.n_units) if every else torch.tensor(sorted(units)))
        step = self._steps.solve(prepared, slices, ids_of(requests), prepared.point)
        if not step.accepted:
            raise ValueError(f"the requests that would remain are refused together: {step.reason}")
        return clone(slices.add(prepared.point, step.delta))

    # ------------------------------------------------------------------------ disk
    @one_at_a_time
    def save(self, folder: str | Path) -> None:
        """Write the history and the weights into a new ledger that :meth:`resume` reads.

        ValueError: the folder holds requests already. LedgerError: it is in use, or belongs to another model.
        """
        self._history.save(folder)

    @classmethod
    @outside_modes
    def resume(cls, folder: str | Path, model: nn.Module, loss: Loss, train_data: Any, **options: Any) -> Self:
        """Continue from a folder: the same weights, bit for bit, and every request that was handed in.

        Parameters
        ----------
        folder : path
            Of ``ledger=`` or :meth:`save`.
        model, loss, train_data, **options
            As they were given to the class (``ledger`` may be left out); the model as it was before its first deletion.

        Returns
        -------
        Unlearner
            Its ledger goes on in the folder.

        Raises
        ------
        LedgerError
            The folder is damaged, in use, or belongs to another model.
        ValueError
            The folder holds no unlearner, or was begun with another number of samples, weight decay, update, loss,
            selector or units; or ``ledger`` is another folder.
        """
        kept = options.pop("ledger", None)
        if kept is not None and Path(kept).resolve() != Path(folder).resolve():
            raise ValueError(
                f"ledger is {str(kept)!r}; the ledger goes on in {str(folder)!r}, which is resumed: leave it out."
            )
        made = cls(model, loss, train_data, **options)
        with made.problem.team.first_one_first():
            made._history.resume(folder, keep=made.problem.team.rank == 0)
        return made

    def close(self) -> None:
        """Let other processes open the ledger."""
        self._history.close()

    # ------------------------------------------------------------------------ release
    @one_at_a_time
    @outside_modes
    def release(self, epsilon: float, delta: float, *, bound: float, random_state: Rng = None) -> nn.Module:
        """A copy with noise on all trainable parameters, (epsilon, delta)-indistinguishable from a retrained one.

        Parameters
        ----------
        epsilon, delta : float
            The guarantee of this copy, with delta in (0, 1); several copies add up, see :attr:`accountant`.
        bound : float
            Distance to the retrained model that you fixed beforehand; the noise is made for it: normal with standard
            deviation ``bound * s``, s from the analytic Gaussian mechanism [1]_. The release is refused unless the
            certificate meets it.
        random_state : None, int, SeedSequence or Generator, default None
            Seed of the noise. Keep it secret. Every release draws its own from it, but the same noise in another unlearner,
            or a copy, with as many releases: on two copies it would cancel in their difference.

        Returns
        -------
        nn.Module
            The unlearner's own weights stay free of noise.

        Raises
        ------
        ValueError
            No bound holds for this model, or it is above ``bound``.

        References
        ----------
        .. [1] B. Balle, Y.-X. Wang, "Improving the Gaussian mechanism for differential privacy: analytical calibration
           and optimal denoising", ICML 2018, :arxiv:`1805.06530`, theorem 8: ``delta = Phi(1/(2 s) - epsilon s) -
           e^epsilon Phi(-1/(2 s) - epsilon s)``.
        """
        if not self.options.convex:
            raise ValueError(
                "no release: no bound on the distance to a retrained model is known for a loss that is not convex in "
                "the parameters. Noise without a bound protects nothing."
            )
        bound = check_positive(bound, "bound")
        self.problem.team.check_seed(random_state)
        certificate = self._steps.certificate(self._history.weights, self.forgotten)
        if certificate.bound is None or not certificate.bound <= bound:  # NaN is no bound
            raise ValueError(
                f"no release: the certificate's bound is {certificate.bound:.6g}, above the {bound:.6g} that the noise "
                "would be made for; take another Newton step (n_steps), or retrain."
            )
        source = self.accountant.noise_source(random_state)
        sigma = self._history.release(epsilon, delta, bound).sigma
        return self.problem.model_with(with_noise(self._history.weights, sigma, source))

    @property
    def accountant(self) -> Accountant:
        """Privacy spent by the releases so far, a copy."""
        return Accountant(self._history.accountant.releases)


def _settings(problem: Problem, units: Units, options: Options, loss: Loss) -> dict[str, Any]:
    """What must be the same where a ledger is resumed."""
    return {
        "n": problem.n,
        "weight_decay": problem.weight_decay,
        "update": options.update,
        "loss": name_of(loss),
        "selector": name_of(options.selector),
        "units": f"{units.n_units}, {digest(units.all_labels)}",
        "data": problem.fingerprint(),
        "fixed": fingerprint(problem.buffers())[:16],  # buffers and frozen parameters
    }
