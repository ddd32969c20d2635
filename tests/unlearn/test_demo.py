"""The demonstration: what it promises is what it shows."""

import sys

from codec.__main__ import _show_unlearning
from codec.unlearn._demo import FORGOTTEN, demonstrate, text


def test_the_unlearned_model_stands_between_trained_and_retrained():
    deletion, table, seconds = demonstrate()
    assert deletion.accepted
    assert len(deletion.forgotten) == FORGOTTEN
    loss = table["forget loss"]
    gap = loss["retrained"] - loss["trained on all"]
    assert abs(loss["unlearned"] - loss["retrained"]) < 0.6 * gap  # of doing nothing
    assert abs(table["test accuracy"]["unlearned"] - table["test accuracy"]["retrained"]) < 0.015
    assert set(seconds) == {"deletion", "retraining"}


def test_the_text_names_what_is_not_proved(capsys):
    _show_unlearning()
    shown = capsys.readouterr().out
    assert "no bound is claimed" in shown
    assert "retrained, other seed" in shown
    assert shown.count("\n") == text().count("\n") + 2


def test_without_torch_the_demonstration_says_how_to_see_it(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else sys.modules.get(name))
    _show_unlearning()
    assert "codec[unlearn]" in capsys.readouterr().out
