"""Draw the figure of the quickstart: the path of a selection and where it stops. ``make figures`` runs this."""

from __future__ import annotations

from pathlib import Path

from sklearn.datasets import load_breast_cancer

from codec import foci
from codec.plotting import SelectionPathDisplay

OUTPUT = Path(__file__).parents[1] / "_static" / "selection_path.png"

if __name__ == "__main__":
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    path = foci(X, y, n_neighbors=10, stop=False, max_features=16)
    SelectionPathDisplay.from_path(path).figure_.savefig(OUTPUT, dpi=140)
    print(f"wrote {OUTPUT.name}")
