"""Draw the figure of the page on tests: a null distribution, and p-values under a hard null hypothesis.

``make figures`` runs this, in about a minute.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV

from codec import codec_test
from codec.plotting import CalibrationDisplay, NullDistributionDisplay

OUTPUT = Path(__file__).parents[1] / "_static" / "calibration.png"
N_DATA_SETS, ORANGE = 200, "#d1652a"


def shared_signal(rng):
    """Y and z are the same function of x plus independent noise: independent given x."""
    x = rng.normal(size=(200, 3))
    signal = np.sin(1.5 * x @ [0.6, 0.6, -0.5])
    y, z = (signal + 0.3 * signal.std() * rng.normal(size=200) for _ in range(2))
    return y, z, x


def plain_residuals(y, z, x):
    """p-value of the product of kernel ridge residuals (Shah & Peters 2020)."""
    grid = {"alpha": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0], "gamma": [0.1, 0.3]}
    left = []
    for column in (y, z):
        model = GridSearchCV(KernelRidge(kernel="rbf"), grid, cv=5).fit(x, column)
        left.append(column - model.predict(x))
    product = left[0] * left[1]
    return 2 * norm.sf(abs(np.sqrt(len(y)) * product.mean() / product.std()))


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(2, 120))
    y, z = np.sin(2 * x) + noise * rng.normal(size=120), x + noise
    NullDistributionDisplay.from_result(codec_test(y, z, given=x, n_resamples=999, rng=0), ax=axes[0])
    data = [shared_signal(np.random.default_rng(seed)) for seed in range(N_DATA_SETS)]
    ours = CalibrationDisplay([codec_test(*d, rng=0).pvalue for d in data]).plot(axes[1])
    other = CalibrationDisplay([plain_residuals(*d) for d in data])
    axes[1].lines[-1].set_label("codec_test")
    axes[1].plot(other.expected, other.pvalues, color=ORANGE, label="plain residuals")
    axes[1].legend(frameon=False, loc="lower right", fontsize="small")
    figure.savefig(OUTPUT, dpi=140)
    print(f"wrote {OUTPUT.name}")
