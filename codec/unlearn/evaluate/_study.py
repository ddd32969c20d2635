"""What attacks make of shadow models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from codec.unlearn._report import figure_html, page_html
from codec.unlearn.evaluate._audit import (
    DELTA,
    competition_score,
    cross_fitted_ratios,
    epsilon_of_banks,
    forgetting_quality,
    klom,
    lira,
    u_lira,
)
from codec.unlearn.evaluate._membership import auc, tpr_at_fpr
from codec.unlearn.evaluate._metrics import Array, Labels, check_logits, logit_confidence
from codec.unlearn.evaluate._outputs import ORIGINAL, RETRAINED, Known

LEAST_MODELS = 8  # of each kind


@dataclass(frozen=True, eq=False)
class Bank:
    """Outputs of the models of one group.

    Attributes
    ----------
    forget, test : ndarray of shape (n_models, n_samples)
        Logit-scaled confidence in the label, in nats, see :func:`logit_confidence`; the two have their own n_samples.
    retain_accuracy, forget_accuracy, test_accuracy : ndarray of shape (n_models,)
        Share of the samples that each model classifies as labelled, in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from codec.unlearn.evaluate import Bank
    >>> bank = Bank(np.zeros((8, 2)), np.zeros((8, 5)), np.ones(8), np.ones(8), np.ones(8))
    >>> bank.half(True).forget.shape
    (4, 2)
    """

    forget: Array
    test: Array
    retain_accuracy: Array
    forget_accuracy: Array
    test_accuracy: Array

    def half(self, first: bool) -> Bank:
        """The models of one half, the first or the second; of an odd number the last model is in neither."""
        cut = len(self.forget) // 2
        rows = slice(cut) if first else slice(cut, 2 * cut)
        return Bank(*(values[rows] for values in vars(self).values()))


@dataclass(frozen=True, eq=False, repr=False)
class ShadowModels:
    """Many models that saw the forgotten samples, what became of them, and as many that never saw them.

    Attributes
    ----------
    banks : dict of str to Bank
        'original': trained on all data; every method: the same models, unlearned; 'retrained'.
    samples : Known, optional
        By what the forgotten samples are known again: ``labels``, and a digest of their ``inputs``.
    n_classes : int, optional
        Logits a sample that the models give.

    Examples
    --------
    >>> import numpy as np
    >>> from codec.unlearn.evaluate import Bank, ShadowModels
    >>> rng = np.random.default_rng(0)
    >>> def bank(shift):
    ...     return Bank(rng.normal(shift, size=(8, 2)), rng.normal(size=(8, 5)), *np.full((3, 8), 0.9))
    >>> shadows = ShadowModels({"original": bank(20.0), "method": bank(0.0), "retrained": bank(0.0)})
    >>> shadows.to_frame()["lira_member"].to_dict()
    {'original': 1.0, 'method': 0.0, 'retrained': 0.0}
    >>> shadows.attack([[9.0, -9.0], [9.0, -9.0]], [0, 0]).round(6).tolist()
    [1.0, 1.0]
    """

    banks: Mapping[str, Bank]
    samples: Known | None = None
    n_classes: int | None = None

    def __post_init__(self) -> None:
        missing = [name for name in ("original", "retrained") if name not in self.banks]
        if missing:
            raise ValueError(f"banks has no {missing[0]!r}; it must hold 'original', 'retrained' and the methods.")
        few = [name for name, bank in self.banks.items() if len(bank.forget) < LEAST_MODELS]
        if few:
            raise ValueError(
                f"banks[{few[0]!r}] holds {len(self.banks[few[0]].forget)} models; at least {LEAST_MODELS} are needed."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The original, the methods, and the retrained models last."""
        return tuple(self.banks)

    def __getitem__(self, name: str) -> Bank:
        if name not in self.banks:
            raise KeyError(f"{name!r} is not among {', '.join(map(str, self.names))}.")
        return self.banks[name]

    def to_frame(self, *, delta: float = DELTA, confidence_level: float = 0.95) -> pd.DataFrame:
        """One row a method: how well its models can be told from retrained ones.

        The row 'retrained' holds one half of the retrained models against the other half: it is what a perfect
        method would have, with half as many models. KLoM, the competition's score and the largest epsilon that can be
        proved depend on their number. Variances of shadow models are pooled over the samples where there are fewer than 64
        of them: of fewer than 128 models, in the row 'retrained' of fewer than 256.

        Parameters
        ----------
        delta : float, default 1e-5
            Of epsilon, at least 0 and below 1.
        confidence_level : float, default 0.95
            Of the audited epsilon, in (0, 1).

        Returns
        -------
        DataFrame
            ``n_models``; ``lira_member``, see :meth:`lira`; ``ulira_accuracy``, ``ulira_auc``, ``ulira_tpr`` (1 %
            false positives): U-LiRA on each half of the models with the other half as shadow models, over all samples;
            ``worst_auc``: the same for the sample that it tells best, found on the half that is the shadow models, too (mean
            of both ways: the largest of many AUCs would be large by chance); ``audited_epsilon``, of one attack on whole models
            (NaN for fewer than 6, in the row 'retrained' of fewer than 12);
            ``forgetting_quality``, ``competition_score`` (NaN where the retrained models have an accuracy of 0);
            ``klom_forget``, ``klom_test``: means over the samples; ``retain_accuracy``, ``forget_accuracy``,
            ``test_accuracy``.

        See Also
        --------
        u_lira, audited_epsilon, forgetting_quality, competition_score, klom
        """
        rows = {name: self._row(*self._pair(name), delta, confidence_level) for name in self.names}
        frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
        frame.insert(1, "lira_member", [float(self.lira(name)["member"].mean()) for name in self.names])
        return frame

    def ratios(self, name: str) -> tuple[Array, Array]:
        """Log likelihood ratios of U-LiRA on every model of a method and every retrained model.

        Parameters
        ----------
        name : str
            One of :attr:`names`. KeyError: it is not; for 'retrained' one half is held against the other.

        Returns
        -------
        of_unlearned, of_retrained : ndarray of shape (n_models, n_samples)
            Each half's with the models of the other half as shadow models; above 0 the attack says "unlearned".
        """
        bank, other = self._pair(name)
        return cross_fitted_ratios(bank.forget, other.forget)

    def attack(self, logits: ArrayLike, labels: ArrayLike, name: str = ORIGINAL) -> Array:
        """Attack one model of your own: probability that it was trained on each forgotten sample.

        Parameters
        ----------
        logits : array-like of shape (n_samples, n_classes)
            What the model says of the forgotten samples, in their order.
        labels : array-like of shape (n_samples,)
            Integers in 0..n_classes - 1.
        name : str, default 'original'
            Whom the model is held against beside the retrained: the original ones are LiRA, those of a method are
            U-LiRA.

        Returns
        -------
        ndarray of shape (n_samples,)
            In [0, 1]; above 1/2 the attack says "was a training sample".

        Raises
        ------
        KeyError
            ``name`` is not among :attr:`names`.
        ValueError
            Logits or labels of another shape or number of samples, of another number of classes than the shadow
            models have, or labels that are not those of the forgotten samples.
        """
        observed = logit_confidence(logits, labels)
        self._check(*check_logits(logits, labels))
        return u_lira(observed, self[name].forget, self[RETRAINED].forget)

    def lira(self, name: str) -> pd.DataFrame:
        """LiRA on the models of a method: whether they still look trained on the samples.

        The first half of the original models (members) and of the retrained ones (non-members) are the shadow
        models; the second half of the method's models, which come from other originals, is attacked.

        Parameters
        ----------
        name : str
            One of :attr:`names`. KeyError: it is not.

        Returns
        -------
        DataFrame
            One row a forgotten sample: ``member``, share of the models that the attack takes for members, and
            ``ratio``, mean log likelihood ratio.
        """
        shadows = [self[group].half(True).forget for group in (ORIGINAL, RETRAINED)]
        found = lira(self[name].half(False).forget, *shadows)
        return pd.DataFrame({"member": (found > 0).mean(axis=0), "ratio": found.mean(axis=0)})

    def plot(self, ax: Any = None) -> Any:
        """ROC curves of U-LiRA on logarithmic axes, one a method.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw. Default: a new figure.

        Returns
        -------
        codec.plotting.AttackDisplay
        """
        from codec.plotting import AttackDisplay

        return AttackDisplay({name: self.ratios(name) for name in self.names}).plot(ax)

    def to_html(self, path: str | Path | None = None, *, title: str = "Unlearned or retrained?") -> str:
        """A page with the table and the ROC curves; no other file is needed."""
        figure = figure_html(lambda: self.plot().figure_, "ROC curves of U-LiRA")
        return page_html(title, f"{self._repr_html_()}{figure}", path)

    def _check(self, logits: Array, labels: Labels) -> None:
        """Refuse outputs on other samples or of other models, as far as that can be known."""
        if self.n_classes not in {None, logits.shape[1]}:
            raise ValueError(
                f"logits have {logits.shape[1]} classes, those of the shadow models {self.n_classes}; train shadow models "
                "of the form of the model under attack."
            )
        if self.samples is None or len(labels) != len(self.samples.labels):  # another number is refused below
            return
        wrong = (labels != self.samples.labels).nonzero()[0].tolist()
        if wrong:
            raise ValueError(
                f"labels differ from those of the samples that the shadow models were made for at {wrong[:5]}"
                f"{' and others' * (len(wrong) > 5)}; pass these samples, in the order of `forget` of shadow_models."
            )

    def _pair(self, name: str) -> tuple[Bank, Bank]:
        """The models of a row and those that they are held against."""
        if name == RETRAINED:
            return self[RETRAINED].half(True), self[RETRAINED].half(False)
        return self[name], self[RETRAINED]

    def _row(self, bank: Bank, other: Bank, delta: float, confidence_level: float) -> dict[str, float]:
        seen, unseen = cross_fitted_ratios(bank.forget, other.forget)
        quality = forgetting_quality(bank.forget, other.forget, delta=delta).score
        retain = bank.retain_accuracy.mean(), other.retain_accuracy.mean()
        test = bank.test_accuracy.mean(), other.test_accuracy.mean()
        return {
            "n_models": len(seen),
            "ulira_accuracy": float(((seen > 0).mean() + (unseen <= 0).mean()) / 2),
            "ulira_auc": auc(seen.ravel(), unseen.ravel()),
            "ulira_tpr": tpr_at_fpr(seen.ravel(), unseen.ravel(), two_sided=False),
            "worst_auc": worst_auc(bank, other),
            "audited_epsilon": _epsilon(bank, other, delta, confidence_level),
            "forgetting_quality": quality,
            "competition_score": competition_score(quality, retain, test) if retain[1] * test[1] > 0 else float("nan"),
            "klom_forget": float(klom(bank.forget, other.forget).mean()),
            "klom_test": float(klom(bank.test, other.test).mean()),
            "retain_accuracy": float(bank.retain_accuracy.mean()),
            "forget_accuracy": float(bank.forget_accuracy.mean()),
            "test_accuracy": float(bank.test_accuracy.mean()),
        }

    def _repr_html_(self) -> str:
        return str(self.to_frame().T.to_html(float_format=lambda v: f"{v:.4g}"))

    def __repr__(self) -> str:
        return str(self.to_frame().T.to_string(float_format=lambda v: f"{v:.4g}"))


def worst_auc(bank: Bank, other: Bank) -> float:
    """AUC of the most exposed sample, found and fitted on one half of the models and judged on the other; both ways."""
    halves = [(bank.half(first).forget, other.half(first).forget) for first in (True, False)]
    found = []
    for fit, judged in (halves, halves[::-1]):
        exposed = np.argmax([auc(*pair) for pair in _by_sample(fit, fit)])
        found.append(auc(*_by_sample(judged, fit)[exposed]))
    return float(np.mean(found))


def _by_sample(models: tuple[Array, Array], fit: tuple[Array, Array]) -> list[tuple[Array, Array]]:
    """Ratios of both groups of models to the shadow models of a fit, sample by sample."""
    first, second = (lira(part, *fit).T for part in models)
    return list(zip(first, second, strict=True))


def _epsilon(bank: Bank, other: Bank, delta: float, confidence_level: float) -> float:
    if min(len(bank.forget), len(other.forget)) < 6:
        return float("nan")
    return epsilon_of_banks(bank.forget, other.forget, delta=delta, confidence_level=confidence_level)
