"""Locks between processes, including on untrusted lock files."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from blip_rl.errors import TakenOverError
from blip_rl.storage import atomic
from blip_rl.storage.lock import known_state, locked, read_owner

HOLD = """
import sys
from pathlib import Path
from blip_rl.storage import atomic
from blip_rl.storage.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / ".lock"


@pytest.fixture
def holder(lock):
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.stdin.close()


def test_a_lock_held_by_another_process_raises_timeouterror(lock, holder):
    with pytest.raises(TimeoutError, match="locked by another process"), locked(lock):
        pass


def test_a_lock_waits_for_its_holder(lock, holder):
    began = time.monotonic()
    with pytest.raises(TimeoutError), locked(lock, 0.1):
        pass
    assert time.monotonic() - began >= 0.1
    holder.stdin.close()
    with locked(lock, 60):
        pass


def test_a_lock_is_released_when_its_holder_is_killed(lock, holder):
    holder.kill()
    with locked(lock, 60):
        pass


def test_a_lock_that_is_a_symbolic_link_is_refused(lock, tmp_path):
    (tmp_path / "victim").write_text("precious")
    lock.symlink_to("victim")
    with pytest.raises(OSError), locked(lock):  # noqa: PT011 - the system's own message
        pass
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_not_a_regular_file_is_refused(make, lock):
    make(lock)
    with pytest.raises(OSError), locked(lock):  # noqa: PT011
        pass


def test_a_hard_linked_lock_is_replaced(lock, tmp_path):
    (tmp_path / "victim").write_text("precious")
    lock.hardlink_to(tmp_path / "victim")
    with locked(lock):
        assert "precious" not in lock.read_text()
        assert lock.stat().st_nlink == 1
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_hard_linked_lock_that_is_held_is_not_replaced(lock, holder, tmp_path):
    (tmp_path / "copy").hardlink_to(lock)
    with pytest.raises(TimeoutError), locked(lock):
        pass
    assert lock.samefile(tmp_path / "copy")


def test_a_lock_names_its_owner_until_it_is_released(lock):
    with locked(lock) as held:
        owner = read_owner(lock)
        assert (owner.host, owner.pid, owner.generation) == (socket.gethostname(), os.getpid(), 1)
        assert not held.from_another
    assert lock.read_bytes() == b""
    assert read_owner(lock) is None


def test_a_lock_held_by_another_process_is_refused_with_its_owner(lock, holder):
    with pytest.raises(TimeoutError, match=f"process {holder.pid} on {re.escape(socket.gethostname())}"), locked(lock):
        pass


def test_a_lock_left_by_a_killed_process_has_the_next_generation(lock, holder):
    first = read_owner(lock)
    holder.kill()
    with locked(lock, 60) as held:
        assert read_owner(lock).generation == first.generation + 1
        assert not held.from_another  # on this machine, a process without a lock has ended


def test_a_lock_left_on_another_machine_may_have_a_living_owner(lock):
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "generation": 4, "token": "a"}))
    with locked(lock) as held:
        assert held.from_another
        assert read_owner(lock).generation == 5


@pytest.mark.parametrize(
    "content", ["{}", "[1]", "null", "9" * 2000, '{"host": 1, "pid": 1, "generation": 1}', "[" * 999]
)
def test_an_unreadable_owner_is_treated_as_one_of_another_machine(content, lock):
    lock.write_text(content)
    assert read_owner(lock) is None
    with locked(lock) as held:
        assert held.from_another
        assert read_owner(lock).generation == 1
    assert lock.read_bytes() == b""


def test_a_suspended_process_loses_the_lock_to_one_that_takes_it_over(lock, holder):
    holder.send_signal(signal.SIGSTOP)
    with locked(lock, take_over=True) as held:
        assert held.from_another
        assert (read_owner(lock).pid, read_owner(lock).generation) == (os.getpid(), 2)
        content = lock.read_bytes()
        holder.send_signal(signal.SIGCONT)
        holder.communicate(timeout=60)  # it releases its lock, without touching ours
        assert lock.read_bytes() == content
        held.check()
        with pytest.raises(TimeoutError):
            try_lock_from_another_process(lock)
    assert sorted(path.name for path in lock.parent.iterdir()) == [".lock"]


def try_lock_from_another_process(lock):
    if subprocess.run(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.DEVNULL, capture_output=True
    ).returncode:
        raise TimeoutError


def test_an_owner_notices_that_another_process_took_the_lock_over(lock):
    with locked(lock) as first:
        with locked(lock, take_over=True) as second:  # a process does not share its flock between two open files
            with pytest.raises(TakenOverError, match=f"taken over by process {os.getpid()} on"):
                first.check()
            second.check()
        with pytest.raises(TakenOverError, match="taken over by another process"):
            first.check()
        assert not first.is_held()
    assert lock.read_bytes() == b""


def test_an_owner_whose_lock_file_was_removed_has_lost_it(lock):
    with locked(lock) as held:
        lock.unlink()
        with pytest.raises(TakenOverError):
            held.check()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_a_lock_file_that_cannot_be_read_now_is_not_lost(error, lock, monkeypatch):
    def failing(path, *_, **__):
        raise OSError(error, os.strerror(error), str(path))

    with locked(lock) as held:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing)
            with pytest.raises(OSError, match=os.strerror(error)):
                held.check()
            assert read_owner(lock) is None
            assert known_state(lock) == "unknown"
        held.check()


def test_an_error_is_not_replaced_by_one_of_reading_the_lock(lock, monkeypatch):
    def failing(path, *_, **__):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    def diverging():
        with monkeypatch.context() as patch, locked(lock):
            patch.setattr(os, "open", failing)
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        diverging()


def test_a_lock_that_nobody_holds_is_taken_over_as_any_other(lock):
    with locked(lock, take_over=True) as held:
        assert not held.from_another


def test_files_are_replaced_on_a_file_system_without_locks(lock, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(OSError, match="No locks available"), locked(lock):
        pass
    atomic.replace_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_lock_is_known_to_be_held_or_free_unless_its_owner_is_on_another_machine(lock, holder):
    assert known_state(lock) == "held"
    holder.kill()
    holder.wait()
    assert (lock.read_bytes() != b"", known_state(lock)) == (True, "free")
    with locked(lock):
        pass
    assert (lock.read_bytes(), known_state(lock)) == (b"", "free")
    for content in (b'{"host": "elsewhere", "pid": 1, "generation": 1, "token": "t"}', b"?", b'{"host": ""}'):
        lock.write_bytes(content)
        assert known_state(lock) == "unknown"
    lock.unlink()
    assert known_state(lock) == "unknown"
    assert not lock.exists()
    lock.symlink_to(lock.with_name("other"))
    assert known_state(lock) == "unknown"
    os.mkfifo(lock.with_name("pipe"))
    assert known_state(lock.with_name("pipe")) == "unknown"
