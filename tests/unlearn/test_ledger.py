"""The ledger: kill -9 at any moment loses and doubles nothing; damage is repaired or named."""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import timeit
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.unlearn import _ledger
from codec.unlearn._deletion import Deletion
from codec.unlearn._history import History, with_noise
from codec.unlearn._ledger import Ledger, LedgerError, fingerprint

N_REQUESTS = 12


def start():
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.weight": torch.randn(20, 7, generator=generator),
        "layer.bias": torch.randn(20, generator=generator),
        "scale": torch.tensor(1.0 / 3.0, dtype=torch.float64),
    }


def deletion(state, k):
    """Parameters after request k: some rows move by numbers that float32 rounds."""
    after = {name: tensor.clone() for name, tensor in state.items()}
    after["layer.weight"][[k, (3 * k + 1) % 20]] += torch.tensor(0.1 * (k + 1)) / 3
    after["layer.bias"][k] *= 1.0 - 1e-6 * k
    after["scale"] -= 1e-9 * k
    return after


def expected(n=N_REQUESTS):
    state = start()
    for k in range(n):
        state = deletion(state, k)
    return state


def work(folder, n=N_REQUESTS):
    """Open, go on where the ledger ends, stop after the last request."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half a line, taken off
        ledger = Ledger.open(folder, start())
    with ledger:
        state = ledger.replay(start())
        done = {k for _, entry in ledger.standing() for k in entry["forgotten"]}
        for k in range(n):
            if k not in done:
                after = deletion(state, k)
                ledger.append({"kind": "deletion", "forgotten": [k]}, after, state)
                state = after


def identical(a, b):
    return fingerprint(a) == fingerprint(b)


def check_complete(folder, n=N_REQUESTS):
    with Ledger.open(folder, start()) as ledger:
        assert [entry["forgotten"] for entry in ledger.entries()] == [[k] for k in range(n)]
        assert identical(ledger.replay(start()), expected(n))


# --------------------------------------------------------------------------- crashes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path):
    rng, kills, folders = random.Random(0), 0, [tmp_path / "0"]
    whole = min(timeit.repeat(lambda: work(tmp_path / f"measured {len(list(tmp_path.iterdir()))}"), number=1, repeat=3))
    for _ in range(300):  # far more than it takes: where kills come late, a folder is complete and the next one starts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: the child only writes files
            child = os.fork()
        if child == 0:
            try:
                work(folders[-1])
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.0, 0.5 * whole))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            kills += 1
        else:
            folders.append(tmp_path / str(len(folders)))
        if kills == 12:
            break
    assert kills == 12
    for folder in folders:
        work(folder)
        check_complete(folder)


class Crash(BaseException):
    """The process ends here: nothing after this call happens."""


def test_crash_at_every_single_call(tmp_path, monkeypatch):
    # every write, fsync, rename and truncation of a whole run is once the last thing that happens,
    # and every write is once done in part
    names = ("write", "fsync", "replace", "ftruncate")
    real = {name: getattr(os, name) for name in names}

    def crash_after(limit, torn):
        count = 0

        def wrap(name):
            def call(*arguments):
                nonlocal count
                count += 1
                if count > limit:
                    if torn and count == limit + 1 and name == "write":
                        real["write"](arguments[0], arguments[1][: len(arguments[1]) // 2])
                    raise Crash
                return real[name](*arguments)

            return call

        for name in names:
            monkeypatch.setattr(_ledger.os, name, wrap(name))

    limit, ended = 0, False
    while not ended:
        for torn in (False, True):
            folder = tmp_path / f"{limit}{torn}"
            crash_after(limit, torn)
            try:
                work(folder, 3)
                ended = True
            except Crash:
                pass
            for name in names:
                monkeypatch.setattr(_ledger.os, name, real[name])
            work(folder, 3)
            check_complete(folder, 3)
        limit += 1
    assert limit > 5 * 3  # a request: write, fsync, rename, fsync of the folder, write, fsync


def test_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    with Ledger.open(tmp_path, start()) as ledger:
        ledger.append({"k": 0})

        def full(descriptor, content):
            real(descriptor, content[:5])
            raise OSError(28, "No space left on device")

        real = os.write
        monkeypatch.setattr(_ledger.os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            ledger.append({"k": 1})
        monkeypatch.undo()
        ledger.append({"k": 2})
    with Ledger.open(tmp_path, start()) as ledger:
        assert ledger.entries() == [{"k": 0}, {"k": 2}]


def test_a_line_that_cannot_be_taken_off_at_once_is_so_before_the_next(tmp_path, monkeypatch):
    """A disk that fails to write may fail to cut as well; the half line must not stand before the next one."""
    with Ledger.open(tmp_path, start()) as ledger:
        real = os.write

        def full(descriptor, content):
            real(descriptor, content[:5])
            raise OSError(28, "No space left on device")

        def broken(descriptor, size):
            if os.fstat(descriptor).st_size != size:
                raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(_ledger.os, "write", full)
            patch.setattr(_ledger.os, "ftruncate", broken)
            with pytest.raises(OSError, match="No space left"):
                ledger.append({"k": 1})
        ledger.append({"k": 2})
    with Ledger.open(tmp_path, start()) as ledger:
        assert ledger.entries() == [{"k": 2}]


def test_ctrl_c_after_a_line_was_written_takes_it_off(tmp_path, monkeypatch):
    """Else the next entry has the same number, and the ledger ends there."""
    real = os.fsync

    def stop(descriptor):
        real(descriptor)
        raise KeyboardInterrupt

    with Ledger.open(tmp_path, start()) as ledger:
        with pytest.raises(ZeroDivisionError), ledger.whole():
            ledger.append({"k": 1 / ledger.append({"k": 0})})
        monkeypatch.setattr(_ledger.os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            ledger.append({"k": 1})
        monkeypatch.undo()
        assert ledger.append({"k": 2}) == 0
    with Ledger.open(tmp_path, start()) as ledger:
        assert ledger.entries() == [{"k": 2}]


# --------------------------------------------------------------------------- damage
def lines(folder):
    return (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("damage", [lambda t: t[:-7], lambda t: t[:-1], lambda t: b"x" + t[1:], lambda t: t[:1]])
def test_damaged_last_line_is_taken_off_and_told(tmp_path, damage):
    work(tmp_path)
    found = lines(tmp_path)
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(found[:-1]) + damage(found[-1]))
    with pytest.warns(UserWarning, match=r"last line .*\(line 12, .* was taken off; its request has not happened"):
        ledger = Ledger.open(tmp_path, start())
    assert len(ledger.entries()) == N_REQUESTS - 1
    ledger.close()
    work(tmp_path)
    check_complete(tmp_path)


def edit(text):
    found = json.loads(text)
    found["entry"]["forgotten"] = [99]
    return (json.dumps(found) + "\n").encode()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda found: [*found[:4], edit(found[4]), *found[5:]], 4),  # an entry was changed
        (lambda found: [*found[:4], *found[5:]], 4),  # one was cut out
        (lambda found: [*found[:4], found[5], found[4], *found[6:]], 4),  # two exchanged
        (lambda found: [*found[:4], found[3], *found[4:]], 4),  # one doubled
        (lambda found: [b"not json\n", *found[1:]], 0),
    ],
)
def test_damage_elsewhere_is_an_error_that_says_where(tmp_path, change, place):
    work(tmp_path)
    before = b"".join(change(lines(tmp_path)))
    (tmp_path / "ledger.jsonl").write_bytes(before)
    with pytest.raises(LedgerError, match=f"line {place} of .* is damaged"):
        Ledger.open(tmp_path)
    assert (tmp_path / "ledger.jsonl").read_bytes() == before


FOREIGN = [b"my notes\n", b"my notes", b'{"a": 1}\n', b"[1]\n", b"null\n", b"\xff\xfe\n"]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_somebody_else_stays_as_it_is(tmp_path, content):
    (tmp_path / "ledger.jsonl").write_bytes(content)
    with pytest.raises(LedgerError, match="no line of a ledger of this version"):
        Ledger.open(tmp_path, start())
    assert (tmp_path / "ledger.jsonl").read_bytes() == content


def later(text):
    """A line as a later version may write it: one more field, and a hash that goes with it."""
    found = {**json.loads(text), "time": 1}
    found.pop("hash")
    body = json.dumps(found, sort_keys=True, separators=(",", ":"))
    found["hash"] = hashlib.sha256(body.encode()).hexdigest()
    return (json.dumps(found, separators=(",", ":")) + "\n").encode()


def other_format(text):
    return text.replace(b'"format":1', b'"format":2')


@pytest.mark.parametrize(("n", "change"), [(0, later), (0, other_format), (1, later), (1, edit), (3, later), (3, edit)])
def test_a_whole_last_line_is_never_taken_off(tmp_path, n, change):
    """No crash leaves one with another content: it was edited, or a later version wrote it."""
    work(tmp_path, n)
    found = lines(tmp_path)
    before = b"".join([*found[:-1], change(found[-1])])
    (tmp_path / "ledger.jsonl").write_bytes(before)
    with pytest.raises(LedgerError, match=f"line {n} of .* is damaged"):
        Ledger.open(tmp_path, start())
    assert (tmp_path / "ledger.jsonl").read_bytes() == before


def test_zeros_that_a_power_cut_leaves_are_taken_off(tmp_path):
    (tmp_path / "ledger.jsonl").write_bytes(bytes(200))
    with pytest.warns(UserWarning, match=r"line 0, 200 bytes\) was not written to its end"):
        Ledger.open(tmp_path, start()).close()
    work(tmp_path)
    check_complete(tmp_path)


def test_damaged_or_missing_tensors_name_their_entry(tmp_path):
    work(tmp_path)
    path = sorted(tmp_path.glob("*.safetensors"))[5]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with Ledger.open(tmp_path, start()) as ledger:
        assert identical(ledger.replay(start(), 5), expected(5))
        with pytest.raises(LedgerError, match="of entry 5 is damaged"):
            ledger.replay(start())
        path.unlink()
        with pytest.raises(LedgerError, match="of entry 5 cannot be read"):
            ledger.replay(start())


def test_other_format_is_refused(tmp_path):
    Ledger.open(tmp_path).close()
    line = _ledger._Line(0, _ledger.START, {"format": 99, "parameters": None}, None)
    (tmp_path / "ledger.jsonl").write_bytes(line.text())
    with pytest.raises(LedgerError, match="has format 99; this version of codec reads format 1"):
        Ledger.open(tmp_path)


# --------------------------------------------------------------------------- use
def test_only_changed_rows_are_stored(tmp_path):
    before, after = start(), deletion(start(), 4)
    with Ledger.open(tmp_path, before) as ledger:
        ledger.append({}, after, before)
        stored = ledger._tensors(ledger._lines[-1])
    assert stored["rows:layer.weight"].tolist() == [4, 13]
    assert stored["values:layer.weight"].shape == (2, 7)
    assert stored["rows:layer.bias"].tolist() == [4]
    assert stored["values:scale"].dtype == torch.float64


def test_signs_of_zero_and_nan_are_kept_bit_for_bit(tmp_path):
    before = {"w": torch.tensor([0.0, 1.0, float("nan")], dtype=torch.bfloat16)}
    after = {"w": torch.tensor([-0.0, 1.0, float("nan")], dtype=torch.bfloat16)}
    with Ledger.open(tmp_path, before) as ledger:
        ledger.append({}, after, before)
        found = ledger.replay(before)["w"]
    assert torch.equal(found.view(torch.int16), after["w"].view(torch.int16))


def test_replay_goes_back_and_changes_nothing_given(tmp_path):
    work(tmp_path)
    given = start()
    with Ledger.open(tmp_path) as ledger:
        for n in (0, 1, 7, N_REQUESTS):
            assert identical(ledger.replay(given, n), expected(n))
    assert identical(given, start())


def test_rollback_is_an_entry(tmp_path):
    before = start()
    first, second = deletion(before, 0), deletion(deletion(before, 0), 1)
    with Ledger.open(tmp_path, before) as ledger:
        ledger.append({"forgotten": [5]}, first, before)
        ledger.append({"forgotten": [6]}, second, first)
        ledger.append({"undoes": 1}, first, second)
        assert ledger.standing() == [(0, {"forgotten": [5]})]
        for wrong in (1, 2, 7, -1, "0"):
            with pytest.raises(ValueError, match="which is no standing entry"):
                ledger.append({"undoes": wrong})
    with Ledger.open(tmp_path, before) as ledger:
        assert len(ledger.entries()) == 3
        assert identical(ledger.replay(before), first)


def test_refused(tmp_path):
    work(tmp_path)
    other = {**start(), "layer.bias": torch.zeros(20)}
    with pytest.raises(LedgerError, match="began with other parameters"):
        Ledger.open(tmp_path, other)
    ledger = Ledger.open(tmp_path)
    with pytest.raises(LedgerError, match="began with other parameters"):
        ledger.replay(other)
    with pytest.raises(LedgerError, match=r"has .* open; close it first"):
        Ledger.open(tmp_path)
    with pytest.raises(ValueError, match="entry cannot be written as JSON"):
        ledger.append({"x": torch.zeros(2)})
    assert len(ledger.entries()) == N_REQUESTS
    ledger.close()
    with pytest.raises(LedgerError, match="this ledger is closed"):
        ledger.append({})
    with pytest.raises(TypeError, match="folder of a ledger must be a path, got int"):
        Ledger.open(5)


def test_parameters_that_do_not_fit(tmp_path):
    with Ledger.open(tmp_path) as ledger:  # begun without parameters: nothing to compare with
        ledger.append({}, {"w": torch.ones(3, 2)}, {"w": torch.zeros(3, 2)})
        for wrong in ({"v": torch.zeros(3, 2)}, {"w": torch.zeros(2, 2)}, {"w": torch.zeros(3, 2).double()}):
            with pytest.raises(LedgerError, match="entry 0 changes 'w', which these parameters do not have"):
                ledger.replay(wrong)


@pytest.mark.parametrize("buffer", [torch.zeros(0, 3), torch.zeros(0), torch.eye(3).to_sparse()])
def test_buffers_that_are_empty_or_sparse_can_be_told_apart(buffer):
    assert fingerprint({"b": buffer}) == fingerprint({"b": buffer.clone()})
    assert fingerprint({"b": buffer}) != fingerprint({"b": torch.zeros(1, 3)})
    assert fingerprint({"b": torch.eye(3).to_sparse()}) != fingerprint({"b": (2.0 * torch.eye(3)).to_sparse()})


@pytest.mark.parametrize("change", ["removed", "moved", "replaced"])
def test_nothing_is_written_into_a_file_that_is_gone(tmp_path, change):
    folder = tmp_path / "ledger"
    with Ledger.open(folder, start()) as ledger:
        ledger.append({"k": 0})
        folder.rename(tmp_path / "elsewhere")
        if change == "replaced":
            Ledger.open(folder, start()).close()
        elif change == "removed":
            shutil.rmtree(tmp_path / "elsewhere")
        with pytest.raises(LedgerError, match="was moved, removed or replaced while it was open"):
            ledger.append({"k": 1})
        if change == "moved":
            (tmp_path / "elsewhere").rename(folder)
            assert ledger.append({"k": 2}) == 1


def test_what_json_cannot_hold_is_told(tmp_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with Ledger.open(tmp_path) as ledger:
        for wrong, message in (({"x": deep}, "cannot be written as JSON"), ({"undoes": [0]}, "no standing entry")):
            with pytest.raises(ValueError, match=message):
                ledger.append(wrong)
        assert not ledger.entries()


# --------------------------------------------------------------------------- the history of an unlearner
def history(folder, *, resumed=False):
    """One request done, one waiting; where steps start is moved at the next."""
    ours = History(start(), 5, anchored=True, settings=dict)
    if resumed:
        ours.resume(folder)
        return ours
    ours.begin(folder)
    ours.enter(request(1, 3), expected(1), waited=False)
    ours.submit((4,))
    return ours


def request(number, sample, accepted=True):
    return Deletion(number, (sample,), "difference", "all", accepted, "")


def done(ours, accepted=True):
    with ours.request():
        ours.renew_anchor()
        ours.enter(request(2, 4, accepted), expected(2), waited=True)


CHANGES = {
    "submit": lambda ours: ours.submit((7,)),
    "withdraw": lambda ours: ours.withdraw(0),
    "done": done,
    "refused": lambda ours: done(ours, accepted=False),
    "rollback": lambda ours: ours.take_back(1, start()),
    "release": lambda ours: ours.release(1.0, 1e-5, 0.1),
}


def state(ours):
    requests = ours.forgotten, ours.pending, len(ours.deletions), ours.standing, ours.accountant.releases
    return *map(repr, requests), fingerprint(ours.weights), fingerprint(ours.anchor)


def interrupted(action, place):
    """Ctrl-C at a line of the history or the ledger; whether there were so many lines."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if Path(frame.f_code.co_filename).name not in {"_history.py", "_ledger.py"}:
            return None
        if event == "line":
            count += 1
            if count == place:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_interrupted_anywhere_has_not_happened(tmp_path, change, monkeypatch):
    """Neither here nor on disk: it can be repeated, and what is resumed is what was here."""
    monkeypatch.setattr(_ledger.os, "fsync", lambda _: None)  # nobody pulls the plug here
    place, ended = 1, False
    while not ended:
        ours = history(tmp_path / str(place))
        before = state(ours)
        ended = not interrupted(lambda ours=ours: CHANGES[change](ours), place)
        if not ended:
            assert state(ours) == before
            CHANGES[change](ours)
        ours.close()
        again = history(tmp_path / str(place), resumed=True)
        again.close()
        assert state(again) == state(ours)
        place += 1
    assert place > 20


