"""Shadow models: seeds, cache, resumption, and what the attacks say where the truth is known."""

import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset, TensorDataset

from codec.unlearn.evaluate import ShadowModels, auc, logit_confidence, shadow_models, split

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 5, generator=GENERATOR)
Y = torch.randint(3, (60,), generator=GENERATOR)
DATA, TEST, FORGET = (X[:40], Y[:40]), (X[40:], Y[40:]), [3, 8, 21]
RETAIN = split(DATA, FORGET)["retain"]


def train(data, seed):
    """A linear model that fits its labels; torch's random state is the shadow models' own."""
    del seed
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(15):
        rows = torch.randint(len(data[1]), (len(data[1]),))
        optimizer.zero_grad()
        cross_entropy(model(data[0][rows]), data[1][rows]).backward()
        optimizer.step()
    return model


def nothing(model, seed):
    return model


def retraining(model, seed):
    return train(RETAIN, seed)


def run(methods=None, n_models=8, **options):
    return shadow_models(train, methods or {"nothing": nothing}, DATA, FORGET, test=TEST, n_models=n_models, **options)


def same(first, second):
    for name in first.names:
        for key, values in vars(first[name]).items():
            np.testing.assert_array_equal(values, vars(second[name])[key], err_msg=f"{name} {key}")


def test_outputs_are_those_of_the_models(monkeypatch):
    made = []

    def watched(data, seed):
        made.append((len(data[1]), train(data, seed)))
        return made[-1][1]

    shadows = shadow_models(watched, {"nothing": nothing}, DATA, FORGET, test=TEST, n_models=8)
    for name, size in (("original", 40), ("retrained", 37)):
        group = [model for n, model in made if n == size]
        with torch.no_grad():
            expected = [logit_confidence(model(X[FORGET]).numpy(), Y[FORGET].numpy()) for model in group]
            accuracies = [(model(TEST[0]).argmax(1) == TEST[1]).double().mean() for model in group]
        np.testing.assert_allclose(shadows[name].forget, expected, rtol=1e-6)
        np.testing.assert_allclose(shadows[name].test_accuracy, accuracies)
    np.testing.assert_array_equal(shadows["nothing"].forget, shadows["original"].forget)
    assert len({row.tobytes() for row in shadows["original"].forget}) == 8  # every model has a seed of its own


def test_the_same_for_every_number_of_processes_and_as_before_afterwards():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    alone = run({"nothing": nothing, "retraining": retraining})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    same(alone, run({"nothing": nothing, "retraining": retraining}, n_jobs=2))
    assert not np.array_equal(alone["original"].forget, run(random_state=1)["original"].forget)


def test_a_run_that_is_interrupted_goes_on_where_it_stopped(tmp_path):
    calls = []

    def interrupted(data, seed):
        calls.append(seed)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return train(data, seed)

    def call(trainer, **options):
        return shadow_models(trainer, {"nothing": nothing}, DATA, FORGET, test=TEST, n_models=8, **options)

    with pytest.raises(KeyboardInterrupt):
        call(interrupted, cache=tmp_path)
    resumed = call(interrupted, cache=tmp_path)
    assert len(calls) == 17  # 16 trainings, one of them twice
    same(resumed, run())
    same(call(lambda *_: pytest.fail("nothing is left to train"), cache=tmp_path), resumed)


def test_threads_and_types_of_numbers_are_the_callers(monkeypatch):
    state = torch.get_rng_state()
    with joblib.parallel_config(backend="threading"):
        same(run(n_jobs=2), run())
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(sys.modules[__name__], "DATA", (X[:40].double(), Y[:40]))
    monkeypatch.setattr(sys.modules[__name__], "TEST", (X[40:].double(), Y[40:]))
    torch.set_default_dtype(torch.float64)
    try:
        same(run(), run(n_jobs=2))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_models_with_weight_norm_are_copied():
    def normed(data, seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = nn.utils.weight_norm(train(data, seed))
        model(data[0])
        return model

    shadows = shadow_models(normed, {"nothing": nothing}, DATA, FORGET, test=TEST, n_models=8)
    np.testing.assert_array_equal(shadows["nothing"].forget, shadows["original"].forget)


def test_a_disk_that_fills_up_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError("no space left on device")

    whole = run()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="no space"):
            run(cache=tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob("*.safetensors"))
    run(cache=tmp_path)
    path = sorted(tmp_path.glob("*.safetensors"))[5]
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="no space"):
            run(cache=tmp_path)
    assert not path.exists()
    same(run(cache=tmp_path), whole)


