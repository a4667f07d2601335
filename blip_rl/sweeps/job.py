"""One run of a sweep as a job: train if nothing is there, resume if it is unfinished, nothing if it is finished.

A job may be submitted again at any time, on any machine that can access the folder; the results are the same as for a
single ``blip-rl train``. ``Job`` and ``Outcome`` are plain data, to be sent to other processes and machines.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from blip_rl.errors import FinishedRunError, InterruptedRunError, RunError, UserError, error_text, is_out_of_memory
from blip_rl.shell import shell_command
from blip_rl.storage.lock import is_locked

_LOCK_SECONDS = 60.0  # for a process of an earlier sweep that is still saving the run
_POLL_SECONDS = 0.2

Status = Literal["finished", "interrupted", "failed", "lost"]


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: Name of the run, unique in its sweep.
        path: Run folder, absolute.
        log: File to which the run's output is appended.
        recipe: The resolved recipe, as in ``config.toml``.
        options: Options of ``blip-rl train`` that train the same run, without ``--out``.
        threads: CPU threads of torch.
        take_over: Whether to take the run from a process that still holds it, because its machine froze or is lost.
    """

    name: str
    path: Path
    log: Path
    recipe: str
    options: tuple[str, ...]
    threads: int = 1
    take_over: bool = False

    @property
    def command(self) -> str:
        """The command that trains this run alone, or resumes it."""
        if (self.path / "config.toml").is_file():
            return shell_command("blip-rl", "train", "--resume", self.path)
        return shell_command("blip-rl", *self.train_words)

    @property
    def train_words(self) -> list[str]:
        """Arguments of ``blip-rl`` that train this run alone."""
        return ["train", *self.options, "--out", str(self.path)]


def leave_when_interrupted() -> None:
    """Let SIGINT end this process at once until a training handles it; there is nothing to save before.

    Python's KeyboardInterrupt could be raised in the middle of an import, where imported modules may convert it to
    another exception.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        name: Name of the run.
        status: ``finished``; ``interrupted``: stopped by a signal, and saved; ``failed``: by itself, so that another
            try would fail too; ``lost``: its worker or machine died, so that another try can succeed.
        message: What happened; empty for a finished run.
        seconds: Time of this try.
    """

    name: str
    status: Status
    message: str = ""
    seconds: float = 0.0


def run_job(job: Job) -> Outcome:
    """Train, resume or skip a run in this process, which should do nothing else: signals stop the run.

    SIGINT, SIGTERM, SIGHUP and SIGUSR1 save the run if this is the main thread. What the run prints is appended to its
    log, also what C++ code prints.

    Returns:
        The outcome; errors of the run are part of it and never raised.
    """
    began = time.monotonic()
    with _output_to(job.log):
        outcome = _outcome(job)
        if outcome.status == "failed":
            print(f"Error: {outcome.message}", file=sys.stderr, flush=True)
    return replace(outcome, seconds=time.monotonic() - began)


def _outcome(job: Job) -> Outcome:
    try:
        _train_or_resume(job)
    except FinishedRunError:
        pass
    except InterruptedRunError as error:
        return Outcome(job.name, "interrupted", str(error))
    except KeyboardInterrupt:  # before the training handles signals
        return Outcome(job.name, "interrupted", "stopped")
    except Exception as error:
        if not isinstance(error, UserError | RunError | OSError) and not is_out_of_memory(error):
            traceback.print_exc()
            return Outcome(job.name, "failed", f"{type(error).__name__}: {error}")
        return Outcome(job.name, "failed", error_text(error))
    return Outcome(job.name, "finished")


def _train_or_resume(job: Job) -> None:
    from blip_rl.recipes import load_run_config, parse_run_config, trusting, with_defaults
    from blip_rl.run.train import resume, train

    # Whoever planned the sweep has trusted what the recipe names, so its jobs need no permission of their own.
    with trusting(remember=False):
        config = parse_run_config(job.recipe, f"the recipe of {job.name}")
    if not (job.path / "config.toml").is_file():
        with _command_line(job):
            train(config, out=job.path, threads=job.threads, progress="log", take_over=job.take_over)
        return
    if with_defaults(load_run_config(job.path)) != with_defaults(config):
        raise UserError(f"'{job.path}' contains a different run from the sweep's: move it away, or choose a new --out")
    if not job.take_over:
        _wait_for_lock(job.path / ".lock")
    resume(job.path, threads=job.threads, progress="log", take_over=job.take_over)


def _wait_for_lock(lock: Path) -> None:
    """Wait for a process that still saves the run, such as a worker whose sweep was killed a moment ago."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while is_locked(lock) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


@contextmanager
def _command_line(job: Job) -> Iterator[None]:
    """Let ``command.txt`` record the command that trains this run alone, not that of the worker."""
    given = sys.argv
    sys.argv = ["blip-rl", *job.train_words]
    try:
        yield
    finally:
        sys.argv = given


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Append what the process prints to a file within the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        before = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):  # C++ code prints to descriptors
                os.dup2(file.fileno(), number)
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            for number, descriptor in zip((1, 2), before, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
