"""Sentences of one source, taken out of a classifier of text. ``make figures`` runs this."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy
import pandas
import torch
from matplotlib import pyplot as plt
from torch import nn

from codec.unlearn import Unlearner
from codec.unlearn.evaluate import evaluate

OUTPUT = Path(__file__).parents[1] / "_static" / "unlearn_text.png"
SOURCES = {"numpy": numpy.ndarray, "pandas": pandas.DataFrame, "torch": torch.Tensor}
FORGOTTEN, LENGTH, WEIGHT_DECAY = 20, 24, 1e-3


def sentences():
    """First sentences of what the classes' methods say of themselves, with the number of the class; no download."""
    found = []
    for label, source in enumerate(SOURCES.values()):
        for name, member in sorted(inspect.getmembers(source)):
            text = (inspect.getdoc(member) or "").split("\n\n")
            words = [re.findall(r"[a-z]+", part.lower()) for part in text if "(" not in part.split("\n")[0]]
            if not name.startswith("_") and words and len(words[0]) >= 4:
                found.append((words[0][:LENGTH], label))
    return found


def tokens(found):
    """Numbers of words (0: padding, 1: any rare word), a mask, the labels, and the words by number."""
    words = [word for sentence, _ in found for word in sentence]
    known = ["", "(rare)", *sorted({w for w in words if words.count(w) >= 4})]
    number = {word: i for i, word in enumerate(known)}
    ids = torch.zeros(len(found), LENGTH, dtype=torch.long)
    for row, (sentence, _) in zip(ids, found, strict=True):
        row[: len(sentence)] = torch.tensor([number.get(word, 1) for word in sentence])
    return ids, (ids > 0).long(), torch.tensor([label for _, label in found]), known


class Reader(nn.Module):
    """Words, one layer of attention between them, their mean, a class."""

    def __init__(self, n_words, width=16):
        super().__init__()
        self.embed = nn.Embedding(n_words, width, padding_idx=0)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.out = nn.Linear(width, len(SOURCES))

    def forward(self, input_ids, attention_mask):
        h = self.embed(input_ids)
        h = h + self.attention(h, h, h, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        keep = attention_mask[..., None].to(h.dtype)
        return self.out((h * keep).sum(1) / keep.sum(1))


def train(data, n_words, seed):
    """Adam, the whole data in every step."""
    torch.manual_seed(seed)
    model = Reader(n_words)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data["input_ids"], data["attention_mask"]), data["labels"])
        decay = sum(p.square().sum() for p in model.parameters())
        (loss + WEIGHT_DECAY / 2 * decay).backward()
        optimizer.step()
    return model.eval()


def rows(data, which):
    """Some samples of all entries."""
    return {key: value[which] for key, value in data.items()}


def compute():
    """The hardest sentences of pandas taken out: of 60 units, and of all."""
    ids, mask, labels, known = tokens(sentences())
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    data = rows({"input_ids": ids, "attention_mask": mask, "labels": labels}, order)
    n_train = 3 * len(ids) // 4
    training, test = rows(data, slice(n_train)), rows(data, slice(n_train, None))
    model = train(training, len(known), 0)
    few, every = (
        Unlearner(model, "cross_entropy", training, weight_decay=WEIGHT_DECAY, random_state=0, **options)
        for options in ({"max_units": 60}, {"selector": "all"})
    )
    losses = few.problem.sample_losses(few.problem.parameters())
    forget = losses.masked_fill(training["labels"] != 1, -1.0).topk(FORGOTTEN).indices
    deletion, _ = few.forget(forget), every.forget(forget)
    keep = torch.ones(n_train, dtype=torch.bool)
    keep[forget] = False
    retain = rows(training, keep)
    result = evaluate(
        {
            "original": model,
            "60 units": few,
            "all units": every,
            "retrained": [train(retain, len(known), seed) for seed in (0, 1, 2)],
        },
        retain=retain,
        forget=rows(training, forget),
        test=test,
    )
    return deletion, result, known


if __name__ == "__main__":
    deletion, result, known = compute()
    print(deletion)
    print([known[int(label[6:-1])] for label in deletion.labels if label.startswith("embed")])
    print(result)
    figure = result.plot(["forget_loss", "forget_accuracy", "test_accuracy"]).figure_
    figure.savefig(OUTPUT, dpi=140)
    plt.close(figure)
    print(f"wrote {OUTPUT.name}")