def test_more_models_and_another_method_keep_what_is_there(tmp_path):
    calls = []

    def counted(data, seed):
        calls.append(len(data[1]))
        return train(data, seed)

    def call(methods, n_models):
        calls.clear()
        return shadow_models(counted, methods, DATA, FORGET, test=TEST, n_models=n_models, cache=tmp_path)

    call({"nothing": nothing}, 8)
    call({"nothing": nothing}, 10)
    assert sorted(calls) == [37, 37, 40, 40]
    both = {"nothing": nothing, "retraining": retraining}
    same(call(both, 10), run(both, n_models=10))
    assert calls.count(40) == 10  # the originals are trained again to be unlearned; retrained ones are there


def test_a_cache_of_other_data_or_seeds_is_refused(tmp_path):
    run(cache=tmp_path)
    with pytest.raises(ValueError, match="other data, targets, samples or seeds"):
        run(cache=tmp_path, random_state=1)
    with pytest.raises(ValueError, match="other data, targets, samples or seeds"):
        shadow_models(train, {"a": nothing}, DATA, [0], test=TEST, n_models=8, cache=tmp_path)


def test_a_cache_knows_columns_by_their_names(tmp_path):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, a, b):
            return self.layer(a + 2 * b)

    def call(key="first", swapped=False):
        a, b = (X[:40], X[:40] ** 2)[:: -1 if swapped else 1]
        data = {"a": a, "b": b, "first": Y[:40], "second": (Y[:40] + 1) % 3}
        test = {name: column[:10] for name, column in data.items()}
        labels = {"first", "second"} - {key}
        take = {"data": {k: v for k, v in data.items() if k not in labels}, "test": test}
        take["test"] = {k: v for k, v in test.items() if k not in labels}
        shadow_models(lambda *_: Sum(), {"nothing": nothing}, take["data"], [0], test=take["test"], n_models=8,
                      cache=tmp_path, target_key=key)  # fmt: skip

    call()
    call()
    for change in ({"key": "second"}, {"swapped": True}):
        with pytest.raises(ValueError, match="other data, targets, samples or seeds"):
            call(**change)


def test_a_cache_knows_a_dataset_and_what_is_forgotten_of_it(tmp_path):
    """Two requests of as many samples used to share a cache."""

    def fit(data, seed):
        return train(
            tuple(torch.stack([torch.as_tensor(v) for v in column]) for column in zip(*data, strict=True)), seed
        )

    def call(data, ids):
        return shadow_models(
            fit, {"nothing": nothing}, data, ids, test=TensorDataset(*TEST), n_models=8, cache=tmp_path
        )

    data = TensorDataset(*DATA)
    call(data, [0, 1])
    call(data, [0, 1])
    changed = DATA[0].clone()
    changed[5] += 1.0
    for other, ids in ((data, [0, 2]), (TensorDataset(changed, DATA[1]), [0, 1])):
        with pytest.raises(ValueError, match="other data, targets, samples or seeds"):
            call(other, ids)


