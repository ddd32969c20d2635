"""What was forgotten, beside a retrained model."""

from codec.unlearn._certificate import audited_epsilon
from codec.unlearn.evaluate._audit import (
    ForgettingQuality,
    competition_score,
    epsilon_of_banks,
    forgetting_quality,
    klom,
    lira,
    u_lira,
)
from codec.unlearn.evaluate._compare import evaluate
from codec.unlearn.evaluate._membership import auc, confidence, entropy, modified_entropy, roc, tpr_at_fpr
from codec.unlearn.evaluate._metrics import (
    accuracy,
    activation_distance,
    disagreement,
    js_divergence,
    logit_confidence,
    zrf,
)
from codec.unlearn.evaluate._outputs import parameter_distance
from codec.unlearn.evaluate._relearn import relearn_epochs
from codec.unlearn.evaluate._result import Evaluation
from codec.unlearn.evaluate._shadow import shadow_models
from codec.unlearn.evaluate._split import split
from codec.unlearn.evaluate._study import Bank, ShadowModels

__all__ = [
    "Bank",
    "Evaluation",
    "ForgettingQuality",
    "ShadowModels",
    "accuracy",
    "activation_distance",
    "auc",
    "audited_epsilon",
    "competition_score",
    "confidence",
    "disagreement",
    "entropy",
    "epsilon_of_banks",
    "evaluate",
    "forgetting_quality",
    "js_divergence",
    "klom",
    "lira",
    "logit_confidence",
    "modified_entropy",
    "parameter_distance",
    "relearn_epochs",
    "roc",
    "shadow_models",
    "split",
    "tpr_at_fpr",
    "u_lira",
    "zrf",
]
