"""Contract provisions and DistilBERT: removal of a class, and how many removals a privacy budget supports.

FOLDER has ledgar_1000.jsonl.gz (text and label a line). ``--weights`` is a folder with DistilBERT and its tokenizer
as `save_pretrained` writes them; without it a small DistilBERT is trained from scratch on words. Nothing is downloaded.
"""

from __future__ import annotations

import copy
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _common  # isort: split

import _networks
import numpy as np
import torch
from _common import Note, Table, over_seeds, repeated, seeds, seeds_of
from sklearn.metrics import f1_score
from torch import Tensor, nn

from codec.unlearn import Problem, Unlearner, baselines
from codec.unlearn._certificate import gaussian_epsilon, gaussian_multiplier
from codec.unlearn._training import Recipe
from codec.unlearn.linear import RemovableLogisticRegression

DECAY = 5e-4
DELTA = 1e-5
CLASSES = 10
LOSS_OF_F1 = 0.02  # a published copy that loses more than this no longer counts
PAPER = {0.1: "> 100", 0.001: "18"}
FIGURES = ("micro F1", "macro F1", "removed class", "forget loss", "forgotten", "CPU s")
Inputs = dict[str, Tensor]
Row = dict[str, Any]


@dataclass(frozen=True)
class Texts:
    """Tokens and labels; the rows that train, and those that test."""

    x: Inputs
    y: Tensor
    names: tuple[str, ...]

    def rows(self, ids: Tensor) -> tuple[Inputs, Tensor]:
        """Some of them."""
        return {name: value[ids] for name, value in self.x.items()}, self.y[ids]


# ---------------------------------------------------------------------- data
def provisions(folder: Path, quick: bool) -> list[tuple[str, str]]:
    """Pairs of text and label; quick: made ones, each class with words of its own among common words."""
    if quick:
        rng = np.random.default_rng(0)
        common, own = (
            [a + b for a in "bdfgk" for b in ("a", "e", "i", "o")],
            [[c + "x" + v for v in "aeiou"] for c in "bcdfghjklmnp"],
        )
        return [
            (" ".join([*rng.choice(common, 8), *rng.choice(own[c], 4)]), f"class {c:02d}")
            for c in range(12)
            for _ in range(16)
        ]
    path = folder / "ledgar_1000.jsonl.gz"
    if not path.exists():
        raise SystemExit(f"--data {folder} holds no ledgar_1000.jsonl.gz; try --quick.")
    with gzip.open(path, "rt") as file:
        found = [json.loads(line) for line in file]
    return [(row["text"], row["label"]) for row in found]


def words(texts: Sequence[str], length: int, most: int = 3000) -> tuple[Inputs, int]:
    """Token ids: 0 padding, 1 rare words, 2 the beginning, then whole words; and how many tokens there are."""
    split = [re.findall(r"[a-z]+", text.lower())[: length - 1] for text in texts]
    counts = Counter(word for text in split for word in text)
    ids = {word: i for i, (word, count) in enumerate(counts.most_common(most), start=3) if count > 1}
    tokens = torch.zeros(len(split), length, dtype=torch.long)
    tokens[:, 0] = 2
    for row, text in enumerate(split):
        tokens[row, 1 : len(text) + 1] = torch.tensor([ids.get(word, 1) for word in text])
    return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}, len(ids) + 3


