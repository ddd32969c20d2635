"""Delete training samples from a trained torch model."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

try:
    import safetensors as _safetensors  # noqa: F401 - what the ledger imports later
    import torch as _torch
except ImportError as error:
    raise ImportError("codec.unlearn needs torch and safetensors: pip install 'codec[unlearn]'") from error

from codec.unlearn._certificate import Certificate
from codec.unlearn._deletion import Deletion
from codec.unlearn._ledger import Ledger, LedgerError
from codec.unlearn._problem import Problem
from codec.unlearn._report import Report
from codec.unlearn._units import Units, UnsupportedModuleError, find_units
from codec.unlearn._unlearner import Unlearner

del _torch

if not _TYPE_CHECKING:  # to a type checker every name would be there

    def __getattr__(name: str) -> object:
        """The modules within, when they are asked for: they import matplotlib, or scikit-learn."""
        if name in {"baselines", "evaluate", "linear"}:
            return _import_module(f"codec.unlearn.{name}")
        raise AttributeError(f"module 'codec.unlearn' has no attribute {name!r}")


__all__ = [
    "Certificate",
    "Deletion",
    "Ledger",
    "LedgerError",
    "Problem",
    "Report",
    "Units",
    "Unlearner",
    "UnsupportedModuleError",
    "find_units",
]
