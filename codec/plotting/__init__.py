"""Display classes: what a selection or a test found, as a picture.

Displays follow scikit-learn's convention: ``__init__`` stores, ``plot`` draws and sets ``ax_`` and
``figure_``, and ``from_path`` / ``from_estimator`` / ``from_result`` do both. matplotlib is imported when something
is drawn, never before.
"""

from codec.plotting._blankets import BlanketGraphDisplay, BlanketPathDisplay, StabilityDisplay
from codec.plotting._paths import SelectionPathDisplay
from codec.plotting._tests import CalibrationDisplay, NullDistributionDisplay
from codec.plotting._unlearning import AttackDisplay, EvaluationDisplay

__all__ = [
    "AttackDisplay",
    "BlanketGraphDisplay",
    "BlanketPathDisplay",
    "CalibrationDisplay",
    "EvaluationDisplay",
    "NullDistributionDisplay",
    "SelectionPathDisplay",
    "StabilityDisplay",
]
