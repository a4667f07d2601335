"""Learning curves: mean returns of finished training episodes over fixed intervals, in ``returns.csv``.

These are returns of the training policy with sampled actions, collected at no extra cost; scores come from evaluations.
"""

from __future__ import annotations

from blip_rl.records import ReturnRow
from blip_rl.storage.run_folder import RunFolder

_MOST_ROWS = 200  # per task; enough for a smooth curve, and the file stays below 10 kB per task

Finished = dict[str, tuple[int, float]]
"""Task → (number of episodes, sum of returns) since the task's last row."""


class TrainingReturns:
    """Collects the returns of finished training episodes and writes their means into ``returns.csv``.

    Attributes:
        finished: Episodes since the last row; part of a snapshot, so that a resumed run writes the same rows.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.finished: Finished = {}

    def add(self, task: str, score: float) -> None:
        """Add a finished episode with raw return ``score``."""
        episodes, total = self.finished.get(task, (0, 0.0))
        self.finished[task] = episodes + 1, total + score

    def write(self, stage: int, env_steps: int) -> None:
        """Write a row for every task with finished episodes since its last row."""
        self._folder.add_returns(
            ReturnRow(env_steps, stage, task, episodes, total / episodes)
            for task, (episodes, total) in self.finished.items()
        )
        self.finished = {}


def interval_steps(steps: int, rollout_steps: int) -> int:
    """Return the training steps between two rows: a multiple of the rollout, for at most 200 rows.

    Args:
        steps: Training steps of the task.
        rollout_steps: Steps of one rollout, summed over environments.
    """
    rollouts = -(-steps // rollout_steps)
    return -(-rollouts // _MOST_ROWS) * rollout_steps
