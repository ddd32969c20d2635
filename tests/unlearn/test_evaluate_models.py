"""Models and data of odd form: what is refused, with which words, and what is measured all the same."""

import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from codec.unlearn import Problem, baselines
from codec.unlearn import evaluate as ev
from codec.unlearn.evaluate import evaluate, shadow_models, split

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(50, 4, generator=GENERATOR)
Y = torch.arange(50) % 3
IDS = [3, 8, 21, 30]
PARTS = {**split((X[:40], Y[:40]), IDS), "test": (X[40:], Y[40:])}


def linear(*_):
    return nn.Linear(4, 3)


def nothing(model, seed):
    return model


def three(model=linear, **others):
    torch.manual_seed(0)
    return {"original": model(), "retrained": [model(), model()], **others}


# --------------------------------------------------------------------------- copies
class Locked(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.gate = threading.Lock()


def test_a_model_that_cannot_be_copied_is_named_with_what_is_in_the_way():
    refused = r"cannot be copied.* its attribute '(0\.)?gate' of type lock.*__getstate__"
    for name in ("original", "retrained", "other"):
        with pytest.raises(TypeError, match=rf"models\['{name}'\] {refused}"):
            evaluate(three() | {name: nn.Sequential(Locked())}, **PARTS)
    with pytest.raises(TypeError, match=rf"models\['other'\] {refused}"):
        evaluate(three(other=Locked().requires_grad_(False)), **PARTS)
    with pytest.raises(TypeError, match=f"untrained {refused}"):
        evaluate(three(), untrained=Locked(), **PARTS)
    with pytest.raises(TypeError, match=f"train's result {refused}"):
        shadow_models(lambda *_: Locked(), {"a": nothing}, (X[:40], Y[:40]), IDS, test=PARTS["test"], n_models=8)


def test_a_model_that_leaves_its_lock_out_of_copies_is_run():
    class Stated(Locked):
        def __getstate__(self):
            return {key: value for key, value in vars(self).items() if key != "gate"}

    assert evaluate(three(Stated), **PARTS).runs.notna().all(axis=None)


# --------------------------------------------------------------------------- what is measured
class Pooled(nn.Module):
    """The mean over all positions, padded ones too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 4, padding_idx=0)
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 1), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.encoder(self.embed(x), src_key_padding_mask=x == 0).mean(1))


def test_encoders_of_padded_samples_are_measured_as_they_were_trained():
    """In evaluation mode without derivatives torch puts zeros at padded positions, which is another function."""
    words = torch.randint(1, 11, (50, 7), generator=GENERATOR)
    words[torch.arange(7) >= 2 + torch.arange(50)[:, None] % 5] = 0
    parts = {name: (words[rows], Y[rows]) for name, rows in
             (("retain", slice(0, 30)), ("forget", slice(30, 40)), ("test", slice(40, 50)))}  # fmt: skip
    models = three(Pooled)
    rows = evaluate(models, **parts).runs
    expected = cross_entropy(models["original"].train()(words[40:]), Y[40:])  # no dropout; padded positions count
    assert rows.loc[("original", 0), "test_loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert models["original"].encoder.use_nested_tensor


def test_a_class_that_is_masked_is_no_divergence():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear()

        def forward(self, x):
            return torch.cat([self.layer(x), torch.full((len(x), 1), -torch.inf)], 1)

    models = three(Masked)
    plain = {"original": models["original"].layer, "retrained": [model.layer for model in models["retrained"]]}
    found, expected = evaluate(models, **PARTS), evaluate(plain, **PARTS)
    # a class of probability 0 changes nothing that is measured
    columns = [name for name in expected.runs if name != "zrf"]
    pd.testing.assert_frame_equal(found.runs[columns], expected.runs[columns], rtol=1e-6)


def test_counts_are_no_classes_though_the_forgotten_ones_might_be():
    """Two outputs, a mean and a variance; of the forgotten samples all counts are 0 or 1."""
    counts = torch.arange(50)
    data = {name: (X[rows], counts[rows]) for name, rows in
            (("retain", slice(2, 30)), ("forget", slice(0, 2)), ("test", slice(30, 50)))}  # fmt: skip
    loss = lambda o, t: nn.functional.gaussian_nll_loss(o[:, 0], t.float(), o[:, 1].exp(), reduction="none")  # noqa: E731
    runs = evaluate(three(lambda: nn.Linear(4, 2)), loss=loss, **data).runs
    assert not any("accuracy" in column or "entropy" in column for column in runs)
    assert runs["mia_loss_auc"].notna().all()


def test_whole_numbers_of_a_quantized_model_stay_frozen():
    class Quantized(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.arange(12, dtype=torch.int8).reshape(4, 3), requires_grad=False)

        def forward(self, x):
            return x @ self.w.float()

    found = evaluate(three(other=Quantized()), **PARTS).runs.loc[("other", 0), "test_loss"]
    expected = cross_entropy(X[40:] @ torch.arange(12.0).reshape(4, 3), Y[40:])
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_each_model_relearns_what_its_own_original_knew():
    """The loss w^2 is a quarter of itself after every epoch."""

    def weight(value):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, value)
        return model

    models = {
        "original": [weight(0.5), weight(1.0)],  # losses 1/4 and 1, their mean 5/8
        "method": [weight(1.0), weight(4.0)],  # to 1/4 and to 1
        "alone": weight(1.0),  # to 5/8
        "retrained": [weight(2.0), weight(4.0)],  # to 5/8
    }
    data = torch.ones(3, 1), torch.zeros(3, 1)
    recipe = baselines.Recipe(epochs=5, lr=0.25, momentum=0.0, batch_size=None)
    rows = evaluate(models, retain=data, forget=data, test=data, loss="mse", relearn=recipe).runs
    assert rows["relearn_epochs"].tolist() == [0, 0, 1, 2, 1, 2, 3]


# --------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ({"other": nn.Linear(4, 5)}, {}, ValueError, r"models\['other'\] gives 5 logits for classes, the original 3"),
        ({"retrained": nn.Linear(4, 5)}, {}, ValueError, r"models\['retrained'\] gives 5 logits"),
        ({}, {"untrained": nn.Linear(4, 5)}, ValueError, "untrained gives 5 logits"),
        ({}, {"untrained": nn.Linear(4, 3).double()}, ValueError, "untrained: .*dtype"),
        ({}, {"untrained": nn.Linear}, TypeError, "untrained is of type type; it must be a torch module"),
    ],
)
def test_models_that_do_not_go_together_are_named(models, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(three() | models, **PARTS, **options)


def test_a_model_that_returns_no_tensor_is_named():
    class Pair(nn.Linear):
        def forward(self, x):
            return (super().forward(x),)

    with pytest.raises(TypeError, match=r"models\['other'\]: model returned tuple; pass output="):
        evaluate(three(other=Pair(4, 3)), **PARTS)


def test_a_deletion_of_a_wider_model_is_named():
    problem = Problem(nn.Linear(4, 5), "cross_entropy", PARTS["forget"], weight_decay=0.0)
    deletion = baselines.fine_tune(problem, [0], baselines.Recipe(epochs=1), random_state=0)
    with pytest.raises(ValueError, match=r"models\['other'\] is a Deletion of a model of another form(.|\n)*\[5, 4\]"):
        evaluate(three(other=deletion), **PARTS)


def test_data_that_cannot_be_read_are_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="test: the data does not fit"):
        evaluate({"original": linear()}, train=lambda *_: pytest.fail("trained"), **{**PARTS, "test": (X[:, :2], Y)})


# --------------------------------------------------------------------------- shadow models of the same samples
@pytest.fixture(scope="module")
def shadows():
    return shadow_models(linear, {"a": nothing}, (X[:40], Y[:40]), IDS, test=PARTS["test"], n_models=8)


def test_shadow_models_know_their_samples_in_every_form(shadows):
    expected = evaluate(three(), shadows=shadows, **PARTS).runs
    x, y = PARTS["forget"]
    forms = [
        TensorDataset(x, y),
        (x.numpy(), y.byte()),
        [x, y.tolist()],
        (pd.DataFrame(x.numpy()), pd.Series(y.numpy())),
    ]
    for form in forms:
        found = evaluate(three(), shadows=shadows, **{**PARTS, "forget": form}).runs
        pd.testing.assert_frame_equal(found[["lira_member"]], expected[["lira_member"]])


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ((X[[3, 8, 21]], Y[[3, 8, 21]]), "trained for 4 forgotten samples; forget has 3"),
        ((X[IDS[::-1]], Y[IDS[::-1]]), r"with other labels than forget's, at \[1, 2\]"),  # 0 2 0 0 against 0 0 2 0
        ((X[[30, 8, 21, 3]], Y[[30, 8, 21, 3]]), "with other inputs than forget's"),  # the same labels
        ((X[IDS], X[IDS, 0]), "need class labels as targets"),
    ],
)
def test_shadow_models_of_other_samples_are_refused_before_anything_is_trained(shadows, forget, message):
    assert Y[IDS].tolist() == [0, 2, 0, 0]
    loss = lambda o, t: o.square().mean(1) + 0 * t  # noqa: E731
    with pytest.raises(ValueError, match=f"shadows.*{message}"):
        evaluate({"original": linear()}, train=lambda *_: pytest.fail("trained"), shadows=shadows, loss=loss,
                 **{**PARTS, "forget": forget})  # fmt: skip


def test_what_is_no_result_of_shadow_models_is_refused(shadows):
    with pytest.raises(TypeError, match="shadows is of type dict; it must be the result of shadow_models"):
        evaluate(three(), shadows=shadows.banks, **PARTS)


def test_shadow_models_of_another_form_are_refused(shadows):
    models = three(lambda: nn.Linear(4, 5))
    with pytest.raises(ValueError, match="shadows were trained with 3 classes, models have 5"):
        evaluate(models, shadows=shadows, **PARTS)
    with pytest.raises(ValueError, match="logits have 5 classes, those of the shadow models 3"):
        shadows.attack(np.zeros((4, 5)), Y[IDS].numpy())
    with pytest.raises(ValueError, match=r"labels differ .* at \[0, 3\]; pass these samples"):
        shadows.attack(np.zeros((4, 3)), [1, 2, 0, 1])
    assert shadows.attack(np.zeros((4, 3)), Y[IDS].numpy()).shape == (4,)


def test_shadow_models_that_say_nothing_of_their_samples_are_taken(shadows):
    bare = ev.ShadowModels(shadows.banks)
    expected = evaluate(three(), shadows=shadows, **PARTS).runs
    pd.testing.assert_frame_equal(evaluate(three(), shadows=bare, **PARTS).runs, expected)


def test_a_retrained_model_that_is_never_right_has_no_competition_score():
    rng = np.random.default_rng(0)
    right, wrong = np.ones(8), np.zeros(8)
    banks = {
        name: ev.Bank(rng.normal(size=(8, 1)), rng.normal(size=(8, 1)), right, right, test)
        for name, test in (("original", right), ("retrained", wrong))  # one test sample
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = ev.ShadowModels(banks).to_frame()
    assert frame["competition_score"].isna().all()
    assert frame["forgetting_quality"].notna().all()


# --------------------------------------------------------------------------- confident models, probabilities, modes
class Fixed(nn.Module):
    """Its inputs are its logits."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.weight


def margins(center, n, generator):
    margin = center + torch.randn(n, generator=generator)
    return torch.stack([margin, torch.zeros(n)], 1), torch.zeros(n, dtype=torch.long)


@pytest.mark.parametrize("center", [20.0, 60.0])
def test_losses_that_round_to_zero_tie_no_samples(center):
    """Cross entropies of margins beyond 17 are 0 in single precision, confidences beyond 37 are 1 in double."""
    generator = torch.Generator().manual_seed(3)
    data = {"retain": margins(3.0, 20, generator), "forget": margins(center + 2, 100, generator)}
    data["test"] = margins(center - 2, 100, generator)
    row = evaluate({"original": Fixed(), "retrained": [Fixed(), Fixed()]}, **data).runs.loc[("original", 0)]
    first, other = (data[part][0][:, 0] for part in ("forget", "test"))
    for attack in ("loss", "confidence"):
        assert row[f"mia_{attack}_auc"] == pytest.approx(ev.auc(first, other), abs=1e-12)
        assert row[f"mia_{attack}_tpr"] == ev.tpr_at_fpr(first, other)


def test_another_loss_is_attacked_as_it_is():
    def smoothed(output, target):
        return cross_entropy(output, target, reduction="none", label_smoothing=0.2)

    result = evaluate(three(), loss=smoothed, **PARTS)
    with torch.no_grad():
        model = three()["original"]
        first, other = (-smoothed(model(PARTS[p][0]), PARTS[p][1]) for p in ("forget", "test"))
    assert result.runs.loc[("original", 0), "mia_loss_auc"] == ev.auc(first, other)


def test_probabilities_are_refused_unless_they_were_trained_as_logits():
    def soft():
        return nn.Sequential(linear(), nn.Softmax(1))

    def likelihood(output, target):
        return -output.log().gather(1, target[:, None])[:, 0]

    with pytest.raises(ValueError, match=r"models\['original'\]: model gives probabilities.*output=torch\.log"):
        evaluate(three(soft), loss=likelihood, **PARTS)
    with pytest.raises(ValueError, match="model gives probabilities"):
        shadow_models(
            lambda *_: soft(), {"a": nothing}, (X[:40], Y[:40]), IDS, test=PARTS["test"], loss=likelihood, n_models=8
        )
    logs = evaluate(three(soft), loss=nn.NLLLoss(), output=torch.log, **PARTS)
    pd.testing.assert_frame_equal(logs.runs, evaluate(three(), **PARTS).runs, check_exact=False, rtol=1e-5)
    assert (
        evaluate(three(soft), **PARTS).runs.notna().all(axis=None)
    )  # cross entropy of probabilities: its softmax counts


def test_modes_of_the_caller_change_nothing():
    plain = evaluate(three(), relearn=baselines.Recipe(epochs=2), **PARTS).runs
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pd.testing.assert_frame_equal(evaluate(three(), relearn=baselines.Recipe(epochs=2), **PARTS).runs, plain)
    with torch.inference_mode():
        pd.testing.assert_frame_equal(evaluate(three(), relearn=baselines.Recipe(epochs=2), **PARTS).runs, plain)


# --------------------------------------------------------------------------- messages
@pytest.mark.parametrize("model", ["original", "other"])
def test_a_row_of_nan_in_the_data_is_found(model):
    x = PARTS["test"][0].clone()
    x[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"NaN|finite") as refused:
        evaluate(three(other=linear()), **PARTS | {"test": (x, PARTS["test"][1])})
    assert "test" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"seeds": (1.5, 2.7)}, TypeError, "seeds is 1.5; it must be an integer"),
        ({"seeds": "12"}, TypeError, "seeds is '12'; it must be a sequence of int"),
        ({"seeds": [None]}, TypeError, "seeds is None; it must be an integer"),
        ({"relearn": 5}, TypeError, "relearn is of type int; it must be a Recipe"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(options, error, match):
    def never(*_):
        raise AssertionError

    with pytest.raises(error, match=match):
        evaluate({"original": linear()}, train=never, **PARTS, **options)


@pytest.mark.parametrize(
    ("goal", "options", "match"),
    [(float("nan"), {}, "goal is nan"), (None, {}, "goal is None"), (1.0, {"margin": -1}, "margin is -1"),
     (1.0, {"margin": float("nan")}, "margin is nan")],
)  # fmt: skip
def test_a_goal_is_a_number(goal, options, match):
    problem = Problem(linear(), "cross_entropy", (X, Y), weight_decay=0.0)
    with pytest.raises(ValueError, match=match):
        ev.relearn_epochs(problem, goal, **options)


def test_distances_of_odd_models():
    class Complex(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([value]))

    assert ev.parameter_distance(Complex(0j), Complex(3 + 4j)) == 5.0
    assert ev.parameter_distance(nn.Identity(), nn.ReLU()) == 0.0
    with pytest.raises(TypeError, match="other is of type dict; it must be a torch module"):
        ev.parameter_distance(nn.Identity(), {})


def test_a_loader_numbers_no_samples():
    with pytest.raises(TypeError, match=r"data is of type DataLoader.*pass its dataset"):
        split(DataLoader(TensorDataset(X, Y), batch_size=10), [5])
    with pytest.raises(TypeError, match="data is of type NoneType"):
        split(None, [5])


def test_one_metric_may_be_plotted_by_its_name():
    assert len(evaluate(three(), **PARTS).plot("gap").axes_) == 1
