"""Give jobs to an engine until all have ended: order, retries, and stops."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

from blip_rl.signal_handlers import signals_handled
from blip_rl.sweeps.engine import Engine
from blip_rl.sweeps.job import Job, Outcome

_LOOK_SECONDS = 0.5
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")

State = Literal["waiting", "running", "finished", "interrupted", "failed"]


@dataclass
class JobState:
    """A job and its state.

    Attributes:
        job: The job.
        state: Its state; a job whose worker was lost too often has failed.
        retries: How often it was given to the engine again.
        where: Where it runs, in a few words.
        outcome: How its last try ended; None before.
    """

    job: Job
    state: State = "waiting"
    retries: int = 0
    where: str = ""
    outcome: Outcome | None = None


@dataclass
class Schedule:
    """Runs all jobs of a sweep once.

    Attributes:
        jobs: In the order in which they start.
        engine: Places them.
        retries: How often a job whose worker was lost is given to the engine again.
        show: Called about twice a second, and whenever a job has ended.
        stopped_by: Number of the signal that stopped the sweep; None if none has.
    """

    jobs: Sequence[Job]
    engine: Engine
    retries: int
    show: Callable[[Sequence[JobState]], None]
    stopped_by: int | None = None
    states: dict[str, JobState] = field(default_factory=dict)
    _told: bool = False  # whether the engine knows that the sweep is stopped

    def __post_init__(self) -> None:
        self.states = {job.name: JobState(job) for job in self.jobs}

    def run(self) -> list[JobState]:
        """Run all jobs; return their states when none is left or the sweep was stopped.

        Ctrl-C, SIGTERM and SIGHUP let every job save its run; a second Ctrl-C exits at once.

        Raises:
            UserError: The engine cannot run here.
            KeyboardInterrupt: Ctrl-C was pressed twice.
        """
        states, waiting = list(self.states.values()), deque(self.jobs)
        with signals_handled(_SIGNALS, self._stop), self.engine:
            while self._busy(waiting):
                self._pass_on_stop()
                self._start(waiting)
                self.show(states)
                for outcome in self.engine.poll(_LOOK_SECONDS):
                    self._ended(outcome, waiting)
        self.show(states)
        return states

    def _busy(self, waiting: deque[Job]) -> bool:
        running = any(state.state == "running" for state in self.states.values())
        return running or (bool(waiting) and self.stopped_by is None)

    def _start(self, waiting: deque[Job]) -> None:
        if self.stopped_by is None:
            for _ in range(min(self.engine.free, len(waiting))):
                job = waiting.popleft()
                self.engine.submit(job)
                self.states[job.name].state = "running"
        for state in self.states.values():
            state.where = self.engine.where(state.job.name) if state.state == "running" else ""

    def _ended(self, outcome: Outcome, waiting: deque[Job]) -> None:
        """Record how a job ended; a lost one, or one that somebody else stopped, waits for another try."""
        state = self.states[outcome.name]
        state.outcome, state.where = outcome, ""
        if outcome.status in ("finished", "failed"):
            state.state = outcome.status
        elif self.stopped_by is not None:
            state.state = "interrupted"
        elif state.retries < self.retries:
            state.state = "waiting"
            state.retries += 1
            waiting.append(state.job)
        else:
            state.state = "failed"

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # The engine is not told here: the signal may have come while it was starting a job.
        if self.stopped_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stopped_by = self.stopped_by or number

    def _pass_on_stop(self) -> None:
        if self.stopped_by is not None and not self._told:
            self._told = True
            self.engine.stop()
