"""codec: conditional dependence, Markov blankets and feature selection.

The names below are the package.
"""

from codec._blanket import MarkovBlanketSelector
from codec._dependence import codec, lcodec
from codec._selection import SelectionPath, foci, lfoci

__version__ = "0.1.0"

__all__ = ["MarkovBlanketSelector", "SelectionPath", "__version__", "codec", "foci", "lcodec", "lfoci"]