@pytest.mark.slow
def test_a_killed_process_is_resumed(tmp_path):
    script = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_evaluate_shadow as t
        def slow(data, seed):
            time.sleep(0.2)
            return t.train(data, seed)
        t.shadow_models(slow, {{"nothing": t.nothing}}, t.DATA, t.FORGET, test=t.TEST, n_models=8, cache={str(tmp_path)!r})
    """)  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", script])
    while len(list(tmp_path.glob("*.safetensors"))) < 4 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 4 <= len(list(tmp_path.glob("*.safetensors"))) < 24
    same(run(cache=tmp_path), run())


# --------------------------------------------------------------------------- what the attacks say
def bank(rng, shift, n=64, m=5):
    """Confidences of models that are normal with the shift as their mean."""
    from codec.unlearn.evaluate import Bank

    return Bank(rng.normal(shift, 1, (n, m)), rng.normal(0, 1, (n, 7)), *np.full((3, n), 0.9))


@pytest.fixture(scope="module")
def known():
    """A perfect method, one that does half of it, and retrained models of a known distribution."""
    rng = np.random.default_rng(0)
    shifts = {"original": 2.0, "perfect": 0.0, "half": 1.0, "retrained": 0.0}
    return ShadowModels({name: bank(rng, shift, n=128) for name, shift in shifts.items()})


def test_u_lira_reaches_the_best_test_between_two_known_normals(known):
    frame = known.to_frame()
    for name, shift in (("original", 2.0), ("half", 1.0), ("perfect", 0.0)):
        best = norm.cdf(shift / 2)  # accuracy of the likelihood ratio test of N(shift, 1) and N(0, 1)
        assert frame.loc[name, "ulira_accuracy"] == pytest.approx(best, abs=0.04)
        assert frame.loc[name, "ulira_auc"] == pytest.approx(norm.cdf(shift / 2**0.5), abs=0.05)
    assert frame.loc["retrained", "ulira_auc"] == pytest.approx(0.5, abs=0.08)


def test_whole_models_prove_an_epsilon_for_the_original_and_none_for_the_perfect_method(known):
    frame = known.to_frame()
    assert frame.loc["original", "audited_epsilon"] > 1.5
    assert frame.loc["perfect", "audited_epsilon"] == 0.0
    assert frame.loc["original", "forgetting_quality"] < frame.loc["half", "forgetting_quality"]
    assert frame.loc["half", "forgetting_quality"] < frame.loc["perfect", "forgetting_quality"]
    assert frame.loc["original", "klom_forget"] > frame.loc["half", "klom_forget"] > frame.loc["perfect", "klom_forget"]
    assert list(frame.index) == ["original", "perfect", "half", "retrained"]
    assert frame["n_models"].tolist() == [128, 128, 128, 64]


def test_lira_takes_originals_for_members_and_perfectly_unlearned_ones_for_none(known):
    frame = known.to_frame()
    # the threshold lies at 1: members N(2, 1) above it with probability Phi(1)
    assert frame.loc["original", "lira_member"] == pytest.approx(norm.cdf(1), abs=0.06)
    assert frame.loc["perfect", "lira_member"] == pytest.approx(norm.cdf(-1), abs=0.06)
    assert frame.loc["half", "lira_member"] == pytest.approx(0.5, abs=0.08)
    assert len(known.lira("half")) == 5


def test_one_model_is_attacked_through_its_logits(known):
    logits = np.array([[2.0, 0.0]] * 4 + [[0.0, 0.0]])  # confidence 2 and 0
    found = known.attack(logits, np.zeros(5, dtype=int))
    # N(2, 1) against N(0, 1): log ratio 2 (phi - 1)
    np.testing.assert_allclose(found, 1 / (1 + np.exp([-2.0] * 4 + [2.0])), atol=0.1)


def test_it_shows_itself(known, tmp_path):
    from matplotlib import pyplot as plt

    frame = known.to_frame()
    pd.testing.assert_frame_equal(frame, known.to_frame(), check_exact=True)
    assert "ulira_auc" in known._repr_html_()
    assert "audited_epsilon" in repr(known)
    assert known.to_html(tmp_path / "page.html").count("data:image/png;base64,") == 1
    assert "ulira_auc" in (tmp_path / "page.html").read_text()
    display = known.plot()
    fpr, tpr = display.lines_["half"].get_data()
    assert np.trapezoid(np.r_[0, tpr], np.r_[0, fpr]) == pytest.approx(frame.loc["half", "ulira_auc"], abs=1e-3)
    assert frame.loc["half", "ulira_auc"] == auc(*(r.ravel() for r in known.ratios("half")))
    plt.close(display.figure_)
    with pytest.raises(KeyError, match="'other' is not among original, perfect"):
        known["other"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"unlearn": {}}, ValueError, "unlearn is empty"),
        ({"unlearn": {"retrained": nothing}}, ValueError, "'retrained', the name of a row"),
        ({"unlearn": {"a": 1}}, TypeError, "must be callable"),
        ({"n_models": 7}, ValueError, "n_models is 7"),
        ({"train": lambda *_: 1}, TypeError, "train returned int"),
        ({"unlearn": {"a": lambda *_: 1}}, TypeError, r"unlearn\['a'\] is of type int"),
        ({"unlearn": nothing}, TypeError, "unlearn is a function; it must be a dict"),
        ({"unlearn": {1: nothing}}, TypeError, "unlearn has 1 as a name"),
        ({"forget": [1, 1]}, ValueError, "forget names 1 samples more than once"),
        ({"forget": [99]}, IndexError, r"forget holds \[99\]"),
    ],
)
def test_what_cannot_be_done_is_refused(change, error, message):
    arguments = {"unlearn": {"nothing": nothing}, "data": DATA, "forget": FORGET, "test": TEST, "n_models": 8}
    with pytest.raises(error, match=message):
        shadow_models(**{"train": train, **arguments, **change})


def test_regression_has_no_shadow_models():
    data, test = (X[:40], X[:40, :1]), (X[40:], X[40:, :1])
    with pytest.raises(ValueError, match="retain: shadow models need one class label"):
        shadow_models(lambda *_: nn.Linear(5, 1), {"a": nothing}, data, [0], test=test, loss="mse", n_models=8)


def test_a_method_that_changes_its_model_in_place_changes_no_other():
    def zeroed(model, seed):
        nn.init.zeros_(model.weight)
        return model

    shadows = run({"zeroed": zeroed, "nothing": nothing})
    np.testing.assert_array_equal(shadows["nothing"].forget, shadows["original"].forget)
    assert (shadows["zeroed"].forget != shadows["original"].forget).all()


def test_a_method_that_diverges_is_named():
    def ascent(model, seed):
        model = nn.Linear(5, 3)
        nn.init.constant_(model.weight, float("nan"))
        return model

    with pytest.raises(ValueError, match="ascent, model 0: its outputs are not finite"):
        run({"ascent": ascent})


def test_split_in_every_form():
    mask = torch.zeros(40, dtype=torch.bool)
    mask[FORGET] = True
    for ids in (FORGET, mask, np.array(FORGET)):
        parts = split(DATA, ids)
        assert torch.equal(parts["forget"][0], X[FORGET])
        assert len(parts["retain"][1]) == 37
    parts = split({"x": X[:40], "labels": np.asarray(Y[:40])}, FORGET)
    np.testing.assert_array_equal(parts["forget"]["labels"], Y[FORGET])
    data = TensorDataset(*DATA)
    parts = split(data, FORGET)
    assert torch.equal(parts["forget"][1][0], X[8])
    assert split(data, Subset(parts["retain"], [0, 2]))["forget"].indices == parts["retain"].indices[:3:2]
    with pytest.raises(ValueError, match="not the training data that were passed"):
        split(data, Subset(TensorDataset(*DATA), [0]))
    samples = [(x, int(y)) for x, y in zip(*DATA, strict=True)]
    parts = split(samples, FORGET)
    assert torch.equal(parts["forget"][1][0], X[FORGET[1]])
    assert len(parts["retain"]) == 37
    parts = split((X[:40], Y[:40].tolist()), FORGET)
    assert list(parts["forget"][1]) == Y[FORGET].tolist()
    assert torch.equal(parts["forget"][0], X[FORGET])
    with pytest.raises(ValueError, match="names 1 samples more than once"):
        split(DATA, [3, 3])
    with pytest.raises(ValueError, match="nothing is left to keep"):
        split(DATA, range(40))
    with pytest.raises(ValueError, match=r"entries of \[39, 40\] samples"):
        split((X[:40], Y[:39]), [0])
