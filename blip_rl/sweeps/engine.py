"""Interface of engines, which place jobs on workers and report their outcomes."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from blip_rl.sweeps.job import Job, Outcome


class Engine(Protocol):
    """Runs jobs somewhere. :mod:`blip_rl.sweeps.schedule` decides which, in which order, and how often.

    A context manager: nothing that it started is left running after the block.
    """

    @property
    def free(self) -> int:
        """Number of jobs that can start now."""

    def submit(self, job: Job) -> None:
        """Start a job; called at most :attr:`free` times before the next :meth:`poll`."""

    def poll(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of jobs that have ended; wait at most this long for the first.

        A job whose worker or machine died has the status ``lost``. A job that was submitted gets exactly one outcome.
        """

    def where(self, name: str) -> str:
        """Return where a job runs, in a few words for the table; empty if it waits for a place."""

    def stop(self) -> None:
        """Ask all jobs to save and end; :meth:`poll` continues to return their outcomes."""

    def __enter__(self) -> Self:
        """Start what the engine needs.

        Raises:
            UserError: The engine cannot run here; nothing is started.
        """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all jobs that are left, and what the engine started."""
