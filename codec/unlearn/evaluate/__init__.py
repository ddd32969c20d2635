"""What was forgotten, beside a retrained model."""

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

__all__ = [
    "Evaluation",
    "accuracy",
    "activation_distance",
    "auc",
    "confidence",
    "disagreement",
    "entropy",
    "evaluate",
    "js_divergence",
    "logit_confidence",
    "modified_entropy",
    "parameter_distance",
    "relearn_epochs",
    "roc",
    "tpr_at_fpr",
    "zrf",
]