def read(arguments: Any) -> tuple[Texts, Callable[[int], nn.Module]]:
    """All provisions as tokens, the most frequent labels first; and what makes a network of so many classes."""
    import transformers

    texts, labels = zip(*provisions(arguments.data, arguments.quick), strict=True)
    names = tuple(name for name, _ in sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0])))
    y = torch.tensor([names.index(label) for label in labels])
    length = 12 if arguments.quick else 96
    if arguments.weights is not None:
        local = {"local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.weights, **local)
        x = dict(tokenizer(list(texts), truncation=True, max_length=length, padding=True, return_tensors="pt"))
        load = transformers.AutoModelForSequenceClassification.from_pretrained
        kind = {"attn_implementation": "eager", **local}
        return Texts(x, y, names), lambda n: load(arguments.weights, num_labels=n, **kind)
    x, n_tokens = words(texts, length)
    width, layers = (32, 1) if arguments.quick else (64, 2)

    def make(n_classes: int) -> nn.Module:
        return transformers.DistilBertForSequenceClassification(
            transformers.DistilBertConfig(
                vocab_size=n_tokens, dim=width, hidden_dim=2 * width, n_layers=layers, n_heads=4,
                max_position_embeddings=length, num_labels=n_classes, pad_token_id=0, seq_classif_dropout=0.1, initializer_range=0.1,
                attn_implementation="eager",
            )
        )  # fmt: skip

    return Texts(x, y, names), make


def split(ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Seven in ten to train on, the others to test on."""
    order = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))]
    return order[: 7 * len(ids) // 10], order[7 * len(ids) // 10 :]


def logits(model: nn.Module, x: Inputs) -> Tensor:
    """What the network answers, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(**x).logits


# ---------------------------------------------------------------------- removal of a class
def class_removal(texts: Texts, make: Callable[[int], nn.Module], recipe: Recipe, seed: int) -> list[Row]:
    """The most frequent class is removed: every way to do it, beside retraining."""
    train_ids, test_ids = split((texts.y < CLASSES).nonzero()[:, 0], seed)
    (x, y), (test_x, test_y) = texts.rows(train_ids), texts.rows(test_ids)
    gone = (y == 0).nonzero()[:, 0].tolist()

    def trained(without: Sequence[int] = (), other: int = 0) -> nn.Module:
        return _networks.fit(
            lambda: make(CLASSES), x, y, recipe, weight_decay=DECAY, seed=seed + other, without=without
        )

    def figures(model: nn.Module) -> Row:
        answers, kept = _networks.answers(logits(model, test_x)), test_y > 0
        forgotten = logits(model, {name: value[gone] for name, value in x.items()})
        scores = {
            f"{a} F1": float(
                f1_score(test_y[kept], answers[kept], average=a, labels=range(1, CLASSES), zero_division=0.0)
            )
            for a in ("micro", "macro")
        }
        return _networks.finite(
            scores
            | {
                "removed class": float((answers[~kept] == 0).double().mean()),
                "forget loss": float(nn.functional.cross_entropy(forgotten, y[gone])),
                "forgotten": _networks.accuracy(forgotten, y[gone]),
            }
        )

    model = trained()
    problem = Problem(model, "cross_entropy", (x, y), weight_decay=DECAY)

    def ours(selector: str) -> nn.Module:
        options = {"weight_decay": DECAY, "captured": False, "random_state": seed}
        few = _networks.few_units(model)
        unlearner = Unlearner(model, "cross_entropy", (x, y), selector=selector, max_units=few, **options)
        unlearner.forget(gone)
        return unlearner.model

    def baseline(method: Callable[..., Any], **options: Any) -> nn.Module:
        return _networks.loaded(model, method(problem, gone, **options).parameters)

    rows = [{"model": "nothing"} | figures(model)]
    ways = {
        "retrained": partial(trained, gone),
        "retrained, other seed": partial(trained, gone, 1),
        "ours, all units": partial(ours, "all"),
        "ours, L-FOCI": partial(ours, "lfoci"),
        "ours, gradient norm": partial(ours, "gradient_norm"),
        "fine-tuning": partial(baseline, baselines.fine_tune, random_state=seed),
        "the paper's step": partial(baseline, baselines.paper_step),
    }
    for name, way in ways.items():
        start = time.process_time()
        after = way()
        rows.append({"model": name, "CPU s": round(time.process_time() - start, 3)} | figures(after))
    return rows


# ---------------------------------------------------------------------- removals a budget supports
def features(texts: Texts, make: Callable[[int], nn.Module], recipe: Recipe, seed: int) -> np.ndarray:
    """The network's inputs to its last layer, after training on the other labels alone."""
    public = (texts.y >= CLASSES).nonzero()[:, 0]
    x, y = texts.rows(public)
    n_classes = len(texts.names) - CLASSES
    encoder = _networks.fit(lambda: make(n_classes), x, y - CLASSES, recipe, weight_decay=DECAY, seed=seed)
    encoder.classifier = nn.Identity()
    return logits(encoder, texts.x).double().numpy()


def supported(texts: Texts, found: np.ndarray, epsilons: Sequence[float], asked: int, seed: int) -> list[Row]:
    """For each budget, how many removals can each be followed by a published copy that is still good."""
    train_ids, test_ids = (ids.numpy() for ids in split((texts.y < CLASSES).nonzero()[:, 0], seed))
    public = found[texts.y.numpy() >= CLASSES]  # centre and scale come from what nobody asks to forget
    spread = public.std(axis=0)
    scaled = (found - public.mean(axis=0)) / np.maximum(spread, np.median(spread)) / found.shape[1] ** 0.5
    X, T = scaled[train_ids], scaled[test_ids]
    y, u = texts.y.numpy()[train_ids], texts.y.numpy()[test_ids]
    last = np.unique(y, return_index=True)[1]  # of each class, so that none disappears
    queue = np.setdiff1d(np.random.default_rng(seed).permutation(len(y)), last, assume_unique=True)[:asked]
    keep = np.setdiff1d(np.arange(len(y)), queue)
    start = linear().fit(X, y)
    fixed = {"asked": len(queue), "retrained": micro(linear().fit(X[keep], y[keep]), T, u), "start": micro(start, T, u)}
    rows = []
    for epsilon in epsilons:
        # len(queue) copies of this epsilon each are one of the whole epsilon
        each = gaussian_epsilon(gaussian_multiplier(epsilon, DELTA) * len(queue) ** 0.5, DELTA)
        model, falls, began = copy.deepcopy(start), [], time.process_time()
        for row in queue:
            model.forget(int(row))
            published = model.release(each, DELTA, random_state=seed)
            falls.append(micro(model, T, u) - micro(published, T, u))
        good = next((k for k, fall in enumerate(falls) if fall > LOSS_OF_F1), len(falls))
        rows.append(
            fixed
            | {
                "budget": epsilon, "removals": good, "spent": model.accountant_.epsilon(DELTA),
                "noise": published.privacy_.sigma, "unlearned": micro(model, T, u), "published": micro(published, T, u),
                "largest fall": max(falls), "CPU s a removal": round((time.process_time() - began) / len(queue), 4),
            }
        )  # fmt: skip
    return rows


def linear() -> RemovableLogisticRegression:
    """The last layer that can be proved to forget."""
    return RemovableLogisticRegression(1e-3, tolerance=1e-8)


def micro(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    """F1 over all classes together, which is the accuracy."""
    return float(np.mean(model.predict(X) == y))


# ---------------------------------------------------------------------- what is shown
def run(arguments: Any) -> list[Any]:
    """Both questions."""
    texts, make = read(arguments)
    rate = 5e-5 if arguments.weights is not None else 3e-3 if arguments.quick else 1e-3
    recipe = Recipe(epochs=20, lr=rate, batch_size=16, optimizer="adam", schedule="cosine")
    epsilons, asked = ((1.0, 0.001), 8) if arguments.quick else ((1.0, 0.1, 0.01, 0.001), 150)
    removals, budgets = [], []
    for seed in seeds_of(arguments):

        def removed(seed: int = seed) -> list[Row]:
            return class_removal(texts, make, recipe, seed)

        def published(seed: int = seed) -> list[Row]:
            return supported(texts, features(texts, make, recipe, seed), epsilons, asked, seed)

        removals.append(arguments.keep(f"{seed}, class removal", removed))
        budgets.append(arguments.keep(f"{seed}, budgets", published))
    removal, budget = over_seeds(removals), over_seeds(budgets)
    columns = (
        "budget",
        "removals",
        "asked",
        "spent",
        "noise",
        "start",
        "retrained",
        "unlearned",
        "published",
        "largest fall",
        "CPU s a removal",
    )
    name = texts.names[0]
    source = "a small DistilBERT from scratch" if arguments.weights is None else "the given DistilBERT"
    return [
        Table(
            "class", f"Removal of the class {name!r} from {source}{repeated(arguments)}", ["model", *FIGURES],
            [[row["model"], *(row.get(c) for c in FIGURES)] for row in removal], note=CLASS,
        ),
        Table(
            "budget", f"Removals that a privacy budget supports, one provision a request{repeated(arguments)}", list(columns),
            [[epsilon, *(row[c] for c in columns[1:])] for epsilon, row in zip(epsilons, budget, strict=True)], paper=[PAPER.get(epsilon) for epsilon in epsilons],
            against="removals", note=BUDGET,
        ),
        *([] if arguments.quick else [*behind(removal), Note(SIZES)]),
    ]  # fmt: skip


def behind(removal: Sequence[Row]) -> list[Note]:
    """Where ours takes longer than retraining or loses more than doing nothing."""
    words = _networks.shortfalls({row["model"]: row for row in removal}, "micro F1", "macro F1")
    return [Note(words)] if words else []


CLASS = (
    "Micro and macro F1: test provisions of the classes that stay. Removed class: share of its test provisions that are "
    "still recognised. Ours has the automatic damping; every seed has another training and another split. "
    + _networks.STEP_ON_ALL
)
BUDGET = (
    "The encoder is trained on the other classes, which nobody asks to forget; the last layer forgets with a certificate. "
    "After every removal a copy is published; all copies together spend the budget (delta 1e-5). Removals: until a "
    "published copy loses more than .02 micro F1 by its noise."
)
SIZES = (
    "The paper fine-tunes the published DistilBERT on 60,000 provisions; here it is a small one from scratch on those of the "
    "1,000 provisions that have the ten most frequent labels. Not run here: the published weights, which --weights takes."
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line."""
    options = _common.parser(__doc__)
    options.add_argument("--weights", type=Path, help="folder with DistilBERT and its tokenizer")
    seeds(options)
    title = "Contract provisions: removal of a class, and privacy budgets"
    return _common.main(run, name="text", title=title, options=options, arguments=arguments)


if __name__ == "__main__":
    main()
