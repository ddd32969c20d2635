"""A page on what was deleted: the history as a table, three plots, the last certificate."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from codec.plotting._axes import pyplot
from codec.unlearn._deletion import Deletion

COLUMNS = (
    "id",
    "n_forgotten",
    "method",
    "selector",
    "n_units",
    "accepted",
    "stands",
    "captured_decrement",
    "retain_loss_after",
    "forget_loss_before",
    "forget_loss_after",
    "seconds",
    "certificate",
)
STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse;font-size:90%}"
    "td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:right}caption{text-align:left}"
    "pre{background:#f6f6f6;padding:1em}img{max-width:100%}"
)


@dataclass(frozen=True, repr=False)
class Report:
    """The requests of an unlearner, in order.

    Attributes
    ----------
    deletions : tuple of Deletion
        Every request, refused ones too.
    title : str
        Heading of the page.
    standing : tuple of int, optional
        Numbers of the requests that were not taken back. Default: all that were accepted.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Unlearner
    >>> X, y = torch.eye(3).repeat(8, 1), torch.arange(24) % 3
    >>> unlearner = Unlearner(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1, selector="all")
    >>> deletion = unlearner.forget([3, 7])
    >>> unlearner.rollback()
    >>> unlearner.report().to_frame()[["id", "n_forgotten", "accepted", "stands"]]
       id  n_forgotten  accepted  stands
    0   1            2      True   False
    """

    deletions: tuple[Deletion, ...]
    title: str = "Deletions"
    standing: tuple[int, ...] | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a request, the columns of :meth:`Deletion.summary`; ``stands``: accepted and not taken back since."""
        none = pd.DataFrame([Deletion(0, (), "", "", accepted=False, reason="").summary()]).iloc[:0]  # has the dtypes
        frame = pd.DataFrame([d.summary() for d in self.deletions]) if self.deletions else none
        stands = pd.Series([self._stands(d) for d in self.deletions], dtype=bool)
        frame.insert(list(frame).index("accepted") + 1, "stands", stands)
        return frame

    def _stands(self, deletion: Deletion) -> bool:
        return deletion.accepted and (self.standing is None or deletion.id in self.standing)

    def plot(self, axes: Any = None) -> Any:
        """Forget loss, retain loss and captured decrement of every request.

        A line leads from the loss before a request to that after it; a cross is a request that was refused.

        Parameters
        ----------
        axes : array of three matplotlib Axes, optional
            Where to draw. Default: a new figure. Requests stand at their ids, or in order where ids repeat.

        Returns
        -------
        ndarray of three matplotlib Axes

        Raises
        ------
        ValueError
            ``axes`` does not hold three.
        ImportError
            matplotlib is not installed.
        """
        if axes is None:
            _, axes = pyplot().subplots(1, 3, figsize=(13, 3.5), layout="constrained")
        axes = np.ravel(np.asarray(axes, dtype=object))
        if len(axes) != 3:
            raise ValueError(f"axes holds {len(axes)} axes; pass three, for forget loss, retain loss and decrement.")
        frame = self.to_frame()
        if not frame["id"].is_unique:
            frame["id"] = np.arange(1, len(frame) + 1)
        done = frame[frame["accepted"].astype(bool)]
        refused = frame.drop(done.index)
        for ax, part in zip(axes, ("forget", "retain"), strict=False):
            before, after = f"{part}_loss_before", f"{part}_loss_after"
            ax.vlines(done["id"], done[before], done[after], colors="0.7", zorder=1)
            ax.plot(done["id"], done[before], "o", color="C0", markerfacecolor="white", label="before")
            ax.plot(done["id"], done[after], "o", color="C0", label="after")
            if len(refused):
                ax.plot(refused["id"], refused[before], "x", color="0.4", label="refused")
        axes[2].plot(frame["id"], frame["captured_decrement"], "o", color="C0", label="chosen units")
        axes[2].plot(
            frame["id"], frame["captured_by_gradient_norm"], "_", color="C1", label="as many largest gradients"
        )
        axes[2].set_ylim(0, 1.05)
        for ax, label in zip(axes, ("forget loss", "retain loss", "captured decrement"), strict=True):
            ax.set(xlabel="request", ylabel=label)
            ax.set_xlim(frame["id"].min() - 0.5 if len(frame) else 0.5, frame["id"].max() + 0.5 if len(frame) else 1.5)
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.legend(fontsize="small")
        return axes

    def to_html(self, path: str | Path | None = None) -> str:
        """The whole page as text, and in a file where a path is given; no other file is needed to show it."""
        frame = self._table().drop(columns=["method", "selector"]).rename(columns=lambda name: name.replace("_", " "))
        table = frame.to_html(index=False, border=0, float_format="{:.4g}".format)
        told = ((d.id, f"{d.method}; {d.selector}. {d.reason}") for d in self.deletions)
        how = "".join(f"<li>{number}: {escape(text)}</li>" for number, text in told)
        body = f"<p>{self._summary()}</p>{table}{self._figure()}<h2>How and why</h2><ul>{how}</ul>{self._certificate()}"
        return page_html(self.title, body, path)

    def _summary(self) -> str:
        stand = [d for d in self.deletions if self._stands(d)]
        samples = len({i for d in stand for i in d.forgotten})
        requests, held = (
            f"{n} {what}{'s' * (n != 1)}" for n, what in ((len(self.deletions), "request"), (samples, "sample"))
        )
        return f"{requests}, {len(stand)} stand, {held} in them."

    def _table(self) -> pd.DataFrame:
        return self.to_frame()[list(COLUMNS)]

    def __repr__(self) -> str:
        rows = self._table().drop(columns=["method", "selector"])
        table = rows.to_string(index=False, float_format="{:.4g}".format, na_rep="")
        return f"{self.title}: {self._summary()}" + (f"\n{table}" if self.deletions else "")

    def _figure(self) -> str:
        return figure_html(lambda: self.plot()[0].figure, "losses over requests") if self.deletions else ""

    def _certificate(self) -> str:
        """Of the model as it is; after a request was taken back, none of those on record is."""
        made = [d for d in self.deletions if d.accepted]
        if not made or made[-1].certificate is None:
            return ""
        standing = len({i for d in made if self._stands(d) for i in d.forgotten})
        if not self._stands(made[-1]) or made[-1].certificate.m != standing:
            return "<h2>Certificate</h2><p>A request was taken back since the last one; the next has one again.</p>"
        return f"<h2>Certificate</h2><pre>{escape(str(made[-1].certificate))}</pre>"

    def _repr_html_(self) -> str:
        return str(self._table().to_html(index=False, float_format="{:.4g}".format))


def page_html(title: str, body: str, path: str | Path | None) -> str:
    """A whole page, and the file where a path is given."""
    page = (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page


def figure_html(draw: Callable[[], Any], alt: str) -> str:
    """A matplotlib figure inside a page; a line in its place without matplotlib."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        return "<p>Install matplotlib for the plots.</p>"
    figure, buffer = draw(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return (
        f"<p><img alt='{escape(alt)}' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'></p>"
    )
