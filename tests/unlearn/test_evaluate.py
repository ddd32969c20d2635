"""The one call: rows, distances, intervals, hygiene and messages."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from marks import slowly
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset, TensorDataset

from codec.unlearn import Problem, Unlearner, baselines
from codec.unlearn import evaluate as ev
from codec.unlearn.evaluate import evaluate

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(90, 4, generator=GENERATOR)
Y = (X[:, :3] + 0.7 * torch.randn(90, 3, generator=GENERATOR)).argmax(1)
FORGET, RETAIN, TEST = slice(0, 8), slice(8, 60), slice(60, 90)
DATA = {name: (X[rows], Y[rows]) for name, rows in (("retain", RETAIN), ("forget", FORGET), ("test", TEST))}


def net(seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3))


def train(data, seed):
    model = net(seed).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def models():
    everyone = (X[:60], Y[:60])
    return {
        "original": [train(everyone, seed) for seed in range(2)],
        "nothing": train(everyone, 0),
        "retrained": [train(DATA["retain"], seed) for seed in range(3)],
    }


@pytest.fixture(scope="module")
def result(models):
    return evaluate(models, **DATA)


def logits(model, rows):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(X[rows]).double().numpy()


def by_hand(model, others):
    """Metrics of one model, from the module itself."""
    out, labels = logits(model, FORGET), Y[FORGET].numpy()
    test = logits(model, TEST)
    losses = [cross_entropy(torch.tensor(o), Y[r], reduction="none").numpy() for o, r in ((out, FORGET), (test, TEST))]
    return {
        "forget_accuracy": (out.argmax(1) == labels).mean(),
        "test_loss": losses[1].mean(),
        "test_disagreement": np.mean([(test.argmax(1) != logits(o, TEST).argmax(1)).mean() for o in others]),
        "js_divergence": np.mean([ev.js_divergence(out, logits(o, FORGET)) for o in others]),
        "activation_distance": np.mean([ev.activation_distance(out, logits(o, FORGET)) for o in others]),
        "parameter_distance": np.mean(
            [
                sum(float((a - b).detach().double().square().sum()) for a, b in zip(model.parameters(), o.parameters(), strict=True)) ** 0.5
                for o in others
            ]
        ),
        "mia_loss_auc": ev.auc(-losses[0], -losses[1]),
        "mia_modified_entropy_tpr": ev.tpr_at_fpr(
            -ev.modified_entropy(out, labels), -ev.modified_entropy(test, Y[TEST].numpy())
        ),
    }  # fmt: skip


def test_every_row_is_what_the_modules_say(result, models):
    for name, group in models.items():
        for run, model in enumerate(group if isinstance(group, list) else [group]):
            others = [m for m in models["retrained"] if m is not model]  # of a retrained model: the other two
            for metric, value in by_hand(model, others).items():
                assert result.runs.loc[(name, run), metric] == pytest.approx(value, rel=1e-5, abs=1e-7), (name, metric)


def test_gap_is_the_mean_absolute_difference_to_the_retrained(result):
    columns = ["retain_accuracy", "forget_accuracy", "test_accuracy", "mia_loss_auc"]
    mean = result.runs.loc["retrained", columns].mean()
    expected = (result.runs.loc[("nothing", 0), columns] - mean).abs().mean()
    assert result.runs.loc[("nothing", 0), "gap"] == pytest.approx(expected, rel=1e-12)
    others = result.runs.loc["retrained", columns].iloc[1:].mean()
    expected = (result.runs.loc[("retrained", 0), columns] - others).abs().mean()
    assert result.runs.loc[("retrained", 0), "gap"] == pytest.approx(expected, rel=1e-12)


def test_means_and_students_intervals(result):
    frame, values = result.to_frame(intervals=True), result.runs.loc["retrained", "forget_loss"]
    assert list(result.to_frame().index) == ["original", "nothing", "retrained"]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = frame.loc["retrained", "forget_loss"]
    np.testing.assert_allclose(found[["mean", "low", "high"]].to_numpy(float), [values.mean(), low, high], rtol=1e-10)
    assert np.isnan(frame.loc["nothing", ("forget_loss", "low")])  # one model has no interval


PAIRWISE = ("test_disagreement", "forget_disagreement", "js_divergence", "activation_distance", "parameter_distance")


def of_points(points, methods=None):
    """An evaluation whose models are points: distances are Euclidean, accuracies and AUC the coordinates."""
    rows = {("retrained", i): (p, np.delete(points, i, 0)) for i, p in enumerate(points)}
    if methods is not None:
        rows |= {("method", i): (p, points) for i, p in enumerate(methods)}
    columns = ["retain_accuracy", "forget_accuracy", "test_accuracy", "mia_loss_auc"]
    found = {}
    for key, (point, others) in rows.items():
        distance = np.linalg.norm(others - point, axis=1).mean()
        gap = np.abs(point - others.mean(0)).mean()
        found[key] = dict(zip(columns, point, strict=True)) | dict.fromkeys(PAIRWISE, distance) | {"gap": gap}
    index = pd.MultiIndex.from_tuples(found, names=["name", "run"])
    return ev.Evaluation(pd.DataFrame(list(found.values()), index=index), {})


@pytest.mark.parametrize("n", [3, slowly(6)])
def test_intervals_of_distances_among_retrained_models_hold_the_truth(n):
    """Rows that share models are not independent: taken for it, seven in ten of the 95 % intervals held the truth."""
    rng, pair = np.random.default_rng(n), np.random.default_rng(0).normal(size=(2, 200_000, 4))
    truth = {"js_divergence": np.linalg.norm(pair[0] - pair[1], axis=1).mean()}
    truth["gap"] = (2 / np.pi) ** 0.5 * (1 + 1 / (n - 1)) ** 0.5  # mean |x - mean of the others|, x normal
    hits, apart, times = dict.fromkeys(truth, 0), 0, 100
    for _ in range(times):
        result = of_points(rng.normal(size=(n, 4)), rng.normal(size=(n, 4)))
        frame, gaps = result.to_frame(intervals=True).loc["retrained"], result.gaps().loc["method", "js_divergence"]
        for name, value in truth.items():
            hits[name] += frame[name, "low"] <= value <= frame[name, "high"]
        apart += gaps["low"] > 0 or gaps["high"] < 0  # the method is retraining
    assert all(hit >= stats.binom.ppf(1e-4, times, 0.94) for hit in hits.values()), hits
    assert apart <= stats.binom.ppf(1 - 1e-4, times, 0.05)


def test_the_jackknife_leaves_one_retrained_model_out():
    points = np.random.default_rng(0).normal(size=(5, 4))
    frame = of_points(points).to_frame(intervals=True).loc["retrained"]
    for name in ("gap", "parameter_distance"):
        left = [of_points(np.delete(points, i, 0)).to_frame().loc["retrained", name] for i in range(5)]
        error = np.sqrt(4 / 5 * np.square(left - np.mean(left)).sum())
        assert frame[name, "high"] - frame[name, "mean"] == pytest.approx(stats.t.ppf(0.975, 4) * error, rel=1e-10)


def test_two_retrained_models_have_one_distance_and_no_interval():
    frame = of_points(np.random.default_rng(0).normal(size=(2, 4))).to_frame(intervals=True).loc["retrained"]
    assert all(np.isnan(frame[name, "low"]) for name in (*PAIRWISE, "gap"))
    assert np.isfinite(frame["test_accuracy", "low"])


def test_gaps_have_welchs_intervals(result):
    first, other = (result.runs.loc[name, "forget_loss"] for name in ("original", "retrained"))
    low, high = stats.ttest_ind(first, other, equal_var=False).confidence_interval(0.9)
    found = result.gaps(confidence_level=0.9).loc["original", "forget_loss"]
    expected = [first.mean() - other.mean(), low, high]
    np.testing.assert_allclose(found[["mean", "low", "high"]].to_numpy(float), expected, rtol=1e-10)
    assert "retrained" not in result.gaps().index


def test_gaps_between_models_without_spread_are_exact():
    index = pd.MultiIndex.from_product([["original", "retrained"], range(2)], names=["name", "run"])
    runs = pd.DataFrame({"test_accuracy": [0.75, 0.75, 0.5, 0.5], "test_loss": [1.0, 2.0, 3.0, 3.0]}, index=index)
    found = ev.Evaluation(runs, {}).gaps().loc["original"]
    assert found["test_accuracy"].isna().tolist() == [False, True, True]  # models that differ agree in it by chance
    # one group without spread: Student's interval of the other, 1/2 the standard error of {1, 2}, one degree of freedom
    half = 0.5 * np.tan(0.95 * np.pi / 2)
    np.testing.assert_allclose(found["test_loss"], [-1.5, -1.5 - half, -1.5 + half], rtol=1e-10)
    table = ev.Evaluation(runs, {}).to_frame(intervals=True)["test_accuracy"]
    assert table.isna().to_numpy().tolist() == [[False, True, True], [False, False, False]]
    runs.loc[("original", 1), "test_loss"] = 1.0  # the same model twice
    assert ev.Evaluation(runs, {}).gaps().loc["original", "test_accuracy"].tolist() == [0.25, 0.25, 0.25]


def test_train_makes_the_retrained_models_and_every_bit_again(models, result):
    known = {name: group for name, group in models.items() if name != "retrained"}
    state = torch.get_rng_state()
    first, again = (evaluate(known, train=train, seeds=(0, 1, 2), **DATA) for _ in range(2))
    pd.testing.assert_frame_equal(first.runs, again.runs, check_exact=True)
    pd.testing.assert_frame_equal(first.runs, result.runs, check_exact=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_train_may_return_the_same_object_every_time(models, result):
    """And the one that is the original: what counts is what it was when it came."""
    net_of_all = copy.deepcopy(models["original"][0])

    def again(data, seed):
        net_of_all.load_state_dict(train(data, seed).state_dict())
        return net_of_all

    given = {name: group for name, group in models.items() if name != "retrained"} | {"same": net_of_all}
    found = evaluate(given, **DATA, train=again, seeds=range(3))
    expected = evaluate(given | {"same": models["original"][0]}, **DATA, train=train, seeds=range(3))
    pd.testing.assert_frame_equal(found.runs, expected.runs, check_exact=True)
    assert found.notes == expected.notes
    for name in ("original", "nothing", "retrained"):
        pd.testing.assert_frame_equal(found.runs.loc[name], result.runs.loc[name], check_exact=True)


def test_nothing_is_trained_before_what_was_passed_is_found_to_fit(models):
    def watched(data, seed):
        pytest.fail("a model was trained")

    bad = {"untrained": net(width=6).append(nn.Linear(3, 2))}, {"untrained": nn.Linear(4, 2)}
    for options in bad:
        with pytest.raises(ValueError, match="untrained"):
            evaluate({"original": models["original"][0]}, **DATA, train=watched, **options)
    with pytest.raises(ValueError, match=r"models\['other'\]: Target 2 is out of bounds"):
        evaluate({"original": models["original"][0], "other": nn.Linear(4, 2)}, **DATA, train=watched)
    with pytest.raises(TypeError, match="train is of type int"):
        evaluate({"original": models["original"][0]}, **DATA, train=3)
    with pytest.raises(ValueError, match="seeds is 1180591620717411303424"):
        evaluate({"original": models["original"][0]}, **DATA, train=watched, seeds=[2**70])


def test_forgotten_samples_among_the_retained_ones_are_told(models):
    both = {**DATA, "retain": (X[:60], Y[:60])}
    assert any("is among the retained ones" in note for note in evaluate(models, **both).notes)
    partly = {**DATA, "retain": (X[1:60], Y[1:60])}  # samples may be there twice
    for data in (DATA, partly):
        assert not any("is among the retained ones" in note for note in evaluate(models, **data).notes)


def test_outputs_that_look_like_probabilities_are_told():
    def soft(seed):
        return nn.Sequential(net(seed), nn.Softmax(1))

    models = {"original": soft(0), "retrained": [soft(1), soft(2)]}
    assert any("pass output=torch.log" in note for note in evaluate(models, **DATA).notes)
    plain = {"original": net(0), "retrained": [net(1), net(2)]}
    assert not any("probabilities" in note for note in evaluate(plain, **DATA).notes)
    logs = evaluate(models, **DATA, output=torch.log)
    assert not any("probabilities" in note for note in logs.notes)
    np.testing.assert_allclose(logs.runs["test_loss"], evaluate(plain, **DATA).runs["test_loss"], rtol=1e-5)


@pytest.mark.parametrize(
    "device",
    ["nowhere", pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"))],
)
def test_a_device_that_is_not_there_is_told(models, device):
    with pytest.raises(ValueError, match=f"device is '{device}', which cannot be used here"):
        evaluate(models, **DATA, device=device)


def test_models_and_inputs_are_as_before(models):
    every = [m for group in models.values() for m in (group if isinstance(group, list) else [group])]
    for model in every:
        model.train()
        model[0].weight.grad = torch.ones_like(model[0].weight)
    before = [copy.deepcopy(m.state_dict()) for m in every]
    inputs = copy.deepcopy(DATA)
    evaluate(models, **DATA, relearn=baselines.Recipe(epochs=1, lr=0.1))
    for model, state in zip(every, before, strict=True):
        assert model.training
        assert all(m.training for m in model.modules())
        assert bool((model[0].weight.grad == 1).all())
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for name in DATA for a, b in zip(DATA[name], inputs[name], strict=True))


def test_an_unlearner_a_deletion_and_their_models_are_the_same_row():
    model = train((X[:60], Y[:60]), 0).eval()
    model[1].eval().requires_grad_(False)
    problem = Problem(model, "cross_entropy", (X[:60], Y[:60]), weight_decay=0.01)
    deletion = baselines.fine_tune(problem, list(range(8)), baselines.Recipe(epochs=1), random_state=0)
    moved = copy.deepcopy(model)
    moved.load_state_dict(dict(deletion.parameters), strict=False)
    assert not torch.equal(moved[1].running_mean, model[1].running_mean)  # buffers that training moved count, too
    unlearner = Unlearner(model, "cross_entropy", (X[:60], Y[:60]), weight_decay=0.01, selector="all", random_state=0)
    done = unlearner.forget([0, 1])
    rows = evaluate(
        {
            "original": model, "deletion": deletion, "its model": moved, "unlearner": unlearner,
            "its copy": unlearner.model, "retrained": train(DATA["retain"], 1),
        },
        **DATA,
    ).runs  # fmt: skip
    pd.testing.assert_series_equal(rows.loc[("deletion", 0)], rows.loc[("its model", 0)], check_names=False)
    pd.testing.assert_series_equal(rows.loc[("unlearner", 0)], rows.loc[("its copy", 0)], check_names=False)
    assert rows.loc[("deletion", 0), "forget_loss"] != rows.loc[("original", 0), "forget_loss"]
    with pytest.raises(ValueError, match="pass the unlearner"):
        evaluate({"original": model, "codec": done, "retrained": model}, **DATA)


def test_zrf_holds_the_outputs_against_an_untrained_model(models):
    untrained = net(5)
    rows = evaluate({**models, "untrained": untrained}, untrained=untrained, **DATA).to_frame()
    assert rows.loc["untrained", "zrf"] == 1.0
    expected = ev.zrf(logits(models["nothing"], FORGET), logits(untrained, FORGET))
    assert rows.loc["nothing", "zrf"] == pytest.approx(expected, rel=1e-6)


def test_the_untrained_model_of_zrf_has_the_seed_of_the_call(models):
    first, again, other = (
        evaluate(models, random_state=seed, **DATA).runs.loc[("nothing", 0), "zrf"] for seed in (0, 0, 1)
    )
    assert first == again
    assert abs(first - other) > 1e-6


def test_zrf_without_an_untrained_model_is_left_out_and_noted():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 3))

        def forward(self, x):
            return x @ self.w

    result = evaluate({"original": Own(), "retrained": Own()}, **DATA)
    assert "zrf" not in result.runs
    assert "pass untrained=, a fresh model" in result.notes[0]
    assert "one retrained model" in result.notes[1]
    assert "30 samples never seen" in result.notes[2]


def test_retrained_models_that_are_the_same_are_told():
    def always(*_):
        torch.manual_seed(0)
        return nn.Linear(4, 3)

    models = {"original": nn.Linear(4, 3)}
    told = [
        any("ignores its seed" in note for note in evaluate(models, train=one, seeds=(1, 2), **DATA).notes)
        for one in (always, train)
    ]
    assert told == [True, False]


def test_relearn_time_of_a_quadratic_by_hand():
    """w -> w - 0.25 * 2 w: the loss w^2 of a single weight is 1/4 of itself after every epoch."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    problem = Problem(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)), weight_decay=0.0)
    recipe = baselines.Recipe(epochs=5, lr=0.25, momentum=0.0, batch_size=None)
    for goal, epochs in ((1.0, 0), (0.3, 1), (1 / 16, 2), (4.0**-5, 5), (4.0**-6, np.inf)):
        assert ev.relearn_epochs(problem, goal, recipe, margin=0.0) == epochs
    assert ev.relearn_epochs(problem, 0.99, recipe, margin=0.05) == 0
    assert float(problem.model.weight.detach()) == 1.0


