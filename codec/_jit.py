"""How kernels are compiled: once, kept on disk where that is possible, without the GIL; how they hear of Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import njit

from codec._notes import warn


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile lazily with numba, serially and without the GIL; keep the machine code on disk.

    Where neither the package nor the user's cache folder can be written, numba refuses to cache at all;
    the function is then compiled anew in every process. So it is where their disk is full. A kernel's kept
    code holds the kernels of other modules that it calls: after editing one, delete ``codec/__pycache__``.
    """
    try:
        return _forgiving(njit(cache=True, nogil=True, **options)(function))
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
        return njit(nogil=True, **options)(function)


def _forgiving(kernel: Any) -> Any:
    """The kernel, which goes on where a full disk or a quota lets nothing be kept."""
    keeper: Any = getattr(kernel, "_cache", None)
    if keeper is None:  # numba's compiler is switched off
        return kernel
    save = keeper.save_overload

    def attempt(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError as error:
            warn(
                f"Compiled code could not be kept ({error}), so every process compiles anew, some seconds each. Free "
                "space, or set NUMBA_CACHE_DIR to a folder that has some.",
                2,
            )

    keeper.save_overload = attempt
    return kernel


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C stays a KeyboardInterrupt.

    A compiled function hears of it when it is done and makes arrays of its results, which runs Python:
    numba then raises a SystemError that was caused by the interrupt.
    """
    try:
        yield
    except SystemError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            cause = cause.__cause__ or cause.__context__
        raise
