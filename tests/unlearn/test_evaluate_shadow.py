"""Shadow models: seeds, cache, resumption, and what the attacks say where the truth is known."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from marks import slowly
from safetensors.numpy import load_file, save_file
from scipy.special import logit
from scipy.stats import norm
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset

from codec.unlearn.evaluate import Bank, ShadowModels, auc, lira, logit_confidence, shadow_models, split
from codec.unlearn.evaluate._audit import cross_fitted_ratios
from codec.unlearn.evaluate._study import worst_auc

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


def test_other_processes_give_the_same_numbers_and_change_nothing_here(tmp_path):
    """With the caller's type of numbers, whatever back end joblib is set to; torch's states belong to a process."""

    def linear(*_):  # of this function alone, so that other processes need not load this file
        (tmp_path / str(os.getpid())).touch()
        return torch.nn.Linear(5, 3)

    def call(**options):
        data, test = ((x.double(), y) for x, y in (DATA, TEST))
        return shadow_models(linear, {"other": linear}, data, FORGET, test=test, n_models=8, **options)

    torch.set_default_dtype(torch.float64)
    try:
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        with joblib.parallel_config(backend="threading"):
            there = call(n_jobs=2)
        processes = {int(path.name) for path in tmp_path.iterdir()}
        same(there, call())
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert 1 <= len(processes - {os.getpid()}) == len(processes) <= 2


def test_every_training_and_every_deletion_has_a_seed_of_its_own():
    seeds = []

    def model_of(_, seed):
        seeds.append(seed)
        return nn.Linear(5, 3)

    for random_state in (0, 1):
        shadow_models(
            model_of, {"a": model_of, "b": model_of}, DATA, FORGET, test=TEST, n_models=8, random_state=random_state
        )
    assert len(seeds) == len(set(seeds)) == 2 * 8 * 4  # originals, two methods, retrained


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
    with pytest.raises(ValueError, match="other data, targets, samples, seeds or"):
        run(cache=tmp_path, random_state=1)
    with pytest.raises(ValueError, match="other data, targets, samples, seeds or"):
        shadow_models(train, {"a": nothing}, DATA, [0], test=TEST, n_models=8, cache=tmp_path)


@pytest.mark.parametrize("content", [b"", b"half of a file"])
def test_a_file_of_a_cache_that_is_damaged_is_named_and_made_again(tmp_path, content):
    whole = run(cache=tmp_path)
    path = sorted(tmp_path.glob("*.safetensors"))[5]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name}' is damaged .* delete it, and its model is trained again"):
        run(cache=tmp_path)
    path.unlink()
    same(run(cache=tmp_path), whole)


def test_a_cache_that_does_not_say_of_what_it_is_is_refused(tmp_path):
    """Outputs on other samples used to be taken for those of this request."""
    run(cache=tmp_path)
    settings = tmp_path / "settings.json"
    settings.write_text(settings.read_text()[:40])
    with pytest.raises(ValueError, match=r"settings.json' cannot be read .*; pass another folder"):
        run(cache=tmp_path)
    settings.unlink()
    with pytest.raises(ValueError, match="holds outputs of models but no settings"):
        shadow_models(train, {"nothing": nothing}, DATA, [0, 1, 2], test=TEST, n_models=8, cache=tmp_path)
    settings.touch()
    with pytest.raises(ValueError, match=r"settings\.json' is a file; pass a folder"):
        run(cache=settings)


def test_other_files_in_the_folder_of_a_cache_do_no_harm(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"of somebody else")
    same(run(cache=tmp_path), run(cache=tmp_path))


@pytest.mark.parametrize("key", [None, "forget_accuracy"])
def test_a_file_whose_content_changed_is_refused(tmp_path, key):
    whole = run(cache=tmp_path)
    assert whole.n_classes == 3
    path = sorted(tmp_path.glob("nothing-*.safetensors"))[2]
    if key is None:  # one bit of the numbers; the file can still be read
        content = bytearray(path.read_bytes())
        content[-1] ^= 4
        path.write_bytes(bytes(content))
    else:
        save_file({name: value for name, value in load_file(path).items() if name != key}, path)
    with pytest.raises(
        ValueError, match=rf"{path.name}' is damaged \(its content is not what was written\); delete it"
    ):
        run(cache=tmp_path)
    path.unlink()
    same(run(cache=tmp_path), whole)


def test_a_cache_of_another_default_type_is_refused(tmp_path):
    run(cache=tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match="get_default_dtype"):
            run(cache=tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)


def test_training_that_ignores_its_seed_is_told():
    def ignores(data, seed):
        torch.manual_seed(42)
        return train(data, seed)

    with pytest.warns(UserWarning, match=r"models that are the same, 1 different ones of 8") as told:
        shadow_models(ignores, {"nothing": nothing}, DATA, FORGET, test=TEST, n_models=8)
    assert [str(w.message).split()[2] for w in told] == ["'original'", "'retrained'"]


def bank_of(confidences):
    return Bank(confidences, confidences, *np.ones((3, len(confidences))))


@pytest.mark.parametrize(("n", "n_samples"), [(8, 1), slowly(8, 30), (32, 1), slowly(32, 30), (64, 3)])
def test_a_perfect_method_is_told_by_chance_only(n, n_samples):
    """Means of 150 AUCs: 1/2 within four standard errors, however many models and samples there are."""
    rng = np.random.default_rng(5)
    everyone, worst = [], []
    for _ in range(150):
        first, second = rng.normal(size=(2, n, n_samples))
        everyone.append(auc(*(ratios.ravel() for ratios in cross_fitted_ratios(first, second))))
        worst.append(worst_auc(bank_of(first), bank_of(second)))
    for found in (everyone, worst):
        error = np.std(found) / np.sqrt(150)
        assert abs(np.mean(found) - 0.5) < 4 * error < 0.085


def test_one_leak_among_thirty_samples_is_found():
    leaks = np.random.default_rng(5).normal(size=(2, 32, 30))
    leaks[0, :, 7] += 4.0
    assert worst_auc(*map(bank_of, leaks)) > 0.95


@pytest.mark.parametrize("n", [8, 9])
def test_ratios_of_each_half_are_those_to_the_other_half(n):
    first, second = np.random.default_rng(6).normal(size=(2, n, 3))
    cut = n // 2
    for bank, found in zip((first, second), cross_fitted_ratios(first, second), strict=True):
        np.testing.assert_array_equal(found[:cut], lira(bank[:cut], first[cut:], second[cut:]))
        np.testing.assert_array_equal(found[cut:], lira(bank[cut:], first[:cut], second[:cut]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train": 3}, TypeError, "train is of type int"),
        ({"test": None}, TypeError, "test: the data must be a Dataset with a length"),
        ({"test": DataLoader(TensorDataset(*TEST))}, TypeError, "test: .* pass its dataset"),
        ({"test": (TEST[0], TEST[1].float())}, ValueError, "test: shadow models need one class label"),
        ({"loss": "zz"}, ValueError, "loss must be"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_what_is_wrong_is_refused_before_anything_is_trained(change, error, message, cached, tmp_path):
    def watched(data, seed):
        pytest.fail("a model was trained")

    options = {"train": watched, "test": TEST, "n_models": 8, "cache": tmp_path / "new" if cached else None} | change
    with pytest.raises(error, match=message):
        shadow_models(options.pop("train"), {"nothing": nothing}, DATA, FORGET, **options)
    assert not (tmp_path / "new").exists()


def test_outputs_that_carry_a_graph_are_attacked():
    shadows = run()
    model = train(DATA, 0)
    logits = model(X[FORGET])
    assert logits.requires_grad
    np.testing.assert_array_equal(shadows.attack(logits, Y[FORGET]), shadows.attack(logits.detach(), Y[FORGET]))


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
        with pytest.raises(ValueError, match="other data, targets, samples, seeds or"):
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
        with pytest.raises(ValueError, match="other data, targets, samples, seeds or"):
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
    return Bank(rng.normal(shift, 1, (n, m)), rng.normal(0, 1, (n, 7)), *np.full((3, n), 0.9))


@cache
def known_of(seed):
    """The shadow models of `known` and their table, made once."""
    rng = np.random.default_rng(seed)
    shifts = {"original": 2.0, "perfect": 0.0, "half": 1.0, "retrained": 0.0}
    shadows = ShadowModels({name: bank(rng, shift, n=128) for name, shift in shifts.items()})
    return shadows, shadows.to_frame(confidence_level=0.9999)


@pytest.fixture
def known(global_random_seed):
    """A perfect method, one that does half of it, and retrained models of a known distribution."""
    return known_of(global_random_seed)[0]


@pytest.fixture
def frame(global_random_seed):
    return known_of(global_random_seed)[1]


def near(value, error):
    """Within four standard errors; these were found on 400 seeds."""
    return pytest.approx(value, abs=4 * error)


def test_u_lira_reaches_the_best_test_between_two_known_normals(frame):
    for name, shift, errors in (("original", 2.0, (0.011, 0.008)), ("half", 1.0, (0.014, 0.014))):
        # accuracy and AUC of the likelihood ratio test of N(shift, 1) and N(0, 1)
        assert frame.loc[name, "ulira_accuracy"] == near(norm.cdf(shift / 2), errors[0])
        assert frame.loc[name, "ulira_auc"] == near(norm.cdf(shift / 2**0.5), errors[1])


def test_u_lira_tells_nothing_where_there_is_nothing(frame):
    for name, errors in (("perfect", (0.021, 0.026)), ("retrained", (0.033, 0.033))):
        for column, error in zip(("ulira_accuracy", "ulira_auc"), errors, strict=True):
            # where the banks' means happen to agree, a model left out looks like one of the others: a tail below 1/2
            assert 0.5 - 8 * error <= frame.loc[name, column] <= 0.5 + 4 * error


def test_whole_models_prove_an_epsilon_for_the_original_and_none_for_the_perfect_method(frame):
    """At 99.99 %. The mean for the original is 1.65, its standard error .12."""
    assert frame.loc["original", "audited_epsilon"] > 1.65 - 5 * 0.12
    assert frame.loc["perfect", "audited_epsilon"] == frame.loc["retrained", "audited_epsilon"] == 0.0
    # logarithms of forgetting quality and of KLoM differ by 1.8 and 1.2 or more, with standard errors of .4 and .25
    assert frame.loc["original", "forgetting_quality"] < frame.loc["half", "forgetting_quality"]
    assert frame.loc["half", "forgetting_quality"] < frame.loc["perfect", "forgetting_quality"]
    assert frame.loc["original", "klom_forget"] > frame.loc["half", "klom_forget"] > frame.loc["perfect", "klom_forget"]
    assert list(frame.index) == ["original", "perfect", "half", "retrained"]
    assert frame["n_models"].tolist() == [128, 128, 128, 64]


def test_lira_takes_originals_for_members_and_perfectly_unlearned_ones_for_none(known, frame):
    # the threshold lies at 1: members N(2, 1) above it with probability Phi(1)
    assert frame.loc["original", "lira_member"] == near(norm.cdf(1), 0.022)
    assert frame.loc["perfect", "lira_member"] == near(norm.cdf(-1), 0.023)
    assert frame.loc["half", "lira_member"] == near(0.5, 0.032)
    assert len(known.lira("half")) == 5


def test_lira_attacks_the_half_that_made_none_of_its_shadow_models():
    """The first halves say that members lie at 3 and others at -3; the second halves of these two the reverse."""
    halves = {"original": (3.0, -3.0), "gone": (3.0, -3.0), "kept": (-3.0, 3.0), "retrained": (-3.0, 3.0)}
    rng = np.random.default_rng(0)
    banks = {}
    for name, shifts in halves.items():
        forget = np.repeat(shifts, 8)[:, None] + rng.uniform(-0.1, 0.1, (16, 3))
        banks[name] = Bank(forget, np.zeros((16, 1)), *np.ones((3, 16)))
    shadows = ShadowModels(banks)
    assert shadows.lira("gone")["member"].tolist() == [0.0] * 3
    assert shadows.lira("kept")["member"].tolist() == [1.0] * 3


def test_the_row_of_a_method_by_hand():
    """Of two samples the first tells all eight models apart, the second has the same confidences in both banks."""
    v, pair = np.linspace(-1.0, 1.0, 8), np.array([0.75, 1.25])
    accuracy = {name: np.outer(means, np.tile(pair, 4)) for name, means in
                (("method", (0.6, 0.2, 0.3)), ("retrained", (0.8, 0.1, 0.6)))}  # fmt: skip
    tests = {"method": [0.0, 0, 1, 1], "retrained": [0.0, 1, 1, 1]}
    banks = {
        name: Bank(np.column_stack([v + shift, v]), np.tile(tests[name], 2)[:, None], *accuracy[name])
        for name, shift in (("method", 10.0), ("retrained", -10.0))
    }
    row = ShadowModels({"original": banks["method"], **banks}).to_frame().loc["method"]
    # the other half says nothing of sample 2, whose ratios are 0: half right, and half above a retrained one
    assert row["ulira_accuracy"] == 0.75
    assert row["ulira_auc"] == 0.875
    assert row["worst_auc"] == 1.0
    assert row["ulira_tpr"] == 0.5  # no false positive of 16 is allowed: sample 1 of the unlearned models
    assert row["forgetting_quality"] == 0.5  # epsilon 50 and 0
    assert row["competition_score"] == pytest.approx(0.5 * (0.6 / 0.8) * (0.3 / 0.6), rel=1e-12)
    # sample 1: half of the models in each of two bins that no retrained one is in; sample 2: 0
    assert row["klom_forget"] == pytest.approx(np.log(0.5 * (1 + 2e-5) / 1e-5) / 2, rel=1e-9)
    assert row["klom_test"] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-9)
    found = row[["retain_accuracy", "forget_accuracy", "test_accuracy"]].to_numpy(float)
    np.testing.assert_allclose(found, [0.6, 0.2, 0.3], rtol=1e-12)


def test_one_model_is_attacked_through_its_logits(known):
    logits = np.array([[2.0, 0.0]] * 4 + [[0.0, 0.0]])  # confidence 2 and 0
    found = known.attack(logits, np.zeros(5, dtype=int))
    # N(2, 1) against N(0, 1): log ratio 2 (phi - 1), with a standard error of .28
    np.testing.assert_allclose(logit(found), [2.0] * 4 + [-2.0], rtol=0, atol=4 * 0.28)


def test_it_shows_itself(tmp_path):
    from matplotlib import pyplot as plt

    rng = np.random.default_rng(0)
    shadows = ShadowModels({name: bank(rng, 0.0, n=8, m=1) for name in ("original", "half", "retrained")})
    frame = shadows.to_frame()
    pd.testing.assert_frame_equal(frame, shadows.to_frame(), check_exact=True)
    assert "audited_epsilon" in repr(shadows)
    assert shadows.to_html(tmp_path / "page.html").count("data:image/png;base64,") == 1
    assert shadows._repr_html_() in (tmp_path / "page.html").read_text()
    assert f"{frame.loc['half', 'ulira_auc']:.4g}" in shadows._repr_html_()
    display = shadows.plot()
    fpr, tpr = display.lines_["half"].get_data()
    assert np.trapezoid(np.r_[0, tpr], np.r_[0, fpr]) == pytest.approx(frame.loc["half", "ulira_auc"], abs=1e-3)
    assert frame.loc["half", "ulira_auc"] == auc(*(r.ravel() for r in shadows.ratios("half")))
    plt.close(display.figure_)
    with pytest.raises(KeyError, match="'other' is not among original, half"):
        shadows["other"]


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
    with pytest.raises(ValueError, match="forget: shadow models need one class label"):
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

    with pytest.raises(
        ValueError,
        match="ascent, model 0: its outputs on retain are not finite for samples 0, 1, 2, 3, 4 and others of 37",
    ):
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


def test_frames_are_split_into_frames():
    frame = pd.DataFrame({"a": np.arange(6.0), "b": list("uvwxyz")}, index=range(10, 16))
    parts = split((frame, frame["a"]), [1, 3])
    pd.testing.assert_frame_equal(parts["forget"][0], frame.iloc[[1, 3]])
    pd.testing.assert_frame_equal(parts["retain"][0], frame.iloc[[0, 2, 4, 5]])
    pd.testing.assert_series_equal(parts["forget"][1], frame["a"].iloc[[1, 3]])
