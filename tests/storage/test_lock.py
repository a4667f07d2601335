"""Locks between processes, including on untrusted lock files."""

import errno
import fcntl
import os
import subprocess
import sys
import time

import pytest

from blip_rl.storage import atomic
from blip_rl.storage.lock import locked

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
        assert lock.read_text() == ""
        assert lock.stat().st_nlink == 1
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_hard_linked_lock_that_is_held_is_not_replaced(lock, holder, tmp_path):
    (tmp_path / "copy").hardlink_to(lock)
    with pytest.raises(TimeoutError), locked(lock):
        pass
    assert lock.samefile(tmp_path / "copy")


def test_files_are_replaced_on_a_file_system_without_locks(lock, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(OSError, match="No locks available"), locked(lock):
        pass
    atomic.replace_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
