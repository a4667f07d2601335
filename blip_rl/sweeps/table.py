"""Progress of a sweep: a table that is refreshed on a terminal, otherwise lines."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TextIO

from blip_rl.console import LINE_SECONDS
from blip_rl.errors import UserError
from blip_rl.formatting import aligned, duration
from blip_rl.reporting.live import RunState, RunWatch
from blip_rl.sweeps.schedule import JobState
from blip_rl.untrusted.files import printable

_LOOK_SECONDS = 2.0
_AROUND = 4  # lines of the screen that are not rows
_ORDER = ("running", "failed", "interrupted", "waiting", "finished")


class Table:
    """Shows the states of a sweep's jobs."""

    def __init__(self, steps: Mapping[str, int], earlier: int = 0, stream: TextIO | None = None) -> None:
        """Create a table.

        Args:
            steps: Run → its training steps, for all runs that are not finished yet.
            earlier: Number of runs that were finished before.
            stream: Where to print; None: stdout.
        """
        self._steps, self._earlier = steps, earlier
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._watches: dict[str, RunWatch] = {}
        self._seen: dict[str, RunState] = {}
        self._looked = self._lined = -LINE_SECONDS
        self._known: dict[str, tuple[str, int]] = {}  # run → state and retries of its last line
        self._height = 0

    def show(self, states: Sequence[JobState]) -> None:
        """Show the states, if one has changed or time has passed."""
        now = time.monotonic()
        changed = [one for one in states if self._known.get(one.job.name, ("waiting", 0)) != (one.state, one.retries)]
        if not changed and now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        self._look(states)
        with suppress(OSError):  # a closed terminal or a full disk must not end a sweep
            if self._terminal:
                self._refresh(states)
            else:
                self._lines(states, changed, now)
        self._known |= {one.job.name: (one.state, one.retries) for one in changed}

    def _look(self, states: Sequence[JobState]) -> None:
        """Read the folders of the runs that are running."""
        for one in states:
            name = one.job.name
            if one.state != "running":
                self._watches.pop(name, None)
                continue
            try:
                if name not in self._watches and (one.job.path / "config.toml").is_file():
                    self._watches[name] = RunWatch(one.job.path)
                if name in self._watches:
                    self._seen[name] = self._watches[name].look()
            except UserError:  # its folder is damaged: the job itself says how
                continue

    def _refresh(self, states: Sequence[JobState]) -> None:
        columns, height = shutil.get_terminal_size()
        shown = sorted((one for one in states if one.state != "finished"), key=lambda one: _ORDER.index(one.state))
        rows = [["run", "state", "where", "steps", "rate", "left", "retries"]]
        rows += [self._row(one) for one in shown[: max(1, height - _AROUND)]]
        lines = [self._summary(states), *(aligned(rows, left=3) if len(rows) > 1 else [])]
        if len(shown) > len(rows) - 1:
            lines.append(f"and {len(shown) - len(rows) + 1} more")
        text = "\n".join(printable(line)[: columns - 1] for line in lines)
        up = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        print(f"{up}{text}", file=self._stream, flush=True)
        self._height = len(lines)

    def _row(self, one: JobState) -> list[str]:
        seen, total = self._seen.get(one.job.name), self._steps[one.job.name]
        steps = f"{min(seen.env_steps, total):,}/{total:,}" if seen else f"{total:,}"
        rate = seen.steps_per_second if seen and one.state == "running" else None
        left = duration(self._left(one) / rate) if seen and rate else ""
        state = "starting" if one.state == "running" and seen is None else one.state
        return [one.job.name, state, one.where, steps, f"{rate:,.0f}/s" if rate else "", left, str(one.retries or "")]

    def _lines(self, states: Sequence[JobState], changed: Sequence[JobState], now: float) -> None:
        for one in changed:
            again = f" again (retry {one.retries})" if one.retries and one.state in ("running", "waiting") else ""
            why = f": {one.outcome.message}" if one.outcome and one.outcome.message and one.state != "running" else ""
            where = f" ({one.where})" if one.where else ""
            self._line(f"{one.job.name} {one.state}{again}{where}{why}")
        if now - self._lined >= LINE_SECONDS or (changed and changed[0].state not in ("running", "waiting")):
            self._lined = now
            self._line(self._summary(states))

    def _line(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {printable(text)}", file=self._stream, flush=True)

    def _summary(self, states: Sequence[JobState]) -> str:
        count = {state: sum(one.state == state for one in states) for state in _ORDER}
        parts = [f"{count['finished'] + self._earlier} of {len(states) + self._earlier} runs finished"]
        parts += [f"{count[state]} {state}" for state in _ORDER[:-1] if count[state]]
        running = [one.job.name for one in states if one.state == "running" and one.job.name in self._seen]
        rates = {name: rate for name in running if (rate := self._seen[name].steps_per_second)}
        if rates:
            parts += [f"{sum(rates.values()):,.0f} steps/s", f"about {duration(self._seconds(states, rates))} left"]
        return ", ".join(parts)

    def _seconds(self, states: Sequence[JobState], rates: Mapping[str, float]) -> float:
        """Return the time that is left: of the longest run, or of all at the rate of those that run."""
        left = {one.job.name: self._left(one) for one in states if one.state in ("running", "waiting")}
        longest = max(left[name] / rate for name, rate in rates.items())
        return max(longest, sum(left.values()) / sum(rates.values()))

    def _left(self, one: JobState) -> int:
        seen = self._seen.get(one.job.name)
        return max(0, self._steps[one.job.name] - (seen.env_steps if seen else 0))
