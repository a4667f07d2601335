"""Training speed without evaluations, and the progress of one training: a bar, or lines for a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

from blip_rl.console import Console
from blip_rl.formatting import duration


class Progress:
    """Measures the speed of a training and shows its progress."""

    def __init__(
        self, title: str, steps: int, *, began_at: int, env_steps: int, later_steps: int, console: Console
    ) -> None:
        """Start the clock and show the bar.

        Args:
            title: What is being trained.
            steps: Training steps of the whole training.
            began_at: Training steps of the run when this training began.
            env_steps: Training steps of the run now; more than ``began_at`` if the training is resumed.
            later_steps: Training steps of the run that follow this training.
            console: Shows the bar or prints the lines.
        """
        self._title, self._steps, self._later_steps = title, steps, later_steps
        self._began_at, self._timed_from = began_at, env_steps
        self._started = self._clock = time.perf_counter()
        self._seconds = 0.0
        self._console = console
        self._bar = tqdm(
            total=steps, desc=title, unit="step", unit_scale=True, dynamic_ncols=True, disable=not console.bars
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the block, so that evaluations do not count as training time."""
        self._seconds += time.perf_counter() - self._clock
        try:
            yield
        finally:
            self._clock = time.perf_counter()

    def steps_per_second(self, env_steps: int) -> float:
        """Return the mean speed of whole iterations, rollout and update, since this process began the training."""
        return (env_steps - self._timed_from) / (self._seconds + time.perf_counter() - self._clock)

    def show(self, env_steps: int, metrics: Mapping[str, str]) -> None:
        """Show the progress after a rollout.

        Args:
            env_steps: Training steps of the run.
            metrics: Name → value of what is shown beside it.
        """
        of_run = {"run": f"{self._left(env_steps)[1]} left"} if self._later_steps else {}
        self._bar.set_postfix({**metrics, **of_run}, refresh=False)
        self._bar.update(self._done(env_steps) - self._bar.n)
        self._console.progress_line(lambda: self._line(env_steps, metrics))

    def show_evaluation(self, env_steps: int, metrics: Mapping[str, str], scores: str) -> None:
        """Print a progress line with the mean returns of an evaluation, where lines are printed."""
        self._console.progress_line(lambda: f"{self._line(env_steps, metrics)}; evaluated: {scores}", now=True)

    def close(self) -> None:
        """Remove the bar from the screen; may be called more than once."""
        self._bar.close()

    def _done(self, env_steps: int) -> int:
        return min(env_steps - self._began_at, self._steps)

    def _left(self, env_steps: int) -> tuple[str, str]:
        """Return the estimated time until the end of this training and of the run, evaluations included."""
        trained = env_steps - self._timed_from
        if trained <= 0:
            return "unknown time", "unknown time"
        pace = (time.perf_counter() - self._started) / trained
        left = self._steps - self._done(env_steps)
        return duration(left * pace), duration((left + self._later_steps) * pace)

    def _line(self, env_steps: int, metrics: Mapping[str, str]) -> str:
        done, (training, run) = self._done(env_steps), self._left(env_steps)
        shown = [f"{run} for the run"] if self._later_steps else []
        shown += [f"{name} {value}" for name, value in metrics.items()]
        return (
            f"{self._title}: {done:,} of {self._steps:,} steps ({done / self._steps:.0%}), "
            f"{self.steps_per_second(env_steps):,.0f} steps/s, {', '.join([f'{training} left', *shown])}"
        )