def test_relearn_time_of_a_loss_that_may_be_negative():
    """The same quadratic less 2, whose goals lie below 0: within 5 % of -1.9 is -1.805, so w^2 <= 0.195."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    data = torch.ones(1, 1), torch.zeros(1, 1)
    problem = Problem(model, lambda o, t: (o - t).square() - 2.0, data, weight_decay=0.0)
    recipe = baselines.Recipe(epochs=5, lr=0.25, momentum=0.0, batch_size=None)
    assert ev.relearn_epochs(problem, -1.9, recipe, margin=0.05) == 2  # w^2: 1, 1/4, 1/16
    assert ev.relearn_epochs(problem, -1.0, recipe, margin=0.0) == 0


def test_relearning_the_original_takes_no_epoch(models):
    rows = evaluate(models, relearn=baselines.Recipe(epochs=30, lr=0.5, batch_size=None), **DATA).runs
    assert rows.loc[("original", 0), "relearn_epochs"] == 0
    assert rows.loc["retrained", "relearn_epochs"].min() > 0


def test_nonmembers_replace_the_test_set_in_attacks_only(models, result):
    chosen = evaluate(models, nonmembers=(X[60:75], Y[60:75]), **DATA).runs
    out = [logits(models["nothing"], rows) for rows in (FORGET, slice(60, 75))]
    expected = ev.auc(*(ev.confidence(o, Y[r].numpy()) for o, r in zip(out, (FORGET, slice(60, 75)), strict=True)))
    assert chosen.loc[("nothing", 0), "mia_confidence_auc"] == pytest.approx(expected, abs=1e-9)
    assert chosen["test_loss"].equals(result.runs["test_loss"])


def test_regression_has_losses_and_no_classes():
    target = X @ torch.ones(4, 1)
    data = {name: (X[rows], target[rows]) for name, rows in (("retain", RETAIN), ("forget", FORGET), ("test", TEST))}
    result = evaluate(
        {"original": nn.Linear(4, 1), "retrained": [nn.Linear(4, 1) for _ in range(2)]}, loss="mse", **data
    )
    assert list(result.runs) == [
        "retain_loss", "forget_loss", "test_loss", "parameter_distance", "mia_loss_auc", "mia_loss_tpr",
    ]  # fmt: skip
    assert result.runs.notna().all(axis=None)


def test_one_logit_for_two_classes():
    torch.manual_seed(0)
    model, labels = nn.Linear(4, 1), (X[:, 0] > 0).long()
    data = {name: (X[rows], labels[rows]) for name, rows in (("retain", RETAIN), ("forget", FORGET), ("test", TEST))}
    models = {"original": model, "retrained": nn.Linear(4, 1)}
    rows = evaluate(models, output=lambda z: torch.cat([torch.zeros_like(z), z], 1), **data).runs
    z = model(X[TEST]).detach()[:, 0]
    binary = nn.functional.binary_cross_entropy_with_logits(z, labels[TEST].float())
    assert rows.loc[("original", 0), "test_loss"] == pytest.approx(float(binary), rel=1e-6)
    assert rows.loc[("original", 0), "test_accuracy"] == pytest.approx(float(((z > 0) == labels[TEST]).float().mean()))


def test_data_of_other_forms_give_the_same_table(models, result):
    whole = TensorDataset(X, Y)
    subsets = {name: Subset(whole, range(*rows.indices(90))) for name, rows in (("retain", RETAIN), ("forget", FORGET), ("test", TEST))}  # fmt: skip
    pd.testing.assert_frame_equal(evaluate(models, batch_size=7, **subsets).runs, result.runs, rtol=1e-5, atol=1e-7)


def test_frozen_models_are_compared_as_they_are(models, result):
    frozen = {
        name: [copy.deepcopy(m).requires_grad_(False) for m in (g if isinstance(g, list) else [g])]
        for name, g in models.items()
    }
    found = evaluate(frozen, relearn=baselines.Recipe(epochs=1, lr=0.1), **DATA)
    pd.testing.assert_frame_equal(found.runs[list(result.runs)], result.runs)
    assert found.runs["relearn_epochs"].notna().all()
    assert not any(p.requires_grad for p in frozen["nothing"][0].parameters())


def test_counts_are_no_classes():
    """Two outputs, a mean and a variance, and integers up to 27."""
    counts = (X[:, 0].exp() * 4).long()
    data = {name: (X[rows], counts[rows]) for name, rows in (("retain", RETAIN), ("forget", FORGET), ("test", TEST))}
    loss = lambda o, t: nn.functional.gaussian_nll_loss(o[:, 0], t.float(), o[:, 1].exp(), reduction="none")  # noqa: E731
    runs = evaluate({"original": nn.Linear(4, 2), "retrained": nn.Linear(4, 2)}, loss=loss, **data).runs
    assert "test_accuracy" not in runs
    assert runs["test_loss"].notna().all()


def test_compiled_models_of_train_are_the_models_inside(models, result):
    known = {name: group for name, group in models.items() if name != "retrained"}
    found = evaluate(
        known, train=lambda data, seed: torch.compile(train(data, seed), backend="eager"), seeds=(0, 1, 2), **DATA
    )
    pd.testing.assert_frame_equal(found.runs, result.runs, check_exact=True)


def test_an_unlearner_is_no_original_any_more():
    model = train((X[:60], Y[:60]), 0)
    unlearner = Unlearner(model, "cross_entropy", (X[:60], Y[:60]), weight_decay=0.01, selector="all", random_state=0)
    arguments = {**DATA, "train": train, "seeds": (1,)}
    assert evaluate({"original": unlearner}, **arguments).runs.loc["original"].notna().all(axis=None)
    unlearner.forget([0])
    with pytest.raises(ValueError, match="has forgotten samples already"):
        evaluate({"original": unlearner}, **arguments)


@pytest.mark.parametrize("size", [None, 1, 7])
def test_a_single_sample_is_relearned_through_batch_norms(models, size):
    recipe = baselines.Recipe(epochs=2, lr=0.1, batch_size=size)
    for data in (DATA, {**DATA, "forget": (X[:1], Y[:1])}):  # 8 = 7 + 1
        runs = evaluate(models, relearn=recipe, **data).runs
        assert runs["relearn_epochs"].notna().all()


def test_models_of_another_form_have_no_parameter_distance(models):
    result = evaluate({**models, "wide": net(0, width=9)}, **DATA)
    assert np.isnan(result.runs.loc[("wide", 0), "parameter_distance"])
    assert result.notes[-1].startswith("parameter_distance is missing")


def test_a_model_that_diverged_has_an_empty_row(models):
    broken = net(0)
    nn.init.constant_(broken[0].bias, float("nan"))
    result = evaluate({**models, "broken": [broken, net(1)]}, relearn=baselines.Recipe(epochs=1), **DATA)
    assert result.runs.loc[("broken", 0)].isna().all()
    assert result.runs.loc[("broken", 1)].notna().all()
    assert result.notes[-1].startswith("broken: outputs that are not finite")
    result.to_html()
    with pytest.raises(
        ValueError, match=r"models\['retrained'\], model 0: its outputs on retain are not finite for samples 0, 1"
    ):
        evaluate({"original": net(1), "retrained": broken}, **DATA)
    with pytest.raises(ValueError, match="retain: loss is not finite"):
        evaluate({"original": broken, "retrained": net(1)}, **DATA)


def test_a_loss_that_is_never_relearned_is_infinite_in_the_table(models):
    result = evaluate(models, relearn=baselines.Recipe(epochs=1, lr=1e-6), **DATA)
    assert np.isinf(result.to_frame().loc["retrained", "relearn_epochs"])
    assert "inf" in result._repr_html_()
    result.to_html()


def test_deletions_in_a_list_go_with_the_originals_of_theirs(models):
    originals = models["original"]
    found = [
        baselines.selective_synaptic_dampening(
            Problem(model.requires_grad_(True), "cross_entropy", DATA["retain"], weight_decay=0.0), [0], alpha=1e9
        )
        for model in originals
    ]  # with so large an alpha nothing is dampened: the models are as before, running means among them
    rows = evaluate({**models, "deletions": found}, **DATA).runs
    pd.testing.assert_frame_equal(rows.loc["deletions"], rows.loc["original"])


def test_dicts_go_to_the_model_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, values):
            return {"logits": self.layer(values)}

    torch.manual_seed(0)
    model, again = Named(), Named()
    parts = ev.split({"values": X[:60], "labels": Y[:60]}, range(8))
    named = evaluate({"original": model, "retrained": again}, test={"values": X[60:], "labels": Y[60:]}, **parts)
    plain = evaluate({"original": model.layer, "retrained": again.layer}, **DATA)
    pd.testing.assert_frame_equal(named.runs.drop(columns="zrf"), plain.runs.drop(columns="zrf"))


def test_shadow_models_attack_every_model(models):
    """Members lie near 3, others near -3, unlearned ones near 0: the sign of the confidence decides."""
    rng, ends = np.random.default_rng(0), {"original": 3.0, "nothing": 0.0, "retrained": -3.0}
    banks = {
        name: ev.Bank(rng.normal(m, 1, (200, 8)), rng.normal(0, 1, (200, 30)), *np.full((3, 200), 0.5))
        for name, m in ends.items()
    }
    rows = evaluate(models, shadows=ev.ShadowModels(banks), **DATA).runs
    for key in (("original", 1), ("nothing", 0), ("retrained", 2)):
        group = models[key[0]]
        model = group[key[1]] if isinstance(group, list) else group
        phi = ev.logit_confidence(logits(model, FORGET), Y[FORGET].numpy())
        assert rows.loc[key, "lira_member"] == pytest.approx((phi > 0).mean(), abs=1e-9)
    phi = ev.logit_confidence(logits(models["nothing"], FORGET), Y[FORGET].numpy())
    assert rows.loc[("nothing", 0), "ulira_member"] == pytest.approx((phi > -1.5).mean())
    assert rows["ulira_member"].notna().sum() == 1
    with pytest.raises(ValueError, match="trained for 8 forgotten samples; forget has 30"):
        evaluate(models, shadows=ev.ShadowModels(banks), **{**DATA, "forget": DATA["test"]})


@pytest.mark.gpu
def test_on_a_device_the_table_is_the_same(models, result):
    there = {k: [copy.deepcopy(m).cuda() for m in (g if isinstance(g, list) else [g])] for k, g in models.items()}
    pd.testing.assert_frame_equal(evaluate(there, **DATA).runs, result.runs, rtol=1e-4, atol=1e-5)


def test_it_shows_itself(result, tmp_path):
    page = result.to_html(tmp_path / "page.html", title="A < B")
    assert (tmp_path / "page.html").read_text() == page
    assert "A &lt; B" in page
    assert page.count("data:image/png;base64,") == 1
    assert f"{result.runs.loc[('nothing', 0), 'forget_loss']:.4g}" in result._repr_html_()
    assert "forget_accuracy" in repr(result)


def test_names_are_no_formulas(models):
    page = evaluate({**models, "a$b_$x^": models["nothing"]}, **DATA).to_html()
    assert "a$b_$x^" in page


def test_plot_puts_every_model_beside_the_retrained_band(result):
    from matplotlib import pyplot as plt

    display = result.plot(["forget_loss", "mia_loss_auc"])
    assert [t.get_text() for t in display.axes_[0].get_yticklabels()] == ["original", "nothing", "retrained"]
    points = display.axes_[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], result.runs.loc["original", "forget_loss"])
    band = display.axes_[0].patches[0].get_extents().transformed(display.axes_[0].transData.inverted())
    values = result.runs.loc["retrained", "forget_loss"]
    np.testing.assert_allclose([band.x0, band.x1], [values.min(), values.max()])
    plt.close(display.figure_)
    with pytest.raises(ValueError, match="metrics holds 'speed'"):
        result.plot(["speed"])
    with pytest.raises(ValueError, match="1 axes for 6 metrics"):
        result.plot(axes=[plt.subplots()[1]])
    plt.close("all")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": {}}, ValueError, "'original'"),
        ({"models": {"original": nn.Linear(4, 3)}}, ValueError, "without a retrained model shows nothing"),
        ({"train": train}, ValueError, "not both"),
        ({"models": {"original": nn.Linear(4, 3), "retrained": []}}, ValueError, r"models\['retrained'\] is an empty"),
        (
            {"models": {"original": [], "retrained": []}},
            ValueError,
            r"models\['original'\] must be the trained model itself",
        ),
        ({"models": {"original": nn.Linear(4, 3), "a": 3, "retrained": nn.Linear(4, 3)}}, TypeError, "is of type int"),
        ({"models": {"original": nn.Linear(4, 3)}, "train": train, "seeds": ()}, ValueError, "seeds is empty"),
        ({"models": {"original": nn.Linear(4, 3)}, "train": train, "seeds": 3}, TypeError, "seeds is 3"),
        ({"models": {"original": nn.Linear(4, 3)}, "train": train, "seeds": (1, 2, 1)}, ValueError, "seed twice"),
        ({"models": {"original": nn.Linear(4, 3)}, "train": lambda *_: 1}, TypeError, "train returned int"),
        ({"forget": (X[:0], Y[:0])}, ValueError, "forget: the data is empty"),
        ({"models": nn.Linear(4, 3)}, TypeError, "models is a Linear; it must be a dict"),
        (
            {"models": {"original": nn.Linear(4, 3), 1: nn.Linear(4, 3), "1": nn.Linear(4, 3)}, "train": train},
            ValueError,
            "two names that read alike",
        ),
        (
            {"models": {"original": nn.Linear(4, 3), "double": nn.Linear(4, 3).double()}, "train": train},
            ValueError,
            r"models\['double'\]: .*dtype",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(change, error, message):
    arguments = {"models": {"original": nn.Linear(4, 3), "retrained": nn.Linear(4, 3)}, **DATA, **change}
    with pytest.raises(error, match=message):
        evaluate(arguments.pop("models"), **arguments)


@pytest.mark.parametrize("name", ["original", "other", "retrained"])
def test_a_model_whose_output_changes_is_refused_whoever_it_is(name):
    class Dropping(nn.Linear):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.5, training=True))

    models = {"original": nn.Linear(4, 3), "other": nn.Linear(4, 3), "retrained": nn.Linear(4, 3)}
    with pytest.raises(ValueError, match="not deterministic"):
        evaluate({**models, name: Dropping(4, 3)}, **DATA)


def test_parameters_of_another_model_are_refused():
    problem = Problem(nn.Sequential(nn.Linear(4, 3)), "cross_entropy", DATA["forget"], weight_decay=0.0)
    deletion = baselines.fine_tune(problem, [0], baselines.Recipe(epochs=1), random_state=0)
    with pytest.raises(ValueError, match="which the original model has not"):
        evaluate({"original": nn.Linear(4, 3), "other": deletion, "retrained": nn.Linear(4, 3)}, **DATA)
