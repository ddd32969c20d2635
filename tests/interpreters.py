"""Scripts in interpreters of their own, and where they can run."""

import os
import subprocess
import sys
import textwrap

import numba
import pytest

compiled_only = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="the kernels run as Python")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and limits as on Linux")


def start_python(code, **options):
    """Start a script in a fresh interpreter."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], **options)


def run_python(code, **environment):
    """Run a script in a fresh interpreter; its output."""
    with start_python(code, env={**os.environ, **environment}) as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return out


WITHIN_MEMORY = """
import resource
from pathlib import Path
import numpy as np
{setup}
work(X[:500], y[:500])  # compile or load the kernels
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + {megabytes} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    np.ones((len(X), len(X)))
except MemoryError:
    print("limited")
work(X, y)
print("done")
"""


def assert_no_matrix_of_all_pairs(setup, megabytes):
    """Run ``work(X, y)``, which ``setup`` defines, where no matrix of all pairs of rows has a place."""
    code = WITHIN_MEMORY.format(setup=textwrap.dedent(setup), megabytes=megabytes)
    assert run_python(code).split() == ["limited", "done"]
