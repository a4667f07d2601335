"""Returns of finished training episodes, averaged over fixed intervals: the learning curves of a run.

They come from the policy that is being trained, with sampled actions, at no extra cost; evaluations are the scores.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from blip_rl.records import ReturnRow
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.spaces import checked_int

_MOST_ROWS = 200  # per task; enough for a smooth curve, and the file stays below 10 kB per task

Finished = dict[str, tuple[int, float]]
"""Task → number and sum of returns of the episodes that finished since the task's last row."""


class TrainingReturns:
    """Collects the returns of finished training episodes and writes their means into ``returns.csv``.

    Attributes:
        finished: What no row has been written for yet; part of a snapshot, so that a resumed run writes the same rows.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.finished: Finished = {}

    def add(self, task: str, score: float) -> None:
        """Count an episode that has just finished; ``score`` is its raw return."""
        episodes, total = self.finished.get(task, (0, 0.0))
        self.finished[task] = episodes + 1, total + score

    def write(self, stage: int, env_steps: int) -> None:
        """Write a row for every task of which episodes have finished since its last row."""
        self._folder.add_returns(
            ReturnRow(env_steps, stage, task, episodes, total / episodes)
            for task, (episodes, total) in self.finished.items()
        )
        self.finished = {}


def interval_steps(steps: int, rollout_steps: int) -> int:
    """Training steps from one row to the next: whole rollouts, at most 200 rows.

    Args:
        steps: Of the whole training.
        rollout_steps: Of one rollout, over all environments.
    """
    rollouts = -(-steps // rollout_steps)
    return -(-rollouts // _MOST_ROWS) * rollout_steps


def checked(saved: dict[str, Any], tasks: Collection[str]) -> Finished:
    """``TrainingReturns.finished`` as read from a snapshot whose agent knows ``tasks``.

    Raises:
        AttributeError, TypeError, ValueError: it is something else.
    """
    if strangers := set(saved) - set(tasks):
        raise ValueError(f"returns of {sorted(strangers)[0][:80]!r}: expected one of {', '.join(tasks)}")
    return {task: (checked_int(episodes, 1), float(total)) for task, (episodes, total) in saved.items()}
