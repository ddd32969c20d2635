"""Work spread by joblib: over threads unless a program asks for another back end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from joblib import Parallel
from joblib.parallel import get_active_backend

Task = Any  # what joblib's ``delayed`` returns


def in_order(tasks: Iterable[Task], n_jobs: int | None) -> Iterator[Any]:
    """Results of the tasks, one after the other where the back end hands them on before the last is done.

    Ray's does not.
    """
    one_by_one = get_active_backend(prefer="threads")[0].supports_return_generator
    return iter(Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator" if one_by_one else "list")(tasks))


def in_threads(tasks: list[Task], n_jobs: int | None) -> list[Any]:
    """Results of the tasks, which work on arrays of this process."""
    if len(tasks) > 1:
        return list(Parallel(n_jobs=n_jobs, require="sharedmem")(tasks))
    return [function(*arguments, **options) for function, arguments, options in tasks]
