"""Work spread by joblib: over threads unless a program asks for another back end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from joblib import Parallel
from joblib.parallel import ThreadingBackend, get_active_backend

AHEAD = 4  # tasks that wait for each thread

Task = Any  # what joblib's ``delayed`` returns


def in_order(tasks: Iterable[Task], n_jobs: int | None) -> Iterator[Any]:
    """Results of the tasks, one after the other where the back end hands them on before the last is done.

    Ray's does not.
    """
    backend, configured = get_active_backend(prefer="threads")
    if isinstance(backend, ThreadingBackend):
        return _by_threads(tasks, backend.effective_n_jobs(configured if n_jobs is None else n_jobs))
    return_as = "generator" if backend.supports_return_generator else "list"
    return iter(Parallel(n_jobs=n_jobs, prefer="threads", return_as=return_as)(tasks))


def in_threads(tasks: list[Task], n_jobs: int | None) -> list[Any]:
    """Results of the tasks, which work on arrays of this process."""
    backend, configured = get_active_backend(require="sharedmem")
    workers = backend.effective_n_jobs(configured if n_jobs is None else n_jobs)
    return list(_by_threads(tasks, min(workers, len(tasks))))


def _by_threads(tasks: Iterable[Task], workers: int) -> Iterator[Any]:
    """Joblib's threads look every ten milliseconds whether a task is done, and many steps are not longer."""
    if workers <= 1:
        yield from map(_do, tasks)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Any]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_do, task))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after Ctrl-C, too: what has begun takes a fraction of a second
        pool.shutdown(cancel_futures=True)


def _do(task: Task) -> Any:
    function, arguments, options = task
    return function(*arguments, **options)
