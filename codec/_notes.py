"""Warnings to the user, which a call that asks others of the package can keep to itself.

Filters of the standard library belong to the whole process: a thread that sets and restores them can leave those of
another thread behind. Silence here belongs to the thread that asks for it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SILENT: ContextVar[tuple[str, ...]] = ContextVar("silent", default=())


def warn(message: str, stacklevel: int) -> None:
    """A UserWarning, unless its text begins as one that is kept silent; ``stacklevel`` as the caller would give it."""
    if not any(re.match(pattern, message) for pattern in _SILENT.get()):
        warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)


@contextmanager
def silenced(*patterns: str) -> Iterator[None]:
    """No warning of this package whose text begins with one of the patterns, within this thread."""
    token = _SILENT.set((*_SILENT.get(), *patterns))
    try:
        yield
    finally:
        _SILENT.reset(token)
