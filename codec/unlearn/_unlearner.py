"""Deletion of training samples from a trained model: the one file that knows the order of the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from codec._forward import show_progress
from codec._validation import check_option
from codec.unlearn._certificate import Accountant, Certificate, certify
from codec.unlearn._curvature import KINDS, Curvature
from codec.unlearn._deletion import NAN, Deletion, Timer
from codec.unlearn._distributed import Group
from codec.unlearn._history import History, clone, digest, ids_of, with_noise
from codec.unlearn._nearest import shared_finder
from codec.unlearn._point import Point, SampleLosses, check_double, gradient_norm
from codec.unlearn._problem import Loss, Parameters, Problem
from codec.unlearn._record import record
from codec.unlearn._report import Report
from codec.unlearn._requests import fresh_ids, ids_of_class, others, read_ids
from codec.unlearn._search import Evidence, Ranking, Scope, Screen, Selector, check_search, search
from codec.unlearn._slices import Slices
from codec.unlearn._units import Units, find_units
from codec.unlearn._update import (
    METHODS,
    Step,
    captured_decrement,
    check_solver,
    deletion_step,
    gradient_norm_units,
    newton_steps,
    pull,
)

WITHOUT_ANCHOR = {"gradient", "chained"}  # updates that step on from where the model is

Guard = Callable[[nn.Module], float]


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
        Who chooses the units: 'lfoci', 'lfoci-pooled' (as the paper has it), 'first-pick', 'gradient_norm',
        'kfac_greedy', 'greedy_decrement', 'random', 'all', or a callable.
    scope : {'layer', 'all'}, default 'layer'
        One pool of candidates for each layer, or one for all; of 'lfoci' alone.
    perturb : str or callable, default 'auto'
        How the inputs are perturbed while activations are recorded.
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
        Curvature of the retained samples.
    solver : {'auto', 'cg', 'cholesky'}, default 'auto'
        How the step's linear system is solved. 'auto': Cholesky for up to 128 parameters, else conjugate gradients
        over all retained samples, with a K-FAC preconditioner where the model is a chain of layers. 'cholesky' takes
        up to 8,192 parameters of the chosen units.
    damping : 'auto' or float, default 'auto'
        mu of ``(H_R + mu I)^-1``; 'auto': three times ``||grad F_S|| / ||w||`` of the trained model, at least 1e-4,
        doubled until the retained objective rises by at most half and the guard holds. Newton steps
        (``update='gradient'``, ``convex=True``) take none.
    update : str, default 'difference'
        What is solved for, see :func:`codec.unlearn._update.deletion_step`. Most take one step from the anchor
        for everything forgotten since; 'gradient' and 'chained' step on from where the model is.
    n_steps : int, default 1
        Newton steps of ``update='gradient'`` where ``convex=True``.
    convex : bool, default False
        You state that the loss is convex in the parameters. Then deletions carry a certificate, and copies can
        be released with noise; needs weight decay. Both are about the parameters alone: norms that keep running
        statistics are refused unless their parameters are frozen, and other buffers are assumed to be free of the data.
    guard : callable(model) -> float, optional
        Validation score, higher is better, on data of its own. A request that lowers it by more than
        ``guard_drop``, from what it was just before, is refused; many requests together may lower it by more. With
        ``damping='auto'`` larger dampings are tried first. They hold for everything forgotten since the anchor, so
        that earlier deletions may be taken back in part: `Deletion.reason` says so.
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
    random_state : int, optional
        Seed of every random choice. Request k has its own stream, so that a resumed run draws the same.

    Attributes
    ----------
    problem : Problem
    units : Units
    forgotten : tuple of int
        Samples forgotten so far.
    deletions : tuple of Deletion
        Every request, refused ones too.
    pending : tuple of tuple of int
        Requests handed in and not yet done.

    Notes
    -----
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
       alone; see the theory page for what was changed and why.

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
        random_state: int | None = None,
    ) -> None:
        check_option(update, "update", METHODS)
        check_option(curvature, "curvature", KINDS)
        check_solver(solver, curvature, update)
        _check_steps(n_steps, update == "gradient" and convex, convex, weight_decay, budget)
        _check_damping(damping, update == "gradient" and convex)
        self.problem = Problem(
            model, loss, train_data, weight_decay=weight_decay, output=output, target_key=target_key, device=device,
            batch_size=batch_size, group=group,
        )  # fmt: skip
        self.problem.team.check_seed(random_state)
        if convex:
            _check_statistics(self.problem.model)
            check_double(self.problem)
        self.units = _units_of(units, self.problem.model)
        check_search(selector, scope, screen, "auto", max_units, n_neighbors, self.units.n_units)
        self.selector, self.scope, self.perturb, self.max_units = selector, scope, perturb, max_units
        self.n_perturbations, self.curvature, self.damping = n_perturbations, curvature, damping
        self.screen, self.n_neighbors = screen, n_neighbors
        self.update, self.n_steps, self.convex, self.budget = update, n_steps, convex, budget
        self.guard, self.guard_drop, self.captured = guard, guard_drop, captured
        self.tolerance, self.solver = tolerance, solver
        self._prepared: Point | None = None
        self._losses = SampleLosses(self.problem)
        self._history = History(
            self.problem.parameters(),
            cast(int, np.random.SeedSequence(random_state).entropy),
            anchored=update not in WITHOUT_ANCHOR,
            settings={
                "n": self.problem.n,
                "weight_decay": self.problem.weight_decay,
                "update": update,
                "loss": _name(loss),
                "selector": _name(selector),
                "units": f"{self.units.n_units}, {digest(self.units.all_labels)}",
            },
        )
        if ledger is not None and self.problem.team.rank == 0:
            self._history.begin(ledger)

    # ------------------------------------------------------------------------ what is seen from outside
    @property
    def model(self) -> nn.Module:
        """A copy of the model as it is now, in evaluation mode."""
        return self.problem.model_with(self._history.weights)

    @property
    def parameters(self) -> Parameters:
        """Copies of the trainable parameters as they are now, by name."""
        return clone(self._history.weights)

    @property
    def forgotten(self) -> tuple[int, ...]:
        """Samples forgotten so far, in order."""
        return tuple(ids_of(self._history.of(self._history.standing)))

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
        """Tables and plots of all requests; ``.to_html(path)`` writes a page."""
        return Report(self.deletions, title, tuple(self._history.standing))

    # ------------------------------------------------------------------------ requests
    def submit(self, ids: Any = None, *, target: int | None = None, repeated: str = "raise") -> tuple[int, ...]:
        """Hand in a request that :meth:`run` will do; with a ledger it is on disk when this returns.

        The parameters are those of :meth:`forget`. Returns the ids that wait.
        """
        waiting = [i for request in self._history.pending for i in request]
        fresh = self._read(ids, target, repeated, [*self.forgotten, *waiting])
        if fresh:
            self._history.submit(fresh)
        return fresh

    def run(self, *, verbose: bool = False) -> tuple[Deletion, ...]:
        """Do the waiting requests in the order in which they came; ``verbose=True`` shows progress.

        Samples that :meth:`forget` took in the meantime are left out, and a request of such samples alone is withdrawn.
        One that fails goes on waiting; take it back with :meth:`withdraw`.
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

    def withdraw(self, place: int) -> tuple[int, ...]:
        """Take back a request that waits: the one at this place in :attr:`pending`. Returns its ids."""
        waiting = self.pending
        if not 0 <= place < len(waiting):
            raise IndexError(f"place is {place}; {len(waiting)} requests wait, numbered from 0.")
        self._history.withdraw(place)
        return waiting[place]

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
        with self._history.request():
            return self._done(ids, waited)

    def _done(self, ids: tuple[int, ...], waited: bool) -> Deletion:
        number = len(self._history.deletions) + 1
        timer = Timer()
        draws = np.random.default_rng(np.random.SeedSequence(self._history.entropy, spawn_key=(number,)))
        prepared = self._prepare(timer)
        gone = [*ids_of(self._history.since_anchor), *ids]
        with timer("select"):
            ranking = self._rank(prepared, ids, draws)
        slices = self._slices(self._touched(ranking.units))
        with timer("solve"):
            step = self._solve(prepared, slices, gone, self._history.weights)
        weights = clone(slices.add(prepared.point, step.delta)) if step.accepted else self._history.weights
        accepted = step.accepted and all(bool(torch.isfinite(w).all()) for w in weights.values())
        self._losses.put(weights, step.losses if accepted else None)
        with timer("measure"):
            measured = self._measure(prepared, ids, weights, ranking, gone)
            taken_back = self._taken_back(step, weights) if accepted and self.guard is not None else ""
        deletion = Deletion(
            id=number,
            forgotten=ids,
            method=f"{self.update}, {self.curvature}",
            selector=ranking.method,
            accepted=accepted,
            reason=f"{'' if accepted else 'refused: '}{step.reason}{taken_back}{self._history.news}",
            units=() if self.selector == "all" else tuple(ranking.units.tolist()),
            labels=() if self.selector == "all" else ranking.labels,
            scores=() if self.selector == "all" else tuple(ranking.scores.tolist()),
            guard=step.guard,
            damping=step.damping,
            step_length=step.step_length,
            iterations=step.iterations,
            certificate=self._certificate(weights, [*self.forgotten, *ids]) if accepted and self.convex else None,
            timings=timer.seconds,
            **measured,
        )
        self._history.enter(deletion, weights, waited)
        return deletion

    # ------------------------------------------------------------------------ steps of a request
    def _prepare(self, timer: Timer, *, renew: bool = True) -> Point:
        """What stays the same while the anchor stays; a new anchor when the budget is spent."""
        if renew and len(ids_of(self._history.since_anchor)) > self.budget * len(self._at_anchor()):
            self._history.renew_anchor()
        if self._prepared is None or self._prepared.point is not self._history.point:
            with timer("prepare"):
                self._prepared = Point(self.problem, self._history.point, self._at_anchor(), self.curvature)
        return self._prepared

    def _rank(self, prepared: Point, ids: Sequence[int], draws: np.random.Generator) -> Ranking:
        everything = Slices(self.units)
        b = prepared.right_side(everything, ids)
        norms = everything.unit_sums(b.square()).sqrt()
        inputs, targets = self.problem.fetch(list(ids))
        kept = others([*self.forgotten, *ids], self.problem.n)
        recorded = partial(
            record, self.problem, self.units, inputs, targets, perturb=self.perturb, n_perturbations=self.n_perturbations,
            params=self._history.weights, reference=kept, generator=draws,
        )  # fmt: skip
        kfac = partial(prepared.kfac_greedy, self.units, everything.scatter(b), kept)
        evidence = Evidence(
            self.units,
            norms,
            recorded,
            kfac,
            partial(kfac, exact=True),
            partial(prepared.residual_greedy, everything, b, kept),
        )
        return search(
            evidence,
            selector=self.selector,
            max_units=self.max_units,
            share=len(ids) / self.problem.n,
            scope=self.scope,
            screen=self.screen,
            n_neighbors=self.n_neighbors,
            find=shared_finder(self.problem.team, self.problem.device),
            generator=draws,
        )

    def _slices(self, units: Tensor) -> Slices:
        """The parameters that may change: those of the units, or all where every unit may and nothing is left out."""
        return Slices(self.units, None if self._everything else units)

    @property
    def _everything(self) -> bool:
        return self.selector == "all" and not self.units.uncovered

    def _touched(self, units: Tensor) -> Tensor:
        """Units of every standing request since the anchor, and these."""
        before = [u for deletion in self._history.since_anchor for u in deletion.units]
        return torch.tensor(sorted({*before, *units.tolist()}), dtype=torch.long)

    def _solve(self, prepared: Point, slices: Slices, gone: Sequence[int], guess: Parameters) -> Step:
        """The step for all samples forgotten since the point it starts from; conjugate gradients start at ``guess``."""
        before = ids_of(self._history.before_anchor)
        if self.update == "gradient" and self.convex:
            return newton_steps(
                self.problem,
                self._history.weights,
                [*before, *gone],
                slices,
                n_steps=self.n_steps,
                curvature=self.curvature,
                solver=self.solver,
                guard=None if self.guard is None else self._guarded,
                max_drop=self.guard_drop,
            )
        return deletion_step(
            self.problem,
            prepared.point,
            gone,
            slices,
            method=self.update,
            curvature=self.curvature,
            solver=self.solver,
            linearisation=prepared.linear,
            damping=self.damping,
            first_damping=pull(prepared.gradient, prepared.point),
            fit_length=self.update == "difference" and not self.convex,
            whole_gradient=slices.gather(prepared.gradient),
            losses=prepared.losses,
            already=before,
            x0=slices.gather(guess) - slices.gather(prepared.point),
            guard=None if self.guard is None else self._guarded,
            max_drop=self.guard_drop,
            present=self._history.weights,
            tol=self.tolerance,
        )

    def _guarded(self, params: Mapping[str, Tensor]) -> float:
        """The caller's score of a model with these parameters."""
        return float(self.guard(self.problem.model_with(params))) if self.guard is not None else NAN

    def _measure(
        self, prepared: Point, ids: Sequence[int], weights: Parameters, ranking: Ranking, gone: Sequence[int]
    ) -> dict[str, Any]:
        """Losses before and after, and what share of the full Newton decrease the units have."""
        kept, old = others([*ids_of(self._history.before_anchor), *gone], self.problem.n), self._history.weights
        before, after = self._losses(old), self._losses(weights)
        moved = sum(float((weights[k] - old[k]).square().sum()) for k in weights) ** 0.5
        captured, by_norm = self._captured(prepared, ranking, gone, kept)
        return {
            "retain_loss": (float(before[kept].mean()), float(after[kept].mean())),
            "forget_loss": (float(before[list(ids)].mean()), float(after[list(ids)].mean())),
            "distance": moved,
            "captured_decrement": captured,
            "captured_by_gradient_norm": by_norm,
        }

    def _taken_back(self, step: Step, weights: Parameters) -> str:
        """What a damping above that of the request before does to what was forgotten since the anchor, in words."""
        earlier = self._history.since_anchor
        if not earlier or not step.damping > earlier[-1].damping:
            return ""
        ids = ids_of(earlier)
        before, after = (float(self._losses(w)[ids].mean()) for w in (self._history.weights, weights))
        if not after < before:
            return ""
        return (
            f"; damping raised from {earlier[-1].damping:.3g} to {step.damping:.3g}, earlier deletions are taken back in "
            f"part: mean loss of their samples {before:.4g} -> {after:.4g}"
        )

    def _captured(self, prepared: Point, ranking: Ranking, gone: Sequence[int], kept: Tensor) -> tuple[float, float]:
        """Captured decrement of the units changed since the anchor, and of as many with the largest gradients."""
        if self._everything:
            return 1.0, 1.0
        if not self.captured or self.curvature == "secant":
            return NAN, NAN
        everything = Slices(self.units)
        b = prepared.right_side(everything, gone)
        chosen = self._touched(ranking.units)
        largest = gradient_norm_units(everything, b, len(chosen))
        whole = Curvature(self.problem, prepared.point, kept, everything, self.curvature, linearisation=prepared.linear)
        return captured_decrement(whole, b, chosen, tol=0.02), captured_decrement(whole, b, largest, tol=0.02)

    def _certificate(self, weights: Parameters, gone: Sequence[int]) -> Certificate:
        """A posteriori, from the gradient measured over the retained samples in double precision."""
        problem = self.problem
        norm, rounding = gradient_norm(problem, weights, others(gone, problem.n))
        return certify(
            problem.n,
            len(gone),
            weight_decay=problem.weight_decay,
            gradient_norm=norm,
            rounding=rounding,
            assumed=_assumed_of_buffers(problem.model),
        )

    # ------------------------------------------------------------------------ undo
    def rollback(self, id: int | None = None) -> None:  # noqa: A002 - as in `Deletion.id`
        """Take back a request: its samples count as training samples again.

        The last request is undone bit for bit. For any other the model is solved anew from the anchor for the requests
        that remain, on the units that were chosen for them, to ``tolerance``; updates that step on from where the model
        is cannot do that.

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
        number = history.standing[-1] if id is None else id
        if number not in history.standing:
            raise ValueError(f"id is {number}; the requests that stand are {history.standing}.")
        history.take_back(number, self._without(number))

    def _without(self, number: int) -> Parameters:
        """Weights as they were before the last request, or without another one."""
        before = self._history.before(number)
        if before is not None:
            return before
        if self.update in WITHOUT_ANCHOR:
            raise ValueError(
                f"request {number} cannot be taken back: update={self.update!r} steps on from where the model is, and "
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
        prepared = self._prepare(Timer(), renew=False)
        units = {u for deletion in requests for u in deletion.units}
        every = self.selector == "all"
        slices = self._slices(torch.arange(self.units.n_units) if every else torch.tensor(sorted(units)))
        step = self._solve(prepared, slices, ids_of(requests), prepared.point)
        if not step.accepted:
            raise ValueError(f"the requests that would remain are refused together: {step.reason}")
        return clone(slices.add(prepared.point, step.delta))

    # ------------------------------------------------------------------------ disk
    def save(self, folder: str | Path) -> None:
        """Write the history and the weights into a new ledger that :meth:`resume` reads."""
        self._history.save(folder)

    @classmethod
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
    def release(self, epsilon: float, delta: float, *, bound: float, random_state: int | None = None) -> nn.Module:
        """A copy with noise on all trainable parameters, (epsilon, delta)-indistinguishable from a retrained one.

        Parameters
        ----------
        epsilon, delta : float
            The guarantee of this copy; several copies add up, see :attr:`accountant`.
        bound : float
            Distance to the retrained model that you fixed beforehand; the noise is made for it. The release is
            refused unless the certificate meets it.
        random_state : int, optional
            Seed of the noise. Keep it secret. Every release draws its own from it: the same noise on two copies would
            cancel in their difference.

        Returns
        -------
        nn.Module
            The unlearner's own weights stay free of noise.

        Raises
        ------
        ValueError
            No bound holds for this model, or it is above ``bound``.
        """
        if not self.convex:
            raise ValueError(
                "no release: no bound on the distance to a retrained model is known for a loss that is not convex in "
                "the parameters. Noise without a bound protects nothing."
            )
        self.problem.team.check_seed(random_state)
        certificate = self._certificate(self._history.weights, self.forgotten)
        if certificate.bound is None or certificate.bound > bound:
            raise ValueError(
                f"no release: the certificate's bound is {certificate.bound:.3g}, above the {bound:.3g} that the noise "
                "would be made for; take another Newton step (n_steps), or retrain."
            )
        source = np.random.SeedSequence(random_state, spawn_key=(len(self.accountant.releases),))
        sigma = self._history.release(epsilon, delta, bound).sigma
        return self.problem.model_with(with_noise(self._history.weights, sigma, source))

    @property
    def accountant(self) -> Accountant:
        """Privacy spent by the releases so far."""
        return self._history.accountant

    # ------------------------------------------------------------------------ details
    def _at_anchor(self) -> Tensor:
        """Samples that the starting point still has."""
        return others(ids_of(self._history.before_anchor), self.problem.n)


def _units_of(units: Any, model: nn.Module) -> Units:
    if isinstance(units, Units):
        _check_shapes(units, model)
        return units
    if units != "auto":
        raise ValueError(f"units is {units!r}; it must be 'auto' or what codec.unlearn.find_units(model) gives.")
    return find_units(model)


def _check_shapes(units: Units, model: nn.Module) -> None:
    """Refuse units that were cut of another model, or of this one with other parameters frozen."""
    theirs = {name: tuple(shape) for name, shape in units.shapes.items()}
    ours = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    wrong = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if wrong:
        told = [f"{name!r} ({theirs.get(name, 'none')} there, {ours.get(name, 'none')} here)" for name in wrong[:3]]
        raise ValueError(
            f"units are those of another model: {len(wrong)} trainable parameters differ, {', '.join(told)}"
            f"{', ...' * (len(wrong) > 3)}. Pass codec.unlearn.find_units(model) of this model, without torch.compile."
        )


def _name(choice: Any) -> str:
    """A loss or selector in a word."""
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)


def _check_statistics(model: nn.Module) -> None:
    """Refuse norms that keep statistics of the training data: no bound holds for those, and no noise is on them."""
    kept = [
        name
        for name, module in model.named_modules()
        if getattr(module, "running_mean", None) is not None
        and not [p for p in module.parameters(recurse=False) if not p.requires_grad]
    ]
    if kept:
        raise ValueError(
            f"model keeps running statistics of the training data in {', '.join(kept[:3])}{', ...' * (len(kept) > 3)}; "
            "with convex=True no bound holds for them. Use a norm without them, such as LayerNorm, or, if they never "
            "saw the training data, freeze the norm's parameters or put its outputs in the data."
        )


def _assumed_of_buffers(model: nn.Module) -> tuple[str, ...]:
    """What a certificate takes for granted of values that training may have set beside the parameters."""
    names = [name for name, value in model.named_buffers() if value.is_floating_point()]
    if not names:
        return ()
    shown = f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}"
    return (f"the buffers of the model ({shown}) do not depend on the training data",)


def _check_damping(damping: Any, undamped: bool) -> None:
    """Refuse what is no damping, and damping that no step would take."""
    if damping == "auto":
        return
    if isinstance(damping, str) or not damping >= 0.0:
        raise ValueError(f"damping is {damping!r}; it must be 'auto' or a number of 0 or more.")
    if undamped and damping > 0.0:
        raise ValueError(
            f"damping is {damping}, but update='gradient' with convex=True takes Newton steps without damping; leave "
            "damping='auto'."
        )


def _check_steps(n_steps: int, several: bool, convex: bool, weight_decay: float, budget: float) -> None:
    """Refuse steps that no update takes, a certificate that nothing proves, and an anchor that never moves."""
    if n_steps < 1 or (n_steps > 1 and not several):
        raise ValueError(f"n_steps is {n_steps}; it must be 1, or more with update='gradient' and convex=True.")
    if convex and weight_decay <= 0.0:
        raise ValueError("convex=True needs weight_decay above 0: no bound holds without strong convexity.")
    if not 0.0 < budget < 1.0:
        raise ValueError(f"budget is {budget}; it must lie between 0 and 1.")
