"""The scripts of the gallery run, and what the page says of them holds."""

import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

FIGURES = Path(__file__).parents[2] / "docs" / "figures"


@pytest.fixture(autouse=True)
def no_screen(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.mark.slow  # python -m pytest tests/unlearn/test_gallery.py -m slow
def test_wrong_labels_are_taken_out_of_images():
    script = runpy.run_path(str(FIGURES / "unlearn_image.py"))
    deletion, result, *found = script["compute"]()
    forget, test = result.to_frame()["forget_accuracy"], result.to_frame()["test_accuracy"]
    assert sum(deletion.timings.values()) < 2.0
    assert forget["original"] > 0.9
    assert forget["unlearned"] < 0.2
    assert test["retrained"] - test["original"] > 0.02
    assert abs(test["unlearned"] - test["retrained"]) < 0.01
    assert len(script["draw"](result, *found).axes) == 15


@pytest.mark.slow
def test_sentences_are_taken_out_of_a_reader():
    script = runpy.run_path(str(FIGURES / "unlearn_text.py"))
    deletion, result, _ = script["compute"]()
    loss, accuracy = result.to_frame()["forget_loss"], result.to_frame()["test_accuracy"]
    assert sum(label.startswith("embed") for label in deletion.labels) > 30
    assert loss["60 units"] > 4 * loss["original"]
    assert loss["60 units"] < loss["all units"] < loss["retrained"]
    assert abs(accuracy["60 units"] - accuracy["original"]) < 0.02


@pytest.mark.slow
def test_the_bound_lies_above_the_distance():
    script = runpy.run_path(str(FIGURES / "unlearn_tabular.py"))
    _, rows, released, plain = script["compute"]()
    nothing, distance, bound = rows.T
    assert (distance <= bound).all()
    assert 2.0 < np.min(bound / distance) <= np.max(bound / distance) < 5.0
    assert (distance < nothing / 100).all()
    assert plain - released[-1].mean() <= 0.005  # epsilon = 1
    assert released[0].mean() < released[1].mean() < released[2].mean()
    assert len(script["draw"](rows, released, plain).axes) == 2
