"""Training speed, without evaluations, and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """Measures the speed of a training and shows its progress bar."""

    def __init__(self, title: str, steps: int, *, began_at: int, env_steps: int, bar: bool) -> None:
        """Start the clock and show the bar.

        Args:
            title: What is being trained.
            steps: Training steps of the whole training.
            began_at: Training steps of the run when this training began.
            env_steps: Training steps of the run now; more than ``began_at`` if the training is resumed.
            bar: Whether to show a progress bar.
        """
        self._began_at, self._timed_from = began_at, env_steps
        self._seconds, self._clock = 0.0, time.perf_counter()
        self._bar = tqdm(total=steps, desc=title, unit="step", unit_scale=True, dynamic_ncols=True, disable=not bar)

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
        """Advance the bar to ``env_steps`` training steps of the run, and show metrics next to it."""
        done = min(env_steps - self._began_at, self._bar.total)
        self._bar.set_postfix(metrics, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar from the screen; may be called more than once."""
        self._bar.close()
