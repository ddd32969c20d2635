"""codec: conditional dependence, tests of conditional independence, Markov blankets, feature selection.

The names below are the package.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from codec._blanket import MarkovBlanketSelector
from codec._blanket_graph import BlanketGraph, markov_blanket_graph
from codec._decisions import BlanketPath
from codec._dependence import codec, lcodec
from codec._inference import CodecTestResult, codec_test
from codec._intervals import ConfidenceInterval, codec_interval
from codec._many import CodecTestsResult, PowerCurve, codec_test_many, power_curve
from codec._peers import CITest, fisher_z, g_test, register_causal_learn
from codec._selection import SelectionPath, foci, lfoci
from codec._stability import StabilityResult

__version__ = "0.1.0"

__all__ = [
    "BlanketGraph",
    "BlanketPath",
    "CITest",
    "CodecTestResult",
    "CodecTestsResult",
    "ConfidenceInterval",
    "MarkovBlanketSelector",
    "PowerCurve",
    "SelectionPath",
    "StabilityResult",
    "__version__",
    "codec",
    "codec_interval",
    "codec_test",
    "codec_test_many",
    "fisher_z",
    "foci",
    "g_test",
    "lcodec",
    "lfoci",
    "markov_blanket_graph",
    "power_curve",
    "register_causal_learn",
]


if not _TYPE_CHECKING:  # to a type checker every name would be there

    def __getattr__(name: str) -> object:
        """The packages within, when they are asked for: they import matplotlib, or torch."""
        if name in {"datasets", "plotting", "unlearn"}:
            return _import_module(f"codec.{name}")
        raise AttributeError(f"module 'codec' has no attribute {name!r}")
