"""A step in interpreters of its own: memory, Ctrl-C, and the cache of compiled kernels."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from interpreters import assert_no_matrix_of_all_pairs, compiled_only, linux_only, start_python
from marks import slowly

import codec


# ------------------------------------------------------------------- fresh interpreters
@compiled_only
@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 10])
def test_no_matrix_of_all_pairs_in_a_step(k):
    # One n x n matrix of doubles at n = 20,000 would be 3.2 GB; 600 MB are allowed.
    setup = f"""
        from codec import foci
        rng = np.random.default_rng(0)
        X = rng.normal(size=(20_000, 40))
        y = X[:, 0] * X[:, 1] + X[:, 2] * X[:, 3]

        def work(X, y):
            for kind in (X, np.round(X)):
                foci(kind, y, stop=False, max_features=5, n_neighbors={k})
    """
    assert_no_matrix_of_all_pairs(setup, 600)


LONG_SELECTION = """
    import sys, threading, time
    import numpy as np
    from codec import _neighbors, foci
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200_000, 30))
    y = X[:, 0] * X[:, 1] + X[:, 2] * X[:, 3] + rng.normal(size=200_000)
    foci(X[:300], y[:300], n_neighbors={k})  # compile or load the kernels
    response = _neighbors.make_response(y[:300], nominal=False)
    points = _neighbors.Geometry(X[:300].T.copy(), np.ones(30), np.zeros(30, dtype=bool))
    paths = ["tree", "lists", "strips"] if {k} == 1 else ["tree", "lists"]
    for path in paths:
        for base in ([0], [0, 1]) if path != "strips" else ([0],):
            _neighbors.candidate_sums(points, response, base, [2, 3], {k}, path=path)
    before = threading.active_count()
    print("ready", flush=True)
    began = time.perf_counter()
    try:
        foci(X, y, stop=False, n_jobs={n_jobs}, n_neighbors={k})
    except KeyboardInterrupt:
        deadline = time.perf_counter() + 5
        while threading.active_count() > before and time.perf_counter() < deadline:
            time.sleep(0.01)
        print("interrupted", threading.active_count() - before, flush=True)
        raise SystemExit(0)
    print("finished", time.perf_counter() - began, flush=True)
"""


@compiled_only
@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("after", [0.5, 4.0], ids=["first steps", "later steps"])
@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_interruption(n_jobs, k, after):
    # Ctrl-C during a long selection: KeyboardInterrupt within a second, nothing left running.
    with start_python(LONG_SELECTION.format(n_jobs=n_jobs, k=k)) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(after)
            began = time.perf_counter()
            process.send_signal(signal.SIGINT)
            answer = process.stdout.readline()
            seconds = time.perf_counter() - began
            process.wait(timeout=60)
        finally:
            process.kill()
        assert answer == "interrupted 0\n", process.stderr.read()
        assert process.returncode == 0
    assert seconds < 2  # one at most on a machine of its own


# ---------------------------------------------------------------- the cache of kernels
FIRST_CALL = """
    import numpy as np, numba.core.event as event
    with event.install_recorder("numba:compile") as compiled:
        import codec
        X = np.random.default_rng(0).normal(size=(200, 2))
        print(codec.__file__)
        print({expression})
    print("compiled", len(compiled.buffer))
"""


def read_only_package(folder, writable_home):
    """A copy of the package in whose folder nothing can be written, not even by root."""
    shutil.copytree(
        Path(codec.__file__).parent, folder / "site" / "codec", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "site" / "codec" / "__pycache__").write_text("")  # a file where a folder would be needed
    for path in (folder / "site").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    home = folder / "home"
    home.mkdir() if writable_home else home.write_text("")
    dropped = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "PYTHONPATH")
    return {
        **{name: value for name, value in os.environ.items() if name not in dropped},
        "HOME": str(home),
        "PYTHONPATH": str(folder / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def call(code, environment):
    with start_python(code, env=environment, cwd=environment["PYTHONPATH"]) as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert environment["PYTHONPATH"] in out.splitlines()[0]
    return out.splitlines()[1:]


@compiled_only
@pytest.mark.slow
def test_second_process_compiles_nothing(tmp_path):
    # Also the test of a read-only installation: the cache moves to the user's folder.
    environment = read_only_package(tmp_path, writable_home=True)
    first, second = (
        call(FIRST_CALL.format(expression="codec.codec(X[:, 0] > 0, X), codec.foci(X, X[:, 0]).order"), environment)
        for _ in range(2)
    )
    assert first[-1] != "compiled 0"
    assert second[-1] == "compiled 0"
    assert first[:-1] == second[:-1]


@compiled_only
@pytest.mark.parametrize(
    "expression",
    ["'imported'", slowly("codec.codec(X[:, 0] > 0, X)")],
    ids=["import", "call"],
)
def test_no_place_for_the_cache(expression, tmp_path):
    # Neither the package's folder nor the user's can be written: slow, but it works.
    environment = read_only_package(tmp_path, writable_home=False)
    assert len(call(FIRST_CALL.format(expression=expression), environment)) == 2


@compiled_only
def test_full_disk_for_the_cache(tmp_path):
    # No file may have a byte: what a full disk or a used-up quota is.
    (tmp_path / "kernel.py").write_text("from codec._jit import compiled\n@compiled\ndef twice(x): return 2 * x\n")
    code = """
        import resource, warnings
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            from kernel import twice
            print(twice(21))
        print([str(w.message) for w in heard])
    """
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(codec.__file__).parents[1]}"}
    with start_python(code, env=environment, cwd=tmp_path) as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    result, heard = out.splitlines()
    assert result == "42"
    assert "set NUMBA_CACHE_DIR" in heard
