"""Worker processes that print, hang, or cannot be started."""

import contextlib
import errno
import multiprocessing
import multiprocessing.context
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blip_rl.errors import RunError, UserError
from blip_rl.evaluation import pool
from blip_rl.evaluation.cells import Cell
from blip_rl.evaluation.pool import play_in_workers
from blip_rl.evaluation.rescore import ScoringPlayer
from blip_rl.recipes import load_run_config
from blip_rl.untrusted import machine

ALL = [Cell(1, "cartpole-a"), Cell(2, "cartpole-a"), Cell(2, "cartpole-b")]


class Printing(ScoringPlayer):
    """A game that prints from Python and from C."""

    def play(self, cell, on_games_over):
        print("noise", flush=True)
        os.write(1, b"noise\n")
        return super().play(cell, on_games_over)


class Hanging(ScoringPlayer):
    """A game that never ends."""

    def play(self, cell, on_games_over):
        os.write(2, b"%d\n" % os.getpid())
        while True:
            time.sleep(60)


def played(kind, run, cells=ALL, workers=1):
    config = load_run_config(run)
    return play_in_workers(kind(run, config, config.evaluation), cells, workers, lambda count: None)


def test_output_of_a_game_goes_to_standard_error(finished_run, capfd):
    assert len(list(played(Printing, finished_run, ALL[:1]))) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("noise") == 2


SCORING = """
import sys
from pathlib import Path
from tests.evaluation.test_pool import Hanging, played
if __name__ == "__main__":
    list(played(Hanging, Path(sys.argv[1])))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_exit_with_the_command_even_during_an_episode(number, finished_run, tmp_path):
    (tmp_path / "scoring.py").write_text(SCORING)
    command = [sys.executable, str(tmp_path / "scoring.py"), str(finished_run)]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        worker = int(process.stderr.readline())
        os.kill(worker, 0)
        process.send_signal(number)
        process.stderr.read()
    deadline = time.monotonic() + 20
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(worker, 0)
            time.sleep(0.02)
        pytest.fail("the worker is still there")


def test_a_worker_that_ignores_sigterm_is_killed(finished_run, monkeypatch):
    """As a stopped process does."""
    monkeypatch.setattr(pool, "_PATIENCE_SECONDS", 0.5)
    results = played(ScoringPlayer, finished_run, ALL[:2])
    next(results)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    results.close()
    assert not worker.is_alive()


def test_workers_that_cannot_be_started_are_one_message_and_the_others_are_stopped(finished_run, monkeypatch):
    start, started = multiprocessing.context.SpawnProcess.start, []

    def limited(self):
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(self)
        start(self)

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", limited)
    with pytest.raises(RunError, match=r"only 1 processes could be started .*fewer --workers"):
        list(played(ScoringPlayer, finished_run, workers=3))
    assert not started[0].is_alive()


def test_more_workers_than_fit_into_memory_are_refused_before_any_is_started(finished_run, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 600_000_000)
    with pytest.raises(UserError, match=r"playing in 3 processes needs 750 MB .*fewer --workers"):
        list(played(ScoringPlayer, finished_run, workers=1000))
