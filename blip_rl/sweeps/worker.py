"""A process that runs one job of the local engine: ``python -m blip_rl.sweeps.worker``.

The job comes from stdin as a line of JSON; the outcome goes to stdout. The sweep keeps stdin open. End of file means
that the sweep was killed; the worker then saves the run and exits, so that it does not write concurrently with the next
sweep.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blip_rl.sweeps.job import Job, Outcome, leave_when_interrupted, run_job

FOLDER_OF_SCRIPT = "BLIP_RL_FOLDER_OF_SCRIPT"
"""Environment variable with the folder that the sweep's process imports modules from first."""


def encode_job(job: Job) -> bytes:
    """Return a job as a line of JSON."""
    return json.dumps({**asdict(job), "path": str(job.path), "log": str(job.log)}).encode() + b"\n"


def decode_job(line: bytes) -> Job:
    """Return the job of :func:`encode_job`."""
    values: dict[str, Any] = json.loads(line)
    paths = {key: Path(values[key]) for key in ("path", "log")}
    return Job(**{**values, **paths, "options": tuple(values["options"])})


def decode_outcome(text: bytes) -> Outcome | None:
    """Return the outcome that a worker wrote; None if it ended before that."""
    try:
        return Outcome(**json.loads(text))
    except ValueError:
        return None


def main() -> None:
    """Run the job that stdin gives."""
    leave_when_interrupted()
    if folder := os.environ.get(FOLDER_OF_SCRIPT):
        sys.path.append(folder)  # last: a file such as random.py there must not hide an installed module
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: the rest is for the thread
        job = decode_job(stdin.readline())
    threading.Thread(target=_stop_with_sweep, daemon=True).start()
    outcome = run_job(job)
    with suppress(BrokenPipeError):  # the sweep was killed
        os.write(1, json.dumps(asdict(outcome)).encode())


def _stop_with_sweep() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