def test_a_folder_that_could_not_be_begun_is_free_again(tmp_path):
    with pytest.raises(ZeroDivisionError) as kept:  # as a notebook keeps the last error, and what it refers to
        History(start(), 5, anchored=True, settings=lambda: {"n": 1 // 0}).begin(tmp_path)
    history(tmp_path).close()
    assert kept.traceback


def test_entries_of_a_later_version_are_told(tmp_path):
    history(tmp_path).close()
    with Ledger.open(tmp_path) as ledger:
        ledger.append({"kind": "merged", "requests": [1]})
    with pytest.raises(ValueError, match="no entry of kind 'merged'"):
        history(tmp_path, resumed=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_noise_is_rounded_once_with_the_weights(dtype):
    """The copy is the nearest number to weight plus normal noise, whatever the type of the model."""
    w = {"w": torch.linspace(-2.0, 2.0, 500).to(dtype)}
    noise = np.random.default_rng(3).standard_normal(500)
    exact = torch.from_numpy(w["w"].double().numpy() + 1e-2 * noise)
    found = with_noise(w, 1e-2, np.random.default_rng(3))["w"]
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))


def test_a_fork_writes_nothing_into_the_ledger_it_inherited(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger", {"w": torch.zeros(2)})
    child = os.fork()
    if child == 0:  # no assertion may leave here
        told = 0
        for write in (lambda: ledger.append({"n": 1}), lambda: ledger.whole().__enter__()):
            try:
                write()
            except LedgerError as error:
                told += "this one is a fork" in str(error)
        os._exit(told)
    ledger.append({"n": 2})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    ledger.append({"n": 3})
    ledger.close()
    assert [entry["n"] for entry in Ledger.open(tmp_path / "ledger", read_only=True).entries()] == [2, 3]
