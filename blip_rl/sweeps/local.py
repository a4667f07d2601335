"""The engine ``local``: a process of this machine for each job."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from blip_rl.sweeps.job import Job, Outcome
from blip_rl.sweeps.worker import FOLDER_OF_SCRIPT, decode_outcome, encode_job


class LocalEngine:
    """Runs jobs in processes: one job each, because a run may leave memory and a GPU in any state."""

    def __init__(self, places: int, gpu_places: tuple[int, ...] = ()) -> None:
        """Create an engine.

        Args:
            places: Number of jobs at the same time.
            gpu_places: (places,) number of the GPU of each place, among those that this process sees; empty if the
                jobs use none.
        """
        self._idle = list(range(places))[::-1]
        self._gpus = [_visible_gpu(number) for number in gpu_places]
        self._workers: dict[str, _Worker] = {}

    @property
    def free(self) -> int:
        """Number of jobs that can start now."""
        return len(self._idle)

    def submit(self, job: Job) -> None:
        """Start a job."""
        place = self._idle.pop()
        self._workers[job.name] = _Worker(job, place, self._gpus[place] if self._gpus else None)

    def poll(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of jobs that have ended; wait at most this long for the first."""
        with selectors.DefaultSelector() as outputs:  # select.select fails above 1,024 open files
            for worker in self._workers.values():
                outputs.register(worker.output, selectors.EVENT_READ, worker)
            ended: list[_Worker] = [key.data for key, _ in outputs.select(seconds)]
        for worker in ended:
            del self._workers[worker.job.name]
            self._idle.append(worker.place)
        return [worker.outcome() for worker in ended]

    def where(self, name: str) -> str:
        """Return the process of a job, and its GPU."""
        worker = self._workers.get(name)
        return "" if worker is None else worker.where

    def stop(self) -> None:
        """Ask all jobs to save and end."""
        for worker in self._workers.values():
            worker.signal(signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.kill()
        self._workers.clear()


class _Worker:
    """A process and its job."""

    def __init__(self, job: Job, place: int, gpu: str | None) -> None:
        self.job, self.place, self._gpu = job, place, gpu
        self._began = time.monotonic()
        # Idle OpenMP threads should sleep: docs/performance.md.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(job.threads)}
        environment["MPLBACKEND"] = "agg"
        environment[FOLDER_OF_SCRIPT] = str(
            Path(sys.path[0]).resolve()
        )  # modules of a user's script that starts a sweep
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "blip_rl.sweeps.worker"],  # -P: without the working directory
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal comes to the sweep alone, which passes it on once
            )
        with suppress(BrokenPipeError):  # it has died already, which its outcome says
            self._input.write(encode_job(job))
            self._input.flush()

    @property
    def where(self) -> str:
        """The process and its GPU."""
        return f"process {self._process.pid}" + ("" if self._gpu is None else f", GPU {self._gpu}")

    @property
    def output(self) -> IO[bytes]:
        """Stream that ends with the process."""
        return cast(IO[bytes], self._process.stdout)

    @property
    def _input(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdin)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and those that it has started."""
        with suppress(ProcessLookupError, PermissionError):  # ended already; PermissionError: on macOS
            os.killpg(self._process.pid, signal.SIGKILL)
        self._close()

    def outcome(self) -> Outcome:
        """Wait for the end of the process and return the outcome of its job."""
        text = self.output.read()
        self._close()
        seconds = time.monotonic() - self._began
        return decode_outcome(text) or _without_result(self.job, self._process.returncode, seconds)

    def _close(self) -> None:
        for stream in (self.output, self._input):
            with suppress(OSError):
                stream.close()
        self._process.wait()


def _visible_gpu(number: int) -> str:
    """Return what a process has to have in CUDA_VISIBLE_DEVICES to see one of the GPUs of this process alone."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(number) if visible is None else visible.split(",")[number].strip()


def _without_result(job: Job, code: int, seconds: float) -> Outcome:
    """Return the outcome of a job whose process ended without one."""
    if code in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP):  # before the training handles signals
        return Outcome(job.name, "interrupted", "stopped", seconds)
    if code < 0:
        name = signal.Signals(-code).name
        why = " (the system may have been out of memory: try fewer --jobs)" if -code == signal.SIGKILL else ""
        return Outcome(job.name, "lost", f"its process was ended by {name}{why}", seconds)
    return Outcome(job.name, "failed", f"its process ended with exit code {code} and no result", seconds)
