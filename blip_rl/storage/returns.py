"""Learning curves: mean returns of finished training episodes over fixed intervals, in ``returns.csv``.

These are returns of the training policy with sampled actions, collected at no extra cost; scores come from evaluations.
"""

from __future__ import annotations

from blip_rl.records import ReturnRow
from blip_rl.storage.run_folder import RunFolder

_MOST_ROWS = 200  # per task; enough for a smooth curve, and the file stays below 10 kB per task

Finished = dict[str, tuple[int, float]]
"""Task → (number of episodes, sum of returns) since the task's last row."""
HeldBack = dict[str, tuple[list[int], int, float]]
"""Task → (environments without a finished episode since the restart, number of episodes, sum of returns)."""


class TrainingReturns:
    """Collects the returns of finished training episodes and writes their means into ``returns.csv``.

    The first episodes that end after all environments have been restarted are the shortest ones, with low returns in
    most games. Therefore episodes are held back until each environment has finished one: otherwise every restart would
    be a dip in the learning curve.

    Attributes:
        finished: Episodes since the last row; part of a snapshot, so that a resumed run writes the same rows.
        held_back: Episodes since the last restart of a task's environments, until all have finished one; as above.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.finished: Finished = {}
        self.held_back: HeldBack = {}

    def restarted(self, task: str, environments: int) -> None:
        """Hold episodes back from here on, as all environments of the task begin a new one."""
        self._release(task)
        self.held_back[task] = list(range(environments)), 0, 0.0

    def add(self, task: str, environment: int, score: float) -> None:
        """Add an episode with raw return ``score`` that an environment, counted from 0, has finished."""
        if task not in self.held_back:
            self._count(task, 1, score)
            return
        missing, episodes, total = self.held_back[task]
        missing = [one for one in missing if one != environment]
        self.held_back[task] = missing, episodes + 1, total + score
        if not missing:
            self._release(task)

    def release(self) -> None:
        """Count all episodes that are held back, at the end of a training."""
        for task in list(self.held_back):
            self._release(task)

    def _release(self, task: str) -> None:
        _, episodes, total = self.held_back.pop(task, ([], 0, 0.0))
        if episodes:
            self._count(task, episodes, total)

    def _count(self, task: str, episodes: int, total: float) -> None:
        before, sum_before = self.finished.get(task, (0, 0.0))
        self.finished[task] = before + episodes, sum_before + total

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
