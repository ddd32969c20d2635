"""The loss: one value a sample of whatever was trained on, and what its kind says of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional
from torch.utils._pytree import tree_map

LIKELIHOODS = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
CLASSES_SECOND, CLASSES_SECOND_FUNCTIONS = (
    (nn.CrossEntropyLoss, nn.NLLLoss),
    (functional.cross_entropy, functional.nll_loss),
)
LIKELIHOOD_FUNCTIONS = (  # in the same order
    functional.cross_entropy,
    functional.nll_loss,
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
)

Loss = str | Callable[[Any, Any], Tensor]


def is_likelihood(loss: Loss) -> bool:
    """Whether this is one of torch's negative log-likelihoods as it is."""
    changed = (
        getattr(loss, "label_smoothing", 0.0) > 0.0
        or getattr(loss, "weight", None) is not None
        or getattr(loss, "pos_weight", None) is not None
    )
    return is_one_of(loss, LIKELIHOOD_FUNCTIONS) or (is_torchs(loss, LIKELIHOODS) and not changed)


def is_torchs(loss: Loss, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether this is one of torch's losses, and not one with a forward of its own that is derived from it."""
    return isinstance(loss, kinds) and type(loss).forward in {kind.forward for kind in kinds}


def certain(targets: Tensor) -> bool:
    """Whether they are classes, or zeros and ones: of smoothed or mixed ones exp(-loss) is no probability."""
    return not targets.is_floating_point() or bool(((targets == 0.0) | (targets == 1.0)).all())


def is_one_of(loss: Loss, functions: Sequence[Any]) -> bool:
    """Whether this is the cross entropy by name, or one of the functions; a loss need not be hashable."""
    return (isinstance(loss, str) and loss == "cross_entropy") or any(loss is function for function in functions)


def loss_function(loss: Loss) -> PerSample:
    """A loss of one value a sample."""
    if isinstance(loss, type):
        raise TypeError(f"loss is the class {loss.__name__}; pass an object of it, {loss.__name__}().")
    if loss == "cross_entropy":
        loss = nn.CrossEntropyLoss()
    elif loss == "mse":
        loss = nn.MSELoss()
    elif not callable(loss):
        raise ValueError(f"loss must be 'cross_entropy', 'mse' or a callable loss(output, target), got {loss!r}.")
    same = [module for module, function in zip(LIKELIHOODS, LIKELIHOOD_FUNCTIONS, strict=True) if loss is function]
    if same:
        return PerSample(same[0](reduction="none"), loss)
    own = _learnt(loss) if isinstance(loss, nn.Module) else []
    if own:
        raise ValueError(
            f"loss has trainable parameters ({', '.join(own[:3])}), which the training data shaped and no step would "
            "change; move them into the model, or freeze them (requires_grad_(False))."
        )
    if getattr(loss, "reduction", None) not in {"mean", "sum"}:
        return PerSample(loss, loss)
    each = copy.deepcopy(loss)
    setattr(each, "reduction", "none")  # noqa: B010 - any callable with this attribute
    return PerSample(each, loss)


def _learnt(loss: nn.Module) -> list[str]:
    """Names of trainable parameters; the module itself need not be hashable."""
    found = list(loss.named_parameters(recurse=False))
    for prefix, child in loss.named_children():
        found += child.named_parameters(prefix)
    return [name for name, p in found if p.requires_grad]


class PerSample:
    """One value a sample, whatever the loss returns: trailing positions are averaged; and the loss as it came."""

    def __init__(self, loss: Callable[[Any, Any], Tensor], whole: Callable[[Any, Any], Tensor]) -> None:
        self.loss, self.whole = loss, whole
        self.one_value = True  # whether no positions were averaged

    def __call__(self, outputs: Tensor, targets: Any) -> Tensor:
        value = self.loss(outputs, targets)
        if not isinstance(value, Tensor):
            raise TypeError(f"loss returned {type(value).__name__}; it must return a tensor.")
        if value.dim() == 0:
            return self._one_by_one(outputs, targets)
        self.one_value &= value.numel() == len(value)
        return value.flatten(1).mean(1) if value.dim() > 1 else value

    def _one_by_one(self, outputs: Tensor, targets: Any) -> Tensor:
        """Of a loss that gives the mean of a batch: that of every sample as a batch of its own."""
        try:
            return vmap(lambda o, t: self.loss(o[None], tree_map(lambda x: x[None], t)))(outputs, targets)
        except RuntimeError as error:
            raise RuntimeError(
                f"loss gives the mean of a batch, and torch.vmap cannot take it sample by sample; let it give one value a "
                f"sample ({error})"
            ) from error
